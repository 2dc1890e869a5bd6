"""The command `gbdnn quantize`: a model file with weights of few bits.

Modules that need numpy are imported where they are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gbdnn.cli.models import samples_for
from gbdnn.cli.options import (
    COMPRESS,
    FILE,
    OUT,
    TableHint,
    check_out,
    data_options,
    plan_of,
    run_options,
)
from gbdnn.cli.output import echo_json

__all__ = ["quantize"]


@click.command("quantize")
@click.argument("model", type=FILE)
@click.argument("out", type=OUT)
@click.option("--plan", type=TableHint("gbdnn.quantization", "PLANS"), required=True,
              help="Which tensor is rounded how: a name, or a JSON file.")  # fmt: skip
@click.option("--data", type=FILE, help="Samples that the activations' levels are found with; with "
              "labels the accuracy is reported too.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1), default=2048, show_default=True,
              help="So many of --data are looked at.")  # fmt: skip
@click.option("--observer", type=TableHint("gbdnn.quantization.rounding", "OBSERVERS"),
              default="mean", show_default=True,
              help="How batches of them are put together.")  # fmt: skip
@COMPRESS
@data_options
@run_options
def quantize(
    model: Path,
    out: Path,
    plan: str,
    data: Path | None,
    samples: int,
    observer: str,
    compress: bool,
    label: str | None,
    header: bool | None,
    first: int | None,
    backend: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Write MODEL with weights of few bits, which computes in whole numbers, to OUT.

    Nothing is trained; `gbdnn train --plan` loses less. Reports bytes, the change of the results,
    and the accuracy where the samples have labels.
    """
    import numpy as np

    from gbdnn.cli.scores import classes_of, predicted, score
    from gbdnn.data.inputs import unpadded
    from gbdnn.network import load
    from gbdnn.quantization import as_plan
    from gbdnn.quantization import quantize as quantized

    check_out(out)
    before = load(model)
    chosen = as_plan(plan_of(plan), before.named_layers)
    given = None if data is None else samples_for(before, data, label, header, first)
    X = None if given is None else given.X
    if given is not None and given.lengths is not None:  # padding is not to be looked at
        X = unpadded(given.X, given.lengths, "X")[0]
    computing: dict[str, Any] = {"backend": backend, "threads": threads}
    after = quantized(before, chosen, X, samples=samples, observer=observer, **computing)
    after.metadata = before.metadata
    after.save(out, extra={"quantization": chosen.to_dict()}, compress=compress)
    table = chosen.describe(before)
    record: dict[str, Any] = {
        "model": str(model),
        "out": str(out),
        "plan": chosen.to_dict(),
        "tensors": list(table.rows),
        "bytes": (before.nbytes, after.nbytes),
        "dense_float32_bytes": table.dense_bytes,
        "file_bytes": (model.stat().st_size, out.stat().st_size),
    }
    if given is not None:
        values = [predicted(network, given, **computing) for network in (before, after)]
        spread = float(np.std(values[0])) or 1.0
        record["change"] = float(np.sqrt(np.mean(np.square(values[1] - values[0])))) / spread
        if given.y is not None:
            classes = classes_of(before)
            scores = [score(before, value, given.y, classes) for value in values]
            record |= {key: (scores[0][key], scores[1][key]) for key in scores[0]}
    if as_json:
        echo_json(record)
        return
    click.echo(str(table))
    sizes = record["file_bytes"]
    click.echo(f"file, {sizes[0]:,} bytes before, {sizes[1]:,} after: {out}")
    if "change" in record:
        click.echo(f"results change by {record['change']:.2%} of their spread (root mean square)")
    for key in ("accuracy", "mean_squared_error"):
        if record.get(key) is not None:
            text = "{:.4f} before, {:.4f} after".format(*record[key])
            click.echo(f"{key.replace('_', ' ')}, {text}")
