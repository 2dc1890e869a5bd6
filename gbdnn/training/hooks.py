"""What happens beside the steps of a training: validation, early stopping, bar, callbacks.

The loop calls each hook's methods in the order of its list; checkpoints are one more
(`gbdnn.training.checkpoints`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gbdnn.progress import steps_bar
from gbdnn.training.step import Training

__all__ = ["Bar", "Callback", "Callbacks", "Event", "Hook", "Validation"]

PERIOD = 0.1  # seconds between two changes of the bar


@dataclass(frozen=True, eq=False)
class Event:
    """What callbacks get.

    Attributes
    ----------
    kind : {"step", "epoch"}
    epoch, step : int
        The epoch's number, from 0; steps taken so far.
    total_steps : int or None
    loss : float
        Of the mini-batch, or the mean of the epoch.
    training : Training
        The live state (`training.model`, `training.network()`): look, do not keep.
    record : dict
        The epoch's row of the history, to which a callback may add numbers; empty after a step.
    """

    kind: str
    epoch: int
    step: int
    total_steps: int | None
    loss: float
    training: Training
    record: dict[str, Any] = field(default_factory=dict)


Callback = Callable[[Event], Any]


class Hook:
    """Called by the loop; every method has a default. A text that is returned ends the training."""

    def started(self, training: Training) -> None:
        """Before the first step of a run."""

    def before_epoch(self, training: Training) -> str | None:
        """Before an epoch; a text says why there is none."""
        return None

    def after_step(self, training: Training, loss: float) -> str | None:
        """After each step, when it is whole."""
        return None

    def measured(self, training: Training, record: dict[str, Any]) -> None:
        """At the end of an epoch, before its record goes into the history."""

    def after_epoch(self, training: Training, record: dict[str, Any]) -> str | None:
        """When an epoch is over and its record is in the history."""
        return None

    def ended(self, training: Training, stopped: str) -> None:
        """After the last step, also after an interrupt or an error."""


@dataclass(frozen=True, eq=False)
class Validation(Hook):
    """Adds loss and score of samples that are not trained on."""

    held_out: Any

    def measured(self, training: Training, record: dict[str, Any]) -> None:
        """Measure them."""
        record |= training.model.measure(self.held_out)


@dataclass(frozen=True, eq=False)
class Callbacks(Hook):
    """Calls the user's functions; a true result of any ends the training."""

    functions: Sequence[Callback]

    def after_step(self, training: Training, loss: float) -> str | None:
        """Tell of a step."""
        return self._tell(
            Event("step", training.epoch, training.step, training.total, loss, training)
        )

    def after_epoch(self, training: Training, record: dict[str, Any]) -> str | None:
        """Tell of an epoch."""
        return self._tell(
            Event(
                "epoch", record["epoch"], training.step, training.total, record["loss"], training,
                record,
            )
        )  # fmt: skip

    def _tell(self, event: Event) -> str | None:
        answers = [function(event) for function in self.functions]  # all are asked
        return "callback" if any(answers) else None


class Bar(Hook):
    """Progress on standard error: epoch, loss of the epoch so far, time left (`gbdnn.progress`)."""

    def started(self, training: Training) -> None:
        """Show it."""
        self._bar = steps_bar(_text(training), training.total, training.step)
        self._update = self._bar.__enter__()
        self._last = 0.0

    def after_step(self, training: Training, loss: float) -> str | None:
        """Move it, now and then."""
        if time.monotonic() - self._last >= PERIOD:
            self._last = time.monotonic()
            self._update(_text(training), training.step)
        return None

    def after_epoch(self, training: Training, record: dict[str, Any]) -> str | None:
        """Move it; the text still says this epoch, with its mean loss and score."""
        self._last = time.monotonic()
        self._update(_text(training), training.step)
        return None

    def ended(self, training: Training, stopped: str) -> None:
        """Leave it as it is."""
        self._update(_text(training), training.step)
        self._bar.__exit__(None, None, None)


def _text(training: Training) -> str:
    """Return "epoch 3/10, loss 0.1234, validation score 0.9876".

    Between two epochs it is the one that has ended; the score is always the last that there is.
    """
    epochs, record = training.trainer.epochs, training.records[-1] if training.records else {}
    number, loss = training.epoch, record.get("loss")
    if training.position or not training.records:
        number += 1
        loss = training.loss_sum / training.weight_sum if training.weight_sum else None
    parts = [f"epoch {number}/{epochs}"]
    if loss is not None:
        parts.append(f"loss {loss:.4g}")
    if "validation_score" in record:
        parts.append(f"validation score {record['validation_score']:.4f}")
    return ", ".join(parts)
