"""Machine-level steps for programs: memory by address, atomics, calls by address, row sums.

numba compiles array expressions, but not these: they are written as LLVM code. Every address is an
int64; whoever computes one answers for it.
"""

# mypy: disable-error-code="call-arg,no-untyped-call,no-untyped-def"
# numba's own annotations do not know that an intrinsic loses its first argument.

from __future__ import annotations

import platform
import sys
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gbdnn.backends.fused.compilation import c_function
from gbdnn.backends.fused.kernels import WORD, multiply_add, word

__all__ = [
    "add", "align_code", "call", "code_stamp", "compiled_address", "dot", "dot_four", "fetch",
    "load", "pause", "pointer", "put", "store", "transpose_square",
]  # fmt: skip

llvmlite.binding.initialize_native_asmparser()  # for `align_code`

LINE = 64  # bytes of a vector register and, nearly everywhere, of a cache line
STEPS = 8  # non-zeros of a row that are taken at once: two to four sums in flight
LANES = 4  # of a vector of gathered values; 16 bytes of float32, 32 of float64
# The hint that a loop waits; frees the core's pipeline, and the other thread of the same core.
HINTS = {
    "x86_64": ("llvm.x86.sse2.pause", None), "amd64": ("llvm.x86.sse2.pause", None),
    "aarch64": ("llvm.aarch64.hint", 1), "arm64": ("llvm.aarch64.hint", 1),
}  # fmt: skip


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic
def pointer(typingctx, address):
    """Return an address as a pointer that `numba.carray` takes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


@intrinsic
def load(typingctx, address, kind):
    """Return the number of type `kind` at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _at(builder, args[0], context.get_data_type(signature.args[1].dtype))
        return builder.load(place, align=signature.args[1].dtype.bitwidth // 8)

    return kind.dtype(types.int64, kind), codegen


@intrinsic
def store(typingctx, address, value):
    """Write a number to an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _at(builder, args[0], args[1].type)
        builder.store(args[1], place, align=signature.args[1].bitwidth // 8)
        return context.get_dummy_value()

    return types.void(types.int64, value), codegen


@intrinsic
def fetch(typingctx, address):
    """Return the word at an address, atomically and in order with all other atomic steps."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_at(builder, args[0], WORD), "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def put(typingctx, address, value):
    """Store a word, atomically and in order with all other atomic steps."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _at(builder, args[0], WORD), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def add(typingctx, address, value):
    """Add to a word and return what it was, atomically."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _at(builder, args[0], WORD), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def pause(typingctx):
    """Tell the core that this loop waits for another one."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name, operand = HINTS.get(platform.machine().lower(), ("", None))
        if name:
            operands = [] if operand is None else [ir.Constant(ir.IntType(32), operand)]
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)] * len(operands))
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call(typingctx, function, arguments):
    """Call the C function at an address with a tuple of words; it may take fewer."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = cgutils.unpack_tuple(builder, args[1])
        kind = ir.FunctionType(ir.VoidType(), [WORD] * len(words))
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), words)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), codegen


@intrinsic
def align_code(typingctx):
    """Let the machine code go on at a multiple of 32 bytes.

    Many x86 cores are slow where a loop's last jump crosses one. Without this a change anywhere
    before the loop in `dot` may move it there, which costs batches of one sample a quarter more.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.asm(kind, ".p2align 5", "", [], side_effect=True)
        return context.get_dummy_value()

    return types.void(), codegen


class _Rows:
    """Emits reads of indices, values and Y of a batch of one sample."""

    def __init__(self, context: Any, builder: Any, real: Any, index: Any) -> None:
        self.builder = builder
        self.real = context.get_data_type(real.dtype)
        self.index = context.get_data_type(index.dtype)
        self.real_bytes, self.index_bytes = real.dtype.bitwidth // 8, index.dtype.bitwidth // 8

    def place(self, base: Any, number: Any, size: int) -> Any:
        return self.builder.add(base, self.builder.mul(number, word(size)))

    def column(self, indices: Any, k: Any) -> Any:
        at = self.place(indices, k, self.index_bytes)
        return self.builder.zext(
            self.builder.load(_at(self.builder, at, self.index), align=self.index_bytes), WORD
        )

    def columns(self, indices: Any, k: Any) -> list[Any]:
        """Load LANES column numbers, of 16 bits as one word: loads are what is scarce."""
        b = self.builder
        if self.index_bytes != 2 or sys.byteorder != "little":
            return [self.column(indices, b.add(k, word(lane))) for lane in range(LANES)]
        four = b.load(_at(b, self.place(indices, k, 2), WORD), align=2)
        parts = [b.lshr(four, word(16 * lane)) for lane in range(LANES)]
        return [*(b.and_(part, word(0xFFFF)) for part in parts[:-1]), parts[-1]]

    def value(self, y: Any, column: Any) -> Any:
        at = self.place(y, column, self.real_bytes)
        return self.builder.load(_at(self.builder, at, self.real), align=self.real_bytes)

    def vector(self, values: Any, k: Any) -> Any:
        kind = ir.VectorType(self.real, LANES)
        at = self.place(values, k, self.real_bytes)
        return self.builder.load(_at(self.builder, at, kind), align=self.real_bytes)

    def gathered(self, y: Any, indices: Any, k: Any) -> Any:
        """Load LANES values of Y one by one: on today's cores faster than their gather."""
        vector = ir.Constant(ir.VectorType(self.real, LANES), ir.Undefined)
        for lane, column in enumerate(self.columns(indices, k)):
            vector = self.builder.insert_element(vector, self.value(y, column), word(lane))
        return vector

    def splat(self, scalar: Any) -> Any:
        vector = ir.Constant(ir.VectorType(self.real, LANES), ir.Undefined)
        for lane in range(LANES):
            vector = self.builder.insert_element(vector, scalar, word(lane))
        return vector


def _for(builder: Any, begin: Any, end: Any, step: int) -> Any:
    return cgutils.for_range_slice(builder, begin, end, word(step))


def _multiple(builder: Any, count: Any, size: int) -> Any:
    return builder.and_(count, word(-size))


@intrinsic
def dot(typingctx, iso, values, indices, y, count, real, index):
    """Return the sum of values[k] * y[indices[k]]; with `iso` all values are the first one."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        iso, values, indices, y, count = args[:5]
        rows = _Rows(context, builder, signature.args[5], signature.args[6])
        result = cgutils.alloca_once(builder, rows.real)
        with builder.if_else(builder.icmp_signed("!=", iso, word(0))) as (same, own):
            with same:
                _emit_dot(rows, True, (values, indices, y, count), result)
            with own:
                _emit_dot(rows, False, (values, indices, y, count), result)
        return builder.load(result)

    given = (types.int64,) * 5
    return real.dtype(*given, real, index), codegen


def _emit_dot(rows: _Rows, iso: bool, given: Any, result: Any) -> None:
    values, indices, y, count = given
    b, kind = rows.builder, ir.VectorType(rows.real, LANES)
    one = rows.value(values, word(0)) if iso else None
    all_one = rows.splat(one) if iso else None
    sums = [cgutils.alloca_once_value(b, ir.Constant(kind, None)) for _ in range(STEPS // LANES)]

    def quad(k: Any, total: Any) -> None:
        weights = all_one if iso else rows.vector(values, k)
        grown = multiply_add(b, rows.gathered(y, indices, k), weights, b.load(total))
        b.store(grown, total)

    whole, quads = _multiple(b, count, STEPS), _multiple(b, count, LANES)
    with _for(b, word(0), whole, STEPS) as (k, _):
        for number, total in enumerate(sums):
            quad(b.add(k, word(number * LANES)), total)
    with b.if_then(b.icmp_signed("<", whole, quads)):
        quad(whole, sums[0])
    vector = b.load(sums[0])
    for total in sums[1:]:
        vector = b.fadd(vector, b.load(total))
    lanes = [b.extract_element(vector, word(lane)) for lane in range(LANES)]
    b.store(b.fadd(b.fadd(lanes[0], lanes[2]), b.fadd(lanes[1], lanes[3])), result)
    with _for(b, quads, count, 1) as (k, _):
        weight = one if iso else rows.value(values, k)
        product = b.fmul(weight, rows.value(y, rows.column(indices, k)))
        b.store(b.fadd(b.load(result), product), result)


@intrinsic
def dot_four(typingctx, values, indices, y, count, real, index):
    """Return the sums of four rows with the same columns, values[4 k + row] * y[indices[k]]."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, indices, y, count = args[:4]
        b, rows = builder, _Rows(context, builder, signature.args[4], signature.args[5])
        zero = ir.Constant(ir.VectorType(rows.real, LANES), None)
        sums = [cgutils.alloca_once_value(b, zero) for _ in range(4)]

        def column(k: Any, number: Any, total: Any) -> None:
            weights = rows.vector(values, b.mul(k, word(LANES)))
            y_k = rows.splat(rows.value(y, number))
            b.store(multiply_add(b, y_k, weights, b.load(total)), total)

        whole = _multiple(b, count, 4)
        with _for(b, word(0), whole, 4) as (k, _):
            for step, number in enumerate(rows.columns(indices, k)):
                column(b.add(k, word(step)), number, sums[step])
        with _for(b, whole, count, 1) as (k, _):
            column(k, rows.column(indices, k), sums[0])
        left, right = (b.fadd(b.load(sums[n]), b.load(sums[n + 1])) for n in (0, 2))
        total = b.fadd(left, right)
        lanes = [b.extract_element(total, word(lane)) for lane in range(LANES)]
        return context.make_tuple(b, signature.return_type, lanes)

    given = (types.int64,) * 4
    return types.UniTuple(real.dtype, 4)(*given, real, index), codegen


@intrinsic
def transpose_square(typingctx, source, source_pitch, target, target_pitch, real):
    """Transpose a square of 64 x 64 bytes' worth of lanes, in registers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        itemsize = signature.args[4].dtype.bitwidth // 8
        side = LINE // itemsize
        kind = ir.VectorType(context.get_data_type(signature.args[4].dtype), side)

        def place(base: Any, pitch: Any, row: int) -> Any:
            at = builder.add(base, builder.mul(pitch, word(row)))
            return _at(builder, at, kind)

        rows = [builder.load(place(args[0], args[1], row), align=itemsize) for row in range(side)]
        step = 1
        while step < side:  # swap the off-diagonal squares of 1, 2, 4, 8 lanes
            for row in (row for row in range(side) if not row & step):
                rows[row], rows[row + step] = _swapped(
                    builder, rows[row], rows[row + step], step, side
                )
            step *= 2
        for row, vector in enumerate(rows):
            builder.store(vector, place(args[2], args[3], row), align=itemsize)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 4, real), codegen


def _swapped(builder: Any, upper: Any, lower: Any, step: int, side: int) -> tuple[Any, Any]:
    lanes = ir.VectorType(ir.IntType(32), side)
    first = [k if not k & step else side + k - step for k in range(side)]
    second = [k + step if not k & step else side + k for k in range(side)]
    return (
        builder.shuffle_vector(upper, lower, ir.Constant(lanes, first)),
        builder.shuffle_vector(upper, lower, ir.Constant(lanes, second)),
    )


def compiled_address(signature: str, function: Any) -> int:
    """Return the address of a function compiled as a C function, which is kept for good."""
    made = c_function(signature, function)
    _kept.append(made)
    return made.address or 0


_kept: list[Any] = []


@cache
def code_stamp() -> int:
    """Return a number of the sources that the machine code comes from.

    numba's cache on disk looks at a function's file and at what it encloses, not at other files.
    """
    sources = b""
    with suppress(OSError):
        for path in sorted(Path(__file__).parent.rglob("*.py")):
            sources += path.read_bytes()
    return zlib.crc32(sources)
