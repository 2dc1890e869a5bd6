"""Weights of a recurrence in slices: eight rows side by side, and their products as LLVM code.

The rows of some cells make a block; within it they are sorted by length and cut into slices of
eight. Entry k of a slice is eight columns and eight values, those of its rows; shorter rows are
filled up with zeros, some 4 % of the entries. For one column of Y the eight sums are the lanes of a
vector; for more columns a row's sums are, and several rows go together. Either way a sum begins
with what `out` holds and grows entry by entry with multiply-adds: a column has the same bits in
whatever batch it is.
"""

# mypy: disable-error-code="call-arg,no-untyped-call,no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gbdnn.backends.base import aligned_empty
from gbdnn.backends.fused.kernels import WORD, multiply_add, splat, word
from gbdnn.types import Array

__all__ = ["CELLS", "COLUMNS", "Slices", "block_rows", "slices", "sums"]

ROWS = 8  # of a slice
CELLS = 16  # of a block
COLUMNS = (64, 32, 16, 8, 4, 2, 1)  # that are taken through a slice at a time
RECORD = 2 + ROWS  # words of a slice: first entry, entries, its rows of W, or -1
BYTES = 256  # of sums in flight: eight of AVX2's sixteen registers


@dataclass(frozen=True, eq=False)
class Slices:
    """A matrix in slices.

    Attributes
    ----------
    starts : ndarray of int64, shape (blocks + 1,)
        The first slice of each block.
    table : ndarray of int64, shape (slices, 10)
    columns : ndarray of uint16
    values : ndarray
    order : ndarray of int64
        For each value its place among the weight's entries.
    padding : ndarray of int64
        The places of `values` that are zero.
    """

    starts: Array
    table: Array
    columns: Array
    values: Array
    order: Array
    padding: Array

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(getattr(self, each.name).nbytes for each in fields(self))

    def refresh(self, entries: Array) -> None:
        """Take over new values of the weight's entries."""
        if len(entries):
            np.take(entries, self.order, out=self.values, mode="clip")
        self.values[self.padding] = 0


def block_rows(lengths: Array, gates: int) -> list[Array]:
    """Return the rows of each block of CELLS cells, the longest first.

    A cell is `gates` rows, as far from each other as there are cells.
    """
    cells, found = len(lengths) // gates, []
    for first in range(0, cells, CELLS):
        own = np.arange(first, min(first + CELLS, cells))
        rows = (np.arange(gates)[:, None] * cells + own).ravel()
        found.append(rows[np.argsort(-lengths[rows], kind="stable")])
    return found


def slices(
    indptr: Array, indices: Array, entries: Array, order: Array, blocks: list[Array], *,
    fixed: bool,
) -> Slices:  # fmt: skip
    """Cut a matrix, CSR with the places `order` of its entries in `entries`, into slices.

    `blocks` has the rows of each block. Values that are `fixed` are not refreshed.
    """
    lengths = np.diff(indptr)
    records, columns, places, starts, done = [], [], [], [0], 0
    for rows in blocks:
        filled = np.append(rows, np.full(-len(rows) % ROWS, -1)).reshape(-1, ROWS)
        for group in filled:
            count = np.where(group < 0, 0, lengths[group])
            steps = np.arange(count.max(initial=0))[:, None]
            inside = steps < count
            at = np.where(inside, indptr[group] + steps, 0)
            columns.append(np.where(inside, indices[at], 0) if at.size else at)
            places.append(np.where(inside, order[at], -1) if at.size else at)
            records.append([done, len(steps), *group])
            done += len(steps)
        starts.append(len(records))
    place = np.concatenate(places).ravel().astype(np.int64)
    values = aligned_empty(max(len(place), 1), entries.dtype)[: len(place)]
    made = Slices(
        np.array(starts), np.array(records, np.int64),
        np.concatenate(columns).ravel().astype(np.uint16), values, place,
        np.flatnonzero(place < 0),
    )  # fmt: skip
    made.refresh(entries)
    return replace(made, order=place[:0], padding=place[:0]) if fixed else made


@intrinsic
def sums(typingctx, lanes, table, first, last, columns, values, y, out, pitch, at, spare, real):
    """Add products to `lanes` columns of `out`, at byte `at` of its rows, for some slices.

    Every argument but the first four and `pitch` is an address; `spare` is a row for rows that do
    not exist.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[-1].dtype
        emit = _Sums(builder, context.get_data_type(kind), kind.bitwidth // 8, args[4:11])
        for option in COLUMNS:
            with (
                builder.if_then(builder.icmp_signed("==", args[0], word(option))),
                cgutils.for_range_slice(builder, args[2], args[3], word(1)) as (number, _),
            ):
                record = builder.add(args[1], builder.mul(number, word(8 * RECORD)))
                emit.one(record) if option == 1 else emit.several(record, option)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 11, real), codegen


class _Sums:
    """Emits the products of one slice."""

    def __init__(self, builder: Any, element: Any, size: int, places: Any) -> None:
        self.builder, self.element, self.size = builder, element, size
        self.columns, self.values, self.y, self.out, self.pitch, self.at, self.spare = places

    def load(self, address: Any, kind: Any, align: int) -> Any:
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=align)

    def word_at(self, base: Any, number: int) -> Any:
        return self.load(self.builder.add(base, word(8 * number)), WORD, 8)

    def rows(self, record: Any) -> list[Any]:
        """Return the addresses of the slice's rows of `out`."""
        b, found = self.builder, []
        for number in range(ROWS):
            target = self.word_at(record, 2 + number)
            row = b.add(self.out, b.mul(target, self.pitch))
            exists = b.icmp_signed(">=", target, word(0))
            found.append(b.add(b.select(exists, row, self.spare), self.at))
        return found

    def column(self, k: Any, row: int) -> Any:
        """Return the address of the row of Y that entry k of a row is multiplied with."""
        b = self.builder
        place = b.add(self.columns, b.add(b.mul(k, word(2 * ROWS)), word(2 * row)))
        number = b.zext(self.load(place, ir.IntType(16), 2), WORD)
        return b.add(b.add(self.y, b.mul(number, self.pitch)), self.at)

    def entries(self, record: Any) -> tuple[Any, Any]:
        first = self.word_at(record, 0)
        return first, self.builder.add(first, self.word_at(record, 1))

    def one(self, record: Any) -> None:
        """Emit the sums of eight rows for one column."""
        b, vector = self.builder, ir.VectorType(self.element, ROWS)
        rows, total = self.rows(record), cgutils.alloca_once(b, vector)
        b.store(self.gathered(rows, vector), total)
        with cgutils.for_range_slice(b, *self.entries(record), word(1)) as (k, _):
            place = b.add(self.values, b.mul(k, word(self.size * ROWS)))
            y = self.gathered([self.column(k, row) for row in range(ROWS)], vector)
            weights = self.load(place, vector, self.size)
            b.store(multiply_add(b, weights, y, b.load(total)), total)
        result = b.load(total)
        for number, row in enumerate(rows):
            place = b.inttoptr(row, self.element.as_pointer())
            b.store(b.extract_element(result, word(number)), place, align=self.size)

    def gathered(self, addresses: list[Any], vector: Any) -> Any:
        result = ir.Constant(vector, ir.Undefined)
        for number, address in enumerate(addresses):
            value = self.load(address, self.element, self.size)
            result = self.builder.insert_element(result, value, word(number))
        return result

    def several(self, record: Any, lanes: int) -> None:
        """Emit the sums for some columns, as many rows at a time as the registers have room for."""
        b, vector = self.builder, ir.VectorType(self.element, lanes)
        rows, count = self.rows(record), min(ROWS, max(BYTES // (lanes * self.size), 1))
        for first in range(0, ROWS, count):
            totals = [cgutils.alloca_once(b, vector) for _ in range(count)]
            for number, total in enumerate(totals):
                b.store(self.load(rows[first + number], vector, self.size), total)
            with cgutils.for_range_slice(b, *self.entries(record), word(1)) as (k, _):
                for number, total in enumerate(totals):
                    entry = b.add(b.mul(k, word(ROWS)), word(first + number))
                    place = b.add(self.values, b.mul(entry, word(self.size)))
                    weight = splat(b, self.load(place, self.element, self.size), vector)
                    y = self.load(self.column(k, first + number), vector, self.size)
                    b.store(multiply_add(b, weight, y, b.load(total)), total)
            for number, total in enumerate(totals):
                place = b.inttoptr(rows[first + number], vector.as_pointer())
                b.store(b.load(total), place, align=self.size)
