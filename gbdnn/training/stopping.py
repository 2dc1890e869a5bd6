"""Early stopping: a rule that looks at the history."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gbdnn import checks
from gbdnn.errors import InputError, choose

__all__ = ["EarlyStopping"]

MONITORS = ("loss", "validation_loss", "validation_score")


@dataclass(frozen=True)
class EarlyStopping:
    """End the training when `monitor` has not improved for `patience` epochs.

    Parameters
    ----------
    patience : int
        Epochs without improvement after which it ends.
    min_delta : float
        What counts as improvement: more than this.
    monitor : str
        "validation_score" (higher is better), "validation_loss" or "loss".
    restore_best : bool
        The result has the weights of the best epoch; costs one copy of the weights.
    """

    patience: int = 10
    min_delta: float = 0.0
    monitor: str = "validation_score"
    restore_best: bool = True

    def __post_init__(self) -> None:
        choose("monitor", self.monitor, MONITORS)
        object.__setattr__(self, "patience", checks.count("patience", self.patience))
        object.__setattr__(self, "min_delta", checks.not_negative("min_delta", self.min_delta))

    def check(self, validates: bool) -> None:
        """Raise `InputError` if what is monitored will not be there."""
        if self.monitor != "loss" and not validates:
            fix = "Pass validation=(X, y) to fit, or monitor='loss'."
            raise InputError("monitor", "'loss' without validation data", repr(self.monitor), fix)

    def value(self, record: dict[str, Any]) -> float:
        """Return the monitored number, signed so that higher is better; NaN is the worst."""
        number = float(record[self.monitor])
        if math.isnan(number):
            return -math.inf
        return number if self.monitor == "validation_score" else -number
