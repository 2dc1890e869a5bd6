"""The entries of an integer weight in the two orders that `vectors` computes with.

Sums are kept in 32 bits from the beginning, so that any order is exact that fits there as a whole.
"""

# mypy: disable-error-code="assignment"
# numba's variables are not numpy's.

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import from_dtype, int8, int64, types, uint8

from gbdnn.backends.base import aligned_empty
from gbdnn.backends.fused.compilation import array_type, compiled, jit
from gbdnn.types import Array

__all__ = [
    "PLACE", "QUAD", "ROWS", "SLOTS", "STEP", "WINDOW", "Quads", "Windows", "as_quads",
    "as_windows",
]  # fmt: skip

QUAD = 4  # entries whose products one instruction adds to a 32-bit sum
PLACE = 8  # what the numbers of columns in quads are multiplied by: processors add 1 to 8 times
ROWS, SLOTS, WINDOW = 16, 4, 64  # of a step: rows, entries of each, features to choose from
STEP = ROWS * SLOTS  # bytes of a step's codes
SORTING = 1.08  # times the steps that it must save: sorted rows are stored one by one


@dataclass(frozen=True, eq=False)
class Quads:
    """Rows as groups of four entries, filled up with weights of 0.

    Row r has the quads ``table[r] ... table[r + 1] - 1``; entry e of quad q is of feature
    ``columns[4 q + e] / PLACE`` and has ``weights[4 q + e]``.
    """

    table: Array
    columns: Array
    weights: Array

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.table.nbytes + self.columns.nbytes + self.weights.nbytes


@dataclass(frozen=True, eq=False)
class Windows:
    """Rows, sixteen together, as steps of four entries each in a window of 64 features.

    Group g has rows ``targets[16 g : 16 g + 16]``, -1 for none, in pairs of steps ``table[g] ...
    table[g + 1] - 1``. Steps 2 p and 2 p + 1 of pair p choose from the 64 features from
    ``starts[step]`` on; bytes 4 r ... 4 r + 3 of ``places[step]`` are the places in it of the
    entries of row r, and those of ``weights[step]`` their codes. With `nibbles` the codes of both
    are the low and the high halves of ``weights[p]``.

    `in_order` says that the rows are 0, 1, 2, ...
    """

    table: Array
    targets: Array
    starts: Array
    places: Array
    weights: Array
    nibbles: bool
    in_order: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = (self.table, self.targets, self.starts, self.places, self.weights)
        return sum(array.nbytes for array in arrays)

    @property
    def count(self) -> int:
        """Number of steps."""
        return len(self.starts)


def as_quads(indptr: Array, indices: Array, codes: Array) -> Quads:
    """Return the entries of each row in groups of four. O(nnz)."""
    lengths: Array = np.diff(indptr.astype(np.int64))
    table = np.zeros(len(indptr), np.int64)
    np.cumsum(-(-lengths // QUAD), out=table[1:])
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(codes)) - indptr[row] + QUAD * table[row]
    columns = np.zeros(QUAD * int(table[-1]), indices.dtype)
    weights = np.zeros(len(columns), np.int8)
    columns[place] = indices * indices.dtype.type(PLACE)
    weights[place] = codes
    return Quads(table, columns, weights)


def as_windows(
    indptr: Array, indices: Array, codes: Array, columns: int, *, nibbles: bool
) -> Windows:
    """Return the rows as groups of steps; indices of a row must ascend. O(nnz).

    No window ends behind the multiple of 64 that follows `columns`.
    """
    _load(indices.dtype)
    indptr = indptr.astype(np.int64)
    rows, latest = len(indptr) - 1, -(-columns // WINDOW) * WINDOW - WINDOW
    targets = np.full(-(-rows // ROWS) * ROWS, -1, np.int64)
    targets[:rows] = np.arange(rows)
    by_length = targets.copy()
    by_length[:rows] = np.argsort(np.diff(indptr), kind="stable")  # the steps of the longest count
    table = np.zeros(len(targets) // ROWS + 1, np.int64)

    def slide(targets: Array, starts: Array, places: Array, weights: Array, write: bool) -> int:
        given = indptr, indices, codes, latest, targets, table
        counted: int = _slide(*given, starts, places, weights, write)
        return counted

    def count(targets: Array) -> int:
        nothing = np.empty((0, STEP), np.uint8), np.empty((0, STEP), np.int8)
        return slide(targets, indices[:0].copy(), *nothing, False)

    in_order = count(targets) <= SORTING * count(by_length)
    targets = targets if in_order else by_length
    counted = count(targets)
    starts = np.zeros(counted, indices.dtype)
    places, weights = _lines(counted, np.uint8), _lines(counted, np.int8)
    slide(targets, starts, places, weights, True)
    if nibbles:
        pairs = weights.view(np.uint8).reshape(-1, 2, STEP)
        weights = _lines(len(pairs), np.int8)
        weights[:] = (pairs[:, 0] & 15 | pairs[:, 1] << 4).view(np.int8)
    return Windows(table, targets, starts, places, weights, nibbles, in_order)


def _lines(count: int, dtype: Any) -> Array:
    """Return cache lines of zeros."""
    lines = aligned_empty(count * STEP, dtype).reshape(count, STEP)
    lines[:] = 0
    return lines


@jit
def _slide(  # type: ignore[no-untyped-def]
    indptr, indices, codes, latest, targets, table, starts, places, weights, write
):
    """Slide a window over the entries of sixteen rows; return the number of steps."""
    at, ends = np.zeros(ROWS, np.int64), np.zeros(ROWS, np.int64)
    for group in range(len(table) - 1):
        for r in range(ROWS):
            row = targets[group * ROWS + r]
            at[r], ends[r] = 0, 0
            if row >= 0:
                at[r], ends[r] = indptr[row], indptr[row + 1]
        step = 2 * table[group]
        while True:
            start = np.int64(-1)
            for r in range(ROWS):
                if at[r] < ends[r]:
                    column = np.int64(indices[at[r]])
                    if start < 0 or column < start:
                        start = column
            if start < 0:
                break
            start = min(start, latest)
            if write:
                starts[step] = start
            for r in range(ROWS):
                for slot in range(SLOTS):
                    if at[r] == ends[r] or np.int64(indices[at[r]]) >= start + WINDOW:
                        break
                    if write:
                        weights[step, SLOTS * r + slot] = codes[at[r]]
                        places[step, SLOTS * r + slot] = np.int64(indices[at[r]]) - start
                    at[r] += 1
            step += 1
        table[group + 1] = (step + 1) // 2
    return 2 * table[-1]


@cache
def _load(index: Any) -> None:
    """Load `_slide` for a dtype of indices, or compile it."""
    numbers, flag = array_type(int64, 1), types.boolean
    table = array_type(int64, 1, writable=True)
    starts = array_type(from_dtype(index), 1, writable=True)
    squares = (array_type(uint8, 2, writable=True), array_type(int8, 2, writable=True))
    given = (numbers, array_type(from_dtype(index), 1), array_type(int8, 1), int64, numbers)

    def make() -> None:
        _slide.disable_compile(False)
        _slide.compile((*given, table, starts, *squares, flag))
        _slide.disable_compile()

    compiled(make)
