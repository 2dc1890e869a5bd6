"""What the backends share: checks of arrays, bias and bounds in numpy, values that are trained."""

from __future__ import annotations

from typing import Any

import numpy as np

from gbdnn.backends.base import Bounds
from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.types import Array
from gbdnn.weights import CSR, Weight

__all__ = [
    "apply_bounds", "check_affine", "check_memory", "check_tiles", "check_values", "column",
    "owned",
]  # fmt: skip


def owned(weight: Weight) -> tuple[CSR, Array]:
    """Return a weight's pattern and values of its own, writable; iso values are written out.

    The pattern's values are a read-only view of the others. A dense weight gets all its places.
    """
    values = weight.entries.copy()
    return weight.pattern().with_entries(values), values


def column(bias: Array) -> Array:
    """Return a bias, shape () or (features,), as what is added to (tiles, features, width)."""
    return bias if bias.ndim == 0 else bias[:, None]


def apply_bounds(out: Array, bounds: Bounds | None) -> None:
    """Replace out by min(max(out, low), high); NaN stays NaN."""
    low, high = bounds or (-np.inf, np.inf)
    if low > -np.inf:
        np.maximum(out, low, out=out)
    if high < np.inf:
        np.minimum(out, high, out=out)


def check_affine(w: Any, Y: Array, bias: Array | None, out: Array) -> None:
    """Refuse arrays that `Backend.affine` could not read or write; `w` has shape and dtype."""
    check_tiles(w, out, Y, names=("out", "Y"))
    if bias is not None:
        if bias.shape not in ((), w.shape[:1]):
            raise ShapeError("bias", f"shape () or ({w.shape[0]},)", f"shape {bias.shape}")
        check_memory("bias", bias, w.dtype)


def check_tiles(w: Any, above: Array, below: Array, *, names: tuple[str, str]) -> None:
    """Refuse arrays that are not (tiles, out_features, width) and (tiles, in_features, width)."""
    tiles, _, width = below.shape if below.ndim == 3 else (0, 0, 0)
    for name, array, features in zip(names, (above, below), w.shape, strict=True):
        if array.shape != (tiles, features, width):
            expected = f"shape (tiles, {features}, width), as of the other array"
            raise ShapeError(name, expected, f"shape {array.shape}")
        check_memory(name, array, w.dtype)


def check_values(w: Any, out: Array) -> None:
    """Refuse a vector that cannot take one value for each entry of a weight that is trained."""
    if out.shape != (w.pattern.nnz,):
        raise ShapeError("out", f"shape ({w.pattern.nnz},), as the weight", f"shape {out.shape}")
    check_memory("out", out, w.dtype)


def check_memory(name: str, array: Array, dtype: np.dtype[Any]) -> None:
    """Refuse another dtype, gaps between elements, and an `out` that is read-only."""
    if array.dtype != dtype:
        raise DtypeError(name, f"{dtype}, as the weight", str(array.dtype))
    if not array.flags.c_contiguous:
        raise InputError(name, "a C-contiguous array", f"strides {array.strides}")
    if name == "out" and not array.flags.writeable:
        raise InputError(name, "an array that can be written", "a read-only one")
