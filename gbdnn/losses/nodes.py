"""Compiled kernels of a transducer's joint: frames and prefixes meet in the nodes of lattices.

The nodes of all samples stand behind one another, the labels of a frame side by side, and are cut
into tiles of `width` columns. A run is a part of a frame's nodes within one tile: (first column,
length, number of the frame, number of the first prefix), the last two counted over all samples.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import from_dtype, types

from gbdnn.backends.fused.compilation import array_type, jit, load
from gbdnn.types import Array

__all__ = ["load_for", "meet", "part", "runs_of"]


def runs_of(frames: Array, prefixes: Array, width: int) -> tuple[Array, Array]:
    """Return all runs, shape (runs, 4), and where those of each tile begin, (tiles + 1,).

    Parameters
    ----------
    frames, prefixes : ndarray of int, shape (samples,)
        T and U + 1 of each.
    width : int
    """
    lengths = np.repeat(prefixes, frames)
    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    cuts = np.union1d(starts, np.arange(0, total, width))
    own = np.searchsorted(starts, cuts, side="right") - 1
    first = np.repeat(np.cumsum(prefixes) - prefixes, frames)[own] + cuts - starts[own]
    runs = np.stack([cuts % width, np.diff(cuts, append=total), own, first], axis=1)
    tiles = np.searchsorted(cuts, np.arange(0, total + width, width)[: -(-total // width) + 1])
    return np.ascontiguousarray(runs, np.int64), tiles


def _meet(E, P, bias, multiplies, runs, out):
    """Write E + P + bias, or E * P + bias, of each node of a tile to `out`, shape (size, width).

    Parameters
    ----------
    E : ndarray, shape (size, frames)
    P : ndarray, shape (size, prefixes)
    bias : ndarray, shape (size,)
    multiplies : bool
    runs : ndarray of int64, shape (runs, 4)
    """
    for j in range(len(bias)):
        for r in range(len(runs)):
            column, length, t, u = runs[r, 0], runs[r, 1], runs[r, 2], runs[r, 3]
            if multiplies:
                e = E[j, t]
                for k in range(length):
                    out[j, column + k] = e * P[j, u + k] + bias[j]
            else:
                e = E[j, t] + bias[j]
                for k in range(length):
                    out[j, column + k] = e + P[j, u + k]


def _part(D, E, P, multiplies, runs, tiles, start, stop, dE, dP, db):
    """Add what the gradient D of nodes says of E, P and the bias, for rows start to stop.

    Parameters
    ----------
    D : ndarray, shape (tiles, size, width)
    tiles : ndarray of int64, shape (tiles + 1,)
        Where the runs of each tile begin.
    """
    for j in range(start, stop):
        for tile in range(len(D)):
            for r in range(tiles[tile], tiles[tile + 1]):
                column, length, t, u = runs[r, 0], runs[r, 1], runs[r, 2], runs[r, 3]
                row = D[tile, j, column : column + length]
                total = over = row.dtype.type(0)
                if multiplies:
                    for k in range(length):
                        total += row[k]
                        over += row[k] * P[j, u + k]
                        dP[j, u + k] += row[k] * E[j, t]
                else:
                    for k in range(length):
                        total += row[k]
                        dP[j, u + k] += row[k]
                    over = total
                dE[j, t] += over
                db[j] += total


summing: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}
meet = jit(_meet, **summing)
part = jit(_part, **summing)


@cache
def load_for(dtype: np.dtype[Any]) -> None:
    """Compile the kernels for a dtype, or load them from the disk cache."""
    kind, whole = from_dtype(dtype), types.int64
    given, runs = array_type(kind, 2), array_type(whole, 2)
    changed = array_type(kind, 2, writable=True)
    vector = array_type(kind, 1, writable=True)
    load(meet, given, given, array_type(kind, 1), types.boolean, runs, changed)
    load(part, array_type(kind, 3), given, given, types.boolean, runs, array_type(whole, 1), whole,
         whole, changed, changed, vector)  # fmt: skip
