"""Training with the fused kernels: W and W^T over one vector of values, and the three products.

    forward           out = h(W Y + b)      rows of W, the kernel of prediction
    input gradient    out = W^T dZ          rows of W^T, the same kernel
    weight gradient   out = (dZ Y^T) at W's pattern: rows of W, `gradients.weight_grad`

Batches are tile-major, (tiles, features, width). Threads split the rows of the left matrix and take
each tile in turn, so that no two write to the same place and results do not depend on their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends.arrays import check_memory, check_tiles, check_values, owned
from gbdnn.backends.base import Activation
from gbdnn.backends.fused import gradients, kernels
from gbdnn.backends.fused.groups import index_dtype
from gbdnn.backends.fused.kernels import HEADER
from gbdnn.backends.workers import share
from gbdnn.errors import ShapeError
from gbdnn.weights.csr import CSR

__all__ = ["FusedTrainable", "affine", "best_width", "build", "input_grad", "weight_grad"]

Array = npt.NDArray[Any]
Range = tuple[int, int]
SMALL = 1 << 22  # edges x columns below which a second thread costs more than it gives
PIECES = 3  # ranges of rows for each thread: who is disturbed takes fewer
ROW = 8  # non-zeros that a row costs as much as, beside its own
TILE = 1 << 19  # bytes of Y that stay in the second cache while W streams by
NOTHING = -math.inf, math.inf  # bounds


@dataclass(frozen=True, eq=False)
class Rows:
    """W or W^T by rows, as `kernels.layer` reads it: groups of one row each."""

    table: Array
    indices: Array
    values: Array
    _cuts: dict[int, list[Range]] = field(default_factory=dict)

    @classmethod
    def of(cls, indptr: Array, indices: Array, values: Array, columns: int) -> Rows:
        """Build the table, and indices of uint16 where they fit."""
        count = len(indptr) - 1
        table = np.empty((count, HEADER + 1), np.int64)
        table[:, 0] = table[:, 2] = indptr[:-1]
        table[:, 1] = indptr[1:]
        table[:, HEADER] = np.arange(count)
        return cls(table, indices.astype(index_dtype(columns), copy=False), values)

    def cuts(self, pieces: int) -> list[Range]:
        """Return so many ranges of rows with about equal work; some may be empty."""
        if pieces not in self._cuts:
            done = np.cumsum(self.table[:, 1] - self.table[:, 0] + ROW)
            total = done[-1] if len(done) else 0
            inner = np.searchsorted(done, total * np.arange(1, pieces) / pieces).tolist()
            edges = [0, *inner, len(done)]
            self._cuts[pieces] = list(pairwise(edges))
        return self._cuts[pieces]


@dataclass(frozen=True, eq=False)
class FusedTrainable:
    """A weight in training: W and W^T by rows, the values of W being `values` itself.

    W^T has a copy of the values in its own order, which `refresh` brings up to date. The values of
    `pattern` are a read-only view of `values`.
    """

    pattern: CSR
    values: Array
    forward: Rows
    backward: Rows
    _starts: dict[int, list[tuple[Range, Array]]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of both forms; indices that the pattern shares with them count once."""
        own = [self.forward.table, self.backward.table, self.backward.indices, self.backward.values]
        if self.forward.indices is not self.pattern.indices:
            own.append(self.forward.indices)
        own += [start for starts in self._starts.values() for _, start in starts]
        return self.pattern.nbytes + sum(array.nbytes for array in own)

    def refresh(self, threads: int = 1) -> None:
        """Copy `values`, which may have changed, to W^T; O(nnz), one pass."""
        pieces = threads if len(self.values) >= SMALL // 64 else 1
        w, out = self.forward, self.backward.values

        def run(piece: tuple[Range, Array]) -> None:
            (first, last), start = piece
            gradients.scatter(w.indices, self.values, first, last, start.copy(), out)

        share(run, self._pieces(pieces), pieces)

    def _pieces(self, count: int) -> list[tuple[Range, Array]]:
        """Return ranges of W's entries, and for each column of W the place of its first entry."""
        if count not in self._starts:
            starts = []
            for first, last in self.forward.cuts(count):
                begin = self.forward.table[first, 0] if first < last else 0
                end = self.forward.table[last - 1, 1] if first < last else 0
                starts.append(((int(begin), int(end)), _places(self.backward, first)))
            self._starts[count] = starts
        return self._starts[count]


def _places(transposed: Rows, row: int) -> Array:
    """Return for each row of W^T the place of its first entry from row `row` of W on."""
    begin, end = transposed.table[:, 0].copy(), transposed.table[:, 1].copy()
    if row == 0:
        return begin
    while (open_ := begin < end).any():  # binary searches in all rows at once
        middle = (begin + end) // 2
        before = np.zeros(len(begin), bool)
        before[open_] = transposed.indices[middle[open_]] < row
        begin = np.where(before, middle + 1, begin)
        end = np.where(open_ & ~before, middle, end)
    return begin


def build(weight: CSR | Array) -> FusedTrainable:
    """Return the form of a weight; values are copied, indices are shared where they are int32."""
    import scipy.sparse as sp

    pattern, values = owned(weight)
    rows, columns = pattern.shape
    parts = (values, pattern.indices, pattern.indptr)
    flipped = sp.csr_array(parts, shape=pattern.shape).tocsc()  # its index arrays are those of W^T
    return FusedTrainable(
        pattern,
        values,
        Rows.of(pattern.indptr, pattern.indices, values, columns),
        Rows.of(flipped.indptr, flipped.indices, flipped.data, rows),
    )


def affine(
    w: FusedTrainable, Y: Array, bias: Array, activation: Activation, out: Array, threads: int
) -> None:
    """Compute out = h(W Y + b) tile by tile; see `FusedBackend.affine`."""
    check_tiles(w.pattern, out, Y, names=("out", "Y"))
    rows = w.pattern.shape[0]
    if bias.shape not in ((), (rows,)):
        raise ShapeError("bias", f"shape () or ({rows},)", f"shape {bias.shape}")
    check_memory("bias", bias, w.pattern.dtype)
    clamp: tuple[float, float] | None = getattr(activation, "clamp", None)
    _product(w.forward, Y, bias.reshape(-1), out, NOTHING if clamp is None else clamp, threads)
    if clamp is None:
        activation.apply(out)


def input_grad(w: FusedTrainable, dZ: Array, out: Array, threads: int) -> None:
    """Compute out = W^T dZ; see `FusedBackend.affine_input_grad`."""
    check_tiles(w.pattern, dZ, out, names=("dZ", "out"))
    _product(w.backward, dZ, np.zeros(1, dZ.dtype), out, NOTHING, threads)


def weight_grad(w: FusedTrainable, dZ: Array, Y: Array, out: Array, threads: int) -> None:
    """Compute out = (dZ Y^T) at W's pattern; see `FusedBackend.affine_weight_grad`."""
    check_tiles(w.pattern, dZ, Y, names=("dZ", "Y"))
    check_values(w.pattern, out)
    if Y.size == 0:
        out.fill(0)
        return
    form = w.forward

    def run(rows: Range) -> None:
        gradients.weight_grad(form.table, form.indices, dZ, Y, *rows, out)

    _over_rows(run, form, Y, threads)


def _product(
    form: Rows, Y: Array, bias: Array, out: Array, bounds: tuple[float, float], threads: int
) -> None:
    def run(rows: Range) -> None:
        gradients.product(
            form.table, form.indices, form.values, *rows, bias, Y, out, *bounds
        )  # fmt: skip

    _over_rows(run, form, Y, threads)


def _over_rows(run: Callable[[Range], None], form: Rows, Y: Array, threads: int) -> None:
    """Call `run` for ranges of rows, on several threads where there is enough work."""
    split = threads > 1 and len(form.values) * Y.shape[0] * Y.shape[2] >= SMALL
    share(run, form.cuts(threads * PIECES if split else 1), threads)


def best_width(features: int, dtype: npt.DTypeLike, batch: int) -> int:
    """Return the columns of a training tile; see `FusedBackend.training_width`."""
    itemsize = np.dtype(dtype).itemsize
    lanes, strip = kernels.VECTOR // itemsize, kernels.STRIP // itemsize
    if features * kernels.STRIP > TILE:
        strip //= 2
    return min(strip, -(-max(batch, 1) // lanes) * lanes)
