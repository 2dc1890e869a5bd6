"""A chain of layers in training: its parameters, forwards and backwards through its steps.

A `Model` is a chain with a loss; a transducer has three (`gbdnn.training.transducer`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gbdnn.backends import get_backend
from gbdnn.backends.base import Backend
from gbdnn.execution.run import Memory, Run
from gbdnn.execution.source import Source
from gbdnn.execution.steps import Step, grouped, step_of
from gbdnn.layers import Layer
from gbdnn.machine import check_threads
from gbdnn.network import Network
from gbdnn.quantization.calibration import Calibration, floats, frozen
from gbdnn.quantization.rounding import Pass, Rounding
from gbdnn.quantization.rules import shared
from gbdnn.training.parameters import Parameter, array_parameter, weight_parameter
from gbdnn.types import Array
from gbdnn.weights import Levels, Weight

__all__ = ["Chain", "Tapes"]

Tapes = list[list[list[Array]]]


class Chain(Source):
    """A network's parameters while they change, their gradients, and memory of a mini-batch.

    Parameters
    ----------
    network : Network
        Where training starts; it is not changed.
    backend : str
    threads : int, optional
        Default all cores.
    quantization : Calibration, optional
        Which weights and activations are rounded, and where clips begin; by names with `prefix`.
    without : int
        So many of the last layers are left out.
    prefix : str
        Before the names of all parameters, where a training has several chains.
    passes_back : bool
        Somebody wants the gradient of the chain's input.

    Attributes
    ----------
    parameters : dict of str to Parameter
        In the order of the layers.
    """

    def __init__(
        self,
        network: Network,
        *,
        backend: str = "fused",
        threads: int | None = None,
        quantization: Calibration | None = None,
        without: int = 0,
        prefix: str = "",
        passes_back: bool = False,
    ) -> None:
        if quantization is not None:
            network = floats(network)
        self.backend = get_backend(backend)
        self.threads = check_threads(threads)
        self.prefix, self.passes_back = prefix, passes_back
        self.dtype, self.origin = network.dtype, network
        self.in_features, self.out_features = network.in_features, network.out_features
        self.depth, self.edges, self.widest = network.depth, network.edges, network.widest
        inner = network.layers[: len(network.layers) - without]
        self.over_time = any(layer.over_time for layer in inner)
        self.one_row, self.time_factor = network.one_row, network.time_factor
        self.parameters: dict[str, Parameter] = {}
        self._quantization = quantization or Calibration({})
        self.rounds = Pass()
        self._roundings: dict[str, Rounding] = {}
        returned = shared(self.named_layers, self._quantization.rules).values()
        self._returned = set(returned)  # activations that are rounded for the next layer too
        self._bound: dict[str, tuple[Any, str]] = {}  # of each parameter: the layer's p, its name
        self._steps = [self._step(k, layers) for k, layers in grouped(inner)]
        self.memory = Memory(self.dtype)

    def _step(self, start: int, layers: tuple[Layer, ...]) -> Step:
        bound = []
        for k, layer in enumerate(layers, start):
            at = f"{self.prefix}layers.{k}"
            names = {own: f"{at}.{own}" for own in layer.parameters}
            made = {
                own: self._parameter(names[own], value, layer.row_blocks)
                for own, value in layer.trained_parameters().items()
            }
            inner = {own: f"{at}.{own}" for own in layer.activation_names}
            roundings: dict[str, Any] = dict(_levels(layer))
            roundings |= {own: self._rounding(name) for own, name in inner.items()
                          if name in self._quantization.rules}  # fmt: skip
            bound.append(
                {
                    "roundings": roundings,
                    "returns_rounded": bool(self._returned.intersection(inner.values())),
                    "names": names,
                    "grad": {own: parameter.grad for own, parameter in made.items()},
                    "passes_back": k > 0 or self.passes_back,
                    **{own: p.value if p.form is None else p.form for own, p in made.items()},
                }
            )
        step = step_of(layers, bound)
        for p in step.parameters:
            self._bound |= {name: (p, own) for own, name in p.names.items()}
        return step

    def _parameter(self, name: str, value: Weight | Array, row_blocks: int) -> Parameter:
        if isinstance(value, Weight):
            quantizer = self._quantization.weight_quantizer(name, row_blocks)
            made = weight_parameter(name, value, self.backend, quantizer)
        else:
            made = array_parameter(name, value)
        self.parameters[name] = made
        for learned in made.learned.values():
            self._add_learned(learned)
        return made

    def _add_learned(self, parameter: Parameter, *, trained: bool = True) -> None:
        """Take up what a quantizer learns, or with `trained` false what it keeps of batches."""
        parameter.rate = self._quantization.learned_rate if trained else 0.0
        parameter.own_decay = self._quantization.learned_decay
        self.parameters[parameter.name] = parameter

    def _rounding(self, name: str) -> Rounding:
        """Return what rounds an activation; what it learns becomes parameters."""
        quantizer = self._quantization.rules[name].quantizer
        begins = self._quantization.learned.get(name, {})
        made = {own: array_parameter(f"{name}.{own}", value) for own, value in begins.items()}
        rounding = Rounding(
            quantizer, {own: p.value for own, p in made.items()},
            {own: p.grad for own, p in made.items()}, self.rounds,
        )  # fmt: skip
        for parameter in made.values():
            self._add_learned(parameter, trained=not quantizer.tracks)
        self._roundings[name] = rounding
        return rounding

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
        """Return the network as it is now (copies); weights with a quantizer in whole numbers."""
        now = {name: self.parameters[name].current() for name in self._bound}
        rounded = {
            name: (p.weight, p.learned_values)
            for name, p in self.parameters.items()
            if p.quantizer is not None and p.quantizer.quantizer.has_levels
        }
        learned = {name: rounding.learned for name, rounding in self._roundings.items()}
        now |= frozen(self.named_layers, self._quantization, rounded, learned)
        new = {name.removeprefix(self.prefix): value for name, value in now.items()}
        return self.origin.replaced(new)

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
        own = self.origin.named_layers
        return {self.prefix + name: layer for name, layer in own.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters; not of the memory of a mini-batch."""
        return sum(parameter.nbytes for parameter in self.parameters.values())

    # -- one mini-batch ----------------------------------------------------------------------------

    def forward(
        self, run: Run, Y: Array, valid: Array | None = None, place: Any = "forward"
    ) -> tuple[Array, Tapes]:
        """Return the chain's value of tiles, and what `backward` needs.

        Parameters
        ----------
        run : Run
        Y : ndarray, shape (tiles, in_features, width)
        valid : ndarray of bool, shape (tiles, width), optional
            Which columns are samples and not padding.
        place : hashable
            Where results lie until the next pass to the same place.
        """
        tapes: Tapes = []
        for k, step in enumerate(self._steps):
            self.rounds.valid = valid
            run.at((place, k))
            tapes.append([[] for _ in step.layers])
            Y = step.forward(run, Y, tapes[-1])
            valid = None if valid is None else valid[:: step.time_factor]
        return Y, tapes

    def backward(self, run: Run, dY: Array, tapes: Tapes) -> Array:
        """Write the gradients of all parameters for dY; return that of the input."""
        for rounding in self._roundings.values():
            rounding.clear()
        for k in reversed(range(len(self._steps))):
            run.at(("backward", k % 2))
            dY = self._steps[k].backward(run, dY, tapes[k])
        return dY

    def finish_gradients(self) -> None:
        """Turn the gradients by what the kernels read into those of the values behind them."""
        for parameter in self.parameters.values():
            parameter.finish_gradient()

    # -- the same network in prediction ------------------------------------------------------------

    def steps(self, backend: Backend, start: int = 0) -> Iterator[Step]:
        """Yield the steps; the executor predicts with the forms that are trained."""
        return iter(self._steps[start:])


def _levels(layer: Layer) -> Iterator[tuple[str, Levels]]:
    """Yield how weights of whole numbers have their inputs rounded, by names of activations."""
    for own in layer.weight_names:
        levels, name = getattr(layer, own).levels, layer.activation_of(own)
        if levels is not None and name is not None:
            yield name, levels
