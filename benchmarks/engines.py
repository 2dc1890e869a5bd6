"""An engine as a sweep sees it, and gbdnn's own backends in that form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gbdnn.backends import get_backend
from gbdnn.backends.base import Backend, aligned_empty
from gbdnn.data.inputs import Inputs
from gbdnn.execution import executor
from gbdnn.layers import Linear
from gbdnn.network import Network
from gbdnn.types import Array
from gbdnn.weights import Weight

__all__ = ["Engine", "as_predict", "prepare"]

RELU = (0.0, np.inf)  # bounds of the result


@dataclass(frozen=True, eq=False)
class Engine:
    """A network prepared by some library.

    Attributes
    ----------
    run : callable
        Takes a batch in the library's own form through all layers; this is what is timed. The
        result may be overwritten by the next call.
    enter : callable
        (X, width) -> batch in the library's own form, in chunks of `width` samples if it likes.
        X is (n_samples, in_features), C-contiguous.
    leave : callable
        What `run` returned -> ndarray (n_samples, out_features).
    nbytes : callable
        Returns the memory of the weights as the library holds them; some forms are made by `run`.
    threads : int
        What the library says that it uses.
    scope : callable
        Makes a context in which to run.
    chunks : tuple of int
        Widths to try besides the whole batch.
    """

    run: Callable[[Any], Any]
    enter: Callable[[Array, int], Any]
    leave: Callable[[Any], Array]
    nbytes: Callable[[], int]
    threads: int
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext
    chunks: tuple[int, ...] = ()


def prepare(
    name: str, op: str, weights: Sequence[Weight], biases: Sequence[Array], threads: int
) -> Engine:
    """Bring layers with ReLU into the form of a backend of gbdnn.

    Parameters
    ----------
    name : str
        One of `gbdnn.backends.BACKENDS`.
    op : str
        One of `benchmarks.sweep.OPS`.
    weights : sequence of Weight, shape (out_features, in_features)
    biases : sequence of ndarray, shape (out_features,)
    threads : int
    """
    backend = get_backend(name)
    if op == "affine":
        return _affine(backend, weights, biases, threads)
    layers: list[Any] = []
    for weight, bias in zip(weights, biases, strict=True):
        layers += [Linear(weight, bias, dtype=bias.dtype), "relu"]
    network = Network(layers)

    def nbytes() -> int:
        return sum(step.nbytes for step in network.steps(backend))

    if op in ("predict", "no-skip"):
        skip = {} if op == "predict" else {"skip": False}
        run = partial(network.predict, backend=name, threads=threads, **skip)
        return Engine(run, _unchanged, np.asarray, nbytes, _used_threads(name, threads))

    def forward(Y: Array) -> Array:
        out = np.empty((network.out_features, Y.shape[1]), Y.dtype)
        executor.run(
            network, NeuronMajor(Y), _Columns(out), backend=backend, threads=threads, skip=False
        )
        return out

    return Engine(forward, _transposed, _transposed, nbytes, _used_threads(name, threads))


def as_predict(engine: Engine) -> Engine:
    """Return the engine with its conversions inside of `run`, and the whole batch at once."""

    def run(X: Array) -> Array:
        return engine.leave(engine.run(engine.enter(X, max(len(X), 1))))

    return replace(engine, run=run, enter=_unchanged, leave=np.asarray, chunks=())


def _affine(
    backend: Backend, weights: Sequence[Weight], biases: Sequence[Array], threads: int
) -> Engine:
    """The backend's product on the whole batch, from buffer to buffer."""
    layers = [(backend.prepare(w), bias) for w, bias in zip(weights, biases, strict=True)]
    widest = max(weight.shape[0] for weight in weights)
    buffers: list[Array] = []

    def enter(X: Array, width: int = 0) -> Array:
        buffers[:] = [_empty(widest, len(X), X.dtype) for _ in layers[:2]]
        Y = _empty(X.shape[1], len(X), X.dtype)
        Y[0] = X.T
        return Y

    def run(Y: Array) -> Array:
        for k, (weight, bias) in enumerate(layers):
            out = buffers[k % 2][:, : weight.shape[0]]
            backend.affine(weight, Y, bias, out, clamp=RELU, threads=threads)
            Y = out
        return Y

    def run_sparse(Y: Any) -> Any:
        for weight, bias in layers:
            Y = backend.forward(weight, Y, bias, RELU)
        return Y

    made = Engine(
        run, enter, lambda Y: _transposed(Y[0]), lambda: sum(w.nbytes for w, _ in layers),
        _used_threads(backend.name, threads), partial(backend.pinned, threads),
    )  # fmt: skip
    if not backend.sparse_activations:
        return made
    return replace(
        made, run=run_sparse, enter=lambda X, width: backend.enter(_transposed(X)),
        leave=lambda Y: _transposed(backend.leave(Y)),
    )  # fmt: skip


class NeuronMajor(Inputs):
    """A batch of shape (features, samples) for the executor, which may read it as it lies."""

    def __init__(self, Y: Array) -> None:
        self.view, self.dtype = Y, Y.dtype
        self.features, self.count = Y.shape

    def load(self, ids: Any, out: Array) -> None:
        """Copy columns."""
        assert self.view is not None
        out[0] = self.view[:, ids]


@dataclass(frozen=True, eq=False)
class _Columns:
    """Results of the executor, neuron-major; it may write there without a copy."""

    view: Array

    def write(self, ids: Array, Y: Array) -> None:
        """Store columns; without skipping they are neighbours."""
        self.view[:, ids[0] : ids[-1] + 1] = Y

    def fill(self, ids: Array, value: float) -> None:
        """Store constant columns."""
        self.view[:, ids] = value


def _empty(features: int, batch: int, dtype: Any) -> Array:
    return aligned_empty(features * batch, dtype).reshape(1, features, batch)


def _unchanged(X: Array, width: int = 0) -> Array:
    return X


def _transposed(Y: Array, width: int = 0) -> Array:
    return np.ascontiguousarray(Y.T)


def _used_threads(name: str, threads: int) -> int:
    """Return how many threads the library under a backend says that it uses."""
    if name.startswith("graphblas"):
        from gbdnn.weights.graphblas import graphblas

        return int(graphblas().ss.config["nthreads"])
    if name == "dense":
        from threadpoolctl import threadpool_info

        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        return max(pools, default=threads)
    return threads
