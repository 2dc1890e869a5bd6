"""Schedules against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbdnn.errors import DtypeError, InputError
from gbdnn.pruning import SCHEDULES, SET, Never, OneShot, Periodic, Polynomial, RigL
from gbdnn.pruning.schedules import schedule


def test_zhu_and_gupta():
    """s_t = s_f + (s_i - s_f) (1 - (t - t0) / (n dt))^3 at t0 + dt, ..., t0 + n dt."""
    s_i, s_f, t0, n, dt = 0.1, 0.95, 20, 8, 10
    schedule = Polynomial(begin=t0, end=t0 + n * dt, every=dt)
    updates = schedule.updates(1000)
    assert list(updates) == [30, 40, 50, 60, 70, 80, 90, 100]
    for t in updates:
        expected = s_f + (s_i - s_f) * (1 - (t - t0) / (n * dt)) ** 3
        assert s_i + (s_f - s_i) * schedule.progress(t, 1000) == pytest.approx(expected, abs=1e-12)
    assert schedule.progress(t0, 1000) == 0
    assert schedule.progress(0, 1000) == 0
    assert schedule.progress(100, 1000) == schedule.progress(999, 1000) == 1


def test_periodic_is_linear():
    schedule = Periodic(begin=0, end=30, every=10)
    assert list(schedule.updates(100)) == [10, 20, 30]
    progress = [schedule.progress(t, 100) for t in (0, 10, 20, 30, 31)]
    assert progress == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


def test_times_are_parts_or_numbers():
    """Floats are parts of the training, ints are steps; 1.0 is the last step, 1 the second."""
    assert list(OneShot(0.5).updates(10)) == [5]
    assert list(OneShot(1.0).updates(10)) == list(OneShot(10).updates(10)) == [9]
    assert list(OneShot(1).updates(10)) == [1]
    assert list(OneShot().updates(10)) == [0]
    assert list(Periodic(0.0, 0.5, 0.1).updates(1000)) == [100, 200, 300, 400, 500]
    assert list(Periodic(0, 40, 20).updates(None)) == [20, 40]
    assert list(Never().updates(None)) == []


@pytest.mark.parametrize(
    ("schedule", "total", "every"),
    [
        (Periodic(), 10_000, 200),
        (Periodic(), 1000, 20),
        (Periodic(), 400, 20),
        (Periodic(), 80, 15),
        (Periodic(), 30, 5),
        (Periodic(0.0, 0.75, 3), 1000, 3),
        (Periodic(0.0, 0.75, np.int64(3)), 1000, 3),
        (Polynomial(), 1000, 10),
        (Polynomial(), 100, 5),
    ],
)
def test_parts_of_short_trainings(schedule, total, every):
    """Changes are not closer than their costs allow, but there are four if there is time."""
    updates = schedule.updates(total)
    assert (updates[0], updates.step) == (every, every)
    assert updates[-1] <= 0.75 * total < updates[-1] + every


@given(
    total=st.integers(1, 5000),
    begin=st.floats(0, 0.99),
    length=st.floats(0.001, 1),
    every=st.floats(0.001, 1),
)
def test_every_training_reaches_the_target(total, begin, length, every):
    """However short: at least one update, all within the training, progress rising to 1."""
    schedule = Polynomial(begin, min(begin + length, 1.0), every)
    updates = schedule.updates(total)
    assert len(updates) >= 1
    assert 0 <= updates[0] <= updates[-1] < total
    progress = [schedule.progress(t, total) for t in updates]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert OneShot(begin).progress(total - 1, total) == 1


@pytest.mark.parametrize("growth", [SET(0.4), RigL(0.4)])
def test_rigl_decay(growth):
    """alpha / 2 (1 + cos(pi t / T_end)), 0 at the end; constant if asked for."""
    for t in (0, 10, 75, 100):
        expected = 0.2 * (1 + math.cos(math.pi * t / 100))
        assert growth.part(t, 100) == pytest.approx(expected, abs=1e-15)
    assert growth.part(0, 100) == 0.4
    assert growth.part(120, 100) == 0
    assert type(growth)(0.4, decay="constant").part(100, 100) == 0.4


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Periodic(0.5, 0.25), "end"),
        (lambda: Periodic(0.5, 0.5), "end"),
        (lambda: Polynomial(100, 50, 5), "end"),
        (lambda: Periodic(0.0, 0.5, 0.0), "every"),
        (lambda: Periodic(0.0, 0.5, 0), "every"),
        (lambda: Periodic(-0.1), "begin"),
        (lambda: Periodic(-1), "begin"),
        (lambda: Periodic(0.0, 1.5), "end"),
        (lambda: OneShot(math.nan), "step"),
        (lambda: OneShot(math.inf), "step"),
        (lambda: Polynomial(power=0), "power"),
        (lambda: Polynomial(power=math.nan), "power"),
        (lambda: Periodic(100, 0.5, 10).updates(150), "end"),
        (lambda: Periodic(0, 200, 10).updates(150), "end"),
        (lambda: OneShot(200).updates(150), "step"),
        (lambda: OneShot(0.5).updates(None), "step"),
        (lambda: SET(0), "fraction"),
        (lambda: SET(1.0), "fraction"),
        (lambda: RigL(math.nan), "fraction"),
        (lambda: RigL("0.3"), "fraction"),
        (lambda: RigL(memory=0), "memory"),
        (lambda: SET(decay="linear"), "decay"),
    ],
)
def test_impossible_settings(make, argument):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.argument == argument


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_names(name):
    """A name is the class with its default settings; other objects need the methods."""
    assert schedule(name) == SCHEDULES[name]()
    assert schedule(schedule(name)) == schedule(name)
    with pytest.raises(DtypeError, match="updates, progress, static"):
        schedule(SCHEDULES[name])


@pytest.mark.parametrize("value", ["0.5", None, True, [0.5]])
def test_times_are_numbers(value):
    with pytest.raises(DtypeError):
        OneShot(value)
