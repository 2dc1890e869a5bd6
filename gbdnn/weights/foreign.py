"""Matrices that come from outside: looked at before compiled code reads them.

scipy and GraphBLAS use indices as addresses and lengths as the ends of loops without asking, and
every attribute of a scipy matrix can be replaced after it was built. Each format is therefore
checked part by part, then converted to CSR, and the result is checked again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.errors import (
    DtypeError,
    GbdnnError,
    InputError,
    MemoryBudgetError,
    ShapeError,
    SparseFormatError,
)
from gbdnn.machine import available_bytes

__all__ = [
    "Parts",
    "check_compressed",
    "check_real",
    "check_shape",
    "from_graphblas",
    "from_scipy",
    "from_torch",
    "numeric_array",
]

Array = npt.NDArray[Any]
Parts = tuple[Array, Array, Array, tuple[int, int]]  # indptr, indices, values, shape


def from_scipy(matrix: Any, name: str) -> Parts:
    """Return the CSR parts of a scipy matrix of any format; they may share its memory.

    Indices are in range, but neither sorted nor free of repetition.
    """
    if matrix.ndim != 2:
        raise ShapeError(name, "2 dimensions", f"shape {matrix.shape}")
    try:
        shape = check_shape(name, matrix.shape)
        check = _CHECKS[matrix.format]
        csr = check(matrix, name, shape).tocsr(copy=False)
        check_compressed(name, csr.indptr, csr.indices, csr.data, shape)
    except GbdnnError:
        raise
    except MemoryError as error:
        raise _too_large(name, shape) from error
    except (AttributeError, IndexError, OverflowError, TypeError, ValueError) as error:
        raise SparseFormatError(name, f"a consistent {matrix.format} matrix", str(error)) from None
    nnz = int(csr.indptr[-1])
    return csr.indptr, csr.indices[:nnz], csr.data[:nnz], shape


def from_graphblas(matrix: Any, name: str) -> Parts:
    """Return the CSR parts of a `graphblas.Matrix` (copies)."""
    from gbdnn.weights.graphblas import graphblas

    if getattr(matrix, "ndim", None) != 2 or not hasattr(matrix, "to_csr"):
        raise ShapeError(name, "a graphblas.Matrix", type(matrix).__name__)
    check_real(name, matrix.dtype.np_type)
    shape = (int(matrix.nrows), int(matrix.ncols))
    _check_room(name, shape)
    try:
        indptr, indices, values = matrix.to_csr()
    except graphblas().exceptions.OutOfMemory as error:
        raise _too_large(name, shape) from error
    return indptr.astype(np.int64), indices.astype(np.int64), values, shape


def from_torch(values: Any, name: str) -> Any:
    """Return a torch tensor as an ndarray or scipy matrix of its memory; others as they are."""
    torch: Any = sys.modules.get("torch")
    kind: Any = getattr(torch, "Tensor", ())
    if not isinstance(values, kind):
        return values
    import scipy.sparse as sp

    try:
        tensor = values.detach().cpu()
        if tensor.dtype in (torch.bfloat16, torch.float16):  # numpy or scipy have no such type
            tensor = tensor.float()
        if tensor.layout is torch.strided:
            return tensor.numpy()
        if tensor.layout is torch.sparse_csr:
            parts = (tensor.values(), tensor.col_indices(), tensor.crow_indices())
            return sp.csr_array(tuple(part.numpy() for part in parts), shape=tuple(tensor.shape))
        tensor = tensor.to_sparse().coalesce()
        places = tuple(tensor.indices().numpy())
        return sp.coo_array((tensor.values().numpy(), places), shape=tuple(tensor.shape))
    except (RuntimeError, TypeError, ValueError) as error:
        raise DtypeError(name, "a tensor of real numbers", str(error)[:200]) from None


def check_compressed(
    name: str, indptr: Any, indices: Any, values: Any, shape: tuple[int, ...], *, iso: bool = False
) -> None:
    """Check that (indptr, indices, values) describe a matrix of `shape`; order is not looked at.

    `values` may be longer than needed, as scipy allows, and has 3 dimensions in BSR.
    """

    def refuse(expected: str, got: str) -> None:
        raise SparseFormatError(name, expected, got, "The matrix is damaged: build it again.")

    _check_indices(name, "indptr", indptr)
    _check_indices(name, "indices", indices)
    if not isinstance(values, np.ndarray) or values.ndim not in (1, 3):
        refuse("data as a vector", _describe(values))
    rows, columns = shape
    if len(indptr) != rows + 1:
        refuse(f"indptr of length {rows + 1} for {rows} rows", f"length {len(indptr)}")
    if indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        refuse("indptr that starts at 0 and never falls", "one that does not")
    nnz = int(indptr[-1])
    one = iso and len(values) == 1
    if len(indices) < nnz or (len(values) < nnz and not one):
        refuse(f"{nnz} indices and data values", f"{len(indices)} and {len(values)}")
    _check_range(name, "column indices", indices[:nnz], columns)


def check_shape(name: str, shape: Any) -> tuple[int, int]:
    """Return `shape` as two integers that are not negative, else raise `ShapeError`."""
    try:
        rows, columns = (index(size) for size in shape)
    except (TypeError, ValueError):
        raise ShapeError(name, "a shape of two integers", repr(shape)) from None
    if rows < 0 or columns < 0:
        raise ShapeError(name, "a shape without negative numbers", repr(shape))
    return rows, columns


def numeric_array(values: Any, name: str) -> Array:
    """Return `values` as an ndarray of real numbers or bools; no copy if it already is one."""
    if type(values) is np.ndarray:  # the usual case first: it counts for one row
        check_real(name, values.dtype)
        return values
    if np.ma.isMaskedArray(values) and np.ma.is_masked(values):
        raise InputError(name, "every value given", "a masked array", "Fill the masked values.")
    values = from_torch(values, name)
    try:
        array = np.asarray(values)
    except (RuntimeError, TypeError, ValueError) as error:  # from somebody's __array__
        raise DtypeError(
            name, "an array of real numbers", f"{type(values).__name__} ({error})"
        ) from None
    check_real(name, array.dtype)
    return array


def check_real(name: str, dtype: np.dtype[Any]) -> None:
    """Raise `DtypeError` unless `dtype` is bool, integer or real floating."""
    if dtype.kind not in "biuf":
        raise DtypeError(
            name, "real numbers (float32, float64; bool, integers and float16 are converted)",
            f"dtype {dtype}", "Convert with .astype(numpy.float32).",
        )  # fmt: skip


# -- one check for each format of scipy; returns the matrix to convert -----------------------------


def _check_csr(matrix: Any, name: str, shape: tuple[int, int]) -> Any:
    check_compressed(name, matrix.indptr, matrix.indices, _data(matrix, name, 1), shape)
    return matrix


def _check_csc(matrix: Any, name: str, shape: tuple[int, int]) -> Any:
    check_compressed(name, matrix.indptr, matrix.indices, _data(matrix, name, 1), shape[::-1])
    _check_room(name, shape)
    return matrix


def _check_bsr(matrix: Any, name: str, shape: tuple[int, int]) -> Any:
    data = _data(matrix, name, 3)
    height, width = data.shape[1:]
    if min(height, width) < 1 or shape[0] % height or shape[1] % width:
        raise SparseFormatError(name, "blocks that divide the shape", f"blocks {data.shape[1:]}")
    blocks = (shape[0] // height, shape[1] // width)
    check_compressed(name, matrix.indptr, matrix.indices, data, blocks)
    return matrix


def _check_coo(matrix: Any, name: str, shape: tuple[int, int]) -> Any:
    data = _data(matrix, name, 1)
    row, column = matrix.coords
    for label, part, size in (("row", row, shape[0]), ("col", column, shape[1])):
        _check_indices(name, label, part)
        _check_range(name, f"{label} indices", part, size)
    if not len(row) == len(column) == len(data):
        got = f"{len(row)}, {len(column)}, {len(data)}"
        raise SparseFormatError(name, "row, col and data of one length", got)
    _check_room(name, shape)
    return matrix


def _check_dia(matrix: Any, name: str, shape: tuple[int, int]) -> Any:
    data, offsets = _data(matrix, name, 2), matrix.offsets
    _check_indices(name, "offsets", offsets)
    if len(offsets) != len(data):
        raise SparseFormatError(name, f"{len(data)} offsets", str(len(offsets)))
    _check_room(name, shape)
    inside = (offsets > -shape[0]) & (offsets < shape[1])  # others overflow in compiled code
    return type(matrix)((data[inside], offsets[inside]), shape=shape)


def _check_lil(matrix: Any, name: str, shape: tuple[int, int]) -> Any:
    check_real(name, matrix.dtype)
    for label, lists in (("rows", matrix.rows), ("data", matrix.data)):
        if not isinstance(lists, np.ndarray) or lists.shape != (shape[0],):
            raise SparseFormatError(name, f"{label} with {shape[0]} lists", _describe(lists))
    if any(map(np.not_equal, map(len, matrix.rows), map(len, matrix.data))):
        raise SparseFormatError(name, "as many data as rows in each list", "different lengths")
    return matrix


def _check_dok(matrix: Any, name: str, shape: tuple[int, int]) -> Any:
    check_real(name, matrix.dtype)
    keys = np.array(list(matrix.keys()))
    if len(keys) and (keys.ndim != 2 or keys.shape[1] != 2 or keys.dtype.kind not in "iu"):
        raise SparseFormatError(name, "keys of two integers", _describe(keys))
    _check_room(name, shape)
    return matrix


_CHECKS: dict[str, Callable[[Any, str, tuple[int, int]], Any]] = {
    "bsr": _check_bsr,
    "coo": _check_coo,
    "csc": _check_csc,
    "csr": _check_csr,
    "dia": _check_dia,
    "dok": _check_dok,
    "lil": _check_lil,
}


def _data(matrix: Any, name: str, dimensions: int) -> Array:
    data = matrix.data
    if not isinstance(data, np.ndarray) or data.ndim != dimensions:
        raise SparseFormatError(name, f"data with {dimensions} dimensions", _describe(data))
    return numeric_array(data, name)


def _check_indices(name: str, label: str, part: Any) -> None:
    if not isinstance(part, np.ndarray) or part.ndim != 1 or part.dtype.kind not in "iu":
        expected = f"{label} as a vector of integers"
        raise SparseFormatError(name, expected, _describe(part), "Build the matrix again.")


def _check_range(name: str, label: str, part: Array, size: int) -> None:
    if len(part) and (int(part.min()) < 0 or int(part.max()) >= size):
        got = f"{part.min()} to {part.max()}"
        fix = "The matrix is damaged: build it again."
        raise SparseFormatError(name, f"{label} from 0 to {size - 1}", got, fix)


def _check_room(name: str, shape: tuple[int, int]) -> None:
    """A row costs 8 bytes of CSR even if it is empty."""
    if shape[0] > 1 << 20 and 8 * shape[0] > available_bytes():
        raise _too_large(name, shape)


def _too_large(name: str, shape: tuple[int, int]) -> MemoryBudgetError:
    return MemoryBudgetError(
        name,
        f"a matrix that fits into the {available_bytes():,} bytes that are free",
        f"shape {shape[0]} x {shape[1]}, of which the rows alone take {8 * shape[0]:,} bytes",
        "Leave out rows that are empty.",
    )


def _describe(part: Any) -> str:
    if isinstance(part, np.ndarray):
        return f"{part.dtype} of shape {part.shape}"
    return type(part).__name__
