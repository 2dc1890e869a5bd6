"""Kernels of integer products that run anywhere; numba's vectors do for them."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import from_dtype, types

from gbdnn.backends.base import STRIP
from gbdnn.backends.fused.compilation import array_type, jit, load

__all__ = ["code", "load_kernels", "product"]

elementwise = partial(jit, error_model="numpy")  # Python's check for division by 0 ends vectors


@elementwise
def code(Y: Any, step: Any, least: Any, most: Any, out: Any) -> None:
    """Write rint(y / step) within least ... most, less `least`, to `out`, uint8. NaN becomes 0.

    Parameters
    ----------
    Y : ndarray, shape (features, width)
    step, least, most : float
        Of the levels: step, low - zero and high - zero.
    out : ndarray of uint8, shape (features, width)
    """
    for i in range(Y.shape[0]):
        for j in range(Y.shape[1]):
            value = np.rint(Y[i, j] / step)
            value = value if value > least else least  # also NaN
            value = value if value < most else most
            out[i, j] = np.uint8(np.int32(value - least))


@elementwise
def product(
    starts: Any, indices: Any, codes: Any, corrections: Any, scales: Any, bias: Any, U: Any,
    sums: Any, out: Any, accumulate: bool, low: Any, high: Any, first: int, last: int,
) -> None:  # fmt: skip
    """Compute rows first ... last - 1 of out = min(max([out +] W Y + b, low), high).

    Parameters
    ----------
    starts, indices, codes, corrections, scales : ndarray
        Of a `FusedIntegers`.
    bias : ndarray, shape (rows,) or (1,)
    U : ndarray of uint8, shape (columns, width)
        The input's codes.
    sums : ndarray of int32 or int64, shape (STRIP,)
        Memory to sum in.
    out : ndarray, shape (rows, width)
    """
    groups, width = scales.shape[1], U.shape[1]
    for i in range(first, last):
        b = bias[i] if len(bias) > 1 else bias[0]
        for begin in range(0, width, STRIP):
            count = min(STRIP, width - begin)
            for group in range(groups):
                scale, part = scales[i, group], i * groups + group
                sums[:count] = corrections[i, group]
                for k in range(starts[part], starts[part + 1]):
                    weight, row = codes[k], indices[k]
                    for j in range(count):
                        sums[j] += weight * U[row, begin + j]
                if group == 0 and not accumulate:
                    for j in range(count):
                        out[i, begin + j] = sums[j] * scale
                else:
                    for j in range(count):
                        out[i, begin + j] += sums[j] * scale
            for j in range(count):
                value = out[i, begin + j] + b
                value = low if value < low else value  # NaN stays
                out[i, begin + j] = high if value > high else value


def load_kernels(real: Any, index: Any, total: Any) -> None:
    """Load the kernels for a real, an index and a sum's dtype, or compile them."""
    real, index, total = from_dtype(real), from_dtype(index), from_dtype(total)
    size, byte = types.int64, types.uint8
    load(code, array_type(real, 2), *[real] * 3, array_type(byte, 2, writable=True))
    weight = (
        array_type(size, 1), array_type(index, 1), array_type(types.int8, 1),
        array_type(total, 2), array_type(real, 2),
    )  # fmt: skip
    batch = (
        array_type(real, 1), array_type(byte, 2), array_type(total, 1, writable=True),
        array_type(real, 2, writable=True), types.boolean,
    )  # fmt: skip
    load(product, *weight, *batch, real, real, size, size)
