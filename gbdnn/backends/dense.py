"""The dense backend: the same network on BLAS, for comparison; in float64 it is the oracle."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import numpy as np

from gbdnn.backends.arrays import (
    apply_bounds,
    check_affine,
    check_tiles,
    check_values,
    column,
    owned,
)
from gbdnn.backends.base import Backend, Bounds, Prepared
from gbdnn.backends.integers import IntegerForm
from gbdnn.errors import MemoryBudgetError
from gbdnn.machine import available_bytes
from gbdnn.machine.threads import limited_blas
from gbdnn.types import Array
from gbdnn.weights import CSR, Dense, Integers, Weight
from gbdnn.weights.patterns import places

__all__ = ["DenseBackend", "DenseForm"]


class DenseForm(Prepared):
    """A weight as a full array; in training of a sparse one only the pattern's places change.

    Attributes
    ----------
    matrix : ndarray, shape (out_features, in_features)
        Of a dense weight in training the memory of `values`.
    places : ndarray of int64, shape (nnz,), or None
        In training of a sparse weight: where in the flat matrix the values stand.
    """

    def __init__(
        self,
        matrix: Array,
        trained: tuple[CSR, Array] | None = None,
        places: Array | None = None,
    ) -> None:
        self.matrix, self.places = matrix, places
        self.shape, self.dtype = (matrix.shape[0], matrix.shape[1]), matrix.dtype
        self._nbytes = matrix.nbytes
        if trained is not None:
            self.pattern, self.values = trained
            self._nbytes += self.pattern.indptr.nbytes + self.pattern.indices.nbytes
        if places is not None:  # the values are not the matrix, and there is a product beside it
            self._nbytes += self.values.nbytes + places.nbytes + matrix.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return int(self._nbytes)

    @cached_property
    def product(self) -> Array:
        """Memory for dZ Y^T, of which `pattern` is taken; made at its first use."""
        return np.empty_like(self.matrix)

    def refresh(self, threads: int = 1) -> None:
        """Write the values to their places."""
        if self.places is not None:
            self.matrix.reshape(-1)[self.places] = self.values


def _from_csr(weight: CSR, trained: bool) -> DenseForm:
    _check_budget(weight, copies=3 if trained else 1)
    matrix = weight.to_dense(allow_dense=True)
    return DenseForm(matrix, owned(weight), places(weight)) if trained else DenseForm(matrix)


def _from_dense(weight: Dense, trained: bool) -> DenseForm:
    if not trained:
        return DenseForm(weight.values)
    _check_budget(weight, copies=3)
    pattern, values = owned(weight)
    return DenseForm(values.reshape(weight.shape), (pattern, values))


def _check_budget(weight: Weight, copies: int) -> None:
    """Refuse to make what does not fit into memory."""
    nbytes = copies * weight.shape[0] * weight.shape[1] * weight.dtype.itemsize
    if nbytes > (free := available_bytes()):
        raise MemoryBudgetError(
            "backend='dense'",
            f"weights that fit into the {free:,} bytes that are free",
            f"a {weight.shape[0]} x {weight.shape[1]} layer of {nbytes:,} bytes",
            "Use a sparse backend.",
        )


class DenseIntegers(IntegerForm):
    """Codes as floats, of which BLAS makes exact sums: whole numbers below 2^24, or 2^53.

    Where a sum of all columns could exceed that, sums of fewer columns are added as integers.

    Attributes
    ----------
    matrix : ndarray, shape (out_features, in_features)
        Codes.
    block : int
        Columns whose sum is exact.
    """

    def __init__(self, weight: Integers) -> None:
        _check_budget(weight, copies=1)
        pattern, codes = weight.pattern(), weight.codes
        super().__init__(weight, pattern, codes)
        self.matrix = np.zeros(self.shape, self.dtype)
        self.matrix.reshape(-1)[places(pattern)] = codes
        largest = int(np.abs(codes, dtype=np.int16).max(initial=1)) * self.levels.largest
        self.block = int(2 ** (np.finfo(self.dtype).nmant + 1) - 1) // largest

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix and the scales."""
        return int(self.matrix.nbytes + self.scales.nbytes)

    def sums(self, group: int, X: Array) -> Array:
        """Return exact sums; floats where one product has them."""
        matrix = self.matrix[:, group * self.size : (group + 1) * self.size]
        if len(X) <= self.block:
            product: Array = matrix @ X
            return product
        sums = np.zeros((self.shape[0], X.shape[1]), self.sum_type)
        for start in range(0, len(X), self.block):
            columns = slice(start, start + self.block)
            np.add(sums, matrix[:, columns] @ X[columns], out=sums, casting="unsafe")
        return sums.astype(self.dtype)


class DenseBackend(Backend):
    """Z = W Y + b with W full: cost follows out x in, whatever W's density.

    Naming this backend is the permission to make weights dense, up to the memory that is free: what
    exceeds it raises `MemoryBudgetError`. Training needs three times as much, for a full product.
    """

    name = "dense"
    forms = {"csr": _from_csr, "dense": _from_dense}  # noqa: RUF012
    integers = DenseIntegers

    def affine(
        self,
        w: DenseForm | DenseIntegers,
        Y: Array,
        bias: Array | None,
        out: Array,
        *,
        clamp: Bounds | None = None,
        accumulate: bool = False,
        threads: int = 1,
    ) -> None:
        """Compute out = clamp(W Y + b) with a BLAS product for each tile."""
        if isinstance(w, DenseIntegers):
            w.affine(Y, bias, out, clamp=clamp, accumulate=accumulate)
            return
        check_affine(w, Y, bias, out)
        if accumulate:
            out += w.matrix @ Y
        else:
            np.matmul(w.matrix, Y, out=out)
        if bias is not None:
            out += column(bias)
        apply_bounds(out, clamp)

    def input_grad(self, w: DenseForm, dZ: Array, out: Array, threads: int = 1) -> None:
        """Compute out = W^T dZ."""
        check_tiles(w, dZ, out, names=("dZ", "out"))
        np.matmul(w.matrix.T, dZ, out=out)

    def weight_grad(self, w: DenseForm, dZ: Array, Y: Array, out: Array, threads: int = 1) -> None:
        """Compute out = the entries of dZ Y^T at W's pattern, summed over tiles.

        BLAS makes the full product; of a sparse weight's one, all but the pattern is thrown away.
        """
        check_tiles(w, dZ, Y, names=("dZ", "Y"))
        check_values(w, out)
        full = out.reshape(w.shape) if w.places is None else w.product
        np.matmul(_side_by_side(dZ), _side_by_side(Y).T, out=full)
        if w.places is not None:
            full.reshape(-1).take(w.places, out=out, mode="clip")  # other modes copy `out`

    def width(self, features: int, dtype: np.dtype[Any], batch: int | None = None) -> int:
        """BLAS blocks by itself; wide tiles keep it busy."""
        return max(super().width(features, dtype, batch), 256 if batch is None else 0)

    def pinned(self, threads: int) -> AbstractContextManager[None]:
        """Limit BLAS; users that overlap share the limit of the first one."""
        return limited_blas(threads)


def _side_by_side(tiles: Array) -> Array:
    """Return tiles, shape (tiles, features, width), as one matrix; a single one is not copied."""
    return tiles[0] if len(tiles) == 1 else tiles.transpose(1, 0, 2).reshape(tiles.shape[1], -1)
