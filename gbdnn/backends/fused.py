"""The fused backend: out = h(W Y + b) in one pass over `out`, at the speed of the first caches.

The machine code is in `_kernels`, the form of the weights in `_groups`. Here are the checks, the
threads and the compilation.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import llvmlite.binding
import numpy as np
import numpy.typing as npt
from numba.core import event

from gbdnn.backends import _kernels
from gbdnn.backends._groups import Grouped, group_dense, group_rows
from gbdnn.backends.base import Activation
from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.sparse import CSR

__all__ = ["FusedBackend", "FusedWeight", "on_compile", "preferred_tile"]

Array = npt.NDArray[Any]
SMALL = 1 << 20  # edges x columns (about 50 us) below which a second thread costs more than it gives

on_compile: Callable[[str], None] | None = None
"""Called with a message when kernels must be compiled; by default it goes to the log 'gbdnn'."""


@dataclass(frozen=True, eq=False)
class FusedWeight:
    """A weight grouped by patterns; see `gbdnn.backends._groups`. Read-only, shared by threads."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    edges: int
    iso: bool
    grouped: Grouped

    @property
    def nbytes(self) -> int:
        """Bytes of indices, values and tables."""
        return int(self.grouped.indices.nbytes) + sum(part.nbytes for part in self.grouped.parts)

    @cached_property
    def arguments(self) -> list[tuple[Any, ...]]:
        """The leading arguments of `_kernels.layer` for each part."""
        indices = self.grouped.indices
        return [
            (indices.dtype.type(0), part.rows, int(self.iso), part.table.ctypes.data,
             indices.ctypes.data, part.values.ctypes.data)
            for part in self.grouped.parts
        ]  # fmt: skip

    def shares(self, threads: int) -> list[list[tuple[int, int]]]:
        """Cut the groups of each part into `threads` ranges with equally many edges."""
        cuts = []
        for part in self.grouped.parts:
            groups = len(part.table)
            if threads == 1:
                cuts.append([0, groups])
                continue
            # Column 2 counts the values before a group; a row costs about as much as 8 of them.
            work = part.table[:, 2] + 8 * part.rows * np.arange(groups)
            goals = (work[-1] + 8) * np.arange(1, threads) / threads
            cuts.append([0, *np.searchsorted(work, goals).tolist(), groups])
        return [[(cut[k], cut[k + 1]) for cut in cuts] for k in range(threads)]


class FusedBackend:
    """Y_{k+1} = h(W_k Y_k + b_k), register-blocked, bias and bounds applied before the one store.

    Sums are taken with fused multiply-adds in an order that depends on the width of the batch:
    results of the same column in batches of different width may differ in the last bits.
    Dense weights run in the same kernel, as one pattern shared by all rows.
    """

    name = "fused"

    def prepare(self, weight: CSR | Array) -> FusedWeight:
        """Group the rows; indices become uint16 where they fit.

        Sparse weights without common patterns are not copied, except for narrower indices.
        """
        sparse = isinstance(weight, CSR)
        grouped = group_rows(weight) if isinstance(weight, CSR) else group_dense(weight)
        edges = weight.nnz if isinstance(weight, CSR) else int(weight.size)
        iso = isinstance(weight, CSR) and len(weight.values) == 1
        _ensure_compiled(weight.dtype, grouped.indices.dtype)
        del sparse
        shape = (int(weight.shape[0]), int(weight.shape[1]))
        return FusedWeight(shape, weight.dtype, edges, iso, grouped)

    def affine(
        self,
        w: FusedWeight,
        Y: Array,
        bias: Array,
        activation: Activation,
        out: Array,
        threads: int = 1,
    ) -> None:
        """Compute out = h(W Y + b).

        Activations with an attribute `clamp` = (low, high) are h(z) = min(max(z, low), high) and
        cost nothing; others are applied to `out` afterwards. NaN stays NaN.

        Parameters
        ----------
        w : FusedWeight
        Y : ndarray, shape (in_features, batch), C-contiguous
            Any batch; a 64-byte aligned array is twice as fast.
        bias : ndarray, shape () or (out_features,)
        activation : Activation
        out : ndarray, shape (out_features, batch), C-contiguous, must not overlap Y
        threads : int
            Rows are split among so many threads where there is enough work.

        Raises
        ------
        ShapeError, DtypeError, InputError
            For arrays that the compiled code cannot use.
        """
        _check(w, Y, bias, out)
        clamp: tuple[float, float] | None = getattr(activation, "clamp", None)
        low, high = (-np.inf, np.inf) if clamp is None else clamp
        columns, kind = Y.shape[1], w.dtype.type
        places = (
            bias.ctypes.data, bias.ndim, Y.ctypes.data, out.ctypes.data, columns, w.dtype.itemsize
        )  # fmt: skip
        bounds = kind(low), kind(high)

        def run(share: list[tuple[int, int]]) -> None:
            for part, (first, last) in zip(w.arguments, share, strict=True):
                widest = _kernels.STRIP if part[1] == 1 else _widest_group_strip()
                _kernels.layer(*part, first, last, *places, widest, *bounds)

        if w.edges * columns < SMALL:
            threads = 1
        first, *others = w.shares(threads)
        futures = [_pool(threads).submit(run, share) for share in others]
        run(first)
        for future in futures:
            future.result()
        if clamp is None:
            activation.apply(out)

    def tile_width(self, features: int, dtype: np.dtype[Any]) -> int:
        """See `preferred_tile`."""
        return preferred_tile(features, dtype)

    @contextmanager
    def pinned(self, threads: int) -> Iterator[None]:
        """Do nothing: there is no library underneath, `threads` of `affine` is all there is."""
        yield


def preferred_tile(features: int, dtype: npt.DTypeLike) -> int:
    """Return the fastest number of columns of a tile for layers of `features` neurons."""
    return _kernels.STRIP // np.dtype(dtype).itemsize


def _check(w: FusedWeight, Y: Array, bias: Array, out: Array) -> None:
    """Refuse what would make the compiled code read or write elsewhere."""
    rows, columns = w.shape
    if Y.ndim != 2 or Y.shape[0] != columns:
        raise ShapeError("Y", f"shape ({columns}, batch)", f"shape {Y.shape}")
    if out.shape != (rows, Y.shape[1]):
        raise ShapeError("out", f"shape {(rows, Y.shape[1])}", f"shape {out.shape}")
    if bias.shape not in ((), (rows,)):
        raise ShapeError("bias", f"shape () or ({rows},)", f"shape {bias.shape}")
    for name, array in (("Y", Y), ("bias", bias), ("out", out)):
        if array.dtype != w.dtype:
            raise DtypeError(name, f"{w.dtype}, as the weight", str(array.dtype))
        if not array.flags.c_contiguous:
            raise InputError(name, "a C-contiguous array", f"strides {array.strides}")
    if not out.flags.writeable:
        raise InputError("out", "an array that can be written", "a read-only one")


@cache
def _widest_group_strip() -> int:
    """Return the widest strip for which four rows' sums fit into the registers.

    It is a choice of speed only. 64 bytes and four rows are 4 registers of AVX-512, 8 of AVX2, 16
    of SSE and NEON; the four times wider strip needs the 32 registers of AVX-512.
    """
    wide = llvmlite.binding.get_host_cpu_features().get("avx512f", False)
    return _kernels.STRIP if wide else _kernels.VECTOR


class _Announce(event.Listener):  # type: ignore[misc]
    """Tells the user about numba's compilations; loading from the disk cache raises no event."""

    def on_start(self, event: Any) -> None:
        message = "compiling the fused kernels (some seconds, once; cached on disk)"
        if on_compile is not None:
            on_compile(message)
        else:
            logging.getLogger("gbdnn").info(message)

    def on_end(self, event: Any) -> None:
        pass


@cache
def _ensure_compiled(real: np.dtype[Any], index: np.dtype[Any]) -> None:
    """Load the kernel from the disk cache, or compile it."""
    with event.install_listener("numba:compile", _Announce()):
        _kernels.layer.compile(_kernels.layer_signature(real, index))


_lock = threading.Lock()
_executor: ThreadPoolExecutor | None = None
_workers = 0


def _pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool with at least threads - 1 workers; a thread that waits for it also works."""
    global _executor, _workers
    with _lock:
        if _executor is None or _workers < threads - 1:
            _executor, _workers = ThreadPoolExecutor(threads - 1, "gbdnn-fused"), threads - 1
        return _executor


def _forget_pool() -> None:
    """In a forked child the parent's threads do not exist."""
    global _executor, _workers, _lock
    _lock, _executor, _workers = threading.Lock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
