"""Float32 weights for one column, by windows: no value of Y is loaded alone.

The rows of a block (see `slices`) are taken sixteen at a time, the longest first; for steps see
`gbdnn.backends.fused.windows`. With AVX-512 a row has two entries in a step and the window has 32
columns, as many as one instruction picks from, or 64; with AVX2 one entry and 8 columns. A row
without an entry in the window adds zero times a value that is there. A row's entries are taken in
their order, so that its sum is that of `slices`, bit for bit.
"""

# mypy: disable-error-code="call-arg,no-untyped-call,no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, types
from numba.core import cgutils
from numba.extending import intrinsic

from gbdnn.backends.base import aligned_empty
from gbdnn.backends.fused.compilation import supports
from gbdnn.backends.fused.kernels import BYTE, WORD, multiply_add, word
from gbdnn.backends.fused.windows import ROWS, Slide, Windows, as_windows, grouped, sliding
from gbdnn.types import Array

__all__ = ["KINDS", "FloatWindows", "Kind", "chosen", "usable", "window_sums", "windows"]

NUMBER = ir.IntType(32)


@dataclass(frozen=True)
class Kind:
    """How a step looks.

    Attributes
    ----------
    lanes : int
        Float32 of a register.
    slots, window : int
        Entries that a row may have in a step, columns that they may be in.
    needs : str
        The processor's feature.
    cost : float
        Of a step, where all are near: as many of the kind before.
    entries : float
        As many entries, one after the other, take as long as a step.
    most : int
        Bytes of a matrix beyond which its steps, larger than its entries, wait for memory.
    """

    lanes: int
    slots: int
    window: int
    needs: str
    cost: float
    entries: float
    most: int

    @property
    def bytes(self) -> int:
        """Bytes of a step."""
        return 2 + 5 * self.slots * ROWS


KINDS = (
    Kind(16, 2, 32, "avx512f", 1.0, 11.0, 1 << 40),
    Kind(16, 2, 64, "avx512f", 1.25, 15.0, 1 << 40),
    Kind(8, 1, 8, "avx2", 1.0, 4.5, 1 << 20),
)
NEAR = 2 << 20
"""Bytes of steps beyond which a wider window, of fewer steps, costs nothing: memory is slower."""


@dataclass(frozen=True, eq=False)
class FloatWindows:
    """A matrix as steps of windows, whose values may change.

    Attributes
    ----------
    kind : int
        Which of `KINDS`.
    windows : Windows
        `places` are uint8 and `weights` float32, shape (steps, slots x 16).
    starts : ndarray of int64, shape (blocks + 1,)
        The first group of each block.
    order : ndarray of int64
        For each value its place among the weight's entries, or -1.
    padding : ndarray of int64
        The values that are zero.
    """

    kind: int
    windows: Windows
    starts: Array
    order: Array
    padding: Array

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.windows.nbytes + self.order.nbytes + self.padding.nbytes

    def refresh(self, entries: Array) -> None:
        """Take over new values of the weight's entries."""
        values = self.windows.weights.reshape(-1)
        if len(entries):
            np.take(entries, self.order, out=values, mode="clip")
        values[self.padding] = 0


@cache
def usable() -> list[int]:
    """Return which kinds the processor has, of the longest registers only."""
    found = [k for k, kind in enumerate(KINDS) if supports(kind.needs)]
    return [k for k in found if KINDS[k].lanes == KINDS[found[0]].lanes]


def _slide(indptr: Array, indices: Array, columns: int, kind: Kind) -> Slide:
    given = indptr, indices.astype(np.uint16), kind.slots, kind.window, columns - kind.window
    return sliding(*given, side_by_side=False)


def chosen(indptr: Array, indices: Array, columns: int) -> tuple[int, int] | None:
    """Return which of `KINDS` suits a matrix, and about how many steps that takes.

    None where the processor or the matrix suits none.
    """
    targets, best = grouped(np.arange(len(indptr) - 1)), None
    for k in usable():
        kind = KINDS[k]
        if not kind.window <= columns <= 1 << 16:
            continue
        nothing = np.zeros(len(targets) // ROWS + 1, np.int64), *_rooms(kind, 0), False
        steps = _slide(indptr, indices, columns, kind)(1, targets, *nothing)
        if best is not None:
            near = best[1] * KINDS[best[0]].bytes <= NEAR
            if steps * (kind.cost if near else 1) >= best[1]:
                continue
        best = k, steps
    return best


def _rooms(kind: Kind, count: int) -> tuple[Array, Array, Array]:
    size = kind.slots * ROWS
    places = np.zeros((count, size), np.uint8)
    return np.zeros(count, np.uint16), places, np.zeros((count, size), np.uint32)


def windows(
    indptr: Array, indices: Array, entries: Array, order: Array, blocks: list[Array], columns: int,
    *, fixed: bool,
) -> FloatWindows | None:  # fmt: skip
    """Return a matrix as steps; None where the processor or the matrix does not suit them.

    Parameters
    ----------
    indptr, indices, entries, order : ndarray
        As of `slices`; the columns of a row ascend.
    blocks : list of ndarray
        The rows of each block, the longest first.
    columns : int
        Of the matrix.
    fixed : bool
        Values are not refreshed.
    """
    suited = chosen(indptr, indices, columns) if entries.dtype == np.float32 else None
    if suited is None:
        return None
    kind, groups = KINDS[suited[0]], [grouped(own) for own in blocks]
    made = as_windows(_slide(indptr, indices, columns, kind),
                      [(1.0, 1, np.concatenate(groups))], partial(_rooms, kind))  # fmt: skip
    found = made.weights.reshape(-1)
    values = aligned_empty(max(len(found), 1), np.float32)[: len(found)]
    result = FloatWindows(
        suited[0], replace(made, weights=values.reshape(made.weights.shape)),
        np.concatenate([[0], np.cumsum([len(each) // ROWS for each in groups])]),
        np.append(-1, order)[found], np.flatnonzero(found == 0),
    )  # fmt: skip
    result.refresh(entries)
    nothing = found[:0].copy()
    return replace(result, order=nothing, padding=nothing) if fixed else result


@intrinsic
def window_sums(
    typingctx, kind, targets, table, first, last, starts, places, values, y, out, spare, real
):
    """Add products to one column `out` for groups first ... last - 1 of float32 rows.

    `kind` is one of `KINDS`. Every other argument but `first` and `last` is an address; `spare`
    takes what rows that do not exist are said to be. For other numbers than float32 it does
    nothing: they have no windows.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if signature.args[-1].dtype == float32:
            for k in usable():
                with builder.if_then(builder.icmp_signed("==", args[0], word(k))):
                    _emit(builder, KINDS[k], *args[1:11])
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 11, real), codegen


def _emit(
    b: Any, kind: Kind, targets: Any, table: Any, first: Any, last: Any, starts: Any, places: Any,
    values: Any, y: Any, out: Any, spare: Any,
) -> None:  # fmt: skip
    element = ir.FloatType()
    vector, picks = ir.VectorType(element, kind.lanes), ir.VectorType(NUMBER, kind.lanes)
    halves = range(ROWS // kind.lanes)
    totals = [cgutils.alloca_once(b, vector) for _ in halves]
    name, operands = "llvm.x86.avx512.vpermi2var.ps.512", [vector, picks, vector]
    if kind.window == kind.lanes:
        name, operands = "llvm.x86.avx2.permps", [vector, picks]
    pick = cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, operands), name)

    def load(address: Any, kind: Any, align: int) -> Any:
        return b.load(b.inttoptr(address, kind.as_pointer()), align=align)

    def place(base: Any, number: Any, size: int) -> Any:
        return b.add(base, b.mul(number, word(size)))

    with cgutils.for_range_slice(b, first, last, word(1)) as (group, _):
        chosen, rows = place(targets, group, 8 * ROWS), []
        for r in range(ROWS):
            row = load(b.add(chosen, word(8 * r)), WORD, 8)
            rows.append(b.select(b.icmp_signed("<", row, word(0)), spare, place(out, row, 4)))
        for half, total in zip(halves, totals, strict=True):
            begun = ir.Constant(vector, ir.Undefined)
            for r in range(kind.lanes):
                at = rows[half * kind.lanes + r]
                begun = b.insert_element(begun, load(at, element, 4), word(r))
            b.store(begun, total)
        limits = place(table, group, 8)
        begin, end = load(limits, WORD, 8), load(b.add(limits, word(8)), WORD, 8)
        with cgutils.for_range_slice(b, begin, end, word(1)) as (step, _):
            start = b.zext(load(place(starts, step, 2), ir.IntType(16), 2), WORD)
            window = place(y, start, 4)
            seen = [load(b.add(window, word(4 * k)), vector, 4)
                    for k in range(0, kind.window, kind.lanes)]  # fmt: skip
            for slot in range(kind.slots):
                for half, total in zip(halves, totals, strict=True):
                    number = slot * ROWS + half * kind.lanes
                    at = b.add(b.mul(step, word(kind.slots * ROWS)), word(number))
                    codes = load(b.add(places, at), ir.VectorType(BYTE, kind.lanes), kind.lanes)
                    picked = _picked(b, pick, b.zext(codes, picks), seen)
                    weights = load(place(values, at, 4), vector, 4 * kind.lanes)
                    b.store(multiply_add(b, weights, picked, b.load(total)), total)
        for half, total in zip(halves, totals, strict=True):
            result = b.load(total)
            for r in range(kind.lanes):
                target = b.inttoptr(rows[half * kind.lanes + r], element.as_pointer())
                b.store(b.extract_element(result, word(r)), target, align=4)


def _picked(b: Any, pick: Any, places: Any, seen: list[Any]) -> Any:
    """Return the numbers at places of a window: of the one half or, bit 5 set, of the other."""
    found = b.call(pick, [seen[0], places, *seen[1:2]])
    if len(seen) <= 2:
        return found
    upper = b.and_(places, ir.Constant(places.type, [32] * places.type.count))
    other = b.call(pick, [seen[2], places, seen[3]])
    return b.select(b.icmp_unsigned("!=", upper, ir.Constant(places.type, None)), other, found)
