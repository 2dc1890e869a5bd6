"""Settings, samples, networks and folders that training cannot use: the right error, no signal."""

from __future__ import annotations

import pytest
import run_case
from training_cases import CASES

pytestmark = pytest.mark.hostile


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    run_case.check("training_cases", case, CASES[case][1])
