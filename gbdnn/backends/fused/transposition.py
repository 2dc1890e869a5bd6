"""Rows and columns of numbers by address: copied, or one turned into the other."""

# mypy: disable-error-code="attr-defined,call-arg,call-overload,no-untyped-call,no-untyped-def"
# numba's own annotations do not know what compiled code may do.

from __future__ import annotations

import numpy as np
from numba import carray

from gbdnn.backends.fused.helpers import inner
from gbdnn.backends.fused.instructions import pointer, transpose_square

__all__ = ["copy_rows", "transpose"]


@inner
def copy_rows(source, source_pitch, target, target_pitch, rows, columns, real):
    """Copy rows that are some bytes apart."""
    for i in range(rows):
        given = carray(pointer(source + i * source_pitch), columns, real)
        taken = carray(pointer(target + i * target_pitch), columns, real)
        for j in range(columns):
            taken[j] = given[j]


@inner
def transpose(source, source_pitch, target, target_pitch, rows, columns, real):
    """Write the rows of `source` as columns of `target`, square by square, then the edges."""
    size = np.int64(carray(pointer(0), 1, real).itemsize)
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
