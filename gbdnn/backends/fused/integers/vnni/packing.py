"""The entries of an integer weight in the two orders that `vectors` computes with.

Sums are kept in 32 bits from the beginning, so that any order is exact that fits there as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gbdnn.backends.base import aligned_empty
from gbdnn.backends.fused import windows
from gbdnn.backends.fused.windows import ROWS, Windows, by_length, grouped, sliding
from gbdnn.types import Array

__all__ = [
    "PLACE", "QUAD", "ROWS", "SLOTS", "STEP", "WINDOW", "Quads", "as_quads", "as_windows",
]  # fmt: skip

QUAD = 4  # entries whose products one instruction adds to a 32-bit sum
PLACE = 8  # what the numbers of columns in quads are multiplied by: processors add 1 to 8 times
SLOTS, WINDOW = 4, 64  # of a step: entries of each row, features to choose from
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
    """Return the rows as pairs of steps; indices of a row must ascend. O(nnz).

    Bytes 4 r ... 4 r + 3 of ``places[step]`` are the places of the entries of row r, and those of
    ``weights[step]`` their codes. With `nibbles` the codes of both steps of pair p are the low and
    the high halves of ``weights[p]``. No window ends behind the multiple of 64 that follows
    `columns`.
    """
    latest = -(-columns // WINDOW) * WINDOW - WINDOW
    slide = sliding(indptr, indices, SLOTS, WINDOW, latest, side_by_side=True)

    def rooms(count: int) -> tuple[Array, Array, Array]:
        entries = np.zeros((count, STEP), np.uint32)
        return np.zeros(count, indices.dtype), _lines(count, np.uint8), entries

    candidates = [
        (1.0, 2, grouped(np.arange(len(indptr) - 1))),
        (SORTING, 2, by_length(indptr)),  # the steps of the longest row count
    ]
    made = windows.as_windows(slide, candidates, rooms)
    weights = _lines(made.count, np.int8)
    weights[:] = np.append(np.int8(0), codes)[made.weights]
    if nibbles:
        pairs = weights.view(np.uint8).reshape(-1, 2, STEP)
        weights = _lines(len(pairs), np.int8)
        weights[:] = (pairs[:, 0] & 15 | pairs[:, 1] << 4).view(np.int8)
    return replace(made, weights=weights)


def _lines(count: int, dtype: Any) -> Array:
    """Return cache lines of zeros."""
    lines = aligned_empty(count * STEP, dtype).reshape(count, STEP)
    lines[:] = 0
    return lines
