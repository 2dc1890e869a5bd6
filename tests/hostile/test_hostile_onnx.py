"""Damaged and forged ONNX files: the right error, and no signal."""

from __future__ import annotations

import pytest
import run_case

pytest.importorskip("onnx")
from onnx_cases import CASES

pytestmark = pytest.mark.hostile


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    run_case.check("onnx_cases", case, CASES[case][1])
