"""One layer in integers: codes of the activations, integer products, scale, bias and bounds.

Floats go in and come out, see `records`.
"""

# mypy: disable-error-code="attr-defined,call-arg,call-overload,no-untyped-call"
# mypy: disable-error-code="no-untyped-def,var-annotated"
# numba's own annotations do not know what compiled code may do.

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, float64, from_dtype, int8, int64, uint8

from gbdnn.backends.fused import compilation
from gbdnn.backends.fused.helpers import inner
from gbdnn.backends.fused.instructions import code_stamp, compiled_address, load, pointer
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
    next_power,
    run_layer,
    size_of,
    write_codes,
)
from gbdnn.backends.fused.integers.vectors import ROWS, WINDOW, unit_rows, window_sums

__all__ = ["layer_kernel"]

# Words of a record behind those that all have: what `packing` has made. Up to FEW samples go by
# windows. Then come BLOCKS + 1 cuts between rows, and as many between groups of sixteen.
(PAIRS, UNIT_TABLE, UNIT_COLUMNS, UNIT_WEIGHTS, FEW, STEPS, GROUP_TABLE, TARGETS, GROUP_CONSTANTS,
 GROUP_SCALES, STARTS, PLACES, WINDOW_WEIGHTS, BLOCKS) = range(COMMON, COMMON + 14)  # fmt: skip
RECORD_WORDS = COMMON + 14


@inner
def _layer(record, block, y, out, columns, machine, real, index):
    """Compute a block of rows of a layer."""
    word = carray(pointer(record), 1 << 40, int64)
    if columns <= word[FEW]:
        _few(record, block, y, out, columns, machine, real, index)
        return
    size = size_of(real)
    first = word[RECORD_WORDS + block]
    last = word[RECORD_WORDS + block + 1]
    step = 0 if word[BIAS_LENGTH] == 1 else 1
    strip = min(max(next_power(columns), 8), LINE)
    # numba frees an array behind its last use, of which it sees none in addresses: see `keep`
    memory = np.empty(word[IN_FEATURES] * strip + LINE, np.uint8)
    aside = np.empty((last - first) * strip if columns % strip else 0, real)
    codes = (memory.ctypes.data + LINE - 1) // LINE * LINE
    for at in range(0, columns, LINE):
        strip = min(max(next_power(columns - at), 8), LINE)
        used = min(columns - at, strip)
        if strip == columns:
            write_codes(record, y, word[IN_FEATURES] * columns, codes, machine, real)
        else:
            for i in range(word[IN_FEATURES]):
                write_codes(record, y + (i * columns + at) * size, used, codes + i * strip, machine,
                      real)  # fmt: skip
        target, pitch, place = out + at * size, columns * size, out
        if used < strip:
            place = out + at * size
            pitch = strip * size
            target = aside.ctypes.data - first * pitch
            if word[GROW]:
                copy_columns(place + first * columns * size, columns, aside.ctypes.data, strip,
                      last - first, used, real)  # fmt: skip
        unit_rows(strip, word[UNIT_TABLE], word[UNIT_COLUMNS], word[UNIT_WEIGHTS], word[PAIRS],
                  first, last, codes, word[CONSTANTS], word[SCALES], word[BIAS], step, target,
                  pitch, word[GROW], real(load(record + 8 * LOWER, float64)),
                  real(load(record + 8 * UPPER, float64)), machine, real, index)  # fmt: skip
        if used < strip:
            copy_columns(target + first * pitch, strip, place + first * columns * size, columns,
                  last - first, used, real)  # fmt: skip
    keep(memory)
    keep(aside)


@inner
def _few(record, block, y, out, columns, machine, real, index):
    """Compute a block of rows for a few samples."""
    word = carray(pointer(record), 1 << 40, int64)
    features = word[IN_FEATURES]
    pitch = features + WINDOW
    codes = np.zeros(columns * pitch, np.uint8)
    if columns == 1:
        write_codes(record, y, features, codes.ctypes.data, machine, real)
    else:
        flat = np.empty(features * columns, np.uint8)
        write_codes(record, y, features * columns, flat.ctypes.data, machine, real)
        for j in range(columns):
            for i in range(features):
                codes[j * pitch + i] = flat[i * columns + j]
    size = size_of(real)
    sums = np.empty(4 * ROWS, real)
    targets = carray(pointer(word[TARGETS]), 1 << 40, int64)
    bias = carray(pointer(word[BIAS]), word[BIAS_LENGTH], real)
    step = 0 if word[BIAS_LENGTH] == 1 else 1
    result = carray(pointer(out), word[OUT_FEATURES] * columns, real)
    lower = real(load(record + 8 * LOWER, float64))
    upper = real(load(record + 8 * UPPER, float64))
    at = RECORD_WORDS + word[BLOCKS] + 1 + block
    for group in range(word[at], word[at + 1]):
        begin = load(word[GROUP_TABLE] + 8 * group, int64)
        end = load(word[GROUP_TABLE] + 8 * (group + 1), int64)
        sample = 0
        while sample < columns:
            samples = 4 if columns - sample >= 4 else 2 if columns - sample >= 2 else 1
            window_sums(samples, word[STARTS], word[PLACES], word[WINDOW_WEIGHTS], begin, end,
                        word[STEPS], codes.ctypes.data + sample * pitch, pitch,
                        word[GROUP_CONSTANTS] + 4 * ROWS * group,
                        word[GROUP_SCALES] + size * ROWS * group, sums.ctypes.data, machine, real,
                        index)  # fmt: skip
            for r in range(ROWS):
                row = targets[group * ROWS + r]
                if row < 0:
                    continue
                for j in range(samples):
                    place = row * columns + sample + j
                    value = sums[j * ROWS + r] + bias[row * step]
                    if word[GROW]:
                        value += result[place]
                    value = lower if lower > value else value
                    result[place] = upper if upper < value else value
            sample += samples


@cache
def layer_kernel(real: Any, index: Any, named: bool) -> int:
    """Return the address of `_layer` for a real and an index dtype.

    With `named` it uses the instructions that `vectors` asks for by name.
    """
    reals, indices, stamp = from_dtype(real), from_dtype(index), code_stamp()
    machine = uint8 if named else int8

    def kernel(record, block, y, out, columns):
        _layer(record, block + 0 * stamp, y, out, columns, machine, reals, indices)

    kinds = (compilation.array_type(reals, 3), compilation.array_type(reals, 3, writable=True))
    compilation.load(run_layer, int64, int64, *kinds)
    return compiled_address("void(int64, int64, int64, int64, int64)", kernel)
