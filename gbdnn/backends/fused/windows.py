"""Sixteen rows side by side that pick their entries from a window of columns.

A *step* has a few entries for each of sixteen rows, all within a window that begins at the smallest
column that any of the rows still has. One instruction picks values for all rows from the window:
nothing is gathered. Rows without an entry in the window get a weight of zero. A row's entries are
taken in their order.

How many entries a row has in a step, how wide the window is and what the entries are differs from
kernel to kernel: `cells.windows` (float32), `integers.vectors` and `integers.vnni.vectors` (bytes).
"""

# mypy: disable-error-code="assignment,no-untyped-def"
# numba's variables are not numpy's.

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import from_dtype, int64, types, uint8, uint32

from gbdnn.backends.fused.compilation import array_type, compiled, jit
from gbdnn.types import Array

__all__ = [
    "ROWS",
    "Rooms",
    "Slide",
    "Windows",
    "as_windows",
    "by_length",
    "cuts",
    "grouped",
    "sliding",
]

ROWS = 16  # of a step
Slide = Callable[[int, Array, Array, Array, Array, Array, bool], int]
"""``slide(together, targets, table, starts, places, weights, write)`` fills `table` and, with
`write`, the arrays behind it; it returns the number of steps."""
Rooms = Callable[[int], tuple[Array, Array, Array]]
"""Returns the arrays of starts, places and weights for a number of steps, in which 0 is nothing."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Rows, sixteen together, as units of `together` steps.

    Group g has rows ``targets[16 g : 16 g + 16]``, -1 for none, and the units
    ``table[g] ... table[g + 1] - 1``. Step s picks from the window that begins at ``starts[s]``;
    ``places[s]`` are places in it, and ``weights[s]`` the weights there, in the kernel's own order.
    """

    together: int
    targets: Array
    table: Array
    starts: Array
    places: Array
    weights: Array

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = (self.targets, self.table, self.starts, self.places, self.weights)
        return sum(array.nbytes for array in arrays)

    @property
    def count(self) -> int:
        """Number of steps."""
        return len(self.starts)

    @property
    def in_order(self) -> bool:
        """True if the rows are 0, 1, 2, ..."""
        used = self.targets[: np.count_nonzero(self.targets >= 0)]
        return bool((used == np.arange(len(used))).all())


def as_windows(
    slide: Slide, candidates: Iterable[tuple[float, int, Array]], rooms: Rooms
) -> Windows:
    """Return rows as windows in the cheapest of some ways. O(nnz) for each.

    Parameters
    ----------
    slide : callable
        Goes over the entries.
    candidates : iterable of tuple
        What a step costs, steps of a unit, and the rows of all groups one after the other.
    rooms : callable
        Makes the arrays.
    """

    def run(way: tuple[float, int, Array], count: int, write: bool) -> tuple[int, Windows]:
        _, together, targets = way
        table = np.zeros(len(targets) // ROWS + 1, np.int64)
        made = Windows(together, targets, table, *rooms(count))
        given = together, targets, table, made.starts, made.places, made.weights
        return slide(*given, write), made

    counts = [(way[0] * (steps := run(way, 0, False)[0]), steps, way) for way in candidates]
    _, count, way = min(counts, key=lambda each: each[0])
    return run(way, count, True)[1]


def grouped(rows: Array) -> Array:
    """Return rows, filled up to whole groups with -1."""
    found: Array = np.append(rows, np.full(-len(rows) % ROWS, -1)).astype(np.int64)
    return found


def by_length(indptr: Array) -> Array:
    """Return all rows in groups, those of like length together."""
    return grouped(np.argsort(np.diff(indptr), kind="stable"))


def cuts(table: Array, blocks: int) -> Array:
    """Cut the rows of a table into ranges of about equal work."""
    work = table + np.arange(len(table))  # a row costs something beside its entries
    found: Array = np.searchsorted(work, work[-1] * np.arange(blocks + 1) / blocks)
    found[-1] = len(table) - 1
    return found


def sliding(
    indptr: Array, indices: Array, slots: int, window: int, latest: int, *, side_by_side: bool
) -> Slide:
    """Return how to go over entries that all sums can take, in whatever number.

    It writes no weights but numbers of entries as uint32, counted from 1; 0 is none.

    Parameters
    ----------
    indptr, indices : ndarray
        CSR; the columns of a row ascend.
    slots : int
        Entries that a row may have in a step.
    window : int
        Columns.
    latest : int
        The last column where a window may begin.
    side_by_side : bool
        The slots of a row are neighbours in a step, not those of different rows.
    """
    strides = (slots, 1) if side_by_side else (1, ROWS)
    indptr = indptr.astype(np.int64)
    _load(indices.dtype)

    def slide(together: int, targets: Array, table: Array, *arrays: Any) -> int:
        *rooms, write = arrays
        counted: int = _slide(indptr, indices, slots, window, latest, *strides, together, targets,
                              table, *rooms, write)  # fmt: skip
        return counted

    return slide


@jit
def _slide(
    indptr, indices, slots, window, latest, by_row, by_slot, together, targets, table, starts,
    places, entries, write
):  # fmt: skip
    """Slide a window over the entries of sixteen rows; return the number of steps."""
    at, ends = np.zeros(ROWS, np.int64), np.zeros(ROWS, np.int64)
    for group in range(len(table) - 1):
        for r in range(ROWS):
            row = targets[group * ROWS + r]
            at[r] = indptr[row] if row >= 0 else 0
            ends[r] = indptr[row + 1] if row >= 0 else 0
        step = together * table[group]
        while True:
            first = np.int64(-1)
            for r in range(ROWS):
                if at[r] < ends[r]:
                    column = np.int64(indices[at[r]])
                    if first < 0 or column < first:
                        first = column
            if first < 0:
                break
            start = min(first, latest)
            if write:
                starts[step] = start
                places[step] = first - start  # a column that is there, for what picks nothing
            for r in range(ROWS):
                for slot in range(slots):
                    if at[r] == ends[r] or np.int64(indices[at[r]]) >= start + window:
                        break
                    if write:
                        place = by_row * r + by_slot * slot
                        places[step, place] = np.int64(indices[at[r]]) - start
                        entries[step, place] = at[r] + 1
                    at[r] += 1
            step += 1
        table[group + 1] = (step + together - 1) // together
    return together * table[-1]


@cache
def _load(index: Any) -> None:
    """Load `_slide` for a dtype of indices, or compile it."""
    numbers, changed = array_type(int64, 1), array_type(int64, 1, writable=True)
    columns = from_dtype(index)
    squares = array_type(uint8, 2, writable=True), array_type(uint32, 2, writable=True)

    def make() -> None:
        _slide.disable_compile(False)
        _slide.compile((
            numbers, array_type(columns, 1), *(int64,) * 6, numbers, changed,
            array_type(columns, 1, writable=True), *squares, types.boolean,
        ))  # fmt: skip
        _slide.disable_compile()

    compiled(make)
