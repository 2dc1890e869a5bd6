"""Columns on their way through the layers of a program, and exact skipping between two layers.

For wide tiles too Python's work counts: 120 layers of 1,024 neurons on 60,000 samples are 4,000
products, and two threads wait for each other's 10 us of Python between any two of them. So a tile
goes through many layers as one compiled call. Which columns are final (`gbdnn.execution.skipping`)
is asked here as well: by a look at the first row, and at more rows as long as enough columns stay
constant. Where none is final that costs less than a row of the product.
"""

# mypy: disable-error-code="attr-defined,call-arg,call-overload,no-untyped-call,no-untyped-def"
# numba's own annotations do not know what compiled code may do.

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import carray, float64, from_dtype, int64, uint8

from gbdnn.backends.fused.helpers import inner
from gbdnn.backends.fused.instructions import call, code_stamp, compiled_address, load, pointer

__all__ = [
    "STATE", "compute", "computed", "dropping", "loaded", "restart", "section", "sections",
    "through",
]  # fmt: skip

# Words of a state: where columns are on their way. They stand in sections of WIDTH columns, SECTION
# bytes apart; the last one may be narrower, of a multiple of LANES. CONSTANTS is a float64 table
# with CHOICES columns: for each layer what a column may be to be final behind it, filled up with
# NaN. FEATURES has the values of a column before the first layer and behind each; WEIGHTS the
# stored weights of each. TOTAL columns set out, the samples from START on, and COUNT are left:
# their numbers come first in IDS, then those of the others, whose constants are in FINALS. The
# columns stand in FRONT, or if SIDE is 1 in BACK. EDGES counts weights x columns, IDLE those
# of them that were for final columns which no strip could be spared for. DROP is the address of
# the function that looks for final columns, or 0.
(PROGRAM, FIRST, LAST, WIDTH, SECTION, LANES, CHOICES, CONSTANTS, FEATURES, WEIGHTS, IDS, FINALS,
 FLAGS, FRONT, BACK, START, TOTAL, COUNT, SIDE, EDGES, IDLE, DROP) = range(22)  # fmt: skip
STATE = 24
LOOK = 4  # rows after which it is seen whether enough columns may still be constant


@inner
def padded(width, lanes):
    """Return the next multiple of `lanes`."""
    return (width + lanes - 1) // lanes * lanes


@inner
def sections(word, count):
    """Return how many sections `count` columns take."""
    return (count + word[WIDTH] - 1) // word[WIDTH]


@inner
def section(word, count, number):
    """Return the columns of a section that are in use, and as they are stored."""
    used = min(word[WIDTH], count - number * word[WIDTH])
    return used, padded(used, word[LANES])


@inner
def compute(word, number, block, y, out):
    """Compute a block of rows of a layer for all sections, from address `y` to address `out`."""
    record = word[PROGRAM] + 8 * load(word[PROGRAM] + 8 * number, int64)
    kernel = load(record, int64)
    for k in range(sections(word, word[COUNT])):
        shift = k * word[SECTION]
        _, columns = section(word, word[COUNT], k)
        call(kernel, (record, block, y + shift, out + shift, columns))


@inner
def restart(word):
    """Put all columns back to the front, numbered from START."""
    word[COUNT], word[SIDE] = word[TOTAL], 0
    if word[DROP]:
        ids = carray(pointer(word[IDS]), word[TOTAL], int64)
        for k in range(word[TOTAL]):
            ids[k] = word[START] + k


@inner
def through(state):
    """Take columns through layers FIRST ... LAST - 1."""
    word = carray(pointer(state), STATE, int64)
    for number in range(word[FIRST], word[LAST]):
        if word[COUNT] == 0:
            return
        front, back = (word[BACK], word[FRONT]) if word[SIDE] else (word[FRONT], word[BACK])
        compute(word, number, 0, front, back)
        word[SIDE] = 1 - word[SIDE]
        computed(state, number, back, number == word[LAST] - 1)


@inner
def computed(state, number, y, last):
    """Count layer `number`, whose values are at `y`, and leave final columns out."""
    word = carray(pointer(state), STATE, int64)
    word[EDGES] += load(word[WEIGHTS] + 8 * number, int64) * word[COUNT]
    if word[DROP] and word[COUNT]:
        call(word[DROP], (state, number, y, np.int64(last)))


@inner
def _drop(state, number, y, last, real):
    """Leave final columns behind layer `number` out, if there are fewer strips without them.

    At the `last` layer one final column is enough.
    """
    word = carray(pointer(state), STATE, int64)
    count = word[COUNT]
    features = load(word[FEATURES] + 8 * (number + 1), int64)
    strips = padded(count, word[LANES]) // word[LANES]
    least = 1 if last else max(count // 4, 1)
    flags = carray(pointer(word[FLAGS]), count, uint8)
    found = _final(word, number, y, features, least, flags, real)
    if found < least:
        return
    if not last and found < count - (strips - 1) * word[LANES]:
        word[IDLE] += load(word[WEIGHTS] + 8 * (number + 1), int64) * found
    else:
        _set_aside(word, y, flags, found, real)
        _close(word, y, features, flags, count - found, real)
        word[COUNT] = count - found


@inner
def _final(word, number, y, features, least, flags, real):
    """Flag the columns that are final; return how many, or at some row that it is too few."""
    found = 0
    for k in range(sections(word, len(flags))):
        used, columns = section(word, len(flags), k)
        row = carray(pointer(y + k * word[SECTION]), columns, real)
        for j in range(used):
            flag = 0
            for c in range(word[CHOICES]):
                at = word[CONSTANTS] + 8 * (word[CHOICES] * number + c)
                flag |= np.float64(row[j]) == load(at, float64)
            flags[k * word[WIDTH] + j] = flag
            found += flag
    for first in range(1, features, LOOK):
        if found < least:
            break
        found = 0
        for k in range(sections(word, len(flags))):
            used, columns = section(word, len(flags), k)
            Y = carray(pointer(y + k * word[SECTION]), (features, columns), real)
            here = flags[k * word[WIDTH] :][:used]
            for i in range(first, min(first + LOOK, features)):
                for j in range(used):
                    here[j] &= np.uint8(Y[i, j] == Y[0, j])
            for j in range(used):
                found += here[j]
    return found


@inner
def _set_aside(word, y, flags, found, real):
    """Move the numbers of final columns behind the others, with their constants."""
    count = len(flags)
    ids = carray(pointer(word[IDS]), count, int64)
    values = carray(pointer(word[FINALS]), count, float64)
    gone = np.empty(found, np.int64)
    left, last = 0, 0
    for j in range(count):
        if flags[j]:
            row = carray(pointer(y + j // word[WIDTH] * word[SECTION]), word[WIDTH], real)
            gone[last] = ids[j]
            values[count - found + last] = row[j % word[WIDTH]]
            last += 1
        else:
            ids[left] = ids[j]
            left += 1
    ids[left:] = gone


@inner
def _close(word, y, features, flags, left, real):
    """Copy the other columns together, in place: row by row nothing is overwritten too early."""
    row = np.empty(len(flags), real)
    for i in range(features):
        last = 0
        for k in range(sections(word, len(flags))):
            used, columns = section(word, len(flags), k)
            given = carray(pointer(y + k * word[SECTION]), (features, columns), real)
            for j in range(used):
                row[last] = given[i, j]
                last += 1 - flags[k * word[WIDTH] + j]
        for k in range(sections(word, left)):
            used, columns = section(word, left, k)
            taken = carray(pointer(y + k * word[SECTION]), (features, columns), real)
            for j in range(columns):
                taken[i, j] = row[k * word[WIDTH] + j] if j < used else real(0)


@cache
def dropping(real: Any) -> int:
    """Return the address of `_drop` for a real dtype, compiled when columns may be final.

    A function of its own: whatever calls it is not compiled with it.
    """
    reals, stamp = from_dtype(real), code_stamp()

    def kernel(state, number, y, last):
        _drop(state + 0 * stamp, number, y, last, reals)

    return compiled_address("void(int64, int64, int64, int64)", kernel)


@cache
def loaded() -> Callable[[int], None]:
    """Return `through`, compiled: takes the address of the words, without the GIL."""
    stamp = code_stamp()

    def enter(state):
        through(state + 0 * stamp)

    address = compiled_address("void(int64)", enter)
    function: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_int64)(address)
    return function
