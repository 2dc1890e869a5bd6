"""Time steps side by side: tiles of a few columns as strips of many, and back.

As they come, time steps of one sample are tiles of one column, and each reads all weights. In
strips of 64 float32 they are read once for all of them. Strips are always whole, filled up with
zeros: so the kernel adds in one order, and a column's bits depend on nothing else.
"""

# mypy: disable-error-code="attr-defined,call-arg,no-untyped-call,no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import from_dtype, types

from gbdnn.backends.base import aligned_empty
from gbdnn.backends.fused.cells.functions import copy_numbers
from gbdnn.backends.fused.cells.matrix import Matrix, adding
from gbdnn.backends.fused.compilation import array_type, jit, load
from gbdnn.backends.fused.helpers import inner
from gbdnn.backends.fused.instructions import call, code_stamp, transpose_square
from gbdnn.backends.fused.kernels import STRIP, VECTOR
from gbdnn.backends.workers import share
from gbdnn.types import Array

__all__ = ["by_strips", "few_columns", "whole_strips"]


def whole_strips(Y: Array) -> bool:
    """True if the tiles are strips as they are."""
    return bool(Y.shape[2] * Y.itemsize % STRIP == 0)


def by_strips(
    Y: Array, out: Array, compute: Callable[[Array, Array, int], None], threads: int
) -> None:
    """Call ``compute(y, z, threads)`` for strips of the columns of all tiles.

    Parameters
    ----------
    Y, out : ndarray, shape (tiles, features, width)
        `out` is written.
    compute : callable
        Gets y and z, shapes (1, features, lanes).
    threads : int
        They share the strips, or have one together.
    """
    gather, scatter, _ = _functions(Y.dtype)
    lanes, columns = STRIP // Y.itemsize, Y.shape[0] * Y.shape[2]
    count = -(-columns // lanes)
    together = threads if count == 1 else 1

    def run(part: range) -> None:
        y, z = (_aligned(1, each.shape[1], lanes, Y.dtype) for each in (Y, out))
        for strip in part:
            gather(Y, strip * lanes, y[0])
            compute(y, z, together)
            scatter(z[0], strip * lanes, out)

    if count == 1 or threads == 1:
        run(range(count))
        return
    parts = min(threads, count)
    edges = [k * count // parts for k in range(parts + 1)]
    share(run, [range(*edges[k : k + 2]) for k in range(parts)], parts)


def few_columns(matrix: Matrix, Y: Array, bias: Array | None, out: Array) -> None:
    """Compute out = W Y + b for a few columns altogether, with the bits that strips have."""
    gather, scatter, few = _functions(Y.dtype)
    columns, (_, features, _), rows = Y.shape[0] * Y.shape[2], Y.shape, out.shape[1]
    if Y.shape[0] == 1:
        y, z = Y, out
    else:
        y, z = (_aligned(1, each, columns, Y.dtype) for each in (features, rows))
        gather(Y, 0, y[0])
    z[0] = 0 if bias is None else bias.reshape(-1, 1)
    spare = np.zeros(columns, Y.dtype)
    few(adding(Y.dtype), matrix.address(columns), matrix.blocks, y[0], z[0], spare)
    if z is not out:
        scatter(z[0], 0, out)


def _aligned(*shape: Any) -> Array:
    *sizes, dtype = shape
    return aligned_empty(int(np.prod(sizes)), dtype).reshape(sizes)


@jit
def _few(add, matrix, blocks, y, out, spare):
    """Add all products of a matrix to `out`."""
    for block in range(blocks):
        call(add, (matrix, block, y.ctypes.data, out.ctypes.data, y.shape[1], spare.ctypes.data))


@inner
def _gather(Y, start, out):
    """Write columns `start` ... of all tiles, side by side, to `out`; zeros behind the last."""
    tiles, features, width = Y.shape
    lanes = out.shape[1]
    used, size = min(lanes, tiles * width - start), out.itemsize
    if width == 1:
        flat = Y.reshape(tiles, features)
        _transpose(flat[start : start + used], features, out.ctypes.data, lanes * size, out)
    else:
        column = 0
        while column < used:
            tile, first = (start + column) // width, (start + column) % width
            count = min(width - first, used - column)
            source = Y.ctypes.data + (tile * features * width + first) * size
            target = out.ctypes.data + column * size
            for i in range(features):
                copy_numbers(source + i * width * size, target + i * lanes * size, count, Y.dtype)
            column += count
    for i in range(features):
        for j in range(used, lanes):
            out[i, j] = 0


@inner
def _scatter(strip, start, out):
    """Write a strip back to columns `start` ... of all tiles."""
    tiles, features, width = out.shape
    lanes, size = strip.shape[1], strip.itemsize
    used = min(lanes, tiles * width - start)
    if width == 1:
        flat = out.reshape(tiles, features)
        target = flat[start : start + used]
        _transpose(strip, used, target.ctypes.data, features * size, target)
    else:
        column = 0
        while column < used:
            tile, first = (start + column) // width, (start + column) % width
            count = min(width - first, used - column)
            source = strip.ctypes.data + column * size
            target = out.ctypes.data + (tile * features * width + first) * size
            for i in range(features):
                copy_numbers(source + i * lanes * size, target + i * width * size, count,
                             strip.dtype)  # fmt: skip
            column += count


@inner
def _transpose(source, columns, target, pitch, out):
    """Write the first `columns` columns of an array as rows of `out`, at `target`."""
    side = VECTOR // source.itemsize
    rows, size = source.shape[0], source.itemsize
    for i in range(0, rows, side):
        for j in range(0, columns, side):
            if i + side <= rows and j + side <= columns:
                transpose_square(source.ctypes.data + (i * source.shape[1] + j) * size,
                                 source.shape[1] * size, target + j * pitch + i * size, pitch,
                                 source.dtype)  # fmt: skip
            else:
                for k in range(i, min(i + side, rows)):
                    for m in range(j, min(j + side, columns)):
                        out[m, k] = source[k, m]


@cache
def _functions(dtype: np.dtype[Any]) -> tuple[Any, Any, Any]:
    """Return `_gather`, `_scatter` and `_few`, loaded from the disk cache or compiled."""
    stamp, real, size = code_stamp(), from_dtype(dtype), types.int64

    def gather(Y, start, out):
        _gather(Y, start + 0 * stamp, out)

    def scatter(strip, start, out):
        _scatter(strip, start + 0 * stamp, out)

    made = jit(gather), jit(scatter), _few
    given, changed = array_type(real, 3), array_type(real, 3, writable=True)
    strip, square = array_type(real, 2), array_type(real, 2, writable=True)
    load(made[0], given, size, square)
    load(made[1], strip, size, changed)
    load(_few, size, size, size, strip, square, array_type(real, 1, writable=True))
    return made
