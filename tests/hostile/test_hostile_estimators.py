"""Damaged samples, labels, weights and settings of the estimators: the right error, no signal."""

from __future__ import annotations

import pytest
import run_case
from estimator_cases import CASES

pytestmark = pytest.mark.hostile


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    run_case.check("estimator_cases", case, CASES[case][1])
