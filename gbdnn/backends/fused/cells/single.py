"""A layer of a program for one sample, by windows, in float32.

A row's sum begins at its bias and grows entry by entry, in the order of the columns, with
multiply-adds: the bits are the same for any number of threads, in every call, and those of
`Backend.over_time`. They are not those of batches, which other kernels compute.
"""

# mypy: disable-error-code="attr-defined,call-arg,call-overload,no-untyped-call,no-untyped-def"

from __future__ import annotations

from functools import cache

import numpy as np
from numba import carray, float32, float64, int64, uint32

from gbdnn.backends.base import Affine
from gbdnn.backends.fused.cells.matrix import Matrix, adding
from gbdnn.backends.fused.cells.slices import CELLS
from gbdnn.backends.fused.helpers import address_of, inner
from gbdnn.backends.fused.instructions import call, code_stamp, compiled_address, load, pointer
from gbdnn.backends.fused.windows import cuts

__all__ = ["layer_kernel", "record"]

# Words of a record; then come the cuts between blocks of CELLS rows, and then the record of the
# form that all other batches go by.
(KERNEL, IN, OUT, BIAS, BIAS_STEP, LOW, HIGH, ADD, MATRIX, SPARE, SPLITS) = range(11)
RECORD_WORDS = 11
INFINITE = 0x7F800000  # its bits; NaN's are above

_spare = np.zeros(CELLS, np.float32)  # takes rows that do not exist: nobody reads it


def record(matrix: Matrix, affine: Affine, other: list[int], splits: int) -> list[int]:
    """Return the words of a layer.

    Parameters
    ----------
    matrix : Matrix
        Of rows that are rows, not gates, with windows.
    affine : Affine
        Whose bias is float32.
    other : list of int
        The layer as another kernel computes it, for an input that is not finite: windows multiply
        zeros with what they see.
    splits : int
        Parts of the rows that the kernel can be asked for.
    """
    rows, columns = affine.weight.shape
    bounds = np.array(affine.bounds, np.float64).view(np.int64).tolist()
    words = [layer_kernel(), columns, rows, address_of(affine.bias), 4 * (affine.bias.size > 1)]
    words += [*bounds, adding(np.dtype(np.float32)), matrix.address(1), address_of(_spare), splits]
    return [*words, *cuts(matrix.steps, splits).tolist(), *other]


@inner
def _layer(record, block, y, out, columns):
    """Compute some rows for one column."""
    word = carray(pointer(record), 1 << 40, int64)
    bits, largest = carray(pointer(y), word[IN], uint32), np.uint32(0)
    for i in range(word[IN]):
        largest = max(largest, bits[i] & np.uint32(0x7FFFFFFF))
    if largest >= INFINITE:
        other = record + 8 * (RECORD_WORDS + word[SPLITS] + 1)
        call(load(other, int64), (other, block, y, out, columns))
        return
    low = float32(load(record + 8 * LOW, float64))
    high = float32(load(record + 8 * HIGH, float64))
    result = carray(pointer(out), word[OUT], float32)
    for part in range(word[RECORD_WORDS + block], word[RECORD_WORDS + block + 1]):
        first, last = part * CELLS, min((part + 1) * CELLS, word[OUT])
        for i in range(first, last):
            result[i] = load(word[BIAS] + i * word[BIAS_STEP], float32)
        call(word[ADD], (word[MATRIX], part, y, out, 1, word[SPARE]))
        for i in range(first, last):
            value = result[i]
            value = low if low > value else value
            result[i] = high if high < value else value


@cache
def layer_kernel() -> int:
    """Return the address of `_layer`."""
    stamp = code_stamp()

    def kernel(record, block, y, out, columns):
        _layer(record, block + 0 * stamp, y, out, columns)

    return compiled_address("void(int64, int64, int64, int64, int64)", kernel)
