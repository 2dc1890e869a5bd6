"""The command `gbdnn compact`: a model without the neurons that make no difference."""

from __future__ import annotations

from pathlib import Path

import click

from gbdnn.cli.options import COMPRESS, FILE, JSON, OUT, check_out
from gbdnn.cli.output import echo_json

__all__ = ["compact"]


@click.command("compact")
@click.argument("model", type=FILE)
@click.argument("out", type=OUT)
@COMPRESS
@JSON
def compact(model: Path, out: Path, compress: bool, as_json: bool) -> None:
    """Write MODEL to OUT without dead, constant and equal neurons and stored zeros.

    It computes the same, but for the rounding of sums.
    """
    from dataclasses import asdict

    import gbdnn
    from gbdnn.network import load

    check_out(out)
    network, report = gbdnn.compact(load(model))
    network.save(out, compress=compress)
    sizes = model.stat().st_size, out.stat().st_size
    if as_json:
        echo_json({
            "model": str(model), "out": str(out), "file_bytes": sizes, "neurons": report.neurons,
            "edges": report.edges, "bytes": report.bytes, **asdict(report),
        })  # fmt: skip
        return
    click.echo(str(report))
    click.echo(f"file, {sizes[0]:,} bytes before, {sizes[1]:,} after: {out}")
