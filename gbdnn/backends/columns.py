"""Looking at and closing up the columns of a tile, in numpy; `fused` has them compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["constant", "pack"]

Array = npt.NDArray[Any]


def constant(Y: Array) -> Array:
    """Return for each column of a contiguous array whether all its values are equal.

    A column with NaN is not constant.
    """
    low, high = _extreme(np.minimum, Y), _extreme(np.maximum, Y)
    same: Array = low == high
    return same


def pack(Y: Array, chosen: Array, out: Array) -> None:
    """Copy columns `chosen` of Y to the front of `out`, and fill its other columns with zeros."""
    np.take(Y, chosen, axis=1, out=out[:, : len(chosen)], mode="clip")  # clip: unbuffered
    out[:, len(chosen) :] = 0


def _extreme(function: np.ufunc, Y: Array) -> Array:
    """Return the extreme value of each column of a contiguous array.

    Several rows are taken as one long row first: numpy reduces short rows five times slower.
    """
    rows, width = Y.shape
    fold = max(min(4096 // width, rows), 1)
    whole = rows - rows % fold
    folded = function.reduce(Y[:whole].reshape(-1, fold * width), axis=0).reshape(fold, width)
    found: Array = function.reduce(np.concatenate([folded, Y[whole:]]), axis=0)
    return found
