"""Patterns of CSR matrices: transposed, compared, cut and extended, all in O(nnz) memory.

A place (i, j) of a matrix of out x in is the number i * in + j; lists of places ascend, as the
entries of a CSR do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gbdnn.errors import ShapeError
from gbdnn.types import Array
from gbdnn.weights.csr import CSR, index_dtype

__all__ = [
    "common", "every_place", "exchange", "full_pattern", "places", "ranges", "realign", "row_sums",
    "rows_of", "subset", "top", "transpose",
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
    return every_place(array.shape[0], array.shape[1], array.reshape(-1).copy())


def every_place(rows: int, columns: int, values: Array) -> CSR:
    """Return a CSR that stores every place, with these values."""
    index = index_dtype(rows * columns, (rows, columns))
    indptr = np.arange(rows + 1, dtype=index) * columns
    indices = np.tile(np.arange(columns, dtype=index), rows)
    return CSR.unchecked(indptr, indices, values, (rows, columns))


def common(old: CSR, new: CSR) -> tuple[Array, Array]:
    """Return which entries two patterns of the same shape have in common.

    Returns
    -------
    mine, theirs : ndarray
        Ascending numbers of these entries among those of `old` and of `new`. O(nnz).

    Raises
    ------
    ShapeError
        If the shapes differ.
    """
    if old.shape != new.shape:
        raise ShapeError("new", f"the shape {old.shape} of the old pattern", f"{new.shape}")
    kind = index_dtype(old.shape[0] * old.shape[1], old.shape)  # half the bytes, where they fit
    both = np.concatenate([places(old, kind), places(new, kind)])
    order = np.argsort(both, kind="stable")  # merges two lists that ascend
    both = both.take(order)
    twice = np.flatnonzero(both[1:] == both[:-1])
    return order.take(twice), order.take(twice + 1) - old.nnz


def realign(
    values: Array,
    old: CSR,
    new: CSR,
    *,
    fill: float = 0.0,
    pairs: tuple[Array, Array] | None = None,
) -> Array:
    """Carry a vector that belongs to one pattern over to another.

    Parameters
    ----------
    values : ndarray, shape (old.nnz,)
        One number for each entry of `old`, for example an optimizer's state.
    old, new : CSR
        Patterns of the same shape; their values are not used.
    fill : float
        What entries get that only `new` has.
    pairs : tuple of ndarray, optional
        ``common(old, new)``, if there are several vectors.

    Returns
    -------
    ndarray, shape (new.nnz,), of the dtype of `values`

    Raises
    ------
    ShapeError
        If the shapes or lengths do not fit.
    """
    if values.shape != (old.nnz,):
        raise ShapeError("values", f"shape ({old.nnz},)", f"shape {values.shape}")
    mine, theirs = common(old, new) if pairs is None else pairs
    carried = np.full(new.nnz, fill, values.dtype)
    carried[theirs] = values.take(mine)
    return carried


def ranges(begin: Array, lengths: Array) -> Array:
    """Return begin[0], begin[0] + 1, ... (lengths[0] of them), begin[1], ..."""
    before = np.cumsum(lengths) - lengths
    result: Array = np.arange(int(lengths.sum())) + np.repeat(begin - before, lengths)
    return result


def places(matrix: CSR, dtype: npt.DTypeLike = np.int64) -> Array:
    """Return row * columns + column of each entry, ascending."""
    starts = np.arange(matrix.shape[0], dtype=dtype) * matrix.shape[1]
    found = np.repeat(starts.astype(dtype, copy=False), np.diff(matrix.indptr))
    found += matrix.indices.astype(dtype, copy=False)
    return found


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
    kept = np.flatnonzero(keep)
    indptr = np.searchsorted(kept, weight.indptr).astype(weight.indptr.dtype)
    values = weight.values if weight.iso else weight.values.take(kept)
    return CSR.unchecked(indptr, weight.indices.take(kept), values, weight.shape)


def exchange(weight: CSR, keep: Array, new: Array) -> CSR:
    """Return `subset` with entries of value 0 at the places `new`, ascending, absent so far."""
    kept = subset(weight, keep)
    if not len(new):
        return kept
    index = weight.indptr.dtype
    rows = new // weight.shape[1]
    added = np.zeros(weight.shape[0] + 1, index)
    np.cumsum(np.bincount(rows, minlength=weight.shape[0]), out=added[1:])
    at = np.searchsorted(places(kept), new) + np.arange(len(new))
    older = np.ones(kept.nnz + len(new), bool)
    older[at] = False
    older = np.flatnonzero(older)
    indices = np.empty(len(older) + len(at), index)
    values = np.zeros(len(indices), weight.dtype)
    indices[at], indices[older] = new - rows * weight.shape[1], kept.indices
    values[older] = kept.full_values
    return CSR.unchecked(kept.indptr + added, indices, values, weight.shape)


def row_sums(pattern: CSR, values: Array) -> tuple[Array, int]:
    """Return the sums of `values`, shape (nnz,), over each row in float64, and the longest row."""
    lengths = np.diff(pattern.indptr)
    longest = int(lengths.max(initial=0))
    if not values.strides[0]:  # one value for all
        return lengths * float(values[0]), longest
    return np.bincount(rows_of(pattern), values, minlength=len(lengths)), longest
