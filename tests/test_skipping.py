"""Which constants a layer keeps, against brute force in many orders of summation."""

from __future__ import annotations

import numpy as np
import pytest
from builders import ALL, random_csr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gbdnn import Identity, LeakyReLU, Linear, Network, ReLU, Sigmoid, as_csr
from gbdnn.execution.skipping import drop
from gbdnn.layers import Softmax, Tanh

seeds = st.integers(0, 2**32 - 1)


def kept(weight, bias, activation, dtype=np.float32):
    layer = Linear(weight, bias, dtype=dtype)
    return layer.keeps([activation])


def sums(terms, bias, rng):
    """Yield the sum of `terms` and `bias` in their own dtype in several orders."""
    everything = [bias, *terms]
    for order in (everything, everything[::-1], *(rng.permutation(everything) for _ in range(4))):
        total = order[0]
        for term in order[1:]:
            total = total + term
        yield total
    while len(everything) > 1:  # pairwise
        everything = [sum(everything[k : k + 2][1:], everything[k])
                      for k in range(0, len(everything), 2)]  # fmt: skip
    yield everything[0]


def really_keeps(weight, bias, activation, value, rng):
    """True if no order of summation takes a column of `value` to anything else."""
    found = set()
    for row, b in zip(weight, np.broadcast_to(bias, len(weight)), strict=True):
        for total in sums([w * weight.dtype.type(value) for w in row if w], b, rng):
            Z = np.array([[total]], weight.dtype)
            activation.apply(Z)
            found.add(float(Z[0, 0]))
    return found <= {value}


@settings(max_examples=300)
@given(
    seed=seeds,
    cap=st.sampled_from([0.7, 1.0, 32.0, 1e-42, 1e-30, 3e37]),
    ulps=st.integers(-40, 40),
    terms=st.integers(1, 40),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@example(seed=0, cap=1e-42, ulps=40, terms=4, dtype=np.float32)
def test_the_cap_is_never_claimed_wrongly(seed, cap, ulps, terms, dtype):
    rng = np.random.default_rng(seed)
    cap = float(dtype(cap))
    weight = rng.random((2, terms)).astype(dtype)
    total = weight.sum(axis=1, dtype=np.float64) * cap
    activation = ReLU(cap)
    with np.errstate(over="ignore", invalid="ignore"):
        bias = (cap - total).astype(dtype)  # the exact sum is the cap, give or take
        bias += ulps * np.spacing(np.abs(total).astype(dtype))
    if not np.isfinite(bias).all():
        return
    with np.errstate(over="ignore"):
        if cap in kept(weight, bias, activation, dtype):
            assert really_keeps(weight, bias, activation, cap, rng)


@settings(max_examples=100)
@given(seed=seeds, terms=st.integers(1, 40))
def test_the_cap_is_claimed_when_clear(seed, terms):
    rng = np.random.default_rng(seed)
    weight = rng.random((3, terms)).astype(np.float32) + np.float32(0.01)
    bias = 32 - 32 * weight.sum(axis=1, dtype=np.float64)
    far = 0.01 * (1 + abs(bias))
    assert 32.0 in kept(weight, bias + far, ReLU(32.0))
    assert 32.0 in kept(as_csr(weight), bias + far, ReLU(32.0))
    assert 32.0 not in kept(weight, bias - far, ReLU(32.0))
    assert 32.0 not in kept(as_csr(weight), bias - far, ReLU(32.0))


def test_brute_force_sees_a_wrong_claim(rng):
    weight = np.full((2, 3), 0.333, np.float32)  # sums to 0.999
    assert not really_keeps(weight, np.zeros(2, np.float32), ReLU(1.0), 1.0, rng)
    assert really_keeps(weight * np.float32(1.01), np.zeros(2, np.float32), ReLU(1.0), 1.0, rng)


@pytest.mark.parametrize("activation", [Identity(), ReLU(), ReLU(2.0), LeakyReLU(), Tanh(),
                                        Sigmoid(), Softmax()], ids=repr)  # fmt: skip
@pytest.mark.parametrize("bias", [0.0, -0.0, -1.0, 1.0, 1e-45, -1e-45, [0, 0, 0], [0, -1, 0],
                                  [0, 1e-45, -1]], ids=str)  # fmt: skip
def test_zero_is_kept_exactly_if_h_of_b_is_zero(bias, activation, rng):
    Z = np.broadcast_to(np.array(bias, np.float32), 3).reshape(3, 1).copy()
    activation.apply(Z)
    for weight in (
        random_csr(rng, 3, 5),
        random_csr(rng, 3, 5).to_dense(),
        as_csr(np.zeros((3, 5))),
    ):
        assert (0.0 in kept(weight, bias, activation)) == (not Z.any())


@pytest.mark.parametrize(
    ("weight", "bias", "expected"),
    [
        ([[1.0, 1.0]], 0.0, {0.0, 2.0}),
        ([[1.0, -1e-30]], 1.0, set()),  # a negative weight: order could matter
        ([[3.0, -1.0]], np.zeros(1), {0.0}),
        ([[0.0, 0.0]], 1.0, set()),
        ([[5.0, 0.0], [1e-9, 0.0]], 3.0, {2.0}),  # practically constant
        ([[5.0, 0.0], [0.0, 0.0]], 0.0, {0.0}),  # a row without entries
        ([[5.0, 0.0], [0.0, 0.0]], [0.0, 2.5], {2.0}),
        ([[1.0, 0.0]], 0.0, {0.0}),  # exactly the cap: too close to claim
    ],
)
def test_small_cases(weight, bias, expected):
    assert kept(np.array(weight), bias, ReLU(2.0)) == expected
    assert kept(as_csr(weight), bias, ReLU(2.0)) == expected


def test_products_that_underflow_are_not_counted_on(rng):
    least = float(np.finfo(np.float32).smallest_subnormal)
    weight = np.full((2, 3), 0.5, np.float32)  # the sum is 1.5 caps, each product rounds to 0
    assert not really_keeps(weight, np.zeros(2, np.float32), ReLU(least), least, rng)
    assert least not in kept(weight, 0.0, ReLU(least))


def test_iso_weights_count_like_others():
    many = as_csr(np.full((3, 5), 0.5))
    iso = type(many)(many.indptr, many.indices, np.full(1, 0.5), many.shape)
    for bias in (0.0, -8.0):
        wanted = Linear(many, bias).keeps([ReLU(4.0)])
        assert Linear(iso, bias).keeps([ReLU(4.0)]) == wanted


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_overflowing_sums_are_not_claimed_and_do_not_warn(dtype):
    big = np.full((2, 4), np.finfo(dtype).max)
    for weight in (big, as_csr(big)):
        assert kept(weight, 0.0, ReLU(3.0), dtype) <= {0.0, 3.0}
        assert 0.0 in kept(weight, 0.0, ReLU(3.0), dtype)


def test_an_infinite_cap_is_none():
    assert kept(np.eye(2), 1.0, ReLU(np.inf)) == kept(np.eye(2), 1.0, ReLU()) == set()


@pytest.mark.parametrize("backend", ALL)
@settings(max_examples=25)
@given(seed=seeds, ulps=st.integers(0, 60))
def test_backends_really_keep_what_is_claimed(backend, seed, ulps):
    rng = np.random.default_rng(seed)
    weight = rng.random((20, 20)).astype(np.float32) * (rng.random((20, 20)) < 0.5)
    weight[:, 0] = 0.3
    total = weight.sum(axis=1, dtype=np.float64) * 32
    bias = (32 - total).astype(np.float32) + ulps * np.spacing(total.astype(np.float32))
    layer = Linear(as_csr(weight), bias)
    if 32.0 in layer.keeps([ReLU(32)]):
        X = np.full((19, 20), 32.0)
        result = Network([layer, ReLU(32)]).predict(X, backend=backend, skip=False)
        np.testing.assert_array_equal(result, 32)


def test_final_columns_are_set_aside_and_gaps_closed(rng):
    """NaN is no constant, a constant that nobody keeps stays, the padding becomes zeros."""
    ids, Y = np.arange(100, 112), rng.standard_normal((30, 16)).astype(np.float32)
    Y[:, [2, 7]], Y[:, 5], Y[:, 9], Y[:, 10], aside = 0, 3, np.nan, 4, []
    Y[17, 7] = 1  # behind the rows that are looked at one by one
    left, packed = drop(
        ids, Y, frozenset({0.0, 3.0}), lambda *given: aside.append(given),
        lambda columns: np.full((30, 16), np.nan, np.float32), force=True,
    )  # fmt: skip
    assert {value: ids.tolist() for ids, value in aside} == {0.0: [102], 3.0: [105]}
    np.testing.assert_array_equal(left, np.setdiff1d(ids, [102, 105]))
    np.testing.assert_array_equal(packed[:, :10], Y[:, left - 100])
    np.testing.assert_array_equal(packed[:, 10:], 0)
