"""Percentile: a clip that so many numbers are within."""

from __future__ import annotations

from dataclasses import dataclass

from gbdnn import checks
from gbdnn.quantization.base import Tracked
from gbdnn.quantization.quantizers.pact import percentiles
from gbdnn.types import Array

__all__ = ["Percentile"]


@dataclass(frozen=True)
class Percentile(Tracked):
    """`percent` of the numbers are below a, and of two sides as many above l; the gradient passes.

    Parameters
    ----------
    bits : int
        2 to 8.
    sides : str
        "symmetric" (percentile of |x|), "one" (of the numbers above 0) or "two".
    percent : float
        Above 50, at most 100.
    """

    kind = "percentile"
    percent: float = 99.9

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.within("percent", self.percent, "(50, 100]")

    def clip(self, x: Array) -> tuple[float, float]:
        """Return the percentiles."""
        return percentiles(x, self.percent, self.sides)
