"""The compiled passes of a training step against their equations in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbdnn.backends import elementwise
from gbdnn.errors import DtypeError, InputError, ShapeError

DTYPES = [np.float32, np.float64]
DECAYS = [0.0, 0.1]


def vectors(rng, count, dtype, number):
    return [rng.standard_normal(count).astype(dtype) for _ in range(number)]


def assert_close(found, exact, dtype, ulps=32):
    """Within some roundings of the largest term: no sum here has more than three."""
    scale = np.maximum(abs(exact), 1)
    np.testing.assert_array_less(abs(found - exact), ulps * np.finfo(dtype).eps * scale)


def exact_adam(w, g, m, v, lr, b1, b2, eps, t, decay, decoupled):
    """Kingma and Ba's algorithm 1, line by line."""
    if not decoupled:
        g = g + decay * w
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    step = lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return w - step - (lr * decay * w if decoupled else 0), m, v


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("decay", DECAYS)
def test_adam(dtype, decoupled, decay, rng):
    w, g = vectors(rng, 1003, dtype, 2)
    m, v = np.zeros_like(w), np.zeros_like(w)
    exact = [a.astype(np.float64) for a in (w, m, v)]
    settings_ = (0.01, 0.9, 0.999, 1e-8)
    for step in range(1, 6):
        elementwise.adam(w, g, m, v, *settings_, step, decay, decoupled)
        rest = (*settings_, step, decay, decoupled)
        exact = exact_adam(exact[0], g.astype(np.float64), *exact[1:], *rest)
        for found, right in zip((w, m, v), exact, strict=True):
            assert_close(found, right, dtype)
        g = g[::-1].copy()


def test_the_check_notices_one_part_in_a_thousand(rng):
    w, g = vectors(rng, 1003, np.float32, 2)
    before, (m, v) = w.astype(np.float64), np.zeros((2, 1003), np.float32)
    elementwise.adam(w, g, m, v, 0.01 * 1.001, 0.9, 0.999, 1e-8, 1, 0.0, False)
    zero = np.zeros(1003)
    exact = exact_adam(before, g.astype(np.float64), zero, zero, 0.01, 0.9, 0.999, 1e-8, 1, 0, 0)
    with pytest.raises(AssertionError):
        assert_close(w, exact[0], np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", DECAYS)
def test_momentum(dtype, nesterov, decay, rng):
    w, g = vectors(rng, 777, dtype, 2)
    u = np.zeros_like(w)
    W, U = w.astype(np.float64), u.astype(np.float64)
    for _ in range(4):
        elementwise.sgd(w, g, u, 0.05, 0.9, nesterov, decay)
        step = 0.05 * (g + decay * W)
        U = 0.9 * U - step
        W = W + (0.9 * U - step if nesterov else U)
        assert_close(w, W, dtype)
        assert_close(u, U, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_descent(dtype, rng):
    w, g = vectors(rng, 100, dtype, 2)
    exact = w - 0.05 * (g.astype(np.float64) + 0.1 * w)
    elementwise.sgd(w, g, None, 0.05, 0.0, False, 0.1)
    assert_close(w, exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bounds", [(0, np.inf), (0, 0.5), (-np.inf, np.inf)])
def test_relu_backward(dtype, bounds, rng):
    Y, dY = rng.standard_normal((2, 3, 7, 16)).astype(dtype)
    Y = np.clip(Y, *bounds)
    Y[0, 0, 0] = np.nan
    expected = np.where((bounds[0] < Y) & (bounds[1] > Y), dY, 0)
    elementwise.relu_backward(Y, dY, *bounds)
    np.testing.assert_array_equal(dY, expected)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(0, 4), st.integers(0, 50), st.integers(0, 70)),
    dtype=st.sampled_from(DTYPES),
)
def test_row_sums(seed, shape, dtype):
    dZ = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    out = np.full(shape[1], np.nan, dtype)
    elementwise.row_sums(dZ, out)
    exact, size = dZ.sum((0, 2), dtype=np.longdouble), abs(dZ).sum((0, 2))
    bound = (shape[0] * shape[2] + 2) * np.finfo(dtype).eps * size
    assert (abs(out - exact) <= bound).all()


def test_threads_change_no_bit(rng, monkeypatch):
    monkeypatch.setattr(elementwise, "SMALL", 0)
    for count in (1, 5, 1000):
        found = []
        for threads in (1, 2, 3):
            w, g, m, v = vectors(np.random.default_rng(1), count, np.float32, 4)
            v = abs(v)
            elementwise.adam(w, g, m, v, 0.01, 0.9, 0.999, 1e-8, 3, 0.1, True, threads)
            elementwise.sgd(w, g, m, 0.1, 0.9, True, 0.1, threads)
            elementwise.relu_backward(w, g, 0, 1, threads)
            sums = np.empty(count, np.float32)
            elementwise.row_sums(np.stack([w, g])[:, :, None].repeat(33, 2), sums, threads)
            found.append(np.concatenate([w, g, m, v, sums]))
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], found[2])


def test_empty_parameters():
    empty = np.empty(0, np.float32)
    elementwise.adam(empty, empty, empty, empty, 0.01, 0.9, 0.999, 1e-8, 1, 0.0, False, 2)
    elementwise.sgd(empty, empty, None, 0.01, 0.0, False, 0.0, 2)
    elementwise.relu_backward(empty, empty, 0, 1)


def test_arrays_that_do_not_fit_are_refused(rng):
    w, g, m, v = vectors(rng, 10, np.float32, 4)
    before = w.copy()
    frozen = w.view()
    frozen.flags.writeable = False

    def adam(w, g, m, v, step=1):
        elementwise.adam(w, g, m, v, 0.1, 0.9, 0.999, 1e-8, step, 0.0, False)

    for error, call in [
        (ShapeError, lambda: adam(w, g[1:], m, v)),
        (ShapeError, lambda: adam(w, g, m, v[1:])),
        (DtypeError, lambda: adam(w, g.astype(np.float64), m, v)),
        (DtypeError, lambda: adam(*(a.astype(np.int64) for a in (w, g, m, v)))),
        (InputError, lambda: adam(frozen, g, m, v)),
        (InputError, lambda: adam(np.repeat(w, 2)[::2], g, m, v)),
        (InputError, lambda: adam(w, g, m, v, step=0)),
        (ShapeError, lambda: elementwise.sgd(w, g, m[1:], 0.1, 0.9, False, 0.0)),
        (ShapeError, lambda: elementwise.relu_backward(w, g[1:], 0, 1)),
        (InputError, lambda: elementwise.relu_backward(g, frozen, 0, 1)),
        (ShapeError, lambda: elementwise.row_sums(np.zeros((2, 9, 4), np.float32), w)),
        (DtypeError, lambda: elementwise.row_sums(np.zeros((2, 10, 4)), w)),
        (InputError, lambda: elementwise.row_sums(np.zeros((2, 10, 4), np.float32), frozen)),
    ]:
        with pytest.raises(error):
            call()
    np.testing.assert_array_equal(w, before)
