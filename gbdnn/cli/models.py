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
    TableChoice,
    TableHint,
    check_out,
    data_options,
    run_options,
)
from gbdnn.cli.output import echo_json, echo_rows
from gbdnn.errors import InputError

if TYPE_CHECKING:
    from gbdnn.cli.datasets import Dataset
    from gbdnn.network import Network

__all__ = ["predict", "prune", "summary"]


# -- summary ---------------------------------------------------------------------------------------


@click.command("summary")
@click.argument("model", type=FILE)
@click.option("--backend", type=BACKEND, help="Also show what computes each layer.")
@JSON
def summary(model: Path, backend: str | None, as_json: bool) -> None:
    """Show the layers of a model file: shapes, non-zeros, bytes. The file is verified."""
    from gbdnn.network import load

    network = load(model)
    table = network.summary(backend)
    record = {
        "model": str(model),
        "file_bytes": model.stat().st_size,
        "in_features": network.in_features,
        "out_features": network.out_features,
        "dtype": str(network.dtype),
        "layers": list(table.rows),
        "total": table.total,
        "metadata": network.metadata,
    }
    if as_json:
        echo_json(record)
        return
    click.echo(str(table))
    rows = {
        "file": f"{record['file_bytes']:,} bytes",
        "samples": f"{network.in_features:,} features in, {network.out_features:,} values out",
        "dtype": str(network.dtype),
    }
    for key, value in network.metadata.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        rows[_printable(key)] = _printable(text if len(text) <= 300 else text[:297] + "...")
    echo_rows("", rows)


def _printable(text: str) -> str:
    """Return a text from a file without what could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


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
    classes = _classes(network)
    samples = _samples(network, data, label, header)
    begin = time.perf_counter()
    values = network.predict(samples.X, **computing)
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
        record |= _score(network, values, samples.y, classes)
    _deliver(result, names, out, record, as_json)


def _samples(network: Network, data: Path, label: str | None, header: bool | None) -> Dataset:
    from gbdnn.cli import datasets

    known = network.metadata.get("label")
    first = network.metadata.get("first_feature")
    return datasets.read(
        data, label=label, header=header, features=network.in_features, test=True,
        first=first if first in (0, 1) else None,
        names=(known,) if isinstance(known, str) else (),
    )  # fmt: skip


def _classes(network: Network) -> list[Any] | None:
    """Return the classes that the model file names, checked; None if it names none."""
    classes = network.metadata.get("classes")
    if classes is None:
        return None
    scalars = isinstance(classes, list) and all(isinstance(c, str | int | float) for c in classes)
    outputs = max(network.out_features, 2)
    if not scalars or len(classes) != outputs or len(set(classes)) != outputs:
        expected = f"{outputs} different names or numbers"
        raise InputError("classes in the model's metadata", expected, repr(classes)[:80])
    return list(classes)


def _numbers(network: Network, values: Any) -> Any:
    """Return the number of the likeliest class of each sample."""
    if network.out_features > 1:
        return values.argmax(axis=1)
    half = 0.5 if network.layers[-1].kind == "sigmoid" else 0.0
    return (values[:, 0] > half).astype(int)


def _formed(
    network: Network, values: Any, form: str, classes: list[Any] | None
) -> tuple[Any, list[str]]:
    """Return what was asked for, and the names of its columns."""
    import numpy as np

    if form == "classes":
        numbers = _numbers(network, values)
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


def _score(network: Network, values: Any, y: Any, classes: list[Any] | None) -> dict[str, float]:
    """Return the accuracy, or the mean squared error where there are no classes."""
    if classes is None:
        import numpy as np

        if y.dtype.kind not in "biuf" or y.reshape(len(y), -1).shape != values.shape:
            return {}
        return {"mean_squared_error": float(np.mean((y.reshape(values.shape) - values) ** 2))}
    return {"accuracy": float((_numbers(network, values) == _codes(classes, y)).mean())}


def _codes(classes: list[Any], y: Any) -> Any:
    """Return the number of each label among the classes, -1 for others."""
    import numpy as np

    number = {name: k for k, name in enumerate(classes)}
    return np.array([number.get(name, -1) for name in y.reshape(len(y), -1)[:, 0].tolist()])


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
            np.save(file, result, allow_pickle=False)
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
              default="global", show_default=True,
              help="Of the sparsity over the layers.")  # fmt: skip
@click.option("--structure", type=TableHint("gbdnn.pruning", "STRUCTURES"), help="What goes as a "
              "whole, also with other numbers; default: single weights.")  # fmt: skip
@click.option("--exclude", multiple=True, help="A weight that is left alone: its number (-1 is the "
              "last), name or pattern of names; may be repeated.")  # fmt: skip
@click.option("--data", type=FILE, help="Labelled samples for gradients and for the accuracy.")
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
    seed: int,
    rounds: int,
    label: str | None,
    header: bool | None,
    backend: str,
    threads: int | None,
    as_json: bool,
    **rule: Any,
) -> None:
    """Write MODEL without its least important weights to OUT; report non-zeros, bytes, speed."""
    from dataclasses import asdict

    from gbdnn import pruning, training
    from gbdnn.network import load

    check_out(out)
    before = load(model)
    samples = None if data is None else _samples(before, data, label, header)
    computing: dict[str, Any] = {"backend": backend, "threads": threads}
    names = [int(word) if word.lstrip("-").isdecimal() else word for word in exclude]
    after = training.prune(
        before, sparsity, exclude=names, rng=seed, **_targets(before, samples), **computing, **rule
    )
    report = pruning.pruning_report(before, after, rounds=rounds, **computing)
    after.save(out)
    record: dict[str, Any] = asdict(report)
    record |= {"model": str(model), "out": str(out), "speedup": report.speedup}
    record["file_bytes"] = (model.stat().st_size, out.stat().st_size)
    if samples is not None and samples.y is not None:
        classes = _classes(before)
        scores = [
            _score(network, network.predict(samples.X, **computing), samples.y, classes)
            for network in (before, after)
        ]
        record |= {key: (scores[0][key], scores[1][key]) for key in scores[0]}
    if as_json:
        echo_json(record)
        return
    click.echo(str(report))
    sizes = record["file_bytes"]
    click.echo(f"file, {sizes[0]:,} bytes before, {sizes[1]:,} after: {out}")
    for key in ("accuracy", "mean_squared_error"):
        if key in record:
            name = key.replace("_", " ")
            click.echo(f"{name}, {record[key][0]:.4f} before, {record[key][1]:.4f} after")


def _targets(network: Network, samples: Dataset | None) -> dict[str, Any]:
    """Return X, y and the loss for scores that need gradients."""
    if samples is None or samples.y is None:
        return {}
    classes = _classes(network)
    if classes is None:
        return {"X": samples.X, "y": samples.y, "loss": "mse"}
    y = _codes(classes, samples.y)
    if (y < 0).any():
        label = samples.y.reshape(len(y), -1)[(y < 0).argmax(), 0].item()
        raise InputError("labels", "classes of the model", repr(label))
    loss = "cross_entropy" if network.out_features > 1 else "binary_cross_entropy"
    return {"X": samples.X, "y": y, "loss": loss}
