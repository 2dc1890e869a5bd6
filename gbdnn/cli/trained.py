"""What the options of `gbdnn train` say to a `Trainer`, and what it says of a training.

Modules that need numpy are imported where they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gbdnn.cli.options import plan_of
from gbdnn.cli.output import echo_rows

if TYPE_CHECKING:
    from gbdnn.training import EarlyStopping, Result

__all__ = ["constant_score", "kept", "report", "rules_of"]


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


def kept(result: Result) -> dict[str, Any]:
    """Return loss and score of the epoch whose weights the result has; {} before the first end."""
    records, best = result.history.records, result.training.best
    if not records:
        return {}
    kept = records[best["epoch"] if best and best["network"] else -1]
    names = ("epoch", "loss", "validation_loss", "validation_score")
    return {name: kept[name] for name in names if name in kept}


def constant_score(targets: Any, classify: bool) -> float:
    """Return the score of the best answer that is the same for all samples."""
    if not classify or not len(targets):
        return 0.0
    return float(max((targets == code).mean() for code in set(targets.tolist())))


def report(record: dict[str, Any]) -> None:
    rows = {
        "input": f"{record['input']}: {record['samples']:,} samples, "
        f"{record['validation_samples']:,} held out",
        "network": f"{' x '.join(map(str, record['sizes']))}, {record['edges']:,} weights "
        f"({record['density']:.2%} of all places)",
        "epochs": f"{len(record['history'])} ({record['stopped']})",
    }
    if "loss" in record:
        if (kept := record["epoch"] + 1) < len(record["history"]):
            rows["epochs"] += f"; the best one, {kept}, is kept"
        rows["loss"] = f"{record['loss']:.4f}"
    if "validation_score" in record:
        name = "accuracy" if record["task"] == "classify" else "R^2"
        rows[f"validation {name}"] = f"{record['validation_score']:.4f}"
    rows |= {
        "seconds": f"{record['seconds']:.1f}",
        "model": f"{record['out']} ({record['file_bytes']:,} bytes)",
    }
    echo_rows("trained", rows)
