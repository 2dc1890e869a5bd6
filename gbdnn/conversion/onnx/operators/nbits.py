"""MatMulNBits: a product with a weight of 2, 4 or 8 bits, whose blocks have scales of their own.

W[n, k] = scale[n, k // block] * (code[n, k] - zero[n, k // block]). A row's codes stand block by
block, the first one in the lowest bits of a byte; the last block is filled up.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn.conversion.onnx.codes import Codes, centred, full, spread
from gbdnn.conversion.onnx.files import label, unsupported
from gbdnn.conversion.onnx.reading import Operator, Reading
from gbdnn.types import Array

__all__ = ["MICROSOFT"]

BITS = (2, 4, 8)
SMALLEST = 16  # codes of a block
INT8 = 4  # an accuracy_level
PLACE = 8  # bytes for each place of a weight while it is read


@dataclass(frozen=True)
class Shape:
    """What the attributes say: rows, columns, bits of a code, codes of a block."""

    rows: int
    columns: int
    bits: int
    block: int

    @property
    def blocks(self) -> int:
        """Blocks of a row, the last one perhaps shorter."""
        return -(-self.columns // self.block)


def _matmul_nbits(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Append a product with whole numbers, or with floats where they need more than 8 bits."""
    shape = _shape(node, attributes)
    known = reading.constants(node)
    if any(name and value is None for name, value in list(zip(node.input, known, strict=True))[1:]):
        raise unsupported(node, "constants beside the first input", "others")
    packed, scales, zeros, order, bias = [*known, *[None] * 6][1:6]
    wanted = (shape.rows, shape.blocks, shape.block * shape.bits // 8)
    _check(node, "B", packed, wanted, (np.uint8,))
    reading.graph.constants.room(PLACE * shape.rows * shape.columns, node)
    codes = _unpacked(packed.reshape(shape.rows, -1), shape.bits)[:, : shape.columns]
    scale = _each_block(node, "scales", scales, shape)
    zero = _zero_points(node, zeros, shape)
    _check_rest(node, order, bias, shape, attributes)
    weight, made = _weight(node, codes, scale, zero, shape)
    if attributes.get("accuracy_level", 0) == INT8:
        message = f"{label(node)} rounds activations to 8 bits as they come: left out"
        warnings.warn(message, UserWarning, stacklevel=4)
    reading.product(node, weight, 0.0 if bias is None else bias, made)


def _shape(node: Any, attributes: dict[str, Any]) -> Shape:
    """Return the attributes N, K, bits and block_size, checked."""
    found = []
    for name in ("N", "K", "bits", "block_size"):
        value = attributes.get(name, 4 if name == "bits" else None)
        if not isinstance(value, int) or value <= 0:
            raise unsupported(node, f"a whole number above 0 as {name}", repr(value)[:40])
        found.append(value)
    made = Shape(*found)
    if made.bits not in BITS:
        raise unsupported(node, f"bits {', '.join(map(str, BITS))}", str(made.bits))
    if made.block < SMALLEST or made.block & (made.block - 1):
        raise unsupported(node, f"block_size {SMALLEST} times a power of 2", str(made.block))
    return made


def _unpacked(packed: Array, bits: int) -> Array:
    """Return the numbers in the bytes of each row, from the lowest bits up."""
    parts = [packed >> np.uint8(place) & np.uint8(2**bits - 1) for place in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(len(packed), -1)


def _each_block(node: Any, name: str, values: Any, shape: Shape) -> Array:
    """Return what each block has, floats of shape (rows, blocks)."""
    _check(node, name, values, (shape.rows, shape.blocks), (np.float32,))
    return np.asarray(values).reshape(shape.rows, shape.blocks)


def _zero_points(node: Any, values: Any, shape: Shape) -> Array:
    """Return the zero point of each block, shape (rows, blocks): uint8, or floats if not whole."""
    size = (shape.rows, shape.blocks)
    if values is None:
        return np.full(size, 1 << shape.bits - 1, np.uint8)
    if getattr(values, "dtype", None) == np.uint8:
        wanted = (shape.rows, -(-shape.blocks * shape.bits // 8))
        _check(node, "zero_points", values, wanted, (np.uint8,))
        return _unpacked(values.reshape(wanted), shape.bits)[:, : shape.blocks]
    floats = _each_block(node, "zero_points", values, shape)
    whole = (floats == np.rint(floats)) & (floats >= 0) & (floats < 1 << shape.bits)
    return floats.astype(np.uint8) if whole.all() else floats


def _check(node: Any, name: str, values: Any, shape: tuple[int, ...], dtypes: Any) -> None:
    """Refuse another shape, except that of a vector of as many numbers, and another dtype."""
    found = getattr(values, "shape", None)
    if found not in (shape, (int(np.prod(shape, dtype=object)),)):
        raise unsupported(node, f"{name} of shape {shape}, as K, N, bits and block_size say",
                          "none" if values is None else f"shape {found}")  # fmt: skip
    if values.dtype not in dtypes:
        expected = f"{name} of {', '.join(np.dtype(d).name for d in dtypes)}"
        raise unsupported(node, expected, str(values.dtype))


def _check_rest(node: Any, order: Any, bias: Any, shape: Shape, attributes: dict[str, Any]) -> None:
    """Refuse another order of the columns, a bias that does not fit and other packings."""
    if order is not None:
        lengths = (shape.columns, shape.blocks * shape.block)
        if order.shape not in [(n,) for n in lengths]:
            raise unsupported(node, f"g_idx of shape ({shape.columns},)", f"shape {order.shape}")
        if (order != np.arange(len(order)) // shape.block).any():
            raise unsupported(node, "blocks of consecutive columns (g_idx k // block_size)",
                              "columns in another order")  # fmt: skip
    if bias is not None:
        _check(node, "bias", bias, (shape.rows,), (np.float32,))
    if attributes.get("weight_prepacked", 0):
        got = f"weight_prepacked {attributes['weight_prepacked']}"
        raise unsupported(node, "a weight that is not packed for one processor", got)


def _weight(
    node: Any, codes: Array, scale: Array, zero: Array, shape: Shape
) -> tuple[Array, Codes | None]:
    """Return the weight in floats, and as whole numbers if they have 8 bits or fewer."""
    blocks = {"axis": 1, "block_size": shape.block}
    made = None
    if zero.dtype == np.uint8:
        made = centred(codes, scale, zero, blocks, shape.bits)
    if made is None or made.scales() is None:
        why = (
            "codes of 8 bits less their zero points, in blocks of one size, do not hold its weight"
        )
        message = f"{label(node)}: {why}; it is read as floats, the same values"
        warnings.warn(message, UserWarning, stacklevel=5)
    each, middle = (full(codes, spread(codes, part, blocks)) for part in (scale, zero))
    with np.errstate(all="ignore"):
        weight = (codes - middle.astype(np.float32)) * each
    if not np.isfinite(weight).all():
        raise unsupported(node, "scales that make finite weights", "NaN or infinity")
    return weight, made


MICROSOFT: dict[str, Operator] = {"MatMulNBits": _matmul_nbits}
