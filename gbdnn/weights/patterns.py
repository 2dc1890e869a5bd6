"""Patterns of CSR matrices: transposed, compared, cut and extended, all in O(nnz) memory.

A place (i, j) of a matrix of out x in is the number i * in + j; lists of places ascend, as the
entries of a CSR do.
"""

from __future__ import annotations

import numpy as np

from gbdnn.errors import ShapeError
from gbdnn.types import Array
from gbdnn.weights.csr import CSR, index_dtype

__all__ = [
    "full_pattern", "insert", "places", "ranges", "realign", "row_sums", "rows_of", "subset", "top",
    "transpose",
]  # fmt: skip


def transpose(matrix: CSR) -> tuple[CSR, Array]:
    """Return the transpose and the order of its values: ``T.values == matrix.values[order]``.

    A training step changes `values` only; with `order` the transpose follows without a new sort.
    `order` is an integer array of shape (nnz,). O(nnz + rows + columns).
    """
    import scipy.sparse as sp

    position = np.arange(matrix.nnz, dtype=matrix.indices.dtype)
    rows, columns = matrix.shape
    flipped = sp.csr_array((position, matrix.indices, matrix.indptr), shape=matrix.shape).tocsc()
    order = flipped.data
    values = matrix.values if matrix.iso else matrix.values[order]
    index = matrix.indices.dtype
    indptr, indices = flipped.indptr.astype(index), flipped.indices.astype(index)
    return CSR.unchecked(indptr, indices, values, (columns, rows)), order


def full_pattern(array: Array) -> CSR:
    """Return a matrix, shape (rows, columns), as a CSR that stores every place, zeros too."""
    rows, columns = array.shape
    index = index_dtype(rows * columns, array.shape)
    indptr = np.arange(rows + 1, dtype=index) * columns
    indices = np.tile(np.arange(columns, dtype=index), rows)
    return CSR.unchecked(indptr, indices, array.reshape(-1).copy(), (rows, columns))


def realign(values: Array, old: CSR, new: CSR, *, fill: float = 0.0) -> Array:
    """Carry a vector that belongs to one pattern over to another.

    Parameters
    ----------
    values : ndarray, shape (old.nnz,)
        One number for each entry of `old`, for example an optimizer's state.
    old, new : CSR
        Patterns of the same shape; their values are not used.
    fill : float
        What entries get that only `new` has.

    Returns
    -------
    ndarray, shape (new.nnz,), of the dtype of `values`

    Raises
    ------
    ShapeError
        If the shapes or lengths do not fit.
    """
    if old.shape != new.shape:
        raise ShapeError("new", f"the shape {old.shape} of the old pattern", f"{new.shape}")
    if values.shape != (old.nnz,):
        raise ShapeError("values", f"shape ({old.nnz},)", f"shape {values.shape}")
    carried = np.full(new.nnz, fill, values.dtype)
    if old.nnz and new.nnz:
        # Both lists of places ascend, row by row: one binary search in the other finds them.
        there, wanted = places(old), places(new)
        at = np.minimum(np.searchsorted(there, wanted), old.nnz - 1)
        same = there[at] == wanted
        carried[same] = values[at[same]]
    return carried


def ranges(begin: Array, lengths: Array) -> Array:
    """Return begin[0], begin[0] + 1, ... (lengths[0] of them), begin[1], ..."""
    before = np.cumsum(lengths) - lengths
    result: Array = np.arange(int(lengths.sum())) + np.repeat(begin - before, lengths)
    return result


def places(matrix: CSR) -> Array:
    """Return row * columns + column of each entry, int64, ascending."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    rows *= matrix.shape[1]
    rows += matrix.indices
    return rows


def top(scores: Array, count: int) -> Array:
    """Return a mask of the `count` largest scores; of equal ones the first are taken. O(n)."""
    n = len(scores)
    if count >= n:
        return np.ones(n, bool)
    if count <= 0:
        return np.zeros(n, bool)
    smallest = np.partition(scores, n - count)[n - count]
    mask: Array = scores > smallest
    mask[np.flatnonzero(scores == smallest)[: count - np.count_nonzero(mask)]] = True
    return mask


def rows_of(pattern: CSR) -> Array:
    """Return the row of each entry, int64."""
    return np.repeat(np.arange(pattern.shape[0], dtype=np.int64), np.diff(pattern.indptr))


def subset(weight: CSR, keep: Array) -> CSR:
    """Return the entries where the mask `keep`, shape (nnz,), is true. Iso-valued ones stay so."""
    before = np.zeros(weight.nnz + 1, weight.indptr.dtype)
    np.cumsum(keep, out=before[1:])
    values = weight.values if weight.iso else weight.values[keep]
    return CSR.unchecked(before[weight.indptr], weight.indices[keep], values, weight.shape)


def insert(weight: CSR, new: Array) -> CSR:
    """Return `weight` with entries of value 0 at the places `new`, ascending, absent so far."""
    index = weight.indptr.dtype
    rows, columns = np.divmod(new, weight.shape[1])
    at = np.searchsorted(places(weight), new)
    added = np.zeros(weight.shape[0] + 1, index)
    np.cumsum(np.bincount(rows, minlength=weight.shape[0]), out=added[1:])
    indices = np.insert(weight.indices, at, columns.astype(index))
    values = np.insert(weight.full_values, at, 0)
    return CSR.unchecked(weight.indptr + added, indices, values, weight.shape)


def row_sums(pattern: CSR, values: Array) -> tuple[Array, int]:
    """Return the sums of `values`, shape (nnz,), over each row in float64, and the longest row."""
    lengths = np.diff(pattern.indptr)
    longest = int(lengths.max(initial=0))
    if not values.strides[0]:  # one value for all
        return lengths * float(values[0]), longest
    return np.bincount(rows_of(pattern), values, minlength=len(lengths)), longest
