"""The fused backend: out = h(W Y + b) in one pass over `out`, at the speed of the first caches.

The machine code is in `_kernels`, the form of the weights in `_groups`. Here are the checks, the
threads and the compilation.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import llvmlite.binding
import numpy as np
import numpy.typing as npt
from numba.core import event

from gbdnn.backends.arrays import check_memory
from gbdnn.backends.base import Activation
from gbdnn.backends.fused import columns, gradients, interpreter, kernels, products, program
from gbdnn.backends.fused.groups import Grouped, GroupedRows, group_dense, group_rows
from gbdnn.backends.fused.products import FusedTrainable
from gbdnn.backends.workers import share
from gbdnn.errors import ShapeError
from gbdnn.weights.csr import CSR

__all__ = ["FusedBackend", "FusedWeight", "on_compile", "preferred_tile"]

Array = npt.NDArray[Any]
Arguments = tuple[Any, ...]  # of `kernels.layer`, up to the batch
Share = list[tuple[Arguments, bool]]
SMALL = 1 << 22  # edges x columns below which a second thread costs more than it gives (150 us)
LATENCY = 16  # columns that one column costs as much as: indices and values are read for each
WIDE = 128  # bytes of a row of Y from which blocks of columns pay: 32 float32

on_compile: Callable[[str], None] | None = None
"""Called with a message when kernels must be compiled; by default it goes to the log 'gbdnn'."""


@dataclass(frozen=True, eq=False)
class FusedWeight:
    """A weight grouped by patterns (see `groups`). Read-only, shared by threads."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    edges: int
    iso: bool
    grouped: Grouped

    @property
    def nbytes(self) -> int:
        """Bytes of indices, values and tables."""
        return self.grouped.nbytes

    @cached_property
    def whole(self) -> Share:
        """All rows, as the leading arguments of `kernels.layer`, and whether bounds apply."""
        return self.shares(1)[0]

    @cached_property
    def whole_in_blocks(self) -> Share:
        """The same in blocks of columns, for wide batches."""
        return self.shares(1, blocked=True)[0]

    def shares(self, threads: int, *, blocked: bool = False) -> list[Share]:
        """Cut the groups of each part into `threads` ranges with equally many edges."""
        form = self.grouped.blocks if blocked and self.grouped.blocks else self.grouped
        work = [_work(part) for part in form.parts]
        if form is self.grouped.blocks:  # one thread must see a row through all blocks
            work = [np.sum(work, axis=0)] * len(work)
        cuts = [_cut(each, threads) for each in work]
        return [
            [
                (self._arguments(form, part, cut[k], cut[k + 1]), part.final)
                for part, cut in zip(form.parts, cuts, strict=True)
            ]
            for k in range(threads)
        ]

    def _arguments(self, form: Grouped, part: GroupedRows, first: int, last: int) -> Arguments:
        strip = kernels.STRIP if part.rows == 1 else _widest_group_strip()
        arrays = (part.table, form.indices, part.values)
        return (part.rows, int(self.iso), *arrays, first, last, int(part.resume), strip)


def _work(part: GroupedRows) -> Array:
    """Return the work of each group: its non-zeros, and a row costs about as much as 8."""
    return (part.table[:, 1] - part.table[:, 0] + 8) * part.rows


def _cut(work: Array, threads: int) -> list[int]:
    done = np.cumsum(work)
    goals = done[-1] * np.arange(1, threads) / threads
    return [0, *np.searchsorted(done, goals).tolist(), len(work)]


def _run(share: Share, batch: tuple[Array, Array, Array], low: float, high: float) -> None:
    for weight, final in share:
        bounds = (low, high) if final else (-math.inf, math.inf)
        kernels.layer(*weight, *batch, *bounds)


class FusedBackend:
    """Y_{k+1} = h(W_k Y_k + b_k), register-blocked, bias and bounds applied before the one store.

    Sums are taken with fused multiply-adds in an order that depends on the width of the batch:
    results of the same column in batches of different width may differ in the last bits.
    Dense weights run in the same kernel, as one pattern shared by all rows.
    """

    name = "fused"
    columns = columns

    def prepare(self, weight: CSR | Array) -> FusedWeight:
        """Group the rows; indices become uint16 where they fit.

        Sparse weights without common patterns are not copied, except for narrower indices and,
        where 6 % or more of the places are stored, for a second copy in blocks of columns.
        """
        if isinstance(weight, CSR):
            grouped, edges, iso = group_rows(weight), weight.nnz, len(weight.values) == 1
        else:
            grouped, edges, iso = group_dense(weight), weight.size, False
        _ensure_compiled(weight.dtype, grouped.indices.dtype)
        shape = (int(weight.shape[0]), int(weight.shape[1]))
        return FusedWeight(shape, weight.dtype, edges, iso, grouped)

    def affine(
        self,
        w: FusedWeight | FusedTrainable,
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
        w : FusedWeight or FusedTrainable
            With the latter Y and out are tile-major, (tiles, features, width).
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
        if isinstance(w, FusedTrainable):
            products.affine(w, Y, bias, activation, out, threads)
            return
        _check(w, Y, bias, out)
        clamp: tuple[float, float] | None = getattr(activation, "clamp", None)
        low, high = (-math.inf, math.inf) if clamp is None else clamp
        batch = (bias.reshape(-1), Y, out)
        blocked = Y.shape[1] * w.dtype.itemsize >= WIDE
        if threads > 1 and w.edges * max(Y.shape[1], LATENCY) >= SMALL:
            shares = w.shares(threads, blocked=blocked)
            share(lambda part: _run(part, batch, low, high), shares, threads)
        else:
            _run(w.whole_in_blocks if blocked else w.whole, batch, low, high)
        if clamp is None:
            activation.apply(out)

    def tile_width(self, features: int, dtype: np.dtype[Any]) -> int:
        """See `preferred_tile`."""
        return preferred_tile(features, dtype)

    def chain(self, steps: Sequence[Any]) -> program.Chain | None:
        """Return layers as one compiled call for small batches; None if they do not allow it."""
        with event.install_listener("numba:compile", _Announce()):
            return program.link(steps)

    @contextmanager
    def pinned(self, threads: int) -> Iterator[None]:
        """Do nothing: there is no library underneath, `threads` of `affine` is all there is."""
        yield

    # -- training ----------------------------------------------------------------------------------

    def trainable(self, weight: CSR | Array) -> FusedTrainable:
        """Build W and W^T over one vector of values, a copy of the weight's.

        Beside `pattern` and `values` (8 bytes a non-zero in float32) the form holds W^T, 6 bytes
        (8 above 65,536 output features), uint16 indices of W up to 65,536 input features, 2 bytes,
        and tables of 64 bytes a row and column.
        """
        form = products.build(weight)
        for rows in (form.forward, form.backward):
            _ensure_gradients_compiled(form.values.dtype, rows.indices.dtype)
        return form

    def affine_input_grad(self, w: FusedTrainable, dZ: Array, out: Array, threads: int = 1) -> None:
        """Compute out = W^T dZ, the gradient with respect to Y of that with respect to W Y + b.

        Parameters
        ----------
        w : FusedTrainable
        dZ : ndarray, shape (tiles, out_features, width), C-contiguous
        out : ndarray, shape (tiles, in_features, width), C-contiguous, must not overlap dZ
        threads : int
            Rows of W^T are split; no bit of the result depends on it.

        Raises
        ------
        ShapeError, DtypeError, InputError
            For arrays that the compiled code cannot use.
        """
        products.input_grad(w, dZ, out, threads)

    def affine_weight_grad(
        self, w: FusedTrainable, dZ: Array, Y: Array, out: Array, threads: int = 1
    ) -> None:
        """Compute out[k] = sum over tiles and columns of dZ[:, i] Y[:, j], (i, j) of entry k.

        That is dZ Y^T where W stores an entry, O(nnz x batch): nothing else of it is computed.

        Parameters
        ----------
        w : FusedTrainable
        dZ : ndarray, shape (tiles, out_features, width), C-contiguous
        Y : ndarray, shape (tiles, in_features, width), C-contiguous
        out : ndarray, shape (nnz,), C-contiguous
            Overwritten.
        threads : int
            Rows of W are split; no bit of the result depends on it.

        Raises
        ------
        ShapeError, DtypeError, InputError
            For arrays that the compiled code cannot use.
        """
        products.weight_grad(w, dZ, Y, out, threads)

    def training_width(self, features: int, dtype: np.dtype[Any], batch: int) -> int:
        """Return 64 float32 columns, 32 above 2,048 features, fewer for smaller batches.

        A tile of Y, 512 KiB, then stays in the second cache while the weights stream by.
        """
        return products.best_width(features, dtype, batch)


@cache
def preferred_tile(features: int, dtype: npt.DTypeLike) -> int:
    """Return the fastest number of columns of a tile for layers of `features` neurons.

    A call costs 3 us and the GIL, so narrow layers get wide tiles: 512 KiB of Y. It is at least one
    strip, 64 float32 or 32 float64 columns, as long as that does not exceed 1 MiB, the second
    cache; then half a strip.
    """
    itemsize = np.dtype(dtype).itemsize
    strip = kernels.STRIP // itemsize
    if features * kernels.STRIP > 1 << 20:
        return strip // 2
    return int(np.clip((1 << 19) // (features * itemsize) // strip * strip, strip, 8 * strip))


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
        check_memory(name, array, w.dtype)


@cache
def _widest_group_strip() -> int:
    """Return the widest strip for which four rows' sums fit into the registers.

    It is a choice of speed only. 64 bytes and four rows are 4 registers of AVX-512, 8 of AVX2, 16
    of SSE and NEON; the four times wider strip needs the 32 registers of AVX-512.
    """
    wide = llvmlite.binding.get_host_cpu_features().get("avx512f", False)
    return kernels.STRIP if wide else kernels.VECTOR


class _Announce(event.Listener):
    """Tells the user about numba's compilations; loading from the disk cache raises no event."""

    def on_start(self, event: Any) -> None:
        own = (kernels.layer, gradients.weight_grad, interpreter.participate)
        if event.data["dispatcher"] not in own:
            return  # its parts
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
    with _compiling, event.install_listener("numba:compile", _Announce()):
        # Outside of this function numba must convert, not compile again for a writable array.
        kernels.layer.disable_compile(False)
        kernels.layer.compile(kernels.layer_signature(real, index))
        kernels.layer.disable_compile()


@cache
def _ensure_gradients_compiled(real: np.dtype[Any], index: np.dtype[Any]) -> None:
    """Do the same for the kernels of training."""
    with _compiling, event.install_listener("numba:compile", _Announce()):
        gradients.ensure_compiled(real, index)


_compiling = threading.Lock()
