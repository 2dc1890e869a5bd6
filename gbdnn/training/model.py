"""A network in training: forward, loss and backward, layer by layer.

For layers k = 0 ... L-1, a mini-batch Y_0 and a loss L of the last layer's output

    forward     Z_k = W_k Y_k + b_k           Y_{k+1} = h_k(Z_k)
    backward    dZ_k = h_k'(Z_k) dY_{k+1}     dY_k = W_k^T dZ_k
    gradients   dW_k = (dZ_k Y_k^T) at W_k's pattern          db_k = row sums of dZ_k

with dA short for the derivative of L by A (Rumelhart, Hinton and Williams 1986). The equations are
in the layers (`gbdnn.layers.linear`); here they are put in order. All products cost O(nnz x batch)
and there is no array of out_features x in_features anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol

import numpy as np

from gbdnn.backends import get_backend
from gbdnn.backends.base import Backend
from gbdnn.data.batches import Batch
from gbdnn.data.inputs import Inputs
from gbdnn.errors import InputError
from gbdnn.execution import executor
from gbdnn.execution.run import Memory, Observer, Run
from gbdnn.execution.source import ArraySink, Source
from gbdnn.execution.steps import Step, grouped, step_of
from gbdnn.execution.tiles import LANES, padded
from gbdnn.layers import Layer, Loss
from gbdnn.machine import check_threads
from gbdnn.network import Network
from gbdnn.quantization import Quantizer
from gbdnn.training.parameters import Parameter, array_parameter, weight_parameter
from gbdnn.types import Array
from gbdnn.weights import Weight

__all__ = ["Model", "Trains"]


class Trains(Protocol):
    """What the training loop asks of a model: one network, or several with a loss of their own."""

    threads: int
    backend: Backend
    parameters: dict[str, Parameter]

    @property
    def named_layers(self) -> Mapping[str, Layer]:
        """The layers by the prefixes of the parameters' names, in order; pruning asks for them."""

    def loss_and_gradients(
        self,
        batch: Any,
        *,
        rng: np.random.Generator | None = None,
        observe: Observer | None = None,
    ) -> float:
        """Return the loss of a mini-batch; gradients are in the parameters afterwards."""

    def repattern(self, name: str, weight: Any, optimizer: Any) -> None:
        """Give a weight another pattern."""

    def changed(self) -> None:
        """Bring what the kernels read up to date after parameters were changed in place."""

    def measure(self, batch: Any) -> dict[str, float]:
        """Return "validation_loss" and "validation_score" of samples that are not trained on."""

    def network(self) -> Any:
        """Return what is trained, as it is now (copies)."""


class Model(Source):
    """A network's parameters while they change, their gradients, and memory of a mini-batch.

    Parameters
    ----------
    network : Network
        Where training starts; it is not changed.
    loss : Loss
        One of `gbdnn.layers.LOSSES`. If it contains the network's last activation (the
        cross-entropy its softmax), that activation is left to the loss.
    backend : str
    threads : int, optional
        Default all cores.
    quantizers : dict of str to Quantizer
        For weights whose names match the pattern (`fnmatch`); the first that matches counts.

    Attributes
    ----------
    parameters : dict of str to Parameter
        In the order of the layers.
    head : Layer or None
        The activation that was left to the loss.
    """

    def __init__(
        self,
        network: Network,
        *,
        loss: Loss,
        backend: str = "fused",
        threads: int | None = None,
        quantizers: Mapping[str, Quantizer] | None = None,
    ) -> None:
        self.backend = get_backend(backend)
        self.threads = check_threads(threads)
        self.loss, self.dtype, self.origin = loss, network.dtype, network
        self.in_features, self.out_features = network.in_features, network.out_features
        self.depth, self.edges, self.widest = network.depth, network.edges, network.widest
        last = network.layers[-1]
        self.head: Layer | None = last if last.kind == loss.absorbs else None
        inner = network.layers[:-1] if self.head is not None else network.layers
        self.over_time = any(layer.over_time for layer in inner)
        self.parameters: dict[str, Parameter] = {}
        self._quantizers = dict(quantizers or {})
        self._bound: dict[str, tuple[Any, str]] = {}  # of each parameter: the layer's p, its name
        self._steps = [self._step(k, layers) for k, layers in grouped(inner)]
        self._check_quantizers(network)
        self._memory = Memory(self.dtype)

    def _step(self, start: int, layers: tuple[Layer, ...]) -> Step:
        bound = []
        for k, layer in enumerate(layers, start):
            names = {own: f"layers.{k}.{own}" for own in layer.parameters}
            made = {
                own: self._parameter(names[own], value)
                for own, value in layer.trained_parameters().items()
            }
            bound.append(
                {
                    "names": names,
                    "grad": {own: parameter.grad for own, parameter in made.items()},
                    "passes_back": k > 0,
                    **{own: p.value if p.form is None else p.form for own, p in made.items()},
                }
            )
        step = step_of(layers, bound)
        for p in step.parameters:
            self._bound |= {name: (p, own) for own, name in p.names.items()}
        return step

    def _parameter(self, name: str, value: Weight | Array) -> Parameter:
        if isinstance(value, Weight):
            result = [q for pattern, q in self._quantizers.items() if fnmatchcase(name, pattern)]
            made = weight_parameter(name, value, self.backend, result[0] if result else None)
        else:
            made = array_parameter(name, value)
        self.parameters[name] = made
        self.parameters |= {p.name: p for p in made.learned.values()}
        return made

    def _check_quantizers(self, network: Network) -> None:
        for pattern in self._quantizers:
            if not any(fnmatchcase(name, pattern) for name in network.weights):
                known = ", ".join(network.weights)
                raise InputError("quantizers", f"patterns of some of {known}", repr(pattern))

    # -- the state ---------------------------------------------------------------------------------

    def changed(self) -> None:
        """Bring the backend's forms up to date after parameters were changed in place."""
        for parameter in self.parameters.values():
            parameter.refresh(self.threads)

    def repattern(self, name: str, weight: Any, optimizer: Any) -> None:
        """Give a weight another pattern, with all that belongs to it."""
        parameter = self.parameters[name]
        parameter.repattern(weight.astype(self.dtype), self.backend, optimizer)
        self.bind(parameter)

    def bind(self, parameter: Parameter) -> None:
        """Let the layer compute with a parameter whose arrays have been exchanged."""
        if parameter.name not in self._bound:  # learned by a quantizer
            return
        p, own = self._bound[parameter.name]
        setattr(p, own, parameter.value if parameter.form is None else parameter.form)
        p.grad[own] = parameter.grad

    def network(self) -> Network:
        """Return the network as it is now (copies)."""
        names = self._bound
        return self.origin.replaced({name: self.parameters[name].current() for name in names})

    def fingerprint(self, version: int = 2) -> list[str]:
        """Return text that tells networks apart: layers, settings and digests of the parameters.

        Version 1 is what checkpoints of format 1 have.
        """
        digests = {name: parameter.digests() for name, parameter in self.parameters.items()}
        if version > 1:
            kinds = [f"{layer.kind} {dict(layer.settings)}" for layer in self.origin.layers]
            return [*kinds, *(f"{name} {digest}" for name, digest in digests.items())]
        result = []
        for step in self._steps:
            p = step.parameters[0]
            own = [digest for name in p.names.values() for digest in digests[name]]
            result.append(f"{(step.out_features, step.in_features)} {step.layers[1:]} {own}")
        return result

    @property
    def named_layers(self) -> dict[str, Layer]:
        """The layers that training began with, by the prefixes of their parameters' names."""
        return self.origin.named_layers

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters; not of the memory of a mini-batch."""
        return sum(parameter.nbytes for parameter in self.parameters.values())

    # -- one mini-batch ----------------------------------------------------------------------------

    def loss_and_gradients(
        self,
        batch: Batch,
        *,
        rng: np.random.Generator | None = None,
        observe: Observer | None = None,
    ) -> float:
        """Return L = sum_i w_i l_i over the mini-batch and compute all gradients.

        Parameters
        ----------
        batch : Batch
            Samples, targets, and weights w that sum to 1.
        rng : Generator, optional
            Needed by networks with dropout.
        observe : callable, optional
            Called as observe(name, dZ, Y) for each weight, last first; both arrays are of the shape
            (tiles, features, width), valid during the call.

        Returns
        -------
        float
            Gradients are in the parameters' `grad` until the next call.
        """
        run = Run(self.backend, self._memory, self.threads, rng=rng, observe=observe)
        with self.backend.pinned(self.threads):
            Y, rows = self._load(run, batch.inputs, batch.ids)
            tapes: list[list[list[Array]]] = []
            for k, step in enumerate(self._steps):
                run.at(("forward", k))
                tapes.append([[] for _ in step.layers])
                Y = step.forward(run, Y, tapes[-1])
            run.at("loss")
            dY, value = run.over(Y), 0.0
            for tile, numbers in zip(dY, rows, strict=True):
                targets, weights = batch.tile(numbers)
                value += self.loss.function(tile, targets, weights.astype(self.dtype, copy=False))
            for k in reversed(range(len(self._steps))):
                run.at(("backward", k % 2))
                dY = self._steps[k].backward(run, dY, tapes[k])
        for parameter in self.parameters.values():
            parameter.finish_gradient()
        return value

    def _load(self, run: Run, inputs: Inputs, ids: Array) -> tuple[Array, Array]:
        """Return samples as tiles, filled up with zeros, and the row of each column, or -1."""
        run.at("inputs")
        if inputs.over_time or self.over_time:
            width = padded(len(ids))
            Y = run.empty(inputs.time_steps(ids), self.in_features, width)
            inputs.load(ids, Y[:, :, : len(ids)])
            Y[:, :, len(ids) :] = 0
            rows = np.full((len(Y), width), -1)
            rows[:, : len(ids)] = inputs.places(ids)
            return Y, rows
        widest = self.backend.width(self.widest, self.dtype, len(ids))
        tiles = max(-(-len(ids) // widest), 1)
        width = min(padded(-(-len(ids) // tiles), LANES), widest)
        Y = run.empty(tiles, self.in_features, width)
        rows = np.full((tiles, width), -1)
        for t, tile in enumerate(Y):
            part = ids[t * width : (t + 1) * width]
            inputs.load(part, tile[None, :, : len(part)])
            tile[:, len(part) :] = 0
            rows[t, : len(part)] = part
        return Y, rows

    # -- the same network in prediction ------------------------------------------------------------

    def steps(self, backend: Backend, start: int = 0) -> Iterator[Step]:
        """Yield the steps; the executor predicts with the forms that are trained."""
        return iter(self._steps[start:])

    def outputs(self, inputs: Inputs) -> Array:
        """Return what the loss takes, for all rows of the inputs: (rows, out_features).

        That is without `head` and without dropout.
        """
        sink = ArraySink(np.empty((inputs.rows, self.out_features), self.dtype))
        executor.run(self, inputs, sink, backend=self.backend, threads=self.threads, skip=False)
        return sink.out

    def measure(self, batch: Batch) -> dict[str, float]:
        """Return the mean loss and the score of the samples of `batch`; dropout is off."""
        out = self.outputs(batch.inputs)
        weights = batch.weights / batch.weights.sum()
        Z = out.T.copy()  # neuron-major, and the loss overwrites it
        with np.errstate(over="ignore", invalid="ignore"):  # of what diverges the numbers tell
            loss = self.loss.function(Z, batch.targets.T, weights.astype(Z.dtype))
            score = self.loss.score(out, batch.targets, weights)
        return {"validation_loss": loss, "validation_score": score}
