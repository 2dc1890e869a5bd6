"""The compiled interpreter of programs: takes a small batch through all layers.

Addresses are int64. What is read and written, and how, is in the words of the job and in the
program, which `program` writes; it has checked every shape.
"""

# mypy: disable-error-code="attr-defined,call-arg,call-overload,no-untyped-call"
# mypy: disable-error-code="no-untyped-def,var-annotated"
# numba's own annotations do not know what compiled code may do.

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, float64, from_dtype, int64, types, uint32, uint64

from gbdnn.backends.fused import compilation, helpers
from gbdnn.backends.fused.compilation import jit
from gbdnn.backends.fused.helpers import (
    AFTER,
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
    code_stamp,
    compiled_address,
    dot,
    dot_four,
    fetch,
    load,
    pointer,
    put,
    store,
)
from gbdnn.backends.fused.kernels import GROUP, HEADER, product
from gbdnn.backends.fused.through import (
    BACK,
    COUNT,
    EDGES,
    FINALS,
    FRONT,
    IDLE,
    IDS,
    PROGRAM,
    SECTION,
    SIDE,
    START,
    STATE,
    TOTAL,
    WIDTH,
    compute,
    computed,
    restart,
    section,
    sections,
    through,
)
from gbdnn.backends.fused.transposition import copy_rows, transpose

# Words of a job, after those of `helpers`. "Source" and "target" are the caller's arrays; a row is
# a feature, a column is a sample, as in Y. STATES is the address of STATE_COUNT states (see
# `through`), one after the other; of a TILED job one for each participant.
(LAYERS, IN, OUT, TILED, SAMPLES, SOURCE, SOURCE_ROW, SOURCE_COLUMN, TARGET, TARGET_ROW,
 TARGET_COLUMN, STATES, STATE_COUNT, LOADS, CHECK, IN_PLACE, OUT_PLACE,
 ENTRY) = range(8, 26)  # fmt: skip
# ENTRY is the address of `void entry(record, first, last, source, row, column, samples, columns,
# y)`, which brings features to the first layer in the layer's own form, or 0.
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
        if done and finished(job, phase, done) == word[BLOCKS] and word[AFTER]:
            if fetch(job + 8 * BAD) == 0:
                _computed(job, phase)
            finished(job, phase, 1)
        wait_for_phase(job, phase)
        if fetch(job + 8 * BAD):
            break


@inner
def _state(job, number):
    """Return a state of a job, as words."""
    states = carray(pointer(job), WORDS, int64)[STATES]
    return carray(pointer(states + 8 * STATE * number), STATE, int64)


@inner
def _rows(job, phase, block, real):
    """Do one block of one phase of a job."""
    word = carray(pointer(job), WORDS, int64)
    layers, number = word[LAYERS], phase - word[LOADS]
    for k in range(word[STATE_COUNT]):
        state = _state(job, k)
        y, out = (state[BACK], state[FRONT]) if number & 1 else (state[FRONT], state[BACK])
        if number < 0:
            first, last = _range(word[IN], block, word[BLOCKS])
            _load(job, first, last, state, out, real)
        elif number < layers:
            if number == 0 and word[IN_PLACE]:
                y = word[SOURCE]
            if number == layers - 1 and word[OUT_PLACE]:
                out = word[TARGET]
            compute(state, number, block, y, out)
        else:
            first, last = _range(word[OUT], block, word[BLOCKS])
            _store(job, first, last, state, y, real)


@inner
def _computed(job, phase):
    """Count the layer that was just computed, and leave final columns out."""
    word = carray(pointer(job), WORDS, int64)
    number = phase - word[LOADS]
    if 0 <= number < word[LAYERS]:
        for k in range(word[STATE_COUNT]):
            state = _state(job, k)
            y = state[FRONT] if number & 1 else state[BACK]
            computed(word[STATES] + 8 * STATE * k, number, y, False)


@inner
def _tile(job, block, me, real):
    """Take one tile through all layers."""
    word = carray(pointer(job), WORDS, int64)
    state = _state(job, me)
    state[START] = block * state[WIDTH]
    state[TOTAL] = min(state[WIDTH], word[SAMPLES] - state[START])
    restart(state)
    _load(job, 0, word[IN], state, state[FRONT], real)
    if fetch(job + 8 * BAD) == 0:
        through(word[STATES] + 8 * STATE * me)
        _store(job, 0, word[OUT], state, state[BACK] if state[SIDE] else state[FRONT], real)


@inner
def _size(kind):
    """Return the bytes of a number."""
    return np.int64(carray(pointer(0), 1, kind).itemsize)


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
def _load(job, first, last, state, y, real):
    """Bring features first...last-1 of a state's samples to the sections at `y`."""
    word = carray(pointer(job), WORDS, int64)
    size, features = _size(real), last - first
    row, column = word[SOURCE_ROW], word[SOURCE_COLUMN]
    for k in range(sections(state, state[TOTAL])):
        samples, columns = section(state, state[TOTAL], k)
        source = word[SOURCE] + first * row + (state[START] + k * state[WIDTH]) * column
        pitch = columns * size
        target = y + k * state[SECTION] + first * pitch
        if word[CHECK]:
            if row == size:
                clean = _finite(source, column, samples, features, real)
            else:
                clean = _finite(source, row, features, samples, real)
            if not clean:
                put(job + 8 * BAD, 1)
                return
        if word[ENTRY]:
            record = state[PROGRAM] + 8 * load(state[PROGRAM], int64)
            call(word[ENTRY], (record, first, last, source, row, column, samples, columns,
                               y + k * state[SECTION]))  # fmt: skip
            continue
        if row == size:
            transpose(source, column, target, pitch, samples, features, real)
        else:
            copy_rows(source, row, target, pitch, features, samples, real)
        if samples < columns:
            for feature in range(features):
                rest = carray(pointer(target + feature * pitch), columns, real)
                for j in range(samples, columns):
                    rest[j] = 0


@inner
def _store(job, first, last, state, y, real):
    """Bring features first...last-1 of the sections at `y` to a state's samples."""
    word = carray(pointer(job), WORDS, int64)
    size, features = _size(real), last - first
    row, column = word[TARGET_ROW], word[TARGET_COLUMN]
    target, count = word[TARGET] + first * row, state[COUNT]
    for k in range(sections(state, count)):
        used, columns = section(state, count, k)
        source, pitch = y + k * state[SECTION] + first * columns * size, columns * size
        if count < state[TOTAL]:
            ids = carray(pointer(state[IDS]), count, int64)[k * state[WIDTH] :]
            for j in range(used):
                for i in range(features):
                    place = target + ids[j] * column + i * row
                    store(place, load(source + i * pitch + j * size, real))
            continue
        place = target + (state[START] + k * state[WIDTH]) * column
        if row == size:
            transpose(source, pitch, place, column, features, used, real)
        else:
            copy_rows(source, pitch, place, row, features, used, real)
    ids = carray(pointer(state[IDS]), state[TOTAL], int64)
    values = carray(pointer(state[FINALS]), state[TOTAL], float64)
    for j in range(count, state[TOTAL]):  # final columns
        for i in range(features):
            store(target + ids[j] * column + i * row, real(values[j]))


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
def begin(job, source, target):
    """Say where the caller's arrays lie (asking numpy takes 1 us for each); reset the states."""
    word = carray(pointer(job), WORDS, int64)
    word[SOURCE], word[TARGET] = source.ctypes.data, target.ctypes.data
    for k in range(word[STATE_COUNT]):
        restart(_state(job, k))
        _state(job, k)[EDGES] = _state(job, k)[IDLE] = 0


@cache
def participant(real: Any) -> int:
    """Return the address of `participate` for a real dtype, and load what it works with."""
    reals, stamp = from_dtype(real), code_stamp()
    kind = types.Array(reals, 2, "A", readonly=True)  # arrays of any layout

    def enter(job, me):
        participate(job, me + 0 * stamp, reals)

    helpers.load_functions()
    compilation.load(begin, int64, kind, kind)
    return compiled_address("void(int64, int64)", enter)


@cache
def layer_kernel(real: Any, index: Any) -> int:
    """Return the address of `_layer` for a real and an index dtype.

    A function of its own: numba optimises what a function calls again and again, caller by caller,
    and the kernels take seconds. `participate` only knows their addresses.
    """
    reals, indices, stamp = from_dtype(real), from_dtype(index), code_stamp()

    def kernel(record, block, y, out, columns):
        _layer(record, block + 0 * stamp, y, out, columns, reals, indices)

    return compiled_address("void(int64, int64, int64, int64, int64)", kernel)
