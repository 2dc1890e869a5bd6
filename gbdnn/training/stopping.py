"""Early stopping: a rule that looks at the history, and the rate that falls by such a rule."""

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


LEAST_RATE = 1e-6  # at which a falling rate has ended, as in scikit-learn


@dataclass(frozen=True)
class EarlyStopping:
    """End the training when `monitor` has not improved for `patience` epochs.

    Parameters
    ----------
    patience : int
        Epochs in succession without improvement after which it ends.
    min_delta : float
        What counts as improvement of an epoch: this much or more beyond the best epoch so far.
    monitor : str
        "validation_score" (higher is better), "validation_loss" or "loss".
    restore_best : bool
        The result has the weights of the best epoch, whatever `min_delta`; costs one copy of the
        weights.
    divide_rate : float
        Above 1: each time when it would end the learning rate is divided by this instead, until it
        is 1e-6 or less.
    """

    patience: int = 10
    min_delta: float = 0.0
    monitor: str = "validation_score"
    restore_best: bool = True
    divide_rate: float = 1.0

    def __post_init__(self) -> None:
        choose("monitor", self.monitor, MONITORS)
        object.__setattr__(self, "patience", checks.count("patience", self.patience))
        object.__setattr__(self, "min_delta", checks.not_negative("min_delta", self.min_delta))
        checks.within("divide_rate", self.divide_rate, "[1, inf)")

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

    def ends(self, records: list[dict[str, Any]]) -> int:
        """Return how many times, by the records of all epochs, patience was over."""
        best, without, ends = -math.inf, 0, 0
        for record in records:
            if self.monitor not in record:  # of epochs before a training went on with validation
                continue
            value = self.value(record)
            improved = value > best and value >= best + self.min_delta
            without = 0 if improved else without + 1
            best = max(best, value)
            if without >= self.patience:
                without, ends = 0, ends + 1
        return ends


@dataclass(frozen=True, eq=False)
class Stop(Hook):
    """Applies an `EarlyStopping`: keeps the best epoch's network, ends the training in time.

    All else is in the history: a training that goes on from a checkpoint needs no more state.
    """

    rule: EarlyStopping

    def measured(self, training: Training, record: dict[str, Any]) -> None:
        """Keep the network if the epoch is the best one; of equal scores the lower loss decides."""
        value, best = self.rule.value(record), training.best
        if best is not None and value == best["value"]:
            before = training.records[best["epoch"]]
            better = record.get("validation_loss", 0) < before.get("validation_loss", 0)
        else:
            better = best is None or value > best["value"]
        if better:
            network = training.network() if self.rule.restore_best else None
            training.best = {"value": value, "epoch": record["epoch"], "network": network}

    def before_epoch(self, training: Training) -> str | None:
        """Lower the rate, or say that patience is over."""
        rule, ends = self.rule, self.rule.ends(training.records)
        if not ends:
            return None
        if rule.divide_rate > 1:
            before = training.trainer.learning_rate / rule.divide_rate ** (ends - 1)
            if before > LEAST_RATE:
                training.slowdown = rule.divide_rate**ends
                return None
        return "early stopping"
