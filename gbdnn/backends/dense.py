"""The dense backend: the same network on BLAS, for comparison; in float64 it is the oracle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from gbdnn.backends.base import Activation, cached_width
from gbdnn.errors import MemoryBudgetError
from gbdnn.memory import available_bytes
from gbdnn.sparse import CSR

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


class DenseBackend:
    """Y_{k+1} = h(W_k Y_k + b_k) with W_k full: cost follows out x in, whatever W_k's density.

    Naming this backend is the permission to make weights dense, up to the memory that is free.
    """

    name = "dense"

    def prepare(self, weight: CSR | Array) -> DenseWeight:
        """Make the weight dense; raises `MemoryBudgetError` if it exceeds the free memory."""
        if not isinstance(weight, CSR):
            return DenseWeight(weight)
        nbytes, free = weight.shape[0] * weight.shape[1] * weight.dtype.itemsize, available_bytes()
        if nbytes > free:
            raise MemoryBudgetError(
                "backend='dense'",
                f"weights that fit into the {free:,} bytes that are free",
                f"a {weight.shape[0]} x {weight.shape[1]} layer of {nbytes:,} bytes",
                "Use a sparse backend.",
            )
        return DenseWeight(weight.to_dense(allow_dense=True))

    def affine(
        self,
        w: DenseWeight,
        Y: Array,
        bias: Array,
        activation: Activation,
        out: Array,
        threads: int = 1,
    ) -> None:
        """Compute out = h(W Y + b) with one BLAS product."""
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
