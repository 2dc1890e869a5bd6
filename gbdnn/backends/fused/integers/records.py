"""What records of integer layers begin with, and what all of their kernels do.

A layer is a row of words, a *record*, as in `interpreter`: it begins with the address of the
kernel, ``void kernel(record, block, y, out, columns)``, and programs call that as they call the
kernel of a float layer.
"""

# mypy: disable-error-code="attr-defined,call-arg,call-overload,no-untyped-call"
# mypy: disable-error-code="no-untyped-def,var-annotated"
# numba's own annotations do not know what compiled code may do.

from __future__ import annotations

import numpy as np
from numba import carray, float64, int64, uint8

from gbdnn.backends.fused.compilation import jit, supports
from gbdnn.backends.fused.helpers import inner
from gbdnn.backends.fused.instructions import call, load, pointer
from gbdnn.backends.fused.integers.vectors import BLOCKS as NUMBERS
from gbdnn.backends.fused.integers.vectors import code_block

__all__ = [
    "copy_columns", "instructions", "keep", "next_power", "run_layer", "size_of", "write_codes",
]  # fmt: skip

INSTRUCTIONS = {
    "vnni": ("avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vnni"),
    "avx2": ("avx2",),
}
"""What the kernels ask for by name, the fastest first."""

# LEVEL_STEP, INVERSE, LEAST and MOST say how activations are rounded (`Levels`), then come bias,
# bounds and factors. GROW says that results are added to what is there.
(KERNEL, IN_FEATURES, OUT_FEATURES, LEVEL_STEP, INVERSE, LEAST, MOST, BIAS, BIAS_LENGTH, LOWER,
 UPPER, GROW, CONSTANTS, SCALES) = range(14)  # fmt: skip
COMMON = 14
LINE = 64


def instructions() -> str:
    """Return the first of INSTRUCTIONS that numba compiles for on this processor, or "none"."""
    return next((name for name, each in INSTRUCTIONS.items() if supports(*each)), "none")


@jit
def run_layer(record, block, y, out):
    """Compute a block of rows for arrays (tiles, features, width)."""
    for tile in range(y.shape[0]):
        call(load(record, int64),
             (record, block, y[tile].ctypes.data, out[tile].ctypes.data, y.shape[2]))  # fmt: skip


@inner
def size_of(real):
    """Return the bytes of a number."""
    return np.int64(carray(pointer(0), 1, real).itemsize)


@inner
def keep(array):
    """Keep an array until here."""
    if array.size < 0:
        array[0] = 0


@inner
def next_power(number):
    """Return the next power of two."""
    power = 1
    while power < number:
        power *= 2
    return power


@inner
def copy_columns(source, source_width, target, target_width, rows, columns, real):
    """Copy the first `columns` of rows that are some widths apart."""
    given = carray(pointer(source), rows * source_width, real)
    taken = carray(pointer(target), rows * target_width, real)
    for i in range(rows):
        for j in range(columns):
            taken[i * target_width + j] = given[i * source_width + j]


@inner
def write_codes(record, source, count, target, machine, real):
    """Write codes of `count` numbers, min(max(rint(x / step), least), most) - least, as bytes."""
    step, inverse = load(record + 8 * LEVEL_STEP, float64), load(record + 8 * INVERSE, float64)
    least, most = load(record + 8 * LEAST, float64), load(record + 8 * MOST, float64)
    step, inverse, least, most = real(step), real(inverse), real(least), real(most)
    size = size_of(real)
    wide, narrow = NUMBERS
    done = 0
    while count - done >= wide:
        code_block(wide, source + done * size, target + done, step, inverse, least, most, machine,
                   real)  # fmt: skip
        done += wide
    while count - done >= narrow:
        code_block(narrow, source + done * size, target + done, step, inverse, least, most,
                   machine, real)  # fmt: skip
        done += narrow
    given, taken = carray(pointer(source), count, real), carray(pointer(target), count, uint8)
    for j in range(done, count):
        level = np.rint(given[j] / step)
        level = level if level > least else least  # NaN becomes the least
        level = level if level < most else most
        taken[j] = np.uint8(np.int32(level - least))
