"""Scaling of samples, and how it becomes part of a network that takes samples as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from gbdnn.errors import InputError, choose
from gbdnn.layers import Layer
from gbdnn.network import Network
from gbdnn.types import Array
from gbdnn.weights import Integers, Weight, integer_weight

__all__ = ["SCALES", "Scaling", "fold", "scaling"]


@dataclass(frozen=True, eq=False)
class Scaling:
    """x' = (x - shift) * factor, for each feature."""

    shift: Array
    factor: Array

    def inverse(self) -> Scaling:
        """Return the scaling that undoes this one."""
        return Scaling(-self.shift * self.factor, 1 / self.factor)

    def apply(self, X: Any) -> Any:
        """Return the samples scaled, float32; sparse ones stay sparse (their shift is 0)."""
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

    With :math:`x' = (x - m) s`, W x' + b is :math:`W S x + (b - W S m)` with S = diag(s); in the
    last linear layer the values' own factors are divided out and their shift is added.

    Pixels up to 255 would make the first weights 255 times smaller than all others, and pruning by
    magnitude would take just these. Where all layers between are homogeneous,
    :math:`h(2z) = 2 h(z)` as for relu, the common factor of all scaling (geometric means) is
    therefore shared: each of the L weights is multiplied by the same c, its L-th root, and the
    biases by what makes up for it.

    Patterns stay. Rounding aside the function is the same.

    Parameters
    ----------
    network : Network
        Linear layers and layers without parameters, as `gbdnn.models.mlp` makes them. Where the
        first weight is of whole numbers, all inputs must have the same factor and no shift.
    """
    network, integers = _as_floats(network, inputs)
    linears = [k for k, layer in enumerate(network.layers) if layer.parameters]
    if any(network.layers[k].kind != "linear" for k in linears):
        kinds = ", ".join(network.layers[k].kind for k in linears)
        raise InputError("network", "linear layers and layers without parameters", kinds)
    into = np.asarray(inputs.factor)
    behind = np.ones(network.out_features) if outputs is None else 1 / outputs.factor
    ends, share = (1.0, 1.0), 1.0
    between = network.layers[: linears[-1]]
    if not integers and all(layer.parameters or _is_homogeneous(layer) for layer in between):
        ends = (_mean(into), _mean(behind))
        share = (ends[0] * ends[1]) ** (1 / len(linears))
    changed: dict[str, Any] = {}
    for number, k in enumerate(linears):
        parameters = network.layers[k].parameters
        weight: Any = parameters["weight"]
        bias: Any = parameters["bias"]
        bias = np.broadcast_to(bias, weight.shape[0]).astype(np.float64)
        rows, columns = np.ones(weight.shape[0]), np.ones(weight.shape[1])
        if number == 0:
            columns = into / ends[0]
            bias = bias - _product(weight, into * inputs.shift)
        if number == len(linears) - 1:
            rows = behind / ends[1]
            bias = bias * behind + (0.0 if outputs is None else outputs.shift)
        else:
            bias = bias * (share ** (number + 1) / ends[0])  # as Z has changed here
        name = f"layers.{k}.weight"
        changed[name] = _scaled(weight, rows * share, columns)
        if name in integers:
            changed[name] = _whole(integers[name], changed[name], rows, columns)
        changed[f"layers.{k}.bias"] = bias.astype(network.dtype)
    return network.replaced(changed)


def _as_floats(network: Network, inputs: Scaling) -> tuple[Network, dict[str, Integers]]:
    """Return the network in floats, and its weights of whole numbers by name."""
    integers = {name: w for name, w in network.weights.items() if isinstance(w, Integers)}
    if next(iter(network.weights)) in integers:
        factors = np.unique(np.asarray(inputs.factor))
        if len(factors) > 1 or np.any(inputs.shift):
            expected = "one factor for all inputs and no shift, where they are rounded"
            raise InputError("scale", expected, "others", "Scale by max, or not at all.")
    return network.replaced({n: w.plain() for n, w in integers.items()}), integers


def _whole(before: Integers, scaled: Weight, rows: Array, columns: Array) -> Integers:
    """Return a scaled weight with the codes of before: its scales and levels have changed."""
    scales = before.scales if len(before.scales) == 1 and (rows == rows[0]).all() else (
        before.row_scales)  # fmt: skip
    factors = rows[: len(scales)] if scales.ndim == 1 else rows[:, None]
    levels = before.levels and replace(before.levels, step=before.levels.step / columns[0])
    scales = scales * factors * columns[0]
    if scales.ndim == 2 and scales.shape[1] == 1:
        scales = scales[:, 0]
    return integer_weight(scaled, scales, bits=before.bits, levels=levels, layout=before.layout)


def _is_homogeneous(layer: Layer) -> bool:
    """Whether h(2z) = 2 h(z): doubling is exact, so an equal sign will do."""
    z = np.logspace(-30, 30, 121)
    Z = np.concatenate([-z, z])[:, None]
    once, twice = Z.copy(), 2 * Z
    with np.errstate(all="ignore"):
        layer.apply(once)  # type: ignore[attr-defined]  # layers without parameters have it
        layer.apply(twice)  # type: ignore[attr-defined]
    return bool(np.array_equal(2 * once, twice))


def _mean(factors: Any) -> float:
    return float(np.exp(np.mean(np.log(factors))))


def _scaled(weight: Weight, rows: Array, columns: Array) -> Weight:
    """Return diag(rows) W diag(columns)."""
    pattern = weight.pattern()
    factors = np.repeat(rows, np.diff(pattern.indptr)) * columns[pattern.indices]
    return weight.with_entries((weight.entries * factors).astype(weight.dtype))


def _product(weight: Weight, vector: Array) -> Array:
    """Return W x in float64."""
    pattern = weight.pattern()
    row = np.repeat(np.arange(weight.shape[0]), np.diff(pattern.indptr))
    terms = weight.entries * vector[pattern.indices]
    return np.bincount(row, terms, minlength=weight.shape[0])
