"""The command `gbdnn train`. Modules that need numpy are imported where they are used."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbdnn.cli.models import FILE, OUT, check_out, data_options, echo_rows, run_options
from gbdnn.errors import DivergenceError, InputError, TrainingInterrupted

if TYPE_CHECKING:
    from gbdnn.cli.datasets import Dataset
    from gbdnn.network import Network
    from gbdnn.training import Event, Result, Trainer

__all__ = ["train"]

HIDDEN = ("relu", "gelu", "leaky_relu", "sigmoid", "tanh")
OPTIMIZERS = ("adam", "adamw", "momentum", "nesterov", "sgd")
BATCH = 128


class _Number(click.FloatRange):
    """A float range that refuses NaN and infinity too."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not finite.", param, ctx)
        return number


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
@click.option("--density", type=_Number(0, 1, min_open=True), default=0.1, show_default=True,
              help="Part of the connections that are there; 1 is dense.")  # fmt: skip
@click.option("--topology", type=click.Choice(["erk", "uniform"]), default="erk", show_default=True,
              help="Small layers denser than large ones, or all alike.")  # fmt: skip
@click.option("--growth", type=click.Choice(["none", "set", "rigl"]), default="none",
              show_default=True, help="Whether connections move, and how new ones are chosen: at "
              "random (SET) or by gradient (RigL).")  # fmt: skip
@click.option("--activation", type=click.Choice(HIDDEN), default="relu", show_default=True)
@click.option("--dropout", type=_Number(0, 1, max_open=True), default=0.0, show_default=True,
              help="Rate after each hidden layer.")  # fmt: skip
@click.option("--task", type=click.Choice(["auto", "classify", "regress"]), default="auto",
              show_default=True, help="auto: regress where labels are fractions.")  # fmt: skip
@click.option("--scale", type=click.Choice(["max", "standard", "none"]), default="max",
              show_default=True, help="Divide inputs by the largest, or each feature to mean 0 and "
              "variance 1. Becomes part of the network.")  # fmt: skip
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="adam", show_default=True)
@click.option("--learning-rate", type=_Number(0, min_open=True), default=1e-3, show_default=True)
@click.option("--schedule", type=click.Choice(["constant", "cosine", "step", "warm-up"]),
              default="constant", show_default=True, help="Of the learning rate.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), help=f"Default: {BATCH}, or all samples.")
@click.option("--validation", type=_Number(0, 1, max_open=True), default=0.1, show_default=True,
              help="Part of the samples that is held out; 0: none.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--checkpoint", type=click.Path(path_type=Path, file_okay=False),
              help="Folder in which the state is kept after each epoch.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on from the newest state in --checkpoint.")
@data_options
@run_options
def train(
    data: Path | None, out: Path, checkpoint: Path | None, resume: bool, **given: Any
) -> None:
    """Train a sparse network on INPUT and write it to a model file.

    INPUT is .npz (X and y), .npy, .csv or .tsv (the labels are a column), .svm (stays sparse);
    without it the 1,797 handwritten digits that ship inside scikit-learn are taken. Labels may be
    numbers or text; the model file keeps them, and `gbdnn predict` prints them.
    """
    check_out(out)
    _check_checkpoint(checkpoint, resume)
    samples = _samples(data, given)
    begin = time.perf_counter()
    try:
        network, result, record = _train(samples, checkpoint, given)
    except TrainingInterrupted:
        if checkpoint is not None:
            click.echo(f"the state is kept in {checkpoint}; go on with --resume", err=True)
        raise
    record |= {"out": str(out), "seconds": time.perf_counter() - begin}
    network.save(out, extra={"training": record})
    record |= {"file_bytes": out.stat().st_size, "history": list(result.history.records)}
    if given["as_json"]:
        click.echo(json.dumps(record))
    else:
        _report(record)


def _check_checkpoint(folder: Path | None, resume: bool) -> None:
    """Refuse to mix two trainings."""
    if resume and folder is None:
        raise click.UsageError("--resume needs --checkpoint DIR, the folder to go on from.")
    if folder is not None and not resume and any(folder.glob("step-*.safetensors")):
        raise click.UsageError(
            f"{folder} holds the checkpoints of another training: add --resume to go on with it, "
            "or choose another folder."
        )


def _samples(data: Path | None, given: dict[str, Any]) -> Dataset:
    from gbdnn.cli import datasets

    if data is None:
        return datasets.digits()
    samples = datasets.read(data, label=given["label"], header=given["header"])
    if samples.y is None:
        expected = "labels: an array y, or a column whose name says so"
        raise InputError(str(data), expected, "none", "Say where they are with --label.")
    return samples


def _train(
    samples: Dataset, checkpoint: Path | None, given: dict[str, Any]
) -> tuple[Network, Result, dict[str, Any]]:
    """Return the trained network, which takes unscaled samples, the history, and a record."""
    from gbdnn.cli import preparation

    targets, metadata, undo, loss = _targets(samples, given["task"])
    outputs = len(metadata["classes"]) if "classes" in metadata else targets.shape[1]
    ids, held = preparation.split(samples.X.shape[0], given["validation"], given["seed"])
    scale = preparation.scaling(samples.X[ids], given["scale"])
    network = preparation.fresh_network(
        [samples.X.shape[1], *given["hidden"], outputs], density=given["density"],
        topology=given["topology"], activation_name=given["activation"],
        last="softmax" if "classes" in metadata else "identity", dropout=given["dropout"],
        rng=given["seed"],
    )  # fmt: skip
    trainer = _trainer(loss, len(ids), checkpoint, given)
    held_out = (scale.apply(samples.X[held]), targets[held]) if len(held) else None
    try:
        result = trainer.fit(
            network, scale.apply(samples.X[ids]), targets[ids], validation=held_out
        )
    except DivergenceError as error:
        fix = "Lower --learning-rate, or try --scale standard."
        raise DivergenceError(error.argument, error.expected, error.got, fix) from None
    trained = preparation.fold(result.network, scale, undo)
    trained.metadata.update(metadata)
    record: dict[str, Any] = {
        "input": samples.origin,
        "samples": len(ids),
        "validation_samples": len(held),
        "features": trained.in_features,
        "outputs": trained.out_features,
        "task": "classify" if "classes" in metadata else "regress",
        "edges": trained.edges,
        "density": trained.summary().total["density"],
        "settings": {key: given[key] for key in SETTINGS} | {"batch_size": trainer.batch_size},
        "stopped": result.stopped,
    }
    last = result.history.records[-1]
    record |= {
        key: last[key] for key in ("loss", "validation_loss", "validation_score") if key in last
    }
    return trained, result, record


SETTINGS = (
    "hidden", "density", "topology", "growth", "activation", "dropout", "scale", "optimizer",
    "learning_rate", "schedule", "epochs", "seed", "backend",
)  # fmt: skip


def _targets(samples: Dataset, task: str) -> tuple[Any, dict[str, Any], Any, str]:
    """Return targets, what the model file says of them, how to undo their scaling, and the loss."""
    from gbdnn.cli import datasets, preparation

    metadata: dict[str, Any] = {}
    if samples.label is not None:
        metadata["label"] = samples.label
    if samples.first is not None:
        metadata["first_feature"] = samples.first
    y = samples.y
    assert y is not None
    if task == "auto":
        whole = y.ndim == 1 and (y.dtype.kind != "f" or (y == y.round()).all())
        task = "classify" if whole else "regress"
    if task == "classify":
        classes, codes = datasets.as_classes(y)
        return codes, metadata | {"classes": classes}, None, "cross_entropy"
    values = datasets.as_values(y)
    undo = preparation.scaling(values, "standard")
    return undo.apply(values), metadata, undo, "mse"


def _trainer(loss: str, samples: int, checkpoint: Path | None, given: dict[str, Any]) -> Trainer:
    from gbdnn.training import Trainer

    bar = sys.stderr.isatty()
    return Trainer(
        loss=loss, optimizer=given["optimizer"], learning_rate=given["learning_rate"],
        schedule=given["schedule"], epochs=given["epochs"],
        batch_size=given["batch_size"] or min(BATCH, samples),
        sparsifier=None if given["growth"] == "none" else given["growth"],
        callbacks=() if bar else (_say,), checkpoint=checkpoint, backend=given["backend"],
        threads=given["threads"], progress=bar, rng=given["seed"],
    )  # fmt: skip


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
    settings = record["settings"]
    sizes = [record["features"], *settings["hidden"], record["outputs"]]
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
