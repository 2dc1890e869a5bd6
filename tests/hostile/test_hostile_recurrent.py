"""Sequences, states and layers that cannot be computed, and those that just can."""

from __future__ import annotations

import pytest
import run_case
from recurrent_cases import CASES

pytestmark = pytest.mark.hostile


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    run_case.check("recurrent_cases", case, CASES[case][1])
