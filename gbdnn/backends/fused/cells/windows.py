"""Weights for one column: sixteen rows side by side that pick from a window of 32 columns.

The rows of a block (see `slices`) are taken sixteen at a time, the longest first. A step loads 32
values of Y from its start on, and each row picks from them for its next two entries, with one
instruction each: no value is loaded alone. A row without an entry in the window adds zeros times a
value that is there. A row's entries are taken in their order, so that its sum is that of `slices`,
bit for bit.
"""

# mypy: disable-error-code="call-arg,no-untyped-call,no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import float32, int64, types
from numba.core import cgutils
from numba.extending import intrinsic

from gbdnn.backends.base import aligned_empty
from gbdnn.backends.fused.compilation import array_type, compiled, jit
from gbdnn.backends.fused.kernels import BYTE, WORD, multiply_add, word
from gbdnn.types import Array

__all__ = ["WINDOW", "Windows", "window_sums", "windows"]

ROWS = 16  # of a group: float32 in a register
SLOTS = 2  # entries that a row may pick in a step
WINDOW = 32  # columns: what one instruction picks from
RECORD = 2 + ROWS  # words of a group: first step, last + 1, its rows of W, or -1
NUMBER = ir.IntType(32)


@dataclass(frozen=True, eq=False)
class Windows:
    """A matrix as steps of windows; the first three arrays as those of `Slices`.

    Attributes
    ----------
    starts : ndarray of int64, shape (blocks + 1,)
        The first group of each block.
    table : ndarray of int64, shape (groups, 18)
    columns : ndarray of uint16, shape (steps,)
        Where each window begins.
    places : ndarray of uint8, shape (steps, 2, 16)
    values : ndarray of float32, shape (steps, 2, 16)
    order : ndarray of int64
        For each value its place among the weight's entries, or -1.
    """

    starts: Array
    table: Array
    columns: Array
    places: Array
    values: Array
    order: Array
    padding: Array

    def refresh(self, entries: Array) -> None:
        """Take over new values of the weight's entries."""
        values = self.values.reshape(-1)
        if len(entries):
            np.take(entries, self.order, out=values, mode="clip")
        values[self.padding] = 0


@cache
def has_instruction() -> bool:
    """Return whether this processor can pick from two registers."""
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))


def windows(
    indptr: Array, indices: Array, entries: Array, order: Array, blocks: list[Array], columns: int
) -> Windows | None:
    """Return a matrix as steps; None where the processor or the matrix does not suit them.

    Parameters
    ----------
    indptr, indices, entries, order : ndarray
        As of `slices`; the columns of a row ascend.
    blocks : list of ndarray
        The rows of each block, the longest first.
    columns : int
        Of the matrix.
    """
    if not has_instruction() or entries.dtype != np.float32 or columns < WINDOW:
        return None
    groups = [np.append(own, np.full(-len(own) % ROWS, -1)).reshape(-1, ROWS) for own in blocks]
    table = np.empty((sum(map(len, groups)), RECORD), np.int64)
    table[:, 2:] = np.concatenate(groups)
    indptr, indices = indptr.astype(np.int64), indices.astype(np.int64)
    _load()
    count = _slide(indptr, indices, table, columns, *_empty(0), False)
    starts, places, found = _empty(count)
    _slide(indptr, indices, table, columns, starts, places, found, True)
    padding = np.flatnonzero(found.reshape(-1) < 0)
    place = np.where(found < 0, -1, order[found] if len(order) else found).reshape(-1)
    values = aligned_empty(max(count, 1) * SLOTS * ROWS, np.float32)[: count * SLOTS * ROWS]
    made = Windows(
        np.concatenate([[0], np.cumsum([len(each) for each in groups])]), table,
        starts.astype(np.uint16), places, values.reshape(count, SLOTS, ROWS), place, padding,
    )  # fmt: skip
    made.refresh(entries)
    return made


def _empty(count: int) -> tuple[Array, Array, Array]:
    return (
        np.zeros(count, np.int64), np.zeros((count, SLOTS, ROWS), np.uint8),
        np.full((count, SLOTS, ROWS), -1, np.int64),
    )  # fmt: skip


@jit
def _slide(indptr, indices, table, columns, starts, places, found, write):
    """Slide a window over the entries of each group; return the number of steps."""
    at, ends = np.zeros(ROWS, np.int64), np.zeros(ROWS, np.int64)
    step = 0
    for group in range(len(table)):
        for r in range(ROWS):
            row = table[group, 2 + r]
            at[r] = indptr[row] if row >= 0 else 0
            ends[r] = indptr[row + 1] if row >= 0 else 0
        table[group, 0] = step
        while True:
            start = np.int64(-1)
            for r in range(ROWS):
                if at[r] < ends[r] and (start < 0 or indices[at[r]] < start):
                    start = indices[at[r]]
            if start < 0:
                break
            first = min(start, columns - WINDOW)  # it ends within the matrix
            if write:
                starts[step] = first
                places[step] = start - first  # for rows that pick nothing
            for r in range(ROWS):
                for slot in range(SLOTS):
                    if at[r] == ends[r] or indices[at[r]] >= first + WINDOW:
                        break
                    if write:
                        places[step, slot, r] = indices[at[r]] - first
                        found[step, slot, r] = at[r]
                    at[r] += 1
            step += 1
        table[group, 1] = step
    return step


_loaded: list[bool] = []


def _load() -> None:
    """Load `_slide` from the disk cache, or compile it."""
    if _loaded:
        return
    numbers, changed = array_type(int64, 1), array_type(int64, 1, writable=True)
    table, places = array_type(int64, 2, writable=True), array_type(types.uint8, 3, writable=True)
    found = array_type(int64, 3, writable=True)

    def make() -> None:
        _slide.compile((numbers, numbers, table, int64, changed, places, found, types.boolean))

    compiled(make)
    _loaded.append(True)


@intrinsic
def window_sums(typingctx, table, first, last, columns, places, values, y, out, spare, real):
    """Add products to one column `out` for groups first ... last - 1 of float32 rows.

    Every argument but `first` and `last` is an address; `spare` takes what rows that do not exist
    are said to be. For other numbers than float32 it does nothing: they have no windows.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if signature.args[-1].dtype == float32 and has_instruction():
            _emit(builder, *args[:9])
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 9, real), codegen


def _emit(
    b: Any, table: Any, first: Any, last: Any, columns: Any, places: Any, values: Any, y: Any,
    out: Any, spare: Any,
) -> None:  # fmt: skip
    element = ir.FloatType()
    vector, picks = ir.VectorType(element, ROWS), ir.VectorType(NUMBER, ROWS)
    total = cgutils.alloca_once(b, vector)
    kind = ir.FunctionType(vector, [vector, picks, vector])
    pick = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx512.vpermi2var.ps.512")

    def load(address: Any, kind: Any, align: int) -> Any:
        return b.load(b.inttoptr(address, kind.as_pointer()), align=align)

    def place(base: Any, number: Any, size: int) -> Any:
        return b.add(base, b.mul(number, word(size)))

    with cgutils.for_range_slice(b, first, last, word(1)) as (group, _):
        record, rows = place(table, group, 8 * RECORD), []
        for r in range(ROWS):
            row = load(b.add(record, word(8 * (2 + r))), WORD, 8)
            rows.append(b.select(b.icmp_signed("<", row, word(0)), spare, place(out, row, 4)))
        begun = ir.Constant(vector, ir.Undefined)
        for r, row in enumerate(rows):
            begun = b.insert_element(begun, load(row, element, 4), word(r))
        b.store(begun, total)
        begin, end = load(record, WORD, 8), load(b.add(record, word(8)), WORD, 8)
        with cgutils.for_range_slice(b, begin, end, word(1)) as (step, _):
            start = b.zext(load(place(columns, step, 2), ir.IntType(16), 2), WORD)
            window = place(y, start, 4)
            low, high = load(window, vector, 4), load(b.add(window, word(64)), vector, 4)
            for slot in range(SLOTS):
                at = b.add(b.mul(step, word(SLOTS)), word(slot))
                codes = load(place(places, at, ROWS), ir.VectorType(BYTE, ROWS), ROWS)
                picked = b.call(pick, [low, b.zext(codes, picks), high])
                weights = load(place(values, at, 4 * ROWS), vector, 64)
                b.store(multiply_add(b, weights, picked, b.load(total)), total)
        result = b.load(total)
        for r, row in enumerate(rows):
            b.store(b.extract_element(result, word(r)), b.inttoptr(row, element.as_pointer()),
                    align=4)  # fmt: skip
