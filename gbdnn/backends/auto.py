"""The auto backend: each layer on the engine that the measured cost table says is fastest.

`choose` is the whole rule; the numbers come from `gbdnn.calibration`. Up to 8 columns it asks for
the very call, so that a layer may run on BLAS for one sample and on the fused kernel for a batch.
Wider calls all get the same engine: the executor cuts a batch into tiles that shrink and merge as
columns are dropped, on one thread or more, and a column must round alike in all of them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends.base import Activation, Backend, Trainable
from gbdnn.costs import CostTable
from gbdnn.machine import available_bytes
from gbdnn.weights.csr import CSR

__all__ = ["AutoBackend", "AutoTrainable", "AutoWeight", "Layer", "choose", "layer_of"]

Array = npt.NDArray[Any]
Decision = tuple[Backend, Any, bool]  # the form, and whether there are threads to pin
TOLERANCE = 1.05  # the home engine is taken if no other is faster by more
DENSE_LIMIT = 1 << 30  # bytes of a sparse weight made dense: never more, whatever is free
SMALL = 1 << 26  # bytes for which free memory is not looked up, which takes 50 us
SHARING = 4  # rows that the fused engine computes together
NARROW = 8  # columns; the executor pads more to 16 and its multiples
WIDE = (16, 64, 256)
TRAINED = 256  # columns of a mini-batch, as far as the choice of an engine for training goes
PROBES = (1, 2, 3, 4, 6, 8, 16)  # columns of a call, with all threads


@dataclass(frozen=True)
class Layer:
    """What a choice depends on, of the layer.

    Parameters
    ----------
    shape : tuple of int
        (out_features, in_features).
    edges : int
        Stored weights.
    itemsize : int
        Bytes of a value.
    given_dense : bool
        The weight is an ndarray.
    shared : float
        Share of the edges in rows whose pattern occurs four times or more.
    dense_fits : bool
        The dense form may be made.
    """

    shape: tuple[int, int]
    edges: int
    itemsize: int = 4
    given_dense: bool = False
    shared: float = 0.0
    dense_fits: bool = True

    @property
    def home(self) -> str:
        """The engine that takes the weight as it is, and wins where others gain little."""
        return "dense" if self.given_dense else "fused"

    @property
    def candidates(self) -> tuple[str, ...]:
        """The engines that may run the layer."""
        if self.given_dense:
            return ("dense", "fused")
        return ("fused", "graphblas", "dense") if self.dense_fits else ("fused", "graphblas")


def choose(table: CostTable, layer: Layer, batch: int, threads: int) -> str:
    """Return the engine with the lowest predicted time; the home engine if it is within 5 %.

    Above 8 columns: the lowest geometric mean over `WIDE` columns, each tile on one thread.
    """
    calls = [(batch, threads)] if batch <= NARROW else [(columns, 1) for columns in WIDE]

    def seconds(engine: str) -> float:
        times = (
            table.seconds(
                engine, layer.shape, layer.edges, columns,
                threads=count, itemsize=layer.itemsize, shared=layer.shared,
            )
            for columns, count in calls
        )  # fmt: skip
        return float(math.prod(times) ** (1 / len(calls)))

    costs = {engine: seconds(engine) for engine in layer.candidates}
    best = min(costs, key=costs.__getitem__)
    return layer.home if costs[layer.home] <= TOLERANCE * costs[best] else best


@lru_cache(maxsize=4096)
def only_choice(table: CostTable, layer: Layer) -> str | None:
    """Return the engine that is chosen for every batch and number of threads, None if several."""
    found = {choose(table, layer, batch, count) for batch in PROBES for count in table.threads}
    return found.pop() if len(found) == 1 else None


def layer_of(table: CostTable, weight: CSR | Array) -> Layer:
    """Describe a weight; shared patterns are looked for (O(nnz)) only if they could matter."""
    shape, itemsize = (int(weight.shape[0]), int(weight.shape[1])), weight.dtype.itemsize
    if not isinstance(weight, CSR):
        return Layer(shape, int(weight.size), itemsize, given_dense=True, shared=1.0)
    nbytes = shape[0] * shape[1] * itemsize
    fits = nbytes <= DENSE_LIMIT and (nbytes <= SMALL or nbytes <= available_bytes() // 2)
    layer = Layer(shape, weight.nnz, itemsize, dense_fits=fits)
    if only_choice(table, layer) == "fused":
        return layer
    return Layer(shape, weight.nnz, itemsize, shared=round(shared_rows(weight), 2), dense_fits=fits)


def shared_rows(weight: CSR) -> float:
    """Return the share of entries in rows whose pattern occurs at least four times."""
    if not weight.nnz:
        return 0.0
    # the sum of random words, one per column, tells patterns apart
    words = np.random.default_rng(0).integers(0, 2**63, weight.shape[1], dtype=np.uint64)
    total = np.zeros(weight.nnz + 1, np.uint64)
    np.cumsum(words[weight.indices[: weight.nnz]], out=total[1:])
    keys = total[weight.indptr[1:]] - total[weight.indptr[:-1]]
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    lengths = np.diff(weight.indptr)
    return float(lengths[counts[which] >= SHARING].sum() / weight.nnz)


class AutoWeight:
    """A weight in the form of each engine that is used for it.

    Where one engine is chosen for all batches its form is made at once and the only one; else each
    is made at the first call that needs it. Shared by threads.
    """

    def __init__(self, weight: CSR | Array, table: CostTable) -> None:
        self.layer = layer_of(table, weight)
        self.calls: dict[tuple[int, int], Decision] = {}
        self._table, self._lock = table, threading.Lock()
        self._forms: dict[str, Any] = {}
        self._only = only_choice(table, self.layer)
        self._weight: CSR | Array | None = weight
        if self._only is not None:
            self._form(self._only)
            self._weight = None  # not needed any more

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines whose forms exist."""
        return tuple(self._forms)

    @property
    def nbytes(self) -> int:
        """Bytes of the forms that exist; before the first one those of the weight."""
        forms = sum(form.nbytes for form in tuple(self._forms.values()))
        return int(forms or (self._weight.nbytes if self._weight is not None else 0))

    def decide(self, batch: int, threads: int) -> Decision:
        """Decide for calls with `batch` columns; remembered in `calls`."""
        with self._lock:
            engine = self._only or choose(self._table, self.layer, batch, threads)
            try:
                form = self._form(engine)
            except MemoryError:  # the home engine's form is the smallest
                engine = self.layer.home
                form = self._form(engine)
            decision = self.calls[batch, threads] = (_backend(engine), form, engine != "fused")
        return decision

    def _form(self, engine: str) -> Any:
        if engine not in self._forms:
            self._forms[engine] = _backend(engine).prepare(self._weight)  # type: ignore[arg-type]
        return self._forms[engine]


@dataclass(frozen=True, eq=False)
class AutoTrainable:
    """A weight that changes, in the form of the engine that was chosen for it."""

    engine: str
    form: Trainable

    @property
    def pattern(self) -> CSR:
        """The places of the values."""
        return self.form.pattern

    @property
    def values(self) -> Array:
        """The engine's own vector of values, shape (nnz,)."""
        return self.form.values

    @property
    def nbytes(self) -> int:
        """Bytes of the engine's form."""
        return self.form.nbytes

    def refresh(self, threads: int = 1) -> None:
        """Bring the engine's form up to date after `values` were changed."""
        self.form.refresh(threads)


class AutoChain:
    """The layers as one compiled call, for batches for which all of them are the fused engine's."""

    def __init__(self, steps: Sequence[Any]) -> None:
        self._steps = tuple(steps)
        self._fused: Any = None  # the chain; False if there is none

    def resolve(self, batch: int, threads: int) -> Any:
        """Return the fused engine's chain for batches of this size, or None."""
        call = (batch, threads) if batch <= NARROW else (WIDE[0], threads)
        decisions = [
            step.weight.calls.get(call) or step.weight.decide(*call) for step in self._steps
        ]
        if self._fused is None and not any(pins for _, _, pins in decisions):
            steps = [
                replace(step, weight=form)
                for step, (_, form, _) in zip(self._steps, decisions, strict=True)
            ]
            self._fused = decisions[0][0].chain(steps) or False
        return None if any(pins for _, _, pins in decisions) else self._fused or None


class AutoBackend:
    """Y_{k+1} = h(W_k Y_k + b_k), each layer on dense, fused or graphblas.

    The first use on a machine measures it, see `gbdnn.calibration`. `Network.summary` shows the
    choices. A sparse weight is made dense only where BLAS is faster, and never above 1 GiB or half
    of the free memory. Results may differ in the last bits between batches of different width.
    """

    name = "auto"

    def __init__(self) -> None:
        self._local = threading.local()

    def prepare(self, weight: CSR | Array) -> AutoWeight:
        """Choose by the table in use; makes the form at once if there is one for all batches."""
        return AutoWeight(weight, _current())

    def affine(
        self,
        w: AutoWeight | AutoTrainable,
        Y: Array,
        bias: Array,
        activation: Activation,
        out: Array,
        threads: int = 1,
    ) -> None:
        """Compute out = h(W Y + b) on the engine chosen for Y's columns and `threads`."""
        if isinstance(w, AutoTrainable):
            self._engine(w).affine(w.form, Y, bias, activation, out, threads)
            return
        batch = Y.shape[1]
        backend, form, pins = w.calls.get((batch, threads)) or w.decide(batch, threads)
        if pins and (scope := getattr(self._local, "scope", None)) is not None:
            scope.pin(backend)
        backend.affine(form, Y, bias, activation, out, threads)

    def tile_width(self, features: int, dtype: np.dtype[Any]) -> int:
        """The fused engine's: it loses more in tiles that are too wide than BLAS in narrow ones."""
        return _tile_width(features, dtype)

    def chain(self, steps: Sequence[Any]) -> AutoChain:
        """Return the layers as one call, where for the batch at hand all are the fused engine's."""
        return AutoChain(steps)

    def choice(self, weight: CSR | Array, samples: int, threads: int) -> str:
        """Return the engine that runs a layer when `predict` gets so many samples."""
        table = _current()
        return choose(table, layer_of(table, weight), samples, threads)

    def pinned(self, threads: int) -> AbstractContextManager[None]:
        """Keep the libraries underneath on `threads` threads, each from its first call on."""
        return _Scope(self._local, threads)

    # -- training ----------------------------------------------------------------------------------

    def trainable(self, weight: CSR | Array) -> AutoTrainable:
        """Choose one engine for the layer, as for batches of 256, and build its form.

        The backward products touch what the forward one does, so its costs decide for all three.
        Where the chosen engine's form does not fit into memory it is the fused one.
        """
        table = _current()
        engine = choose(table, layer_of(table, weight), TRAINED, 1)
        try:
            return AutoTrainable(engine, _backend(engine).trainable(weight))
        except MemoryError:
            return AutoTrainable("fused", _backend("fused").trainable(weight))

    def affine_input_grad(self, w: AutoTrainable, dZ: Array, out: Array, threads: int = 1) -> None:
        """Compute out = W^T dZ: dZ (tiles, out_features, width), out (tiles, in_features, ...)."""
        self._engine(w).affine_input_grad(w.form, dZ, out, threads)

    def affine_weight_grad(
        self, w: AutoTrainable, dZ: Array, Y: Array, out: Array, threads: int = 1
    ) -> None:
        """Compute out = the values of dZ Y^T, summed over tiles, at W's pattern, shape (nnz,)."""
        self._engine(w).affine_weight_grad(w.form, dZ, Y, out, threads)

    def training_width(self, features: int, dtype: np.dtype[Any], batch: int) -> int:
        """The fused engine's: all engines take its tiles, and it loses most in wider ones."""
        return _backend("fused").training_width(features, dtype, batch)

    def _engine(self, w: AutoTrainable) -> Backend:
        """Return the engine of a layer, its library pinned where `pinned` is in force."""
        backend = _backend(w.engine)
        if w.engine != "fused" and (scope := getattr(self._local, "scope", None)) is not None:
            scope.pin(backend)
        return backend


class _Scope(AbstractContextManager[None]):
    """One `with pinned()` of one thread; engines that are not used in it cost nothing."""

    def __init__(self, local: threading.local, threads: int) -> None:
        self.local, self.threads = local, threads
        self.pinned: dict[str, AbstractContextManager[None]] = {}

    def __enter__(self) -> None:
        self.outer = getattr(self.local, "scope", None)
        self.local.scope = self

    def pin(self, backend: Backend) -> None:
        """Pin the libraries of a backend that is called in this scope for the first time."""
        if backend.name not in self.pinned:
            context = backend.pinned(self.threads)
            context.__enter__()
            self.pinned[backend.name] = context

    def __exit__(self, *error: object) -> None:
        self.local.scope = self.outer
        with ExitStack() as stack:
            for context in self.pinned.values():
                stack.callback(context.__exit__, None, None, None)


def _current() -> CostTable:
    from gbdnn import calibration  # measures with the backends, so it stands above them

    return calibration.current()


@lru_cache(maxsize=256)
def _tile_width(features: int, dtype: np.dtype[Any]) -> int:
    return _backend("fused").tile_width(features, dtype)


def _backend(engine: str) -> Backend:
    from gbdnn.backends import get_backend

    return get_backend(engine)
