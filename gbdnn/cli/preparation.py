"""What `gbdnn train` does before and after a training: a network to begin with, scaled inputs.

The scaling is folded into the trained network, so that a model file takes samples as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.errors import InputError, choose
from gbdnn.layers import Activation, Dropout, Identity, LeakyReLU, Linear, ReLU, activation
from gbdnn.network import Network
from gbdnn.topology import erdos_renyi, erk_densities
from gbdnn.weights.csr import CSR

__all__ = ["SCALES", "TOPOLOGIES", "Scaling", "fold", "fresh_network", "scaling", "split"]

Array = npt.NDArray[Any]
HOMOGENEOUS = (Linear, LeakyReLU, ReLU, Identity, Dropout)
VALUES = {"sigmoid": "glorot", "tanh": "glorot"}  # how weights begin; before others "he"

TOPOLOGIES: dict[str, Callable[[list[tuple[int, int]], float], list[float]]] = {
    "erk": lambda shapes, density: erk_densities(shapes, density=density),
    "uniform": lambda shapes, density: [density] * len(shapes),
}
"""Densities of the layers, from their shapes and the density of all together."""


def fresh_network(
    sizes: Sequence[int],
    *,
    density: float = 0.1,
    topology: str = "erk",
    activation_name: str = "relu",
    last: str = "identity",
    dropout: float = 0.0,
    rng: np.random.Generator | int = 0,
) -> Network:
    """Return a multi-layer perceptron with random connections and fresh weights, biases 0.

    Parameters
    ----------
    sizes : sequence of int
        Neurons: inputs, hidden layers, outputs.
    density : float
        Above 0, at most 1; a layer that gets 1 is dense.
    topology : {"erk", "uniform"}
        Small layers denser than large ones (Erdos-Renyi-Kernel), or all alike.
    activation_name, last : str
        After hidden layers, and after the last ("identity": nothing).
    dropout : float
        Rate after each hidden layer.
    rng : Generator or int
    """
    rng = np.random.default_rng(rng)
    shapes = [(rows, columns) for columns, rows in pairwise(sizes)]
    densities = TOPOLOGIES[choose("topology", topology, TOPOLOGIES)](shapes, density)
    layers: list[Linear | Activation] = []
    for k, (shape, part) in enumerate(zip(shapes, densities, strict=True)):
        hidden = k < len(shapes) - 1
        values = VALUES.get(activation_name, "he") if hidden else "glorot"
        weight = erdos_renyi(*shape, density=part, rng=rng, values=values)
        full = weight.nnz == shape[0] * shape[1]
        layers.append(
            Linear(weight.full_values.reshape(shape) if full else weight, np.zeros(shape[0]))
        )
        if hidden or last != "identity":
            layers.append(activation(activation_name if hidden else last))
        if hidden and dropout:
            layers.append(Dropout(dropout))
    return Network(layers)


def split(count: int, fraction: float, seed: int) -> tuple[Array, Array]:
    """Return the numbers of the samples for training and, drawn at random, for validation."""
    held = round(count * fraction)
    if fraction and not 0 < held < count:
        expected = f"a part of the {count} samples that leaves some on either side"
        raise InputError("validation", expected, repr(fraction))
    order = np.random.default_rng([seed, count]).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


# -- scaling ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scaling:
    """x' = (x - shift) * factor, for each feature."""

    shift: Array
    factor: Array

    def apply(self, X: Any) -> Any:
        """Return the samples scaled, float32; sparse ones stay sparse (their shift is 0)."""
        import scipy.sparse as sp

        factor = self.factor.astype(np.float32)
        if sp.issparse(X):
            return X.multiply(factor[None, :]).tocsr().astype(np.float32)
        scaled = X.astype(np.float32)
        scaled -= self.shift.astype(np.float32)
        scaled *= factor
        return scaled


def _no_scale(X: Any) -> Scaling:
    return Scaling(np.zeros(X.shape[1]), np.ones(X.shape[1]))


def _max_scale(X: Any) -> Scaling:
    """Divide by the largest absolute value of all: pixels keep their proportions."""
    largest = max(abs(float(X.max())), abs(float(X.min())))
    return Scaling(np.zeros(X.shape[1]), np.full(X.shape[1], 1 / largest if largest else 1.0))


def _standard_scale(X: Any) -> Scaling:
    """Mean 0 and variance 1 for each feature; sparse ones are not shifted, largest value 1."""
    import scipy.sparse as sp

    if sp.issparse(X):
        spread, shift = abs(X).max(axis=0).toarray().ravel(), np.zeros(X.shape[1])
    else:
        spread, shift = X.std(axis=0, dtype=np.float64), X.mean(axis=0, dtype=np.float64)
    return Scaling(shift, 1 / np.where(spread > 0, spread, 1.0))


SCALES: dict[str, Callable[[Any], Scaling]] = {
    "max": _max_scale,
    "none": _no_scale,
    "standard": _standard_scale,
}


def scaling(X: Any, kind: str) -> Scaling:
    """Return the scaling of the samples `X` that is called "max", "standard" or "none"."""
    return SCALES[choose("scale", kind, SCALES)](X)


def fold(network: Network, inputs: Scaling, outputs: Scaling | None = None) -> Network:
    r"""Return the network that takes samples before scaling and gives values after it is undone.

    With :math:`x' = (x - m) s`, W x' + b is :math:`W S x + (b - W S m)` with S = diag(s); behind
    the last Linear the values' own factors are divided out and their shift is added.

    Pixels up to 255 would make the first weights 255 times smaller than all others, and pruning by
    magnitude would take just these. Where activations are homogeneous, :math:`h(cz) = c h(z)`, as
    relu is, the common factor of all scaling (geometric means) is therefore shared: each of the L
    weights is multiplied by the same c, its L-th root, and the biases by what makes up for it.

    Patterns stay. Rounding aside the function is the same.
    """
    linears = [k for k, layer in enumerate(network.layers) if isinstance(layer, Linear)]
    depth = len(linears)
    into = np.asarray(inputs.factor)
    behind = 1.0 if outputs is None else 1 / outputs.factor
    ends = (_mean(into), _mean(behind))
    if all(_is_homogeneous(layer) for layer in network.layers[: linears[-1]]):
        share = (ends[0] * ends[1]) ** (1 / depth)
    else:
        ends, share = (1.0, 1.0), 1.0
    layers: list[Any] = list(network.layers)
    for number, k in enumerate(linears):
        weight, bias = layers[k].weight, layers[k].bias.astype(np.float64)
        if number == 0:
            bias = bias - _product(weight, into * inputs.shift)
            weight = _scaled(weight, columns=into / ends[0])
        if number == depth - 1:
            weight = _scaled(weight, rows=np.broadcast_to(behind / ends[1], weight.shape[0]))
            bias = bias * behind + (0.0 if outputs is None else outputs.shift)
        else:
            bias = bias * (share ** (number + 1) / ends[0])  # as Z has changed here
        layers[k] = Linear(_scaled(weight, all_of_them=share), bias, dtype=network.dtype)
    return Network(layers, metadata=network.metadata)


def _is_homogeneous(layer: Any) -> bool:
    return isinstance(layer, HOMOGENEOUS) and getattr(layer, "cap", None) is None


def _mean(factors: Any) -> float:
    return float(np.exp(np.mean(np.log(factors))))


def _scaled(
    weight: CSR | Array, *, rows: Any = None, columns: Any = None, all_of_them: float = 1.0
) -> CSR | Array:
    """Return the weight with rows, columns or all of it multiplied."""
    if not isinstance(weight, CSR):
        factor = all_of_them * (1.0 if rows is None else rows[:, None])
        return weight * (factor if columns is None else factor * columns)
    values = weight.full_values * all_of_them
    if rows is not None:
        values = values * np.repeat(rows, np.diff(weight.indptr))
    if columns is not None:
        values = values * columns[weight.indices]
    return CSR(weight.indptr, weight.indices, values.astype(weight.dtype), weight.shape)


def _product(weight: CSR | Array, vector: Array) -> Array:
    if not isinstance(weight, CSR):
        return np.asarray(weight.astype(np.float64) @ vector)
    return np.asarray(weight.to_scipy().astype(np.float64) @ vector)
