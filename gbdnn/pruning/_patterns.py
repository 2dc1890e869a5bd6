"""Parts of patterns: the largest scores, what is left of a pattern, a pattern with new places.

All cost O(nnz) memory: a place (i, j) of a matrix of out x in is the number i * in + j, and lists
of places ascend, as the entries of a CSR do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.weights.csr import CSR
from gbdnn.weights.csr import places as places_of

__all__ = ["insert", "places_of", "rows_of", "subset", "top"]

Array = npt.NDArray[Any]


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


def insert(weight: CSR, places: Array) -> CSR:
    """Return `weight` with new entries of value 0 at `places`, ascending, all absent so far."""
    index = weight.indptr.dtype
    rows, columns = np.divmod(places, weight.shape[1])
    at = np.searchsorted(places_of(weight), places)
    added = np.zeros(weight.shape[0] + 1, index)
    np.cumsum(np.bincount(rows, minlength=weight.shape[0]), out=added[1:])
    indices = np.insert(weight.indices, at, columns.astype(index))
    values = np.insert(weight.full_values, at, 0)
    return CSR.unchecked(weight.indptr + added, indices, values, weight.shape)
