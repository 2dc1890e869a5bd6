"""Rows of a weight that are alike: found by hashing, then compared."""

from __future__ import annotations

import numpy as np

from gbdnn.types import Array
from gbdnn.weights.csr import CSR
from gbdnn.weights.patterns import ranges

__all__ = ["equal_rows"]


def equal_rows(weight: CSR, labels: Array | None = None) -> Array:
    """Return for each row the first row that equals it, itself if there is none before.

    Parameters
    ----------
    weight : CSR
    labels : ndarray, shape (rows,) or (), optional
        Rows are equal if they have the same columns, values and label; default only the columns
        count. Numbers are equal if ``==`` says so; a NaN equals nothing.

    Returns
    -------
    ndarray of int64, shape (rows,)
        O(nnz + rows log rows): a row's hash is the sum of random words, one for each column.
    """
    indptr = weight.indptr.astype(np.int64)
    lengths, begin = np.diff(indptr), indptr[:-1]
    indices = weight.indices[: weight.nnz]
    values = None if labels is None or weight.iso else weight.values
    terms = _words(indices, weight.shape[1])
    if values is not None:
        terms *= 2 * _bits(values) + np.uint64(1)
    key = _row_sums(terms, indptr)
    if labels is not None and labels.ndim:
        key ^= _bits(labels) * np.uint64(0x9E3779B97F4A7C15)
    order = np.lexsort((key, lengths))
    above, below = order[:-1], order[1:]
    same = np.zeros(len(order), bool)
    same[1:] = (key[above] == key[below]) & (lengths[above] == lengths[below])
    if labels is not None and labels.ndim:
        same[1:] &= labels[above] == labels[below]
    suspects = np.flatnonzero(same)
    first, second = order[suspects - 1], order[suspects]
    same[suspects[~_alike(indices, values, begin, lengths, first, second)]] = False
    opens = np.flatnonzero(~same)
    leader = np.empty(len(order), np.int64)  # lexsort is stable: the first row leads
    leader[order] = np.repeat(order[opens], np.diff(np.append(opens, len(order))))
    return leader


def _words(indices: Array, columns: int) -> Array:
    """Return a random-looking word for each column index (Steele et al. 2014, SplitMix64)."""
    small = columns < len(indices)  # then a table, looked up, is faster
    words = (np.arange(columns) if small else indices).astype(np.uint64) + np.uint64(1)
    words *= np.uint64(0x9E3779B97F4A7C15)
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words[indices] if small else words


def _bits(values: Array) -> Array:
    """Return numbers as words that are equal if they are; 0.0 and -0.0 are."""
    return (values + 0.0).view(f"u{values.dtype.itemsize}").astype(np.uint64)


def _row_sums(terms: Array, indptr: Array) -> Array:
    lengths = np.diff(indptr)
    if len(lengths) and lengths[0] and (lengths == lengths[0]).all():  # half the time
        sums: Array = terms.reshape(len(lengths), -1).sum(axis=1, dtype=np.uint64)
        return sums
    total = np.zeros(len(terms) + 1, np.uint64)
    np.cumsum(terms, out=total[1:])
    return total[indptr[1:]] - total[indptr[:-1]]


def _alike(
    indices: Array, values: Array | None, begin: Array, lengths: Array, first: Array, second: Array
) -> Array:
    """Compare rows of equal length pair by pair."""
    if len(lengths) and lengths[0] and (lengths == lengths[0]).all():
        found: Array = np.ones(len(first), bool)
        for array in (indices, values):
            if array is not None:
                rows = array.reshape(len(lengths), -1)
                found &= (rows[first] == rows[second]).all(axis=1)
        return found
    one, other = (ranges(begin[rows], lengths[rows]) for rows in (first, second))
    differs = indices[one] != indices[other]
    if values is not None:
        differs |= values[one] != values[other]
    found = np.ones(len(first), bool)
    found[np.repeat(np.arange(len(first)), lengths[first])[differs]] = False
    return found
