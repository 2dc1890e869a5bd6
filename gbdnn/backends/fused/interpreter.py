"""The compiled interpreter of programs: takes a small batch through all layers.

Addresses are int64. What is read and written, and how, is in the words of the job and in the
program, which `program` writes; it has checked every shape.
"""

# mypy: disable-error-code="attr-defined,call-arg,call-overload,no-untyped-call"
# mypy: disable-error-code="no-untyped-def,var-annotated"
# numba's own annotations do not know what compiled code may do.

from __future__ import annotations

import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import carray, cfunc, float64, from_dtype, int64, types, uint32, uint64

from gbdnn.backends.fused import compilation, helpers, instructions, kernels
from gbdnn.backends.fused.compilation import compiling, jit
from gbdnn.backends.fused.helpers import (
    BAD,
    BLOCKS,
    PHASES,
    WORDS,
    finished,
    inner,
    take,
    wait_for_phase,
)
from gbdnn.backends.fused.instructions import (
    align_code,
    call,
    dot,
    dot_four,
    fetch,
    load,
    pointer,
    put,
    store,
    transpose_square,
)
from gbdnn.backends.fused.kernels import GROUP, HEADER, product

# Words of a job, after those of `helpers`. "Source" and "target" are the caller's arrays; a row is
# a feature, a column is a sample, as in Y.
(PROGRAM, LAYERS, IN, OUT, TILED, SOURCE, SOURCE_ROW, SOURCE_COLUMN, TARGET, TARGET_ROW,
 TARGET_COLUMN, COUNT, WIDTH, LANES, BUFFERS, BUFFER_BYTES, LOADS, CHECK, IN_PLACE,
 OUT_PLACE) = range(8, 28)  # fmt: skip
# A program begins with the place of each layer's record. A record begins with the address of the
# layer's kernel, `void kernel(record, block, y, out, columns)`, which alone reads the rest. Words
# of a `FusedWeight`, then come its parts:
(KERNEL, SPLITS, PARTS, IN_FEATURES, OUT_FEATURES, BIAS, BIAS_LENGTH, LOW, HIGH) = range(9)
RECORD_WORDS = 9
# Words of a part, then come the cuts between its splits:
(ROWS, ISO, TABLE, INDICES, VALUES, STRIP, ORIGIN, FINAL), PART_WORDS = range(8), 8


@inner
def participate(job, me, real):
    """Take part in a job as number `me`."""
    word = carray(pointer(job), WORDS, int64)
    # nobody loads, and so looks at, what is read where it lies
    looks = me == 0 and word[IN_PLACE] and word[CHECK]
    if looks and not _finite(word[SOURCE], 0, 1, word[IN], real):
        put(job + 8 * BAD, 1)
    for phase in range(word[PHASES]):
        done = 0
        while True:
            block = take(job, phase, me)
            if block < 0:
                break
            if fetch(job + 8 * BAD) == 0:
                if word[TILED]:
                    _tile(job, block, me, real)
                else:
                    _rows(job, phase, block, real)
            done += 1
        if done:
            finished(job, phase, done)
        wait_for_phase(job, phase)
        if fetch(job + 8 * BAD):
            break


@inner
def _rows(job, phase, block, real):
    """Do one block of one phase of a job by rows."""
    word = carray(pointer(job), WORDS, int64)
    count, layers, number = word[COUNT], word[LAYERS], phase - word[LOADS]
    columns = _padded(count, word[LANES])
    if number < 0:
        first, last = _range(word[IN], block, word[BLOCKS])
        _load(job, first, last, 0, count, columns, word[BUFFERS], real)
    elif number < layers:
        y = word[BUFFERS] + (number & 1) * word[BUFFER_BYTES]
        out = word[BUFFERS] + (1 - (number & 1)) * word[BUFFER_BYTES]
        if number == 0 and word[IN_PLACE]:
            y = word[SOURCE]
        if number == layers - 1 and word[OUT_PLACE]:
            out = word[TARGET]
        _compute(word[PROGRAM], number, block, y, out, columns)
    else:
        first, last = _range(word[OUT], block, word[BLOCKS])
        y = word[BUFFERS] + (layers & 1) * word[BUFFER_BYTES]
        _store(job, first, last, 0, count, columns, y, real)


@inner
def _tile(job, block, me, real):
    """Take one tile through all layers."""
    word = carray(pointer(job), WORDS, int64)
    left = block * word[WIDTH]
    right = min(left + word[WIDTH], word[COUNT])
    columns, layers = _padded(right - left, word[LANES]), word[LAYERS]
    front = word[BUFFERS] + 2 * me * word[BUFFER_BYTES]
    back = front + word[BUFFER_BYTES]
    _load(job, 0, word[IN], left, right, columns, front, real)
    if fetch(job + 8 * BAD):
        return
    for number in range(layers):
        _compute(word[PROGRAM], number, 0, front, back, columns)
        front, back = back, front
    _store(job, 0, word[OUT], left, right, columns, front, real)


@inner
def _compute(program, number, block, y, out, columns):
    """Compute a block of rows of a layer, from address `y` to address `out`."""
    record = program + 8 * load(program + 8 * number, int64)
    call(load(record + 8 * KERNEL, int64), (record, block, y, out, columns))


@inner
def _size(kind):
    """Return the bytes of a number."""
    return np.int64(carray(pointer(0), 1, kind).itemsize)


@inner
def _padded(width, lanes):
    return (width + lanes - 1) // lanes * lanes


@inner
def _range(features, block, blocks):
    """Return the features of a block; ranges begin at whole squares of the transposition."""
    first = block * features // blocks // 16 * 16
    last = features if block == blocks - 1 else (block + 1) * features // blocks // 16 * 16
    return first, last


@inner
def _layer(record, block, y, out, columns, real, index):
    """Compute a block of rows of a `FusedWeight`; see `FusedWeight.record`."""
    word = carray(pointer(record), 1 << 40, int64)
    bias = carray(pointer(word[BIAS]), word[BIAS_LENGTH], real)
    at = RECORD_WORDS
    for _ in range(word[PARTS]):
        first, last = word[at + PART_WORDS + block], word[at + PART_WORDS + block + 1]
        low, high = real(-np.inf), real(np.inf)
        if word[at + FINAL]:
            low = real(load(record + 8 * LOW, float64))
            high = real(load(record + 8 * HIGH, float64))
        if columns == 1:
            _sums(word[at + ROWS], word[at + ISO], word[at + TABLE], word[at + INDICES],
                  word[at + VALUES], first, last, word[BIAS],
                  0 if word[BIAS_LENGTH] == 1 else _size(real), y, out, low, high, real,
                  index)  # fmt: skip
        elif first < last:
            rows = word[at + ROWS]
            product(rows, word[at + ISO],
                    carray(pointer(word[at + TABLE]), (last, HEADER + rows), int64),
                    carray(pointer(word[at + INDICES]), 1, index),
                    carray(pointer(word[at + VALUES]), 1, real),
                    first, last, word[at + STRIP], word[at + ORIGIN], bias,
                    carray(pointer(y), (1, word[IN_FEATURES], columns), real),
                    carray(pointer(out), (1, word[OUT_FEATURES], columns), real),
                    low, high)  # fmt: skip
        at += PART_WORDS + word[SPLITS] + 1


@inner
def _sums(
    rows, iso, table, indices, values, first, last, bias, bias_step, y, out, low, high, real, index
):
    """Compute groups first...last-1 for a batch of one sample."""
    align_code()
    size, width = _size(real), _size(index)
    pitch = 8 * (HEADER + rows)
    for record in range(table + first * pitch, table + last * pitch, pitch):
        begin, target = load(record, int64), load(record + 8 * HEADER, int64)
        count = load(record + 8, int64) - begin
        columns, weights = indices + begin * width, values + load(record + 16, int64) * size
        if rows == 1:
            total = dot(iso, values if iso else weights, columns, y, count, real, index)
            value = total + load(bias + bias_step * target, real)
            store(out + target * size, _clamped(value, low, high))
            continue
        if iso:  # four rows of equal weights have one sum
            total = dot(iso, values, columns, y, count, real, index)
            totals = (total, total, total, total)
        else:
            totals = dot_four(weights, columns, y, count, real, index)
        for k in range(GROUP):
            target = load(record + 8 * (HEADER + k), int64)
            value = totals[k] + load(bias + bias_step * target, real)
            store(out + target * size, _clamped(value, low, high))


@inner
def _clamped(value, low, high):
    """Return min(max(value, low), high); NaN stays NaN."""
    value = low if low > value else value
    return high if high < value else value


@inner
def _load(job, first, last, left, right, columns, y, real):
    """Bring features first...last-1 of samples left...right-1 into the tile at `y`."""
    word = carray(pointer(job), WORDS, int64)
    size = _size(real)
    row, column = word[SOURCE_ROW], word[SOURCE_COLUMN]
    source = word[SOURCE] + first * row + left * column
    target, pitch = y + first * columns * size, columns * size
    features, samples = last - first, right - left
    if word[CHECK]:
        if row == size:
            clean = _finite(source, column, samples, features, real)
        else:
            clean = _finite(source, row, features, samples, real)
        if not clean:
            put(job + 8 * BAD, 1)
            return
    if row == size:
        _transpose(source, column, target, pitch, samples, features, real)
    else:
        _copy(source, row, target, pitch, features, samples, real)
    if samples < columns:
        for feature in range(features):
            rest = carray(pointer(target + feature * pitch), columns, real)
            for k in range(samples, columns):
                rest[k] = 0


@inner
def _store(job, first, last, left, right, columns, y, real):
    """Bring features first...last-1 of the tile at `y` to samples left...right-1."""
    word = carray(pointer(job), WORDS, int64)
    size = _size(real)
    row, column = word[TARGET_ROW], word[TARGET_COLUMN]
    target = word[TARGET] + first * row + left * column
    source, pitch = y + first * columns * size, columns * size
    if row == size:
        _transpose(source, pitch, target, column, last - first, right - left, real)
    else:
        _copy(source, pitch, target, row, last - first, right - left, real)


@inner
def _copy(source, source_pitch, target, target_pitch, rows, columns, real):
    for i in range(rows):
        given = carray(pointer(source + i * source_pitch), columns, real)
        taken = carray(pointer(target + i * target_pitch), columns, real)
        for j in range(columns):
            taken[j] = given[j]


@inner
def _transpose(source, source_pitch, target, target_pitch, rows, columns, real):
    """Write the rows of `source` as columns of `target`, square by square, then the edges."""
    size = _size(real)
    side = 64 // size
    whole_rows, whole_columns = rows // side * side, columns // side * side
    for i in range(0, whole_rows, side):
        for j in range(0, whole_columns, side):
            transpose_square(source + i * source_pitch + j * size, source_pitch,
                             target + j * target_pitch + i * size, target_pitch, real)  # fmt: skip
    for i in range(rows):
        given = carray(pointer(source + i * source_pitch), columns, real)
        for j in range(whole_columns if i < whole_rows else 0, columns):
            carray(pointer(target + j * target_pitch), rows, real)[i] = given[j]


@inner
def _finite(source, pitch, rows, columns, real):
    """Return whether no value is NaN or infinite: no exponent is all ones."""
    largest = np.int64(0)
    if _size(real) == 4:
        for i in range(rows):
            bits = carray(pointer(source + i * pitch), columns, uint32)
            found = np.uint32(0)
            for j in range(columns):
                found = max(found, bits[j] & np.uint32(0x7FFFFFFF))
            largest = max(largest, np.int64(found))
        return largest < 0x7F800000
    for i in range(rows):
        words = carray(pointer(source + i * pitch), columns, uint64)
        high = np.uint64(0)
        for j in range(columns):
            high = max(high, words[j] & np.uint64(0x7FFFFFFFFFFFFFFF))
        largest = max(largest, np.int64(high))
    return largest < 0x7FF0000000000000


@jit
def set_addresses(job, source, target):
    """Say where the caller's arrays lie; asking numpy takes 1 us for each."""
    word = carray(pointer(job), WORDS, int64)
    word[SOURCE], word[TARGET] = source.ctypes.data, target.ctypes.data


@cache
def participant(real: Any) -> int:
    """Return the address of `participate` for a real dtype, and load what it works with."""
    reals, stamp = from_dtype(real), _stamp()
    kind = types.Array(reals, 2, "A", readonly=True)  # arrays of any layout

    def enter(job, me):
        participate(job, me + 0 * stamp, reals)

    helpers.load_functions()
    compilation.load(set_addresses, int64, kind, kind)
    return _address("void(int64, int64)", enter)


@cache
def layer_kernel(real: Any, index: Any) -> int:
    """Return the address of `_layer` for a real and an index dtype.

    A function of its own: numba optimises what a function calls again and again, caller by caller,
    and the kernels take seconds. `participate` only knows their addresses.
    """
    reals, indices, stamp = from_dtype(real), from_dtype(index), _stamp()

    def kernel(record, block, y, out, columns):
        _layer(record, block + 0 * stamp, y, out, columns, reals, indices)

    return _address("void(int64, int64, int64, int64, int64)", kernel)


def _address(signature: str, function: Any) -> int:
    """Return the address of a function compiled as a C function, which is kept for good."""
    with compiling():
        made = cfunc(signature, cache=True)(function)
    _kept.append(made)
    return made.address or 0


_kept: list[Any] = []


def _stamp() -> int:
    """Return a number of the sources that the machine code comes from.

    numba's cache on disk looks at this file and at what a function encloses, not at other files.
    """
    sources = b""
    with suppress(OSError):
        for module in (helpers, kernels, instructions):
            sources += Path(str(module.__file__)).read_bytes()
    return zlib.crc32(sources)
