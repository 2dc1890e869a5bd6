"""SAWB and SAWB+: a clip from two moments, near the one of the least square error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gbdnn.quantization.base import Tracked, largest
from gbdnn.quantization.quantizers.octav import Octav
from gbdnn.types import Array

__all__ = ["Sawb", "SawbPlus"]

COEFFICIENTS = {
    2: (2.6, -1.71),  # 3 levels
    3: (7.509, -6.892),
    4: (12.035, -12.03),  # 15 levels
    5: (17.74, -18.64),
    6: (22.99, -24.725),  # the means of 5 and 7: ours, none are published
    7: (28.24, -30.81),
    8: (31.76, -35.04),
}

FITTED = 0.9
"""E|w| over sqrt(E[w^2]) up to which the coefficients are used."""


@dataclass(frozen=True)
class Sawb(Tracked):
    """a = c1 sqrt(E[w^2]) + c2 E|w|, at most max |w|; dw = 0 where |w| > a.

    c1 and c2 were fitted to distributions of many shapes; a Gaussian's clip at 4 bits is 2.436
    sigma, where the least square error is at 2.474. Weights that were pruned by magnitude have a
    shape that none of these has: none are small, E|w| is nearly sqrt(E[w^2]), and the formula would
    cut most of them off. Above `FITTED` of that ratio (.80 for a Gaussian, .87 where all sizes are
    equally likely) a is `Octav`'s, which is ours. Sources: Choi et al. 2019 (statistics-aware
    weight binning); the coefficients are those of IBM's fms-model-optimizer, at 6 bits ours.

    Parameters
    ----------
    bits : int
        2 to 8.
    sides : str
        "symmetric".
    """

    kind = "sawb"
    allowed = ("symmetric",)
    passes = False

    def clip(self, x: Array) -> tuple[float, float]:
        """Return -a and a."""
        most = largest(x)
        if not 0 < most < np.inf:  # NaN too
            return -most, most
        scaled = np.abs(x).astype(np.float64) / most  # squares do not overflow
        mean, root = float(np.mean(scaled)), float(np.sqrt(np.mean(np.square(scaled))))
        if mean > FITTED * root:
            return Octav(self.bits).clip(x)
        c1, c2 = COEFFICIENTS[self.bits]
        a = most * min(c1 * root + c2 * mean, 1.0)
        return -a, a


@dataclass(frozen=True)
class SawbPlus(Sawb):
    """SAWB whose gradient passes everywhere, beyond the clip too."""

    kind = "sawb+"
    passes = True
