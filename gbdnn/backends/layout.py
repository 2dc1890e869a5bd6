"""Batch-major arrays to and from tiles: (samples, features) and (tiles, features, width).

A block of a tile stays in the first cache while its lines of the batch-major array are read or
written whole, which numpy's transposed copy does not do.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numba import from_dtype, types

from gbdnn.backends.fused.compilation import array_type, jit, load
from gbdnn.backends.workers import share
from gbdnn.errors import ShapeError
from gbdnn.types import Array

__all__ = ["from_tiles", "to_tiles"]

SMALL = 1 << 18  # elements, a quarter of a millisecond: waking a thread takes up to a tenth
BLOCK = 32  # features: of a tile of 64 float32 columns 8 KiB


def to_tiles(X: Array, out: Array, threads: int = 1) -> None:
    """Write sample t width + c of X, shape (samples, features), to column c of tile t of `out`.

    Columns behind the last sample become 0. Both arrays are C-contiguous and of one dtype,
    float32 or float64.
    """
    _check(X, out)
    _load(X.dtype)
    share(lambda part: _gather(X, out, *part), _parts(out, threads), threads)


def from_tiles(Y: Array, out: Array, threads: int = 1) -> None:
    """Undo `to_tiles`: write the columns of Y to the rows of `out`, shape (samples, features)."""
    _check(out, Y)
    _load(out.dtype)
    share(lambda part: _scatter(Y, out, *part), _parts(Y, threads), threads)


def _check(X: Array, Y: Array) -> None:
    room = Y.shape[0] * Y.shape[2]
    if X.shape[1] != Y.shape[1] or not room - Y.shape[2] < max(X.shape[0], 1) <= max(room, 1):
        expected = f"tiles that {X.shape[0]} samples of {X.shape[1]} features fill"
        raise ShapeError("tiles", expected, f"shape {Y.shape}")


def _parts(Y: Array, threads: int) -> list[tuple[int, int]]:
    """Cut tiles times blocks of features into ranges."""
    work = Y.shape[0] * -(-Y.shape[1] // BLOCK)
    pieces = 2 * threads if threads > 1 and Y.size >= SMALL else 1
    return list(pairwise(work * k // pieces for k in range(pieces + 1)))


@jit
def _gather(X, out, start, stop):  # type: ignore[no-untyped-def]
    samples, features, width = X.shape[0], out.shape[1], out.shape[2]
    blocks = (features + BLOCK - 1) // BLOCK
    for k in range(start, stop):
        tile, first = k // blocks, k % blocks * BLOCK
        last = min(first + BLOCK, features)
        used = min(width, samples - tile * width)
        for c in range(used):
            for f in range(first, last):
                out[tile, f, c] = X[tile * width + c, f]
        for f in range(first, last):
            for c in range(used, width):
                out[tile, f, c] = 0


@jit
def _scatter(Y, out, start, stop):  # type: ignore[no-untyped-def]
    samples, features, width = out.shape[0], Y.shape[1], Y.shape[2]
    blocks = (features + BLOCK - 1) // BLOCK
    for k in range(start, stop):
        tile, first = k // blocks, k % blocks * BLOCK
        last = min(first + BLOCK, features)
        for c in range(min(width, samples - tile * width)):
            for f in range(first, last):
                out[tile * width + c, f] = Y[tile, f, c]


@cache
def _load(dtype: np.dtype[Any]) -> None:
    """Load both from the disk cache, or compile them."""
    real, size = from_dtype(dtype), types.int64
    load(_gather, array_type(real, 2), array_type(real, 3, writable=True), size, size)
    load(_scatter, array_type(real, 3), array_type(real, 2, writable=True), size, size)
