"""The commands that use a model file: `gbdnn summary`, `gbdnn predict`, `gbdnn prune`.

Modules that need numpy are imported where they are used.
"""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbdnn.cli.options import (
    BACKEND,
    FILE,
    JSON,
    OUT,
    Number,
    TableChoice,
    TableHint,
    check_out,
    data_options,
    run_options,
)
from gbdnn.cli.output import echo_json, echo_rows, printable
from gbdnn.cli.scores import classes_of, likeliest, predicted, score, targets
from gbdnn.cli.sequences import per_row, takes_sequences
from gbdnn.errors import InputError

if TYPE_CHECKING:
    from gbdnn.cli.datasets import Dataset
    from gbdnn.network import Network

__all__ = ["predict", "prune", "samples_for", "summary"]


# -- summary ---------------------------------------------------------------------------------------


@click.command("summary")
@click.argument("model", type=FILE)
@click.option("--backend", type=BACKEND, help="Also show what computes each layer.")
@JSON
def summary(model: Path, backend: str | None, as_json: bool) -> None:
    """Show the layers and tensors of a model file: shapes, non-zeros, bits, bytes.

    The file is verified.
    """
    from gbdnn.models.files import load
    from gbdnn.summary import tensors

    network = load(model)
    table = network.summary(backend)
    record: dict[str, Any] = {
        "model": str(model),
        "file_bytes": model.stat().st_size,
        "in_features": network.in_features,
        "out_features": network.out_features,
        "dtype": str(network.dtype),
        "layers": list(table.rows),
        "total": table.total,
        "tensors": tensors(network.parameters),
        "metadata": network.metadata,
    }
    if as_json:
        echo_json(record)
        return
    click.echo(str(table))
    click.echo(_tensor_table(record["tensors"]))
    rows = {
        "file": f"{record['file_bytes']:,} bytes",
        "samples": f"{network.in_features:,} features in, {network.out_features:,} values out",
        "dtype": str(network.dtype),
    }
    for key, value in network.metadata.items():
        text, most = (value, 300) if isinstance(value, str) else (json.dumps(value), 80)
        rows[printable(key)] = printable(text if len(text) <= most else text[: most - 3] + "...")
    echo_rows("", rows)


def _tensor_table(rows: list[dict[str, Any]]) -> str:
    """Return the tensors as text."""
    from gbdnn.summary import text_table

    head = ("tensor", "form", "input rounded to", "shape", "entries", "bits", "scales", "bytes")
    lines = [
        (row["tensor"], row["form"], row["input"], " x ".join(map(str, row["shape"])),
         f"{row['entries']:,}", str(row["bits"]), f"{row['scales']:,}", f"{row['bytes']:,}")
        for row in rows
    ]  # fmt: skip
    return text_table([head, *lines], left=3)


# -- predict ---------------------------------------------------------------------------------------


@click.command("predict")
@click.argument("model", type=FILE)
@click.argument("data", metavar="INPUT", type=FILE)
@click.option("--out", type=OUT, help="Write to this .csv, .npy or .json file.")
@click.option("--proba", "form", flag_value="proba", help="Probabilities of the classes.")
@click.option("--classes", "form", flag_value="classes", help="The likeliest class; the default "
              "where the model knows classes, else the network's values.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1), help="Default: what is fastest.")
@data_options
@run_options
def predict(
    model: Path,
    data: Path,
    out: Path | None,
    form: str | None,
    label: str | None,
    header: bool | None,
    first: int | None,
    as_json: bool,
    **computing: Any,
) -> None:
    """Predict for the samples in INPUT (.npz, .npy, .csv, .tsv, .svm; a sparse one stays sparse).

    Labels in INPUT are left out, and the accuracy is reported. Without --out the result goes to
    standard output as CSV, or inside the JSON object.
    """
    from gbdnn.network import load

    if out is not None:
        check_out(out)
        if out.suffix not in (".csv", ".npy", ".json"):
            message = f"{out.name!r} ends in none of .csv, .npy, .json."
            raise click.BadParameter(message, param_hint="--out")
    network = load(model)
    classes = classes_of(network)
    samples = samples_for(network, data, label, header, first)
    begin = time.perf_counter()
    values = predicted(network, samples, **computing)
    seconds = time.perf_counter() - begin
    form = form or ("classes" if classes is not None else "values")
    result, names = _formed(network, values, form, classes)
    record: dict[str, Any] = {
        "model": str(model),
        "input": samples.origin,
        "samples": len(values),
        "form": form,
        "seconds": seconds,
        "backend": computing["backend"],
    }
    if samples.y is not None:
        record |= score(network, values, samples.y, classes)
    _deliver(result, names, out, record, as_json)


def samples_for(
    network: Network,
    data: Path,
    label: str | None,
    header: bool | None,
    first: int | None,
    *,
    test: bool = True,
) -> Dataset:
    """Read samples as the model file says that its own were."""
    from gbdnn.cli import datasets

    known = network.metadata.get("label")
    own = network.metadata.get("first_feature")
    columns = network.metadata.get("feature_names")
    if columns is not None and not (
        isinstance(columns, list)
        and len(set(map(str, columns))) == len(columns) == network.in_features
        and all(isinstance(name, str) for name in columns)
    ):
        expected = f"{network.in_features} different names"
        raise InputError("feature_names in the model's metadata", expected, repr(columns)[:80])
    found = datasets.read(
        data, label=label, header=header, features=network.in_features, test=test,
        first=own if first is None and own in (0, 1) else first, columns=columns,
        names=(known,) if isinstance(known, str) else (), sequences=takes_sequences(network),
    )  # fmt: skip
    if found.lengths is None:
        return found
    return per_row(network.one_row, found, network.time_factor)


def _formed(
    network: Network, values: Any, form: str, classes: list[Any] | None
) -> tuple[Any, list[str]]:
    """Return what was asked for, and the names of its columns."""
    import numpy as np

    if form == "classes":
        numbers = likeliest(network, values)
        return (numbers if classes is None else np.array(classes)[numbers]), ["prediction"]
    if form == "proba":
        last = network.layers[-1].kind
        if last not in ("softmax", "sigmoid"):
            fix = "Leave --proba out to see its values."
            raise InputError("--proba", "a network that ends with softmax or sigmoid", last, fix)
        if network.out_features == 1:
            values = np.hstack([1 - values, values])
        if classes is not None:
            return values, list(map(str, classes))
    return values, [f"output {k}" for k in range(values.shape[1])]


def _deliver(
    result: Any, names: list[str], out: Path | None, record: dict[str, Any], as_json: bool
) -> None:
    """Write the result to the file or to standard output."""
    if out is not None:
        _write(out, result, names)
        record["out"] = str(out)
    elif as_json:
        record["predictions"] = result.tolist()
    if as_json:
        echo_json(record)
        return
    if out is None:
        click.echo(_csv(result, names), nl=False)
    scores = {key: record[key] for key in ("accuracy", "mean_squared_error") if key in record}
    text = f"{record['samples']:,} samples in {record['seconds']:.3f} s"
    text += "".join(f", {key.replace('_', ' ')} {value:.4f}" for key, value in scores.items())
    click.echo(text, err=True)


def _write(out: Path, result: Any, names: list[str]) -> None:
    import numpy as np

    from gbdnn.files.disk import atomic_write

    with atomic_write(out) as file:
        if out.suffix == ".npy":
            # not np.save, which says of a full disk only how many items were written
            header = np.lib.format.header_data_from_array_1_0(result)
            np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(result).data)
        elif out.suffix == ".json":
            text = json.dumps({"columns": names, "predictions": result.tolist()})
            file.write(text.encode())
        else:
            file.write(_csv(result, names).encode())


def _csv(result: Any, names: list[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(result.reshape(len(result), -1).tolist())
    return text.getvalue()


# -- prune -----------------------------------------------------------------------------------------


@click.command("prune")
@click.argument("model", type=FILE)
@click.argument("out", type=OUT)
@click.option("--sparsity", type=float, help="Part of all places that is empty afterwards, below "
              "1. Not needed with an n:m structure.")  # fmt: skip
@click.option("--score", type=TableChoice("gbdnn.pruning", "SCORES"), default="magnitude",
              show_default=True, help="gradient and movement need --data.")  # fmt: skip
@click.option("--distribution", type=TableChoice("gbdnn.pruning", "DISTRIBUTIONS"),
              default="lamp", show_default=True,
              help="Of the sparsity over the layers.")  # fmt: skip
@click.option("--structure", type=TableHint("gbdnn.pruning", "STRUCTURES"), help="What goes as a "
              "whole, also with other numbers; default: single weights.")  # fmt: skip
@click.option("--exclude", multiple=True, help="A weight that is left alone: its number (-1 is the "
              "last), name or pattern of names; may be repeated.")  # fmt: skip
@click.option("--compact", is_flag=True, help="Also remove neurons that make no difference any "
              "more.")  # fmt: skip
@click.option("--data", type=FILE, help="Labelled samples for gradients and for the accuracy.")
@click.option("--finetune", type=click.IntRange(0), default=0, show_default=True,
              help="Epochs of training on --data afterwards; patterns stay.")  # fmt: skip
@click.option("--learning-rate", type=Number(0, min_open=True), default=1e-3, show_default=True,
              help="For --finetune.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--rounds", type=click.IntRange(0), default=15, show_default=True,
              help="How often predict is timed; 0: not at all.")  # fmt: skip
@data_options
@run_options
def prune(
    model: Path,
    out: Path,
    sparsity: float | None,
    exclude: tuple[str, ...],
    data: Path | None,
    finetune: int,
    learning_rate: float,
    seed: int,
    rounds: int,
    label: str | None,
    header: bool | None,
    first: int | None,
    backend: str,
    threads: int | None,
    as_json: bool,
    **rule: Any,
) -> None:
    """Write MODEL without its least important weights to OUT; report non-zeros, bytes, speed."""
    from dataclasses import asdict

    from gbdnn import pruning, training
    from gbdnn.cli import refit
    from gbdnn.network import load

    check_out(out)
    if finetune and data is None:
        raise click.UsageError("--finetune needs --data, the samples to train on.")
    before = load(model)
    samples = None if data is None else samples_for(before, data, label, header, first)
    if finetune and data is not None:
        learned = samples_for(before, data, label, header, first, test=False)
        refit.check_samples(before, learned)
    if pruning.SCORES[rule["score"]].needs and (samples is None or samples.y is None):
        expected = f"labelled samples, as the score {rule['score']!r} needs gradients"
        raise InputError("--data", expected, "none")
    computing: dict[str, Any] = {"backend": backend, "threads": threads}
    names = [int(word) if word.lstrip("-").isdecimal() else word for word in exclude]
    after = training.prune(
        before, sparsity, exclude=names, rng=seed, **targets(before, samples), **computing, **rule
    )
    pruned, signal, history = after, None, []
    if finetune:
        after, result, signal = refit.finetune(
            pruned, learned, epochs=finetune, learning_rate=learning_rate, rng=seed, **computing
        )
        history = list(result.history.records)
    report = pruning.pruning_report(before, after, rounds=rounds, **computing)
    after.save(out)
    record: dict[str, Any] = asdict(report)
    record |= {"model": str(model), "out": str(out), "speedup": report.speedup}
    record["file_bytes"] = (model.stat().st_size, out.stat().st_size)
    if samples is not None and samples.y is not None:
        classes = classes_of(before)
        scores = [
            score(network, predicted(network, samples, **computing), samples.y, classes)
            for network in (before, pruned, after)
        ]
        record |= {key: (scores[0][key], scores[2][key]) for key in scores[0]}
        if finetune:
            record["finetune"] = {"history": history, **scores[1]}
    if as_json:
        echo_json(record)
    else:
        _report_pruning(record, str(report))
    if signal is not None:
        click.echo(f"stopped before the end; the model so far is in {out}", err=True)
        raise click.exceptions.Exit(128 + signal)


def _report_pruning(record: dict[str, Any], report: str) -> None:
    click.echo(report)
    sizes = record["file_bytes"]
    click.echo(f"file, {sizes[0]:,} bytes before, {sizes[1]:,} after: {record['out']}")
    for key in ("accuracy", "mean_squared_error"):
        if record.get(key) is not None:
            before, after = record[key]
            text = f"{key.replace('_', ' ')}, {before:.4f} before, {after:.4f} after"
            if tuned := record.get("finetune"):
                text += f" ({tuned[key]:.4f} before {len(tuned['history'])} epochs of training)"
            click.echo(text)
