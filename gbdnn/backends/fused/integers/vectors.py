"""Vector code of the integer products, as LLVM instructions.

Activations are bytes u = code - low, 0 ... 255, weights are bytes -127 ... 127. Two neighbouring
products are added to a 16-bit sum by one instruction (`_multiply_pairs`), several such sums make a
*unit*, and the sum of a unit is widened to 32 bits once. `packing` puts only so many entries into a
unit that no part of its sum can leave 16 bits, so that all of this is exact.

The numbers of a product stand in one of two orders:

- *units*, for batches: a unit is 2 x `pairs` entries of one row, wherever they are. The bytes of
  two features are interleaved and multiplied by two weights: 8 to 64 samples at a time;
- *windows*, for few samples: a step has two entries for each of 16 rows, all in one window of 16
  features, which one shuffle of bytes picks: no gathering.

With `machine` uint8 the instructions of AVX2 are asked for by name. With int8 everything is written
in plain LLVM, for any processor; windows need the shuffle and are not to be had then.
"""

# mypy: disable-error-code="call-arg,no-untyped-call,no-untyped-def"
# numba's own annotations do not know that an intrinsic loses its first argument.

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gbdnn.backends.fused.kernels import BYTE, WORD, splat, word
from gbdnn.backends.fused.windows import ROWS

__all__ = [
    "BLOCKS", "DOUBT", "NUMBER", "PLACE", "ROWS", "SHORT", "SLOTS", "STEP", "STRIPS", "WINDOW",
    "Emitter", "code_block", "unit_rows", "window_sums",
]  # fmt: skip

BLOCKS = (32, 8)  # numbers that are coded at a time
DOUBT = 0.5 - 2.0**-12  # distance from a whole number above which a tie may be near
STRIPS = (64, 32, 16, 8)  # samples, and bytes of codes of a feature, that are computed at a time
SLOTS, WINDOW = 2, 16  # of a step: entries of each row, features to choose from
STEP = ROWS * SLOTS  # bytes of a step's codes
PLACE = 8  # what the numbers of columns in units are multiplied by: processors add 1 to 8 times
SAMPLES = (4, 2, 1)  # that share the loads of a step
SHORT, NUMBER = ir.IntType(16), ir.IntType(32)


class Emitter:
    """Emits what all kinds of products consist of; `native`: with instructions by name."""

    def __init__(self, builder: Any, *, native: bool) -> None:
        self.builder, self.native = builder, native

    def at(self, base: Any, offset: Any, kind: Any) -> Any:
        """Return a pointer to `kind` at the address `base` + `offset`."""
        return self.builder.inttoptr(self.builder.add(base, offset), kind.as_pointer())

    def load(self, base: Any, offset: Any, kind: Any, align: int = 1) -> Any:
        """Load a `kind` from the address `base` + `offset`."""
        return self.builder.load(self.at(base, offset, kind), align=align)

    def scaled(self, number: Any, size: int) -> Any:
        """Return number * size."""
        return self.builder.mul(number, word(size))

    def shuffled(self, a: Any, b: Any, lanes: list[int]) -> Any:
        """Return these lanes of a and b side by side."""
        kind = ir.VectorType(NUMBER, len(lanes))
        return self.builder.shuffle_vector(a, b, ir.Constant(kind, lanes))

    def called(self, name: str, result: Any, *operands: Any) -> Any:
        """Call an instruction by its name."""
        kind = ir.FunctionType(result, [operand.type for operand in operands])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, operands)

    def multiply_pairs(self, codes: Any, weights: Any) -> Any:
        """Return the 16-bit sums of two neighbouring products, unsigned x signed bytes."""
        b, count = self.builder, codes.type.count // 2
        shorts = ir.VectorType(SHORT, count)
        if self.native and count in (8, 16):
            name = "llvm.x86.ssse3.pmadd.ub.sw.128" if count == 8 else "llvm.x86.avx2.pmadd.ub.sw"
            return self.called(name, shorts, codes, weights)
        products = []
        for first in (0, 1):
            lanes = list(range(first, 2 * count, 2))
            code = b.zext(self.shuffled(codes, codes, lanes), shorts)
            products.append(b.mul(code, b.sext(self.shuffled(weights, weights, lanes), shorts)))
        return b.add(*products)

    def widened(self, sums: Any) -> tuple[Any, Any]:
        """Return the 16-bit sums in even places and those in odd places as 32 bits."""
        b, count = self.builder, sums.type.count // 2
        kind = ir.VectorType(NUMBER, count)
        sixteen = ir.Constant(kind, [16] * count)
        both = b.bitcast(sums, kind)
        odd = b.ashr(both, sixteen)
        if self.native and count in (4, 8):
            name = "llvm.x86.sse2.pmadd.wd" if count == 4 else "llvm.x86.avx2.pmadd.wd"
            first = ir.Constant(sums.type, [1, 0] * count)
            return self.called(name, kind, sums, first), odd
        return b.ashr(b.shl(both, sixteen), sixteen), odd

    def variables(self, count: int, kind: Any) -> list[Any]:
        """Return variables, which LLVM keeps in registers: their address is never taken."""
        return [cgutils.alloca_once(self.builder, kind) for _ in range(count)]

    def grow(self, variable: Any, value: Any) -> None:
        """Add to a variable."""
        self.builder.store(self.builder.add(self.builder.load(variable), value), variable)

    def repeat(self, first: Any, last: Any, step: int = 1) -> Any:
        """Begin a loop."""
        return cgutils.for_range_slice(self.builder, first, last, word(step))


def _native(machine: Any) -> bool:
    """Return what `machine`, a dtype, says."""
    return not machine.dtype.signed


# -- codes -----------------------------------------------------------------------------------------


@intrinsic
def code_block(typingctx, size, source, target, step, inverse, least, most, machine, real):
    """Write min(max(rint(x / step), least), most) - least of 32 or 8 numbers as bytes.

    The division decides where a tie is, and takes as long as all the rest. So the product with
    `inverse` is used, unless it comes near a tie or is no number.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emitter = Emitter(builder, native=_native(signature.args[7]))
        for count in BLOCKS:
            with builder.if_then(builder.icmp_signed("==", args[0], word(count))):
                _emit_code(emitter, ir.VectorType(args[3].type, count), *args[1:7])
        return context.get_dummy_value()

    kind = real.dtype
    return types.void(*(types.int64,) * 3, kind, kind, kind, kind, machine, real), codegen


def _emit_code(
    emitter: Emitter, kind: Any, source: Any, target: Any, step: Any, inverse: Any, least: Any,
    most: Any,
) -> None:  # fmt: skip
    b, count = emitter.builder, kind.count
    suffix = f"v{count}f{32 if isinstance(kind.element, ir.FloatType) else 64}"
    step, inverse, least, most = (splat(b, x, kind) for x in (step, inverse, least, most))
    x = emitter.load(source, word(0), kind, 4)
    (rounded,) = emitter.variables(1, kind)
    quick = b.fmul(x, inverse)
    whole = emitter.called(f"llvm.rint.{suffix}", kind, quick)
    b.store(whole, rounded)
    apart = emitter.called(f"llvm.fabs.{suffix}", kind, b.fsub(quick, whole))
    doubt = b.fcmp_unordered(">", apart, ir.Constant(kind, [DOUBT] * count))
    some = emitter.called(f"llvm.vector.reduce.or.v{count}i1", ir.IntType(1), doubt)
    with b.if_then(some, likely=False):
        b.store(emitter.called(f"llvm.rint.{suffix}", kind, b.fdiv(x, step)), rounded)
    value = b.load(rounded)
    value = b.select(b.fcmp_ordered(">", value, least), value, least)  # NaN becomes least
    value = b.select(b.fcmp_ordered("<", value, most), value, most)
    codes = b.fptosi(b.fsub(value, least), ir.VectorType(NUMBER, count))
    codes = b.trunc(codes, ir.VectorType(BYTE, count))
    b.store(codes, emitter.at(target, word(0), codes.type), align=1)


# -- units: batches --------------------------------------------------------------------------------


@intrinsic
def unit_rows(
    typingctx, strip, table, columns, weights, pairs, first, last, codes, constants, scales, bias,
    bias_step, out, pitch, grow, low, high, machine, real, index,
):  # fmt: skip
    """Compute rows first ... last - 1 for a strip of samples.

    out[r] = min(max(scales[r] * (constants[r] + sum of weight * code) + bias[r], low), high)

    or with `grow` all of this, before the bounds, added to what out[r] holds.

    Row r has the units table[r] ... table[r + 1] - 1. Unit u has 2 `pairs` entries; entry e of it
    is of feature columns[2 pairs u + e] / PLACE and has weights[2 pairs u + e]; the codes of a
    feature are `strip` bytes at codes + strip * feature. All arrays are addresses; rows of `out`
    are `pitch` bytes apart.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        machine, real, index = signature.args[17:20]
        for size in STRIPS:
            with builder.if_then(builder.icmp_signed("==", args[0], word(size))):
                strip = _Strip(builder, machine, size, context.get_data_type(real.dtype),
                               context.get_data_type(index.dtype))  # fmt: skip
                strip.rows(*args[1:17])
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 15, real.dtype, real.dtype, machine, real, index), codegen


class _Strip(Emitter):
    """Emits the product for a strip of samples."""

    def __init__(self, builder: Any, machine: Any, size: int, real: Any, index: Any) -> None:
        super().__init__(builder, native=_native(machine))
        self.size, self.real, self.index = size, real, index
        self.itemsize = 4 if isinstance(real, ir.FloatType) else 8
        self.count = max(size // 32, 1)  # registers of a feature's codes
        self.bytes = size // self.count
        # 8 bytes of two features fill one register of 16
        self.halves = 1 if size == 8 else 2
        self.lanes = self.bytes // self.halves  # samples of a 16-bit sum
        self.shorts = ir.VectorType(SHORT, self.lanes)
        self.numbers = ir.VectorType(NUMBER, self.lanes // 2)
        registers = self.count * self.halves
        self.short = self.variables(registers, self.shorts)
        self.sums = self.variables(2 * registers, self.numbers)
        (self.value,) = self.variables(1, ir.VectorType(real, 8))

    def rows(
        self, table: Any, columns: Any, weights: Any, pairs: Any, first: Any, last: Any, codes: Any,
        constants: Any, scales: Any, bias: Any, bias_step: Any, out: Any, pitch: Any, grow: Any,
        low: Any, high: Any,
    ) -> None:  # fmt: skip
        b = self.builder
        with self.repeat(first, last) as (row, _):
            constant = splat(b, self.load(constants, self.scaled(row, 4), NUMBER, 4), self.numbers)
            for total in self.sums:
                b.store(constant, total)
            begin = self.load(table, self.scaled(row, 8), WORD, 8)
            end = self.load(table, self.scaled(b.add(row, word(1)), 8), WORD, 8)
            width = b.mul(pairs, word(2))
            with self.repeat(begin, end) as (unit, _):
                entry = b.mul(unit, width)
                self.two_pairs(columns, weights, entry, codes, fresh=True)
                with self.repeat(word(4), width, 4) as (more, _):
                    self.two_pairs(columns, weights, b.add(entry, more), codes, fresh=False)
                for k, short in enumerate(self.short):
                    for total, wide in zip(
                        self.sums[2 * k :], self.widened(b.load(short)), strict=False
                    ):
                        self.grow(total, wide)
            scale = self.load(scales, self.scaled(row, self.itemsize), self.real, self.itemsize)
            place = b.mul(row, bias_step)
            shift = self.load(bias, self.scaled(place, self.itemsize), self.real, self.itemsize)
            self.finish(scale, shift, b.add(out, b.mul(row, pitch)), grow, (low, high))

    def two_pairs(self, columns: Any, weights: Any, entry: Any, codes: Any, *, fresh: bool) -> None:
        """Add four entries to the 16-bit sums."""
        b, width = self.builder, self.index.width // 8
        for pair in (0, 1):
            at = b.add(entry, word(2 * pair))
            both = self.load(weights, at, SHORT)
            pairs = ir.VectorType(SHORT, self.lanes)
            weight = b.bitcast(splat(b, both, pairs), ir.VectorType(BYTE, 2 * self.lanes))
            places = []
            for number in (0, 1):
                offset = self.scaled(b.add(at, word(number)), width)
                column = self.load(columns, offset, self.index, width)
                places.append(b.add(codes, self.scaled(b.zext(column, WORD), self.size // PLACE)))
            k = 0
            for register in range(self.count):
                kind = ir.VectorType(BYTE, self.bytes)
                u, v = (
                    self.load(place, word(register * self.bytes), kind, self.bytes)
                    for place in places
                )
                for half in range(self.halves):
                    product = self.multiply_pairs(self.interleaved(u, v, half), weight)
                    if fresh and pair == 0:
                        b.store(product, self.short[k])
                    else:
                        self.grow(self.short[k], product)
                    k += 1

    def interleaved(self, u: Any, v: Any, half: int) -> Any:
        """Return bytes of u and v in turn: of each 16, the first 8 or the last 8."""
        lanes: list[int] = []
        for block in range(0, self.bytes, 16):
            first = block + 8 * half
            for k in range(first, first + 8):
                lanes += [k, k + self.bytes]
        return self.shuffled(u, v, lanes)

    def finish(self, scale: Any, shift: Any, out: Any, grow: Any, bounds: Any) -> None:
        """Scale, add the bias, clamp and store, in the samples' own order."""
        b, lanes = self.builder, 8
        kind = ir.VectorType(self.real, lanes)
        scale, shift, low, high = (splat(b, x, kind) for x in (scale, shift, *bounds))
        for k in range(len(self.short)):
            even, odd = (b.load(total) for total in self.sums[2 * k : 2 * k + 2])
            count = self.lanes // 2
            for block in range(self.lanes // 8):  # of 8 samples, 16 samples apart
                order = [j // 2 + 4 * block + (count if j % 2 else 0) for j in range(8)]
                value = b.sitofp(self.shuffled(even, odd, order), kind)
                b.store(b.fadd(b.fmul(value, scale), shift), self.value)
                register, half = divmod(k, self.halves)
                sample = register * self.bytes + 16 * block + 8 * half
                place = self.at(out, word(sample * self.itemsize), kind)
                with b.if_then(b.icmp_signed("!=", grow, word(0))):
                    before = b.load(place, align=self.itemsize)
                    b.store(b.fadd(before, b.load(self.value)), self.value)
                value = b.load(self.value)
                value = b.select(b.fcmp_ordered(">", low, value), low, value)
                value = b.select(b.fcmp_ordered("<", high, value), high, value)
                b.store(value, place, align=self.itemsize)


# -- windows: few samples --------------------------------------------------------------------------


@intrinsic
def window_sums(
    typingctx, samples, starts, places, weights, first, last, steps, codes, pitch, constants,
    scales, sums, machine, real, index,
):  # fmt: skip
    """Compute scales * (constants + sums) of 16 rows for 1, 2 or 4 samples.

    The sums are those of units first ... last - 1.

    A unit is `steps` steps, an even number. Step s chooses from the 16 codes from starts[s] on; its
    weights are 32 bytes, two for each row, and their places are 32 numbers of 4 bits: the low
    halves of 32 bytes for an even step, the high halves of the same bytes for the odd one behind
    it. Codes of samples are `pitch` bytes apart; 16 bytes behind the last one must be readable.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        machine, real, index = signature.args[12:15]
        for count in SAMPLES:
            with builder.if_then(builder.icmp_signed("==", args[0], word(count))):
                windows = _Windows(builder, machine, count, context.get_data_type(real.dtype),
                                   context.get_data_type(index.dtype))  # fmt: skip
                windows.units(*args[1:12])
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 12, machine, real, index), codegen


class _Windows(Emitter):
    """Emits the sums of a group of rows for some samples."""

    def __init__(self, builder: Any, machine: Any, samples: int, real: Any, index: Any) -> None:
        super().__init__(builder, native=_native(machine))
        self.real, self.index, self.step = real, index, ir.VectorType(BYTE, STEP)
        self.short = self.variables(samples, ir.VectorType(SHORT, ROWS))
        self.sums = self.variables(2 * samples, ir.VectorType(NUMBER, ROWS // 2))

    def units(
        self, starts: Any, places: Any, weights: Any, first: Any, last: Any, steps: Any, codes: Any,
        pitch: Any, constants: Any, scales: Any, sums: Any,
    ) -> None:  # fmt: skip
        b = self.builder
        samples = [b.add(codes, b.mul(pitch, word(j))) for j in range(len(self.short))]
        for total in self.sums:
            b.store(ir.Constant(total.type.pointee, None), total)
        with self.repeat(first, last) as (unit, _):
            step = b.mul(unit, steps)
            self.two_steps(starts, places, weights, step, samples, fresh=True)
            with self.repeat(word(2), steps, 2) as (more, _):
                self.two_steps(starts, places, weights, b.add(step, more), samples, fresh=False)
            for j, short in enumerate(self.short):
                for total, wide in zip(self.sums[2 * j :], self.widened(b.load(short)),
                                       strict=False):  # fmt: skip
                    self.grow(total, wide)
        order = [k // 2 + (ROWS // 2 if k % 2 else 0) for k in range(ROWS)]
        kind = ir.VectorType(self.real, ROWS)
        scale = self.load(scales, word(0), kind, 4)
        constant = self.load(constants, word(0), ir.VectorType(NUMBER, ROWS), 4)
        size = 4 if isinstance(self.real, ir.FloatType) else 8
        for j in range(len(self.short)):
            even, odd = (b.load(total) for total in self.sums[2 * j : 2 * j + 2])
            total = b.sitofp(b.add(self.shuffled(even, odd, order), constant), kind)
            place = self.at(sums, word(size * ROWS * j), kind)
            b.store(b.fmul(total, scale), place, align=4)

    def two_steps(
        self, starts: Any, places: Any, weights: Any, step: Any, samples: list[Any], *, fresh: bool
    ) -> None:
        """Add two steps to the 16-bit sums."""
        b, width = self.builder, self.index.width // 8
        both = self.load(places, self.scaled(step, STEP // 2), self.step)
        shorts = ir.VectorType(SHORT, ROWS)
        upper = b.lshr(b.bitcast(both, shorts), ir.Constant(shorts, [4] * ROWS))
        for number, picks in enumerate((both, b.bitcast(upper, self.step))):
            at = b.add(step, word(number))
            chosen = b.and_(picks, ir.Constant(self.step, [15] * STEP))
            weight = self.load(weights, self.scaled(at, STEP), self.step)
            start = b.zext(self.load(starts, self.scaled(at, width), self.index, width), WORD)
            for j, sample in enumerate(samples):
                window = self.load(sample, start, ir.VectorType(BYTE, WINDOW))
                twice = self.shuffled(window, window, [k % WINDOW for k in range(STEP)])
                picked = self.called("llvm.x86.avx2.pshuf.b", self.step, twice, chosen)
                product = self.multiply_pairs(picked, weight)
                if fresh and number == 0:
                    b.store(product, self.short[j])
                else:
                    self.grow(self.short[j], product)
