"""Learning-rate schedules: plain data that map a step to a factor of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, cast

from gbdnn import checks
from gbdnn.errors import InputError, choose

__all__ = [
    "SCHEDULES", "Constant", "Cosine", "InverseScaling", "Schedule", "StepDecay", "WarmUp",
    "schedule",
]  # fmt: skip


class Schedule(Protocol):
    """A factor for each step: one of the classes below or any function of these arguments."""

    def __call__(self, step: int, total: int, /) -> float:
        """Return the factor, 0 or more, for step 0 ... total - 1."""


@dataclass(frozen=True)
class Constant:
    """1 throughout."""

    needs_total = False  # it need not know how many steps there will be

    def __call__(self, step: int, total: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class StepDecay:
    """gamma^j, j the number of `milestones`, fractions of the training, that are behind.

    Parameters
    ----------
    milestones : sequence of float
        Ascending, each between 0 and 1.
    gamma : float in (0, 1]
    """

    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        try:
            edges = tuple(float(milestone) for milestone in self.milestones)
        except (TypeError, ValueError):
            edges = ()
        if not (edges and all(a < b for a, b in pairwise((0.0, *edges, 1.0)))):
            expected = "ascending fractions of the training, each between 0 and 1"
            raise InputError("milestones", expected, repr(self.milestones))
        object.__setattr__(self, "milestones", edges)
        if checks.positive("gamma", self.gamma) > 1:
            raise InputError("gamma", "a number in (0, 1]", repr(self.gamma))

    def __call__(self, step: int, total: int) -> float:
        """Return gamma^j."""
        behind = sum(step >= milestone * total for milestone in self.milestones)
        return float(self.gamma**behind)


@dataclass(frozen=True)
class Cosine:
    """floor + (1 - floor) (1 + cos(pi step / total)) / 2 (Loshchilov and Hutter 2017, eq. 5)."""

    floor: float = 0.0

    def __post_init__(self) -> None:
        if checks.not_negative("floor", self.floor) > 1:
            raise InputError("floor", "a number in [0, 1]", repr(self.floor))

    def __call__(self, step: int, total: int) -> float:
        """Return the factor: 1 at step 0, nearly `floor` at the last one."""
        wave = (1 + math.cos(math.pi * step / max(total, 1))) / 2
        return self.floor + (1 - self.floor) * wave


@dataclass(frozen=True)
class WarmUp:
    """From nearly 0 to 1 in a straight line over the first `share` of the steps, then `after`.

    Goyal et al. 2017, section 2.2. `after`, a schedule or its name, gets the steps that are left as
    its whole.
    """

    share: float = 0.05
    after: Schedule | str = Cosine()

    def __post_init__(self) -> None:
        if checks.positive("share", self.share) >= 1:
            raise InputError("share", "a fraction of the training below 1", repr(self.share))
        object.__setattr__(self, "after", schedule(self.after))

    def __call__(self, step: int, total: int) -> float:
        """Return (step + 1) / warm during warm-up, then what `after` says."""
        warm = max(round(self.share * total), 1)
        if step < warm:
            return (step + 1) / warm
        after = cast("Schedule", self.after)
        return after(step - warm, max(total - warm, 1))


@dataclass(frozen=True)
class InverseScaling:
    """(1 + unit * floor(step / every))^-power, however long the training is.

    scikit-learn's "invscaling" has the samples of a pass as `unit`, its steps as `every`.
    """

    power: float = 0.5
    every: int = 1
    unit: int = 1
    needs_total = False

    def __post_init__(self) -> None:
        checks.not_negative("power", self.power)
        for name in ("every", "unit"):
            checks.count(name, getattr(self, name))

    def __call__(self, step: int, total: int) -> float:
        """Return the factor."""
        return float((1 + self.unit * (step // self.every)) ** -self.power)


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "invscaling": InverseScaling,
    "step": StepDecay,
    "warm-up": WarmUp,
}


def schedule(name: Schedule | str) -> Schedule:
    """Return the schedule called `name`, with its default settings; a schedule as it is."""
    if callable(name) and not isinstance(name, type):
        return name
    return SCHEDULES[choose("schedule", name, SCHEDULES)]()
