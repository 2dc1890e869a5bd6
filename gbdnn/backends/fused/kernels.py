"""Compiled kernels of the fused backend: out = min(max(W Y + b, low), high) in one pass.

A *strip* is `size` bytes of consecutive columns of Y (256 bytes = 64 float32); a *group* is one row
of W, or four rows whose non-zeros stand in the same columns. For one strip of one group the sums
stay in vector registers over all non-zeros, then follow bounds and one store: `out` is written
once, and four grouped rows load Y and the indices once instead of four times. A row may be cut
into pieces (blocks of columns whose part of Y fits the first cache): all but the first go on from
`out`.

numba's own vectoriser loses half of this (it prefers narrow vectors and spills the sums), so the
loop over the groups is written as LLVM vector code. Nothing here names a CPU: LLVM splits
64-byte vectors into what the machine has.

The caller (`backend`) has checked every shape.
"""

# mypy: disable-error-code="call-arg,no-untyped-call"
# numba's own annotations do not know that an intrinsic loses its first argument.

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product as combinations
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic

from gbdnn.backends.fused.compilation import array_type, jit, load

__all__ = [
    "BYTE", "FAR", "FROM_BIAS", "FROM_BOTH", "FROM_OUT", "GROUP", "HEADER", "SIZES", "STRIP",
    "VECTOR", "WORD", "Arrays", "element_at", "fetch_ahead", "load_product", "multiply_add",
    "prefetch", "product", "splat", "widest_strip", "word",
]  # fmt: skip

VECTOR = 64  # bytes of the widest register: AVX-512
STRIP = 256  # bytes of the widest strip: 4 independent sums hide the latency of one multiply-add
SIZES = (256, 128, 64, 32, 16, 8, 4)  # bytes of the strips
SUMS = 4  # sums in flight; narrower strips get them by splitting the row's non-zeros
GROUP = 4  # rows of a group; 4 rows x 4 vectors = 16 sums of the 32 registers
FAR = 1 << 21  # bytes of a strip of Y from which it is fetched ahead: two second caches
AHEAD = 2  # groups
MOST = 1024  # non-zeros of a group that are fetched ahead: 256 KiB
FROM_BIAS, FROM_OUT, FROM_BOTH = range(3)  # what the sums start at: bias, `out`, their sum
HEADER = 3  # a group's record: first and last + 1 index, first value; then its GROUP or 1 rows

BYTE = ir.IntType(8)
WORD = ir.IntType(64)


def word(value: int) -> Any:
    """Return a 64-bit constant."""
    return ir.Constant(WORD, value)


def element_at(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    """Return a pointer to `kind` at `base` (an i8 pointer) + `offset` bytes."""
    return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, vectors of float or double: fused where the machine can, else two steps.

    `llvm.fma`, which insists on one rounding, would call a library function per lane elsewhere.
    """
    bits = 32 if isinstance(c.type.element, ir.FloatType) else 64
    kind = ir.FunctionType(c.type, [c.type] * 3)
    name = f"llvm.fmuladd.v{c.type.count}f{bits}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])


def splat(builder: Any, scalar: Any, vector: Any) -> Any:
    """Return a vector with `scalar` in every lane."""
    lanes = ir.VectorType(ir.IntType(32), vector.count)
    nothing = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(nothing, scalar, word(0))
    return builder.shuffle_vector(one, nothing, ir.Constant(lanes, None))


def prefetch(builder: Any, address: Any, *, near: bool = False, write: bool = False) -> None:
    """Have a line brought into the second cache, or `near`, the first; any address is harmless."""
    number = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    hints = (int(write), 3 if near else 2, 1)
    builder.call(function, [address, *(ir.Constant(number, hint) for hint in hints)])


class _Strip:
    """Emits the steps of one strip of one group: start, add for each non-zero, finish."""

    def __init__(self, builder: Any, size: int, rows: int, element: Any, itemsize: int) -> None:
        self.builder, self.rows, self.itemsize = builder, rows, itemsize
        self.width = min(size, VECTOR)  # bytes of a register
        self.count = size // self.width  # registers of one row
        self.copies = max(SUMS // (self.count * rows), 1)
        self.vector = ir.VectorType(element, self.width // itemsize)
        # LLVM keeps these in registers: their address is never taken.
        self.sums = {
            (row, k, copy): cgutils.alloca_once(builder, self.vector)
            for row in range(rows)
            for k in range(self.count)
            for copy in range(self.copies)
        }

    def start(self, origin: Any, biases: list[Any], rows_of_out: list[Any]) -> None:
        """Set the first copy of the sums to bias, `out` or `out` + bias; others to zero."""
        b, zero = self.builder, ir.Constant(self.vector, None)
        for (_, _, copy), total in self.sums.items():
            if copy:
                b.store(zero, total)
        with b.if_else(b.icmp_signed("!=", origin, word(FROM_BIAS))) as (resumed, fresh):
            with resumed:
                nothing = ir.Constant(self.vector.element, -0.0)  # changes no number, not even 0
                both = b.icmp_signed("==", origin, word(FROM_BOTH))
                first = [splat(b, b.select(both, x, nothing), self.vector) for x in biases]
                for row, k in self._places():
                    before = b.load(self._place(rows_of_out[row], k), align=self.itemsize)
                    b.store(b.fadd(before, first[row]), self.sums[row, k, 0])
            with fresh:
                first = [splat(b, bias, self.vector) for bias in biases]
                for row, k in self._places():
                    b.store(first[row], self.sums[row, k, 0])

    def _places(self) -> Iterator[tuple[int, int]]:
        return combinations(range(self.rows), range(self.count))

    def _place(self, row_of_matrix: Any, k: int) -> Any:
        return element_at(self.builder, row_of_matrix, word(k * self.width), self.vector)

    def add(self, weights: list[Any], row_of_y: Any, copy: int) -> None:
        """Add weights[row] * Y[j, strip] to the sums of each row."""
        for k in range(self.count):
            y = self.builder.load(self._place(row_of_y, k), align=self.itemsize)
            for row, weight in enumerate(weights):
                total = self.sums[row, k, copy]
                grown = multiply_add(self.builder, y, weight, self.builder.load(total))
                self.builder.store(grown, total)

    def finish(self, low: Any, high: Any, rows_of_out: list[Any]) -> None:
        """Store min(max(sums, low), high); a NaN passes, as in numpy.maximum."""
        b = self.builder
        low, high = splat(b, low, self.vector), splat(b, high, self.vector)
        for row, k in self._places():
            value = b.load(self.sums[row, k, 0])
            for copy in range(1, self.copies):
                value = b.fadd(value, b.load(self.sums[row, k, copy]))
            # In this order x86's max and min instructions return `value` if it is NaN: free.
            value = b.select(b.fcmp_ordered(">", low, value), low, value)
            value = b.select(b.fcmp_ordered("<", high, value), high, value)
            b.store(value, self._place(rows_of_out[row], k), align=self.itemsize)


class Arrays:
    """Reads from numba arrays, without numba's index arithmetic."""

    def __init__(self, context: Any, builder: Any, **arrays: tuple[Any, Any]) -> None:
        self.builder = builder
        self.kinds, self.pointers = {}, {}
        for name, (kind, value) in arrays.items():
            data = context.make_array(kind)(context, builder, value).data
            self.kinds[name] = context.get_data_type(kind.dtype)
            self.pointers[name] = builder.bitcast(data, BYTE.as_pointer())

    def read(self, name: str, position: Any) -> Any:
        """Load element `position`."""
        kind = self.kinds[name]
        size = {ir.FloatType(): 4, ir.DoubleType(): 8}.get(kind) or kind.width // 8
        offset = self.builder.mul(position, word(size))
        return self.builder.load(element_at(self.builder, self.pointers[name], offset, kind))

    def place(self, name: str, row: Any, pitch: Any, at: Any) -> Any:
        """Return a pointer to byte `at` of a row, rows being `pitch` bytes apart."""
        offset = self.builder.add(self.builder.mul(row, pitch), at)
        return self.builder.gep(self.pointers[name], [offset])


@intrinsic
def _groups(  # type: ignore[no-untyped-def]
    typingctx, size, rows, iso, table, indices, values, first, last, origin,
    bias, bias_step, y, out, pitch, at, far, low, high,
):  # fmt: skip
    """Emit: for groups first...last-1, one strip of `size` bytes at byte `at` of the rows.

    Every combination of size, rows and iso gets code of its own, chosen at run time.
    """
    given = (size, rows, iso, table, indices, values, first, last, origin, bias, bias_step, y, out,
             pitch, at, far, low, high)  # fmt: skip
    itemsize = values.dtype.bitwidth // 8

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        names = {"table": 3, "indices": 4, "values": 5, "bias": 9, "y": 11, "out": 12}
        arrays = Arrays(
            context, builder, **{name: (signature.args[k], args[k]) for name, k in names.items()}
        )
        span, bounds = (*args[6:9], args[10], *args[13:16]), args[16:]
        for choice in combinations(SIZES, (GROUP, 1), (1, 0)):
            if choice[0] >= itemsize:
                equal = [
                    builder.icmp_signed("==", argument, word(option))
                    for argument, option in zip(args, choice, strict=False)
                ]
                with builder.if_then(builder.and_(builder.and_(equal[0], equal[1]), equal[2])):
                    strip = _Strip(builder, choice[0], choice[1], bounds[0].type, itemsize)
                    _emit_groups(builder, arrays, strip, bool(choice[2]), span, bounds)
        return context.get_dummy_value()

    return types.void(*given), codegen


def _emit_groups(
    builder: Any, arrays: Arrays, strip: _Strip, iso: bool, span: Any, bounds: Any
) -> None:
    """Emit the loop over the groups for one strip."""
    first, last, origin, bias_step, pitch, at, far = span
    rows = strip.rows
    size = strip.width * strip.count
    constant = splat(builder, arrays.read("values", word(0)), strip.vector) if iso else None

    def nonzeros(begin: Any, end: Any, value: Any) -> None:
        # values[value + (k - begin) * rows + row] belongs to indices[k]
        shift = builder.sub(value, builder.mul(begin, word(rows)))

        def weight(k: Any, row: int) -> Any:
            position = builder.add(builder.mul(k, word(rows)), builder.add(shift, word(row)))
            return splat(builder, arrays.read("values", position), strip.vector)

        def nonzero(k: Any, copy: int) -> None:
            weights = [constant if iso else weight(k, row) for row in range(rows)]
            column = builder.zext(arrays.read("indices", k), WORD)
            strip.add(weights, arrays.place("y", column, pitch, at), copy)

        _nonzeros(builder, begin, end, strip.copies, nonzero)

    with cgutils.for_range_slice(builder, first, last, word(1)) as (group, _):
        fetch_ahead(builder, arrays, far, (group, last, HEADER + rows), (pitch, at, size))
        start = builder.mul(group, word(HEADER + rows))
        record = [arrays.read("table", builder.add(start, word(k))) for k in range(HEADER + rows)]
        targets = record[HEADER:]
        biases = [arrays.read("bias", builder.mul(t, bias_step)) for t in targets]
        rows_of_out = [arrays.place("out", t, pitch, at) for t in targets]
        strip.start(origin, biases, rows_of_out)
        nonzeros(*record[:HEADER])
        strip.finish(*bounds, rows_of_out)


def fetch_ahead(
    builder: Any,
    arrays: Arrays,
    far: Any,
    place: tuple[Any, Any, int],
    strip: tuple[Any, Any, int],
) -> None:
    """Emit: if `far`, have the strips of Y that group + AHEAD wants brought into the second cache.

    Their places are known long before, which the processor cannot know: it looks ahead over some
    20 non-zeros, too few to hide the time that memory takes.
    """
    (group, last, record), (pitch, at, size) = place, strip
    group = builder.add(group, word(AHEAD))
    within = builder.icmp_signed("<", group, last)
    with builder.if_then(builder.and_(builder.icmp_signed("!=", far, word(0)), within)):
        start = builder.mul(group, word(record))
        begin, end = (arrays.read("table", builder.add(start, word(n))) for n in (0, 1))
        most = builder.add(begin, word(MOST))
        end = builder.select(builder.icmp_signed("<", end, most), end, most)
        with cgutils.for_range_slice(builder, begin, end, word(1)) as (k, _):
            column = builder.zext(arrays.read("indices", k), WORD)
            row = arrays.place("y", column, pitch, at)
            for offset in range(0, size, VECTOR):
                prefetch(builder, builder.gep(row, [word(offset)]))


def _nonzeros(builder: Any, begin: Any, end: Any, copies: int, nonzero: Any) -> None:
    """Emit the loop over k = begin ... end - 1, `copies` at a time, then the rest one by one."""
    whole = begin
    if copies > 1:
        step = word(copies)
        whole = builder.sub(end, builder.urem(builder.sub(end, begin), step))
        with cgutils.for_range_slice(builder, begin, whole, step) as (k, _):
            for copy in range(copies):
                nonzero(builder.add(k, word(copy)), copy)
    with cgutils.for_range_slice(builder, whole, end, word(1)) as (k, _):
        nonzero(k, 0)


@jit
def product(  # type: ignore[no-untyped-def]
    rows, iso, table, indices, values, first, last, widest, origin, bias, y, out, low, high
):  # fmt: skip
    """Compute groups first...last-1 of out = min(max(W Y + b, low), high), strip after strip.

    `y` and `out` have the shapes (tiles, features, width). `origin` says what the sums start at:
    FROM_BIAS, FROM_OUT or FROM_BOTH, what `out` holds + bias.

    A width that is no multiple of the widest strip ends in one narrower strip that begins earlier
    and overlaps its neighbour: computing some columns twice is cheaper than masks.
    """
    pitch = y.shape[2] * y.itemsize
    bias_step = 0 if bias.size == 1 else 1
    for tile in range(y.shape[0]):
        done = 0
        while done < pitch:
            size = widest
            while size > pitch or (size // 2 >= pitch - done and size > y.itemsize):
                size //= 2
            # adding to `out` twice would be wrong
            while origin != FROM_BIAS and size > pitch - done:
                size //= 2
            at = min(done, pitch - size)
            done = at + size
            far = 1 if y.shape[1] * size >= FAR else 0
            _groups(size, rows, iso, table, indices, values, first, last, origin, bias, bias_step,
                    y[tile], out[tile], pitch, at, far, low, high)  # fmt: skip


def load_product(real: Any, index: Any) -> None:
    """Load `product` for a real and an index dtype, or compile it."""
    real, index, size = from_dtype(real), from_dtype(index), types.int64
    weight = (array_type(size, 2), array_type(index, 1), array_type(real, 1))
    batch = (array_type(real, 1), array_type(real, 3), array_type(real, 3, writable=True))
    load(product, size, size, *weight, size, size, size, size, *batch, real, real)


@cache
def widest_strip(rows: int) -> int:
    """Return the widest strip for which the sums of a group's rows fit into the registers.

    It is a choice of speed only. 64 bytes and four rows are 4 registers of AVX-512, 8 of AVX2, 16
    of SSE and NEON; the four times wider strip needs the 32 registers of AVX-512.
    """
    wide = rows == 1 or llvmlite.binding.get_host_cpu_features().get("avx512f", False)
    return STRIP if wide else VECTOR
