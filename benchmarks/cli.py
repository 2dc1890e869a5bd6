"""``gbdnn bench``: measure, and draw what was measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from gbdnn.cli.options import FILE, FOLDER, JSON, THREADS, options

__all__ = ["bench"]

OUT = click.Path(path_type=Path, file_okay=False)


@click.group()
def bench() -> None:
    """Compare backends and other libraries on sparse layers, one engine per process.

    Records go to OUT/results.jsonl as they come. The same command again measures only what is
    missing.
    """


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


def _part(lowest: bool) -> Callable[[str], float]:
    """Return what reads 0.25, 1e-3 or 1/64: in [0, 1) if the lowest is one, else in (0, 1]."""

    def convert(text: str) -> float:
        number = float(Fraction(text))
        if not (0 <= number < 1 if lowest else 0 < number <= 1):
            raise ValueError
        return number

    return convert


SPARSITIES = _List("numbers from 0 up, below 1", _part(True))
DENSITIES = _List("numbers above 0, at most 1", _part(False))
WHOLE = _List("whole numbers from 1 up", _whole)
WIDTHS = _List("whole numbers from 1 up", _whole, distinct=False)
NAMES = _List("names", str)


def _positive(name: str, default: float, text: str, *, open_: bool = True) -> Any:
    kind = click.FloatRange(0, min_open=open_)
    return click.option(name, type=kind, default=default, show_default=True, help=text)


ROUNDS = click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
run_options = options(
    THREADS,
    click.option("--fresh", is_flag=True, help="Measure again what has a record."),
    click.option("--out", type=OUT, required=True, help="Folder for records and tables."),
    JSON,
)


@contextmanager
def _measuring(out: Path, total: int, fresh: bool) -> Iterator[dict[str, Any]]:
    """Yield options of `measured` that show progress; say after Ctrl-C what is kept."""
    from benchmarks import store
    from gbdnn.cli.output import progress

    try:
        with progress("measurements", total) as advance:
            yield {"fresh": fresh, "progress": advance, "report": _say}
    except KeyboardInterrupt:
        kept = len(store.read(out).records)
        _say(f"{kept} records are kept in {out}; the same command goes on from there")
        raise


def _print(out: Path, name: str, text: str, result: Sequence[Any], as_json: bool) -> None:
    """Write a table and what it is made of, and print one of them."""
    from benchmarks.tables import write

    write(out, name, text, result)
    click.echo(json.dumps({"out": str(out), "results": result}) if as_json else text)


@bench.command("sweep")
@click.option(
    "--preset", type=click.Choice(["kepner", "mlp"]),
    help="kepner: one layer, time against inverse sparsity (arXiv:1708.02937); mlp: 4 layers of "
    "2048, five batches. Other options override its lists.",
)  # fmt: skip
@click.option("--sizes", type=WHOLE, metavar="N,...",
              help="Neurons of a layer.  [default: 512,2048]")  # fmt: skip
@click.option("--densities", type=DENSITIES, metavar="D,...",
              help="Also as 1/64.  [default: 0.2,0.1,0.05,0.01]")  # fmt: skip
@click.option("--batches", type=WHOLE, metavar="N,...",
              help="Samples at a time.  [default: 1,64,256]")  # fmt: skip
@click.option("--layers", type=click.IntRange(1), help="Layers of a network.  [default: 1]")
@click.option("--bias", "biases", type=NAMES, metavar="NAME,...",
              help="mixed: both signs; zero, negative, positive: networks with biases of one kind "
              "take other ways, see them with --ops predict.  [default: mixed]")  # fmt: skip
@click.option("--ops", type=NAMES, metavar="NAME,...",
              help="affine: the bare backends; forward: with the tile executor; predict: as a user "
              "calls it.  [default: forward]")  # fmt: skip
@click.option("--backends", type=NAMES, metavar="NAME,...",
              help="Of gbdnn.  [default: all but graphblas-reference]")  # fmt: skip
@click.option("--peers", type=NAMES, metavar="NAME,...", default="",
              help="torch-csr, torch-dense, scipy, mkl.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--rounds", type=click.IntRange(3), default=15, show_default=True, help="At least.")
@_positive("--spread", 0.05, "Go on until the median is known to this part (95 % confidence) ...")
@_positive("--min-time", 0.2, "... for at least so many seconds", open_=False)
@_positive("--max-time", 5.0, "... and at most so many.")
@click.option("--timeout", type=click.FloatRange(1), default=900.0, show_default=True,
              help="Seconds after which a process is given up.")  # fmt: skip
@click.option("--disturbed", is_flag=True,
              help="Measure again what was measured while other programs were busy.")  # fmt: skip
@run_options
def bench_sweep(
    preset: str | None, peers: tuple[str, ...], threads: int | None, rounds: int, spread: float,
    min_time: float, max_time: float, timeout: float, fresh: bool, disturbed: bool, out: Path,
    dtype: str, seed: int, as_json: bool, **lists: Any,
) -> None:  # fmt: skip
    """Time every engine on the same matrices; results are compared with float64 before they count.

    Same sizes, densities and values for all engines.
    """
    from benchmarks.sweep import grid, sweep
    from benchmarks.sweep_table import show
    from benchmarks.timing import Timing
    from gbdnn.machine import check_threads

    engines = _engines(lists.pop("backends"), peers)
    timing = Timing(rounds, spread, min_time, max_time)
    jobs = grid(
        engines, threads=check_threads(threads), dtype=dtype, seed=seed, timing=timing,
        **_filled(preset, lists),
    )  # fmt: skip
    with _measuring(out, len(jobs), fresh) as shown:
        records = sweep(jobs, out, timeout=timeout, disturbed=disturbed, **shown)
    if as_json:
        click.echo(json.dumps({"out": str(out), "results": records}))
    else:
        show(records, wide=not sys.stdout.isatty())
    failed = sum(record["status"] == "failed" for record in records)
    if failed:
        _say(f"{failed} of {len(jobs)} failed")
        raise click.exceptions.Exit(1)


@bench.command("challenge")
@click.option("--neurons", type=click.Choice(["1024", "4096"]), default="1024", show_default=True)
@click.option("--layers", type=click.IntRange(1, 1920), default=120, show_default=True)
@click.option("--images", type=FILE, help="As for `gbdnn challenge run`.")
@ROUNDS
@run_options
def bench_challenge(
    neurons: str, threads: int | None, rounds: int, out: Path, fresh: bool, as_json: bool,
    **network: Any,
) -> None:  # fmt: skip
    """Compare the backends and torch on a network of the Graph Challenge.

    With and without skipping. Writes challenge.json and challenge.md. Torch: `pip install torch`.
    """
    from benchmarks import challenge
    from gbdnn.machine import check_threads

    present = _present(engine for engine, _ in challenge.CASES)
    cases = [case for case in challenge.CASES if case[0] in present]
    with _measuring(out, rounds * len(cases), fresh) as shown:
        found = challenge.compare(
            out, cases=cases, rounds=rounds, threads=check_threads(threads), neurons=int(neurons),
            **network, **shown,
        )  # fmt: skip
    _print(out, "challenge", challenge.report(found), found, as_json)


@bench.command("accuracy")
@click.option("--images", type=FILE,
              help="MNIST as .npz with X and y; default scikit-learn's embedded digits.",
)  # fmt: skip
@click.option("--methods", type=NAMES, metavar="NAME,...", help="[default: all]")
@click.option("--sparsities", type=SPARSITIES, metavar="S,...",
              help="[default: 0.9,0.95,0.98,0.99]")  # fmt: skip
@click.option("--hidden", type=WIDTHS, metavar="N,...", help="[default: 1024,1024]")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@run_options
def bench_accuracy(threads: int | None, out: Path, fresh: bool, as_json: bool, **task: Any) -> None:
    """Train dense and sparse networks: accuracy, time, bytes, memory.

    Writes accuracy.json, accuracy.md and, with matplotlib, the Pareto figure.
    """
    from benchmarks import accuracy, pareto
    from benchmarks.rounds import measured
    from gbdnn.errors import MissingDependencyError
    from gbdnn.machine import check_threads

    given = {name: value for name, value in task.items() if value is not None}
    _known("--methods", given.get("methods", ()), accuracy.METHODS)
    jobs = accuracy.jobs(threads=check_threads(threads), **given)
    with _measuring(out, len(jobs), fresh) as shown:
        records = measured(jobs, out, **shown)
    _print(out, "accuracy", accuracy.report(records), records, as_json)
    try:
        pareto.plot_pareto(records, out)
    except MissingDependencyError as error:
        _say(str(error))


@bench.command("training")
@click.option("--widths", type=WIDTHS, default="1024,4096,4096,10", show_default=True,
              metavar="N,...", help="Features of the input and of each layer.")  # fmt: skip
@click.option("--sparsities", type=SPARSITIES, default="0.8,0.9,0.98", show_default=True,
              metavar="S,...")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=256, show_default=True)
@click.option("--engines", type=NAMES, default="fused,torch-dense,torch-csr,torch-csr-sampled",
              show_default=True, metavar="NAME,...",
              help="Backends and ways to train with torch.")  # fmt: skip
@_positive("--seconds", 2.0, "How long steps are timed in each process.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@ROUNDS
@run_options
def bench_training(
    engines: tuple[str, ...], threads: int | None, rounds: int, out: Path, fresh: bool,
    as_json: bool, sparsities: tuple[float, ...], **network: Any,
) -> None:  # fmt: skip
    """Compare training steps (forward, backward, Adam) of a sparse MLP with torch's.

    Writes training.json and training.md.
    """
    from benchmarks import training
    from gbdnn.backends import BACKENDS
    from gbdnn.machine import check_threads

    _known("--engines", engines, [*BACKENDS, *training.PEERS])
    engines = tuple(_present(engines))
    with _measuring(out, rounds * len(engines) * len(sparsities), fresh) as shown:
        found = training.compare(
            out, sparsities=sparsities, engines=engines, rounds=rounds,
            threads=check_threads(threads), **network, **shown,
        )  # fmt: skip
    _print(out, "training", training.report(found), found, as_json)


@bench.command("plot")
@click.argument("folder", type=FOLDER)
@click.option("--out", type=OUT, help="Folder for the figures; default the one of the results.")
def bench_plot(folder: Path, out: Path | None) -> None:
    """Draw time, speed-up, roofline and memory as PNG and SVG files."""
    from benchmarks.figures import plot

    for path in plot(folder, folder if out is None else out):
        click.echo(str(path))


def _known(argument: str, chosen: Iterable[str], known: Iterable[str]) -> None:
    for name in chosen:
        if name not in known:
            message = f"{name!r} is not one of {', '.join(sorted(known))}."
            raise click.BadParameter(message, param_hint=argument)


def _engines(backends: tuple[str, ...] | None, peers: tuple[str, ...]) -> list[str]:
    """Check the names; return those that are installed."""
    from benchmarks.peers import PEERS
    from gbdnn.backends import BACKENDS

    if backends is None:
        backends = tuple(name for name in sorted(BACKENDS) if name != "graphblas-reference")
    _known("--backends", backends, BACKENDS)
    _known("--peers", peers, PEERS)
    return _present((*backends, *peers))


def _present(engines: Iterable[str]) -> list[str]:
    """Return the engines that are installed; say of others how to get them."""
    from benchmarks.peers import missing

    found = []
    for name in dict.fromkeys(engines):
        if (how := missing(name)) is None:
            found.append(name)
        else:
            _say(f"{name} is not installed and left out; to get it: {how}")
    if not found:
        raise click.UsageError("nothing to measure: no engine is left")
    return found


def _filled(preset: str | None, lists: dict[str, Any]) -> dict[str, Any]:
    """Return the lists of `grid`: as given, else of the preset, else the defaults."""
    from benchmarks.sweep import BIASES, LISTS, OPS, PRESETS

    given = {name: value for name, value in lists.items() if value is not None}
    filled = LISTS | PRESETS.get(preset or "", {}) | given
    _known("--ops", filled["ops"], OPS)
    _known("--bias", filled["biases"], BIASES)
    return filled


def _say(message: str) -> None:
    click.echo(message, err=True)
