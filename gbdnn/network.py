"""Networks: a chain of layers, and `predict`, which takes a batch through it on a backend."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn import checks
from gbdnn.backends import get_backend
from gbdnn.backends.base import Backend
from gbdnn.backends.workers import apart
from gbdnn.compaction import compacted
from gbdnn.data.inputs import SequenceInputs, as_inputs
from gbdnn.errors import DtypeError, FileFormatError, InputError, choose
from gbdnn.execution import executor, streaming
from gbdnn.execution.first import FirstOfSparse, suits
from gbdnn.execution.source import ArraySink, Source
from gbdnn.execution.steps import Compiled, Step, compiled, grouped, prepared_step
from gbdnn.files.tensors import read_tensors
from gbdnn.interchange.models import from_tensors, save_layers
from gbdnn.layers import Layer
from gbdnn.layers.chain import chained, features
from gbdnn.machine import check_threads
from gbdnn.machine.locks import lock_of
from gbdnn.progress import shown
from gbdnn.summary import Summary, summarised
from gbdnn.types import Array, FilePath
from gbdnn.weights import Weight

__all__ = ["Network", "check_network", "load", "network_of"]


class Network(Source):
    """Y_{k+1} = h_k(W_k Y_k + b_k) for k = 0 ... L-1 (Kepner et al. 2017, section II).

    Parameters
    ----------
    layers : iterable of layers and names of activations
        Starts with a layer that has weights; each takes what the one before gives. For example
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
        Number of layers with weights; largest number of features anywhere.
    one_row : bool
        Of a sequence there is one result, not one for each time step.
    time_factor : int
        So many time steps have one result: of T time steps there are ceil(T / time_factor).

    Raises
    ------
    ShapeError
        If two layers do not chain.
    DtypeError
        If the layers' dtypes differ, or an element is not a layer.
    """

    def __init__(
        self, layers: Iterable[Layer | str], *, metadata: Mapping[str, Any] | None = None
    ) -> None:
        self.layers = chained(layers)
        groups = list(grouped(self.layers))
        self._groups = [layers for _, layers in groups]
        firsts = [layers[0] for layers in self._groups]
        self.in_features, self.out_features = features(firsts[0])[0], features(firsts[-1])[1]
        self.dtype = next(layer.dtype for layer in self.layers if layer.dtype is not None)
        self.edges = sum(layer.edges for layer in self.layers)
        self.nbytes = sum(layer.nbytes for layer in self.layers)
        self.depth = len(groups)
        self.widest = max(self.in_features, *(features(layer)[1] for layer in firsts))
        self.one_row = any(layer.one_row for layer in self.layers)
        self.time_factor = math.prod(layer.time_factor for layer in self.layers)
        self.metadata = dict(metadata or {})
        self._steps: dict[str, list[Step]] = {}
        self._behind: tuple[Any, Network | None] | None = None
        self._compiled: dict[str, Compiled | None] = {}
        self._lock = lock_of(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.layers, self.metadata)  # what backends prepared is made again

    def __repr__(self) -> str:
        return f"Network({', '.join(map(repr, self.layers))})"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, key: int | slice) -> Any:
        """Return a layer, or for a slice the network of some layers, without metadata."""
        return Network(self.layers[key]) if isinstance(key, slice) else self.layers[key]

    @property
    def parameters(self) -> dict[str, Weight | Array]:
        """All that is learned, by names: "layers.2.weight" is the weight of ``layers[2]``."""
        return {
            f"{prefix}.{name}": value
            for prefix, layer in self.named_layers.items()
            for name, value in layer.parameters.items()
        }

    @property
    def named_layers(self) -> dict[str, Layer]:
        """The layers by the prefixes of these names: "layers.2" is ``layers[2]``."""
        return {f"layers.{k}": layer for k, layer in enumerate(self.layers)}

    @property
    def weights(self) -> dict[str, Weight]:
        """Those of `parameters` that are weights."""
        return {name: p for name, p in self.parameters.items() if isinstance(p, Weight)}

    def replaced(self, parameters: Mapping[str, Any]) -> Network:
        """Return the network with some parameters exchanged; other layers are shared.

        Parameters
        ----------
        parameters : dict
            By the names of `parameters`; weights may have other patterns and forms.

        Raises
        ------
        UnknownNameError
            For a name that the network has not.
        """
        known = self.parameters
        new: dict[int, dict[str, Any]] = {}
        for name, value in parameters.items():
            _, number, own = choose("parameters", name, known).split(".", 2)
            new.setdefault(int(number), {})[own] = value
        layers = [
            layer.replaced(**new[k]) if k in new else layer for k, layer in enumerate(self.layers)
        ]
        return Network(layers, metadata=self.metadata)

    def astype(self, dtype: npt.DTypeLike) -> Network:
        """Return the network in another float dtype."""
        return Network([layer.astype(dtype) for layer in self.layers], metadata=self.metadata)

    def release(self, backend: str | None = None) -> None:
        """Forget the forms that backends have made of the weights; the next call makes them again.

        Each backend's form is made at its first call and kept as long as the network lives, so that
        a network that has been computed on several backends holds several copies of its weights.

        Parameters
        ----------
        backend : str, optional
            Only this backend's; default all.
        """
        with self._lock:
            self._behind = None
            for name in list(self._steps) if backend is None else [backend]:
                self._steps.pop(name, None)
                self._compiled.pop(name, None)

    def save(
        self, path: FilePath, *, extra: Mapping[str, Any] | None = None, compress: bool = False
    ) -> None:
        """Write the network to a safetensors file that `gbdnn.load` reads.

        Parameters
        ----------
        path : path-like
            A file that is there is replaced in one step, or stays as it is if anything fails.
        extra : dict, optional
            Goes into the file beside `metadata`, above which it stands: text as keys, values that
            JSON can say. The names of the format itself are taken.
        compress : bool
            Whether codes of INT4 and INT8 weights are stored as Huffman codes; smaller files.

        Raises
        ------
        DataUnavailableError
            The file cannot be written: no space, no permission, no folder.
        InputError, DtypeError
            `extra` or `metadata` cannot be written.
        """
        save_layers(path, self.layers, self.metadata | dict(extra or {}), compress=compress)

    def predict(
        self,
        X: Any,
        *,
        lengths: Any = None,
        backend: str = "fused",
        batch_size: int | None = None,
        threads: int | None = None,
        progress: bool | Callable[[int], None] = False,
        check_finite: bool = True,
        skip: bool = True,
    ) -> Any:
        """Return the last layer's output for each sample.

        Parameters
        ----------
        X : array_like or scipy sparse, shape (n_samples, in_features), or sequences
            Any real dtype and memory order; never modified, a sparse batch is never copied or made
            dense. Sequences are a list of ndarrays of shape (time_i, in_features), or padded,
            (n_samples, time, in_features).
        lengths : array_like of int, shape (n_samples,), optional
            Time steps of each padded sequence; default all. What is behind them does not count.
        backend : str
            "fused", "graphblas", "graphblas-reference", "dense" or "auto", which picks one for each
            layer by a fixed rule (`gbdnn.backends.auto`).
        batch_size : int, optional
            Samples that go through the layers together (the tile); default what is fastest.
        threads : int, optional
            Default all cores.
        progress : bool or callable
            True shows a bar on standard error, without a terminal lines; a callable gets the number
            of (sample, step) pairs just done, from any thread.
        check_finite : bool
            Refuse NaN and infinity in X. Without the check they spread as the backend's arithmetic
            has it; a sparse weight does not multiply its absent entries.
        skip : bool
            Do not compute columns that no later layer changes; exact (`gbdnn.execution.skipping`).

        Returns
        -------
        ndarray of `self.dtype`, shape (n_samples, out_features), C-contiguous
            For sequences a list of arrays of shape (time_i, out_features), for padded ones the
            padded array, zeros behind ends, with ceil(time_i / time_factor) for time_i; if a layer
            makes one row of each, as for samples.

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
        the first call and kept until `release`.
        """
        chosen = get_backend(backend)
        inputs: Any = as_inputs(X, self.in_features, self.dtype, finite=check_finite, later=True,
                                lengths=lengths, one_row=self.one_row,
                                time_factor=self.time_factor)  # fmt: skip
        out = executor.result_array(inputs.rows, self.out_features, self.dtype)
        threads = check_threads(threads)
        width = None if batch_size is None else checks.count("batch_size", batch_size)
        sink = ArraySink(out)
        source: Source | None = self
        if chosen.computes_sparse_first and suits(self._groups, inputs):
            source, inputs = self._behind_first(inputs)
        with shown("predict", inputs.count * self.depth, progress) as advance:
            if source is not self and advance:
                advance(inputs.count)
            if source is None:
                inputs.write_to(sink)
            else:
                executor.run(source, inputs, sink, backend=chosen, threads=threads, width=width,
                             skip=skip, progress=advance)  # fmt: skip
        return inputs.split(out) if isinstance(inputs, SequenceInputs) else out

    __call__ = predict

    def step(
        self, x: Any, state: streaming.State | None = None, *, backend: str = "fused",
        threads: int | None = None,
    ) -> tuple[Array, streaming.State]:  # fmt: skip
        """Return (y, state) for the next time step x, shape (n_samples, in_features), of sequences.

        `state` is what the step before returned, None before the first one; it is not changed. y
        has the shape (n_samples, out_features), or (0, out_features) while time steps are collected
        that become one. On one thread all y together, with that of `finish`, are what `predict`
        gives for the whole sequences, bit for bit.

        Raises
        ------
        InputError, ShapeError, DtypeError
            Also for a layer that needs whole sequences, and a state of another network or batch.
        """
        inputs = as_inputs(x, self.in_features, self.dtype, name="x")
        return streaming.step(self, inputs, state, get_backend(backend), check_threads(threads))

    def finish(
        self, state: streaming.State | None, *, backend: str = "fused", threads: int | None = None
    ) -> Array:
        """Return y of time steps that `step` still holds back at the end; its shape is as there."""
        return streaming.finish(self, state, get_backend(backend), check_threads(threads))

    def warm_up(self, backend: str = "fused") -> None:
        """Do beforehand what only the first `predict` does, and what threads and forks then share.

        The backend's form of the weights is made, and compiled code is loaded from the disk cache,
        or compiled if it is not there: some ten seconds, once on a machine. See docs/deployment.md.
        """
        chosen = get_backend(backend)
        self.compiled(chosen)
        self.predict(np.zeros((1, self.in_features), self.dtype), backend=backend)
        chosen.warm_up(self.dtype)

    def _behind_first(self, inputs: Any) -> tuple[Network | None, FirstOfSparse]:
        """Return the network behind its first layer, None if that is all, and its inputs."""
        first = self._groups[0]
        with self._lock:
            if self._behind is None:
                rest = self.layers[len(first) :]
                self._behind = FirstOfSparse.transpose(first[0]), Network(rest) if rest else None
            transposed, network = self._behind
        return network, FirstOfSparse(inputs, first, transposed)

    def summary(self, backend: str | None = None) -> Summary:
        """Return a table of the layers: shape, non-zeros, density, bytes, edges.

        A last line says when `gbdnn.compact` would make the network smaller. O(nnz).

        Parameters
        ----------
        backend : str, optional
            Adds a column with the backend that computes each layer; with "auto" that is what its
            rule says. Nothing is computed.
        """
        engine = None if backend is None else get_backend(backend).engine
        return replace(summarised(self.layers, engine), note=compacted(self.layers)[1].note)

    # -- what the executor asks of a source of layers ----------------------------------------------

    def steps(self, backend: Backend, start: int = 0) -> Iterator[Step]:
        """Yield the steps in the backend's form, made once and kept."""
        with self._lock:
            if backend.name not in self._steps:
                self._steps[backend.name] = apart(
                    lambda: [prepared_step(backend, layers) for layers in self._groups]
                )
            return iter(self._steps[backend.name][start:])

    def compiled(self, backend: Backend) -> Compiled | None:
        """Return the network as one compiled call, made once and kept; None if there is none."""
        if backend.name not in self._compiled:
            self._compiled[backend.name] = compiled(backend, list(self.steps(backend)))
        return self._compiled[backend.name]


def load(path: FilePath) -> Network:
    """Return a network that `Network.save` wrote, equal bit by bit; `path` may have any name.

    What the file holds besides is in `Network.metadata`.

    Raises
    ------
    DataUnavailableError, FileFormatError, MemoryBudgetError
        See `gbdnn.files.tensors.read_tensors`; digests, sizes, patterns and values are checked.
    """
    return network_of(path, *read_tensors(path))


def network_of(path: FilePath, tensors: dict[str, Array], metadata: dict[str, Any]) -> Network:
    """Return a network from what its file holds; see `load`."""
    layers, metadata = from_tensors(path, tensors, metadata)
    try:
        return Network(layers, metadata=metadata)
    except (InputError, DtypeError) as error:
        what = f"{path}, {error.argument}"
        raise FileFormatError(what, error.expected, error.got, "The file is damaged.") from None


def check_network(name: str, value: Any) -> None:
    """Raise `DtypeError` for what is no network, with the way to one."""
    if isinstance(value, Network):
        return
    fix = ""
    kind = type(value).__name__
    if isinstance(getattr(value, "network_", None), Network):
        fix = f"Pass the network inside the {kind}: its attribute network_."
    elif isinstance(value, str | os.PathLike):
        fix = "Read a model file with gbdnn.load first."
    raise DtypeError(name, "a gbdnn.Network", kind, fix)


def _rebuilt(layers: Any, metadata: Mapping[str, Any]) -> Network:
    """Return the network of a pickle."""
    return Network(layers, metadata=metadata)
