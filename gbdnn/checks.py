"""Checks of settings: each returns the value as a plain Python number, or raises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from numbers import Real
from typing import Any

import numpy as np

from gbdnn.errors import DtypeError, InputError, MissingDependencyError, choose

__all__ = [
    "count", "entry", "fraction", "generator_or_seed", "not_negative", "package", "positive",
    "within",
]  # fmt: skip


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


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number from `least` up."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise InputError(name, f"a whole number from {least} up", repr(value))
    return int(value)


def within(name: str, value: Any, interval: str, *, whole: bool = False) -> float:
    """A number of an interval as mathematics writes it, such as "(0, 1]"; or a whole one.

    With `whole` floats without a fraction are taken too, and infinity where "inf]" includes it.
    """
    low, high = map(float, interval[1:-1].split(","))
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (
        number
        and (low < value or (interval[0] == "[" and value == low))
        and (value < high or (interval[-1] == "]" and value == high))
        and (not whole or value == math.inf or value % 1 == 0)
    ):
        raise InputError(name, f"a {'whole ' * whole}number in {interval}", repr(value))
    return float(value)


def generator_or_seed(name: str, value: Any) -> int | np.random.Generator:
    """A Generator, or a whole number from 0 up."""
    if isinstance(value, np.random.Generator):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0:
        return int(value)
    expected = "a numpy.random.Generator or a whole number from 0 up"
    raise DtypeError(name, expected, repr(value))


def entry(name: str, value: Any, table: Mapping[str, Any], *members: str) -> Any:
    """What stands in `table`, or what that makes, for a name; anything else must have `members`."""
    if isinstance(value, str):
        made = table[choose(name, value, table)]
        return made() if callable(made) else made
    if isinstance(value, type) or not all(hasattr(value, member) for member in members):
        known = ", ".join(map(repr, sorted(table)))
        got = repr(value) if isinstance(value, type) else type(value).__name__
        raise DtypeError(name, f"one of {known}, or an object with {', '.join(members)}", got)
    return value


def package(name: str, what: str, extra: str) -> Any:
    """Import and return an optional package that `what` needs and an extra of gbdnn installs.

    Raises
    ------
    MissingDependencyError
    """
    try:
        return import_module(name)
    except ImportError:
        fix = f"Install it: pip install 'gbdnn[{extra}]'."
        raise MissingDependencyError(what, f"the package {name}", "none", fix) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
