"""The levels that an activation is rounded to before an integer product."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.errors import InputError
from gbdnn.types import Array

__all__ = ["Levels"]

SMALLEST, LARGEST = -128, 255  # codes of int8 and uint8


@dataclass(frozen=True)
class Levels:
    """x is rounded to step (c - zero), its code c one of the whole numbers low ... high.

    code(x) = min(max(rint(x / step) + zero, low), high), half to even; 0 is always a level.

    Parameters
    ----------
    step : float
        Positive; computed with in the dtype of x.
    zero : int
        The code of 0, in low ... high.
    low, high : int
        -128 <= low < high <= 255 and high - low <= 255: 8 bits, signed or not, or fewer.

    Raises
    ------
    InputError
    """

    step: float
    zero: int
    low: int
    high: int

    def __post_init__(self) -> None:
        step = self.step
        number = isinstance(step, int | float | np.floating) and not isinstance(step, bool)
        with np.errstate(over="ignore", under="ignore"):
            if not (number and step > 0 and np.float32(step) > 0 and np.isfinite(np.float32(step))):
                raise InputError("levels.step", "a positive, finite float32", repr(step))
        object.__setattr__(self, "step", float(step))
        for name in ("zero", "low", "high"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool):
                raise InputError(f"levels.{name}", "a whole number", repr(value))
            object.__setattr__(self, name, int(value))
        low, high = self.low, self.high
        if not (SMALLEST <= low < high <= LARGEST and high - low <= LARGEST):
            expected = f"{SMALLEST} <= low < high <= {LARGEST}, at most 256 codes"
            raise InputError("levels.low, levels.high", expected, f"{low}, {high}")
        if not low <= self.zero <= high:
            raise InputError("levels.zero", f"a code from {low} to {high}", str(self.zero))

    @property
    def largest(self) -> int:
        """The largest |c - zero|."""
        return max(self.zero - self.low, self.high - self.zero)

    def steps(self, x: Array, out: Array | None = None) -> Array:
        """Return c - zero, a whole number, in the dtype of x; x may be `out`. NaN becomes low's."""
        # the division, not a product with 1 / step, decides where a tie is
        with np.errstate(over="ignore"):  # infinity is clipped
            out = np.divide(x, x.dtype.type(self.step), out=out)
        np.rint(out, out=out)
        np.fmax(out, self.low - self.zero, out=out)
        return np.fmin(out, self.high - self.zero, out=out)

    def code(self, x: Array) -> Array:
        """Return the codes of x, int16."""
        codes: Array = self.steps(x).astype(np.int16) + np.int16(self.zero)
        return codes

    def value(self, codes: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Array:
        """Return step (c - zero)."""
        values: Array = np.subtract(codes, self.zero, dtype=np.int32).astype(dtype)
        values *= values.dtype.type(self.step)
        return values

    def fake(self, x: Array, out: Array) -> None:
        """Write the levels of x, as floats, to `out`; x may be `out`."""
        self.steps(x, out)
        out *= out.dtype.type(self.step)

    def backward(self, x: Array, dx: Array) -> None:
        """Set dx to 0 where x is beyond the levels: straight through elsewhere."""
        step = x.dtype.type(self.step)
        low, high = (self.low - self.zero) * step, (self.high - self.zero) * step
        dx[(x < low) | (x > high)] = 0

    def fixed(self) -> tuple[float, int, int]:
        """Return step, low - zero and high - zero: x becomes step clip(rint(x / step))."""
        return self.step, self.low - self.zero, self.high - self.zero

    def passes(self, x: Array, out: Array) -> None:
        """Write what `backward` multiplies gradients with to `out`."""
        out[...] = 1
        self.backward(x, out)

    def bounds(self) -> tuple[float, float]:
        """Return the smallest and the largest level."""
        return (self.low - self.zero) * self.step, (self.high - self.zero) * self.step

    def record(self) -> dict[str, Any]:
        """Return what JSON can say."""
        return {"step": self.step, "zero": self.zero, "low": self.low, "high": self.high}

    @classmethod
    def of(cls, record: Any) -> Levels:
        """Undo `record`, which comes from outside."""
        names = {"step", "zero", "low", "high"}
        if not isinstance(record, Mapping) or record.keys() != names:
            raise InputError("levels", "step, zero, low and high", repr(record)[:60])
        if isinstance(record["step"], float) and math.isfinite(record["step"]):
            return cls(**record)
        raise InputError("levels.step", "a positive, finite float32", repr(record["step"])[:60])
