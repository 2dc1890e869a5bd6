"""Two layers over time that read the same tensor, one forwards and one backwards, side by side.

Each way is read by itself, from the tensor where they part to the Concat where they meet. Two parts
of what one layer of two directions gives are read so too: its final states are such parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from gbdnn.conversion.chain import Affine
from gbdnn.conversion.onnx.files import unsupported
from gbdnn.conversion.onnx.graph import OVER_TIME, Step
from gbdnn.conversion.onnx.reading import Reading
from gbdnn.layers import BGRU, BLSTM, GRU, FinalStates, LastStep, Layer

__all__ = ["joined"]


def joined(reading: Reading, node: Any, attributes: dict[str, Any]) -> None:
    """Append a BLSTM or a BGRU and what stands behind it on both ways, or join two parts."""
    found = reading.graph.sides(node)
    if found is None:
        raise unsupported(node, "two layers of one tensor", "others")
    layers = any(step[0].op_type in OVER_TIME for step in found[1][0])
    if layers and reading.chain.waiting is not None:
        reading.chain.taken_levels(False)  # a scaling comes behind the rounding
    ways = [_way(reading, node, steps) for steps in found[1]]
    if layers:
        parts = [_parts(node, way) for way in ways]
        sizes = [own[0].out_features for own in parts]
        _append_layer(reading, node, ways, parts)
        _append_head(reading, node, ways, sizes[0])
        products = [own[1] if len(own) > 1 else None for own in parts]
        if any(products):
            _down(reading, products, sizes)
    else:
        _append_head(reading, node, ways, _first_features(reading, node, ways))
    _name_axes(reading, node, ways, attributes.get("axis", 0))


def _way(reading: Reading, node: Any, steps: Sequence[Step]) -> Reading:
    """Return what is read on one way."""
    way = reading.branch()
    reading.read(way, steps)
    if way.directions is None or way.reversed or way.coded:
        raise unsupported(node, "the time steps of both layers in their order", "others")
    way.chain.settle()
    return way


def _append_layer(reading: Reading, node: Any, ways: list[Reading], parts: list[Any]) -> None:
    """Append a BLSTM or a BGRU."""
    directions = [way.directions for way in ways]
    if directions != [["forward"], ["reverse"]]:
        got = " and ".join(", ".join(each or ["none"]) for each in directions)
        raise unsupported(node, "a layer forward, then one in reverse", got[:80])
    reading.chain.levels = None  # both ways have taken them
    pair: Any = BGRU if isinstance(parts[0][0], GRU) else BLSTM
    layer = pair(parts[0][0], parts[1][0])
    reading.takes(node, layer.in_features)
    reading.chain.weighted(layer)


def _append_head(reading: Reading, node: Any, ways: list[Reading], features: int) -> None:
    """Append what makes one row of each sequence; `features` are those of the first way."""
    first, second = (way.head for way in ways)
    head = first
    if (first, second) == (LastStep(), FinalStates(0)):
        head = FinalStates(features)
    elif first != second:
        expected = "on both ways all time steps, the same one, or the last step of the first way "
        got = " and ".join(TAKEN.get(head, "the mean") for head in (first, second))
        raise unsupported(node, f"{expected}and the first step of the second", got)
    if head is not None:
        reading.row(head)


TAKEN: dict[Layer | None, str] = {
    None: "all", LastStep(): "the last step", FinalStates(0): "the first step",
}  # fmt: skip


def _first_features(reading: Reading, node: Any, ways: list[Reading]) -> int:
    """Return how many features the first way has, of the two that make up all of them."""
    total = reading.sizes["features"] * (reading.sizes["directions"] if reading.split else 1)
    first, second = (way.part for way in ways)
    if first is None or second is None or (first[0], first[1], second[1]) != (0, second[0], total):
        got = " and ".join("all" if p is None else f"{p[0]} to {p[1]}" for p in (first, second))
        raise unsupported(node, f"the first of {total} features, then the others", got)
    return first[1]


def _parts(node: Any, way: Reading) -> list[Any]:
    """Return a layer, and the product behind it if there is one."""
    parts = way.chain.parts
    layer = parts[0] if parts else None
    alone = getattr(layer, "over_time", False) and getattr(layer, "kind", "") in ("lstm", "gru")
    if not alone or len(parts) > 2 or not all(isinstance(p, Affine) for p in parts[1:]):
        got = ", ".join(getattr(part, "kind", "linear") for part in parts) or "none"
        raise unsupported(node, "on each way one lstm or gru, then at most a product", got[:80])
    return parts


def _down(reading: Reading, products: list[Affine | None], sizes: list[int]) -> None:
    """Append the products of both sides as one, with two blocks."""
    blocks = [sp.eye_array(n, dtype=np.float32) if p is None else sp.csr_array(p.weight)
              for p, n in zip(products, sizes, strict=True)]  # fmt: skip
    shifts = [np.zeros(n) if p is None else p.bias for p, n in zip(products, sizes, strict=True)]
    reading.chain.product(sp.block_diag(blocks, format="csr"), np.concatenate(shifts))


def _name_axes(reading: Reading, node: Any, ways: list[Reading], place: int) -> None:
    """Join the features of both ways, or their directions where the layers are of one size."""
    first, second = ways
    axes, features = first.axes, "features"
    axis = first.place(node, place)
    if not axes or axes != second.axes or axes[-1] != features or "steps" in axes:
        got = f"{', '.join(axes or ['unknown'])} and {', '.join(second.axes or ['unknown'])}"
        raise unsupported(node, "the same axes on both ways, the features last", got[:80])
    alike = first.sizes[features] == second.sizes[features]
    if axes[axis] not in (features, "directions") or (axes[axis] == "directions" and not alike):
        raise unsupported(node, "the axis of the features", f"axis {place}")
    reading.axes, reading.time, reading.folded = axes, first.time, first.folded
    reading.sizes = first.sizes | {axes[axis]: first.sizes[axes[axis]] + second.sizes[axes[axis]]}
