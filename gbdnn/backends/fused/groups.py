"""The fused backend's form of a weight: rows with the same columns side by side, four by four.

Structured pruning, RadiX-Nets and dense layers have many rows whose non-zeros stand in the same
columns. Four such rows make a group that loads Y and the indices once. The list of columns is
stored once per *pattern*, however many rows share it; rows that share nothing stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gbdnn.backends.fused.kernels import FROM_BIAS, FROM_OUT, GROUP, HEADER, widest_strip
from gbdnn.types import Array
from gbdnn.weights import CSR
from gbdnn.weights.equal import equal_rows
from gbdnn.weights.patterns import ranges

__all__ = [
    "Grouped", "GroupedRows", "Piece", "group_dense", "group_rows", "is_wide", "ungrouped",
]  # fmt: skip

BLOCK = 256  # columns: their part of a strip of Y, 64 KiB, stays near the first cache
MIN_PIECE = 16  # non-zeros per row and block below which going through `out` costs what it saves
ROW = 8  # non-zeros that a row costs as much as, beside its own
WIDE = 128  # bytes of a row of Y from which blocks of columns pay: 32 float32


class Piece(NamedTuple):
    """Groups `first` ... `last` - 1 of a part; first eight arguments of `kernels.product`."""

    rows: int
    iso: int
    table: Array
    indices: Array
    values: Array
    first: int
    last: int
    strip: int
    origin: int
    final: bool


@dataclass(frozen=True, eq=False)
class GroupedRows:
    """Groups of `rows` (1 or 4) rows each.

    Record g of `table`, int64 of shape (groups, 3 + rows), holds begin, end, value, targets:
    the columns are ``indices[begin:end]``, the value of column k and row r of the group is
    ``values[value + (k - begin) * rows + r]``, and r is row ``targets[r]`` of W.
    """

    rows: int
    table: Array
    values: Array
    origin: int = FROM_BIAS  # FROM_OUT if it is not the first block of columns
    final: bool = True  # the bounds apply: the last block

    @property
    def work(self) -> Array:
        """About what each group costs, in non-zeros."""
        return (self.table[:, 1] - self.table[:, 0] + ROW) * self.rows


@dataclass(frozen=True, eq=False)
class Grouped:
    """All rows of W: one list of columns per pattern, and the parts that refer to it.

    The parts are different rows of W. `blocks`, where it pays, is the same matrix again with all
    rows in each part, but one block of columns: faster for a wide Y, slower for a narrow one.
    """

    indices: Array
    parts: tuple[GroupedRows, ...]
    blocks: Grouped | None = None
    _shares: dict[int, list[list[Piece]]] = field(default_factory=dict)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of indices, values and tables."""
        parts = sum(part.table.nbytes + part.values.nbytes for part in self.parts)
        return int(self.indices.nbytes + parts) + (self.blocks.nbytes if self.blocks else 0)

    @cached_property
    def whole(self) -> list[Piece]:
        """All rows."""
        return self.shares(1)[0]

    def suited(self, wide: bool) -> Grouped:
        """Return the faster form for a Y with wide rows, or with narrow ones."""
        return self.blocks if self.blocks and wide else self

    def shares(self, count: int) -> list[list[Piece]]:
        """Cut the groups of each part into `count` ranges of about equal work; some may be empty.

        Of blocks of columns each range has the same rows: one thread takes a row through all.
        """
        if count not in self._shares:
            work = [part.work for part in self.parts]
            if self.parts and self.parts[-1].origin != FROM_BIAS:
                work = [np.sum(work, axis=0)] * len(work)
            cuts = [_cut(each, count) for each in work]
            self._shares[count] = [
                [
                    self._piece(part, *cut[k : k + 2])
                    for part, cut in zip(self.parts, cuts, strict=True)
                ]
                for k in range(count)
            ]
        return self._shares[count]

    def _piece(self, part: GroupedRows, first: int, last: int) -> Piece:
        iso, strip = int(len(part.values) == 1), widest_strip(part.rows)
        arrays = (part.table, self.indices, part.values)
        return Piece(part.rows, iso, *arrays, first, last, strip, part.origin, part.final)


def _cut(work: Array, count: int) -> list[int]:
    done = np.cumsum(work)
    goals = (done[-1] if len(done) else 0) * np.arange(1, count) / count
    return [0, *np.searchsorted(done, goals).tolist(), len(work)]


def is_wide(pitch: int) -> bool:
    """True if rows of Y of `pitch` bytes are wide enough for blocks of columns."""
    return pitch >= WIDE


def ungrouped(
    indptr: Array, indices: Array, values: Array, columns: int, blocks: Grouped | None = None
) -> Grouped:
    """Return rows as they are, over `values` itself; indices of uint16 where they fit."""
    begin = indptr[:-1].astype(np.int64)
    part = _part(1, np.arange(len(begin))[:, None], begin, np.diff(indptr), values)
    return Grouped(indices.astype(_index_dtype(columns), copy=False), (part,), blocks)


def group_rows(weight: CSR) -> Grouped:
    """Find the rows with equal patterns and group them; O(nnz + rows log rows)."""
    indptr = weight.indptr.astype(np.int64)
    lengths, begin = np.diff(indptr), indptr[:-1]
    rows = np.arange(len(lengths))
    leader = equal_rows(weight)
    blocks = _blocks(weight, indptr) if _blocks_pay(weight, leader, lengths) else None
    if (leader == rows).all():
        return ungrouped(indptr, weight.indices, weight.values, weight.shape[1], blocks)
    keeps = np.flatnonzero(leader == rows)  # the rows whose lists are stored
    starts = np.zeros(len(rows), np.int64)
    starts[keeps[1:]] = np.cumsum(lengths[keeps])[:-1]
    indices = weight.indices[ranges(begin[keeps], lengths[keeps])]
    indices = indices.astype(_index_dtype(weight.shape[1]))
    return Grouped(indices, _parts(leader, starts[leader], begin, lengths, weight.values), blocks)


def group_dense(weight: Array) -> Grouped:
    """Group the rows of a full matrix: all have the pattern 0, 1, ... in_features - 1."""
    rows, columns = weight.shape
    leader, starts = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    begin = np.arange(rows, dtype=np.int64) * columns
    lengths = np.full(rows, columns, np.int64)
    indices = np.arange(columns, dtype=_index_dtype(columns))
    return Grouped(indices, _parts(leader, starts, begin, lengths, weight.ravel()))


def _blocks_pay(weight: CSR, leader: Array, lengths: Array) -> bool:
    """True for a dense enough weight most of whose non-zeros are in rows without a group."""
    sharing = np.bincount(leader, minlength=len(leader))[leader] >= GROUP
    alone = 2 * int(lengths[sharing].sum()) < weight.nnz
    return alone and weight.shape[1] > BLOCK and weight.density * BLOCK >= MIN_PIECE


def _blocks(weight: CSR, indptr: Array) -> Grouped:
    """Return W stored again, block after block of columns; each part holds all rows.

    Reading blocks from row-major storage instead would spare the copy, but is half as fast.
    """
    rows, columns = weight.shape
    edges = np.append(np.arange(0, columns, BLOCK), columns)
    row_of = np.repeat(np.arange(rows, dtype=np.int64), np.diff(indptr))
    key = row_of * columns + weight.indices[: weight.nnz]
    cuts = np.searchsorted(key, np.arange(rows)[:, None] * columns + edges)
    targets, last = np.arange(rows)[:, None], len(edges) - 2
    parts, order, stored = [], [], 0
    for k in range(last + 1):
        lengths = cuts[:, k + 1] - cuts[:, k]
        chosen = ranges(cuts[:, k], lengths)
        values = weight.values if len(weight.values) == 1 else weight.values[chosen]
        part = _part(1, targets, stored + np.cumsum(lengths) - lengths, lengths, values)
        parts.append(replace(part, origin=FROM_OUT if k else FROM_BIAS, final=k == last))
        order.append(chosen)
        stored += len(chosen)
    indices = weight.indices[np.concatenate(order)].astype(_index_dtype(columns))
    return Grouped(indices, tuple(parts))


def _parts(
    leader: Array, starts: Array, begin: Array, lengths: Array, values: Array
) -> tuple[GroupedRows, ...]:
    """Cut the rows of each pattern into groups of four and single rows."""
    order = np.argsort(leader, kind="stable")
    opens = np.flatnonzero(np.diff(leader[order], prepend=-1))
    sizes = np.diff(np.append(opens, len(order)))
    position = np.arange(len(order)) - np.repeat(opens, sizes)
    grouped = position < np.repeat(sizes // GROUP * GROUP, sizes)
    quads, singles = order[grouped].reshape(-1, GROUP), order[~grouped].reshape(-1, 1)
    return tuple(
        _part(rows.shape[1], rows, starts, lengths, values, begin)
        for rows in (quads, singles)
        if len(rows)
    )


def _part(
    rows: int, targets: Array, starts: Array, lengths: Array, values: Array,
    begin: Array | None = None,
) -> GroupedRows:  # fmt: skip
    """Build the table, and interleave the values where `begin` says where each row's values are."""
    table = np.empty((len(targets), HEADER + rows), np.int64)
    length = lengths[targets[:, 0]]
    table[:, 0] = starts[targets[:, 0]]
    table[:, 1] = table[:, 0] + length
    table[:, 2] = (np.cumsum(length) - length) * rows
    table[:, HEADER:] = targets
    if begin is not None and len(values) > 1:
        steps = ranges(np.zeros(len(length), np.int64), length)
        values = values[(np.repeat(begin[targets], length, axis=0) + steps[:, None]).ravel()]
    return GroupedRows(rows, table, np.ascontiguousarray(values))


def _index_dtype(columns: int) -> type[np.unsignedinteger[Any] | np.signedinteger[Any]]:
    """uint16 where it fits: a stream of indices half as long, 5 to 15 % faster."""
    if columns <= 1 << 16:
        return np.uint16
    return np.int32 if columns < 1 << 31 else np.int64
