"""Whole numbers of ONNX graphs, their scales and zero points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn.types import Array

__all__ = ["Codes", "centred", "full", "spread"]


@dataclass(frozen=True)
class Codes:
    """Whole numbers and what they are multiplied with, of the same number of dimensions.

    A dimension of `scale` is that of `codes` or one that divides it: each scale is then for as
    many codes, one after the other.
    """

    codes: Array
    scale: Array
    bits: int

    def each(self, change: Any) -> Codes:
        """Return both arrays changed alike."""
        return Codes(change(self.codes), change(self.scale), self.bits)

    def part(self, number: int) -> Codes:
        """Return what stands at a place of the first dimension."""
        rows = len(self.codes) // len(self.scale)
        return Codes(self.codes[number], self.scale[number // rows], self.bits)

    def scales(self) -> Array | None:
        """Return the scales of a matrix as `gbdnn.integer_weight` takes them, else None.

        They are positive: the sign of a negative one goes into its codes. None too where each
        entry has a scale of its own.
        """
        rows, columns = self.codes.shape
        high, wide = self.scale.shape
        fits = high and wide and rows % high == 0 and columns % wide == 0
        if not fits or 1 < wide == columns:
            return None
        found: Array = np.abs(self.scale).astype(np.float32)
        return found[:, 0] if wide == 1 else np.repeat(found, rows // high, axis=0)


def centred(
    codes: Array, scale: Array, zero: Any, attributes: Mapping[str, Any], stored: int = 8
) -> Codes | None:
    """Return codes less their zero point; None where they need more than 8 bits.

    Parameters
    ----------
    codes, scale, zero : ndarray
        As a DequantizeLinear has them; `zero` may be None.
    attributes : mapping
        That node's: axis, block_size.
    stored : int
        Bits of a code in the file. Less their zero point they may need one more.
    """
    if codes.dtype not in (np.int8, np.uint8):
        return None
    each = spread(codes, scale, attributes)
    middle = 0 if zero is None else full(codes, spread(codes, zero, attributes))
    whole = codes.astype(np.int16) - middle
    bits = max(stored, int(np.abs(whole).max(initial=0)).bit_length() + 1)
    return None if bits > 8 else Codes(whole.astype(np.int8), each, bits)


def spread(x: Array, value: Any, attributes: Mapping[str, Any]) -> Any:
    """Return scales or zero points with the dimensions of x; see `Codes`.

    Blocks whose last one is shorter become smaller ones that divide x's dimension.

    Raises
    ------
    ValueError
        For a shape that does not fit.
    """
    value = np.asarray(value)
    if value.size == 1:
        return value.reshape((1,) * x.ndim)
    if value.ndim == 1:
        axis = attributes.get("axis", 1) % x.ndim
        value = value.reshape([-1 if k == axis else 1 for k in range(x.ndim)])
        if value.shape[axis] != x.shape[axis]:
            raise ValueError(f"{value.size} scales for {x.shape[axis]}")
        return value
    axis, block = attributes.get("axis", 1) % x.ndim, attributes.get("block_size", 0)
    blocks = -(-x.shape[axis] // block) if block > 0 else 0
    wanted = tuple(blocks if k == axis else n for k, n in enumerate(x.shape))
    if value.shape != wanted:
        raise ValueError(f"scales of shape {value.shape} for {x.shape}, blocks of {block}")
    size = math.gcd(block, x.shape[axis])
    if size < block and blocks > 1:
        kept = np.arange(x.shape[axis] // size) * size // block
        value = value.take(kept, axis)
    return value


def full(x: Array, value: Array) -> Array:
    """Return what `spread` returns so that it broadcasts with x."""
    for axis, (n, m) in enumerate(zip(x.shape, value.shape, strict=True)):
        if m not in (1, n):
            value = np.repeat(value, n // m, axis)
    return value
