"""The fused kernel against a float64 product, within (k + 2) eps (|W||Y| + |b|)."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from gbdnn import CSR, Dense, as_csr
from gbdnn.backends.base import UNBOUNDED, aligned_empty
from gbdnn.backends.fused import backend, groups
from gbdnn.backends.fused.backend import FusedBackend
from gbdnn.errors import DtypeError, InputError, ShapeError

BACKEND = FusedBackend()


RELU, CAPPED = (0.0, np.inf), (0.0, 1.5)


def tile(array, dtype):
    array = np.asarray(array)
    buffer = aligned_empty(array.size, dtype).reshape(array.shape)
    buffer[...] = array
    return buffer


def run(weight, Y, bias, clamp=None, threads=1, start=None):
    """Return clamp([start +] W Y + b) for Y of one tile, (features, width), or of several."""
    w = BACKEND.prepare(weight)
    tiles = Y if Y.ndim == 3 else Y[None]
    shape = (len(tiles), weight.shape[0], tiles.shape[2])
    out = tile(np.broadcast_to(np.nan if start is None else start, shape), weight.dtype)
    accumulate = start is not None
    BACKEND.affine(w, tiles, bias, out, clamp=clamp, accumulate=accumulate, threads=threads)
    return out if Y.ndim == 3 else out[0]


def dense(weight):
    return weight.to_dense() if isinstance(weight, CSR) else np.asarray(weight)


def excess(out, weight, Y, bias, clamp=None, start=0.0):
    """Largest error over its bound; at most 1 if the result is right."""
    W, Y, start = (np.asarray(a, np.float64) for a in (dense(weight), Y, start))
    b = np.asarray(0.0 if bias is None else bias, np.float64)
    b = np.broadcast_to(b.reshape(-1, 1) if b.ndim else b, (len(W), 1))
    expected = np.clip(start + W @ Y + b, *(clamp or UNBOUNDED))
    terms = np.count_nonzero(W, axis=1)[:, None] + 3
    bound = terms * np.finfo(out.dtype).eps * (abs(W) @ abs(Y) + abs(b) + abs(start))
    error = np.nan_to_num(abs(out - expected), nan=np.inf)
    return np.max(error / np.maximum(bound, np.finfo(out.dtype).tiny), initial=0.0)


def random_weight(rng, shape, density, dtype, kind="scattered"):
    W = sp.random_array(shape, density=density, rng=rng, dtype=dtype).toarray()
    W[W != 0] -= dtype(0.5)
    if kind in ("patterns", "iso"):  # rows of a few patterns: groups of four and left-over rows
        W = W[rng.integers(0, max(shape[0] // 5, 1), shape[0])]
        W = W * rng.uniform(0.5, 2, (shape[0], 1)).astype(dtype)
    if kind == "dense":
        return Dense(rng.standard_normal(shape), dtype=dtype)
    csr = as_csr(W, dtype=dtype)
    if kind == "iso":
        return CSR(csr.indptr, csr.indices, np.array([0.3], dtype), csr.shape)
    return csr


@pytest.fixture
def always_split(monkeypatch):
    """Split even tiny work, in rows and in columns."""
    monkeypatch.setattr(backend, "SMALL", 0)
    monkeypatch.setattr(groups, "WIDE", 0)
    monkeypatch.setattr(groups, "BLOCK", 8)
    monkeypatch.setattr(groups, "MIN_PIECE", 0)


KINDS = ["scattered", "patterns", "iso", "dense"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_every_width(kind, dtype):
    rng = np.random.default_rng(1)
    weight = random_weight(rng, (37, 53), 0.2, dtype, kind)
    bias = rng.standard_normal(37).astype(dtype)
    for width in [*range(1, 71), 127, 128, 200, 256]:
        Y = tile(rng.standard_normal((53, width)), dtype)
        assert excess(run(weight, Y, bias, CAPPED), weight, Y, bias, CAPPED) <= 1, width


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_split_in_rows_and_blocks_of_columns(kind, dtype, threads, always_split):
    rng = np.random.default_rng(2)
    weight = random_weight(rng, (37, 53), 0.3, dtype, kind)
    bias = rng.standard_normal(37).astype(dtype)
    for width in [*range(1, 40), 64, 65, 100, 129]:
        Y = tile(rng.standard_normal((53, width)), dtype)
        out = run(weight, Y, bias, CAPPED, threads)
        assert excess(out, weight, Y, bias, CAPPED) <= 1, width


def test_blocks_of_columns_where_they_pay():
    rng = np.random.default_rng(3)
    weight = random_weight(rng, (64, 1000), 0.2, np.float32)
    w = BACKEND.prepare(weight)
    assert len(w.rows.blocks.parts) == 4
    Y = tile(rng.standard_normal((1000, 80)), np.float32)
    bias = np.float32(rng.standard_normal(64))
    assert excess(run(weight, Y, bias, RELU), weight, Y, bias, RELU) <= 1
    assert BACKEND.prepare(random_weight(rng, (64, 1000), 0.02, np.float32)).rows.blocks is None
    W = weight.to_dense()
    W[:8] = 0  # rows that share the empty pattern do not change that
    assert BACKEND.prepare(as_csr(W)).rows.blocks is not None
    assert excess(run(as_csr(W), Y, bias, RELU), W, Y, bias, RELU) <= 1
    assert BACKEND.prepare(as_csr(np.tile(W, (8, 1)))).rows.blocks is None


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    width=st.integers(1, 140),
    density=st.floats(0, 1),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from([np.float32, np.float64]),
    tiles=st.integers(1, 3),
    clamp=st.sampled_from([None, RELU, CAPPED]),
    bias=st.sampled_from(["none", "number", "vector"]),
    accumulate=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_matrix(
    rows, columns, width, density, kind, dtype, tiles, clamp, bias, accumulate, seed
):  # fmt: skip
    rng = np.random.default_rng(seed)
    weight = random_weight(rng, (rows, columns), density, dtype, kind)
    shape = {"none": None, "number": (), "vector": (rows,)}[bias]
    b = None if shape is None else np.asarray(rng.standard_normal(shape), dtype)
    Y = tile(rng.standard_normal((tiles, columns, width)), dtype)
    start = rng.standard_normal((tiles, rows, width)).astype(dtype) if accumulate else None
    out = run(weight, Y, b, clamp, start=start)
    assert excess(out, weight, Y, b, clamp, 0 if start is None else start) <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_bias", [False, True])
def test_sums_go_on_from_what_out_holds(kind, dtype, with_bias, always_split):
    rng = np.random.default_rng(8)
    weight = random_weight(rng, (37, 53), 0.3, dtype, kind)
    bias = rng.standard_normal(37).astype(dtype) if with_bias else None
    for width in [*range(1, 40), 64, 65, 100, 129]:
        Y = tile(rng.standard_normal((2, 53, width)), dtype)
        start = rng.standard_normal((2, 37, width)).astype(dtype)
        one, several = (run(weight, Y, bias, CAPPED, threads, start) for threads in (1, 3))
        assert excess(one, weight, Y, bias, CAPPED, start) <= 1, width
        np.testing.assert_array_equal(one, several)


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_rounds_alike_in_all_tiles_and_on_all_threads(kind, always_split):
    rng = np.random.default_rng(9)
    weight = random_weight(rng, (37, 530), 0.3, np.float32, kind)
    Y = tile(rng.standard_normal((3, 530, 64)), np.float32)
    bias = rng.standard_normal(37).astype(np.float32)
    one = run(weight, Y, bias, RELU)
    np.testing.assert_array_equal(one, run(weight, Y, bias, RELU, threads=2))
    moved = tile(np.roll(Y[::-1], 16, axis=2), np.float32)
    np.testing.assert_array_equal(np.roll(one[::-1], 16, axis=2), run(weight, moved, bias, RELU))
    for k in range(3):
        np.testing.assert_array_equal(one[k], run(weight, tile(Y[k], np.float32), bias, RELU))


def test_the_check_notices_an_error_of_a_thousandth():
    rng = np.random.default_rng(4)
    weight = random_weight(rng, (20, 30), 0.3, np.float32)
    Y, bias = tile(rng.standard_normal((30, 16)), np.float32), np.zeros(20, np.float32)
    assert excess(run(weight, Y, bias) * np.float32(1.001), weight, Y, bias) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_grouping_covers_each_row_once(kind):
    weight = random_weight(np.random.default_rng(5), (50, 30), 0.2, np.float32, kind)
    parts = BACKEND.prepare(weight).rows.parts
    targets = np.concatenate([part.table[:, 3:].ravel() for part in parts])
    assert sorted(targets) == list(range(50))
    if kind == "dense":
        assert [(part.rows, len(part.table)) for part in parts] == [(4, 12), (1, 2)]


def test_equal_patterns_are_stored_once():
    W = np.tile(np.eye(16, dtype=np.float32), (8, 1))
    grouped = BACKEND.prepare(as_csr(W)).rows
    assert len(grouped.indices) == 16
    assert [part.rows for part in grouped.parts] == [4]


def test_a_collision_of_hashes_is_found(monkeypatch):
    class Zero:
        def integers(self, *args, dtype):
            return np.zeros(args[2], dtype)

    weight = as_csr(np.eye(12, dtype=np.float32)[np.arange(24) % 12])
    Y = tile(np.arange(12.0).reshape(12, 1), np.float32)
    monkeypatch.setattr(groups.np.random, "default_rng", lambda seed: Zero())
    out = run(weight, Y, np.zeros((), np.float32))
    np.testing.assert_array_equal(out, np.tile(Y, (2, 1)))


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (3, 0)])
def test_an_empty_matrix_gives_the_bias(shape):
    weight = as_csr(sp.csr_array(shape, dtype=np.float32))
    Y = tile(np.ones((shape[1], 9)), np.float32)
    out = run(weight, Y, np.arange(-1.0, shape[0] - 1, dtype=np.float32), RELU)
    np.testing.assert_array_equal(out[:, 0], np.maximum(np.arange(-1, shape[0] - 1), 0))


def test_no_columns():
    weight = as_csr(np.eye(4, dtype=np.float32))
    assert run(weight, tile(np.ones((4, 0)), np.float32), np.zeros(4, np.float32)).shape == (4, 0)


@pytest.mark.parametrize("columns", [1 << 16, (1 << 16) + 1])
def test_indices_of_two_and_four_bytes(columns):
    last = columns - 1
    weight = as_csr(sp.csr_array(([2.0, 3.0], ([0, 0], [0, last])), shape=(1, columns)))
    Y = tile(np.zeros((columns, 3)), weight.dtype)
    Y[0], Y[last] = 1, 10
    assert run(weight, Y, np.zeros((), weight.dtype)).tolist() == [[32, 32, 32]]


@pytest.mark.parametrize("width", [1, 3, 8, 16, 64, 100])
def test_nan_and_infinity_pass_as_in_numpy(width):
    weight = as_csr(np.eye(3, dtype=np.float32))
    Y = tile(np.repeat([[np.nan], [np.inf], [-np.inf]], width, axis=1), np.float32)
    out = run(weight, Y, np.zeros((), np.float32), CAPPED)
    np.testing.assert_array_equal(out, np.minimum(np.maximum(Y, 0), 1.5).astype(np.float32))


def test_unaligned_and_read_only_inputs():
    rng = np.random.default_rng(6)
    weight = random_weight(rng, (9, 13), 0.5, np.float32)
    Y = tile(rng.standard_normal(13 * 33 + 1), np.float32)[1:].reshape(13, 33)
    bias = rng.standard_normal(9).astype(np.float32)
    Y.flags.writeable = bias.flags.writeable = False
    assert excess(run(weight, Y, bias), weight, Y, bias) <= 1


def test_threads_share_a_prepared_weight():
    rng = np.random.default_rng(7)
    weight = random_weight(rng, (300, 200), 0.2, np.float32, "patterns")
    w, bias = BACKEND.prepare(weight), np.zeros((), np.float32)
    Y = [tile(rng.standard_normal((200, 64)), np.float32) for _ in range(8)]

    def repeated(k):
        for _ in range(20):
            out = tile(np.zeros((1, 300, 64)), np.float32)
            BACKEND.affine(w, Y[k][None], bias, out, clamp=RELU, threads=1 + k % 2)
        return out[0]

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(repeated, range(8)))
    assert max(excess(r, weight, y, bias, RELU) for r, y in zip(results, Y, strict=True)) <= 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"Y": np.zeros((1, 4, 2), np.float32)}, ShapeError),
        ({"Y": np.zeros((1, 3, 2))}, DtypeError),
        ({"Y": np.zeros((1, 2, 3), np.float32).transpose(0, 2, 1)}, InputError),
        ({"out": np.zeros((1, 5, 3), np.float32)}, ShapeError),
        ({"out": np.zeros((2, 5, 2), np.float32)}, ShapeError),
        ({"out": np.zeros((5, 2), np.float32)}, ShapeError),
        ({"out": np.zeros((1, 5, 2))}, DtypeError),
        ({"out": np.zeros((1, 2, 5), np.float32).transpose(0, 2, 1)}, InputError),
        ({"out": np.broadcast_to(np.float32(0), (1, 5, 2))}, InputError),
        ({"bias": np.zeros(4, np.float32)}, ShapeError),
        ({"bias": np.zeros(5)}, DtypeError),
    ],
)
def test_arrays_that_compiled_code_must_not_see(change, error):
    arrays = {
        "Y": np.zeros((1, 3, 2), np.float32),
        "bias": np.zeros(5, np.float32),
        "out": np.zeros((1, 5, 2), np.float32),
    }
    w = BACKEND.prepare(as_csr(np.ones((5, 3), np.float32)))
    with pytest.raises(error, match=next(iter(change))):
        BACKEND.affine(w, **(arrays | change))


@pytest.mark.parametrize("Y", [np.zeros(3, np.float32), np.zeros((3, 2), np.float32)])
def test_inputs_without_tiles_are_refused(Y):
    w = BACKEND.prepare(as_csr(np.ones((5, 3), np.float32)))
    with pytest.raises(ShapeError):
        BACKEND.affine(w, Y, None, np.zeros((1, 5, 2), np.float32))


SCRIPT = """
import logging, sys
import numpy as np
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
from gbdnn import Dense
from gbdnn.backends.base import Affine
from gbdnn.backends.fused.backend import FusedBackend
w = FusedBackend().prepare(Dense(np.ones((2, 2), np.float32)))
FusedBackend().prepare(Dense(np.ones((2, 2), np.float32)), trained=True)
X = np.zeros((1, 2), np.float32)
program = FusedBackend().program([Affine(w, X[0])])
program.run(X.T, X.copy().T, width=1, threads=1, check=True)
"""


def test_compiles_once_and_says_so(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def said():
        return subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, check=True, capture_output=True,
            text=True,
        ).stdout  # fmt: skip

    assert said().count("compiling the fused kernels") == 1
    assert said() == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_splits_rows_with_threads_of_its_own(always_split):
    weight, bias = as_csr(np.eye(8, dtype=np.float32)), np.zeros((), np.float32)
    Y = tile(np.ones((8, 16)), np.float32)
    run(weight, Y, bias, threads=2)
    child = os.fork()
    if child == 0:
        right = (run(weight, Y, bias, threads=2) == 1).all()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_width_of_tiles():
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    widths = [BACKEND.width(n, single) for n in (64, 1024, 4096, 65536)]
    assert widths == [512, 128, 64, 32]
    assert [BACKEND.width(n, double) for n in (1024, 65536)] == [64, 16]
