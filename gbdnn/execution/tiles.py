"""Tiles: columns of a batch that go through layers together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gbdnn.backends.base import LANES, whole_strip
from gbdnn.data.inputs import Inputs
from gbdnn.types import Array

__all__ = [
    "NARROW", "Block", "Empty", "Tile", "lanes_of", "load_inputs", "load_pieces", "merged",
    "padded",
]  # fmt: skip

NARROW = 32  # columns: batches of so many, or fewer, are not filled up to whole strips

Empty = Callable[[int, int], Array]  # (features, columns) -> array, columns padded
Tile = Callable[[Empty], tuple[Array, Array]]  # loads (ids, Y) into a worker's memory


@dataclass(frozen=True, eq=False)
class Block:
    """Columns between two stages: Y has shape (features, len(ids))."""

    ids: Array
    Y: Array


def padded(width: int, lanes: int = LANES) -> int:
    """Return the next multiple of `lanes`."""
    return -(-width // lanes) * lanes


def lanes_of(count: int, width: int) -> int:
    """Return what the widths of a batch's tiles of up to `width` columns are multiples of."""
    return whole_strip(width) if count > NARROW else LANES if count > LANES // 2 else 1


def load_inputs(inputs: Inputs, start: int, stop: int, empty: Empty) -> tuple[Array, Array]:
    """Load inputs start ... stop - 1."""
    Y = empty(inputs.features, stop - start)
    inputs.load(slice(start, stop), Y[None, :, : stop - start])
    Y[:, stop - start :] = 0
    return np.arange(start, stop), Y


def load_pieces(pieces: list[Block], empty: Empty) -> tuple[Array, Array]:
    """Put the columns of several blocks side by side."""
    ids = np.concatenate([piece.ids for piece in pieces])
    Y = empty(len(pieces[0].Y), len(ids))
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
