"""The dense backend: the same network on BLAS, for comparison; in float64 it is the oracle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from gbdnn.backends.arrays import check_tiles, check_values, owned, whole_batch
from gbdnn.backends.base import Activation, cached_width
from gbdnn.errors import MemoryBudgetError
from gbdnn.machine import available_bytes
from gbdnn.weights.csr import CSR

__all__ = ["DenseBackend"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class DenseWeight:
    """A weight as a full (out_features, in_features) array."""

    values: Array

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return int(self.values.nbytes)


@dataclass(frozen=True, eq=False)
class DenseTrainable:
    """A weight that changes, as a full array; of a sparse one only the pattern's places do.

    Attributes
    ----------
    pattern : CSR, shape (out_features, in_features)
    values : ndarray, shape (nnz,)
        Of a dense weight the memory of `matrix` itself.
    matrix : ndarray, shape (out_features, in_features)
    places : ndarray of int, shape (nnz,), or None
        Where in the flat matrix the values stand; None for a dense weight.
    """

    pattern: CSR
    values: Array
    matrix: Array
    places: Array | None

    @cached_property
    def product(self) -> Array:
        """Memory for dZ Y^T, of which `pattern` is taken; made at its first use."""
        return np.empty_like(self.matrix)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        nbytes = self.pattern.nbytes + self.matrix.nbytes
        if self.places is None:
            return int(nbytes)
        return int(nbytes + self.places.nbytes + self.matrix.nbytes)

    def refresh(self, threads: int = 1) -> None:
        """Write the values to their places."""
        if self.places is not None:
            self.matrix.reshape(-1)[self.places] = self.values


class DenseBackend:
    """Y_{k+1} = h(W_k Y_k + b_k) with W_k full: cost follows out x in, whatever W_k's density.

    Naming this backend is the permission to make weights dense, up to the memory that is free.
    """

    name = "dense"

    def prepare(self, weight: CSR | Array) -> DenseWeight:
        """Make the weight dense; raises `MemoryBudgetError` if it exceeds the free memory."""
        if not isinstance(weight, CSR):
            return DenseWeight(weight)
        _check_budget(weight)
        return DenseWeight(weight.to_dense(allow_dense=True))

    def affine(
        self,
        w: DenseWeight | DenseTrainable,
        Y: Array,
        bias: Array,
        activation: Activation,
        out: Array,
        threads: int = 1,
    ) -> None:
        """Compute out = h(W Y + b) with one BLAS product, in training one for each tile."""
        if isinstance(w, DenseTrainable):
            check_tiles(w.pattern, out, Y, names=("out", "Y"))
            np.matmul(w.matrix, Y, out=out)
        else:
            np.matmul(w.values, Y, out=out)
        out += bias if bias.ndim == 0 else bias[:, None]
        activation.apply(out)

    def tile_width(self, features: int, dtype: np.dtype[Any]) -> int:
        """BLAS blocks by itself; wide tiles keep it busy."""
        return max(cached_width(features, dtype), 256)

    @contextmanager
    def pinned(self, threads: int) -> Iterator[None]:
        """Keep BLAS on `threads` threads."""
        with _blas_limit(threads):
            yield

    # -- training ----------------------------------------------------------------------------------

    def trainable(self, weight: CSR | Array) -> DenseTrainable:
        """Make the weight dense, with memory for a full product beside it.

        Raises
        ------
        MemoryBudgetError
            If they exceed the free memory.
        """
        _check_budget(weight, copies=3)
        pattern, values = owned(weight)
        if not isinstance(weight, CSR):
            return DenseTrainable(pattern, values, values.reshape(pattern.shape), None)
        rows = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr))
        places = rows * pattern.shape[1] + pattern.indices
        return DenseTrainable(pattern, values, pattern.to_dense(allow_dense=True), places)

    def affine_input_grad(self, w: DenseTrainable, dZ: Array, out: Array, threads: int = 1) -> None:
        """Compute out = W^T dZ; dZ (tiles, out_features, width), out (tiles, in_features, width).

        dZ is the gradient with respect to Z = W Y + b, out that with respect to Y.
        """
        check_tiles(w.pattern, dZ, out, names=("dZ", "out"))
        np.matmul(w.matrix.T, dZ, out=out)

    def affine_weight_grad(
        self, w: DenseTrainable, dZ: Array, Y: Array, out: Array, threads: int = 1
    ) -> None:
        """Compute out = the values of dZ Y^T, summed over tiles, at W's pattern.

        BLAS makes the full product; of a sparse weight's one, all but the pattern is thrown away.

        Parameters
        ----------
        w : DenseTrainable
        dZ : ndarray, shape (tiles, out_features, width)
        Y : ndarray, shape (tiles, in_features, width)
        out : ndarray, shape (nnz,)
        """
        check_tiles(w.pattern, dZ, Y, names=("dZ", "Y"))
        check_values(w.pattern, out)
        full = out.reshape(w.pattern.shape) if w.places is None else w.product
        np.matmul(_side_by_side(dZ), _side_by_side(Y).T, out=full)
        if w.places is not None:
            full.reshape(-1).take(w.places, out=out, mode="clip")  # other modes copy `out`

    def training_width(self, features: int, dtype: np.dtype[Any], batch: int) -> int:
        """The whole batch: BLAS blocks by itself."""
        return whole_batch(batch)


def _check_budget(weight: CSR | Array, copies: int = 1) -> None:
    """Refuse to make what does not fit into memory."""
    nbytes = copies * weight.shape[0] * weight.shape[1] * weight.dtype.itemsize
    if nbytes > (free := available_bytes()):
        raise MemoryBudgetError(
            "backend='dense'",
            f"weights that fit into the {free:,} bytes that are free",
            f"a {weight.shape[0]} x {weight.shape[1]} layer of {nbytes:,} bytes",
            "Use a sparse backend.",
        )


def _side_by_side(tiles: Array) -> Array:
    """Return tiles, shape (tiles, features, width), as one matrix; a single one is not copied."""
    return tiles[0] if len(tiles) == 1 else tiles.transpose(1, 0, 2).reshape(tiles.shape[1], -1)


_lock = threading.Lock()
_active: list[Any] = []  # [limiter, number of users]


@contextmanager
def _blas_limit(threads: int) -> Iterator[None]:
    """Limit BLAS, a setting of the whole process: the first user sets it, the last restores it.

    Nested or overlapping users share the first one's limit. Limits that each saved and restored on
    its own would leave the process at 1 thread when two predictions overlap.
    """
    with _lock:
        if not _active:
            _active[:] = [_controller().limit(limits=threads, user_api="blas"), 0]
        _active[1] += 1
    try:
        yield
    finally:
        with _lock:
            _active[1] -= 1
            if not _active[1]:
                _active[0].restore_original_limits()
                _active.clear()


def _controller() -> ThreadpoolController:
    global _found
    if _found is None:
        _found = ThreadpoolController()
    return _found


_found: ThreadpoolController | None = None
