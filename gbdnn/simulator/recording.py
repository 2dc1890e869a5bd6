"""Work recorded from real runs: of a network, and of a decoder's models.

`record` takes a batch through a network's layers and notes every product and every elementwise
operation as it is computed, so that a layer that is new is counted as well. `Recorder` counts how
often a search calls a transducer's predictor and joint and the language models, and for how many
hypotheses at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.backends import get_backend
from gbdnn.decoding import Decoder, InternalLM, NGram
from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.execution.run import Memory, Run
from gbdnn.execution.streaming import check_parts
from gbdnn.layers import Layer
from gbdnn.models import Transducer
from gbdnn.network import Network, check_network
from gbdnn.simulator.work import Elementwise, Operation, Product, Workload
from gbdnn.types import Array
from gbdnn.weights import Weight

__all__ = ["GRU_CELL", "LSTM_CELL", "Recorder", "record", "record_decoding"]

LSTM_CELL = (8, 5)
"""Simple operations and functions of a cell: the 4 sums W x + U h; f c + i g, o tanh(c)."""
GRU_CELL = (9, 3)
"""The 2 sums of r and z, and b + U h, its product with r, W x + that; (1 - z) n + z h."""


class _Recording(Run):
    """A run that notes what it computes."""

    def __init__(self, *given: Any, names: Mapping[int, tuple[str, Weight]], **more: Any) -> None:
        super().__init__(*given, **more)
        self.names, self.found = names, list[Operation]()
        self.part, self.prefix = "", ""

    def product(self, w: Any, width: int, calls: int = 1, *, lookup: bool = False) -> None:
        name, weight = self.names[id(w)]
        rows, columns = weight.shape
        self.found.append(
            Product(f"{self.part}.{name}", self.part, rows, columns, weight.nnz, width, calls,
                    lookup)
        )  # fmt: skip

    def elementwise(self, simple: int, functions: int, calls: int = 1) -> None:
        if simple or functions:
            name = f"{self.part}.{self.prefix}"
            self.found.append(Elementwise(name, self.part, simple, functions, calls))

    def affine(self, w: Any, Y: Array, *given: Any, **more: Any) -> Array:
        self.product(w, Y.shape[0] * Y.shape[2])
        return super().affine(w, Y, *given, **more)

    def over_time(self, w: Any, Y: Array, bias: Array | None = None) -> Array:
        self.product(w, Y.shape[0] * Y.shape[2])
        return super().over_time(w, Y, bias)

    def columns(self, w: Any, numbers: Array) -> Array:
        before = len(self.found)
        out = super().columns(w, numbers)
        del self.found[before:]  # by products with unit columns, which no machine would compute
        self.product(w, numbers.size, lookup=True)
        return out

    def lstm(self, p: Any, Z: Array, H: Array, C: Array, V: Array, M: Array) -> None:
        super().lstm(p, Z, H, C, V, M)
        time, cells, width = M.shape
        self.product(p.recurrent, width, time)
        simple, functions = (each * cells * width for each in LSTM_CELL)
        self.elementwise(simple, functions, time)
        if getattr(p, "projection", None) is not None:
            self.product(p.projection, width, time)

    def gru(self, p: Any, Z: Array, B: Array, H: Array, V: Array) -> None:
        super().gru(p, Z, B, H, V)
        time, cells, width = V.shape
        self.product(p.recurrent, width, time)
        simple, functions = (each * cells * width for each in GRU_CELL)
        self.elementwise(simple, functions, time)

    def layer(self, layer: Layer, Y: Array) -> None:
        """Note a layer that has no products."""
        if layer.clamp is not None:
            self.elementwise(Y.size * (layer.clamp != (-np.inf, np.inf)), 0)
        elif layer.is_activation:
            self.elementwise(0, Y.size)
        elif not layer.weight_names:
            self.elementwise(Y.size, 0)


def record(
    network: Network,
    X: Any = None,
    *,
    steps: int = 1,
    batch: int = 1,
    part: str = "network",
    streaming: bool = False,
    seconds: float = 0.0,
) -> Workload:
    """Run a network, and return what it computed.

    Parameters
    ----------
    network : Network
        Any layers. Values are computed by BLAS; only the counts are kept.
    X : array_like, shape (n_samples, in_features) or (n_samples, time, in_features), optional
        What the network is run on; default zeros for `batch` sequences of `steps` time steps.
    steps, batch : int
    part : str
        Begins the weights' names.
    streaming : bool
        Time steps come one by one: every product is called once a step, behind a `TimeReduction`
        once for each of its groups. Otherwise the products with inputs, which do not wait for each
        other, are one call for all of them.
    seconds : float
        Of audio in X.

    Raises
    ------
    ShapeError, InputError, DtypeError
        If X does not fit, or a layer that needs whole sequences is to be streamed.
    """
    check_network("network", network)
    if X is None:
        shape = (checks.count("batch", batch), checks.count("steps", steps), network.in_features)
        given = np.zeros(shape, network.dtype)
    else:
        given = np.asarray(X, network.dtype)
        given = given[:, None] if given.ndim == 2 else given
        if given.ndim != 3 or not given.size or given.shape[2] != network.in_features:
            expected = f"shape (n_samples, time, {network.in_features}), none of them 0"
            raise ShapeError("X", expected, f"shape {np.shape(X)}")
    steps = left = given.shape[1]
    if streaming:
        check_parts(network.layers, "network")
        given = given[:, :1]
    backend = get_backend("dense")
    prepared = list(network.steps(backend))
    names: dict[int, tuple[str, Weight]] = {}
    layers = [layer for layer in network.layers if not layer.only_trains]
    order: list[tuple[str, Layer, Any]] = []
    for one in prepared:
        for layer, p in zip(one.layers, one.parameters, strict=True):
            prefix = f"layers.{next(k for k, x in enumerate(network.layers) if x is layer)}"
            order.append((prefix, layer, p))
            for name in layer.weight_names:
                names[id(getattr(p, name))] = (f"{prefix}.{name}", getattr(layer, name))
    assert len(order) == len(layers)
    run = _Recording(backend, Memory(network.dtype), names=names)
    run.part = part
    with backend.pinned(1):
        Y = run.empty(given.shape[1], network.in_features, len(given))
        Y[...] = given.transpose(1, 2, 0)
        for k, (prefix, layer, p) in enumerate(order):
            run.at(k % 2)
            run.prefix, before = prefix, len(run.found)
            run.layer(layer, Y)
            if not p.applied:
                Y = layer.forward(run, p, Y)
            if streaming:
                own = Workload(tuple(run.found[before:]))
                run.found[before:] = own.repeated({1: left}).operations
                left = -(-left // layer.time_factor)
    biases = (p for layer in layers for p in layer.parameters.values())
    others = sum(int(p.size) for p in biases if not isinstance(p, Weight))
    what = f"{part}: {len(given)} x {steps} time steps" + ", streaming" * streaming
    return Workload(tuple(run.found), seconds, others, what)


class _Counted:
    """A transducer whose calls are counted."""

    def __init__(self, model: Any, counts: dict[str, Counter[int]]) -> None:
        self.model, self.counts = model, counts

    def predict(self, states: list[Any], labels: list[int]) -> tuple[Array, list[Any]]:
        self.counts["predict"][len(labels)] += 1
        found: tuple[Array, list[Any]] = self.model.predict(states, labels)
        return found

    def joint(self, frames: Array, vectors: Array) -> Array:
        self.counts["joint"][len(frames)] += 1
        found: Array = self.model.joint(frames, vectors)
        return found


class Recorder:
    """Counts what searches call.

    Attributes
    ----------
    counts : dict of str to Counter
        Of "predict", "joint", "external" and "source": calls by their number of hypotheses.

    Examples
    --------
    >>> recorder = Recorder()
    >>> recorder.decoder(decoder).decode(frames)        # doctest: +SKIP
    >>> recorder.workload({"predict": predictor, "joint": joint})  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self.counts: dict[str, Counter[int]] = {
            name: Counter() for name in ("predict", "joint", "external", "source")
        }
        self._internal = False

    def decoder(self, decoder: Decoder) -> Decoder:
        """Return a decoder of the same results whose calls are counted."""
        fusion = decoder.fusion
        self._internal |= isinstance(fusion.source, InternalLM)
        counted: dict[str, Any] = {
            name: None if model is None else self._counting(name, model)
            for name, model in (("external", fusion.external), ("source", fusion.source))
        }
        model = _Counted(decoder.model, self.counts)
        return replace(decoder, model=model, fusion=replace(fusion, **counted))

    def _counting(self, name: str, model: Any) -> Callable[..., Any]:
        def counted(states: list[Any], labels: list[int]) -> Any:
            self.counts[name][len(labels)] += 1
            return model(states, labels)

        return counted

    def workload(self, parts: Mapping[str, Workload | Network], seconds: float = 0.0) -> Workload:
        """Return the work of what was counted.

        Parameters
        ----------
        parts : dict of str to Workload or Network
            What "predict", "joint", "external" and "source" do for one hypothesis. Of a source that
            is an `InternalLM` it is both of the transducer's by default. A model without products,
            such as an `NGram`: ``Workload(())``.
        seconds : float
            Of the audio that was decoded.

        Raises
        ------
        InputError
            If one that was called is not among `parts`.
        """
        given = {
            name: record(part, part=name) if isinstance(part, Network) else part
            for name, part in parts.items()
        }
        if self._internal and {"predict", "joint"} <= given.keys():
            given.setdefault("source", given["predict"] + given["joint"])
        called = {name: counts for name, counts in self.counts.items() if counts}
        if missing := [name for name in called if name not in given]:
            expected = f"the work of {', '.join(called)}, which were called"
            raise InputError("parts", expected, f"none of {', '.join(missing)}")
        total = Workload((), seconds, 0, "decoding")
        for name, counts in called.items():
            total += given[name].repeated(counts, part=name)
        shared = 0 if "source" in parts or not self._internal else given["source"].others
        return replace(total, others=total.others - shared * ("source" in called))


def record_decoding(
    decoder: Decoder,
    X: Any,
    *,
    external: Workload | Network | None = None,
    source: Workload | Network | None = None,
    streaming: bool = False,
    seconds: float = 0.0,
) -> Workload:
    """Decode an utterance with a transducer, and return what was computed.

    Parameters
    ----------
    decoder : Decoder
        Of a `gbdnn.models.Transducer`; search, beam and fusion are its own.
    X : array_like, shape (time, in_features)
        Frames. How often predictor and language models are called depends on what they say.
    external, source : Workload or Network, optional
        What the fusion's models compute for a hypothesis; needed where they are not n-grams or an
        `InternalLM`.
    streaming : bool
        The encoder gets its frames one by one.
    seconds : float
        Of audio in X.

    Returns
    -------
    Workload
        Parts "encoder", "predict", "joint", "external" and "source". The joint also has the sum of
        both sides and the bias, tanh, and the logarithm of the softmax.
    """
    model = decoder.model
    if not isinstance(model, Transducer):
        raise DtypeError("decoder.model", "a gbdnn.models.Transducer", type(model).__name__)
    given = np.asarray(X, model.dtype)
    if given.ndim != 2 or given.shape[1] != model.in_features or not len(given):
        raise ShapeError("X", f"shape (time, {model.in_features})", f"shape {given.shape}")
    recorder = Recorder()
    recorder.decoder(decoder).decode(model.encode([given])[0])
    size, labels = model.size, model.vocabulary
    around = (
        Elementwise("joint.meet", "joint", 2 * size, size),
        Elementwise("joint.softmax", "joint", 2 * labels, labels),
    )
    parts: dict[str, Workload | Network] = {
        "predict": record(model.predictor, part="predictor"),
        "joint": record(model.output, part="joint") + Workload(around, others=size),
    }
    for name, own in (("external", external), ("source", source)):
        if own is not None:
            parts[name] = own
        elif isinstance(getattr(decoder.fusion, name), NGram):
            parts[name] = Workload(())
    heard = record(model.encoder, given[None], part="encoder", streaming=streaming)
    work = heard + recorder.workload(parts, seconds)
    beam = "all" if decoder.beam is None else decoder.beam
    return replace(work, description=f"{len(given)} frames, {decoder.search}, beam {beam}")
