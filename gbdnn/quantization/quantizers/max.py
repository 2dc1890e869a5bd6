"""MAX: the levels reach as far as the largest value."""

from __future__ import annotations

from dataclasses import dataclass

from gbdnn.quantization.base import Tracked, largest
from gbdnn.types import Array

__all__ = ["Max"]


@dataclass(frozen=True)
class Max(Tracked):
    """a = max |x|, and of two sides l = min x; the gradient passes unchanged.

    With 4 bits there are 15 levels, -7 s to 7 s. Source: the symmetric, zero-aligned quantizer of
    IBM's fms-model-optimizer.

    Parameters
    ----------
    bits : int
        2 to 8.
    sides : str
        "symmetric", "one" or "two"; see `gbdnn.quantization.base`.
    """

    kind = "max"

    def clip(self, x: Array) -> tuple[float, float]:
        """Return the extremes."""
        if self.sides == "symmetric":
            a = largest(x)
            return -a, a
        return float(x.min()), float(x.max())
