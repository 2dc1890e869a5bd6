"""The fused backend's integer weights: int8 codes by rows, times uint8 codes of the input.

Inputs are coded as u = c - low, 0 ... 255, whatever their levels are. Then

    sum of w (c - zero) = sum of w u + (low - zero) (sum of w)

and the second term, the correction, is known beforehand.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

from gbdnn.backends.arrays import check_affine
from gbdnn.backends.base import STRIP, UNBOUNDED, Bounds, aligned_empty
from gbdnn.backends.fused.integers import kernels
from gbdnn.backends.integers import IntegerForm
from gbdnn.backends.workers import share
from gbdnn.types import Array
from gbdnn.weights import Integers

__all__ = ["FusedIntegers"]

SMALL = 1 << 20  # edges x columns below which a second thread costs more than it gives
PIECES = 3  # ranges of rows for each thread: who is disturbed takes fewer

_load = cache(kernels.load_kernels)


class FusedIntegers(IntegerForm):
    """A weight as int8 codes by rows and groups of columns.

    Attributes
    ----------
    starts : ndarray of int64, shape (rows * groups + 1,)
        Entries starts[i * groups + g] ... stand in row i and group g.
    indices : ndarray of uint16, int32 or int64, shape (nnz,)
    codes : ndarray of int8, shape (nnz,)
    corrections : ndarray of `sum_type`, shape (rows, groups)
    """

    def __init__(self, weight: Integers) -> None:
        pattern, codes = weight.pattern(), weight.codes
        super().__init__(weight, pattern, codes)
        rows, groups = self.scales.shape
        filled = np.flatnonzero(codes)  # an entry of code 0 adds nothing
        self.codes, columns = codes[filled], pattern.indices[filled]
        narrow = np.uint16 if self.shape[1] <= 1 << 16 else columns.dtype
        self.indices = columns.astype(narrow)
        ends = np.searchsorted(filled, pattern.indptr)
        row = np.repeat(np.arange(rows, dtype=np.int64), np.diff(ends))
        part = row * groups + columns // self.size
        self.starts = np.zeros(rows * groups + 1, np.int64)
        np.cumsum(np.bincount(part, minlength=rows * groups), out=self.starts[1:])
        sums = np.bincount(part, self.codes, rows * groups).astype(self.sum_type)
        shift = self.levels.low - self.levels.zero
        self.corrections = (sums * self.sum_type.type(shift)).reshape(rows, groups)
        _load(self.dtype, self.indices.dtype, self.sum_type)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.starts, self.indices, self.codes, self.corrections, self.scales)
        return sum(array.nbytes for array in arrays)

    def affine(
        self,
        Y: Array,
        bias: Array | None,
        out: Array,
        *,
        clamp: Bounds | None = None,
        accumulate: bool = False,
        threads: int = 1,
    ) -> None:
        """Compute out = clamp(W Y + b), Y rounded to its levels; see `Backend.affine`."""
        check_affine(self, Y, bias, out)
        vector = np.zeros(1, self.dtype) if bias is None else bias.reshape(-1)
        levels, (low, high) = self.levels, clamp or UNBOUNDED
        U = aligned_empty(Y.shape[1] * Y.shape[2], np.uint8).reshape(Y.shape[1:])
        rows = self.shape[0]
        work = len(self.codes) * Y.shape[2]
        count = threads * PIECES if threads > 1 and work >= SMALL else 1
        bounds = np.linspace(0, rows, count + 1).astype(int).tolist()
        pieces = list(pairwise(bounds))
        for y, z in zip(Y, out, strict=True):
            kernels.code(y, levels.step, levels.low - levels.zero, levels.high - levels.zero, U)

            def run(piece: tuple[int, int], z: Array = z) -> None:
                kernels.product(
                    self.starts, self.indices, self.codes, self.corrections, self.scales, vector,
                    U, np.empty(STRIP, self.sum_type), z, accumulate, low, high, *piece,
                )  # fmt: skip

            share(run, pieces, threads if count > 1 else 1)
