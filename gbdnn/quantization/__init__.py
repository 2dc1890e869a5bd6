"""Quantization: numbers to a few levels, plans for networks, calibration.

`QUANTIZERS` is the table of quantizers, which are in `quantizers/`, one a file; `PLANS` that of
plans by name.
"""

from __future__ import annotations

from gbdnn.quantization.base import Quantizer
from gbdnn.quantization.calibration import Calibration, calibrate, quantize
from gbdnn.quantization.plan import QuantizationPlan
from gbdnn.quantization.presets import PLANS, as_plan
from gbdnn.quantization.quantizers import (
    QUANTIZERS,
    Fix,
    Lsq,
    Max,
    Octav,
    Pact,
    PactPlus,
    Percentile,
    Sawb,
    SawbPlus,
    quantizer,
)
from gbdnn.quantization.rules import Rule

__all__ = [
    "PLANS", "QUANTIZERS", "Calibration", "Fix", "Lsq", "Max", "Octav", "Pact", "PactPlus",
    "Percentile", "QuantizationPlan", "Quantizer", "Rule", "Sawb", "SawbPlus", "as_plan",
    "calibrate", "quantize", "quantizer",
]  # fmt: skip
