"""Tiles: columns of a batch that go through layers together, and the buffers that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends.base import aligned_empty
from gbdnn.data.inputs import Inputs

__all__ = [
    "NARROW",
    "STRIP",
    "Block",
    "Buffers",
    "Tile",
    "load_inputs",
    "load_pieces",
    "merged",
    "padded",
    "whole_strip",
]

Array = npt.NDArray[Any]
STRIP = 64  # columns that a kernel takes through a row at a time, at the most
NARROW = 32  # columns: a tile for each thread beats split rows down to this width
LANES = 16  # float32 in the widest register: narrower strips are computed in another way


@dataclass(frozen=True, eq=False)
class Block:
    """Columns between two stages: Y has shape (features, len(ids))."""

    ids: Array
    Y: Array


class Buffers:
    """Two aligned vectors: a layer reads its columns from one and writes into the other."""

    def __init__(self, size: int, dtype: np.dtype[Any], lanes: int) -> None:
        self.lanes = lanes
        self.front, self.back = aligned_empty(size, dtype), aligned_empty(size, dtype)

    def next(self, features: int, columns: int) -> Array:
        """Return the buffer that is not in use as (features, columns padded) and swap."""
        self.front, self.back = self.back, self.front
        width = padded(columns, self.lanes)
        return self.front[: features * width].reshape(features, width)


Tile = Callable[["Buffers"], tuple[Array, Array]]  # loads (ids, Y) into a worker's buffers


def whole_strip(count: int, width: int) -> int:
    """Return the number of columns whose multiples tiles are padded to.

    Kernels may sum in another order for narrow strips of columns than for wide ones. So that a
    column rounds alike in whatever tile it ends up, all tiles of a run consist of equal strips.
    """
    if count > NARROW:
        return next(lanes for lanes in (LANES, NARROW, STRIP) if lanes >= min(width, STRIP))
    return LANES if count > LANES // 2 else 1  # one tile, from which nothing is dropped


def padded(width: int, lanes: int = LANES) -> int:
    """Return the next multiple of `lanes`."""
    return -(-width // lanes) * lanes


def load_inputs(inputs: Inputs, start: int, stop: int, buffers: Buffers) -> tuple[Array, Array]:
    """Load inputs start ... stop - 1."""
    Y = buffers.next(inputs.features, stop - start)
    inputs.load(start, stop, Y[:, : stop - start])
    Y[:, stop - start :] = 0
    return np.arange(start, stop), Y


def load_pieces(pieces: list[Block], buffers: Buffers) -> tuple[Array, Array]:
    """Put the columns of several blocks side by side."""
    ids = np.concatenate([piece.ids for piece in pieces])
    Y = buffers.next(len(pieces[0].Y), len(ids))
    left = 0
    for piece in pieces:
        Y[:, left : left + len(piece.ids)] = piece.Y
        left += len(piece.ids)
    Y[:, left:] = 0
    return ids, Y


def merged(blocks: list[Block], width: int) -> Iterator[list[Block]]:
    """Cut and join blocks to groups of `width` columns."""
    group: list[Block] = []
    room = width
    for block in blocks:
        start = 0
        while start < len(block.ids):
            part = slice(start, start + room)
            group.append(Block(block.ids[part], block.Y[:, part]))
            start += len(group[-1].ids)
            room -= len(group[-1].ids)
            if not room:
                yield group
                group, room = [], width
    if group:
        yield group
