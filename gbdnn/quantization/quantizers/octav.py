"""OCTAV: the clip of the least square error, by Newton's method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gbdnn.quantization.base import Tracked, largest, positive_part
from gbdnn.types import Array

__all__ = ["Octav"]

ROUNDS, CLOSE = 30, 1e-6


@dataclass(frozen=True)
class Octav(Tracked):
    """a <- sum of |x| beyond a / (4^-b / 3 (numbers within a) + (numbers beyond)), until it stays.

    Of one side 12 stands for 3. The gradient passes within the clip, else it is 0. Gaussian, 4
    bits: 2.562 sigma; Laplacian: 5.028 of its scale. Zeros count as within. Source: Sakr et al.
    2022.

    Parameters
    ----------
    bits : int
        2 to 8.
    sides : str
        "symmetric" or "one".
    """

    kind = "octav"
    allowed = ("symmetric", "one")
    passes = False

    def clip(self, x: Array) -> tuple[float, float]:
        """Return -a and a."""
        most = largest(x)
        if not 0 < most < np.inf:
            return -most, most
        size = np.abs(positive_part(x, self.sides)).astype(np.float64).reshape(-1) / most
        if not size.size:
            return 0.0, 0.0
        error = 4.0**-self.bits / (3 if self.sides == "symmetric" else 12)
        a = float(size.mean())
        for _ in range(ROUNDS):
            beyond = size >= a
            count = int(np.count_nonzero(beyond))
            before = a
            a = float(size[beyond].sum()) / (error * (size.size - count) + count)
            if abs(a - before) <= CLOSE * a:
                break
        a = min(a, 1.0) * most
        return -a, a
