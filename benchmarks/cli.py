"""``gbdnn bench``: measure, and draw what was measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

__all__ = ["bench"]

OUT = click.Path(path_type=Path, file_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group()
def bench() -> None:
    """Compare backends and other libraries on sparse layers, one engine per process."""


class _List(click.ParamType[Any]):
    """Values between commas."""

    def __init__(self, name: str, convert: Callable[[str], Any], distinct: bool = True) -> None:
        self.name, self.one, self.distinct = name, convert, distinct

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            found = tuple(self.one(part.strip()) for part in value.split(",") if part.strip())
        except (ValueError, ZeroDivisionError, OverflowError):
            self.fail(f"{value!r} is not a list of {self.name}, with commas between", param, ctx)
        return tuple(dict.fromkeys(found)) if self.distinct else found


def _whole(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _density(text: str) -> float:
    number = float(Fraction(text))  # takes 0.25, 1e-3 and 1/64
    if not 0 < number <= 1:
        raise ValueError
    return number


def _sparsity(text: str) -> float:
    number = float(Fraction(text))
    if not 0 <= number < 1:
        raise ValueError
    return number


SPARSITIES = _List("numbers from 0 up, below 1", _sparsity)
WIDTHS = _List("whole numbers from 1 up", _whole, distinct=False)


WHOLE = _List("whole numbers from 1 up", _whole)
DENSITIES = _List("numbers above 0, at most 1", _density)
NAMES = _List("names", str)


def _known(argument: str, chosen: tuple[str, ...], known: Any) -> None:
    for name in chosen:
        if name not in known:
            message = f"{name!r} is not one of {', '.join(sorted(known))}."
            raise click.BadParameter(message, param_hint=argument)


@bench.command("sweep")
@click.option(
    "--preset", type=click.Choice(["kepner", "mlp"]),
    help="kepner: one layer, time against inverse sparsity (arXiv:1708.02937); mlp: 4 layers of "
    "2048, five batches. Other options override its lists.",
)  # fmt: skip
@click.option(
    "--sizes", type=WHOLE, metavar="N,...", help="Neurons of a layer.  [default: 512,2048]"
)
@click.option(
    "--densities",
    type=DENSITIES,
    metavar="D,...",
    help="Also as 1/64.  [default: 0.2,0.1,0.05,0.01]",
)
@click.option(
    "--batches", type=WHOLE, metavar="N,...", help="Samples at a time.  [default: 1,64,256]"
)
@click.option("--layers", type=click.IntRange(1), help="Layers of a network.  [default: 1]")
@click.option(
    "--ops", type=NAMES, metavar="NAME,...",
    help="affine: the bare backends; forward: with the tile executor; predict: with conversions. "
    "[default: forward]",
)  # fmt: skip
@click.option(
    "--backends",
    type=NAMES,
    metavar="NAME,...",
    help="Of gbdnn.  [default: all but graphblas-reference]",
)
@click.option(
    "--peers",
    type=NAMES,
    metavar="NAME,...",
    default="",
    help="torch-csr, torch-dense, scipy, mkl.",
)
@click.option("--threads", type=click.IntRange(1), help="Default: all cores.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--rounds", type=click.IntRange(3), default=15, show_default=True, help="At least.")
@click.option(
    "--spread", type=click.FloatRange(0, min_open=True), default=0.05, show_default=True,
    help="Go on until the median is known to this part (95 % confidence) ...",
)  # fmt: skip
@click.option(
    "--min-time", type=click.FloatRange(0), default=0.2, show_default=True,
    help="... for at least so many seconds",
)  # fmt: skip
@click.option(
    "--max-time", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True,
    help="... and at most so many.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(1), default=900.0, show_default=True,
    help="Seconds after which a cell is given up.",
)  # fmt: skip
@click.option("--fresh", is_flag=True, help="Measure again what has a result.")
@click.option(
    "--disturbed", is_flag=True,
    help="Measure again what was measured while other programs were busy.",
)  # fmt: skip
@click.option("--out", type=OUT, required=True, help="Folder for results.jsonl.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench_sweep(
    preset: str | None,
    peers: tuple[str, ...],
    threads: int | None,
    rounds: int,
    spread: float,
    min_time: float,
    max_time: float,
    timeout: float,
    fresh: bool,
    disturbed: bool,
    out: Path,
    as_json: bool,
    **lists: Any,
) -> None:
    """Time every engine on the same matrices, each cell in a process of its own.

    Records go to OUT/results.jsonl as they come. The same command again measures only what is
    missing. Results are compared with float64 before they count.
    """
    from benchmarks import store, table
    from benchmarks.cells import grid
    from benchmarks.harness import sweep
    from benchmarks.timing import Timing
    from gbdnn.machine import check_threads
    from gbdnn.progress import bar

    engines = _engines(lists.pop("backends"), peers)
    if not engines:
        raise click.UsageError("nothing to measure: name --backends or --peers")
    cells = grid(engines, threads=check_threads(threads), **_filled(preset, lists))
    timing = Timing(rounds, spread, min_time, max_time)
    try:
        with bar("cells", len(cells), disable=not sys.stderr.isatty()) as advance:
            outcome = sweep(
                cells, out, timing=timing, timeout=timeout, fresh=fresh, disturbed=disturbed,
                progress=advance, warn=_warn,
            )  # fmt: skip
    except KeyboardInterrupt:
        kept = len(store.read(out).records)
        _warn(f"{kept} records are kept in {out}; the same command goes on from there")
        raise
    if outcome.reused:
        _warn(f"{outcome.reused} of {len(cells)} cells were measured before (--fresh: again)")
    if as_json:
        click.echo(json.dumps({"out": str(out), "results": outcome.records}))
    else:
        table.show(outcome.records, wide=not sys.stdout.isatty())
    failed = sum(record["status"] == "failed" for record in outcome.records)
    if failed:
        _warn(f"{failed} of {len(cells)} cells failed")
        raise click.exceptions.Exit(1)


@bench.command("challenge")
@click.option("--neurons", type=click.Choice(["1024", "4096"]), default="1024", show_default=True)
@click.option("--layers", type=click.IntRange(1, 1920), default=120, show_default=True)
@click.option(
    "--images", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="As for `gbdnn challenge run`.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Default: all cores.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--out", type=OUT, required=True, help="Folder for challenge.json and challenge.md.")
def bench_challenge(
    neurons: str, layers: int, images: Path | None, threads: int | None, rounds: int, out: Path
) -> None:
    """Race the backends and torch on a network of the Graph Challenge, with and without skipping.

    Needs torch (`pip install torch`). Prints a Markdown table.
    """
    from benchmarks import challenge, peers
    from gbdnn.files.disk import atomic_write
    from gbdnn.machine import check_threads

    if (how := peers.missing("torch-csr")) is not None:
        _warn(f"torch is not installed and left out; to get it: {how}")
    cases = [case for case in challenge.CASES if how is None or case[0] != "torch-csr"]
    result = challenge.compare(
        neurons=int(neurons), layers=layers, images=images, rounds=rounds,
        threads=check_threads(threads), cases=cases, report=_warn,
    )  # fmt: skip
    text = challenge.markdown(result)
    out.mkdir(parents=True, exist_ok=True)
    files = {"challenge.json": json.dumps(result, indent=1), "challenge.md": text}
    for name, content in files.items():
        with atomic_write(out / name) as file:
            file.write(content.encode())
    click.echo(text)


@bench.command("accuracy")
@click.option(
    "--images", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="MNIST as .npz with X and y; default scikit-learn's embedded digits.",
)  # fmt: skip
@click.option("--methods", type=NAMES, metavar="NAME,...", help="[default: all]")
@click.option(
    "--sparsities", type=SPARSITIES, metavar="S,...", help="[default: 0.9,0.95,0.98,0.99]"
)
@click.option("--hidden", type=WIDTHS, metavar="N,...", help="[default: 1024,1024]")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Default: all cores.")
@click.option("--out", type=OUT, required=True, help="Folder for results, table and figure.")
def bench_accuracy(
    images: Path | None, threads: int | None, out: Path, seeds: int, epochs: int, batch_size: int,
    **lists: Any,
) -> None:  # fmt: skip
    """Train dense and sparse networks: accuracy, time, bytes, memory; each in its own process.

    Writes results.jsonl, accuracy.md and, with matplotlib, the Pareto figure. The same command
    again trains only what is missing.
    """
    from benchmarks import pareto, study
    from gbdnn.errors import MissingDependencyError
    from gbdnn.files.disk import atomic_write
    from gbdnn.machine import check_threads
    from gbdnn.progress import bar

    given = {name: value for name, value in lists.items() if value is not None}
    _known("--methods", given.get("methods", ()), study.METHODS)
    wanted = study.cells(
        images=images, seeds=seeds, epochs=epochs, batch_size=batch_size,
        threads=check_threads(threads), **given,
    )  # fmt: skip
    with bar("trainings", len(wanted), disable=not sys.stderr.isatty()) as advance:
        records = study.study(wanted, out, progress=advance, report=_warn)
    text = study.markdown(records)
    with atomic_write(out / "accuracy.md") as file:
        file.write(text.encode())
    try:
        pareto.plot_pareto(records, out)
    except MissingDependencyError as error:
        _warn(str(error))
    click.echo(text)


@bench.command("training")
@click.option(
    "--widths", type=WIDTHS, default="1024,4096,4096,10", show_default=True, metavar="N,...",
    help="Features of the input and of each layer.",
)  # fmt: skip
@click.option(
    "--sparsities", type=SPARSITIES, default="0.8,0.9,0.98", show_default=True, metavar="S,..."
)
@click.option("--batch", type=click.IntRange(1), default=256, show_default=True)
@click.option(
    "--engines", type=NAMES, default="fused,torch-dense,torch-csr,torch-csr-sampled",
    show_default=True, metavar="NAME,...", help="Backends and ways to train with torch.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Default: all cores.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=2.0, show_default=True,
    help="How long steps are timed in each process.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=OUT, required=True, help="Folder for training.json and training.md.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench_training(
    engines: tuple[str, ...], threads: int | None, out: Path, as_json: bool, **options: Any
) -> None:
    """Race training steps (forward, backward, Adam) of a sparse MLP against torch.

    Each engine runs in a process of its own. Prints Markdown tables.
    """
    from benchmarks import peers, training
    from gbdnn.backends import BACKENDS
    from gbdnn.files.disk import atomic_write
    from gbdnn.machine import check_threads

    _known("--engines", engines, [*BACKENDS, *training.PEERS])
    if (how := peers.missing("torch-csr")) is not None and set(engines) & set(training.PEERS):
        _warn(f"torch is not installed and left out; to get it: {how}")
        engines = tuple(name for name in engines if name not in training.PEERS)
    if not engines:
        raise click.UsageError("nothing to measure: name --engines")
    result = training.compare(
        engines=engines, threads=check_threads(threads), report=_warn, **options
    )
    text = training.markdown(result)
    out.mkdir(parents=True, exist_ok=True)
    files = {"training.json": json.dumps(result, indent=1), "training.md": text}
    for name, content in files.items():
        with atomic_write(out / name) as file:
            file.write(content.encode())
    click.echo(json.dumps(result) if as_json else text)


@bench.command("plot")
@click.argument("folder", type=FOLDER)
@click.option("--out", type=OUT, help="Folder for the figures; default the one of the results.")
def bench_plot(folder: Path, out: Path | None) -> None:
    """Draw time, speed-up, roofline and memory as PNG and SVG files."""
    from benchmarks.figures import plot

    for path in plot(folder, folder if out is None else out):
        click.echo(str(path))


def _engines(backends: tuple[str, ...] | None, peers: tuple[str, ...]) -> list[str]:
    """Check the names; say of peers that are not installed how to get them, and leave them out."""
    from benchmarks.peers import PEERS, missing
    from gbdnn.backends import BACKENDS

    chosen = backends
    if chosen is None:
        chosen = tuple(name for name in sorted(BACKENDS) if name != "graphblas-reference")
    _known("--backends", chosen, BACKENDS)
    _known("--peers", peers, PEERS)
    engines = list(chosen)
    for name in peers:
        if (how := missing(name)) is not None:
            _warn(f"{name} is not installed and left out; to get it: {how}")
        else:
            engines.append(name)
    return engines


def _filled(preset: str | None, lists: dict[str, Any]) -> dict[str, Any]:
    """Return the lists of `grid`: as given, else of the preset, else the defaults."""
    from benchmarks.cells import OPS, PRESETS, Preset

    base = PRESETS[preset] if preset else Preset(
        (512, 2048), (0.2, 0.1, 0.05, 0.01), (1, 64, 256), 1, ("forward",)
    )  # fmt: skip
    filled = vars(base) | {name: value for name, value in lists.items() if value is not None}
    _known("--ops", filled["ops"], OPS)
    return filled


def _warn(message: str) -> None:
    click.echo(message, err=True)
