"""LSQ: a step that is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gbdnn.quantization.base import Clipped, Learned, one, positive_part
from gbdnn.types import Array

__all__ = ["Lsq"]


@dataclass(frozen=True)
class Lsq(Clipped):
    """y = s round(clip(x / s, -Qn, Qp)), s learned; dx = g where -Qn < x / s < Qp, else 0.

    dy/ds = -Qn, Qp beyond, round(x / s) - x / s inside; ds = sum(g dy/ds) / sqrt(N Qp) for N
    numbers. s begins at 2 E|x| / sqrt(Qp). Symmetric: Qn = Qp = 2^(b-1) - 1, zero aligned; one
    side: Qn = 0, Qp = 2^b - 1. Source: Esser et al. 2020.

    Parameters
    ----------
    bits : int
        2 to 8.
    sides : str
        "symmetric" or "one".
    """

    kind = "lsq"
    allowed = ("symmetric", "one")

    @property
    def _largest(self) -> int:
        return int(2 ** (self.bits - 1) - 1 if self.sides == "symmetric" else 2**self.bits - 1)

    def initial(self, x: Array) -> dict[str, Array]:
        """Return {"step": s}."""
        x = positive_part(x, self.sides)
        mean = float(np.abs(x).mean(dtype=np.float64)) if x.size else 0.0
        return {"step": one(2 * mean / np.sqrt(self._largest))}

    def clips(self, x: Array, learned: Learned) -> tuple[float, float]:
        """Return the outermost levels."""
        high = max(float(learned["step"][0]), 0.0) * self._largest
        return -high, high

    def backward(
        self, x: Array, learned: Learned, dx: Array, dlearned: Mapping[str, Array]
    ) -> None:
        """See above."""
        most, s = self._largest, x.dtype.type(learned["step"][0])
        least = -most if self.sides == "symmetric" else 0
        if s <= 0:  # y = 0: larger steps are found again by what lies beyond
            slope = np.where(x > 0, most, np.where(x < 0, least, 0)).astype(x.dtype)
            inside = np.zeros(x.shape, bool)
        else:
            scaled = x / s
            inside = (scaled > least) & (scaled < most)
            slope = np.where(inside, np.rint(scaled) - scaled, np.clip(scaled, least, most))
        scale = 1 / np.sqrt(max(x.size, 1) * most)
        dlearned["step"][0] = float(np.vdot(slope.astype(x.dtype), dx)) * scale
        dx[~inside] = 0
