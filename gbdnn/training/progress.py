"""The bar of a training on standard error: epoch, mean loss of the epoch so far, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gbdnn.training.loop import Training

__all__ = ["shown"]

PERIOD = 0.1  # seconds between two changes


@contextmanager
def shown(training: Training, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a bar while inside, if the Trainer has `progress`; yields what is called after a step.

    Without `total` it is not known how much is left, and the bar only shows that something moves.
    """
    if not training.trainer.progress:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(_text(training), total=total, completed=training.step)
        last = 0.0

        def show() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= PERIOD:
                last = now
                progress.update(task, description=_text(training), completed=training.step)

        try:
            yield show
        finally:
            progress.update(task, description=_text(training), completed=training.step)


def _text(training: Training) -> str:
    """Return "epoch 3/10 loss 0.1234 score 0.9876"."""
    epochs, record = training.trainer.epochs, training.records[-1] if training.records else {}
    loss = record.get("loss")
    if training.weight_sum:
        loss = training.loss_sum / training.weight_sum
    parts = [f"epoch {min(training.epoch + 1, epochs)}/{epochs}"]
    if loss is not None:
        parts.append(f"loss {loss:.4g}")
    if "validation_score" in record:
        parts.append(f"score {record['validation_score']:.4f}")
    return " ".join(parts)
