"""Learning-rate schedules."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbdnn.errors import InputError, UnknownNameError
from gbdnn.training import Constant, Cosine, StepDecay, WarmUp
from gbdnn.training.schedules import SCHEDULES, schedule


def factors(rule, total):
    return [rule(step, total) for step in range(total)]


def test_step_decay():
    rule = StepDecay(milestones=[0.5, 0.75], gamma=0.1)  # a list is fine
    np.testing.assert_allclose(factors(rule, 8), [1] * 4 + [0.1] * 2 + [0.01] * 2)
    assert hash(rule) == hash(StepDecay())


def test_cosine():
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)]
    np.testing.assert_allclose(factors(Cosine(floor=0.2), 5), expected)


def test_warm_up():
    rule = WarmUp(share=0.4, after="step")
    np.testing.assert_allclose(factors(rule, 10), [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.1, 0.1, 0.01])
    assert rule.after == StepDecay()


def test_constant():
    assert factors(Constant(), 3) == [1, 1, 1]


@given(total=st.integers(1, 200), name=st.sampled_from(sorted(SCHEDULES)))
def test_factors_are_between_0_and_1(total, name):
    found = factors(schedule(name), total)
    assert all(0 < factor <= 1 for factor in found)
    assert max(found) == 1 or name == "cosine"


@given(total=st.integers(20, 200))
def test_all_but_constant_end_below_their_peak(total):
    for name in set(SCHEDULES) - {"constant"}:
        found = factors(schedule(name), total)
        assert found[-1] < 0.25
        peak = int(np.argmax(found))
        assert (np.diff(found[:peak]) > 0).all()
        assert (np.diff(found[peak:]) <= 0).all()


def test_names_and_functions():
    def own(step, total):
        return 0.5

    assert schedule(own) is own
    assert schedule("cosine") == Cosine()
    for wrong in ("linear", Cosine, None, 3):
        with pytest.raises(UnknownNameError, match="'warm-up'"):
            schedule(wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StepDecay(milestones=()),
        lambda: StepDecay(milestones=(0.75, 0.5)),
        lambda: StepDecay(milestones=(0.5, 0.5)),
        lambda: StepDecay(milestones=(0.5, 1.0)),
        lambda: StepDecay(milestones=(0, 0.5)),
        lambda: StepDecay(milestones=(float("nan"),)),
        lambda: StepDecay(milestones=3),
        lambda: StepDecay(milestones=("a",)),
        lambda: StepDecay(gamma=0),
        lambda: StepDecay(gamma=2),
        lambda: StepDecay(gamma=float("nan")),
        lambda: Cosine(floor=-0.1),
        lambda: Cosine(floor=1.5),
        lambda: WarmUp(share=0),
        lambda: WarmUp(share=1),
        lambda: WarmUp(share=float("nan")),
        lambda: WarmUp(after="later"),
    ],
)
def test_bad_settings(make):
    with pytest.raises(InputError):
        make()
