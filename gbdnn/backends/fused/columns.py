"""`gbdnn.backends.columns`, compiled: on narrow tiles numpy takes longer than layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends.fused.compilation import jit

__all__ = ["constant", "pack"]

Array = npt.NDArray[Any]
LOOK = 64  # rows after which it pays to see whether any column is still a candidate


@jit
def constant(Y: Array) -> Array:
    """Return for each column whether all its values are equal; NaN equals nothing."""
    rows, width = Y.shape
    same = np.ones(width, np.bool_)
    for first in range(0, rows, LOOK):
        for i in range(first, min(first + LOOK, rows)):
            for j in range(width):
                same[j] &= Y[i, j] == Y[0, j]
        if not same.any():
            break
    return same


@jit
def pack(Y: Array, chosen: Array, out: Array) -> None:
    """Copy columns `chosen` of Y to the front of `out`, and fill its other columns with zeros."""
    count = len(chosen)
    for i in range(Y.shape[0]):
        for j in range(count):
            out[i, j] = Y[i, chosen[j]]
        for j in range(count, out.shape[1]):
            out[i, j] = 0
