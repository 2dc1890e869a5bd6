"""The commands `gbdnn challenge ...`: the Sparse DNN Graph Challenge (arXiv:1909.05631)."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from gbdnn.cli.options import BACKEND, FILE, FOLDER, JSON, OUT, THREADS, TableChoice, options
from gbdnn.cli.output import echo_json, echo_rows
from gbdnn.errors import InputError
from gbdnn.progress import bar

__all__ = ["challenge"]

network_options = options(
    click.option("--neurons", type=TableChoice("gbdnn.challenge.generate", "NEURONS"),
                 default="1024", show_default=True, help="Neurons in a layer."),
    click.option("--layers", type=click.IntRange(1, 1920), default=120, show_default=True,
                 help="Layers; official are 120, 480 and 1920."),
)  # fmt: skip
run_options = options(
    click.option("--backend", type=BACKEND, default="fused", show_default=True,
                 help="What computes."),
    THREADS,
    click.option("--no-skip", is_flag=True,
                 help="Compute inputs also when nothing is left of them."),
    click.option("--no-compact", is_flag=True, help="Do not merge equal neurons of a layer."),
    JSON,
)  # fmt: skip


@click.group()
def challenge() -> None:
    """The Sparse DNN Graph Challenge of MIT, IEEE and Amazon (arXiv:1909.05631)."""


@challenge.command("run")
@network_options
@click.option("--images", type=FILE, help="Images (.npz with X, idx, idx.gz) or inputs (.tsv).")
@click.option("--limit", type=click.IntRange(1), help="Use only the first inputs.")
@click.option("--data", type=FOLDER, help="Read official weight files from here.")
@click.option("--categories", type=FILE, help="Compare with the categories in this file.")
@click.option("--checkpoint", type=OUT, help="Folder in which a long run keeps what is done.")
@click.option("--executor", help="Spread the inputs: processes:4, dask://host:8786, or under "
              "mpiexec: mpi.")  # fmt: skip
@run_options
def challenge_run(
    neurons: str,
    layers: int,
    images: Path | None,
    limit: int | None,
    backend: str,
    threads: int | None,
    no_skip: bool,
    no_compact: bool,
    data: Path | None,
    categories: Path | None,
    checkpoint: Path | None,
    executor: str | None,
    as_json: bool,
) -> None:
    """Run an official network, generated here exactly, and check the result.

    The inputs are --images; else the official file in --data; else MNIST, if `gbdnn challenge
    fetch` has brought it; else the 1,797 handwritten digits that ship inside scikit-learn. A truth
    is known for the 60,000 official inputs.
    """
    from gbdnn.challenge import runner
    from gbdnn.challenge.generate import Spec

    if executor is not None and checkpoint is not None:
        raise click.UsageError("--checkpoint is for one process; leave it out with --executor.")
    spec = Spec(int(neurons), layers)
    click.echo("making the inputs", err=True)
    inputs = runner.load_inputs(spec.neurons, path=images, data=data, limit=limit)
    given: dict[str, Any] = {
        "backend": backend, "threads": threads, "skip": not no_skip, "compact": not no_compact,
        "data": data, "truth": categories,
    }  # fmt: skip
    with ExitStack() as stack:
        if executor is not None:
            from gbdnn.distributed import challenge as distributed

            pool = stack.enter_context(distributed.opened(executor))
            if pool is None:  # a rank that was a worker
                return
            done = stack.enter_context(bar("inference", inputs.bits.count * spec.layers))
            found = distributed.run(spec, inputs, executor=pool, progress=done, **given)
            assert found is not None
            result = found
        else:
            loaded = stack.enter_context(bar("layers", spec.layers))
            done = stack.enter_context(bar("inference", inputs.bits.count * spec.layers))
            result = runner.run(spec, inputs, checkpoint=checkpoint, load_progress=loaded,
                                progress=done, **given)  # fmt: skip
    if as_json:
        echo_json(result.record)
    else:
        _print_result(result.record)
    if result.record["passed"] is False:
        raise click.exceptions.Exit(1)


def _print_result(record: dict[str, Any]) -> None:
    share = record["effective_edges"] / max(record["nominal_edges"], 1)
    verdict = {True: "passed", False: "FAILED", None: "no truth known for these inputs"}
    rows = {
        "network": f"{record['neurons']:,} neurons x {record['layers']:,} layers",
        "inputs": f"{record['inputs']:,} ({record['origin']})",
        "edges": _edges_line(record),
        "edges x inputs": f"{record['nominal_edges']:,} nominal, "
        f"{record['effective_edges']:,} computed ({share:.2%})",
        "backend": f"{record['backend']}, {record['threads']} threads"
        + (f" of {record['workers']} workers" if "workers" in record else ""),
        "loading": f"{record['load_seconds']:.2f} s"
        + f", compaction {record['compact_seconds']:.2f} s of it" * record["compact"],
        "inference": f"{record['seconds']:.3f} s",
        "nominal rate": f"{record['nominal_edges_per_second'] / 1e9:,.1f} GEdge/s",
        "effective rate": f"{record['effective_edges_per_second'] / 1e9:,.1f} GEdge/s",
        "peak memory": f"{record['peak_rss_bytes'] / 2**20:,.0f} MiB",
        "categories": f"{record['categories']:,}",
        "truth": verdict[record["passed"]],
        "oracle": _oracle_line(record["oracle"]),
    }
    echo_rows("Sparse DNN Graph Challenge", rows)


def _edges_line(record: dict[str, Any]) -> str:
    left = record["compact_edges"]
    return f"{record['edges']:,}" + ("" if left is None else f", {left:,} after compaction")


def _oracle_line(oracle: dict[str, Any] | None) -> str:
    if oracle is None:
        return "not asked: the sample would take too long at this size"
    return (
        f"{oracle['kind']}: {oracle['agree']} of {oracle['samples']} sampled inputs agree, "
        f"largest relative difference {oracle['largest_relative_difference']:.1e}"
    )


@challenge.command("table")
@click.option("--out", type=OUT, required=True, help="Folder for the records and the table.")
@click.option("--networks", default="all", show_default=True, help="For example 1024x120,4096x480.")
@click.option("--images", type=FILE, help="As for `gbdnn challenge run`.")
@run_options
def challenge_table(
    out: Path,
    networks: str,
    images: Path | None,
    backend: str,
    threads: int | None,
    no_skip: bool,
    no_compact: bool,
    as_json: bool,
) -> None:
    """Run several networks, each in its own process, and print a table.

    Called again after an interruption it goes on where it stopped. Writes table.md and table.json.
    """
    from gbdnn.challenge import table
    from gbdnn.files.disk import atomic_write

    options = ["--backend", backend]
    options += [] if images is None else ["--images", str(images)]
    options += [] if threads is None else ["--threads", str(threads)]
    options += ["--no-skip"] if no_skip else []
    options += ["--no-compact"] if no_compact else []
    records = table.run_networks(table.parse_networks(networks), out, options)
    text = {"table.json": json.dumps(records, indent=1), "table.md": table.markdown(records)}
    for name, content in text.items():
        with atomic_write(out / name) as file:
            file.write(content.encode())
    if as_json:
        echo_json({"networks": records})
    else:
        click.echo(text["table.md"])
    if any(record["passed"] is False for record in records):
        raise click.exceptions.Exit(1)


@challenge.command("generate")
@network_options
@click.option("--out", type=OUT, required=True, help="Folder to write to.")
@click.option("--layer", "chosen", type=click.IntRange(1), multiple=True, help="Only this layer.")
@click.option("--images", type=FILE, help="Also write the inputs made of these images.")
@click.option("--gzip", "zipped", is_flag=True, help="Compress the files.")
def challenge_generate(
    neurons: str, layers: int, out: Path, chosen: tuple[int, ...], images: Path | None, zipped: bool
) -> None:
    """Write the official weight files, byte for byte, without downloading them."""
    from gbdnn.challenge import files, runner
    from gbdnn.challenge.generate import Spec
    from gbdnn.challenge.generate import layers as generate

    spec = Spec(int(neurons), layers)
    if chosen and max(chosen) > layers:
        raise click.BadParameter(f"{max(chosen)} is above --layers {layers}", param_hint="--layer")
    numbers = sorted(set(chosen)) or list(range(1, layers + 1))
    suffix = ".gz" if zipped else ""
    _check_space(out, len(numbers) * 32 * spec.neurons * (4 if zipped else 24))
    folder = out / f"neuron{spec.neurons}"
    folder.mkdir(parents=True, exist_ok=True)
    with bar("layers", len(numbers)) as done:
        for k in numbers:
            weight = next(generate(spec, start=k - 1, stop=k))
            files.write_layer(folder / f"n{spec.neurons}-l{k}.tsv{suffix}", weight)
            done(1)
    click.echo(f"{len(numbers)} layers in {folder}", err=True)
    if images is not None:
        path = out / f"sparse-images-{spec.neurons}.tsv{suffix}"
        files.write_images(path, runner.load_inputs(spec.neurons, path=images).bits)
        click.echo(f"inputs in {path}", err=True)


def _check_space(out: Path, nbytes: int) -> None:
    existing = next(
        folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists()
    )
    free = shutil.disk_usage(existing).free
    if nbytes > free:
        got = f"about {nbytes:,} bytes to write"
        raise InputError("--out", f"what fits into the {free:,} bytes that are free", got)


@challenge.command("fetch")
def challenge_fetch() -> None:
    """Download MNIST's training images (9.9 MB), check them, and keep them for the next runs."""
    from gbdnn.challenge import images

    click.echo(str(images.fetch()))
