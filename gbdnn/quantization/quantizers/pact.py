"""PACT: clips that are learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gbdnn import checks
from gbdnn.errors import InputError
from gbdnn.quantization.base import Clipped, Learned, one
from gbdnn.types import Array

__all__ = ["Pact"]


@dataclass(frozen=True)
class Pact(Clipped):
    """Levels within clips a, and l of two sides, that are learned; dx = g between them, else 0.

        one         da = sum of g where x >= a
        two         da = the same,  dl = sum of g where x <= l
        symmetric   da = sum of g where x >= a  -  sum of g where x <= -a

    They begin at percentiles of x, or at `start`. Sources: Choi et al. 2018 (PACT); the two other
    kinds as in IBM's fms-model-optimizer, whose symmetric one adds both sums.

    Parameters
    ----------
    bits : int
        2 to 8.
    sides : str
        "symmetric", "one" or "two".
    percent : float
        Where a begins: so many percent of the numbers are below; l has as many above. With
        "symmetric" it is of |x|, with "one" of the numbers above 0.
    start : float or (float, float), optional
        a, or (l, a) of two sides, instead.
    """

    kind = "pact"
    percent: float = 99.9
    start: float | tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.within("percent", self.percent, "(50, 100]")
        if self.start is None:
            return
        try:
            given = np.atleast_1d(np.asarray(self.start, np.float64))
        except (TypeError, ValueError):
            raise InputError("start", "numbers", repr(self.start)[:60]) from None
        good = bool(given.size) and given[-1] > 0 and np.isfinite(given).all()
        if self.sides == "two":
            if not (given.shape == (2,) and good and given[0] < 0):
                raise InputError("start", "(l, a) with l < 0 < a, of two sides", repr(self.start))
            object.__setattr__(self, "start", (float(given[0]), float(given[1])))
        elif not (given.shape == (1,) and good):
            raise InputError("start", f"a number above 0 (sides={self.sides!r})", repr(self.start))
        else:
            object.__setattr__(self, "start", float(given[0]))

    def initial(self, x: Array) -> dict[str, Array]:
        """Return {"high": a}, and of two sides "low" too."""
        low, high = self._start(x)
        return {"low": one(low), "high": one(high)} if self.sides == "two" else {"high": one(high)}

    def _start(self, x: Array) -> tuple[float, float]:
        if self.start is not None:
            return self.start if isinstance(self.start, tuple) else (0.0, float(self.start))
        return percentiles(x, self.percent, self.sides)

    def clips(self, x: Array, learned: Learned) -> tuple[float, float]:
        """Return what is learned."""
        high = float(learned["high"][0])
        return (float(learned["low"][0]) if self.sides == "two" else -high), high

    def backward(
        self, x: Array, learned: Learned, dx: Array, dlearned: Mapping[str, Array]
    ) -> None:
        """See above."""
        low, high = self._bounds(x, learned)
        above, below = x >= high, x <= low
        of_high = dx[above].sum(dtype=np.float64)
        of_low = dx[below].sum(dtype=np.float64)
        if self.sides == "two":
            dlearned["low"][0] = of_low
        dlearned["high"][0] = of_high - (of_low if self.sides == "symmetric" else 0.0)
        dx[~self._inside(x, low, high)] = 0

    def _bounds(self, x: Array, learned: Learned) -> tuple[float, float]:
        """Return where x is cut off."""
        low, high = self.clips(x, learned)
        return (0.0 if self.sides == "one" else low), high

    def _inside(self, x: Array, low: float, high: float) -> Array:
        """Return where dx passes: between the clips, themselves included."""
        found: Array = (x >= low) & (x <= high)
        return found


def percentiles(x: Array, percent: float, sides: str) -> tuple[float, float]:
    """Return l and a: what so many percent of the numbers are within; of nothing 0 and 0.

    "symmetric" looks at |x|, "one" at the numbers above 0.
    """
    x = np.abs(x) if sides == "symmetric" else x[x > 0] if sides == "one" else x
    if not x.size:
        return 0.0, 0.0
    if sides == "two":
        low, high = np.percentile(x, (100 - percent, percent))
        return min(float(low), 0.0), max(float(high), 0.0)
    high = float(np.percentile(x, percent))
    return -high, high
