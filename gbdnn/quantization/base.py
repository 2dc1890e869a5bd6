"""What a quantizer is: x to a few levels, with a gradient that passes through the rounding.

A quantizer is a frozen record put into `gbdnn.quantization.QUANTIZERS`. In training the kernels
read what `fake` makes of a parameter's value or of an activation; the optimizer changes the value
itself, and what the quantizer learns (a clip, a step).

Ours have equal steps within a clip; they differ in its choice and in the gradients. With b bits,
clips l <= 0 <= a and the step s (0 is always a level):

    symmetric    -a ... a    n = 2^b - 2    s = 2 a / n        y = s clip(round(x / s), -n/2, n/2)
    one          0 ... a     n = 2^b - 1    s = a / n          y = s clip(round(x / s), 0, n)
    two          l ... a     n = 2^b - 1    s = (a - l) / n    y = s clip(round(x / s), -z, n - z),
                                                               z = round(-l / s)

Rounding is half to even. Without a clip (a = l = 0) there is one level, 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gbdnn.errors import InputError, NonFiniteError, choose
from gbdnn.types import Array
from gbdnn.weights import Levels

__all__ = ["SIDES", "Clipped", "Learned", "Quantizer", "Steps", "Tracked", "steps_of"]

Learned = Mapping[str, Array]
SIDES = ("symmetric", "one", "two")
ONLY_ZERO = 1e20  # a step at which all numbers that occur are rounded to 0


class Quantizer:
    """Rounds numbers to levels; the default gradient passes straight through.

    Attributes
    ----------
    kind : str
        Its name in `QUANTIZERS`.
    """

    kind: ClassVar[str]

    def initial(self, x: Array) -> dict[str, Array]:
        """Return what is learned beside x, as it is at the beginning: float64 arrays by name."""
        return {}

    def observed(self, x: Array) -> dict[str, Array]:
        """Return what is kept of a batch's activation x, beside what is learned.

        In training it follows the batches as a moving average; prediction rounds with it.
        """
        return {}

    def fake(self, x: Array, learned: Learned, out: Array) -> None:
        """Write the levels nearest to x, as floats, to `out`; x may be `out`."""
        raise NotImplementedError

    def backward(
        self, x: Array, learned: Learned, dx: Array, dlearned: Mapping[str, Array]
    ) -> None:
        """Turn dx, the gradient with respect to the levels, into that with respect to x, in place.

        Writes the gradients of what is learned to `dlearned`.
        """

    def levels(self, x: Array, learned: Learned) -> Levels:
        """Return the levels that `fake` rounds to, for execution in whole numbers."""
        expected = f"levels(), without which {self.kind!r} can train, but not be frozen"
        raise InputError("quantizer", expected, "none")

    @property
    def has_levels(self) -> bool:
        """Whether it has `levels`: what a network needs to be frozen."""
        return type(self).levels is not Quantizer.levels

    @property
    def tracks(self) -> bool:
        """Whether it has `observed`."""
        return type(self).observed is not Quantizer.observed

    @property
    def is_symmetric(self) -> bool:
        """The levels are -n s, ..., 0, ..., n s: what weights must have to be frozen."""
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """The fields: what JSON can say."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
        return {field.name: getattr(self, field.name) for field in fields}


def one(value: Any) -> Array:
    """Return a learned number: float64, shape (1,)."""
    return np.array([value], np.float64)


class Steps(NamedTuple):
    """Levels s k for k = low ... high; with s = 0 the one level 0."""

    step: float
    low: int
    high: int

    def fake(self, x: Array, out: Array) -> None:
        """Write the nearest levels to `out`; NaN stays NaN."""
        step = x.dtype.type(self.step)
        if step == 0:
            np.multiply(x, 0, out=out)
            return
        with np.errstate(over="ignore"):  # infinity is clipped
            np.divide(x, step, out=out)
        np.rint(out, out=out)
        np.clip(out, self.low, self.high, out=out)
        np.multiply(out, step, out=out)


def steps_of(low: float, high: float, bits: int, sides: str) -> Steps:
    """Return the levels of the clips; see above."""
    low, high = min(low, 0.0), max(high, 0.0)
    if np.isnan(high - low) or np.isinf(high - low):
        return Steps(np.nan, -1, 1)
    if sides == "symmetric":
        half = 2 ** (bits - 1) - 1
        return Steps(max(high, -low) / half, -half, half)
    count = 2**bits - 1
    if sides == "one":
        return Steps(high / count, 0, count)
    step = (high - low) / count
    zero = min(max(round(-low / step), 0), count) if step else 0  # round: half to even
    return Steps(step, -zero, count - zero)


@dataclass(frozen=True)
class Clipped(Quantizer):
    """Base of the quantizers with clips.

    Parameters
    ----------
    bits : int
        2 to 8.
    sides : str
        "symmetric", "one" or "two".
    """

    allowed: ClassVar[tuple[str, ...]] = SIDES
    bits: int = 4
    sides: str = "symmetric"

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not 2 <= self.bits <= 8:
            raise InputError("bits", "a whole number from 2 to 8", repr(self.bits))
        choose("sides", self.sides, self.allowed)

    @property
    def is_symmetric(self) -> bool:
        """See `Quantizer.is_symmetric`."""
        return self.sides == "symmetric"

    def clips(self, x: Array, learned: Learned) -> tuple[float, float]:
        """Return l and a; of symmetric levels l = -a."""
        raise NotImplementedError

    def steps(self, x: Array, learned: Learned) -> Steps:
        """Return step and range."""
        return steps_of(*self.clips(x, learned), self.bits, self.sides)

    def fake(self, x: Array, learned: Learned, out: Array) -> None:
        """Write the nearest levels to `out`."""
        self.steps(x, learned).fake(x, out)

    def levels(self, x: Array, learned: Learned) -> Levels:
        """Return the levels as codes: from 0 up unless they are symmetric.

        Raises
        ------
        NonFiniteError
            If x or what was learned is not finite.
        """
        step, low, high = self.steps(x, learned)
        if not np.isfinite(step):
            raise NonFiniteError(self.kind, "finite values to round", "NaN or infinity")
        step = float(np.float32(step)) or ONLY_ZERO
        return Levels(step, 0, low, high) if low == -high else Levels(step, -low, 0, high - low)


@dataclass(frozen=True)
class Tracked(Clipped):
    """Base of those whose clip follows from the numbers: of a weight at each step anew.

    Of an activation the moving average over batches is kept ("low", "high").
    """

    passes: ClassVar[bool] = True  # the gradient, beyond the clip too

    def clip(self, x: Array) -> tuple[float, float]:
        """Return l and a for these numbers."""
        raise NotImplementedError

    def clips(self, x: Array, learned: Learned) -> tuple[float, float]:
        """Return what is kept, else the clips of x."""
        if "high" in learned:
            return float(learned["low"][0]), float(learned["high"][0])
        return self.clip(x) if x.size else (0.0, 0.0)

    def observed(self, x: Array) -> dict[str, Array]:
        """Return the clips of x."""
        low, high = self.clip(x) if x.size else (0.0, 0.0)
        return {"low": one(low), "high": one(high)}

    def backward(
        self, x: Array, learned: Learned, dx: Array, dlearned: Mapping[str, Array]
    ) -> None:
        """Pass dx; unless `passes`, 0 where x is beyond the clip."""
        if not self.passes:
            low, high = self.clips(x, learned)
            dx[(x < low) | (x > high)] = 0


def largest(x: Array) -> float:
    """Return max |x|; 0 of nothing."""
    return float(np.maximum(x.max(initial=0), -x.min(initial=0)))


def positive_part(x: Array, sides: str) -> Any:
    """Return what a clip of one side is found from: the numbers above 0, else all."""
    return x[x > 0] if sides == "one" else x
