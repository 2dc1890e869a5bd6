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
from collections.abc import Callable

import numpy as np

from gbdnn.backends.base import Backend
from gbdnn.types import Array

__all__ = ["Aside", "drop"]


class Aside:
    """Columns that are set aside: by their constant, lists of the samples' numbers."""

    def __init__(self) -> None:
        self.columns: dict[float, list[Array]] = {}
        self._lock = threading.Lock()

    def put(self, ids: Array, value: float) -> None:
        """Set columns aside that are `value` everywhere and stay so."""
        with self._lock:
            self.columns.setdefault(value, []).append(ids)

    def count(self) -> int:
        """Return how many columns are set aside."""
        return sum(len(ids) for lists in self.columns.values() for ids in lists)


def drop(
    backend: Backend,
    ids: Array,
    Y: Array,
    constants: frozenset[float],
    aside: Aside,
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
    if np.count_nonzero(candidates) < worthwhile:
        return ids, Y  # a look at one row: not enough columns can be constant
    final = backend.constant_columns(Y)[: len(ids)] & candidates
    if np.count_nonzero(final) < worthwhile:
        return ids, Y
    for value in constants:
        if (here := final & (first == value)).any():
            aside.put(ids[here], value)
    left = np.flatnonzero(~final)
    packed = empty(len(left))
    backend.pack_columns(Y, left, packed)
    return ids[left], packed
