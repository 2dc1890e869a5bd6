"""Rounds of a call until the median is known well enough."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

__all__ = ["Timed", "Timing", "measure", "median_spread"]

ROUND = 5e-4  # seconds that a round lasts at least: quick calls are repeated inside
STEADY = 1.1  # largest over smallest of the last three calls of the warm-up


@dataclass(frozen=True)
class Timing:
    """How long to measure.

    Attributes
    ----------
    rounds : int
        At least so many rounds (3 where one takes longer than `max_time`).
    spread : float
        Go on until the half width of the median's 95 % confidence interval is this part of it.
    min_time, max_time : float
        Seconds to spend on rounds at least and at most.
    """

    rounds: int = 15
    spread: float = 0.05
    min_time: float = 0.2
    max_time: float = 5.0

    @classmethod
    def fixed(cls, rounds: int, seconds: float) -> Timing:
        """At least so many rounds and seconds, however uncertain the median is then."""
        return cls(rounds, math.inf, seconds, 8 * max(seconds, 1.0))


@dataclass(frozen=True)
class Timed:
    """Seconds of a call, over rounds; `steady` is False if the warm-up had to be cut short."""

    seconds: float
    seconds_min: float
    seconds_p25: float
    seconds_p75: float
    spread: float
    rounds: int
    calls_per_round: int
    warmup_calls: int
    steady: bool


def measure(call: Callable[[], Any], timing: Timing) -> Timed:
    """Warm up until steady, then time rounds of `call` until the spread is small enough."""
    warmup, steady = _warm_up(call, timing.max_time / 4)
    repeat = max(1, math.ceil(ROUND / max(min(warmup), 1e-9)))
    seconds: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        while not _enough(seconds, repeat, timing):
            begin = time.perf_counter()
            for _ in range(repeat):
                call()
            seconds.append((time.perf_counter() - begin) / repeat)
    finally:
        if collecting:
            gc.enable()
    middle, low, high = map(float, np.quantile(seconds, (0.5, 0.25, 0.75)))
    spread = median_spread(seconds)
    return Timed(middle, min(seconds), low, high, spread, len(seconds), repeat, len(warmup), steady)


def median_spread(seconds: list[float]) -> float:
    """Return the half width of the median's 95 % confidence interval, relative to the median.

    The interval is the distribution-free one between two order statistics, whose ranks are the
    2.5 % and 97.5 % points of a binomial distribution (normal approximation). Below 6 values it
    is the whole range.
    """
    ordered, n, middle = sorted(seconds), len(seconds), median(seconds)
    low = max(math.floor((n - 1.96 * math.sqrt(n)) / 2), 0) if n >= 6 else 0
    return (ordered[n - 1 - low] - ordered[low]) / 2 / middle if middle > 0 else 0.0


def _warm_up(call: Callable[[], Any], budget: float) -> tuple[list[float], bool]:
    seconds: list[float] = []
    while True:
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
        if len(seconds) >= 3 and max(seconds[-3:]) <= STEADY * min(seconds[-3:]):
            return seconds, True
        if sum(seconds) >= budget or len(seconds) == 1000:
            return seconds, False


def _enough(seconds: list[float], repeat: int, timing: Timing) -> bool:
    spent = sum(seconds) * repeat
    if len(seconds) < 3:
        return False
    if spent >= timing.max_time:
        return True
    if len(seconds) < timing.rounds or spent < timing.min_time:
        return False
    return median_spread(seconds) <= timing.spread
