"""What a training asks of processes that train one network together."""

from __future__ import annotations

from typing import Any, Protocol

from gbdnn.data.batches import Batches
from gbdnn.training.checkpoints import Checkpoints
from gbdnn.training.hooks import Hook
from gbdnn.training.step import Training

__all__ = ["Ranks"]


class Ranks(Protocol):
    """Processes with a part of each mini-batch each; `gbdnn.distributed.MPIRanks` are some.

    Attributes
    ----------
    rank, size : int
        The number of this process, from 0, and how many there are.
    """

    rank: int
    size: int

    def model(self, network: Any, **options: Any) -> Any:
        """Return a `Model` of these arguments whose loss and gradients are those of all ranks."""

    def begin(
        self,
        training: Training,
        batches: Batches,
        hooks: list[Hook],
        checkpoints: Checkpoints | None,
        resume: bool,
    ) -> tuple[list[Hook], Checkpoints | None]:
        """Let all ranks start from the same state; return the hooks and checkpoints of this one."""
