"""Linear layers: what they accept, copy and refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from builders import ALL, random_csr, random_dense

from gbdnn import CSR, Linear, Network, as_csr
from gbdnn.backends import get_backend
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError
from gbdnn.layers import Dropout, ReLU


@pytest.mark.parametrize("kind", [np.asarray, list, sp.csr_array, sp.csc_matrix, as_csr])
def test_weight_kinds(kind, rng):
    dense = random_dense(rng, 4, 6)
    layer = Linear(kind(dense), np.arange(4))
    sparse = kind not in (np.asarray, list)
    assert isinstance(layer.weight, CSR) == sparse
    assert (layer.in_features, layer.out_features) == (6, 4)
    assert layer.edges == (np.count_nonzero(dense) if sparse else 24)
    np.testing.assert_array_equal(layer.weight.to_dense(), dense)
    assert layer.dtype == layer.bias.dtype == np.float32
    assert ("nnz" in repr(layer)) == sparse


@pytest.mark.parametrize("given", [np.float64, np.float32, np.float16, np.int8, np.uint64, bool])
@pytest.mark.parametrize("wanted", [np.float32, np.float64])
def test_dtypes(given, wanted):
    layer = Linear(np.eye(3).astype(given), np.ones(3, given), dtype=wanted)
    assert layer.dtype == layer.bias.dtype == wanted
    np.testing.assert_array_equal(layer.weight, np.eye(3))
    assert layer.astype(np.float64).dtype == np.float64


@pytest.mark.parametrize("sparse", [False, True])
def test_caller_keeps_arrays(sparse, rng):
    dense, bias = random_dense(rng, 4, 6), np.ones(4, np.float32)
    weight = sp.csr_array(dense) if sparse else dense
    layer = Linear(weight, bias)
    held = layer.weight.values
    before = held.copy()
    assert not held.flags.writeable
    assert not layer.bias.flags.writeable
    bias[:] = 7
    (weight.data if sparse else weight)[:] = 7
    np.testing.assert_array_equal(held, before)
    np.testing.assert_array_equal(layer.bias, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.bias = bias


def test_fortran_and_strided_weights(rng):
    dense = random_dense(rng, 8, 12)
    for view in (np.asfortranarray(dense), dense[::2, ::3], dense[::-1]):
        layer = Linear(view)
        assert layer.weight.values.flags.c_contiguous
        np.testing.assert_array_equal(layer.weight, view)


def test_negative_zero_bias_is_zero():
    assert not np.signbit(Linear(np.eye(2), -0.0).bias)
    assert not np.signbit(Linear(np.eye(2), [-0.0, 1]).bias).any()


@pytest.mark.parametrize(
    ("weight", "error"),
    [
        (np.ones(3), ShapeError),
        (np.ones((2, 2, 2)), ShapeError),
        (5.0, ShapeError),
        (np.ones((0, 3)), ShapeError),
        (sp.csr_array((3, 0)), ShapeError),
        (np.ones((2, 2), complex), DtypeError),
        (sp.csr_array(np.ones((2, 2), complex)), DtypeError),
        ([["a"]], DtypeError),
        ("relu", DtypeError),
        (None, DtypeError),
        ([[1, 2], [3]], DtypeError),
        (np.array([[None]]), DtypeError),
        (np.array([["2020-01-01"]], "M8"), DtypeError),
        (np.array([[np.nan]]), NonFiniteError),
        (sp.coo_array([[np.inf]]), NonFiniteError),
        (np.array([[1e300]]), NonFiniteError),
        (np.ma.masked_array([[1.0]], [[True]]), InputError),
    ],
)
def test_bad_weight(weight, error):
    with pytest.raises(error, match=r"^weight: expected .*, got "):
        Linear(weight)


@pytest.mark.parametrize(
    ("bias", "error"),
    [
        (np.ones(2), ShapeError),
        (np.ones((3, 1)), ShapeError),
        ([], ShapeError),
        ("one", DtypeError),
        (1j, DtypeError),
        (None, DtypeError),
        (np.nan, NonFiniteError),
        ([0, np.inf, 0], NonFiniteError),
        (1e300, NonFiniteError),
        (np.ma.masked_array([1.0, 2, 3], [True, False, False]), InputError),
    ],
)
def test_bad_bias(bias, error):
    with pytest.raises(error, match=r"^bias: expected .*, got "):
        Linear(np.eye(3), bias)


@pytest.mark.parametrize("dtype", [np.float16, int, "complex64", "nonsense", None, object])
def test_bad_dtype(dtype):
    with pytest.raises(DtypeError, match="float32 or float64"):
        Linear(np.eye(3), dtype=dtype)


def test_nan_cannot_enter_through_an_unchecked_csr():
    damaged = as_csr(sp.csr_array([[np.nan]]), finite=False)
    with pytest.raises(NonFiniteError):
        Linear(damaged)


@pytest.mark.parametrize("backend", ALL)
def test_dropout_changes_no_prediction(backend, rng):
    first, last = Linear(random_csr(rng, 20, 12), 0.1), Linear(random_csr(rng, 5, 20))
    X = rng.random((30, 12))
    plain = Network([first, "relu", last, "tanh"])
    dropping = Network([first, Dropout(0.3), "relu", Dropout(0.9), last, "tanh", Dropout()])
    wanted = plain.predict(X, backend=backend)
    np.testing.assert_array_equal(dropping.predict(X, backend=backend), wanted)


def test_dropout_costs_nothing():
    layers = [Linear(np.eye(3)), ReLU(), Dropout(0.5)]
    (step,) = Network(layers).steps(get_backend("dense"))
    assert step.layers == (*Network(layers).layers[:2],)  # and the bounds go into the product
    assert step.parameters[0].clamp == (0, np.inf)
    assert "Dropout(rate=0.5)" in repr(Network(layers))
    assert "Dropout" in str(Network(layers).summary())
