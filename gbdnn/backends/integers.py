"""Products of whole numbers: what is prepared of a weight whose input is rounded.

For a weight of codes w and scales s, and levels of step t for its input,

    z_i = sum over groups g of  t s_ig (sum over columns j of g of  w_ij (c_j - zero))  + b_i

where c are the codes of y. The inner sums are exact, whatever computes them: backends differ in the
roundings of the scaling at most.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gbdnn.backends.arrays import apply_bounds, check_affine, column
from gbdnn.backends.base import Bounds, Prepared
from gbdnn.errors import InputError
from gbdnn.types import Array
from gbdnn.weights import CSR, Integers

__all__ = ["IntegerForm"]

INT32 = 2**31 - 1


class IntegerForm(Prepared):
    """A weight whose `affine` takes floats, multiplies whole numbers, and returns floats.

    Subclasses have `sums`, or an `affine` of their own.

    Attributes
    ----------
    levels : Levels
        Of the input.
    scales : ndarray, shape (rows, groups)
        Those of the weight times the step of the levels.
    size : int
        Columns of a group.
    sum_type : int32 or int64
        What holds every sum, also with codes in place of c - zero, for any order of the terms.
    """

    def __init__(self, weight: Integers, pattern: CSR, codes: Array) -> None:
        assert weight.levels is not None
        self.levels = levels = weight.levels
        self.shape, self.dtype = weight.shape, weight.dtype
        with np.errstate(over="ignore"):
            self.scales = weight.row_scales.astype(self.dtype) * self.dtype.type(levels.step)
        if not np.isfinite(self.scales).all():
            got = f"{weight.scales.max()} and {levels.step}"
            raise InputError("scales and levels.step", "products that are finite", got)
        self.size = self.shape[1] // max(self.scales.shape[1], 1)
        sizes = np.abs(codes, dtype=np.int32)
        starts = pattern.indptr[:-1][np.diff(pattern.indptr) > 0]
        rows = np.add.reduceat(sizes, starts, dtype=np.int64) if len(starts) else np.zeros(1)
        largest = max(levels.largest, levels.high - levels.low)
        self.sum_type = np.dtype(np.int32 if int(rows.max()) * largest <= INT32 else np.int64)

    def sums(self, group: int, X: Array) -> Array:
        """Return the sums of w x over the columns of a group, shape (rows, width).

        `X` has c - zero of these columns, in the dtype of the weight, shape (columns, width).
        """
        raise NotImplementedError

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
        if not accumulate:
            out[...] = 0
        for y_tile, z_tile in zip(Y, out, strict=True):
            X = self.levels.steps(y_tile)
            for group, scales in enumerate(self.scales.T):
                part = X[group * self.size : (group + 1) * self.size]
                z_tile += self.sums(group, part) * scales[:, None]
        if bias is not None:
            out += column(bias)
        apply_bounds(out, clamp)


def by_groups(pattern: CSR, codes: Array, groups: int) -> list[tuple[CSR, Any]]:
    """Return the columns of each group as a pattern of their own, with their codes."""
    if groups == 1:
        return [(pattern, codes)]
    size = pattern.shape[1] // groups
    group = pattern.indices // size
    found = []
    for g in range(groups):
        mine = np.flatnonzero(group == g)
        indptr = np.searchsorted(mine, pattern.indptr).astype(pattern.indptr.dtype)
        indices = pattern.indices[mine] - pattern.indices.dtype.type(g * size)
        part = CSR.unchecked(indptr, indices, pattern.values, (pattern.shape[0], size))
        found.append((part, codes[mine]))
    return found
