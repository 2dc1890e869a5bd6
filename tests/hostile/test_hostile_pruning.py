"""Impossible sparsities, schedules, structures and gradients: the right error, and no signal."""

from __future__ import annotations

import pytest
import run_case
from pruning_cases import CASES

pytestmark = pytest.mark.hostile


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    run_case.check("pruning_cases", case, CASES[case][1])
