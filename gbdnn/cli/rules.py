"""What the options of `gbdnn train` say to a `Trainer`.

Modules that need numpy are imported where they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gbdnn.cli.options import plan_of

if TYPE_CHECKING:
    from gbdnn.training import EarlyStopping

__all__ = ["rules_of"]


def rules_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a `Trainer` that new and given networks share."""
    return {
        "optimizer": given["optimizer"],
        "batch_size": given["batch_size"],
        "early_stopping": _stopping(given),
        "checkpoint": given["checkpoint"],
        "quantization": given["plan"] and plan_of(given["plan"]),
        "ranks": given["ranks"],
    }


def _stopping(given: dict[str, Any]) -> EarlyStopping | None:
    """Return the rule that keeps the best epoch of the validation, and perhaps stops early."""
    from gbdnn.training import EarlyStopping

    validates, stops = given["validation"] > 0, given["early_stopping"]
    if not (validates or stops):
        return None
    return EarlyStopping(
        patience=given["patience"] if stops else given["epochs"],
        min_delta=given["tol"] if stops else 0.0,
        monitor="validation_score" if validates else "loss", restore_best=validates,
    )  # fmt: skip
