"""The parts of a training step that are not products, on tile-major arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends import elementwise
from gbdnn.layers import Activation, Dropout

__all__ = ["backward", "sum_of_squares"]

Array = npt.NDArray[Any]


def backward(activation: Activation | Dropout, kept: Array, dY: Array, threads: int = 1) -> None:
    """Replace dY by dZ = dY h'(Z), in place; `kept` is Z, h(Z) or dropout's mask."""
    clamp = None if isinstance(activation, Dropout) else activation.clamp
    if clamp is None:
        activation.backward(kept, dY)
    elif clamp != (-math.inf, math.inf):
        elementwise.relu_backward(kept, dY, *clamp, threads)


def sum_of_squares(grad: Array) -> float:
    """Return the sum of squares; NaN or infinite exactly if an element is.

    In the dtype of `grad`, whose squares may overflow: then once more in float64.
    """
    vector = grad.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.einsum("i,i->", vector, vector))
        if not math.isfinite(total) and np.isfinite(vector).all():
            total = float(np.square(vector, dtype=np.float64).sum())
    return total
