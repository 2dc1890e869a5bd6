"""The command `gbdnn`. Results go to standard output, messages and progress to standard error."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gbdnn import __version__, calibration
from gbdnn.cli.models import predict, prune, summary
from gbdnn.cli.train import train
from gbdnn.errors import GbdnnError, InputError

__all__ = ["cli", "main"]

NEURONS = ["1024", "4096", "16384", "65536"]
PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


def main() -> None:
    """Run the command line; exit 0 on success, 1 on failure, 2 on wrong usage, 130 on Ctrl-C."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("gbdnn").setLevel(logging.INFO)  # says what takes seconds: compiling, ...
    try:
        status = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        status = 130
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (GbdnnError, OSError, MemoryError) as error:
        click.echo(f"error: {str(error) or type(error).__name__}", err=True)
        status = 1
    sys.exit(status if isinstance(status, int) else 0)


def _show_warning(message: Any, *where: Any) -> None:
    click.echo(f"warning: {message}", err=True)


def _bench() -> click.Command:
    """Return `gbdnn bench`, which lives in the checkout's folder benchmarks."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "benchmarks" / "cli.py").is_file():
        return click.Command("bench", help="Only in a checkout of gbdnn.")
    sys.path.insert(0, str(root))
    from benchmarks.cli import bench

    return bench  # type: ignore[no-any-return]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gbdnn")
def cli() -> None:
    """Sparse deep neural networks on a CPU, at a cost that follows the non-zeros."""


cli.add_command(_bench())
cli.add_command(calibration.command)
for _command in (train, prune, predict, summary):
    cli.add_command(_command)


@cli.group()
def challenge() -> None:
    """The Sparse DNN Graph Challenge of MIT, IEEE and Amazon (arXiv:1909.05631)."""


def _network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    neurons = click.option(
        "--neurons", type=click.Choice(NEURONS), default="1024", show_default=True,
        help="Neurons in a layer.",
    )  # fmt: skip
    layers = click.option(
        "--layers", type=click.IntRange(1, 1920), default=120, show_default=True,
        help="Layers; official are 120, 480 and 1920.",
    )  # fmt: skip
    return neurons(layers(command))


def _known_backend(context: click.Context, option: click.Parameter, name: str) -> str:
    from gbdnn.backends import BACKENDS  # not at the top: `gbdnn --help` needs no numpy

    if name not in BACKENDS:
        raise click.BadParameter(f"{name!r} is not one of {', '.join(sorted(BACKENDS))}.")
    return name


_backend_option = click.option(
    "--backend", default="graphblas", show_default=True, callback=_known_backend,
    help="What computes: auto, fused, graphblas, graphblas-reference or dense.",
)  # fmt: skip


@challenge.command("run")
@_network_options
@click.option("--images", type=FILE, help="Images (.npz with X, idx, idx.gz) or inputs (.tsv).")
@click.option("--limit", type=click.IntRange(1), help="Use only the first inputs.")
@_backend_option
@click.option("--threads", type=click.IntRange(1), help="Default: all cores.")
@click.option("--no-skip", is_flag=True, help="Compute inputs also when nothing is left of them.")
@click.option("--data", type=FOLDER, help="Read official weight files from here.")
@click.option("--categories", type=FILE, help="Compare with the categories in this file.")
@click.option("--checkpoint", type=PATH, help="Folder in which a long run keeps what is done.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def challenge_run(
    neurons: str,
    layers: int,
    images: Path | None,
    limit: int | None,
    backend: str,
    threads: int | None,
    no_skip: bool,
    data: Path | None,
    categories: Path | None,
    checkpoint: Path | None,
    as_json: bool,
) -> None:
    """Run an official network, generated here exactly, and check the result.

    The inputs are --images; else the official file in --data; else MNIST, if `gbdnn challenge
    fetch` has brought it; else the 1,797 handwritten digits that ship inside scikit-learn. A truth
    is known for the 60,000 official inputs.
    """
    from gbdnn.challenge import runner
    from gbdnn.challenge.generate import Spec
    from gbdnn.progress import bar

    spec = Spec(int(neurons), layers)
    click.echo("making the inputs", err=True)
    inputs = runner.load_inputs(spec.neurons, path=images, data=data, limit=limit)
    hidden = not sys.stderr.isatty()
    with (
        bar("layers", spec.layers, disable=hidden) as loaded,
        bar("inference", inputs.bits.count * spec.layers, disable=hidden) as done,
    ):
        result = runner.run(
            spec, inputs, backend=backend, threads=threads, skip=not no_skip, data=data,
            truth=categories, checkpoint=checkpoint, load_progress=loaded, progress=done,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(result.record))
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
        "edges x inputs": f"{record['nominal_edges']:,} nominal, "
        f"{record['effective_edges']:,} computed ({share:.2%})",
        "backend": f"{record['backend']}, {record['threads']} threads",
        "loading": f"{record['load_seconds']:.2f} s",
        "inference": f"{record['seconds']:.3f} s",
        "nominal rate": f"{record['nominal_edges_per_second'] / 1e9:,.1f} GEdge/s",
        "effective rate": f"{record['effective_edges_per_second'] / 1e9:,.1f} GEdge/s",
        "peak memory": f"{record['peak_rss_bytes'] / 2**20:,.0f} MiB",
        "categories": f"{record['categories']:,}",
        "truth": verdict[record["passed"]],
        "oracle": _oracle_line(record["oracle"]),
    }
    _print_table("Sparse DNN Graph Challenge", rows)


def _oracle_line(oracle: dict[str, Any] | None) -> str:
    if oracle is None:
        return "not asked: the sample would take too long at this size"
    return (
        f"{oracle['kind']}: {oracle['agree']} of {oracle['samples']} sampled inputs agree, "
        f"largest relative difference {oracle['largest_relative_difference']:.1e}"
    )


def _print_table(title: str, rows: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, value)
    Console().print(table)


@challenge.command("table")
@click.option("--out", type=PATH, required=True, help="Folder for the records and the table.")
@click.option("--networks", default="all", show_default=True, help="For example 1024x120,4096x480.")
@click.option("--images", type=FILE, help="As for `gbdnn challenge run`.")
@_backend_option
@click.option("--threads", type=click.IntRange(1), help="Default: all cores.")
@click.option("--no-skip", is_flag=True, help="Compute inputs also when nothing is left of them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of Markdown.")
def challenge_table(
    out: Path,
    networks: str,
    images: Path | None,
    backend: str,
    threads: int | None,
    no_skip: bool,
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
    records = table.run_networks(table.parse_networks(networks), out, options)
    text = {"table.json": json.dumps(records, indent=1), "table.md": table.markdown(records)}
    for name, content in text.items():
        with atomic_write(out / name) as file:
            file.write(content.encode())
    click.echo(json.dumps({"networks": records}) if as_json else text["table.md"])
    if any(record["passed"] is False for record in records):
        raise click.exceptions.Exit(1)


@challenge.command("generate")
@_network_options
@click.option("--out", type=PATH, required=True, help="Folder to write to.")
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
    from gbdnn.progress import bar

    spec = Spec(int(neurons), layers)
    if chosen and max(chosen) > layers:
        raise click.BadParameter(f"{max(chosen)} is above --layers {layers}", param_hint="--layer")
    numbers = sorted(set(chosen)) or list(range(1, layers + 1))
    suffix = ".gz" if zipped else ""
    _check_space(out, len(numbers) * 32 * spec.neurons * (4 if zipped else 24))
    folder = out / f"neuron{spec.neurons}"
    folder.mkdir(parents=True, exist_ok=True)
    with bar("layers", len(numbers), disable=not sys.stderr.isatty()) as done:
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

    click.echo(f"{images.fetch()}")


@cli.command("info")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(as_json: bool) -> None:
    """Show versions, threads, kernels and memory."""
    from gbdnn import machine

    found = machine.info()
    if as_json:
        click.echo(json.dumps(found))
        return
    rows: dict[str, str] = {}
    for key, value in found.items():
        if isinstance(value, dict):
            rows |= {f"{key} {name}": _plain(part) for name, part in value.items()}
        else:
            rows[key] = _plain(value)
    _print_table(f"gbdnn {__version__}", rows)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(part) for part in value)
    if isinstance(value, dict):
        return " ".join(map(str, value.values()))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
