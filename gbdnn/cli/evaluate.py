"""The command `gbdnn evaluate`: how well a model does on labelled samples.

Modules that need numpy are imported where they are used.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbdnn.cli.options import FILE, TableChoice, data_options, run_options
from gbdnn.cli.output import echo_json, echo_rows, printable
from gbdnn.errors import DtypeError, InputError, ShapeError

if TYPE_CHECKING:
    from gbdnn.layers import Loss
    from gbdnn.network import Network

__all__ = ["evaluate"]

NAMES = {
    "accuracy": "accuracy", "label_accuracy": "accuracy of all labels", "r_squared": "R^2",
    "mean_squared_error": "mean squared error", "loss": "loss",
}  # fmt: skip


@click.command("evaluate")
@click.argument("model", type=FILE)
@click.argument("data", metavar="INPUT", type=FILE)
@click.option("--loss", type=TableChoice("gbdnn.layers", "LOSSES"),
              help="Default: that of the training, else what the network ends with.")  # fmt: skip
@data_options
@run_options
def evaluate(
    model: Path,
    data: Path,
    loss: str | None,
    label: str | None,
    header: bool | None,
    first: int | None,
    as_json: bool,
    **computing: Any,
) -> None:
    """Compare what MODEL predicts for the samples in INPUT with their labels.

    For classes: accuracy, mean loss, and of each class the part of its samples that is found
    (recall) and the part of its predictions that is right (precision). For values: R^2, mean
    squared error and mean loss, in the labels' own units.
    """
    from gbdnn.cli.models import samples_for
    from gbdnn.cli.scores import classes_of, loss_of, predicted
    from gbdnn.layers import LOSSES
    from gbdnn.network import load

    network = load(model)
    samples = samples_for(network, data, label, header, first)
    if samples.y is None:
        expected = "labels: an array y, or a column whose name says so"
        raise InputError(str(data), expected, "none", "Say where they are with --label.")
    kind = LOSSES[loss or loss_of(network)]
    begin = time.perf_counter()
    body = network[:-1] if network.layers[-1].kind == kind.absorbs else network
    outputs = predicted(body, samples, **computing)
    classes = classes_of(network)
    record: dict[str, Any] = {
        "model": str(model),
        "input": samples.origin,
        "samples": len(outputs),
        "backend": computing["backend"],
        "loss_name": kind.name,
        "seconds": time.perf_counter() - begin,
    }
    if classes is None:
        record |= _of_values(kind, outputs, samples.y)
    else:
        record |= _of_classes(body, kind, outputs, samples.y, classes)
    if as_json:
        echo_json(record)
    else:
        _report(record)


def _of_classes(
    network: Network, kind: Loss, outputs: Any, y: Any, classes: list[Any]
) -> dict[str, Any]:
    """Return accuracy, loss and a row for each class; labels unknown to the model are wrong."""
    import numpy as np

    from gbdnn.cli.labels import codes
    from gbdnn.cli.scores import likeliest

    truth, guess = codes(classes, y), likeliest(network, outputs)
    unknown = int((truth < 0).sum())
    there, said, right = (
        np.bincount(numbers, minlength=len(classes))
        for numbers in (truth[truth >= 0], guess, guess[guess == truth])
    )
    rows = [
        {
            "class": name,
            "samples": int(there[k]),
            "recall": float(right[k] / there[k]) if there[k] else None,
            "precision": float(right[k] / said[k]) if said[k] else None,
        }
        for k, name in enumerate(classes)
    ]
    found = {"task": "classify", "accuracy": float((guess == truth).mean())}
    if not unknown:
        targets = truth if kind.kind == "classes" else _one_hot(truth, outputs.shape[1])
        found["loss"] = _mean_loss(kind, outputs, targets)
    return found | {"unknown_labels": unknown, "classes": rows}


def _one_hot(truth: Any, outputs: int) -> Any:
    """Return classes as values: 0 and 1 for one output, else a 1 in the column of the class."""
    import numpy as np

    return truth[:, None] if outputs == 1 else np.eye(outputs)[truth]


def _of_values(kind: Loss, outputs: Any, y: Any) -> dict[str, Any]:
    """Return the score of the loss, the loss, and unless it takes scores the squared error."""
    import numpy as np

    if y.dtype.kind not in "biuf":
        fix = "The model file names no classes, so its values are compared with numbers."
        raise DtypeError("labels", "numbers", f"dtype {y.dtype}", fix)
    if kind.kind == "classes":
        fix = "The model file names no classes: choose a loss of values, such as --loss mse."
        raise InputError("--loss", "one that compares values", kind.name, fix)
    targets = y.reshape(len(y), -1).astype(np.float64)
    if targets.shape != outputs.shape:
        raise ShapeError("labels", f"{outputs.shape[1]} a sample", f"{targets.shape[1]}")
    weights = np.full(len(targets), 1 / len(targets))
    found = {
        "task": "regress",
        kind.score.__name__: kind.score(outputs, targets, weights),
        "loss": _mean_loss(kind, outputs, targets),
    }
    if not kind.probabilities:
        found["mean_squared_error"] = float(np.mean((outputs - targets) ** 2))
    return found


def _mean_loss(kind: Loss, outputs: Any, targets: Any) -> float:
    import numpy as np

    Z = outputs.T.astype(np.float64)  # a copy, which the loss overwrites
    with np.errstate(over="ignore"):
        return kind.function(Z, targets.T, np.full(len(targets), 1 / len(targets)))


def _report(record: dict[str, Any]) -> None:
    from gbdnn.summary import text_table

    rows = {"input": f"{record['input']}: {record['samples']:,} samples"}
    rows |= {name: f"{record[key]:.4f}" for key, name in NAMES.items() if key in record}
    if "loss" in rows:
        rows["loss"] += f" ({record['loss_name']})"
    if record.get("unknown_labels"):
        rows["unknown labels"] = f"{record['unknown_labels']:,} samples, counted as wrong"
    rows["seconds"] = f"{record['seconds']:.3f}"
    echo_rows(record["model"], rows)
    if "classes" in record:
        parts = ("recall", "precision")
        table = [["class", "samples", *parts]]
        for row in record["classes"]:
            shares = ["" if row[part] is None else f"{row[part]:.4f}" for part in parts]
            table.append([printable(str(row["class"])), f"{row['samples']:,}", *shares])
        click.echo(text_table(table))
