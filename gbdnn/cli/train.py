"""The command `gbdnn train`: it trains an estimator and folds the scaling of samples into it.

Modules that need numpy are imported where they are used.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbdnn.cli.options import (
    FILE,
    OUT,
    Number,
    TableChoice,
    check_out,
    data_options,
    run_options,
)
from gbdnn.cli.output import echo_json, echo_rows
from gbdnn.errors import DivergenceError, InputError, TrainingInterrupted

if TYPE_CHECKING:
    from gbdnn.cli.datasets import Dataset
    from gbdnn.models import Scaling
    from gbdnn.network import Network
    from gbdnn.training import Event, Result

__all__ = ["train"]

BATCH = 128
SETTINGS = (
    "hidden", "density", "topology", "growth", "activation", "dropout", "quantizer", "scale",
    "optimizer", "learning_rate", "schedule", "epochs", "seed", "backend",
)  # fmt: skip


def _sizes(context: click.Context, option: click.Parameter, text: str) -> list[int]:
    parts = [] if text.strip() in ("", "none", "0") else text.split(",")
    try:
        sizes = [int(part) for part in parts]
    except ValueError:
        sizes = [0]
    if any(not 1 <= size < 2**31 for size in sizes):
        raise click.BadParameter(f"{text!r} is not a list of sizes such as 1024,1024, or none.")
    return sizes


@click.command("train")
@click.argument("data", metavar="[INPUT]", type=FILE, required=False)
@click.option("--out", type=OUT, required=True, help="The model file to write.")
@click.option("--hidden", default="1024,1024", show_default=True, callback=_sizes,
              help="Neurons of the hidden layers, or none.")  # fmt: skip
@click.option("--density", type=Number(0, 1, min_open=True), default=0.1, show_default=True,
              help="Part of the connections that are there; 1 is dense.")  # fmt: skip
@click.option("--topology", type=TableChoice("gbdnn.models", "TOPOLOGIES"), default="erk",
              show_default=True, help="How the density is distributed: erk: small layers denser; "
              "uniform: hidden layers alike, the output layer dense.")  # fmt: skip
@click.option("--growth", type=TableChoice("gbdnn.pruning", "GROWTHS", "none"), default="none",
              show_default=True, help="Whether connections move, and how new ones are chosen: "
              "set: at random, rigl: by gradient.")  # fmt: skip
@click.option("--activation", type=TableChoice("gbdnn.models", "hidden_activations"),
              default="relu", show_default=True)  # fmt: skip
@click.option("--dropout", type=Number(0, 1, max_open=True), default=0.0, show_default=True,
              help="Rate after each hidden layer.")  # fmt: skip
@click.option("--quantizer", type=TableChoice("gbdnn.quantization", "QUANTIZERS", "none"),
              default="none", show_default=True, help="Train with rounded weights.")  # fmt: skip
@click.option("--task", type=click.Choice(["auto", "classify", "regress"]), default="auto",
              show_default=True, help="auto: regress where labels are fractions.")  # fmt: skip
@click.option("--loss", type=TableChoice("gbdnn.layers", "LOSSES"),
              help="Default: cross-entropy for classes, mse for values.")  # fmt: skip
@click.option("--scale", type=TableChoice("gbdnn.models", "SCALES"), default="max",
              show_default=True, help="Divide inputs by the largest, or each feature to mean 0 and "
              "variance 1. Becomes part of the network.")  # fmt: skip
@click.option("--optimizer", type=TableChoice("gbdnn.training.optimizers", "OPTIMIZERS"),
              default="adam", show_default=True)  # fmt: skip
@click.option("--learning-rate", type=Number(0, min_open=True), default=1e-3, show_default=True)
@click.option("--schedule", type=TableChoice("gbdnn.training.schedules", "SCHEDULES"),
              default="constant", show_default=True, help="Of the learning rate.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), help=f"Default: {BATCH}, or all samples.")
@click.option("--validation", type=Number(0, 1, max_open=True), default=0.1, show_default=True,
              help="Part of the samples that is held out; 0: none.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--checkpoint", type=click.Path(path_type=Path, file_okay=False),
              help="Folder in which the state is kept after each epoch.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on from the newest state in --checkpoint.")
@data_options
@run_options
def train(
    data: Path | None,
    out: Path,
    label: str | None,
    header: bool | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a sparse network on INPUT and write it to a model file.

    INPUT is .npz (X and y), .npy, .csv or .tsv (the labels are a column), .svm (stays sparse);
    without it the 1,797 handwritten digits that ship inside scikit-learn are taken. Labels may be
    numbers or text; the model file keeps them, and `gbdnn predict` prints them.
    """
    from gbdnn.cli import datasets

    check_out(out)
    if given["resume"] and given["checkpoint"] is None:
        raise click.UsageError("--resume needs --checkpoint DIR, the folder to go on from.")
    samples = datasets.digits() if data is None else datasets.read(data, label=label, header=header)
    if samples.y is None:
        expected = "labels: an array y, or a column whose name says so"
        raise InputError(str(data), expected, "none", "Say where they are with --label.")
    begin = time.perf_counter()
    try:
        network, result, record = _train(samples, given)
    except TrainingInterrupted:
        if given["checkpoint"] is not None:
            click.echo(f"the state is kept in {given['checkpoint']}; go on with --resume", err=True)
        raise
    except DivergenceError as error:
        fix = "Lower --learning-rate, or try --scale standard."
        raise DivergenceError(error.argument, error.expected, error.got, fix) from None
    record |= {"out": str(out), "seconds": time.perf_counter() - begin}
    network.save(out, extra={"training": record})
    record |= {"file_bytes": out.stat().st_size, "history": list(result.history.records)}
    if as_json:
        echo_json(record)
    else:
        _report(record)


def _train(samples: Dataset, given: dict[str, Any]) -> tuple[Network, Result, dict[str, Any]]:
    """Return the trained network, which takes unscaled samples, the result, and a record."""
    from gbdnn.cli import datasets
    from gbdnn.models import fold, scaling

    targets, metadata, undo = _targets(samples, given["task"], given["loss"])
    ids, held = datasets.split(samples.X.shape[0], given["validation"], given["seed"])
    datasets.check_samples(samples.X)
    scale = scaling(samples.X[ids], given["scale"])
    X = scale.apply(samples.X)
    datasets.check_samples(X, "They do not fit into float32.")
    result = _fit(X, targets, (ids, held), "classes" in metadata, given)
    trained = fold(result.network, scale, undo)
    trained.metadata.update(metadata)
    trainer, last = result.training.trainer, result.history.records[-1]
    record: dict[str, Any] = {
        "input": samples.origin,
        "samples": len(ids),
        "validation_samples": len(held),
        "features": trained.in_features,
        "outputs": trained.out_features,
        "task": "classify" if "classes" in metadata else "regress",
        "edges": trained.edges,
        "density": trained.summary().total["density"],
        "settings": {key: given[key] for key in SETTINGS}
        | {"batch_size": trainer.batch_size, "loss": trainer.loss},
        "stopped": result.stopped,
    }
    record |= {
        key: last[key] for key in ("loss", "validation_loss", "validation_score") if key in last
    }
    return trained, result, record


def _fit(X: Any, y: Any, split: Any, classify: bool, given: dict[str, Any]) -> Result:
    """Train an estimator."""
    from gbdnn.estimators import SparseMLPClassifier, SparseMLPRegressor

    estimator = (SparseMLPClassifier if classify else SparseMLPRegressor)(
        given["hidden"], density=given["density"], topology=given["topology"],
        growth=None if given["growth"] == "none" else given["growth"],
        activation=given["activation"], alpha=0.0, learning_rate=given["schedule"],
        learning_rate_init=given["learning_rate"], max_iter=given["epochs"],
        random_state=given["seed"], verbose=sys.stderr.isatty(), backend=given["backend"],
        threads=given["threads"],
    )  # fmt: skip
    quantizer = given["quantizer"]
    return estimator.train(
        X, y, split=split, loss=given["loss"], dropout=given["dropout"], resume=given["resume"],
        optimizer=given["optimizer"], batch_size=given["batch_size"] or min(BATCH, len(split[0])),
        early_stopping=None, checkpoint=given["checkpoint"],
        quantizers={} if quantizer == "none" else {"*.weight": quantizer},
        callbacks=() if estimator.verbose else (_say,),
    )  # fmt: skip


def _targets(
    samples: Dataset, task: str, loss: str | None
) -> tuple[Any, dict[str, Any], Scaling | None]:
    """Return targets, what the model file says of them, and the scaling that is to be undone."""
    from gbdnn.cli import datasets
    from gbdnn.layers import LOSSES
    from gbdnn.models import scaling

    y, kind = samples.y, None if loss is None else LOSSES[loss]
    assert y is not None
    metadata: dict[str, Any] = {}
    if samples.label is not None:
        metadata["label"] = samples.label
    if samples.first is not None:
        metadata["first_feature"] = samples.first
    if task == "auto":
        whole = y.ndim == 1 and (y.dtype.kind != "f" or (y == y.round()).all())
        classes = whole if kind is None or kind.probabilities else kind.kind == "classes"
        task = "classify" if classes else "regress"
    if task == "classify":
        names, codes = datasets.as_classes(y)
        return codes, metadata | {"classes": names}, None
    values = datasets.as_values(y)
    if kind is not None and kind.probabilities:
        return values, metadata, None
    undo = scaling(values, "standard")
    return undo.apply(values), metadata, undo


def _say(event: Event) -> None:
    """Write a line for each epoch to standard error."""
    if event.kind != "epoch":
        return
    record = event.record
    text = f"epoch {record['epoch'] + 1}: loss {record['loss']:.4f}"
    if "validation_score" in record:
        text += f", validation {record['validation_score']:.4f}"
    click.echo(f"{text}, {record['seconds']:.1f} s", err=True)


def _report(record: dict[str, Any]) -> None:
    sizes = [record["features"], *record["settings"]["hidden"], record["outputs"]]
    rows = {
        "input": f"{record['input']}: {record['samples']:,} samples, "
        f"{record['validation_samples']:,} held out",
        "network": f"{' x '.join(map(str, sizes))}, {record['edges']:,} weights "
        f"({record['density']:.2%} of all places)",
        "epochs": f"{len(record['history'])} ({record['stopped']})",
        "loss": f"{record['loss']:.4f}",
    }
    if "validation_score" in record:
        name = "accuracy" if record["task"] == "classify" else "R^2"
        rows[f"validation {name}"] = f"{record['validation_score']:.4f}"
    rows |= {
        "seconds": f"{record['seconds']:.1f}",
        "model": f"{record['out']} ({record['file_bytes']:,} bytes)",
    }
    echo_rows("trained", rows)
