"""What converters add to, part by part: affine maps are folded, the rest becomes layers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from gbdnn.errors import InputError, ShapeError
from gbdnn.layers import Layer, Linear, ReLU
from gbdnn.types import Array
from gbdnn.weights import Levels, as_weight, integer_weight

__all__ = ["Chain", "sparse_if_pruned"]


@dataclass(frozen=True)
class Affine:
    """Z = W Y + b; W was whole numbers of `bits` times `scales`, `levels` are Y's."""

    weight: Any  # ndarray or scipy.sparse.csr_array
    bias: Array
    scales: Array | None = None
    bits: int = 8
    levels: Levels | None = None


class Chain:
    """Layers in the making. Factors and shifts of features go into the nearest weight.

    Those behind a product go into its rows, others wait for the next product and go into its
    columns; where an activation comes first they become a diagonal weight.
    """

    def __init__(self) -> None:
        self.parts: list[Affine | Layer] = []
        self.waiting: tuple[Array, Array] | None = None
        self.levels: Levels | None = None
        self.wide = False

    @property
    def features(self) -> int | None:
        """Values that come out so far; None before the first weight, where any may."""
        for part in reversed(self.parts):
            known = len(part.bias) if isinstance(part, Affine) else part.out_features
            if known is not None:
                return known
        return None

    def product(
        self, weight: Any, bias: Any = 0.0, scales: Array | None = None, bits: int = 8
    ) -> None:
        """Append W Y + b; with `scales` W is whole numbers of so many bits, times these."""
        if weight.ndim != 2 or 0 in weight.shape:
            raise ShapeError("weight", "two dimensions, none of them 0", f"shape {weight.shape}")
        if self.features not in (None, weight.shape[1]):
            expected = f"{self.features} columns, as the layer before gives"
            raise ShapeError("weight", expected, f"{weight.shape[1]}")
        self.wide |= weight.dtype == np.float64
        full = _vector("bias", bias, weight.shape[0])
        if self.waiting is not None:
            factor, shift = (_vector("scaling", v, weight.shape[1]) for v in self.waiting)
            full = full + weight.astype(np.float64) @ shift
            if (factor != 1).any():
                weight, scales = _times(weight, factor[None, :]), None
            self.waiting = None
        levels = self.taken_levels(scales is not None)
        self.parts.append(Affine(sparse_if_pruned(weight), full, scales, bits, levels))

    def scaled(self, factor: Any, shift: Any) -> None:
        """Append factor * y + shift, each a number or one for each feature."""
        factor, shift = np.asarray(factor, np.float64), np.asarray(shift, np.float64)
        if not (np.isfinite(factor).all() and np.isfinite(shift).all()):
            raise InputError("factors and shifts", "finite numbers", "NaN or infinity")
        last = self.parts[-1] if self.parts else None
        if isinstance(last, Affine) and self.waiting is None and self.levels is None:
            factor, shift = (_vector("scaling", v, len(last.bias)) for v in (factor, shift))
            changed = replace(last, bias=last.bias * factor + shift)
            if (factor != 1).any():
                changed = replace(changed, weight=_times(last.weight, factor[:, None]))
            if last.scales is not None:
                changed = replace(changed, scales=_scaled(last.scales, np.abs(factor)))
            self.parts[-1] = changed
            return
        before = (np.ones(()), np.zeros(())) if self.waiting is None else self.waiting
        try:
            self.waiting = before[0] * factor, before[1] * factor + shift
        except ValueError:
            got = f"shapes {before[0].shape}, {factor.shape}, {shift.shape}"
            raise ShapeError("scaling", "one number for each feature", got) from None

    def rounded(self, levels: Levels) -> None:
        """Append a rounding of the next product's input."""
        self.settle()
        if self.levels != levels:
            self.taken_levels(False)
        self.levels = levels

    def taken_levels(self, used: bool) -> Levels | None:
        """Return how the next layer's input is rounded; warn if there is no `used` for it.

        Levels from 0 up are a rectifier too: that stays.
        """
        levels, self.levels = self.levels, None
        if levels is None or used:
            return levels
        message = "a rounding of activations is left out: no product with an integer weight"
        warnings.warn(f"{message} follows it", UserWarning, stacklevel=5)
        if levels.zero == levels.low and self.parts:
            self.parts.append(ReLU(levels.bounds()[1]))
        return None

    def weighted(self, layer: Layer) -> None:
        """Append a layer with weights of its own."""
        if self.features not in (None, layer.in_features):
            expected = f"{self.features} features, as the layer before gives"
            raise ShapeError("weight", expected, f"{layer.in_features}")
        self.settle(layer.in_features)
        self.wide |= layer.dtype == np.float64
        self.parts.append(layer)

    def layer(self, layer: Layer) -> None:
        """Append a layer without weights."""
        self.settle()
        self.taken_levels(False)
        if not self.parts:
            if layer.only_trains:
                return
            expected = "a product with a weight as the first operation"
            raise InputError("layers", expected, layer.kind)
        self.parts.append(layer)

    def settle(self, features: int | None = None) -> None:
        """Make a diagonal weight of factors and shifts that wait for a product."""
        if self.waiting is None:
            return
        sizes = [self.features or features or 1, *(v.shape[0] for v in self.waiting if v.ndim)]
        if (self.features or features) is None and max(sizes) == 1:
            got = "a scaling of any number of features"
            raise InputError("layers", "a product with a weight as the first operation", got)
        factor, shift = (_vector("scaling", v, max(sizes)) for v in self.waiting)
        self.waiting = None
        self.product(sp.diags_array(factor, dtype=np.float32 if not self.wide else None).tocsr(),
                     shift)  # fmt: skip

    def finished(self, dtype: Any = None) -> list[Layer]:
        """Return the layers, float64 if a weight was, else float32."""
        self.settle()
        self.taken_levels(False)
        dtype = (np.float64 if self.wide else np.float32) if dtype is None else dtype
        if self.features is None:
            raise InputError("layers", "at least one with a weight", "none")
        return [
            _made(part, dtype) if isinstance(part, Affine) else part.astype(dtype)
            for part in self.parts
        ]


def _made(part: Affine, dtype: Any) -> Linear:
    if part.scales is None:
        return Linear(part.weight, part.bias, dtype=dtype)
    weight = as_weight(part.weight, dtype=dtype)
    return Linear(integer_weight(weight, part.scales, bits=part.bits, levels=part.levels),
                  part.bias, dtype=dtype)  # fmt: skip


def _scaled(scales: Array, factor: Array) -> Array:
    """Return the scales of a weight whose rows are multiplied by factors from 0 up."""
    rows: Array = factor[:, None]
    if scales.ndim == 1:
        one = (factor == factor[0]).all()
        rows = factor[:1] if one else factor
        scales = scales if one else np.repeat(scales, len(factor) // len(scales))
    made: Array = scales * rows
    return made


def _times(weight: Any, factor: Array) -> Any:
    """Return a weight times factors for rows or columns, each product rounded once."""
    if sp.issparse(weight):
        side = sp.diags_array(factor.ravel())
        return (
            (side @ weight if factor.shape[1] == 1 else weight @ side).tocsr().astype(weight.dtype)
        )
    return (weight * factor).astype(weight.dtype)


def _vector(name: str, value: Any, length: int) -> Array:
    array = np.asarray(value, np.float64)
    array = array.reshape(-1) if array.size == max(array.shape, default=1) else array
    if array.ndim > 1 or array.size not in (1, length):
        raise ShapeError(name, f"one number, or {length}", f"shape {np.shape(value)}")
    return np.broadcast_to(array, (length,)).copy()


def sparse_if_pruned(weight: Any) -> Any:
    """Return a matrix, half or more of which are zeros, as scipy's CSR without them."""
    if sp.issparse(weight):
        made = sp.csr_array(weight)
        made.eliminate_zeros()
        return made
    return sp.csr_array(weight) if 2 * np.count_nonzero(weight) <= weight.size else weight
