"""The command `gbdnn train`: it trains an estimator and folds the scaling of samples into it.

Modules that need numpy are imported where they are used.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gbdnn.cli.models import samples_for
from gbdnn.cli.options import (
    FILE,
    OUT,
    Number,
    TableChoice,
    TableHint,
    check_out,
    data_options,
    plan_of,
    run_options,
)
from gbdnn.cli.output import echo_json
from gbdnn.cli.ranks import MPI, ranks_of
from gbdnn.cli.refit import BATCH, check_samples, scale_of, targets_of, unfolded
from gbdnn.cli.trained import constant_score, kept, report, rules_of
from gbdnn.errors import DivergenceError, InputError, TrainingInterrupted

if TYPE_CHECKING:
    from gbdnn.cli.datasets import Dataset
    from gbdnn.models import Scaling
    from gbdnn.network import Network
    from gbdnn.training import Result

__all__ = ["train"]

NEW = ("hidden", "layers", "density", "topology", "activation", "dropout", "task")
"""Options of a new network."""
FLAT = ("hidden", "topology", "activation", "scale")  # of samples that are no sequences
STEPS, MOST = 1000, 200  # that a training of few samples has about, and its most epochs
TABLES = {".csv", ".tsv", ".txt"}  # whose columns are of different kinds
SETTINGS = (
    "hidden", "layers", "density", "topology", "growth", "activation", "dropout", "plan", "scale",
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
@click.option("--init", type=FILE, help="Go on from the weights and patterns of this model file.")
@click.option("--hidden", default="1024,1024", show_default=True, callback=_sizes,
              help="Neurons of the hidden layers, or none.")  # fmt: skip
@click.option("--layers", help="Of sequences, X (n, time, features), instead of --hidden: such as "
              "'lstm 128, lstm 128' or 'embedding 32 1000, blstm 64, mean'.")  # fmt: skip
@click.option("--truncate", type=click.IntRange(1), help="Of sequences: time steps that gradients "
              "go back through at the most; default: all.")  # fmt: skip
@click.option("--density", type=Number(0, 1, min_open=True), default=0.1, show_default=True,
              help="Part of the connections that are there; 1 is dense.")  # fmt: skip
@click.option("--topology", type=TableChoice("gbdnn.models", "TOPOLOGIES"), default="erk",
              show_default=True, help="How the density is distributed: erk: small layers denser; "
              "uniform: hidden layers alike, the output layer dense.")  # fmt: skip
@click.option("--growth", type=TableChoice("gbdnn.pruning", "GROWTHS", "none"), default="rigl",
              show_default=True, help="Whether connections move, and how new ones are chosen: "
              "set: at random, rigl: by gradient.")  # fmt: skip
@click.option("--activation", type=TableChoice("gbdnn.models", "hidden_activations"),
              default="relu", show_default=True)  # fmt: skip
@click.option("--dropout", type=Number(0, 1, max_open=True), default=0.0, show_default=True,
              help="Rate after each hidden layer.")  # fmt: skip
@click.option("--plan", type=TableHint("gbdnn.quantization", "PLANS"), help="Train with rounded "
              "weights and activations, for whole numbers: a name, or a JSON file.")  # fmt: skip
@click.option("--task", type=click.Choice(["auto", "classify", "regress"]), default="auto",
              show_default=True, help="auto: regress where labels are fractions.")  # fmt: skip
@click.option("--loss", type=TableChoice("gbdnn.layers", "LOSSES"),
              help="Default: cross-entropy for classes, squared error for values.")  # fmt: skip
@click.option("--scale", type=TableChoice("gbdnn.models", "SCALES", "auto"), default="auto",
              show_default=True, help="max: divide inputs by the largest; standard: each feature "
              "to mean 0 and variance 1; auto: standard for .csv, .tsv, .txt, else max. Becomes "
              "part of the network.")  # fmt: skip
@click.option("--optimizer", type=TableChoice("gbdnn.training.optimizers", "OPTIMIZERS"),
              default="adam", show_default=True)  # fmt: skip
@click.option("--learning-rate", type=Number(0, min_open=True),
              help="Default: by the density, as SparseMLPClassifier's.")  # fmt: skip
@click.option("--schedule", type=TableChoice("gbdnn.training.schedules", "SCHEDULES"),
              default="warm-up", show_default=True, help="Of the learning rate.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), help=f"Default: 10; of few samples more, about "
              f"{STEPS:,} steps, at most {MOST} epochs.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1), help=f"Default: {BATCH}, or all samples.")
@click.option("--validation", "--validation-fraction", "validation", default=0.1,
              type=Number(0, 1, max_open=True), show_default=True,
              help="Part of the samples that is held out, on which the best epoch is found, which "
              "is kept; 0: none, and the last epoch is kept.")  # fmt: skip
@click.option("--early-stopping", is_flag=True, help="End when the validation score, or without "
              "validation the loss, has not improved for --patience epochs.")  # fmt: skip
@click.option("--patience", "--n-iter-no-change", "patience", type=click.IntRange(1), default=10,
              show_default=True, help="For --early-stopping.")  # fmt: skip
@click.option("--tol", type=Number(0), default=1e-4, show_default=True,
              help="What --early-stopping takes as improvement: more than this.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--checkpoint", type=click.Path(path_type=Path, file_okay=False),
              help="Folder in which the state is kept after each epoch.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on from the newest state in --checkpoint.")
@MPI
@data_options
@run_options
def train(
    data: Path | None,
    out: Path,
    label: str | None,
    header: bool | None,
    first: int | None,
    as_json: bool,
    mpi: bool,
    **given: Any,
) -> None:
    """Train a sparse network on INPUT and write it to a model file.

    INPUT is .npz (X and y, or of scipy.sparse.save_npz), .npy, .csv, .tsv or .txt (the labels are a
    column), .svm (stays sparse); without it the 1,797 handwritten digits that ship inside
    scikit-learn are taken. Labels may be numbers or text; the model file keeps them, and `gbdnn
    predict` prints them. It keeps a header's names too, by which the columns are found again.

    With --layers INPUT holds sequences: .npz with X (n, time, features), `lengths` (n,) where they
    differ, and y, labels (n,) of sequences or (n, time) of time steps.

    `mpiexec -n 4 gbdnn train ...` trains with four processes, a part of each mini-batch each.
    """
    check_out(out)
    _check_usage(given)
    if given["plan"]:
        plan_of(given["plan"])
    with ranks_of(mpi) as given["ranks"]:
        _command(data, out, label, header, first, as_json, given)


def _command(
    data: Path | None, out: Path, label: str | None, header: bool | None, first: int | None,
    as_json: bool, given: dict[str, Any],
) -> None:  # fmt: skip
    """Read, train, write and report; of several ranks only the first does the latter two."""
    from gbdnn.cli import datasets
    from gbdnn.network import load

    init = None if given["init"] is None else load(given["init"])
    if data is None:
        samples = datasets.digits(given["layers"] is not None)
    elif init is None:
        samples = datasets.read(data, label=label, header=header, first=first,
                                sequences=given["layers"] is not None)  # fmt: skip
    else:
        samples = samples_for(init, data, label, header, first, test=False)
    if given["scale"] == "auto":
        table = data is not None and TABLES & set(data.suffixes)
        given["scale"] = "standard" if table and not given["plan"] else "max"
    if samples.y is None:
        expected = "labels: an array y (also beside a sparse matrix), or a column that is called so"
        raise InputError(str(data), expected, "none", "Say where they are with --label.")
    begin = time.perf_counter()
    try:
        network, result, record, signal = _train(samples, given, init)
    except DivergenceError as error:
        fix = "Lower --learning-rate, or try --scale standard."
        raise DivergenceError(error.argument, error.expected, error.got, fix) from None
    if given["ranks"] is not None and given["ranks"].rank:
        return
    record |= {"out": str(out), "seconds": time.perf_counter() - begin}
    network.save(out, extra={"training": record})
    record |= {"file_bytes": out.stat().st_size, "history": list(result.history.records)}
    if as_json:
        echo_json(record)
    else:
        report(record)
    score = record.get("validation_score", 1.0)
    if score < 1 and score <= record["constant_score"] + 1e-9:  # both are rounded
        click.echo(
            f"hint: one and the same answer for all would score {record['constant_score']:.4f} in "
            "validation; try more --epochs, a higher --density or another --scale, and look "
            "whether the labels are what they should be.",
            err=True,
        )
    if signal is not None:
        click.echo(f"stopped before the end; the model so far is in {out}", err=True)
        raise click.exceptions.Exit(128 + signal)


def _check_usage(given: dict[str, Any]) -> None:
    """Refuse options that would be ignored."""
    if given["resume"] and given["checkpoint"] is None:
        raise click.UsageError("--resume needs --checkpoint DIR, the folder to go on from.")
    source = click.get_current_context().get_parameter_source
    for name in ("patience", "tol"):
        if source(name) != ParameterSource.DEFAULT and not given["early_stopping"]:
            raise click.UsageError(f"--{name} needs --early-stopping.")
    for name in FLAT if given["layers"] else () if given["init"] else ("truncate",):
        if source(name) != ParameterSource.DEFAULT:
            how = "cannot be used with" if given["layers"] else "needs"
            raise click.UsageError(f"--{name} {how} --layers.")
    for name in NEW if given["init"] else ():
        if source(name) != ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} is for new networks; leave it out with --init.")


def _train(
    samples: Dataset, given: dict[str, Any], init: Network | None
) -> tuple[Network, Result, dict[str, Any], int | None]:
    """Return the trained network, which takes unscaled samples, the result, and a record.

    If a signal has stopped the training and there is no checkpoint to go on from, they are of what
    was reached, and the last value is the signal.
    """
    from gbdnn.cli import datasets, scores, sequences
    from gbdnn.models import fold, scaling

    new, over_time = init is None, samples.lengths is not None
    old = {} if init is None else init.metadata
    metadata = {key: value for key, value in old.items() if key != "training"}
    if init is None and over_time:
        init, X, targets, metadata = sequences.start(samples, given)
    elif over_time and init is not None:
        X, targets, loss = scores.targets(init, samples).values()
        given["loss"] = given["loss"] or loss
    elif init is None:
        targets, metadata, undo = _targets(samples, given["task"], given["loss"])
    else:
        check_samples(init, samples)
        targets, loss, undo = targets_of(init, samples, given["loss"])
        given |= {"loss": loss, "scale": _scale(given["scale"], init)}
    if given["plan"] and given["scale"] == "standard":
        raise InputError("scale", "max or none with --plan, which rounds the inputs", "standard")
    ids, held = datasets.split(samples.X.shape[0], given["validation"], given["seed"])
    if not over_time:
        datasets.check_samples(samples.X)
        scale = scaling(samples.X[ids], given["scale"])
        X = scale.apply(samples.X)
        datasets.check_samples(X, "They do not fit into float32.")
    _fill(given, len(ids))
    signal = None
    try:
        if init is None:
            result = _fit(X, targets, (ids, held), "classes" in metadata, given)
        else:
            begin = init if over_time else unfolded(init, scale, undo)
            result = _fit_on(begin, X, targets, (ids, held), given, new)
    except TrainingInterrupted as error:
        if given["checkpoint"] is not None:
            if given["ranks"] and given["ranks"].rank:
                raise
            click.echo(f"the state is kept in {given['checkpoint']}; go on with --resume", err=True)
            raise
        if not error.result.training.step:
            raise
        result, signal = error.result, error.signal
    trained, trainer = result.network, result.training.trainer
    trained = trained if over_time else fold(trained, scale, undo)
    trained.metadata = metadata
    record: dict[str, Any] = {
        "input": samples.origin,
        "init": given["init"] and str(given["init"]),
        "samples": len(ids),
        "validation_samples": len(held),
        "features": trained.in_features,
        "outputs": trained.out_features,
        "task": "classify" if "classes" in metadata else "regress",
        "edges": trained.edges,
        "density": trained.summary().total["density"],
        "sizes": [
            trained.in_features,
            *(layer.out_features for layer in trained.layers if layer.in_features),
        ],
        "settings": {key: given[key] for key in SETTINGS if new or key not in NEW}
        | {key: getattr(trainer, key) for key in ("batch_size", "learning_rate", "loss")},
        "stopped": result.stopped,
        "constant_score": constant_score(_taken(targets, held, joined=True), "classes" in metadata),
    }
    return trained, result, record | kept(result), signal


def _fill(given: dict[str, Any], samples: int) -> None:
    """Set what follows from the number of samples, unless it was given."""
    batch = given["batch_size"] = given["batch_size"] or min(BATCH, samples)
    if given["epochs"] is None:
        given["epochs"] = min(max(10, -(-STEPS // -(-samples // batch))), MOST)


def _fit(X: Any, y: Any, split: Any, classify: bool, given: dict[str, Any]) -> Result:
    """Train an estimator."""
    from gbdnn.estimators import SparseMLPClassifier, SparseMLPRegressor

    estimator = (SparseMLPClassifier if classify else SparseMLPRegressor)(
        given["hidden"], density=given["density"], topology=given["topology"],
        growth=None if given["growth"] == "none" else given["growth"],
        activation=given["activation"], alpha=0.0, learning_rate=given["schedule"],
        learning_rate_init=given["learning_rate"] or "auto", max_iter=given["epochs"],
        random_state=given["seed"], verbose=True, backend=given["backend"],
        threads=given["threads"],
    )  # fmt: skip
    return estimator.train(
        X, y, split=split, loss=given["loss"], dropout=given["dropout"], resume=given["resume"],
        **rules_of(given),
    )  # fmt: skip


def _fit_on(
    network: Network, X: Any, y: Any, split: Any, given: dict[str, Any], new: bool
) -> Result:
    """Train a network that there is already."""
    from gbdnn.pruning import sparsifier
    from gbdnn.training import Trainer

    asked = click.get_current_context().get_parameter_source("growth") != ParameterSource.DEFAULT
    growth = given["growth"] if asked or new else "none"  # patterns stay
    trainer = Trainer(
        loss=given["loss"], learning_rate=given["learning_rate"] or _rate(network),
        schedule=given["schedule"], epochs=given["epochs"], backend=given["backend"],
        threads=given["threads"], rng=given["seed"], progress=True,
        sparsifier=None if growth == "none" else sparsifier("rigl", growth=growth),
        truncate=given["truncate"],
        **rules_of(given),
    )  # fmt: skip
    ids, held = split
    validation = (_taken(X, held), _taken(y, held)) if len(held) else None
    return trainer.fit(network, _taken(X, ids), _taken(y, ids), validation=validation,
                       resume=given["resume"])  # fmt: skip


def _taken(samples: Any, ids: Any, *, joined: bool = False) -> Any:
    """Return some samples of an array or a list; of the latter perhaps as one array."""
    if not isinstance(samples, list):
        return samples[ids]
    import numpy as np

    taken = [samples[k] for k in ids]
    return np.concatenate(taken or [np.empty(0)]) if joined else taken


def _rate(network: Network) -> float:
    """Return the estimators' automatic learning rate for a network."""
    from gbdnn.estimators import SparseMLPClassifier, settings

    return settings.rate(SparseMLPClassifier(), network)


def _scale(asked: str, init: Network) -> str:
    """Return the scaling that was asked for, else that of the model's training."""
    source = click.get_current_context().get_parameter_source("scale")
    return scale_of(init) if source == ParameterSource.DEFAULT else asked


def _targets(
    samples: Dataset, task: str, loss: str | None
) -> tuple[Any, dict[str, Any], Scaling | None]:
    """Return targets, what the model file says of them, and the scaling that is to be undone."""
    from gbdnn.cli import labels
    from gbdnn.layers import LOSSES
    from gbdnn.models import scaling

    y, kind = samples.y, None if loss is None else LOSSES[loss]
    assert y is not None
    metadata: dict[str, Any] = {}
    if samples.label is not None:
        metadata["label"] = samples.label
    if samples.first is not None:
        metadata["first_feature"] = samples.first
    if samples.names is not None:
        metadata["feature_names"] = list(samples.names)
    if task == "auto" and kind is not None and not kind.probabilities:
        task = "classify" if kind.kind == "classes" else "regress"
    if task == "classify" or (task == "auto" and labels.task_of(y) == "classify"):
        names, codes = labels.as_classes(y)
        return codes, metadata | {"classes": names}, None
    if kind is not None and kind.kind == "classes":
        raise InputError("--loss", "one of values, such as mse, for --task regress", repr(loss))
    values = labels.as_values(y)
    if kind is not None and kind.probabilities:
        return values, metadata, None
    undo = scaling(values, "standard")
    return undo.apply(values), metadata, undo
