"""Early stopping: a rule that looks at the history."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gbdnn import checks
from gbdnn.errors import InputError, choose
from gbdnn.training.hooks import Hook
from gbdnn.training.step import Training

__all__ = ["EarlyStopping", "Stop"]

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


@dataclass(frozen=True, eq=False)
class Stop(Hook):
    """Applies an `EarlyStopping`: remembers the best epoch, ends the training after the last."""

    rule: EarlyStopping

    def measured(self, training: Training, record: dict[str, Any]) -> None:
        """Remember the epoch if it is the best one."""
        value, best = self.rule.value(record), training.best
        if best is None or value > best["value"] + self.rule.min_delta:
            network = training.network() if self.rule.restore_best else None
            training.best = {"value": value, "epoch": record["epoch"], "network": network}

    def before_epoch(self, training: Training) -> str | None:
        """Say whether patience is over."""
        best = training.best
        over = best is not None and training.epoch - 1 - best["epoch"] >= self.rule.patience
        return "early stopping" if over else None
