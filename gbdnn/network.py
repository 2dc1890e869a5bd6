"""Networks: a chain of layers, and `predict`, which takes a batch through it on a backend."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends import get_backend
from gbdnn.backends.base import Backend
from gbdnn.data.inputs import SequenceInputs, as_inputs
from gbdnn.errors import (
    DtypeError,
    FileFormatError,
    InputError,
    MemoryBudgetError,
    ShapeError,
    choose,
)
from gbdnn.execution import executor
from gbdnn.execution.source import ArraySink, Source
from gbdnn.execution.steps import Compiled, Step, compiled, grouped, prepared_step
from gbdnn.interchange.models import load_layers, save_layers
from gbdnn.layers import Layer, activation
from gbdnn.machine import available_bytes, check_threads
from gbdnn.progress import bar
from gbdnn.summary import Summary, summarised
from gbdnn.types import Array, FilePath
from gbdnn.weights import Weight

__all__ = ["Network", "load"]


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
        self.layers = tuple(_as_layer(layer, k) for k, layer in enumerate(_listed(layers)))
        _check_chain(self.layers)
        groups = list(grouped(self.layers))
        self._groups = [layers for _, layers in groups]
        firsts = [layers[0] for layers in self._groups]
        self.in_features, self.out_features = _features(firsts[0])[0], _features(firsts[-1])[1]
        self.dtype = next(layer.dtype for layer in self.layers if layer.dtype is not None)
        self.edges = sum(layer.edges for layer in self.layers)
        self.nbytes = sum(layer.nbytes for layer in self.layers)
        self.depth = len(groups)
        self.widest = max(self.in_features, *(_features(layer)[1] for layer in firsts))
        self.metadata = dict(metadata or {})
        self._steps: dict[str, list[Step]] = {}
        self._compiled: dict[str, Compiled | None] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.layers, self.metadata)  # what backends prepared is made again

    def __repr__(self) -> str:
        return f"Network({', '.join(map(repr, self.layers))})"

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
            for name in list(self._steps) if backend is None else [backend]:
                self._steps.pop(name, None)
                self._compiled.pop(name, None)

    def save(self, path: FilePath, *, extra: Mapping[str, Any] | None = None) -> None:
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
        save_layers(path, self.layers, {**self.metadata, **(extra or {})})

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
    ) -> Any:
        """Return the last layer's output for each sample.

        Parameters
        ----------
        X : array_like or scipy sparse, shape (n_samples, in_features), or sequences
            Any real dtype and memory order; never modified, a sparse batch is never copied or made
            dense. Sequences are a list of ndarrays of shape (time_i, in_features).
        backend : str
            "fused", "graphblas", "graphblas-reference", "dense" or "auto", which picks one for each
            layer by a fixed rule (`gbdnn.backends.auto`).
        batch_size : int, optional
            Samples that go through the layers together (the tile); default what is fastest.
        threads : int, optional
            Default all cores.
        progress : bool or callable
            True draws a bar on standard error; a callable gets the number of (sample, step)
            pairs just done, from any thread.
        check_finite : bool
            Refuse NaN and infinity in X. Without the check they spread as the backend's arithmetic
            has it; a sparse weight does not multiply its absent entries.
        skip : bool
            Do not compute columns that no later layer changes; exact (`gbdnn.execution.skipping`).

        Returns
        -------
        ndarray of `self.dtype`, shape (n_samples, out_features), C-contiguous
            For sequences a list of arrays of shape (time_i, out_features).

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
        inputs = as_inputs(X, self.in_features, self.dtype, finite=check_finite, later=True)
        out = _output(inputs.rows, self.out_features, self.dtype)
        options: dict[str, Any] = {
            "backend": chosen,
            "threads": check_threads(threads),
            "width": _check_batch_size(batch_size),
            "skip": skip,
        }
        sink = ArraySink(out)
        if not isinstance(progress, bool) and not callable(progress):
            raise DtypeError("progress", "True, False or a callable", repr(progress))
        if progress is True:
            with bar("predict", inputs.count * self.depth) as advance:
                executor.run(self, inputs, sink, progress=advance, **options)
        else:
            executor.run(self, inputs, sink, progress=progress or None, **options)
        return inputs.split(out) if isinstance(inputs, SequenceInputs) else out

    def summary(self, backend: str | None = None) -> Summary:
        """Return a table of the layers: shape, non-zeros, density, bytes, edges.

        Parameters
        ----------
        backend : str, optional
            Adds a column with the backend that computes each layer; with "auto" that is what its
            rule says. Nothing is computed.
        """
        engines: list[str] | None = None
        if backend is not None:
            chosen = get_backend(backend)
            engines = [
                ", ".join(dict.fromkeys(chosen.engine(getattr(layer, name))
                                        for name in layer.weight_names))
                for layer in self.layers
            ]  # fmt: skip
        return summarised(self.layers, engines)

    # -- what the executor asks of a source of layers ----------------------------------------------

    def steps(self, backend: Backend, start: int = 0) -> Iterator[Step]:
        """Yield the steps in the backend's form, made once and kept."""
        with self._lock:
            if backend.name not in self._steps:
                self._steps[backend.name] = [
                    prepared_step(backend, layers) for layers in self._groups
                ]
            return iter(self._steps[backend.name][start:])

    def compiled(self, backend: Backend) -> Compiled | None:
        """Return the network as one compiled call, made once and kept; None if there is none."""
        name = backend.name
        if name not in self._compiled:
            self._compiled[name] = compiled(backend, list(self.steps(backend)))
        return self._compiled[name]


def load(path: FilePath) -> Network:
    """Return a network that `Network.save` wrote, equal bit by bit; `path` may have any name.

    What the file holds besides is in `Network.metadata`.

    Raises
    ------
    DataUnavailableError, FileFormatError, MemoryBudgetError
        See `gbdnn.files.tensors.read_tensors`; digests, sizes, patterns and values are checked.
    """
    layers, metadata = load_layers(path)
    try:
        return Network(layers, metadata=metadata)
    except (InputError, DtypeError) as error:
        what = f"{path}, {error.argument}"
        raise FileFormatError(what, error.expected, error.got, "The file is damaged.") from None


def _rebuilt(layers: Any, metadata: Mapping[str, Any]) -> Network:
    """Return the network of a pickle."""
    return Network(layers, metadata=metadata)


def _listed(layers: Any) -> list[Any]:
    if isinstance(layers, str | Layer) or not isinstance(layers, Iterable):
        raise DtypeError("layers", "a list of layers", type(layers).__name__)
    return list(layers)


def _as_layer(layer: Any, number: int) -> Layer:
    if isinstance(layer, str):
        return activation(layer)
    if isinstance(layer, Layer):
        return layer
    raise DtypeError(
        f"layers[{number}]", "a layer or the name of an activation", type(layer).__name__,
        "Wrap weights as gbdnn.Linear(weight, bias).",
    )  # fmt: skip


def _features(layer: Layer) -> tuple[int, int]:
    into, out = layer.in_features, layer.out_features
    if into is None or out is None:
        raise DtypeError(layer.kind, "in_features and out_features", f"{into} and {out}")
    return into, out


def _check_chain(layers: tuple[Layer, ...]) -> None:
    if not layers or layers[0].in_features is None:
        got = type(layers[0]).__name__ if layers else "nothing"
        raise InputError("layers", "a layer with weights as the first one, as a Linear is", got)
    first, features = layers[0], _features(layers[0])[1]
    for k, layer in enumerate(layers[1:], 1):
        if layer.in_features is None:
            continue
        if layer.in_features != features:
            raise ShapeError(
                f"layers[{k}]",
                f"{features} in_features, the out_features of the one before",
                f"{layer.in_features}",
                "Weights have the shape (out_features, in_features); a transposed one does this.",
            )
        if layer.dtype is not None and layer.dtype != first.dtype:
            raise DtypeError(
                f"layers[{k}]", f"{first.dtype} as before", f"{layer.dtype}",
                "Give all layers the same dtype=.",
            )  # fmt: skip
        features = _features(layer)[1]


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
