"""An engine as the harness sees it, and gbdnn's own backends in that form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends import get_backend
from gbdnn.backends.base import Backend, aligned_empty
from gbdnn.execution import executor
from gbdnn.layers import Linear
from gbdnn.network import Network
from gbdnn.weights.csr import CSR

__all__ = ["Engine", "as_predict", "prepare"]

Array = npt.NDArray[Any]


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


Calls = tuple[Callable[[Any], Any], Callable[[Array, int], Any], Callable[[Any], Array]]


def prepare(
    name: str, op: str, weights: Sequence[CSR | Array], biases: Sequence[Array], threads: int
) -> Engine:
    """Bring layers with ReLU into the form of a backend of gbdnn.

    Parameters
    ----------
    name : str
        One of `gbdnn.backends.BACKENDS`.
    op : str
        One of `benchmarks.cells.OPS`.
    weights : sequence of CSR or ndarray, shape (out_features, in_features)
    biases : sequence of ndarray, shape (out_features,)
    threads : int
    """
    backend = get_backend(name)
    layers: list[Any] = []
    for weight, bias in zip(weights, biases, strict=True):
        layers += [Linear(weight, bias, dtype=bias.dtype), "relu"]
    network = Network(layers)
    steps = list(network.steps(backend))
    run, enter, leave = {"affine": _affine, "forward": _forward, "predict": _predict}[op](
        backend, network, threads
    )
    # the executor pins by itself
    scope = partial(backend.pinned, threads) if op == "affine" else nullcontext
    return Engine(
        run, enter, leave, lambda: sum(step.weight.nbytes for step in steps),
        _told(name, threads), scope,
    )  # fmt: skip


def as_predict(engine: Engine) -> Engine:
    """Return the engine with its conversions inside of `run`, and the whole batch at once."""

    def run(X: Array) -> Array:
        return engine.leave(engine.run(engine.enter(X, max(len(X), 1))))

    return replace(engine, run=run, enter=_same, leave=np.asarray, chunks=())


def _affine(backend: Backend, network: Network, threads: int) -> Calls:
    """The backend's primitive on the whole batch, from buffer to buffer."""
    if getattr(backend, "sparse_activations", False):
        return _sparse_affine(backend, network)
    steps = list(network.steps(backend))
    buffers: list[Array] = []

    def enter(X: Array, width: int) -> Array:
        buffers[:] = [_full(network.widest, len(X), X.dtype) for _ in steps[:2]]
        Y = _full(X.shape[1], len(X), X.dtype)
        Y[...] = X.T
        return Y

    def run(Y: Array) -> Array:
        for k, step in enumerate(steps):
            out = buffers[k % 2][: step.out_features]
            backend.affine(step.weight, Y, step.bias, step.activation, out, threads)
            Y = out
        return Y

    return run, enter, _transposed


def _sparse_affine(backend: Any, network: Network) -> Calls:
    steps = list(network.steps(backend))

    def run(Y: Any) -> Any:
        for step in steps:
            Y = backend.forward(step.weight, Y, step.bias, step.activation)
        return Y

    def enter(X: Array, width: int) -> Any:
        return backend.enter(np.ascontiguousarray(X.T))

    return run, enter, lambda Y: _transposed(backend.leave(Y))


def _forward(backend: Backend, network: Network, threads: int) -> Calls:
    """The tile executor on a neuron-major array; nothing is skipped."""

    def enter(X: Array, width: int) -> Array:
        return np.ascontiguousarray(X.T)

    def run(Y: Array) -> Array:
        out = np.empty((network.out_features, Y.shape[1]), Y.dtype)
        executor.run(
            network, NeuronMajor(Y), _Columns(out), backend=backend, threads=threads, skip=False
        )
        return out

    return run, enter, _transposed


def _predict(backend: Backend, network: Network, threads: int) -> Calls:
    """`Network.predict` as a user calls it, but for skipping."""
    run = partial(network.predict, backend=backend.name, threads=threads, skip=False)
    return run, _same, np.asarray


@dataclass(frozen=True, eq=False)
class NeuronMajor:
    """A batch of shape (features, count) for the executor."""

    Y: Array

    @property
    def view(self) -> Array:
        """The batch itself: the executor may read it without a copy."""
        return self.Y

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self.Y.shape[1])

    @property
    def features(self) -> int:
        """Values in a sample."""
        return len(self.Y)

    def load(self, start: int, stop: int, out: Array) -> None:
        """Copy columns."""
        out[...] = self.Y[:, start:stop]


@dataclass(frozen=True, eq=False)
class _Columns:
    """Results of the executor, neuron-major."""

    out: Array

    @property
    def view(self) -> Array:
        """The results' place: the executor may write there without a copy."""
        return self.out

    def write(self, ids: Array, Y: Array) -> None:
        """Store columns; without skipping they are neighbours."""
        self.out[:, ids[0] : ids[-1] + 1] = Y

    def fill(self, ids: Array, value: float) -> None:
        """Store constant columns."""
        self.out[:, ids] = value


def _full(features: int, batch: int, dtype: Any) -> Array:
    return aligned_empty(features * batch, dtype).reshape(features, batch)


def _same(X: Array, width: int) -> Array:
    return X


def _transposed(Y: Array) -> Array:
    return np.ascontiguousarray(Y.T)


def _told(name: str, threads: int) -> int:
    """Return how many threads the library under a backend says that it uses."""
    if name.startswith("graphblas"):
        from gbdnn.backends.graphblas.start import graphblas

        return int(graphblas().ss.config["nthreads"])
    if name == "dense":
        from threadpoolctl import threadpool_info

        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        return max(pools, default=threads)
    return threads
