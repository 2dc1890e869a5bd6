"""Training with the fused kernels: three products against float64, and `refresh`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from gbdnn import CSR, Dense, as_csr
from gbdnn.backends.fused import backend, weight
from gbdnn.backends.fused.backend import FusedBackend
from gbdnn.errors import DtypeError, InputError, ShapeError

BACKEND = FusedBackend()
prepared = partial(BACKEND.prepare, trained=True)
DTYPES = [np.float32, np.float64]


def weight_of(rng, shape, density, dtype=np.float32):
    """A CSR with some empty rows and columns, and stored zeros."""
    W = sp.random_array(shape, density=density, rng=rng, dtype=np.float64).tocsr()
    W.data[:] = rng.standard_normal(W.nnz)
    W.data[: W.nnz // 7] = 0
    return as_csr(W, dtype=dtype)


def batch_of(rng, shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def dense(w):
    """W as its values are now, in float64."""
    pattern, values = w.pattern, w.values.astype(np.float64)
    return CSR.unchecked(pattern.indptr, pattern.indices, values, pattern.shape).to_dense()


def places(w):
    return np.repeat(np.arange(w.pattern.shape[0]), np.diff(w.pattern.indptr)), w.pattern.indices


def excess(found, exact, terms, size):
    """Largest error over (k + 2) eps (|A||B|); at most 1 if the result is right."""
    info = np.finfo(found.dtype)
    eps = info.eps * (2 if found.dtype == np.float64 else 1)  # the oracle errs too
    error = np.nan_to_num(abs(found - exact), nan=np.inf)
    return np.max(error / np.maximum((terms + 2) * eps * size, info.tiny), initial=0.0)


def products(w, Y, dZ, bias, threads=1):
    """All three, into memory that holds NaN before."""
    (rows, columns), (tiles, _, width) = w.pattern.shape, Y.shape
    dtype = w.values.dtype
    out = np.full((tiles, rows, width), np.nan, dtype)
    back = np.full((tiles, columns, width), np.nan, dtype)
    grad = np.full(len(w.values), np.nan, dtype)
    BACKEND.affine(w, Y, bias, out, threads=threads)
    BACKEND.input_grad(w, dZ, back, threads)
    BACKEND.weight_grad(w, dZ, Y, grad, threads)
    return out, back, grad


def assert_right(w, Y, dZ, bias, found):
    W, (rows, columns) = dense(w), places(w)
    Y, dZ, b = (a.astype(np.float64) for a in (Y, dZ, np.broadcast_to(bias, w.pattern.shape[0])))
    b = b[:, None]
    stored = W != 0
    forward, back, grad = found
    terms = stored.sum(1)[:, None]
    assert excess(forward, W @ Y + b, terms, abs(W) @ abs(Y) + abs(b)) <= 1
    terms = stored.sum(0)[:, None]
    assert excess(back, W.T @ dZ, terms, abs(W).T @ abs(dZ)) <= 1

    def sampled(dZ, Y):
        return np.einsum("tif,tjf->ij", dZ, Y, optimize=True)[rows, columns]

    terms = Y.shape[0] * Y.shape[2]
    assert excess(grad, sampled(dZ, Y), terms, sampled(abs(dZ), abs(Y))) <= 1


def case(rng, shape, density, tiles, width, dtype):
    w = prepared(weight_of(rng, shape, density, dtype))
    Y, dZ = (batch_of(rng, (tiles, n, width), dtype) for n in (shape[1], shape[0]))
    return w, Y, dZ, batch_of(rng, shape[0], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_width(dtype, rng):
    for width in [*range(1, 72), 96, 127, 128, 200, 256]:
        given_ = case(rng, (37, 53), 0.3, 2, width, dtype)
        assert_right(*given_, products(*given_))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    density=st.sampled_from([0, 0.01, 0.1, 0.5, 1]),
    tiles=st.integers(1, 4),
    width=st.integers(1, 80),
    dtype=st.sampled_from(DTYPES),
    scalar=st.booleans(),
)
def test_products(seed, shape, density, tiles, width, dtype, scalar):
    w, Y, dZ, bias = case(np.random.default_rng(seed), shape, density, tiles, width, dtype)
    bias = bias[0] if scalar else bias
    bias = np.asarray(bias, dtype)
    assert_right(w, Y, dZ, bias, products(w, Y, dZ, bias))


def test_the_check_notices_one_part_in_a_thousand(rng):
    w, Y, dZ, bias = case(rng, (20, 30), 0.3, 2, 16, np.float32)
    found = products(w, Y, dZ, bias)
    for k in range(3):
        wrong = [part.copy() for part in found]
        wrong[k] *= np.float32(1.001)
        with pytest.raises(AssertionError):
            assert_right(w, Y, dZ, bias, wrong)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (5, 70_000), (70_000, 5)])
def test_extreme_shapes(shape, dtype, rng):
    """Also above 65,536, where indices are int32 and one orientation shares the pattern's."""
    given_ = case(rng, shape, 0.001 if max(shape) > 100 else 0.6, 2, 17, dtype)
    form = given_[0]
    assert form.rows.indices.dtype == (np.uint16 if shape[1] <= 65_536 else np.int32)
    assert form.transposed.indices.dtype == (np.uint16 if shape[0] <= 65_536 else np.int32)
    W = form.pattern
    w, Y, dZ, bias = given_
    out, back, grad = products(w, Y, dZ, bias)
    rows, columns = places(w)
    exact = sp.csr_array((w.values.astype(np.float64), (rows, columns)), shape=W.shape)
    for t in range(2):
        size = abs(exact) @ abs(Y[t].astype(np.float64)) + abs(bias[:, None])
        terms = np.diff(W.indptr)[:, None]
        assert excess(out[t], exact @ Y[t].astype(np.float64) + bias[:, None], terms, size) <= 1
        size = abs(exact).T @ abs(dZ[t].astype(np.float64))
        terms = np.bincount(columns, minlength=shape[1])[:, None]
        assert excess(back[t], exact.T @ dZ[t].astype(np.float64), terms, size) <= 1
    terms = dZ[:, rows].astype(np.float64) * Y[:, columns]
    assert excess(grad, terms.sum((0, 2)), 34, abs(terms).sum((0, 2))) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_no_bit(dtype, rng, monkeypatch):
    monkeypatch.setattr(backend, "SMALL", 0)
    for shape in [(1, 9), (90, 70), (3, 200), (200, 3)]:
        w, Y, dZ, bias = case(rng, shape, 0.3, 3, 40, dtype)
        one = products(w, Y, dZ, bias, threads=1)
        assert_right(w, Y, dZ, bias, one)
        for threads in (2, 3, 7):
            for a, b in zip(one, products(w, Y, dZ, bias, threads=threads), strict=True):
                np.testing.assert_array_equal(a, b)


def test_refresh_follows_the_values(rng, monkeypatch):
    monkeypatch.setattr(weight, "SMALL", 0)
    for shape in [(60, 90), (1, 20), (20, 1), (10, 70_000)]:
        w, _, dZ, _ = case(rng, shape, 0.2 if shape[1] < 1000 else 0.01, 1, 16, np.float32)
        for threads in (1, 2, 3, 5):
            w.values[:] = rng.standard_normal(len(w.values))
            before = np.empty((1, shape[1], 16), np.float32)
            BACKEND.input_grad(w, dZ, before)
            w.refresh(threads)
            after = np.empty_like(before)
            BACKEND.input_grad(w, dZ, after)
            exact = prepared(w.pattern)  # its values are a view of w's
            expected = np.empty_like(before)
            BACKEND.input_grad(exact, dZ, expected)
            np.testing.assert_array_equal(after, expected)
            assert not np.array_equal(before, after)


def test_forward_uses_the_values_without_refresh(rng):
    w, Y, _, bias = case(rng, (30, 40), 0.3, 1, 16, np.float32)
    w.values[:] *= 2
    out = np.empty((1, 30, 16), np.float32)
    BACKEND.affine(w, Y, bias, out)
    W, Y, b = dense(w), Y.astype(np.float64), bias[:, None].astype(np.float64)
    terms = np.count_nonzero(W, 1)[:, None]
    assert excess(out, W @ Y + b, terms, abs(W) @ abs(Y) + abs(b)) <= 1


def test_bounds(rng):
    w, Y, _, bias = case(rng, (30, 40), 0.3, 2, 16, np.float32)
    plain = np.empty((2, 30, 16), np.float32)
    BACKEND.affine(w, Y, bias, plain)
    for clamp in ((0.0, np.inf), (0.0, 1.5), (-0.5, 0.5)):
        out = np.empty_like(plain)
        BACKEND.affine(w, Y, bias, out, clamp=clamp)
        np.testing.assert_array_equal(out, np.clip(plain, *clamp))


def test_sums_go_on_from_what_out_holds(rng):
    """As in a recurrent layer, with a bias and without."""
    w, Y, _, bias = case(rng, (30, 40), 0.3, 3, 24, np.float32)
    W, exact = dense(w), Y.astype(np.float64)
    start = batch_of(rng, (3, 30, 24))
    terms = np.count_nonzero(W, 1)[:, None] + 1
    for b in (None, bias, np.float32(0.5).reshape(())):
        out, column = start.copy(), 0.0 if b is None else b.astype(np.float64).reshape(-1, 1)
        BACKEND.affine(w, Y, b, out, accumulate=True)
        size = abs(W) @ abs(exact) + abs(column) + abs(start)
        assert excess(out, start + W @ exact + column, terms, size) <= 1


def test_dense_weights_train_all_places(rng):
    W = batch_of(rng, (12, 30))
    W[3] = 0
    w = prepared(Dense(W))
    assert w.pattern.nnz == W.size
    Y, dZ = batch_of(rng, (2, 30, 32)), batch_of(rng, (2, 12, 32))
    bias = np.zeros(12, np.float32)
    assert_right(w, Y, dZ, bias, products(w, Y, dZ, bias))
    w.values[:] = 0  # own memory
    assert W.any()


def test_own_memory_and_iso_values(rng):
    W = weight_of(rng, (20, 30), 0.3)
    before = W.values.copy()
    iso = CSR(W.indptr, W.indices, np.array([0.5], np.float32), W.shape)
    for given_W, values in ((W, W.values), (iso, np.full(W.nnz, 0.5, np.float32))):
        w = prepared(given_W)
        np.testing.assert_array_equal(w.values, values)
        assert w.values.flags.writeable
        w.values[:] += 1
        np.testing.assert_array_equal(w.pattern.values, w.values)
        with pytest.raises(ValueError, match="read-only"):
            w.pattern.values[0] = 1
    np.testing.assert_array_equal(W.values, before)
    assert iso.values == np.float32(0.5)


def test_empty_batches(rng):
    w, _, _, bias = case(rng, (6, 9), 0.5, 1, 1, np.float32)
    for tiles, width in [(0, 16), (2, 0)]:
        Y, dZ = (np.empty((tiles, n, width), np.float32) for n in (9, 6))
        assert not products(w, Y, dZ, bias)[2].any()


def test_nbytes_counts_every_array_once(rng):
    w = prepared(weight_of(rng, (50, 70), 0.3))
    w.refresh(1)
    nnz, tables = w.pattern.nnz, 32 * (50 + 70)
    pointers = w.pattern.indptr.nbytes
    cursors = 8 * 70  # one for each column
    # indices 4 + 2, values 4; of the transpose 2 and 4
    assert w.nbytes == 16 * nnz + tables + pointers + cursors
    wide = prepared(weight_of(rng, (50, 70_000), 0.001))
    nnz, tables = wide.pattern.nnz, 32 * (50 + 70_000)
    assert wide.nbytes == 14 * nnz + tables + wide.pattern.indptr.nbytes


def test_bytes_of_training_state(rng):
    """Both orientations, gradients and two vectors of Adam: at most 32 bytes a non-zero."""
    for shape, density in [((1024, 1024), 0.1), ((66_000, 66_000), 64 / 66_000)]:
        count = int(shape[0] * shape[1] * density)
        rows, columns = (rng.integers(0, n, count) for n in shape)
        W = sp.coo_array((np.ones(count, np.float32), (rows, columns)), shape=shape).tocsr()
        w = prepared(as_csr(W))
        w.refresh(2)
        assert (w.nbytes + 3 * w.values.nbytes) / w.pattern.nnz <= 32


def test_training_width():
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    for batch in (1, 3, 16):
        assert BACKEND.width(1024, single, batch) == 16
        assert BACKEND.width(1024, double, batch) in (8, 16)
    assert BACKEND.width(1024, single, 40) == 48
    assert BACKEND.width(1024, single, 256) == 64
    assert BACKEND.width(4096, single, 256) == 32
    assert BACKEND.width(1024, double, 256) == 32


def test_several_weights_at_once(rng):
    cases = [case(rng, (60, 50), 0.3, 2, 32, dtype) for dtype in DTYPES * 4]
    with ThreadPoolExecutor(4) as pool:
        for given_, found in zip(cases, pool.map(lambda each: products(*each), cases), strict=True):
            assert_right(*given_, found)


def fortran(array):
    """The same numbers in Fortran order."""
    return np.asfortranarray(array)


def test_arrays_that_do_not_fit_are_refused(rng):
    w, Y, dZ, bias = case(rng, (6, 9), 0.5, 2, 16, np.float32)
    out, back, grad = products(w, Y, dZ, bias)
    frozen = grad.copy()
    frozen.flags.writeable = False
    affine, input_grad = BACKEND.affine, BACKEND.input_grad
    weight_grad = BACKEND.weight_grad
    for error, call in [
        (ShapeError, lambda: affine(w, Y[0], bias, out)),
        (ShapeError, lambda: affine(w, Y[:, 1:].copy(), bias, out)),
        (ShapeError, lambda: affine(w, Y, bias, out[:1])),
        (ShapeError, lambda: affine(w, Y, bias[1:], out)),
        (DtypeError, lambda: affine(w, Y.astype(np.float64), bias, out)),
        (DtypeError, lambda: affine(w, Y, bias.astype(np.float64), out)),
        (InputError, lambda: affine(w, fortran(Y), bias, out)),
        (ShapeError, lambda: input_grad(w, Y, back)),
        (ShapeError, lambda: input_grad(w, dZ, back[:, :, :8].copy())),
        (DtypeError, lambda: input_grad(w, dZ, back.astype(np.float64))),
        (InputError, lambda: input_grad(w, dZ, fortran(back))),
        (ShapeError, lambda: weight_grad(w, Y, dZ, grad)),
        (ShapeError, lambda: weight_grad(w, dZ, Y, grad[1:])),
        (ShapeError, lambda: weight_grad(w, dZ[:1], Y, grad)),
        (DtypeError, lambda: weight_grad(w, dZ, Y, grad.astype(np.float64))),
        (InputError, lambda: weight_grad(w, dZ, Y, frozen)),
        (InputError, lambda: weight_grad(w, dZ, Y, np.repeat(grad, 2)[::2])),
    ]:
        with pytest.raises(error):
            call()
