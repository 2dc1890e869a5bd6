"""Damaged, forged and odd audio, manifests and language models: the right error, and no signal."""

from __future__ import annotations

import pytest
import run_case

pytest.importorskip("soundfile")
pytest.importorskip("kaldi_native_fbank")

from speech_cases import CASES

pytestmark = pytest.mark.hostile


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    run_case.check("speech_cases", case, CASES[case][1])
