"""Multi-layer perceptrons with random connections: the network that a training begins with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn import checks
from gbdnn.errors import InputError, MemoryBudgetError, choose
from gbdnn.layers import Dropout, Layer, Linear, activation_names
from gbdnn.layers import activation as named
from gbdnn.machine import available_bytes
from gbdnn.network import Network
from gbdnn.topology import erdos_renyi, erk_densities
from gbdnn.weights import CSR

__all__ = ["TOPOLOGIES", "hidden_activations", "mlp"]

Shapes = Sequence[tuple[int, int]]
RECTIFIERS = ("gelu", "leaky_relu", "relu")  # halve the variance, which "he" makes up for
ONLY_LAST = ("softmax",)  # over the features of a sample: behind the last layer only
FEW, FAN_IN = 32, 8  # a layer of up to 32 inputs has at least 8 weights for each neuron
TRAINING_BYTES = 32  # for each weight while training: both orientations, gradient, Adam's moments


def _uniform(shapes: Shapes, density: float) -> list[float]:
    """All hidden layers alike; the output layer, which is small, is dense."""
    return [density] * (len(shapes) - 1) + [1.0]


def _erk(shapes: Shapes, density: float) -> list[float]:
    """Small layers denser than large ones, `density` over all of them."""
    return erk_densities(shapes, density=density)


TOPOLOGIES: dict[str, Callable[[Shapes, float], list[float]]] = {"erk": _erk, "uniform": _uniform}
"""From the shapes (out_features, in_features) and one density to that of each layer."""


def hidden_activations() -> list[str]:
    """Return the names in `gbdnn.layers.LAYERS` of what may stand behind a hidden layer."""
    return [name for name in activation_names() if name not in ONLY_LAST]


def mlp(
    sizes: Sequence[int],
    *,
    density: float | Sequence[float] = 1.0,
    topology: str = "erk",
    activation: str = "relu",
    head: str = "identity",
    dropout: float = 0.0,
    dtype: npt.DTypeLike = np.float32,
    rng: np.random.Generator | int = 0,
) -> Network:
    r"""Return a multi-layer perceptron with random connections and fresh values.

    Weights are drawn by He's rule before rectifiers (relu, leaky_relu, gelu), by Glorot's before
    other activations and in the output layer, for the connections that are there
    (`gbdnn.topology.initialise`). Biases of hidden neurons are uniform within
    :math:`\pm 1 / \sqrt{n}`, n the neuron's own connections, which spreads the kinks over the
    input space; those of the outputs are 0.

    Parameters
    ----------
    sizes : sequence of int
        Neurons: inputs, hidden layers, outputs.
    density : float or sequence of float
        Above 0, at most 1. One number is distributed by `topology`, but no layer gets fewer than
        one weight for each neuron on its two sides, in a layer of up to 32 inputs 8 for each of its
        neurons, or all. A sequence: exactly the density of each layer. A layer that has all weights
        is stored dense.
    topology : str
        A name of `TOPOLOGIES`: "erk", small layers denser than large ones and `density` over all
        of them (`gbdnn.topology.erk_densities`); "uniform", each hidden layer has `density` and the
        output layer is dense.
    activation : str
        Behind hidden layers; a name of `hidden_activations`.
    head : str
        Behind the output layer; the name of any activation, "identity": nothing.
    dropout : float
        Rate behind each hidden layer, 0: no dropout.
    dtype : float32 or float64
    rng : Generator or int

    Raises
    ------
    InputError, UnknownNameError
        If an argument does not fit.
    MemoryBudgetError
        If the network could not be trained in the memory that is free.

    Examples
    --------
    >>> from gbdnn.models import mlp
    >>> mlp((784, 1000, 10), density=0.1, head="softmax").edges
    79400
    """
    neurons = [checks.count("sizes", size) for size in sizes]
    if len(neurons) < 2:
        raise InputError("sizes", "inputs, hidden layers and outputs", repr(sizes))
    choose("activation", activation, hidden_activations())
    shapes = [(rows, columns) for columns, rows in pairwise(neurons)]
    densities = _densities(shapes, density, topology)
    _check_room(shapes, densities)
    rng = np.random.default_rng(rng)
    layers: list[Layer] = []
    for shape, part in zip(shapes[:-1], densities[:-1], strict=True):
        values = "he" if activation in RECTIFIERS else "glorot"
        weight = erdos_renyi(*shape, density=part, rng=rng, values=values, dtype=dtype)
        bound = 1 / np.sqrt(np.maximum(np.diff(weight.indptr), 1))
        layers.append(Linear(_stored(weight), rng.uniform(-bound, bound), dtype=dtype))
        layers += [named(activation)] + ([Dropout(dropout)] if dropout else [])
    weight = erdos_renyi(*shapes[-1], density=densities[-1], rng=rng, values="glorot", dtype=dtype)
    layers.append(Linear(_stored(weight), np.zeros(shapes[-1][0]), dtype=dtype))
    return Network([*layers, *([] if head == "identity" else [named(head)])])


def _stored(weight: CSR) -> Any:
    full = weight.nnz == weight.shape[0] * weight.shape[1]
    return weight.full_values.reshape(weight.shape) if full else weight


def _densities(shapes: Shapes, density: Any, topology: str) -> list[float]:
    """Return the density of each layer."""
    rule = TOPOLOGIES[choose("topology", topology, TOPOLOGIES)]
    density = density.tolist() if isinstance(density, np.ndarray) else density
    if isinstance(density, Sequence) and not isinstance(density, str):
        if len(density) != len(shapes):
            expected = f"one number, or {len(shapes)}, one for each layer with the output layer"
            raise InputError("density", expected, f"{len(density)} numbers")
        return [checks.within("density", each, "(0, 1]") for each in density]
    wanted = rule(shapes, checks.within("density", density, "(0, 1]"))
    return [max(part, _least(*shape)) for part, shape in zip(wanted, shapes, strict=True)]


def _least(out: int, into: int) -> float:
    """Return the least density of a layer.

    With fewer weights than neurons most neurons would have no connection at all; those that see
    one or two of a few inputs learn nearly nothing.
    """
    weights = max(out + into, FAN_IN * out if into <= FEW else 0)
    return min(weights / (out * into), 1.0)


def _check_room(shapes: Shapes, densities: Sequence[float]) -> None:
    """Refuse a network that cannot be trained in the memory there is, before it is built."""
    weights = sum(out * into * d for (out, into), d in zip(shapes, densities, strict=True))
    neurons = sum(out + into for out, into in shapes)
    nbytes, free = int(TRAINING_BYTES * (weights + neurons)), available_bytes()
    if nbytes > free:
        raise MemoryBudgetError(
            "sizes", f"a network that trains in the {free:,} bytes that are free",
            f"{weights:,.0f} weights, {nbytes:,} bytes", "Take smaller layers or a lower density.",
        )  # fmt: skip
