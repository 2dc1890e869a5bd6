"""The training loop: epochs of steps, and the hooks that are called beside them."""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from gbdnn.data.batches import Batches
from gbdnn.errors import InputError, TrainingInterrupted
from gbdnn.training.checkpoints import Checkpoints
from gbdnn.training.hooks import Hook
from gbdnn.training.interrupts import Stopped, stoppable, uninterrupted
from gbdnn.training.step import Result, Training

__all__ = ["run"]


def run(
    training: Training,
    batches: Batches,
    hooks: Sequence[Hook] = (),
    checkpoints: Checkpoints | None = None,
) -> Result:
    """Train from where this training is to the end of the last epoch.

    Parameters
    ----------
    batches : Batches
    hooks : sequence of Hook
    checkpoints : Checkpoints, optional
        Opened already; written after each epoch, and when the training is stopped.
    """
    trainer = training.trainer
    training.total = None if batches.steps is None else batches.steps * trainer.epochs
    training.learning_rate(training.step)
    training.start_sparsifier()
    hooks, stopped = [*hooks, *([] if checkpoints is None else [checkpoints])], "error"
    started: list[Hook] = []
    try:
        with stoppable():
            for hook in hooks:
                hook.started(training)
                started.append(hook)
            stopped = _epochs(training, batches, hooks)
    except KeyboardInterrupt as error:
        stopped = "interrupted"
        if checkpoints is not None:
            with suppress(KeyboardInterrupt):
                checkpoints.save(training)  # which a second Ctrl-C ends: older files are whole
        number = error.signal if isinstance(error, Stopped) else signal.SIGINT
        raise TrainingInterrupted(training.result(stopped), signal=number) from error
    finally:
        for hook in started:
            hook.ended(training, stopped)
    return training.result(stopped)


def _epochs(training: Training, batches: Batches, hooks: Sequence[Hook]) -> str:
    """Run the epochs that are left; return why it ended."""
    while training.epoch < training.trainer.epochs:
        for hook in hooks:
            if (reason := hook.before_epoch(training)) is not None:
                return reason
        for batch in batches.epoch(training.epoch, training.seed, training.position):
            loss = training.train_step(batch)
            reasons = [hook.after_step(training, loss) for hook in hooks]
            if (reason := next(filter(None, reasons), None)) is not None:
                return reason
        if not training.position:
            return _no_data(training)
        record = _end_epoch(training, hooks)
        reasons = [hook.after_epoch(training, record) for hook in hooks]
        if (reason := next(filter(None, reasons), None)) is not None:
            return reason
    return "epochs"


def _end_epoch(training: Training, hooks: Sequence[Hook]) -> dict[str, Any]:
    """Write the epoch's record and go to the next epoch."""
    patterns = [p.pattern for p in training.model.parameters.values() if p.form is not None]
    nnz = sum(pattern.nnz for pattern in patterns)
    record: dict[str, Any] = {
        "epoch": training.epoch,
        "step": training.step,
        "loss": training.loss_sum / training.weight_sum if training.weight_sum else 0.0,
        "learning_rate": training.learning_rate(training.step - 1),
        "nnz": nnz,
        "density": nnz / sum(math.prod(pattern.shape) for pattern in patterns),
        "seconds": training.seconds,
    }
    for hook in hooks:
        hook.measured(training, record)
    with uninterrupted():
        training.records.append(record)
        training.epoch, training.position = training.epoch + 1, 0
        training.loss_sum = training.weight_sum = 0.0
    return record


def _no_data(training: Training) -> str:
    """An epoch without a mini-batch: an error at the beginning, later the end."""
    if not training.step:
        raise InputError("X", "at least one mini-batch", "an iterable that gave none")
    message = (
        f"X: nothing came for epoch {training.epoch} of {training.trainer.epochs}; training ends"
    )
    warnings.warn(message, stacklevel=5)
    return "end of data"
