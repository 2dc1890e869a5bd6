"""A list of layers that follow each other, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.layers import Layer, activation

__all__ = ["chained", "features"]


def chained(layers: Any) -> tuple[Layer, ...]:
    """Return layers, some of them given as names of activations, once each fits the one before.

    Raises
    ------
    ShapeError, DtypeError, InputError
    """
    if isinstance(layers, str | Layer) or not isinstance(layers, Iterable):
        raise DtypeError("layers", "a list of layers", type(layers).__name__)
    made = tuple(_as_layer(layer, k) for k, layer in enumerate(layers))
    _check(made)
    return made


def features(layer: Layer) -> tuple[int, int]:
    """Return in_features and out_features of a layer that has them."""
    into, out = layer.in_features, layer.out_features
    if into is None or out is None:
        raise DtypeError(layer.kind, "in_features and out_features", f"{into} and {out}")
    return into, out


def _as_layer(layer: Any, number: int) -> Layer:
    if isinstance(layer, str):
        return activation(layer)
    if isinstance(layer, Layer):
        return layer
    raise DtypeError(
        f"layers[{number}]", "a layer or the name of an activation", type(layer).__name__,
        "Wrap weights as gbdnn.Linear(weight, bias).",
    )  # fmt: skip


def _check(layers: tuple[Layer, ...]) -> None:
    if not layers or layers[0].in_features is None:
        got = type(layers[0]).__name__ if layers else "nothing"
        raise InputError("layers", "a layer with weights as the first one, as a Linear is", got)
    dtype = next((layer.dtype for layer in layers if layer.dtype is not None), None)
    if dtype is None:
        raise InputError("layers", "a layer with weights", ", ".join(x.kind for x in layers))
    before = features(layers[0])[1]
    for k, layer in enumerate(layers[1:], 1):
        if layer.over_time and any(other.one_row for other in layers[:k]):
            expected = "nothing over time behind the layer that makes one row of each sequence"
            raise InputError(f"layers[{k}]", expected, layer.kind)
        if layer.in_features is None:
            if before < layer.least_features:
                expected = f"{layer.least_features} features or more before it"
                raise ShapeError(f"layers[{k}]", expected, f"{before}")
            continue
        if layer.in_features != before:
            raise ShapeError(
                f"layers[{k}]",
                f"{before} in_features, the out_features of the one before",
                f"{layer.in_features}",
                "Weights have the shape (out_features, in_features); a transposed one does this.",
            )
        if layer.dtype is not None and layer.dtype != dtype:
            raise DtypeError(
                f"layers[{k}]", f"{dtype} as before", f"{layer.dtype}",
                "Give all layers the same dtype=.",
            )  # fmt: skip
        before = features(layer)[1]
