"""Plans, samples and weights that cannot be quantized, and those that just can."""

from __future__ import annotations

import pytest
import run_case
from quantization_cases import CASES

pytestmark = pytest.mark.hostile


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    run_case.check("quantization_cases", case, CASES[case][1])
