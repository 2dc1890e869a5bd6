"""MAX: the levels reach as far as the largest value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gbdnn.errors import InputError
from gbdnn.quantization.base import Quantizer
from gbdnn.types import Array

__all__ = ["Max"]


@dataclass(frozen=True)
class Max(Quantizer):
    """y = s round(x / s), s = 2 a / (2^b - 2), a = max |x|: symmetric, 0 is a level.

    Rounding is half to even, the gradient passes unchanged. With 4 bits there are 15 levels, -7 s
    to 7 s. Source: the symmetric, zero-aligned quantizer of IBM's fms-model-optimizer.

    Parameters
    ----------
    bits : int
        2 to 8.
    """

    kind = "max"
    bits: int = 4

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not 2 <= self.bits <= 8:
            raise InputError("bits", "a whole number from 2 to 8", repr(self.bits))

    def fake(self, x: Array, learned: Mapping[str, Array], out: Array) -> None:
        """Write s round(x / s) to `out`."""
        largest = float(np.abs(x).max(initial=0))
        if not largest:
            out[...] = x
            return
        step = x.dtype.type(2 * largest / (2**self.bits - 2))
        np.divide(x, step, out=out)
        np.rint(out, out=out)
        np.multiply(out, step, out=out)
