"""What a training recorded, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gbdnn.errors import choose
from gbdnn.summary import to_frame

__all__ = ["History"]


@dataclass(frozen=True, repr=False)
class History:
    """One record for each epoch, a dict of numbers.

    Keys: epoch (from 0), step (done so far), loss (mean over the epoch's samples, each as it was
    when its mini-batch came, with dropout), learning_rate (of the last step), nnz, density, seconds
    (spent in steps so far), and with validation data validation_loss and validation_score (accuracy
    for classes and labels, else R^2). Callbacks may have added more.
    """

    records: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        losses = [record["loss"] for record in self.records]
        course = f", loss {losses[0]:.4g} to {losses[-1]:.4g}" if losses else ""
        return f"History({len(self)} epochs{course})"

    def __getitem__(self, key: str) -> list[Any]:
        """Return one column, for example ``history["loss"]``; None where an epoch has no such key.

        Raises
        ------
        UnknownNameError
            If no epoch has it; of no epochs any column is empty.
        """
        if self.records:
            choose("key", key, {name for record in self.records for name in record})
        return [record.get(key) for record in self.records]

    def to_frame(self) -> Any:
        """Return a pandas DataFrame, one row for each epoch.

        Raises
        ------
        MissingDependencyError
            Without pandas.
        """
        return to_frame(self.records, "history.records")
