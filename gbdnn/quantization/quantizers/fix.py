"""FIX: a clip that is given."""

from __future__ import annotations

from dataclasses import dataclass

from gbdnn import checks
from gbdnn.quantization.base import Clipped, Learned
from gbdnn.types import Array

__all__ = ["Fix"]


@dataclass(frozen=True)
class Fix(Clipped):
    """Levels from -a (or 0) to a; the gradient passes everywhere, nothing is learned.

    For values with a bound that is known: h = o tanh(c) of an LSTM with a = 1. Source: FIX in IBM's
    fms-model-optimizer.

    Parameters
    ----------
    bits : int
        2 to 8.
    sides : str
        "symmetric", or "one" for values from 0 up.
    clip : float
        a.
    """

    kind = "fix"
    allowed = ("symmetric", "one")
    clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive("clip", self.clip)

    def clips(self, x: Array, learned: Learned) -> tuple[float, float]:
        """Return -a and a."""
        return -self.clip, self.clip
