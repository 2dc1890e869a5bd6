"""Scales of a weight: one for all, for blocks of rows, for rows, or for groups of their columns."""

from __future__ import annotations

import numpy as np

from gbdnn.errors import InputError, NonFiniteError, ShapeError
from gbdnn.types import Array
from gbdnn.weights.csr import CSR
from gbdnn.weights.patterns import rows_of

__all__ = ["check_scales", "row_scales", "scale_of_entries"]


def check_scales(scales: Array, shape: tuple[int, int], largest: int) -> None:
    """Refuse scales that do not fit a weight: shape (parts,) or (rows, groups), 0 or more.

    Times the largest code they are finite.

    Raises
    ------
    ShapeError, NonFiniteError, InputError
    """
    rows, columns = shape
    parts = scales.ndim == 1 and len(scales) and rows % len(scales) == 0
    groups = scales.ndim == 2 and len(scales) == rows and scales.shape[1]
    if not parts and not (groups and columns % scales.shape[1] == 0):
        expected = (
            f"shape (parts,), where parts divide the {rows} rows, or ({rows}, groups), where groups"
            f" divide the {columns} columns"
        )
        raise ShapeError("scales", expected, f"shape {scales.shape}")
    with np.errstate(over="ignore"):
        reached = scales * np.float32(largest)
    if not np.isfinite(reached).all():
        expected = f"finite numbers, also times the largest code, {largest}"
        raise NonFiniteError("scales", expected, str(scales[~np.isfinite(reached)][0]))
    if (scales < 0).any():
        raise InputError("scales", "numbers from 0 up", str(scales.min()))


def row_scales(scales: Array, rows: int) -> Array:
    """Return the scales of every row, shape (rows, groups); a view where it can be."""
    if scales.ndim == 2:
        return scales
    if len(scales) == 1:
        return np.broadcast_to(scales, (rows, 1))
    return np.repeat(scales, rows // len(scales))[:, None]


def scale_of_entries(scales: Array, pattern: CSR) -> Array:
    """Return the scale of each entry of a pattern, shape (nnz,) or (1,)."""
    if scales.size == 1:
        return scales.reshape(1)
    each = row_scales(scales, pattern.shape[0])
    if each.shape[1] == 1:
        return np.repeat(each[:, 0], np.diff(pattern.indptr))
    group = pattern.indices // (pattern.shape[1] // each.shape[1])
    found: Array = each[rows_of(pattern), group]
    return found
