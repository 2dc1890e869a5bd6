"""Damaged matrices, batches and arguments: the right error, and no signal."""

from __future__ import annotations

import pytest
import run_case
from core_cases import CASES

pytestmark = pytest.mark.hostile


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    run_case.check("core_cases", case, CASES[case][1])


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        ("segfault", "by signal SIGSEGV"),
        ("hang", "by signal SIGALRM"),
        ("exit", "with status 3"),
        ("wrong class", "another class"),
        ("no error", "no error"),
    ],
)
def test_the_runner_sees(case, wanted):
    """The checker itself fails on crashes, hangs and wrong classes."""
    with pytest.raises(AssertionError, match=wanted):
        run_case.check("runner_cases", case, ValueError)
