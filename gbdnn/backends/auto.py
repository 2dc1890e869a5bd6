"""The auto backend: a fixed rule picks the engine of each layer.

A sparse weight of density up to 1/3 runs on `fused`, a denser one on `dense` where its full form
fits into memory, a dense one on `dense`. Over 200 measured cells (256 to 4096 features, densities
.01 to .5, batches 1 to 256, 1 and 2 threads) the rule is within 4.6 % of the best engine in
geometric mean (median 1.000, 90th percentile 1.22); always `fused` is within 10.8 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from gbdnn.backends import get_backend
from gbdnn.backends.base import Affine, Backend, Bounds, Prepared, Program
from gbdnn.backends.recurrences import Scan, ScanGrad
from gbdnn.machine import available_bytes
from gbdnn.types import Array
from gbdnn.weights import Weight

__all__ = ["AutoBackend", "choose_engine"]

DENSITY = 1 / 3  # above, BLAS is faster
DENSE_LIMIT = 1 << 30  # bytes of a sparse weight made dense: never more, whatever is free
SMALL = 1 << 26  # bytes for which free memory is not looked up, which takes 50 us


def choose_engine(weight: Weight) -> str:
    """Return the name of the backend for a weight."""
    if weight.form == "dense":
        return "dense"
    nbytes = weight.shape[0] * weight.shape[1] * weight.dtype.itemsize
    fits = nbytes <= DENSE_LIMIT and (nbytes <= SMALL or nbytes <= available_bytes() // 2)
    known = weight.form in ("csr", "int8", "int4")
    return "dense" if known and weight.density > DENSITY and fits else "fused"


class AutoForm(Prepared):
    """A weight in the form of the engine that was chosen."""

    def __init__(self, backend: Backend, weight: Weight, trained: bool) -> None:
        self.backend = backend
        self.form = form = backend.prepare(weight, trained=trained)
        self.shape, self.dtype = form.shape, form.dtype
        if trained:
            self.pattern, self.values = form.pattern, form.values

    @property
    def engine(self) -> str:
        """Name of the engine."""
        return self.backend.name

    @property
    def nbytes(self) -> int:
        """Memory that the form occupies."""
        return int(self.form.nbytes)

    def refresh(self, threads: int = 1) -> None:
        """Bring the form up to date after `values` were changed."""
        self.form.refresh(threads)


def _of_one_engine(given: Scan) -> Scan | None:
    """Return a recurrence with the engine's forms of its weights; None if there are two engines."""
    down = given.projection
    if down is not None and down.backend is not given.recurrent.backend:
        return None
    return replace(given, recurrent=given.recurrent.form, projection=down and down.form)


class AutoBackend(Backend):
    """Y_{k+1} = h(W_k Y_k + b_k), each layer on dense or fused; see `choose_engine`."""

    name = "auto"
    computes_sparse_first = True

    def __init__(self) -> None:
        self._uses_blas = False

    def prepare(self, weight: Weight, *, trained: bool = False) -> AutoForm:
        """Choose, and make the form; where it does not fit into memory, the fused one."""
        engine = choose_engine(weight)
        try:
            made = AutoForm(get_backend(engine), weight, trained)
        except MemoryError:
            made = AutoForm(get_backend("fused"), weight, trained)
        self._uses_blas |= made.engine == "dense"
        return made

    def affine(
        self,
        w: AutoForm,
        Y: Array,
        bias: Array | None,
        out: Array,
        *,
        clamp: Bounds | None = None,
        accumulate: bool = False,
        threads: int = 1,
    ) -> None:
        """Compute out = clamp(W Y + b) on the engine of the weight; see `Backend.affine`."""
        w.backend.affine(w.form, Y, bias, out, clamp=clamp, accumulate=accumulate, threads=threads)

    def input_grad(self, w: AutoForm, dZ: Array, out: Array, threads: int = 1) -> None:
        """Compute out = W^T dZ; see `Backend.input_grad`."""
        w.backend.input_grad(w.form, dZ, out, threads)

    def weight_grad(self, w: AutoForm, dZ: Array, Y: Array, out: Array, threads: int = 1) -> None:
        """Compute out = the values of dZ Y^T; see `Backend.weight_grad`."""
        w.backend.weight_grad(w.form, dZ, Y, out, threads)

    def over_time(
        self, w: AutoForm, Y: Array, bias: Array | None, out: Array, threads: int = 1
    ) -> None:
        """Compute out = W Y + b on the engine of the weight; see `Backend.over_time`."""
        w.backend.over_time(w.form, Y, bias, out, threads)

    def scan(self, given: Scan, threads: int = 1) -> bool:
        """Compute all time steps where all weights are of one engine; see `Backend.scan`."""
        inner = _of_one_engine(given)
        return inner is not None and given.recurrent.backend.scan(inner, threads)

    def scan_grad(self, given: ScanGrad, threads: int = 1) -> bool:
        """Go back where all weights are of one engine; see `Backend.scan_grad`."""
        inner = _of_one_engine(given.scan)
        if inner is None:
            return False
        engine: Backend = given.scan.recurrent.backend
        return engine.scan_grad(replace(given, scan=inner), threads)

    def width(self, features: int, dtype: np.dtype[Any], batch: int | None = None) -> int:
        """The fused engine's: it loses more in tiles that are too wide than BLAS in narrow ones."""
        return get_backend("fused").width(features, dtype, batch)

    def pinned(self, threads: int) -> AbstractContextManager[None]:
        """Keep BLAS on `threads` threads, once some layer runs on it."""
        return get_backend("dense").pinned(threads) if self._uses_blas else nullcontext()

    def program(self, affines: Sequence[Affine]) -> Program | None:
        """Return the layers as one call where all are the fused engine's."""
        if any(affine.weight.engine != "fused" for affine in affines):
            return None
        return get_backend("fused").program(
            [replace(affine, weight=affine.weight.form) for affine in affines]
        )

    def warm_up(self, dtype: np.dtype[Any]) -> None:
        """Load or compile what the fused engine needs."""
        get_backend("fused").warm_up(dtype)

    def engine(self, weight: Weight) -> str:
        """Return the engine that the rule chooses."""
        return choose_engine(weight)
