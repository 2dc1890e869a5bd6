"""What a training hands out: events to callbacks while it runs, and a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gbdnn.network import Network
from gbdnn.training.history import History

if TYPE_CHECKING:
    from gbdnn.training.loop import Training

__all__ = ["Callback", "Event", "Result"]


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


@dataclass(frozen=True, eq=False)
class Result:
    """What a training leaves.

    Attributes
    ----------
    network : Network
        With `EarlyStopping` that restores it the best epoch's, however the training ended; else the
        last one, which is also `training.network()`.
    history : History
        One record for each epoch.
    stopped : str
        "epochs", "early stopping", "callback", "end of data", "interrupted" or "diverged".
    training : Training
        The live state, with which `Trainer.resume` goes on.
    """

    network: Network
    history: History
    stopped: str
    training: Training

    def __repr__(self) -> str:
        return f"Result({self.network!r}, {self.history!r}, stopped={self.stopped!r})"
