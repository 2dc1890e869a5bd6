"""A sparse matrix for compiled loops over time: products whose bits depend on nothing but a column.

A sum begins with what is there and grows entry by entry, in the order of the row, with
multiply-adds. One column goes by `windows` where the processor has them, others by `slices`.
"""

# mypy: disable-error-code="attr-defined,call-arg,call-overload,no-untyped-call,no-untyped-def"

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, from_dtype, int64

from gbdnn.backends.fused.cells.slices import Slices, block_rows, slices, sums
from gbdnn.backends.fused.cells.windows import FloatWindows, window_sums, windows
from gbdnn.backends.fused.helpers import address_of, inner
from gbdnn.backends.fused.instructions import code_stamp, compiled_address, pointer
from gbdnn.backends.fused.kernels import STRIP
from gbdnn.machine.locks import lock_of
from gbdnn.types import Array

__all__ = ["Matrix", "adding"]

# Words of a matrix; WINDOWED: which kind of windows, and one more; 0: by slices
WINDOWED, STARTS, TABLE, COLUMNS, VALUES, PLACES, TARGETS, MATRIX_WORDS = range(8)


class Matrix:
    """A matrix by blocks of CELLS cells, in two orders, each made when it is first needed.

    Parameters
    ----------
    indptr, indices : ndarray
        CSR; the columns of a row ascend, and are below 2^16.
    values : ndarray
        Of the entries, in the order `order` has: entry k of the CSR is ``values[order[k]]``.
    order : ndarray of int64 or None
        None: entry k is ``values[k]``, and values never change.
    gates : int
        Rows of a cell.
    columns : int
    """

    def __init__(
        self, indptr: Array, indices: Array, values: Array, order: Array | None, gates: int,
        columns: int,
    ) -> None:  # fmt: skip
        self.indptr, self.indices, self.order = indptr.astype(np.int64), indices, order
        self.values, self.columns = values, columns
        self.rows = block_rows(np.diff(self.indptr), gates)
        self._slices: Slices | None = None
        self._windows: FloatWindows | None = None
        self._words: dict[bool, Array] = {}
        self._lock = lock_of(self)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.rows)

    @property
    def edges(self) -> int:
        """Number of entries."""
        return len(self.indices)

    @property
    def nbytes(self) -> int:
        """Bytes of the orders that were made."""
        return sum(form.nbytes for form in (self._slices, self._windows) if form is not None)

    @property
    def steps(self) -> Array:
        """The number of the first step of each block, and of all, for one column by windows."""
        form = self.windows
        assert form is not None
        found: Array = form.windows.table[form.starts]
        return found

    @property
    def windows(self) -> FloatWindows | None:
        """What one column goes by, if the processor and the matrix suit it."""
        self.address(1)
        return self._windows

    def refresh(self, values: Array) -> None:
        """Take over new values of the entries."""
        self.values = values
        for each in (self._slices, self._windows):
            if each is not None:
                each.refresh(values)

    def address(self, width: int) -> int:
        """Return the address of the words for products with so many columns."""
        narrow = width == 1
        with self._lock:  # a second thread would replace what the first one computes with
            if narrow not in self._words:
                self._words[narrow] = self._made(narrow)
            return address_of(self._words[narrow])

    def _made(self, narrow: bool) -> Array:
        fixed = self.order is None
        order = np.arange(self.edges) if self.order is None else self.order
        given = self.indptr, self.indices, self.values, order, self.rows
        if narrow and self._windows is None:
            self._windows = windows(*given, self.columns, fixed=fixed)
        form: Slices | FloatWindows | None = self._windows if narrow else None
        if form is None:
            form = self._slices = self._slices or slices(*given, fixed=fixed)
        words = np.zeros(MATRIX_WORDS, np.int64)
        arrays = {STARTS: form.starts}
        if isinstance(form, FloatWindows):
            words[WINDOWED], steps = form.kind + 1, form.windows
            arrays |= {TABLE: steps.table, COLUMNS: steps.starts, VALUES: steps.weights,
                       PLACES: steps.places, TARGETS: steps.targets}  # fmt: skip
        else:
            arrays |= {TABLE: form.table, COLUMNS: form.columns, VALUES: form.values}
        for word, array in arrays.items():
            words[word] = address_of(array)
        return words


@cache
def adding(real: Any) -> int:
    """Return the address of `_add_products` for a real dtype, without the last argument.

    Called by address its code, some seconds of compilation, is made once.
    """
    reals, stamp = from_dtype(real), code_stamp()

    def add(matrix, block, y, out, width, spare):
        _add_products(matrix, block + 0 * stamp, y, out, width, spare, reals)

    return compiled_address("void(int64, int64, int64, int64, int64, int64)", add)


@inner
def _add_products(matrix, block, y, out, width, spare, real):
    """Add the products of a block's rows to `out`, strip after strip of columns.

    Parameters
    ----------
    matrix : int
        Address of the words of a `Matrix`.
    block : int
    y, out : int
        Addresses of arrays (columns, width) and (rows, width).
    width : int
    spare : int
        Address of a row for rows that do not exist.
    real : dtype
    """
    word = carray(pointer(matrix), MATRIX_WORDS, int64)
    starts = carray(pointer(word[STARTS]), block + 2, int64)
    first, last = starts[block], starts[block + 1]
    if word[WINDOWED]:
        window_sums(word[WINDOWED] - 1, word[TARGETS], word[TABLE], first, last, word[COLUMNS],
                    word[PLACES], word[VALUES], y, out, spare, real)  # fmt: skip
        return
    size = np.int64(carray(pointer(0), 1, real).itemsize)
    lanes, done = STRIP // size, 0
    while done < width:
        while lanes > width - done:
            lanes //= 2
        sums(lanes, word[TABLE], first, last, word[COLUMNS], word[VALUES], y, out, width * size,
             done * size, spare, real)  # fmt: skip
        done += lanes
