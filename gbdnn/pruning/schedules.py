"""Schedules: at which steps a pattern changes, and how much of the way to the target is gone then.

Step t of a training has t steps before it: 0 ... total - 1. A point of time is a float from 0 to 1,
the part of all steps that is over, or an int, that number of steps; 1.0 and `total` mean the last
step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from gbdnn import checks
from gbdnn.errors import DtypeError, InputError

__all__ = ["SCHEDULES", "Never", "OneShot", "Periodic", "Polynomial", "Schedule", "schedule"]

CLOSEST = 5  # steps between changes where a part of all steps is given


class Schedule(Protocol):
    """When patterns change; `static`: never."""

    static: ClassVar[bool] = False

    def updates(self, total: int | None) -> range:
        """Return the steps, 0 to `total` - 1, at which they change."""

    def progress(self, step: int, total: int | None) -> float:
        """Return the part of the way from the first sparsity to the last, 0 to 1."""


@dataclass(frozen=True)
class Never(Schedule):
    """No change: static sparse training."""

    static = True

    def updates(self, total: int | None) -> range:
        """None."""
        return range(0)

    def progress(self, step: int, total: int | None) -> float:
        """0."""
        return 0.0


@dataclass(frozen=True)
class OneShot(Schedule):
    """One change, at once to the target.

    Parameters
    ----------
    step : float or int
        When; 0 and 0.0 are the first step, before anything is learnt.
    """

    step: float | int = 0.0

    def __post_init__(self) -> None:
        _check_time("step", self.step)

    def updates(self, total: int | None) -> range:
        """The one step."""
        step = _at("step", self.step, total)
        return range(step, step + 1)

    def progress(self, step: int, total: int | None) -> float:
        """0 before, 1 from then on."""
        return float(step >= self.updates(total).start)


@dataclass(frozen=True)
class Periodic(Schedule):
    """A change every so many steps: n = (end - begin) // every changes in equal parts.

    Parameters
    ----------
    begin, end : float or int
        Changes come at begin + every, begin + 2 every, ... up to `end`. If `every` is longer than
        all that, there is one change, at `end`.
    every : float or int
        A number of steps, or a part of all steps: then at least 20 (`Polynomial`: 5), as a step
        with a change moves no weights, and with growth costs as much as several others. In
        trainings too short for four changes at least 5.

    Raises
    ------
    InputError
        If `end` is before `begin` (also when both are known as steps only), or behind the training.
    """

    begin: float | int = 0.0
    end: float | int = 0.75
    every: float | int = 0.02
    closest: ClassVar[int] = 4 * CLOSEST

    def __post_init__(self) -> None:
        for name in ("begin", "end", "every"):
            _check_time(name, getattr(self, name))
        if self.every == 0:
            raise InputError("every", "more than 0", repr(self.every))
        same = isinstance(self.begin, float) == isinstance(self.end, float)
        if same and self.end <= self.begin:
            raise InputError("end", f"more than begin = {self.begin!r}", repr(self.end))

    def updates(self, total: int | None) -> range:
        """Return begin + every, begin + 2 every, ..."""
        begin, every, count = self._grid(total)
        if count == 0:
            end = _at("end", self.end, total)
            return range(end, end + 1)
        return range(begin + every, begin + count * every + 1, every)

    def progress(self, step: int, total: int | None) -> float:
        """Return (step - begin) / (n every), within 0 and 1."""
        begin, every, count = self._grid(total)
        if count == 0:
            return float(step >= self.updates(total).start)
        return min(max((step - begin) / (count * every), 0.0), 1.0)

    def _grid(self, total: int | None) -> tuple[int, int, int]:
        """Return begin, every and the number of changes, in steps."""
        begin, end = _at("begin", self.begin, total), _at("end", self.end, total)
        if end < begin:
            got = f"{self.end!r}, step {end}"
            raise InputError("end", f"not before begin = {self.begin!r}, step {begin}", got)
        span, every = end - begin, int(self.every)
        if isinstance(self.every, float | np.floating):
            least = min(self.closest, max(span // 4, CLOSEST))
            every = max(_at("every", self.every, total), least)
        return begin, every, span // every


@dataclass(frozen=True)
class Polynomial(Periodic):
    r"""Gradual pruning: much at first, less and less towards the end.

    .. math:: s_t = s_f + (s_i - s_f) \left(1 - \frac{t - t_0}{n \Delta t}\right)^{power}

    with :math:`t_0` = begin and :math:`\Delta t` = every, for the sparsity of all layers together
    (Zhu and Gupta 2017, arXiv:1710.01878, eq. 1, with power 3). `progress` is
    :math:`(s_i - s_t) / (s_i - s_f)`.
    """

    every: float | int = 0.01
    power: float = 3.0
    closest: ClassVar[int] = CLOSEST

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive("power", self.power)

    def progress(self, step: int, total: int | None) -> float:
        """Return 1 - (1 - (t - t_0) / (n dt)) ** power."""
        return float(1 - (1 - super().progress(step, total)) ** self.power)


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "never": Never,
    "one-shot": OneShot,
    "periodic": Periodic,
    "polynomial": Polynomial,
}


def schedule(name: str | Schedule) -> Schedule:
    """Return the schedule called `name`, with its default settings; a `Schedule` as it is."""
    members = ("updates", "progress", "static")
    made: Schedule = checks.entry("schedule", name, SCHEDULES, *members)
    return made


def _check_time(argument: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        expected = "a float from 0 to 1 (part of all steps) or an int (number of steps)"
        raise DtypeError(argument, expected, repr(value))
    if isinstance(value, int | np.integer):
        if value < 0:
            raise InputError(argument, "a step from 0 up", repr(value))
    elif not 0 <= value <= 1:
        fix = "For a number of steps pass an int."
        raise InputError(argument, "a part of all steps, 0.0 to 1.0", repr(value), fix)


def _at(argument: str, value: float | int, total: int | None) -> int:
    """Return a point of time as a step."""
    if isinstance(value, int | np.integer):
        if total is not None and value > total:
            fix = "A float is a part of all steps, whatever their number."
            raise InputError(argument, f"at most {total}, the training's steps", repr(value), fix)
        return int(value) if total is None else min(int(value), total - 1)
    if total is None:
        fix = "Pass an int, or steps_per_epoch= to the Trainer."
        expected = "a step (int), as the number of steps is not known"
        raise InputError(argument, expected, repr(value), fix)
    return min(round(float(value) * total), total - 1)
