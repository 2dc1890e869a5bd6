"""The entries of an integer weight in the two orders that `vectors` computes with.

A 16-bit sum of products u * w, u from 0 to `span`, stays in range in whatever order it is taken if
span times the sum of its positive weights is below 2^15, and so for the negative ones. `limit` is
how much of each sign fits: span * limit < 2^15. An entry alone always fits: 255 * 127 < 2^15.
"""

# mypy: disable-error-code="assignment"
# numba's variables are not numpy's.

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numba import from_dtype, int8, int64, types, uint8

from gbdnn.backends.fused import windows
from gbdnn.backends.fused.compilation import array_type, compiled, jit
from gbdnn.backends.fused.integers.vectors import PLACE, STEP, WINDOW
from gbdnn.backends.fused.windows import ROWS, Windows, by_length
from gbdnn.types import Array

__all__ = ["Units", "as_units", "as_windows", "limit_of"]

TOGETHER = (2, 4, 8)  # pairs of a unit, or steps
WIDEN = 1.3  # pairs, or steps, that it costs as much as to widen the sums of a unit


@dataclass(frozen=True, eq=False)
class Units:
    """Rows as units of 2 `pairs` entries; see `vectors.unit_rows`.

    `columns` has the numbers of columns times PLACE.
    """

    pairs: int
    table: Array
    columns: Array
    weights: Array

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.table.nbytes + self.columns.nbytes + self.weights.nbytes

    @cached_property
    def count(self) -> int:
        """Number of pairs."""
        return self.pairs * int(self.table[-1])


def limit_of(span: int) -> int:
    """Return how much of each sign the weights of a 16-bit sum may have, for codes 0 ... span."""
    return (2**15 - 1) // max(span, 1)


def as_units(indptr: Array, indices: Array, codes: Array, limit: int) -> Units:
    """Return the entries of each row as units, filled up with weights of 0. O(nnz).

    Large and small weights, and both signs, are dealt out evenly: the order of a sum is free.
    """
    indptr, indices = indptr.astype(np.int64), indices * indices.dtype.type(PLACE)
    _load(indices.dtype)
    table = np.zeros(len(indptr), np.int64)

    def count(pairs: int) -> int:
        nothing = indices[:0].copy(), codes[:0].copy()
        counted: int = _deal(indptr, indices, codes, limit, 2 * pairs, table, *nothing, False)
        return counted

    pairs = min(TOGETHER, key=lambda pairs: count(pairs) * (1 + WIDEN / pairs))
    counted = count(pairs)
    columns, weights = np.zeros(counted, indices.dtype), np.zeros(counted, np.int8)
    _deal(indptr, indices, codes, limit, 2 * pairs, table, columns, weights, True)
    return Units(pairs, table, columns, weights)


def as_windows(indptr: Array, indices: Array, codes: Array, limit: int) -> Windows:
    """Return the rows as groups of steps; indices of a row must ascend. O(nnz).

    See `vectors.window_sums` for the order of places and weights.
    """
    _load(indices.dtype)
    indptr = indptr.astype(np.int64)

    def slide(together: int, targets: Array, *rest: Any) -> int:
        counted: int = _slide(indptr, indices, codes, limit, together, targets, *rest)
        return counted

    def rooms(count: int) -> tuple[Array, Array, Array]:
        return (
            np.zeros(count, indices.dtype), np.zeros((count // 2, STEP), np.uint8),
            np.zeros((count, STEP), np.int8),
        )  # fmt: skip

    targets = by_length(indptr)
    return windows.as_windows(slide, [(1 + WIDEN / n, n, targets) for n in TOGETHER], rooms)


@jit
def _deal(indptr, indices, codes, limit, size, table, columns, weights, write):  # type: ignore[no-untyped-def]
    """Deal the entries of each row to units; return the number of places. Without `write` count."""
    longest = 0
    for row in range(len(indptr) - 1):
        longest = max(longest, indptr[row + 1] - indptr[row])
    order = np.empty(longest, np.int64)
    filled = np.empty(longest + 1, np.int64)
    sums = np.empty((longest + 1, 2), np.int64)
    buckets = np.empty(257, np.int64)
    for row in range(len(indptr) - 1):
        begin, end = indptr[row], indptr[row + 1]
        # by sign, in it by magnitude, the largest first: 0 ... 127 positive, 128 ... 255 negative
        buckets[:] = 0
        for k in range(begin, end):
            code = np.int64(codes[k])
            buckets[(127 - code if code >= 0 else 256 + code - 1) + 1] += 1
        for n in range(256):
            buckets[n + 1] += buckets[n]
        for k in range(begin, end):
            code = np.int64(codes[k])
            bucket = 127 - code if code >= 0 else 256 + code - 1
            order[buckets[bucket]] = k
            buckets[bucket] += 1
        units = (end - begin + size - 1) // size
        positive, negative = 0, 0
        for k in range(begin, end):
            code = np.int64(codes[k])
            if code > 0:
                positive += code
            else:
                negative -= code
        units = max(units, (max(positive, negative) + limit - 1) // limit)
        if write:
            units = table[row + 1] - table[row]
        while True:  # at the latest with a unit for each entry all fit
            filled[:units] = 0
            sums[:units] = 0
            fits = True
            unit, step = 0, 1
            for n in range(end - begin):
                k = order[n]
                code = np.int64(codes[k])
                sign = 0 if code >= 0 else 1
                tries = 0
                while filled[unit] == size or sums[unit, sign] + abs(code) > limit:
                    tries += 1
                    if tries > 2 * units:
                        fits = False
                        break
                    unit += step
                    if unit == units or unit < 0:
                        step = -step
                        unit += step
                if not fits:
                    break
                sums[unit, sign] += abs(code)
                if write:
                    place = (table[row] + unit) * size + filled[unit]
                    columns[place], weights[place] = indices[k], codes[k]
                filled[unit] += 1
                unit += step
                if unit == units or unit < 0:
                    step = -step
                    unit += step
            if fits:
                break
            units += units // 16 + 1
            units = min(units, longest)
        table[row + 1] = table[row] + units
    return table[-1] * size


@jit
def _slide(  # type: ignore[no-untyped-def]
    indptr, indices, codes, limit, steps, targets, table, starts, places, weights, write
):  # fmt: skip
    """Slide a window over the entries of sixteen rows; return the number of steps."""
    at, ends = np.zeros(ROWS, np.int64), np.zeros(ROWS, np.int64)
    sums = np.zeros((ROWS, 2), np.int64)
    for group in range(len(table) - 1):
        for r in range(ROWS):
            row = targets[group * ROWS + r]
            at[r], ends[r] = 0, 0
            if row >= 0:
                at[r], ends[r] = indptr[row], indptr[row + 1]
        step = table[group] * steps
        while True:
            start = np.int64(-1)
            for r in range(ROWS):
                if at[r] < ends[r]:
                    column = np.int64(indices[at[r]])
                    if start < 0 or column < start:
                        start = column
            if start < 0:
                break
            if step % steps == 0:
                sums[:] = 0
            if write:
                starts[step] = start
            for r in range(ROWS):
                for slot in range(2):
                    if at[r] == ends[r] or np.int64(indices[at[r]]) >= start + WINDOW:
                        break
                    code = np.int64(codes[at[r]])
                    sign = 0 if code >= 0 else 1
                    if sums[r, sign] + abs(code) > limit:
                        break
                    sums[r, sign] += abs(code)
                    if write:
                        place = np.int64(indices[at[r]]) - start
                        weights[step, 2 * r + slot] = code
                        places[step // 2, 2 * r + slot] |= place << (4 * (step % 2))
                    at[r] += 1
            step += 1
        table[group + 1] = (step + steps - 1) // steps
    return table[-1] * steps


_loaded: set[Any] = set()


def _load(index: Any) -> None:
    """Load both functions for a dtype of indices, or compile them."""
    if index in _loaded:
        return
    numbers, flag = array_type(int64, 1), types.boolean
    given = (numbers, array_type(from_dtype(index), 1), array_type(int8, 1), int64, int64)
    columns = array_type(from_dtype(index), 1, writable=True)
    tables = array_type(int64, 1, writable=True)
    weights = array_type(int8, 1, writable=True)

    def make() -> None:
        _deal.disable_compile(False)
        _deal.compile((*given, tables, columns, weights, flag))
        _deal.disable_compile()
        _slide.disable_compile(False)
        squares = (array_type(uint8, 2, writable=True), array_type(int8, 2, writable=True))
        _slide.compile((*given, numbers, tables, columns, *squares, flag))
        _slide.disable_compile()

    compiled(make)
    _loaded.add(index)
