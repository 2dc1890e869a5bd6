"""Tiles: columns of a batch that go through layers together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gbdnn.data.inputs import Inputs
from gbdnn.types import Array

__all__ = [
    "LANES", "NARROW", "STRIP", "Block", "Empty", "Tile", "load_inputs", "load_pieces", "merged",
    "padded", "whole_strip",
]  # fmt: skip

STRIP = 64  # columns that a kernel takes through a row at a time, at the most
NARROW = 32  # columns: a tile for each thread beats split rows down to this width
LANES = 16  # float32 in the widest register: narrower strips are computed in another way

Empty = Callable[[int, int], Array]  # (features, columns) -> array, columns padded
Tile = Callable[[Empty], tuple[Array, Array]]  # loads (ids, Y) into a worker's memory


@dataclass(frozen=True, eq=False)
class Block:
    """Columns between two stages: Y has shape (features, len(ids))."""

    ids: Array
    Y: Array


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
