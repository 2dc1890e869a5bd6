"""Damaged, forged and foreign model files: the right error, and no signal."""

from __future__ import annotations

import pytest
import run_case
from files_cases import CASES

pytestmark = pytest.mark.hostile


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    run_case.check("files_cases", case, CASES[case][1])
