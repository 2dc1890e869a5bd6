"""Matrices in and out: every format, copies, dtypes, and what is refused."""

from __future__ import annotations

import graphblas
import numpy as np
import pytest
import scipy.sparse as sp
from builders import random_csr, random_dense
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gbdnn.weights.csr
from gbdnn import CSR, as_csr, transpose
from gbdnn.errors import (
    DtypeError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
    SparseFormatError,
)
from gbdnn.weights.graphblas import graphblas as started

FORMATS = ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"]
started()  # before any other test can start GraphBLAS in another mode

small = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=7),
    elements=st.sampled_from([0.0, 0.0, 1.0, -2.5, 1e-30]),
)


def scipy_matrix(dense, layout, kind):
    return getattr(sp, f"{layout}_{kind}")(dense)


def parts_of(matrix):
    """Return all arrays that a scipy matrix holds."""
    found = [getattr(matrix, name, None) for name in ("data", "indices", "indptr", "offsets")]
    found += list(getattr(matrix, "coords", ()))
    return [part for part in found if isinstance(part, np.ndarray)]


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_scipy_format(layout, kind, dtype, rng):
    dense = random_dense(rng, 6, 8, dtype=dtype)
    matrix = scipy_matrix(dense, layout, kind)
    before = [part.copy() for part in parts_of(matrix)]
    csr = as_csr(matrix)
    assert csr.dtype == dtype
    assert csr.shape == (6, 8)
    np.testing.assert_array_equal(csr.to_dense(), dense)
    for part, old in zip(parts_of(matrix), before, strict=True):
        assert part.flags.writeable
        if part.dtype != object:
            np.testing.assert_array_equal(part, old)
            part[...] = 1  # does not reach the CSR
    np.testing.assert_array_equal(csr.to_dense(), dense)


@pytest.mark.parametrize("layout", FORMATS)
@given(dense=small)
def test_scipy_round_trip(layout, dense):
    if layout == "bsr" and 0 in dense.shape:
        return  # scipy has none
    csr = as_csr(sp.coo_array(dense).asformat(layout))
    np.testing.assert_array_equal(csr.to_dense(), dense)
    np.testing.assert_array_equal(csr.to_scipy().toarray(), dense)
    again = as_csr(csr.to_scipy())
    for name in ("indptr", "indices"):
        np.testing.assert_array_equal(getattr(again, name), getattr(csr, name))


@given(dense=small)
def test_dense_round_trip(dense):
    csr = as_csr(dense)
    assert csr.nnz == np.count_nonzero(dense)
    np.testing.assert_array_equal(csr.to_dense(), dense)
    wanted = np.count_nonzero(dense) / dense.size if dense.size else 0
    assert csr.density == wanted


@given(dense=small)
def test_graphblas_round_trip(dense):
    csr = as_csr(dense, dtype=np.float32)
    if 0 in csr.shape:
        return  # GraphBLAS can, to_dense of python-graphblas cannot
    matrix = csr.to_graphblas()
    assert matrix.dtype == graphblas.dtypes.FP32
    np.testing.assert_array_equal(matrix.to_dense(0), dense.astype(np.float32))
    np.testing.assert_array_equal(as_csr(matrix).to_dense(), dense.astype(np.float32))


@given(dense=small)
def test_transpose(dense):
    csr = as_csr(dense)
    flipped, order = transpose(csr)
    np.testing.assert_array_equal(flipped.to_dense(), dense.T)
    np.testing.assert_array_equal(flipped.values, csr.values[order])
    CSR(flipped.indptr, flipped.indices, flipped.values, flipped.shape)  # canonical
    np.testing.assert_array_equal(np.sort(order), np.arange(csr.nnz))


def test_transpose_of_new_values(rng):
    csr = random_csr(rng, 7, 5)
    flipped, order = transpose(csr)
    values = rng.standard_normal(csr.nnz).astype(np.float32)
    changed = CSR(csr.indptr, csr.indices, values, csr.shape)
    follows = CSR(flipped.indptr, flipped.indices, values[order], flipped.shape)
    np.testing.assert_array_equal(follows.to_dense(), changed.to_dense().T)


@pytest.mark.parametrize("dtype", ["FP32", "FP64", "INT8", "UINT64", "BOOL"])
def test_graphblas_dtypes(dtype):
    matrix = graphblas.Matrix.from_coo([0, 2], [1, 0], [1, 1], dtype=dtype, nrows=3, ncols=2)
    for given_matrix in (matrix, matrix.dup()):
        csr = as_csr(given_matrix)
        np.testing.assert_array_equal(csr.to_dense(), [[0, 1], [0, 0], [1, 0]])
        assert csr.dtype == (np.float64 if dtype == "FP64" else np.float32)
    np.testing.assert_array_equal(as_csr(matrix.T).to_dense(), [[0, 0, 1], [1, 0, 0]])


def test_graphblas_keeps_no_link():
    matrix = graphblas.Matrix.from_coo([0, 1], [0, 1], [1.0, 2.0])
    csr = as_csr(matrix)
    matrix[0, 0] = 9
    np.testing.assert_array_equal(csr.to_dense(), [[1, 0], [0, 2]])
    out = csr.to_graphblas()
    out[0, 0] = 7
    out.wait("materialize")
    np.testing.assert_array_equal(csr.to_dense(), [[1, 0], [0, 2]])


def test_iso():
    csr = CSR(np.array([0, 1, 3]), np.array([1, 0, 2]), np.array([0.5], np.float32), (2, 3))
    wanted = [[0, 0.5, 0], [0.5, 0, 0.5]]
    assert csr.iso
    assert csr.nnz == 3
    assert csr.full_values.strides == (0,)
    assert "iso" in repr(csr)
    np.testing.assert_array_equal(csr.to_dense(), wanted)
    np.testing.assert_array_equal(csr.to_scipy().toarray(), wanted)
    np.testing.assert_array_equal(csr.to_graphblas().to_dense(0), wanted)
    assert csr.to_graphblas().ss.is_iso
    assert csr.astype(np.float64).iso
    flipped, order = transpose(csr)
    assert flipped.iso
    assert len(order) == 3
    np.testing.assert_array_equal(flipped.to_dense(), np.transpose(wanted))
    single = CSR(np.array([0, 1]), np.array([0]), np.array([2.0]), (1, 1))
    assert not single.iso
    nothing = CSR(np.array([0, 0]), np.array([], int), np.array([2.0]), (1, 1))
    np.testing.assert_array_equal(nothing.to_dense(), [[0]])


@pytest.mark.parametrize("given", ["f2", "f4", "f8", ">f4", ">f8", "longdouble", "i1", "u8", "?"])
@pytest.mark.parametrize("wanted", [None, "f4", "f8"])
def test_dtype_rules(given, wanted):
    csr = as_csr(np.eye(3).astype(given), dtype=wanted)
    assert csr.dtype == np.dtype(wanted or ("f8" if given in ("f8", ">f8", "longdouble") else "f4"))
    np.testing.assert_array_equal(csr.to_dense(), np.eye(3))


def test_a_csr_is_returned_as_it_is(rng):
    csr = random_csr(rng, 4, 4)
    assert as_csr(csr) is csr
    assert as_csr(csr, dtype="float32") is csr
    other = as_csr(csr, dtype=np.float64)
    assert np.shares_memory(other.indices, csr.indices)
    np.testing.assert_array_equal(other.to_dense(), csr.to_dense())


def test_parts_are_read_only(rng):
    indptr, indices, values = np.array([0, 1]), np.array([0]), np.array([1.0])
    for csr in (random_csr(rng, 4, 4), CSR(indptr, indices, values, (1, 1))):
        for part in (csr.indptr, csr.indices, csr.values, csr.full_values):
            assert not part.flags.writeable
    assert values.flags.writeable  # the caller's own view stays as it was


def test_outputs_are_copies(rng):
    csr = random_csr(rng, 4, 4)
    before = csr.to_dense()
    matrix = csr.to_scipy()
    matrix.data[:], matrix.indices[:] = 9, 0
    np.testing.assert_array_equal(csr.to_dense(), before)


def test_stored_zeros_stay_and_order_is_mended():
    matrix = sp.csr_array(([1.0, 0.0, 3.0], [2, 0, 1], [0, 2, 3]), shape=(2, 3))
    csr = as_csr(matrix)
    assert csr.nnz == 3
    np.testing.assert_array_equal(csr.indices, [0, 2, 1])
    np.testing.assert_array_equal(csr.values, [0, 1, 3])
    np.testing.assert_array_equal(matrix.indices, [2, 0, 1])


def test_slack_at_the_end_is_cut():
    matrix = sp.csr_array(np.eye(2))
    matrix.indices, matrix.data = np.array([0, 1, 99]), np.array([1.0, 1.0, np.nan])
    assert as_csr(matrix).values.shape == (2,)


def test_coo_adds_and_csr_refuses_repetition():
    coo = sp.coo_array(([1.0, 2.0], ([0, 0], [1, 1])), shape=(1, 2))
    np.testing.assert_array_equal(as_csr(coo).to_dense(), [[0, 3]])
    csr = sp.csr_array(([1.0, 2.0], [1, 1], [0, 2]), shape=(1, 2))
    with pytest.raises(SparseFormatError, match=r"sum_duplicates"):
        as_csr(csr)


def test_diagonals_beyond_the_matrix_hold_nothing():
    matrix = sp.dia_array((np.ones((3, 3)), [0, 5, -2]), shape=(3, 3))
    np.testing.assert_array_equal(as_csr(matrix).to_dense(), matrix.toarray())


@pytest.mark.parametrize("given", [np.int8, np.uint8, np.uint16, np.uint64, np.int64])
def test_index_dtypes(given, rng):
    dense = random_dense(rng, 6, 8)
    for layout in ("csr", "csc"):
        matrix = scipy_matrix(dense, layout, "array")
        matrix.indices, matrix.indptr = matrix.indices.astype(given), matrix.indptr.astype(given)
        csr = as_csr(matrix)
        assert csr.indices.dtype == csr.indptr.dtype == np.int32
        np.testing.assert_array_equal(csr.to_dense(), dense)


def test_wide_matrices_get_wide_indices():
    matrix = sp.coo_array(([1.0], ([0], [2**40])), shape=(2, 2**41))
    csr = as_csr(matrix)
    assert csr.indices.dtype == csr.indptr.dtype == np.int64
    assert csr.indices.tolist() == [2**40]
    assert as_csr(csr.to_graphblas()).indices.tolist() == [2**40]


def test_making_dense_needs_permission():
    wide = as_csr(sp.coo_array(([1.0], ([0], [1])), shape=(2**14, 2**14)))
    with pytest.raises(MemoryBudgetError, match="2,147,483,648 bytes"):
        wide.to_dense()


def test_allow_dense(monkeypatch):
    monkeypatch.setattr(gbdnn.weights.csr, "DENSE_LIMIT", 8)
    with pytest.raises(MemoryBudgetError, match="allow_dense=True"):
        as_csr(np.eye(2)).to_dense()
    np.testing.assert_array_equal(as_csr(np.eye(2)).to_dense(allow_dense=True), np.eye(2))


@pytest.mark.parametrize(
    ("matrix", "error"),
    [
        (np.ones(3), ShapeError),
        (np.ones((1, 1, 1)), ShapeError),
        (3, ShapeError),
        (sp.coo_array(np.ones(3)), ShapeError),
        (graphblas.Vector.from_dense([1.0, 2.0]), ShapeError),
        (np.ones((2, 2), complex), DtypeError),
        (sp.csr_array(np.ones((2, 2), complex)), DtypeError),
        (sp.dok_array((2, 2), dtype=complex), DtypeError),
        (sp.lil_array((2, 2), dtype=complex), DtypeError),
        (graphblas.Matrix("FC64", 2, 2), DtypeError),
        ([["x"]], DtypeError),
        (object(), DtypeError),
        ([[1], [2, 3]], DtypeError),
        (np.zeros((2, 2), [("a", "f4")]), DtypeError),
        ([[np.nan]], NonFiniteError),
        (sp.lil_array([[np.inf]]), NonFiniteError),
        (graphblas.Matrix.from_coo([0], [0], [np.nan]), NonFiniteError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_refuses(matrix, error):
    with pytest.raises(error, match=r"^a thing: expected .*, got "):
        as_csr(matrix, name="a thing")


def test_values_that_do_not_fit():
    with pytest.raises(NonFiniteError, match="do not fit into float32"):
        as_csr([[1e300]], dtype=np.float32)
    assert as_csr([[1e300]]).values == 1e300
    with pytest.raises(NonFiniteError, match="do not fit into float32"):
        as_csr([[1e300]]).astype(np.float32)


def test_unchecked_values_are_checked_later():
    csr = as_csr(sp.csr_array([[np.nan, 1.0]]), finite=False)
    assert csr.nnz == 2
    with pytest.raises(NonFiniteError, match=r"^X: .*1 NaN or infinite, the first at index \(0,\)"):
        as_csr(csr, name="X")
    assert as_csr(csr, dtype=np.float32, finite=False).nnz == 2


@pytest.mark.parametrize("dtype", ["float16", int, complex, "nonsense", object])
def test_refuses_dtypes(dtype, rng):
    for matrix in (np.eye(2), sp.csr_array(np.eye(2)), random_csr(rng, 2, 2)):
        with pytest.raises(DtypeError, match="float32 or float64"):
            as_csr(matrix, dtype=dtype)


def build(indptr=(0, 1, 2), indices=(0, 1), values=(1.0, 2.0), shape=(2, 2), index=np.int64):
    return CSR(np.array(indptr, index), np.array(indices, index), np.array(values), shape)


def test_build_is_right():
    np.testing.assert_array_equal(build().to_dense(), [[1, 0], [0, 2]])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"indptr": (0, 1)}, SparseFormatError),
        ({"indptr": (0, 1, 2, 2)}, SparseFormatError),
        ({"indptr": (1, 1, 2)}, SparseFormatError),
        ({"indptr": (0, 3, 2)}, SparseFormatError),
        ({"indptr": (0, 1, 3)}, SparseFormatError),
        ({"indptr": (0, -1, 2)}, SparseFormatError),
        ({"indptr": (0, 1, 2**62)}, SparseFormatError),
        ({"indptr": [[0, 1, 2]]}, SparseFormatError),
        ({"indices": (0, 2)}, SparseFormatError),
        ({"indices": (-1, 1)}, SparseFormatError),
        ({"indices": (0,)}, SparseFormatError),
        ({"indices": (0, 1, 1)}, SparseFormatError),
        ({"indptr": (0, 2, 2), "indices": (1, 0)}, SparseFormatError),
        ({"indptr": (0, 2, 2), "indices": (1, 1)}, SparseFormatError),
        ({"values": (1.0, 2.0, 3.0)}, SparseFormatError),
        ({"values": ()}, SparseFormatError),
        ({"values": [[[1.0]], [[2.0]]]}, SparseFormatError),
        ({"values": (1.0, np.nan)}, NonFiniteError),
        ({"values": (1, 2)}, DtypeError),
        ({"index": np.int16}, DtypeError),
        ({"index": np.uint64}, DtypeError),
        ({"index": float}, SparseFormatError),
        ({"shape": (2, 1)}, SparseFormatError),
        ({"shape": (3, 2)}, SparseFormatError),
        ({"shape": (-2, 2)}, ShapeError),
        ({"shape": (2.0, 2)}, ShapeError),
        ({"shape": (2, 2, 2)}, ShapeError),
        ({"shape": 2}, ShapeError),
    ],
)
def test_csr_refuses_contradictions(change, error):
    with pytest.raises(error, match=r"^CSR.*: expected .*, got "):
        build(**change)


def test_csr_refuses_lists():
    with pytest.raises(SparseFormatError, match="list"):
        CSR([0, 1], np.array([0]), np.array([1.0]), (1, 1))


def test_a_csr_cannot_be_changed_through_the_callers_arrays():
    indptr, indices = np.array([0, 1, 2], np.int32), np.array([0, 1], np.int32)
    values = np.ones(2, np.float32)
    csr = CSR(indptr, indices, values, (2, 2))
    indptr[:], indices[:], values[:] = 0, 1 << 30, np.nan
    assert np.array_equal(csr.to_dense(), np.eye(2))
    with pytest.raises(ValueError, match="read-only"):
        csr.indices[0] = 5
