"""Steps: layers in a backend's form, as they are computed together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from gbdnn.backends.base import UNBOUNDED, Affine, Backend, Program
from gbdnn.execution.run import Run
from gbdnn.layers.base import Layer, Tape
from gbdnn.types import Array
from gbdnn.weights import Weight

__all__ = ["Compiled", "Step", "compiled", "grouped", "prepared_step", "stays", "step_of"]


@dataclass(frozen=True, eq=False)
class Step:
    """A layer with products and the elementwise ones behind it, with their parameters.

    Attributes
    ----------
    layers : tuple of Layer
    parameters : tuple of namespace
        For each layer what `Layer.forward` gets as `p`.
    keeps : frozenset of float
        Constants c of which the step maps c*1 to c*1.
    nbytes : int
        Bytes of the backend's form.
    """

    layers: tuple[Layer, ...]
    parameters: tuple[Any, ...]
    in_features: int
    out_features: int
    edges: int
    nbytes: int = 0
    keeps: frozenset[float] = frozenset()

    @cached_property
    def time_factor(self) -> int:
        """So many time steps become one in it."""
        return math.prod(layer.time_factor for layer in self.layers)

    @cached_property
    def _computed(self) -> tuple[tuple[Layer, Any], ...]:
        """The layers that prediction computes, with their parameters."""
        pairs = zip(self.layers, self.parameters, strict=True)
        return tuple((layer, p) for layer, p in pairs if not p.applied)

    def forward(self, run: Run, Y: Array, tapes: Sequence[Tape] | None = None) -> Array:
        """Return the value of the last layer; see `Layer.forward`."""
        if tapes is None:
            for layer, p in self._computed:
                Y = layer.forward(run, p, Y)
            return Y
        for layer, p, tape in zip(self.layers, self.parameters, tapes, strict=True):
            Y = layer.forward(run, p, Y, tape)
        return Y

    def backward(self, run: Run, dY: Array, tapes: Sequence[list[Array]]) -> Array:
        """Return the gradient of the input; see `Layer.backward`."""
        for layer, p, tape in reversed(list(zip(self.layers, self.parameters, tapes, strict=True))):
            dY = layer.backward(run, p, dY, tape)
        return dY


def grouped(layers: Iterable[Layer]) -> Iterator[tuple[int, tuple[Layer, ...]]]:
    """Yield each layer with products and what follows it, with the number of its layer."""
    layers = tuple(layers)
    starts = [k for k, layer in enumerate(layers) if layer.in_features is not None]
    for start, stop in pairwise([*starts, len(layers)]):
        yield start, layers[start:stop]


def step_of(
    layers: tuple[Layer, ...], parameters: Sequence[Mapping[str, Any]], nbytes: int = 0
) -> Step:
    """Return layers as a step; the bounds of a clamp go into the product before it, where it can.

    Parameters
    ----------
    layers : tuple of Layer
    parameters : sequence of dict
        For each layer the attributes of its `p`.
    nbytes : int
    """
    first, after = layers[0], layers[1:]
    clamp = after[0].clamp if first.fuses_clamp and after and not after[0].only_trains else None
    spaces = []
    for k, given in enumerate(parameters):
        own: dict[str, Any] = {
            "clamp": clamp if k == 0 else None,
            "applied": k == 1 and clamp is not None,
            "roundings": {},
            "returns_rounded": False,
        }
        spaces.append(SimpleNamespace(**{**own, **given}))
    into, out = first.in_features, first.out_features
    assert into is not None
    assert out is not None
    return Step(layers, tuple(spaces), into, out, sum(layer.edges for layer in layers), nbytes)


def prepared_step(backend: Backend, layers: tuple[Layer, ...]) -> Step:
    """Bring layers into the backend's form for prediction. O(nnz)."""
    layers = tuple(layer for layer in layers if not layer.only_trains)
    parameters = [
        {
            name: backend.prepare(value) if isinstance(value, Weight) else value
            for name, value in layer.parameters.items()
        }
        for layer in layers
    ]
    nbytes = sum(form.nbytes for given in parameters for form in given.values())
    step = step_of(layers, parameters, nbytes)
    keeps = layers[0].keeps(layers[1:])
    return Step(layers, step.parameters, step.in_features, step.out_features, step.edges, nbytes,
                keeps)  # fmt: skip


@dataclass(eq=False)
class Compiled:
    """Steps as one compiled call.

    Attributes
    ----------
    program : Program
    tail : tuple of Layer
        Activations of the last step that are no bounds: applied after the call.
    stays : tuple of frozenset of float
        For each step at which constants a column behind it is final, if these are all steps.
    in_features, out_features : int
    settles : bool
        So many columns were final in the last batch that what is left of tiles is to be merged.
    """

    program: Program
    tail: tuple[Any, ...]
    stays: tuple[frozenset[float], ...]
    in_features: int
    out_features: int
    settles: bool = False


def compiled(backend: Backend, steps: Sequence[Step]) -> Compiled | None:
    """Return steps as one compiled call; None where the backend or a layer has none."""
    affines: list[Affine] = []
    tail: tuple[Layer, ...] = ()
    for step in steps:
        if tail:
            return None
        p, after = step.parameters[0], step.layers[1:]
        parts = None if p.roundings else step.layers[0].affines(p)
        if parts is None:
            return None
        bounds = UNBOUNDED if p.clamp is None else p.clamp
        tail = after if p.clamp is None else after[1:]
        affines += [Affine(*part) for part in parts[:-1]]
        affines.append(Affine(*parts[-1], bounds))
    program = backend.program(affines)
    if program is None or not all(layer.is_activation for layer in tail):
        return None
    into, out = steps[0].in_features, steps[-1].out_features
    return Compiled(program, tail, tuple(stays(steps, last=True)), into, out)


def stays(steps: Sequence[Step], *, last: bool) -> list[frozenset[float]]:
    """Return for each step at which constants a column behind it is final: kept to the end.

    Behind the `last` step there is nothing left to skip; behind others, what some step keeps.
    """
    kept = frozenset[float]().union(*(step.keeps for step in steps))
    found = [frozenset[float]() if last else kept]
    for step in reversed(steps[1:]):
        kept &= step.keeps
        found.append(kept)
    return found[::-1]
