"""Networks: a chain of layers, and `predict`, which takes a batch through it on a backend."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from gbdnn.backends import get_backend
from gbdnn.backends.base import Backend
from gbdnn.data.inputs import as_inputs
from gbdnn.errors import DtypeError, InputError, MemoryBudgetError, ShapeError
from gbdnn.execution import executor
from gbdnn.execution.executor import Affine, Step
from gbdnn.layers import Activation, Dropout, Identity, Linear, activation
from gbdnn.machine import available_bytes, check_threads
from gbdnn.progress import bar
from gbdnn.summary import Summary, summary_row

__all__ = ["Network", "grouped"]

Array = npt.NDArray[Any]


class Network:
    """Y_{k+1} = h_k(W_k Y_k + b_k) for k = 0 ... L-1 (Kepner et al. 2017, section II).

    Parameters
    ----------
    layers : iterable of Linear, activations and names of activations
        Starts with a `Linear`; each takes what the one before gives. For example
        ``Network([Linear(W0, b0), "relu", Linear(W1, b1), "softmax"])``.
    metadata : dict, optional
        What a model file holds besides the network.

    Attributes
    ----------
    layers : tuple
    metadata : dict
        Of text to anything that JSON can say: `save` writes it and `gbdnn.load` brings it back.
    in_features, out_features : int
        Values in a sample and in a result.
    dtype : float32 or float64
        What the network computes in and returns.
    edges : int
        Multiply-adds per sample: stored weights of all layers.
    nbytes : int
        Bytes of weights and biases as the layers hold them.
    depth, widest : int
        Number of linear layers; largest number of features anywhere.

    Raises
    ------
    ShapeError
        If two layers do not chain.
    DtypeError
        If the layers' dtypes differ, or an element is not a layer.
    """

    def __init__(
        self,
        layers: Iterable[Linear | Activation | str],
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.layers = tuple(_as_layer(layer, k) for k, layer in enumerate(_sequence(layers)))
        self._linears = [layer for layer in self.layers if isinstance(layer, Linear)]
        _check_chain(self.layers, self._linears)
        self._affines = tuple(_affines(self.layers))
        self.in_features = self._linears[0].in_features
        self.out_features = self._linears[-1].out_features
        self.dtype = self._linears[0].dtype
        self.edges = sum(layer.edges for layer in self._linears)
        self.nbytes = sum(layer.weight.nbytes + layer.bias.nbytes for layer in self._linears)
        self.depth = len(self._linears)
        self.widest = max(self.in_features, *(layer.out_features for layer in self._linears))
        self.metadata = dict(metadata or {})
        self._prepared: dict[str, list[Step]] = {}
        self._chains: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.layers, self.metadata)  # what backends prepared is made again

    def __repr__(self) -> str:
        return f"Network({', '.join(map(repr, self.layers))})"

    def astype(self, dtype: npt.DTypeLike) -> Network:
        """Return the network in another float dtype."""
        layers = (
            layer.astype(dtype) if isinstance(layer, Linear) else layer for layer in self.layers
        )
        return Network(layers, metadata=self.metadata)

    def save(self, path: str | os.PathLike[str], *, extra: Mapping[str, Any] | None = None) -> None:
        """Write the network to a safetensors file that `gbdnn.load` reads.

        Parameters
        ----------
        path : path-like
            A file that is there is replaced in one step, or stays as it is if anything fails.
        extra : dict, optional
            Goes into the file beside `metadata`, above which it stands: text as keys, values that
            JSON can say. The names of the format itself are taken.

        Raises
        ------
        DataUnavailableError
            The file cannot be written: no space, no permission, no folder.
        InputError, DtypeError
            `extra` or `metadata` cannot be written.
        """
        from gbdnn.interchange.models import save

        save(self, path, extra=extra)

    def predict(
        self,
        X: Any,
        *,
        backend: str = "fused",
        batch_size: int | None = None,
        threads: int | None = None,
        progress: bool | Callable[[int], None] = False,
        check_finite: bool = True,
        skip: bool = True,
    ) -> Array:
        """Return the last layer's output for each sample.

        Parameters
        ----------
        X : array_like or scipy sparse, shape (n_samples, in_features)
            Any real dtype and memory order; never modified, a sparse batch is never made dense.
        backend : str
            "fused", "graphblas", "graphblas-reference", "dense" or "auto", which picks one for each
            layer from times measured on this machine (some seconds at its first use).
        batch_size : int, optional
            Samples that go through the layers together (the tile); default what is fastest.
        threads : int, optional
            Default all cores.
        progress : bool or callable
            True draws a bar on standard error; a callable gets the number of (sample, layer)
            pairs just done, from any thread.
        check_finite : bool
            Refuse NaN and infinity in X. Without the check they spread as the backend's arithmetic
            has it; a sparse weight does not multiply its absent entries.
        skip : bool
            Do not compute columns that no later layer changes; exact (`gbdnn.execution.skipping`).

        Returns
        -------
        ndarray of `self.dtype`, shape (n_samples, out_features), C-contiguous

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, SparseFormatError
            If X does not fit.
        UnknownNameError
            If there is no such backend.
        MemoryBudgetError
            If the result, tiles or the backend's form of the weights would not fit into memory.

        Notes
        -----
        May be called from several threads at once. The backend's form of the weights is made at
        the first call and kept.
        """
        chosen = get_backend(backend)
        inputs = as_inputs(X, self.in_features, self.dtype, finite=check_finite, later=True)
        out = _output(inputs.count, self.out_features, self.dtype)
        options: dict[str, Any] = {
            "backend": chosen,
            "threads": check_threads(threads),
            "width": _check_batch_size(batch_size),
            "skip": skip,
        }
        sink = _ArraySink(out)
        if not isinstance(progress, bool) and not callable(progress):
            raise DtypeError("progress", "True, False or a callable", repr(progress))
        if progress is True:
            with bar("predict", inputs.count * self.depth) as advance:
                executor.run(self, inputs, sink, progress=advance, **options)
        else:
            executor.run(self, inputs, sink, progress=progress or None, **options)
        return out

    def summary(
        self, backend: str | None = None, *, batch_size: int = 64, threads: int | None = None
    ) -> Summary:
        """Return a table of the layers: shape, non-zeros, density, bytes, edges.

        Parameters
        ----------
        backend : str, optional
            Adds a column with the engine that computes each layer. With "auto" that is what the
            cost table of this machine says (the first use measures it); nothing is computed.
        batch_size : int
            Samples in a call of `predict` for which "auto" is asked.
        threads : int, optional
            Default all cores.
        """
        engines = [""] * len(self.layers)
        if backend is not None:
            chosen = get_backend(backend)
            batch, cores = _check_batch_size(batch_size) or 1, check_threads(threads)
            choice = getattr(chosen, "choice", lambda *layer: backend)
            engines = [
                choice(layer.weight, batch, cores) if isinstance(layer, Linear) else ""
                for layer in self.layers
            ]
        rows = (
            summary_row(k, layer) | ({"backend": engine} if backend is not None else {})
            for k, (layer, engine) in enumerate(zip(self.layers, engines, strict=True))
        )
        return Summary(tuple(rows))

    # -- what the executor asks of a source of layers ----------------------------------------------

    lazy = False
    keeps: frozenset[float] = frozenset()

    def steps(self, backend: Backend, start: int = 0) -> Iterator[Step]:
        """Yield the layers in the backend's form, made once and kept."""
        with self._lock:
            if backend.name not in self._prepared:
                self._prepared[backend.name] = [
                    executor.prepare_step(backend, affine) for affine in self._affines
                ]
        return iter(self._prepared[backend.name][start:])

    def chain(self, backend: Backend) -> Any:
        """Return the layers as one compiled call, made once and kept; None if there is no such."""
        if backend.name not in self._chains:
            make = getattr(backend, "chain", None)
            self._chains[backend.name] = make and make(list(self.steps(backend)))
        return self._chains[backend.name]


@dataclass(frozen=True, eq=False)
class _ArraySink:
    """Collects results in a (n_samples, out_features) array."""

    out: Array

    @property
    def view(self) -> Array:
        """The results as (features, samples), for those who can write all of them."""
        return self.out.T

    def write(self, ids: Array, Y: Array) -> None:
        """Store columns as rows."""
        if len(ids) and ids[-1] - ids[0] + 1 == len(ids) and (np.diff(ids) == 1).all():
            self.out[ids[0] : ids[-1] + 1] = Y.T
        else:
            self.out[ids] = Y.T

    def fill(self, ids: Array, value: float) -> None:
        """Store constant rows."""
        self.out[ids] = value


def _rebuilt(layers: Any, metadata: Mapping[str, Any]) -> Network:
    """Return the network of a pickle."""
    return Network(layers, metadata=metadata)


def _sequence(layers: Any) -> list[Any]:
    if isinstance(layers, str | Linear) or not isinstance(layers, Iterable):
        raise DtypeError("layers", "a list of layers", type(layers).__name__)
    return list(layers)


def _as_layer(layer: Any, number: int) -> Linear | Activation:
    if isinstance(layer, str):
        return activation(layer)
    if isinstance(layer, Linear | Activation):
        return layer
    raise DtypeError(
        f"layers[{number}]", "a Linear, an activation or its name", type(layer).__name__,
        "Wrap weights as gbdnn.Linear(weight, bias).",
    )  # fmt: skip


def _check_chain(layers: tuple[Linear | Activation, ...], linears: list[Linear]) -> None:
    if not layers or not isinstance(layers[0], Linear):
        got = type(layers[0]).__name__ if layers else "nothing"
        raise InputError("layers", "a Linear as the first layer", got)
    for k, (left, right) in enumerate(pairwise(linears)):
        if left.out_features != right.in_features:
            raise ShapeError(
                f"layers: Linear number {k + 1}",
                f"{left.out_features} in_features, the out_features of the one before",
                f"{right.in_features}",
                "Weights have the shape (out_features, in_features); a transposed one does this.",
            )
        if left.dtype != right.dtype:
            raise DtypeError(
                f"layers: Linear number {k + 1}", f"{left.dtype} as before", f"{right.dtype}",
                "Give all layers the same dtype=.",
            )  # fmt: skip


@dataclass(frozen=True)
class _Chain:
    """Several activations, one after the other."""

    parts: tuple[Activation, ...]
    clamp: tuple[float, float] | None = None

    def apply(self, Z: Array) -> None:
        for part in self.parts:
            part.apply(Z)


def grouped(
    layers: tuple[Linear | Activation, ...],
) -> Iterator[tuple[Linear, tuple[Activation, ...]]]:
    """Yield each Linear with the activations that follow it."""
    starts = [k for k, layer in enumerate(layers) if isinstance(layer, Linear)]
    for start, stop in pairwise([*starts, len(layers)]):
        linear, *after = layers[start:stop]
        yield cast(Linear, linear), cast("tuple[Activation, ...]", tuple(after))


def _affines(layers: tuple[Linear | Activation, ...]) -> Iterator[Affine]:
    """Join each Linear with the activations that follow it; prediction drops nothing."""
    for linear, behind in grouped(layers):
        after = [layer for layer in behind if not isinstance(layer, Dropout)]
        h = after[0] if len(after) == 1 else _Chain(tuple(after)) if after else Identity()
        yield Affine(linear.weight, linear.bias, h)


def _check_batch_size(batch_size: Any) -> int | None:
    if batch_size is None:
        return None
    if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__") or batch_size < 1:
        raise InputError("batch_size", "a whole number from 1 up, or None", repr(batch_size))
    return int(batch_size)


def _output(samples: int, features: int, dtype: np.dtype[Any]) -> Array:
    nbytes = samples * features * dtype.itemsize
    if nbytes > executor.SMALL and nbytes > (free := available_bytes()):
        raise MemoryBudgetError(
            "X", f"a result that fits into the {free:,} bytes that are free",
            f"{samples} x {features} values, {nbytes:,} bytes", "Predict in parts.",
        )  # fmt: skip
    return np.empty((samples, features), dtype)
