"""One layer in integers with AVX-512: floats or codes go in, floats or codes come out.

Codes stand in one of two orders, as the products want them: of more than FEW columns in strips of
64, then 32 and 16 columns, each feature after feature; of fewer columns sample after sample, with
`room_of` bytes for each. Whoever writes codes must know which of the two the next layer takes, so
that layers that hand codes over have one FEW (`form.link`).
"""

# mypy: disable-error-code="attr-defined,call-arg,call-overload,no-untyped-call"
# mypy: disable-error-code="no-untyped-def,var-annotated"
# numba's own annotations do not know what compiled code may do.

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, float64, from_dtype, int64, uint8

from gbdnn.backends.fused import compilation
from gbdnn.backends.fused.helpers import inner
from gbdnn.backends.fused.instructions import (
    code_stamp,
    compiled_address,
    load,
    pointer,
    store,
)
from gbdnn.backends.fused.integers.records import (
    BIAS,
    BIAS_LENGTH,
    COMMON,
    CONSTANTS,
    GROW,
    IN_FEATURES,
    LINE,
    LOWER,
    OUT_FEATURES,
    SCALES,
    UPPER,
    copy_columns,
    keep,
    run_layer,
    size_of,
    write_codes,
)
from gbdnn.backends.fused.integers.vnni.packing import ROWS, WINDOW
from gbdnn.backends.fused.integers.vnni.vectors import (
    ADDED,
    CODED,
    SAMPLES,
    STRIPS,
    WRITTEN,
    quad_rows,
    window_rows,
)
from gbdnn.backends.fused.transposition import copy_rows, transpose

__all__ = ["entry_kernel", "layer_kernel", "room_of"]

PART = 16  # features that are transposed and coded at a time: they stay in the first cache

# Words of a record behind those that all have. TAKES and GIVES say whether the input is codes, and
# whether the output is: those that the NEXT words say. PITCH, if it is not 0, is the bytes from
# sample to sample of numbers that up to FEW samples leave sample after sample. Then follows what
# `packing` has made; then come BLOCKS + 1 cuts between rows, and as many between groups of sixteen.
(TAKES, GIVES, PITCH, NEXT_STEP, NEXT_INVERSE, NEXT_LEAST, NEXT_MOST, NEXT_BASE, QUAD_TABLE,
 QUAD_COLUMNS, QUAD_WEIGHTS, FEW, GROUP_TABLE, TARGETS, IN_ORDER, GROUP_CONSTANTS, GROUP_SCALES,
 STARTS, PLACES, WINDOW_WEIGHTS, NIBBLES, BLOCKS) = range(COMMON, COMMON + 22)  # fmt: skip
RECORD_WORDS = COMMON + 22


@inner
def room_of(features):
    """Return the bytes from one sample's codes to the next one's: windows may read all of them.

    An odd number of lines: the same window of many samples must not fall into few sets of a cache.
    """
    return (features + WINDOW - 1) // WINDOW * WINDOW | WINDOW


@inner
def strip_of(columns):
    """Return the width of the next strip where `columns` are left."""
    return LINE if columns >= LINE else LINE // 2 if columns >= LINE // 2 else LINE // 4


@inner
def _number(record, word, real):
    """Return a number of a record."""
    return real(load(record + 8 * word, float64))


@inner
def _layer(record, block, y, out, columns, real, index):
    """Compute a block of rows of a layer."""
    if columns <= carray(pointer(record), 1 << 40, int64)[FEW]:
        _few(record, block, y, out, columns, real, index)
    else:
        _many(record, block, y, out, columns, real, index)


@inner
def _many(record, block, y, out, columns, real, index):
    """Compute a block of rows by quads."""
    word = carray(pointer(record), 1 << 40, int64)
    features, size = word[IN_FEATURES], size_of(real)
    first, last = word[RECORD_WORDS + block], word[RECORD_WORDS + block + 1]
    bias_step = 0 if word[BIAS_LENGTH] == 1 else 1
    gives = word[GIVES] != 0
    way = CODED if gives else ADDED if word[GROW] else WRITTEN
    # numba frees an array behind its last use, of which it sees none in addresses: see `keep`
    memory = np.empty(0 if word[TAKES] else features * strip_of(columns) + LINE, np.uint8)
    ragged = not gives and columns % STRIPS[-1] != 0
    aside = np.empty((last - first) * STRIPS[-1] if ragged else 0, real)
    at = 0
    while at < columns:
        strip = strip_of(columns - at)
        used = min(columns - at, strip)
        codes = y + at * features
        if not word[TAKES]:
            codes = (memory.ctypes.data + LINE - 1) // LINE * LINE
            if strip == columns:
                write_codes(record, y, features * columns, codes, uint8, real)
            else:
                for i in range(features):
                    write_codes(record, y + (i * columns + at) * size, used, codes + i * strip,
                                uint8, real)  # fmt: skip
        target, pitch = out + at * size, columns * size
        if gives:
            target, pitch = out + at * word[OUT_FEATURES], strip
        elif used < strip:
            pitch = strip * size
            target = aside.ctypes.data - first * pitch
            if word[GROW]:
                copy_columns(out + at * size + first * columns * size, columns, aside.ctypes.data,
                             strip, last - first, used, real)  # fmt: skip
        quad_rows(strip, word[QUAD_TABLE], word[QUAD_COLUMNS], word[QUAD_WEIGHTS], first, last,
                  codes, word[CONSTANTS], word[SCALES], word[BIAS], bias_step, target, pitch, way,
                  _number(record, LOWER, real), _number(record, UPPER, real),
                  _number(record, NEXT_STEP, real), _number(record, NEXT_INVERSE, real),
                  _number(record, NEXT_LEAST, real), _number(record, NEXT_MOST, real),
                  _number(record, NEXT_BASE, real), index)  # fmt: skip
        if used < strip and not gives:
            copy_columns(aside.ctypes.data, strip, out + at * size + first * columns * size,
                         columns, last - first, used, real)  # fmt: skip
        at += strip
    keep(memory)
    keep(aside)


@inner
def _few(record, block, y, out, columns, real, index):
    """Compute a block of rows by windows, over what is there: see `VnniIntegers.affine`."""
    word = carray(pointer(record), 1 << 40, int64)
    features, size = word[IN_FEATURES], size_of(real)
    room, next_room = room_of(features), room_of(word[OUT_FEATURES])
    gives = word[GIVES] != 0
    memory = np.empty(0 if word[TAKES] else columns * room + LINE, np.uint8)
    codes = y
    if not word[TAKES]:
        codes = (memory.ctypes.data + LINE - 1) // LINE * LINE
        _code_samples(record, y, columns, codes, room, real)
    by_row, by_sample = columns * size, size
    if word[PITCH]:
        by_row, by_sample = size, word[PITCH]
    biases, some = np.zeros(ROWS, real), np.empty(SAMPLES[0] * ROWS, real)
    bias = carray(pointer(word[BIAS]), word[BIAS_LENGTH], real)
    if word[BIAS_LENGTH] == 1:
        biases[:] = bias[0]
    low, high = _number(record, LOWER, real), _number(record, UPPER, real)
    at = RECORD_WORDS + word[BLOCKS] + 1 + block
    for group in range(word[at], word[at + 1]):
        begin = load(word[GROUP_TABLE] + 8 * group, int64)
        end = load(word[GROUP_TABLE] + 8 * (group + 1), int64)
        whole = word[IN_ORDER] and ROWS * (group + 1) <= word[OUT_FEATURES]
        biases_at = biases.ctypes.data
        if word[BIAS_LENGTH] > 1:
            if whole:
                biases_at = word[BIAS] + size * ROWS * group
            else:
                _choose(record, group, bias, biases)
        # where they are to stay, if they stand side by side there
        coded_here = gives and word[IN_ORDER]
        straight = coded_here or (whole and by_row == size and not gives)
        sample = 0
        while sample < columns:
            samples = 1
            while 2 * samples <= min(columns - sample, SAMPLES[0]):
                samples *= 2
            target, pitch = some.ctypes.data, ROWS if gives else ROWS * size
            if coded_here:
                target, pitch = out + sample * next_room + ROWS * group, next_room
            elif straight:
                target, pitch = out + sample * by_sample + ROWS * group * size, by_sample
            window_rows(samples, word[STARTS], word[PLACES], word[WINDOW_WEIGHTS], word[NIBBLES],
                        begin, end, codes + sample * room, room,
                        word[GROUP_CONSTANTS] + 4 * ROWS * group,
                        word[GROUP_SCALES] + size * ROWS * group, biases_at, target, pitch,
                        CODED if gives else WRITTEN, low, high,
                        _number(record, NEXT_STEP, real), _number(record, NEXT_INVERSE, real),
                        _number(record, NEXT_LEAST, real), _number(record, NEXT_MOST, real),
                        _number(record, NEXT_BASE, real), index)  # fmt: skip
            if not straight and gives:
                _scatter_codes(record, group, some.ctypes.data, samples, out + sample * next_room)
            elif not straight:
                _scatter(record, group, some, samples, out + sample * by_sample, by_row, by_sample)
            sample += samples
    keep(memory)
    keep(some)
    keep(biases)


@inner
def _code_samples(record, y, columns, codes, room, real):
    """Write the codes of y, feature after feature, sample after sample."""
    features = carray(pointer(record), 1 << 40, int64)[IN_FEATURES]
    if columns == 1:
        write_codes(record, y, features, codes, uint8, real)
        return
    flat = np.empty(features * columns, np.uint8)
    write_codes(record, y, features * columns, flat.ctypes.data, uint8, real)
    taken = carray(pointer(codes), columns * room, uint8)
    for j in range(columns):
        for i in range(features):
            taken[j * room + i] = flat[i * columns + j]
    keep(flat)


@inner
def _choose(record, group, bias, biases):
    """Bring the biases of a group side by side."""
    word = carray(pointer(record), 1 << 40, int64)
    targets = carray(pointer(word[TARGETS]), 1 << 40, int64)
    for r in range(ROWS):
        row = targets[group * ROWS + r]
        biases[r] = bias[row] if row >= 0 else 0


@inner
def _scatter_codes(record, group, some, samples, out):
    """Bring the codes of a group's rows to their places."""
    word = carray(pointer(record), 1 << 40, int64)
    targets = carray(pointer(word[TARGETS]), 1 << 40, int64)
    room = room_of(word[OUT_FEATURES])
    given = carray(pointer(some), samples * ROWS, uint8)
    taken = carray(pointer(out), samples * room, uint8)
    for r in range(ROWS):
        row = targets[group * ROWS + r]
        if row >= 0:
            for j in range(samples):
                taken[j * room + row] = given[j * ROWS + r]


@inner
def _scatter(record, group, some, samples, out, by_row, by_sample):
    """Bring the results of a group's rows to their places."""
    word = carray(pointer(record), 1 << 40, int64)
    targets = carray(pointer(word[TARGETS]), 1 << 40, int64)
    for r in range(ROWS):
        row = targets[group * ROWS + r]
        if row >= 0:
            for j in range(samples):
                store(out + row * by_row + j * by_sample, some[j * ROWS + r])


@inner
def _enter(record, first, last, source, row, column, samples, columns, y, real):
    """Write the codes of features first ... last - 1 of some samples as the layer takes them.

    Values are `row` bytes apart from feature to feature and `column` bytes from sample to sample.
    There is room for `columns` samples; what is behind the given ones is undefined.
    """
    word = carray(pointer(record), 1 << 40, int64)
    features, size, count = word[IN_FEATURES], size_of(real), last - first
    if columns <= word[FEW]:
        room = room_of(features)
        for j in range(samples):
            if row == size:
                write_codes(record, source + j * column, count, y + j * room + first, uint8, real)
                continue
            for i in range(count):
                write_codes(record, source + i * row + j * column, 1, y + j * room + first + i,
                            uint8, real)  # fmt: skip
        return
    part = np.zeros(PART * LINE, real)
    at = 0
    while at < columns:
        strip = strip_of(columns - at)
        used = max(min(strip, samples - at), 0)
        for i in range(0, count, PART):
            rows = min(PART, count - i)
            given = source + i * row + at * column
            if row == size:
                transpose(given, column, part.ctypes.data, strip * size, used, rows, real)
            else:
                copy_rows(given, row, part.ctypes.data, strip * size, rows, used, real)
            write_codes(record, part.ctypes.data, rows * strip,
                        y + at * features + (first + i) * strip, uint8, real)  # fmt: skip
        at += strip
    keep(part)


@cache
def entry_kernel(real: Any) -> int:
    """Return the address of `_enter` for a real dtype."""
    reals, stamp = from_dtype(real), code_stamp()

    def kernel(record, first, last, source, row, column, samples, columns, y):
        _enter(record, first + 0 * stamp, last, source, row, column, samples, columns, y, reals)

    return compiled_address(f"void({', '.join(['int64'] * 9)})", kernel)


@cache
def layer_kernel(real: Any, index: Any) -> int:
    """Return the address of `_layer` for a real and an index dtype."""
    reals, indices, stamp = from_dtype(real), from_dtype(index), code_stamp()

    def kernel(record, block, y, out, columns):
        _layer(record, block + 0 * stamp, y, out, columns, reals, indices)

    kinds = (compilation.array_type(reals, 3), compilation.array_type(reals, 3, writable=True))
    compilation.load(run_layer, int64, int64, *kinds)
    return compiled_address("void(int64, int64, int64, int64, int64)", kernel)
