"""What the backends' forms for training share: the values that change, and checks of tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.weights.csr import CSR, full_pattern

__all__ = ["check_memory", "check_tiles", "check_values", "owned", "whole_batch"]

Array = npt.NDArray[Any]
LANES = 16  # columns: batches are padded to their multiples


def owned(weight: CSR | Array) -> tuple[CSR, Array]:
    """Return a weight over values of its own, and these, writable; iso values are written out.

    The pattern's values are a read-only view of the others. A dense weight gets all its places.
    """
    csr = weight if isinstance(weight, CSR) else full_pattern(weight)
    values = csr.full_values.copy()
    return CSR.unchecked(csr.indptr, csr.indices, values, csr.shape), values


def whole_batch(batch: int) -> int:
    """Return the width of a single tile for all samples."""
    return max(-(-batch // LANES) * LANES, LANES)


def check_tiles(pattern: CSR, above: Array, below: Array, *, names: tuple[str, str]) -> None:
    """Refuse arrays that are not (tiles, out_features, width) and (tiles, in_features, width)."""
    tiles, _, width = below.shape if below.ndim == 3 else (0, 0, 0)
    wanted = ((tiles, pattern.shape[0], width), (tiles, pattern.shape[1], width))
    for name, array, shape in zip(names, (above, below), wanted, strict=True):
        if array.ndim != 3 or array.shape != shape:
            expected = f"shape (tiles, {shape[1]}, width), as of the other array"
            raise ShapeError(name, expected, f"shape {array.shape}")
        check_memory(name, array, pattern.dtype)


def check_values(pattern: CSR, out: Array) -> None:
    """Refuse a vector that cannot take one value for each entry."""
    if out.shape != (pattern.nnz,):
        raise ShapeError("out", f"shape ({pattern.nnz},), as the weight", f"shape {out.shape}")
    check_memory("out", out, pattern.dtype)


def check_memory(name: str, array: Array, dtype: np.dtype[Any]) -> None:
    """Refuse another dtype, gaps between elements, and an `out` that is read-only."""
    if array.dtype != dtype:
        raise DtypeError(name, f"{dtype}, as the weight", str(array.dtype))
    if not array.flags.c_contiguous:
        raise InputError(name, "a C-contiguous array", f"strides {array.strides}")
    if name == "out" and not array.flags.writeable:
        raise InputError(name, "an array that can be written", "a read-only one")
