"""Checks of settings: each returns the value as a plain Python number, or raises."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gbdnn.errors import DtypeError, InputError

__all__ = ["count", "fraction", "generator_or_seed", "not_negative", "positive"]


def positive(name: str, value: Any) -> float:
    """A positive, finite number."""
    if not (_is_number(value) and value > 0 and math.isfinite(value)):
        raise InputError(name, "a positive, finite number", repr(value))
    return float(value)


def not_negative(name: str, value: Any) -> float:
    """A finite number from 0 up."""
    if not (_is_number(value) and value >= 0 and math.isfinite(value)):
        raise InputError(name, "a finite number from 0 up", repr(value))
    return float(value)


def fraction(name: str, value: Any) -> float:
    """A number from 0 up to, but not including, 1."""
    if not (_is_number(value) and 0 <= value < 1):
        raise InputError(name, "a number in [0, 1)", repr(value))
    return float(value)


def count(name: str, value: Any) -> int:
    """A whole number from 1 up."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1:
        raise InputError(name, "a whole number from 1 up", repr(value))
    return int(value)


def generator_or_seed(name: str, value: Any) -> int | np.random.Generator:
    """A Generator, or a whole number from 0 up."""
    if isinstance(value, np.random.Generator):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0:
        return int(value)
    expected = "a numpy.random.Generator or a whole number from 0 up"
    raise DtypeError(name, expected, repr(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
