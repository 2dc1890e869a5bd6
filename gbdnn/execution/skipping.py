"""Exact skipping: which columns of a batch no later layer can change.

A column y of Y_k is *constant* at c if all its values are the same number c, and *final* if every
later layer maps c*1 to c*1 (`Layer.keeps`). Then it need not be computed any more. Two numbers
occur in practice: c = 0, and the cap of a capped ReLU.

A column becomes final in the middle of a stage only if the rest of the stage keeps it; it is set
aside, and comes back if a later stage holds a layer that would change it. As columns do not
interact, the result equals the one without skipping bit for bit, if the backend takes a column's
sums in the same order in all tiles: `graphblas` does, `fused` does for the widths that the executor
makes. BLAS promises no order and may round columns that stay differently.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np

from gbdnn.types import Array

__all__ = ["Aside", "drop"]

LOOK = 16  # rows that are looked at one by one before all are


class Aside:
    """Columns that are set aside: by stage and constant, lists of the samples' numbers."""

    def __init__(self) -> None:
        self.columns: dict[tuple[int, float], list[Array]] = {}
        self._lock = threading.Lock()

    def put(self, ids: Array, value: float, stage: int) -> None:
        """Set columns aside that are `value` everywhere and stay so to the end of a stage."""
        with self._lock:
            self.columns.setdefault((stage, value), []).append(ids)

    def changed(self, kept: frozenset[float], stage: int) -> Iterator[tuple[Array, float]]:
        """Yield and forget the columns that a stage would change, and their constants."""
        for key in [key for key in self.columns if key[0] < stage and key[1] not in kept]:
            yield np.concatenate(self.columns.pop(key)), key[1]

    def count(self, stage: int) -> int:
        """Return how many columns were set aside before a stage."""
        return sum(
            len(ids) for key, lists in self.columns.items() if key[0] < stage for ids in lists
        )


def drop(
    ids: Array,
    Y: Array,
    constants: frozenset[float],
    put: Callable[[Array, float], None],
    empty: Callable[[int], Array],
    *,
    force: bool,
) -> tuple[Array, Array]:
    """Set the final columns aside and close the gaps, if enough of them make it worth while.

    Parameters
    ----------
    ids : ndarray of int, shape (columns,)
    Y : ndarray, shape (features, padded columns)
    constants : frozenset of float
        What the layers to come keep.
    put : callable
        ``put(ids, value)`` sets columns aside.
    empty : callable
        ``empty(columns)`` returns an array of Y's features for so many columns, padded.
    force : bool
        One column is enough.
    """
    first = Y[0, : len(ids)]
    candidates = np.zeros(len(ids), bool)
    for value in constants:
        candidates |= first == value
    worthwhile = 1 if force else max(len(ids) // 4, 1)
    for row in Y[:LOOK, : len(ids)]:  # nearly always so many rows say that it is not worth while
        candidates &= row == first
        if np.count_nonzero(candidates) < worthwhile:
            return ids, Y
    final = candidates & (Y[:, : len(ids)] == first).all(axis=0)
    if np.count_nonzero(final) < worthwhile:
        return ids, Y
    for value in constants:
        if (here := final & (first == value)).any():
            put(ids[here], value)
    left = np.flatnonzero(~final)
    packed = empty(len(left))
    np.take(Y, left, axis=1, out=packed[:, : len(left)], mode="clip")  # clip: unbuffered
    packed[:, len(left) :] = 0
    return ids[left], packed
