"""Compiled kernels of training: dW = (dZ Y^T) at W's pattern, and W^T's values.

dW at entry (i, j) is the dot product of row i of dZ with row j of Y. A strip of row i stays in
registers over all non-zeros of the row, so that each costs the loads of Y's strip and as many
multiply-adds, like the forward product. What differs is the end: a sum over the lanes of a vector
for each non-zero. As many non-zeros as a vector has lanes go together, and a tree of shuffles turns
their vectors into one vector of their sums: about three instructions for each. As in `kernels`,
nothing names a CPU.

The caller (backend.py) has checked every shape.
"""

# mypy: disable-error-code="call-arg,no-untyped-call"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic

from gbdnn.backends.fused.compilation import array_type, jit, load
from gbdnn.backends.fused.kernels import (
    BYTE,
    FAR,
    HEADER,
    SIZES,
    STRIP,
    VECTOR,
    WORD,
    Arrays,
    element_at,
    fetch_ahead,
    multiply_add,
    prefetch,
    word,
)

__all__ = ["load_gradients", "scatter", "weight_grad"]

LANE = 16  # bytes within which shuffles are cheap on every x86: SSE's register, AVX's lane
LINE = 16  # float32 of a line; of float64 the line after the next
FEW = 4  # non-zeros that go together when fewer than a vector's lanes are left of a row


def _shuffle(builder: Any, a: Any, b: Any, picks: list[int]) -> Any:
    """Return the vector of elements `picks` of a (numbers from 0) and b (from a's length)."""
    lanes = ir.VectorType(ir.IntType(32), len(picks))
    return builder.shuffle_vector(a, b, ir.Constant(lanes, picks))


def _pairs(count: int, itemsize: int, level: int) -> tuple[list[int], list[int]]:
    """Return what two shuffles of (a, b) pick at one level of the tree, to be added.

    Within lanes first (the masks of `unpack`), then whole lanes: with these masks the sums come out
    in the order of the leaves.
    """
    lane = min(LANE // itemsize, count)
    inside = lane.bit_length() - 1  # levels within a lane
    if level < inside:
        step = 1 << level  # elements that are finished side by side
        low: list[int] = []
        high: list[int] = []
        for start in range(0, count, lane):
            for part in range(start, start + lane // 2, step):
                for source in (0, count):
                    low += range(source + part, source + part + step)
                    high += range(source + part + lane // 2, source + part + lane // 2 + step)
        return low, high
    blocks = [range(k, k + lane) for k in range(0, 2 * count, lane)]
    return [k for block in blocks[::2] for k in block], [k for block in blocks[1::2] for k in block]


class _Dots:
    """Emits dot products of one row's strip with the strips of several rows of Y."""

    def __init__(self, builder: Any, size: int, element: Any, itemsize: int) -> None:
        self.builder, self.itemsize = builder, itemsize
        self.width = min(size, VECTOR)  # bytes of a register
        self.count = size // self.width
        self.lanes = self.width // itemsize
        self.vector = ir.VectorType(element, self.lanes)
        self.groups = sorted({self.lanes, min(self.lanes, FEW), 1}, reverse=True)

    def load(self, row: Any) -> list[Any]:
        """Return the strip at `row` in registers."""
        places = [
            element_at(self.builder, row, word(k * self.width), self.vector)
            for k in range(self.count)
        ]
        return [self.builder.load(place, align=self.itemsize) for place in places]

    def dots(self, strip: list[Any], rows: list[Any]) -> Any:
        """Return a vector with the dot products of `strip` and each of `rows` (1, 2, 4, ...)."""
        return self._tree(strip, rows, len(rows))

    def _tree(self, strip: list[Any], rows: list[Any], group: int) -> Any:
        """Depth first: a vector is added to its neighbour as soon as there is one."""
        if len(rows) == 1:
            return self._folded(self._products(strip, rows[0]), group)
        half = len(rows) // 2
        a, b = self._tree(strip, rows[:half], group), self._tree(strip, rows[half:], group)
        low, high = _pairs(group, self.itemsize, half.bit_length() - 1)
        low, high = _shuffle(self.builder, a, b, low), _shuffle(self.builder, a, b, high)
        return self.builder.fadd(low, high)

    def _products(self, strip: list[Any], row: Any) -> Any:
        """Return a vector whose lanes add up to the dot product."""
        parts = self.load(row)
        total = self.builder.fmul(strip[0], parts[0])
        for a, b in zip(strip[1:], parts[1:], strict=True):
            total = multiply_add(self.builder, a, b, total)
        return total

    def _folded(self, total: Any, lanes: int) -> Any:
        """Add halves until `lanes` are left."""
        count = total.type.count
        while count > lanes:
            count //= 2
            low = _shuffle(self.builder, total, total, list(range(count)))
            high = _shuffle(self.builder, total, total, list(range(count, 2 * count)))
            total = self.builder.fadd(low, high)
        return total


@intrinsic
def _sampled(  # type: ignore[no-untyped-def]
    typingctx, size, more, table, indices, dz, y, out, first, last, pitch, dz_at, y_at, far
):
    """Emit: for rows first...last-1, the dot products of one strip of `size` bytes.

    The strip is at byte `dz_at` of dz's and `y_at` of y's first row; `more` adds to `out`.
    """
    given = (size, more, table, indices, dz, y, out, first, last, pitch, dz_at, y_at, far)
    itemsize = out.dtype.bitwidth // 8

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        names = {"table": 2, "indices": 3, "dz": 4, "y": 5, "out": 6}
        arrays = Arrays(
            context, builder, **{name: (signature.args[k], args[k]) for name, k in names.items()}
        )
        element = context.get_data_type(out.dtype)
        adds = builder.icmp_signed("!=", args[1], word(0))
        for option in SIZES:
            if option >= itemsize:
                with builder.if_then(builder.icmp_signed("==", args[0], word(option))):
                    dots = _Dots(builder, option, element, itemsize)
                    _emit_rows(builder, arrays, dots, adds, args[7:])
        return context.get_dummy_value()

    return types.void(*given), codegen


def _emit_rows(builder: Any, arrays: Arrays, dots: _Dots, adds: Any, span: Any) -> None:
    """Emit the loop over the rows for one strip."""
    first, last, pitch, dz_at, y_at, far = span
    size = dots.width * dots.count

    def group(strip: list[Any], k: Any, count: int) -> None:
        columns = [arrays.read("indices", builder.add(k, word(n))) for n in range(count)]
        rows = [arrays.place("y", builder.zext(column, WORD), pitch, y_at) for column in columns]
        total = dots.dots(strip, rows)
        place = arrays.place("out", k, word(dots.itemsize), word(0))
        place = builder.bitcast(place, total.type.as_pointer())
        # `out` may be uninitialised: a select, since 0 x NaN would stay
        before = builder.load(place, align=dots.itemsize)
        before = builder.select(adds, before, ir.Constant(total.type, None))
        builder.store(builder.fadd(total, before), place, align=dots.itemsize)

    with cgutils.for_range_slice(builder, first, last, word(1)) as (row, _):
        fetch_ahead(builder, arrays, far, (row, last, HEADER + 1), (pitch, y_at, size))
        record = builder.mul(row, word(HEADER + 1))
        begin, end = (arrays.read("table", builder.add(record, word(n))) for n in (0, 1))
        strip = dots.load(arrays.place("dz", row, pitch, dz_at))
        for count in dots.groups:
            whole = builder.sub(end, builder.srem(builder.sub(end, begin), word(count)))
            with cgutils.for_range_slice(builder, begin, whole, word(count)) as (k, _):
                group(strip, k, count)
            begin = whole


@jit
def weight_grad(table, indices, dz, y, first, last, out):  # type: ignore[no-untyped-def]
    """Compute rows first...last-1 of out = (dZ Y^T) at the pattern, summed over the tiles.

    Strips do not overlap, as columns would count twice: an odd width ends in ever narrower ones.
    """
    pitch = y.shape[2] * y.itemsize
    more = 0
    for tile in range(y.shape[0]):
        done = 0
        while done < pitch:
            size = STRIP
            while size > pitch - done:
                size //= 2
            dz_at = tile * dz.shape[1] * pitch + done
            y_at = tile * y.shape[1] * pitch + done
            far = 1 if y.shape[1] * size >= FAR else 0
            _sampled(size, more, table, indices, dz, y, out, first, last, pitch, dz_at, y_at, far)
            done += size
            more = 1


@intrinsic
def _prefetch_write(typingctx, array, place):  # type: ignore[no-untyped-def]
    """Emit: have the line of array[place], which need not exist, brought in to be written to."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        address = builder.bitcast(builder.gep(data, [args[1]]), BYTE.as_pointer())
        prefetch(builder, address, near=True, write=True)
        return context.get_dummy_value()

    return types.void(array, place), codegen


@jit
def scatter(indices, values, first, last, cursor, out):  # type: ignore[no-untyped-def]
    """Bring values first...last-1 of W to their places in W^T, and move the cursors on.

    `cursor[j]` is the place of column j's next entry. There are as many streams of writes as
    columns, more than the processor foresees: hence the prefetches, a line ahead.
    """
    for k in range(first, last):
        j = indices[k]
        place = cursor[j]
        out[place] = values[k]
        cursor[j] = place + 1
        _prefetch_write(out, place + LINE)


def load_gradients(real: Any, index: Any) -> None:
    """Load the kernels for a real and an index dtype, or compile them."""
    real, index, size = from_dtype(real), from_dtype(index), types.int64
    out = array_type(real, 1, writable=True)
    pattern = (array_type(size, 2), array_type(index, 1))
    load(weight_grad, *pattern, array_type(real, 3), array_type(real, 3), size, size, out)
    cursor = array_type(size, 1, writable=True)
    load(scatter, array_type(index, 1), array_type(real, 1), size, size, cursor, out)
