"""PACT+: learned clips whose gradients know of the rounding inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gbdnn.quantization.base import Learned
from gbdnn.quantization.quantizers.pact import Pact
from gbdnn.types import Array

__all__ = ["PactPlus"]


@dataclass(frozen=True)
class PactPlus(Pact):
    """The levels of `Pact`; with z = (x - l) / s, s = (a - l) / n (l = 0 of one side):

        x >= a        dy/da = 1                      dy/dl = 0
        l < x < a     dy/da = (round(z) - z) / n     dy/dl = -(round(z) - z) / n
        x <= l        dy/da = 0                      dy/dl = 1

    symmetric, z = (x + a) / s: dy/da = 1, 2 (round(z) - z) / n, -1. dx = g for l < x < a, else 0.
    Source: PACT+ in IBM's fms-model-optimizer. Parameters as of `Pact`.
    """

    kind = "pact+"

    def backward(
        self, x: Array, learned: Learned, dx: Array, dlearned: Mapping[str, Array]
    ) -> None:
        """See above."""
        low, high = self._bounds(x, learned)
        n = 2**self.bits - (2 if self.sides == "symmetric" else 1)
        above, below = x >= high, x <= low
        outside = above | below
        of_high = dx[above].sum(dtype=np.float64)
        of_low = dx[below & ~above].sum(dtype=np.float64)
        dx[outside] = 0
        within = 0.0
        if high > low:
            z = (x - x.dtype.type(low)) * x.dtype.type(n / (high - low))
            rest = np.rint(z)
            rest -= z
            within = float(np.vdot(rest, dx)) / n
        if self.sides == "symmetric":
            dlearned["high"][0] = of_high - of_low + 2 * within
            return
        dlearned["high"][0] = of_high + within
        if self.sides == "two":
            dlearned["low"][0] = of_low - within
