"""Activations against their closed formulas."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

from gbdnn import layers
from gbdnn.errors import InputError, UnknownNameError

EVERY = [
    layers.Identity(), layers.ReLU(), layers.ReLU(2.5), layers.LeakyReLU(), layers.LeakyReLU(0.5),
    layers.Tanh(), layers.Sigmoid(), layers.GELU(), layers.Softmax(),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_equals_closed_formula(activation, dtype, rng):
    Z = (3 * rng.standard_normal((40, 30))).astype(dtype)
    Z[0], Z[1, ::2] = 0, -0.0
    wanted = oracle.exact(type(activation).__name__, Z.astype(np.float64), activation)
    got = Z.copy()
    assert activation.apply(got) is None
    assert got.dtype == dtype
    # tanh near 0 from its closed formula loses digits relative to 1, hence the absolute part
    np.testing.assert_allclose(got, wanted, rtol=100 * np.finfo(dtype).eps,
                               atol=8 * np.finfo(dtype).eps)  # fmt: skip


@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_checker_sees_one_part_in_a_thousand(activation, rng):
    Z = 3 * rng.standard_normal((40, 30))
    wanted = oracle.exact(type(activation).__name__, Z, activation)
    Z *= 1.001
    activation.apply(Z)
    assert not np.allclose(Z, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("activation", EVERY, ids=repr)
@pytest.mark.parametrize("order", ["slice", "fortran"])
def test_works_in_place_on_views(activation, order, rng):
    whole = rng.standard_normal((12, 10)).astype(np.float32)
    view = whole[:, 2:7] if order == "slice" else np.asfortranarray(whole)
    wanted = view.copy()
    activation.apply(wanted)
    before = whole.copy()
    activation.apply(view)
    np.testing.assert_allclose(view, wanted, rtol=1e-5)
    if order == "slice":
        np.testing.assert_array_equal(whole[:, :2], before[:, :2])
        np.testing.assert_array_equal(whole[:, 7:], before[:, 7:])


@pytest.mark.parametrize("activation", [layers.Tanh(), layers.Sigmoid(), layers.Softmax()])
def test_extreme_values_do_not_overflow(activation):
    Z = np.array([[3e38, -3e38], [-3e38, 3e38]], np.float32)
    Z *= 0.3
    activation.apply(Z)
    low = -1 if isinstance(activation, layers.Tanh) else 0
    np.testing.assert_array_equal(Z, [[1, low], [low, 1]])


def test_gelu_far_out():
    Z = np.array([[-1e30, -40.0, 40.0, 1e30]], np.float32)
    layers.GELU().apply(Z)
    np.testing.assert_array_equal(Z, np.array([[0, 0, 40, 1e30]], np.float32))


@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_nan_stays_nan(activation):
    Z = np.array([[np.nan]], np.float32)
    activation.apply(Z)
    assert np.isnan(Z).all()


@pytest.mark.parametrize("activation", [h for h in EVERY if h.clamp is not None], ids=repr)
def test_clamp_says_what_apply_does(activation, rng):
    Z = 5 * rng.standard_normal((6, 7))
    wanted = np.minimum(np.maximum(Z, activation.clamp[0]), activation.clamp[1])
    activation.apply(Z)
    np.testing.assert_array_equal(Z, wanted)


@pytest.mark.parametrize("cap", [0, -1, float("nan"), "32", [1], np.array([1.0, 2.0])])
def test_bad_cap(cap):
    with pytest.raises(InputError, match="cap: expected a positive number"):
        layers.ReLU(cap)


@pytest.mark.parametrize("slope", [float("inf"), float("nan"), "1", None, 1j])
def test_bad_slope(slope):
    with pytest.raises(InputError, match="negative_slope: expected a finite number"):
        layers.LeakyReLU(slope)


@pytest.mark.parametrize("cap", [1, np.float32(2), np.int64(3), float("inf"), None])
def test_good_cap(cap):
    assert layers.ReLU(cap).clamp == (0, np.inf if cap is None else cap)


def test_names():
    assert {type(layers.activation(name)) for name in layers.ACTIVATIONS} == {
        type(activation) for activation in EVERY
    }
    with pytest.raises(UnknownNameError) as caught:
        layers.activation("swish")
    for name in layers.ACTIVATIONS:
        assert repr(name) in str(caught.value)
