"""Vector code of the integer products with AVX-512: VNNI and VBMI, as LLVM instructions.

Activations are bytes u = code - low, 0 ... 255, weights are bytes -127 ... 127. One instruction,
`vpdpbusd`, adds four neighbouring products to a sum of 32 bits. For it the numbers of a product
stand in one of two orders, see `packing`:

- *quads*, for batches: the bytes of four features, which are anywhere, are interleaved, so that
  four neighbours belong to one sample: 16, 32 or 64 samples at a time;
- *windows*, for few samples: a step has four entries for each of 16 rows, all in one window of 64
  features, which `vpermb` picks: no gathering, and no interleaving.

What comes out is written as numbers, or as the codes that the next layer's levels have for them.
"""

# mypy: disable-error-code="call-arg,no-untyped-call,no-untyped-def"
# numba's own annotations do not know that an intrinsic loses its first argument.

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gbdnn.backends.fused.integers.vectors import DOUBT, NUMBER, SHORT, Emitter
from gbdnn.backends.fused.integers.vnni.packing import PLACE, QUAD, ROWS, STEP
from gbdnn.backends.fused.kernels import BYTE, WORD, splat, word

__all__ = ["ADDED", "CODED", "SAMPLES", "STRIPS", "WRITTEN", "quad_rows", "window_rows"]

STRIPS = (64, 32, 16)  # samples, and bytes of codes of a feature, that are computed at a time
SAMPLES = (8, 4, 2, 1)  # that share the loads of a step
# What becomes of results: they are written, added to what is there, or written as codes
WRITTEN, ADDED, CODED = range(3)
BYTES = ir.VectorType(BYTE, STEP)
SUMS = ir.VectorType(NUMBER, ROWS)


class _Emitter(Emitter):
    """Emits what both kinds of products consist of."""

    def __init__(self, builder: Any, real: Any) -> None:
        super().__init__(builder, native=True)
        self.real, self.itemsize = real, 4 if isinstance(real, ir.FloatType) else 8

    def add_products(self, variable: Any, codes: Any, weights: Any) -> None:
        """Add four neighbouring products, unsigned x signed bytes, to each sum of a variable."""
        kind = variable.type.pointee
        name = f"llvm.x86.avx512.vpdpbusd.{32 * kind.count}"
        total = self.builder.load(variable)
        self.builder.store(self.called(name, kind, total, codes, weights), variable)

    def picked(self, codes: Any, places: Any) -> Any:
        """Return the bytes of 64 at 64 places."""
        return self.called("llvm.x86.avx512.permvar.qi.512", BYTES, codes, places)

    def scaled_sums(self, sums: Any, scale: Any, shift: Any) -> Any:
        """Return scale * sums + shift, rounded twice."""
        value = self.builder.sitofp(sums, scale.type)
        return self.builder.fadd(self.builder.fmul(value, scale), shift)

    def bounded(self, value: Any, low: Any, high: Any) -> Any:
        """Return min(max(value, low), high); NaN stays NaN."""
        b = self.builder
        low, high = (splat(b, x, value.type) for x in (low, high))
        value = b.select(b.fcmp_ordered(">", low, value), low, value)
        return b.select(b.fcmp_ordered("<", high, value), high, value)

    def coded(self, values: list[Any], levels: Any) -> list[Any]:
        """Return min(max(rint(x / step), least), most) - base of vectors, as 32-bit numbers.

        The division decides where a tie is. It takes as long as all the rest, so a product with
        the inverse is used unless some value comes near a tie.
        """
        b, kind = self.builder, values[0].type
        step, inverse, least, most, base = (splat(b, x, kind) for x in levels)
        suffix = f"v{kind.count}f{8 * self.itemsize}"

        def within(x: Any) -> Any:
            x = b.select(b.fcmp_ordered(">", x, least), x, least)
            return b.select(b.fcmp_ordered("<", x, most), x, most)

        rounded, doubt = self.variables(len(values), kind), None
        for x, place in zip(values, rounded, strict=True):
            quick = within(b.fmul(x, inverse))
            whole = self.called(f"llvm.rint.{suffix}", kind, quick)
            b.store(whole, place)
            apart = self.called(f"llvm.fabs.{suffix}", kind, b.fsub(quick, whole))
            if doubt is None:
                doubt = apart
            else:
                doubt = b.select(b.fcmp_ordered(">", doubt, apart), doubt, apart)
        near = b.fcmp_unordered(">", doubt, ir.Constant(kind, [DOUBT] * kind.count))
        some = self.called(f"llvm.vector.reduce.or.v{kind.count}i1", ir.IntType(1), near)
        with b.if_then(some, likely=False):
            for x, place in zip(values, rounded, strict=True):
                b.store(self.called(f"llvm.rint.{suffix}", kind, within(b.fdiv(x, step))), place)
        numbers = ir.VectorType(NUMBER, kind.count)
        return [b.fptosi(b.fsub(b.load(place), base), numbers) for place in rounded]


# -- quads: batches --------------------------------------------------------------------------------


@intrinsic
def quad_rows(
    typingctx, strip, table, columns, weights, first, last, codes, constants, scales, bias,
    bias_step, out, pitch, way, low, high, step, inverse, least, most, base, index,
):  # fmt: skip
    """Compute rows first ... last - 1 for a strip of samples.

    out[r] = min(max(scales[r] * (constants[r] + sum of weight * code) + bias[r], low), high)

    if `way` is WRITTEN; if it is ADDED all of this, before the bounds, is added to what out[r]
    holds; if it is CODED the codes of it, without bounds, are written as bytes.

    `table`, `columns` and `weights` are those of `packing.Quads`; the codes of a feature are
    `strip` bytes at codes + strip * feature. All arrays are addresses; rows of `out` are `pitch`
    bytes apart.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real = context.get_data_type(signature.args[14])
        numbers = context.get_data_type(signature.args[21].dtype)
        for size in STRIPS:
            with builder.if_then(builder.icmp_signed("==", args[0], word(size))):
                kind = _Sixteen if size == 16 else _Quads
                kind(builder, size, real, numbers).rows(*args[1:16], args[16:21])
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 14, *(low,) * 7, index), codegen


class _Quads(_Emitter):
    """Emits the product for a strip of samples."""

    def __init__(self, builder: Any, size: int, real: Any, index: Any) -> None:
        super().__init__(builder, real)
        self.size, self.index = size, index
        self.line = ir.VectorType(BYTE, size)
        self.numbers, self.sums = self.new_sums()

    def new_sums(self) -> tuple[Any, list[Any]]:
        """Return the kind of the sums, and variables for them.

        Sum k has, of each 16 samples, those from 4 k on: what interleaving makes of them.
        """
        kind = ir.VectorType(NUMBER, self.size // QUAD)
        return kind, self.variables(QUAD, kind)

    def rows(
        self, table: Any, columns: Any, weights: Any, first: Any, last: Any, codes: Any,
        constants: Any, scales: Any, bias: Any, bias_step: Any, out: Any, pitch: Any, way: Any,
        low: Any, high: Any, levels: Any,
    ) -> None:  # fmt: skip
        b = self.builder
        kind = ir.VectorType(self.real, self.numbers.count)
        with self.repeat(first, last) as (row, _):
            constant = splat(b, self.load(constants, self.scaled(row, 4), NUMBER, 4), self.numbers)
            for total in self.sums:
                b.store(constant, total)
            begin = self.load(table, self.scaled(row, 8), WORD, 8)
            end = self.load(table, self.scaled(b.add(row, word(1)), 8), WORD, 8)
            with self.repeat(begin, end) as (quad, _):
                self.quad(columns, weights, quad, codes)
            scale = self.load(scales, self.scaled(row, self.itemsize), self.real, self.itemsize)
            place = b.mul(row, bias_step)
            shift = self.load(bias, self.scaled(place, self.itemsize), self.real, self.itemsize)
            scale, shift = (splat(b, x, kind) for x in (scale, shift))
            values = [self.scaled_sums(b.load(total), scale, shift) for total in self.sums]
            target = b.add(out, b.mul(row, pitch))
            coded = b.icmp_signed("==", way, word(CODED))
            with b.if_else(coded) as (codes_come, numbers_come):
                with codes_come:
                    self.store_codes(self.coded(values, levels), target)
                with numbers_come:
                    self.store_numbers(values, target, way, (low, high))

    def quad(self, columns: Any, weights: Any, quad: Any, codes: Any) -> None:
        """Add four entries to the sums."""
        b, width = self.builder, self.index.width // 8
        entry = self.scaled(quad, QUAD)
        weight = splat(b, self.load(weights, entry, NUMBER, 4), self.numbers)
        lines = []
        for number in range(QUAD):
            offset = self.scaled(b.add(entry, word(number)), width)
            column = b.zext(self.load(columns, offset, self.index, width), WORD)
            place = b.add(codes, self.scaled(column, self.size // PLACE))
            lines.append(self.load(place, word(0), self.line, self.size))
        for total, four in zip(self.sums, self.fours(lines), strict=True):
            self.add_products(total, b.bitcast(four, self.numbers), weight)

    def fours(self, lines: list[Any]) -> list[Any]:
        """Return the bytes of four lines with those of a sample side by side, as the sums go."""
        u, v, w, x = lines
        pairs = [self.interleaved(*two, half, 1) for half in (0, 1) for two in ((u, v), (w, x))]
        return [self.interleaved(*two, half, 2) for two in (pairs[:2], pairs[2:])
                for half in (0, 1)]  # fmt: skip

    def interleaved(self, u: Any, v: Any, half: int, size: int) -> Any:
        """Return pieces of `size` bytes of u and v in turn: of each 16 bytes the first 8, or last.

        That is one instruction.
        """
        lanes: list[int] = []
        for block in range(0, self.size, 16):
            first = block + 8 * half
            for k in range(first, first + 8, size):
                lanes += [*range(k, k + size), *range(k + self.size, k + self.size + size)]
        return self.shuffled(u, v, lanes)

    def store_codes(self, codes: list[Any], out: Any) -> None:
        """Store numbers 0 ... 255, which come as the sums do, in the samples' own order."""
        b = self.builder
        both = [self.narrowed(*two, SHORT) for two in (codes[:2], codes[2:])]
        b.store(self.narrowed(*both, BYTE), self.at(out, word(0), self.line), align=16)

    def narrowed(self, u: Any, v: Any, kind: Any) -> Any:
        """Return the numbers of u and v as narrower ones, of each 16 bytes one after the other.

        Two of 16 bytes become one of 16 bytes; that is one instruction.
        """
        names = {SHORT: ("avx2.packssdw", "avx512.packssdw.512"),
                 BYTE: ("avx2.packuswb", "avx512.packuswb.512")}  # fmt: skip
        name = names[kind][self.size // 64]
        return self.called(f"llvm.x86.{name}", ir.VectorType(kind, 2 * u.type.count), u, v)

    def ordered(self, values: list[Any]) -> list[Any]:
        """Return values that come as the sums do in the samples' own order, sixteen at a time."""
        found = []
        for block in range(self.size // 16):
            four = range(4 * block, 4 * block + 4)
            lanes = [*four, *(self.numbers.count + k for k in four)]
            halves = [self.shuffled(*two, lanes) for two in (values[:2], values[2:])]
            found.append(self.shuffled(*halves, list(range(16))))
        return found

    def store_numbers(self, values: list[Any], out: Any, way: Any, bounds: Any) -> None:
        """Clamp and store in the samples' own order."""
        b, kind = self.builder, ir.VectorType(self.real, 16)
        (value,) = self.variables(1, kind)
        for block, each in enumerate(self.ordered(values)):
            b.store(each, value)
            place = self.at(out, word(16 * block * self.itemsize), kind)
            with b.if_then(b.icmp_signed("==", way, word(ADDED))):
                before = b.load(place, align=self.itemsize)
                b.store(b.fadd(before, b.load(value)), value)
            b.store(self.bounded(b.load(value), *bounds), place, align=self.itemsize)


class _Sixteen(_Quads):
    """Sixteen samples: four lines fill one register, and one shuffle interleaves them."""

    def new_sums(self) -> tuple[Any, list[Any]]:
        """Return the kind of the sums, and a variable, in the samples' own order."""
        return SUMS, self.variables(1, SUMS)

    def fours(self, lines: list[Any]) -> list[Any]:
        """Return the bytes of four lines with those of a sample side by side."""
        halves = [self.shuffled(*two, list(range(32))) for two in (lines[:2], lines[2:])]
        order = ir.Constant(BYTES, [sample + 16 * line for sample in range(16)
                                    for line in range(QUAD)])  # fmt: skip
        return [self.picked(self.shuffled(*halves, list(range(64))), order)]

    def ordered(self, values: list[Any]) -> list[Any]:
        """Return the values, which are in order."""
        return values

    def store_codes(self, codes: list[Any], out: Any) -> None:
        """Store numbers 0 ... 255."""
        b = self.builder
        b.store(b.trunc(codes[0], self.line), self.at(out, word(0), self.line), align=16)


# -- windows: few samples --------------------------------------------------------------------------


@intrinsic
def window_rows(
    typingctx, samples, starts, places, weights, nibbles, first, last, codes, pitch, constants,
    scales, biases, out, out_pitch, way, low, high, step, inverse, least, most, base, index,
):  # fmt: skip
    """Compute sixteen rows of 1, 2, 4 or 8 samples.

    out = min(max(scales * (constants + sum of weight * code) + biases, low), high), or if `way` is
    CODED the codes of it, without bounds, as bytes.

    The pairs of steps are first ... last - 1 of `packing.Windows`. The codes of samples are `pitch`
    bytes apart, and what becomes of them `out_pitch` bytes.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real = context.get_data_type(signature.args[15])
        numbers = context.get_data_type(signature.args[22].dtype)
        for count in SAMPLES:
            for small in (False, True):
                equal = builder.icmp_signed("==", args[0], word(count))
                kind = builder.icmp_signed("==" if not small else "!=", args[4], word(0))
                with builder.if_then(builder.and_(equal, kind)):
                    windows = _Windows(builder, count, small, real, numbers)
                    windows.rows(*args[1:4], *args[5:17], args[17:22])
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 15, *(low,) * 7, index), codegen


class _Windows(_Emitter):
    """Emits the product of sixteen rows for some samples."""

    def __init__(self, builder: Any, samples: int, nibbles: bool, real: Any, index: Any) -> None:
        super().__init__(builder, real)
        self.nibbles, self.index = nibbles, index
        # two steps have sums of their own where there are registers: one waits for the other less
        self.apart = 2 if samples <= 4 else 1
        self.sums = [self.variables(self.apart, SUMS) for _ in range(samples)]

    def rows(
        self, starts: Any, places: Any, weights: Any, first: Any, last: Any, codes: Any, pitch: Any,
        constants: Any, scales: Any, biases: Any, out: Any, out_pitch: Any, way: Any, low: Any,
        high: Any, levels: Any,
    ) -> None:  # fmt: skip
        b, kind = self.builder, ir.VectorType(self.real, ROWS)
        for sums in self.sums:
            for total in sums:
                b.store(ir.Constant(SUMS, None), total)
        samples = [b.add(codes, b.mul(pitch, word(j))) for j in range(len(self.sums))]
        with self.repeat(first, last) as (pair, _):
            self.pair(starts, places, weights, pair, samples)
        constant = self.load(constants, word(0), SUMS, 4)
        scale, bias = (self.load(x, word(0), kind, self.itemsize) for x in (scales, biases))
        coded = b.icmp_signed("==", way, word(CODED))
        values = []
        for sums in self.sums:
            total = b.load(sums[0])
            for more in sums[1:]:
                total = b.add(total, b.load(more))
            if self.nibbles:  # they were multiplied by 16
                total = b.ashr(total, ir.Constant(SUMS, [4] * ROWS))
            values.append(self.scaled_sums(b.add(total, constant), scale, bias))
        with b.if_else(coded) as (codes_come, numbers_come):
            with codes_come:
                for j, each in enumerate(self.coded(values, levels)):
                    each = b.trunc(each, ir.VectorType(BYTE, ROWS))
                    place = b.add(out, b.mul(out_pitch, word(j)))
                    b.store(each, self.at(place, word(0), each.type), align=1)
            with numbers_come:
                for j, value in enumerate(values):
                    place = b.add(out, b.mul(out_pitch, word(j)))
                    value = self.bounded(value, low, high)
                    b.store(value, self.at(place, word(0), kind), align=self.itemsize)

    def pair(self, starts: Any, places: Any, weights: Any, pair: Any, samples: list[Any]) -> None:
        """Add two steps to the sums."""
        b, width = self.builder, self.index.width // 8
        for number, weight in enumerate(self.weights(weights, pair)):
            at = b.add(self.scaled(pair, 2), word(number))
            place = self.load(places, self.scaled(at, STEP), BYTES)
            start = b.zext(self.load(starts, self.scaled(at, width), self.index, width), WORD)
            for sums, sample in zip(self.sums, samples, strict=True):
                window = self.load(sample, start, BYTES)
                picked = b.bitcast(self.picked(window, place), SUMS)
                self.add_products(sums[number % self.apart], picked, weight)

    def weights(self, weights: Any, pair: Any) -> list[Any]:
        """Return the codes of both steps; nibbles times 16, as they stand in the upper halves."""
        b = self.builder
        if not self.nibbles:
            both = [self.scaled(pair, 2 * STEP), b.add(self.scaled(pair, 2 * STEP), word(STEP))]
            return [self.load(weights, at, SUMS) for at in both]
        packed = self.load(weights, self.scaled(pair, STEP), SUMS)
        upper = ir.Constant(SUMS, [0xF0F0F0F0 - (1 << 32)] * ROWS)
        low = b.shl(packed, ir.Constant(SUMS, [4] * ROWS))
        return [b.and_(low, upper), b.and_(packed, upper)]
