"""The fused backend's prepared weights: grouped rows of W, in training rows of W and of W^T.

In training both stand over one vector of values:

    forward           out = h(W Y + b)      rows of W
    input gradient    out = W^T dZ          rows of W^T, the same kernel
    weight gradient   out = (dZ Y^T) at W's pattern: rows of W
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import numpy as np

from gbdnn.backends.arrays import owned
from gbdnn.backends.base import Affine, Prepared
from gbdnn.backends.fused import gradients, interpreter
from gbdnn.backends.fused.cells import single, windows
from gbdnn.backends.fused.cells.matrix import Matrix
from gbdnn.backends.fused.groups import Grouped, group_dense, group_rows, is_wide, ungrouped
from gbdnn.backends.fused.helpers import address_of
from gbdnn.backends.fused.kernels import load_product
from gbdnn.backends.workers import share
from gbdnn.types import Array
from gbdnn.weights import Weight

__all__ = ["FusedWeight"]

SHORT = 1 << 14  # entries of a product that takes less time than a call from Python
WORTH = 0.85  # of the time, that windows must not exceed to be worth their memory
SMALL = 1 << 16  # entries below which a second thread does not help to refresh W^T


class FusedWeight(Prepared):
    """A weight for prediction, or with `trained` for training.

    For prediction rows with equal patterns are grouped (see `groups`) and indices become uint16
    where they fit; a sparse weight without common patterns is not copied otherwise, but where 6 %
    or more of the places are stored there is a second copy in blocks of columns.

    In training `rows` is W over `values` itself, and `transposed` is W^T with a copy of the values
    in its own order, which `refresh` brings up to date. Beside `pattern` and `values` (8 bytes a
    non-zero in float32) that is W^T, 6 bytes (8 above 65,536 output features), uint16 indices of W
    up to 65,536 input features, 2 bytes, and tables of 64 bytes a row and column.

    Attributes
    ----------
    edges : int
        Stored entries.
    rows, transposed : Grouped
    """

    def __init__(self, weight: Weight, trained: bool) -> None:
        self.shape = (int(weight.shape[0]), int(weight.shape[1]))
        self.dtype, self.edges, self.trained = weight.dtype, weight.nnz, trained
        self._weight = None if trained else weight
        self._matrices: dict[tuple[int, bool], Matrix] = {}
        if trained:
            self._prepare_training(weight)
        elif weight.form == "dense":
            self.rows = group_dense(weight.to_dense(allow_dense=True))
        else:
            self.rows = group_rows(weight.pattern())
        _load_kernel(self.dtype, self.rows.indices.dtype)

    def _prepare_training(self, weight: Weight) -> None:
        import scipy.sparse as sp

        rows, columns = self.shape
        self.pattern, self.values = pattern, values = owned(weight)
        parts = (values, pattern.indices, pattern.indptr)
        flipped = sp.csr_array(parts, shape=self.shape).tocsc()  # its index arrays are W^T's
        self.rows = ungrouped(pattern.indptr, pattern.indices, values, columns)
        self.transposed = ungrouped(flipped.indptr, flipped.indices, flipped.data, rows)
        self._starts: dict[int, list[tuple[int, int, Array]]] = {}
        _load_kernel(self.dtype, self.transposed.indices.dtype)
        _load_gradients(self.dtype, self.rows.indices.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of indices, values and tables, in training with the pattern; shared ones once.

        Forms that are made when they are first needed count from then on.
        """
        nbytes = self.rows.nbytes
        if self.trained:
            pattern = self.pattern
            nbytes += pattern.indptr.nbytes + self.transposed.nbytes
            if not np.shares_memory(self.rows.indices, pattern.indices):
                nbytes += pattern.indices.nbytes
            nbytes += sum(each[2].nbytes for starts in self._starts.values() for each in starts)
        return nbytes + sum(matrix.nbytes for matrix in self._matrices.values())

    # -- training ----------------------------------------------------------------------------------

    def refresh(self, threads: int = 1) -> None:
        """Copy `values`, which may have changed, to W^T; O(nnz), one pass."""
        indices, out = self.rows.indices, self.transposed.parts[0].values
        pieces = threads if len(self.values) >= SMALL else 1

        def run(piece: tuple[int, int, Array]) -> None:
            first, last, start = piece
            gradients.scatter(indices, self.values, first, last, start.copy(), out)

        share(run, self._pieces(pieces), pieces)
        for matrix in self._matrices.values():
            matrix.refresh(self.values)

    def read(self, values: Array) -> None:
        """Compute with `values` from now on: the memory of somebody else, not copied; O(rows)."""
        self.values, self.pattern = values, self.pattern.with_entries(values)
        self._matrices.clear()
        self.rows = ungrouped(self.pattern.indptr, self.rows.indices, values, self.shape[1])

    def _pieces(self, count: int) -> list[tuple[int, int, Array]]:
        """Return ranges of W's entries, and for each column of W the place of its first entry."""
        if count not in self._starts:
            found = []
            for (piece,) in self.rows.shares(count):
                first, last = self.pattern.indptr[[piece.first, piece.last]]
                found.append((int(first), int(last), _places(self.transposed, piece.first)))
            self._starts[count] = found
        return self._starts[count]

    # -- loops over time ---------------------------------------------------------------------------

    def matrix(
        self, gates: int, *, across: bool = False, full: bool = False
    ) -> Matrix | None:  # fmt: skip
        """Return this weight, or with `across` W^T in training, for compiled loops over time.

        Made when it is first asked for. None: too dense, too wide. Where most places of a large
        weight are stored, rows with the same columns side by side are faster.

        Parameters
        ----------
        gates : int
            Rows of a cell; 1 where rows are nothing but rows.
        full : bool
            Also where it is more than half full.
        """
        if not (self.has_short_numbers if full else self._suits_loops):
            return None
        if (gates, across) not in self._matrices:
            # of two threads that make it both get the first one: programs know its address
            self._matrices.setdefault((gates, across), self._new_matrix(gates, across))
        return self._matrices[gates, across]

    @property
    def has_short_numbers(self) -> bool:
        """True if 16 bits number rows and columns: `matrix` has no others."""
        return max(self.shape) <= 1 << 16

    @property
    def _suits_loops(self) -> bool:
        rows, columns = self.shape
        dense = 2 * self.edges > rows * columns and self.edges > SHORT
        return not dense and self.has_short_numbers

    def _new_matrix(self, gates: int, across: bool) -> Matrix:
        import scipy.sparse as sp

        pattern = self.pattern if self._weight is None else self._weight.plain().pattern()
        values = self.values if self.trained else pattern.full_values
        indptr, indices = pattern.indptr, pattern.indices
        order = np.arange(self.edges) if self.trained else None
        rows, columns = self.shape
        if across:
            flipped = sp.csr_array((order, indices, indptr), shape=self.shape).tocsc()
            indptr, indices, order = flipped.indptr, flipped.indices, flipped.data
            columns = rows
        return Matrix(indptr, indices, values, order, gates, columns)

    # -- programs ----------------------------------------------------------------------------------

    def record(self, affine: Affine, columns: int, blocks: int) -> list[int]:
        """Return the layer's words in a program; the first is the address of its kernel.

        Parameters
        ----------
        affine : Affine
            Whose weight this is.
        columns : int
            Of Y. One column goes by windows where they are faster, a form that is made for it.
        blocks : int
            Parts of the layer's rows that the kernel can be asked for.
        """
        words = self._record(affine, is_wide(columns * self.dtype.itemsize), blocks)
        if columns == 1 and self._by_windows:
            matrix = self.matrix(1)
            assert matrix is not None
            return single.record(matrix, affine, words, blocks)
        return words

    @cached_property
    def _by_windows(self) -> bool:
        """True if windows are faster for one column.

        That depends on how many of a step's places are filled. Rows with equal columns, or with one
        value for all, take fewer bytes as they are.
        """
        part = self.rows.parts[-1:]
        plain = self.dtype == np.float32 and not self.trained and len(self.rows.parts) == 1
        if not plain or not self._suits_loops or part[0].rows > 1 or len(part[0].values) <= 1:
            return False
        table, columns = part[0].table, self.shape[1]
        indptr = np.append(table[:, 0], table[-1, 1])
        if (table[:, 0] != table[:, 2]).any():
            return False
        found = windows.chosen(indptr, self.rows.indices, columns)
        if found is None:
            return False
        kind, steps = windows.KINDS[found[0]], found[1]
        return steps * kind.bytes <= kind.most and steps * kind.entries < WORTH * self.edges

    def _record(self, affine: Affine, wide: bool, blocks: int) -> list[int]:
        shares = self.rows.suited(wide).shares(blocks)
        bounds = np.array(affine.bounds, np.float64).view(np.int64)
        kernel = interpreter.layer_kernel(self.dtype, self.rows.indices.dtype)
        out_features, in_features = self.shape
        words = [kernel, blocks, len(shares[0]), in_features, out_features]
        words += [address_of(affine.bias), affine.bias.size, *bounds]
        for part in zip(*shares, strict=True):
            rows, iso, table, indices, values, _, _, strip, origin, final = part[0]
            words += [rows, iso, address_of(table), address_of(indices), address_of(values)]
            words += [strip, origin, final, *(piece.first for piece in part), part[-1].last]
        return [int(word) for word in words]


def _places(transposed: Grouped, row: int) -> Array:
    """Return for each row of W^T the place of its first entry from row `row` of W on."""
    table = transposed.parts[0].table
    begin, end = table[:, 0].copy(), table[:, 1].copy()
    if row == 0:
        return begin
    while (open_ := begin < end).any():  # binary searches in all rows at once
        middle = (begin + end) // 2
        before = np.zeros(len(begin), bool)
        before[open_] = transposed.indices[middle[open_]] < row
        begin = np.where(before, middle + 1, begin)
        end = np.where(open_ & ~before, middle, end)
    return begin


_load_kernel: Callable[[Any, Any], None] = cache(load_product)
_load_gradients: Callable[[Any, Any], None] = cache(gradients.load_gradients)
