"""Two layers over time that read the same tensor, one forwards and one backwards, side by side.

Each way is read by itself, from the tensor where they part to the Concat where they meet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from gbdnn.conversion.chain import Affine
from gbdnn.conversion.onnx.files import unsupported
from gbdnn.conversion.onnx.reading import Reading
from gbdnn.layers import BGRU, BLSTM, GRU

__all__ = ["joined"]


def joined(reading: Reading, node: Any, attributes: dict[str, Any]) -> None:
    """Append a BLSTM or a BGRU, and a product where a way has one behind its layer."""
    found = reading.graph.sides(node)
    if found is None:
        raise unsupported(node, "two layers of one tensor", "others")
    if reading.chain.waiting is not None:
        reading.chain.taken_levels(False)  # a scaling comes behind the rounding
    ways = []
    for steps in found[1]:
        way = reading.branch()
        reading.read(way, steps)
        if way.directions is None or way.reversed or way.coded or way.rows:
            raise unsupported(node, "all time steps of both layers in their order", "others")
        way.chain.settle()
        ways.append(way)
    parts = [_parts(node, way) for way in ways]
    directions = [way.directions for way in ways]
    if directions != [["forward"], ["reverse"]]:
        got = " and ".join(", ".join(each or ["none"]) for each in directions)
        raise unsupported(node, "a layer forward, then one in reverse", got[:80])
    reading.chain.levels = None  # both ways have taken them
    pair: Any = BGRU if isinstance(parts[0][0], GRU) else BLSTM
    layer = pair(parts[0][0], parts[1][0])
    reading.takes(node, layer.in_features)
    reading.chain.weighted(layer)
    products = [own[1] if len(own) > 1 else None for own in parts]
    if any(products):
        _down(reading, products, [own[0].out_features for own in parts])
    _name_axes(reading, node, ways, attributes.get("axis", 0))


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
