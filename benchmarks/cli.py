"""``gbdnn bench``: measure, and draw what was measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from gbdnn.cli.options import FOLDER, JSON, TableChoice, options

__all__ = ["bench"]

OUT = click.Path(path_type=Path, file_okay=False)


@click.group()
def bench() -> None:
    """Compare backends and other libraries on sparse layers, one engine per process.

    Records go to OUT/results.jsonl as they come. The same command again measures only what is
    missing.
    """


class _List(click.ParamType[Any]):
    """Values between commas, each of a type; shown in the help as `name`."""

    def __init__(self, name: str, one: click.ParamType[Any], *, distinct: bool = True) -> None:
        self.name, self.one, self.distinct = name, one, distinct

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",") if part.strip()]
        found = tuple(self.one.convert(part, param, ctx) for part in parts)
        return tuple(dict.fromkeys(found)) if self.distinct else found


class _Part(click.FloatRange):
    """A number that may be written as 0.25, 1e-3 or 1/64."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            number = float(Fraction(value))
        except (ValueError, ZeroDivisionError, OverflowError):
            self.fail(f"{value!r} is not a number such as 0.25, 1e-3 or 1/64.", param, ctx)
        return super().convert(number, param, ctx)


def _names(module: str, attribute: str) -> _List:
    return _List("NAME,...", TableChoice(module, attribute))


SPARSITIES = _List("S,...", _Part(0, 1, max_open=True))
DENSITIES = _List("D,...", _Part(0, 1, min_open=True))
COUNT, POSITIVE = click.IntRange(1), click.FloatRange(0, min_open=True)
WHOLE, WIDTHS = _List("N,...", COUNT), _List("N,...", COUNT, distinct=False)


def _option(name: str, kind: Any, text: str | None = None, default: Any = None, **more: Any) -> Any:
    """Return an option; its default, if it has one, stands in the help."""
    shown = default is not None
    return click.option(name, type=kind, help=text, default=default, show_default=shown, **more)


def _threads(ctx: Any, param: Any, value: int | None) -> int:
    from gbdnn.machine import check_threads

    return check_threads(value)


FILE = click.Path(exists=True, dir_okay=False, resolve_path=True)
ROUNDS = _option("--rounds", COUNT, default=5)
IMAGES = _option("--images", FILE, "As for `gbdnn challenge run`.")
MNIST = _option(
    "--images", FILE, "MNIST as .npz with X and y; default scikit-learn's embedded digits."
)
run_options = options(
    _option("--threads", COUNT, "Default: all cores.", callback=_threads),
    click.option("--fresh", is_flag=True, help="Measure again what has a record."),
    _option("--out", OUT, "Folder for records and tables.", required=True),
    JSON,
)


@contextmanager
def _measuring(out: Path, total: int, fresh: bool) -> Iterator[dict[str, Any]]:
    """Yield options of `measured` that show progress; say after Ctrl-C what is kept."""
    from benchmarks import store
    from gbdnn.progress import bar

    try:
        with bar("measurements", total) as advance:
            yield {"fresh": fresh, "progress": advance, "report": _say}
    except KeyboardInterrupt:
        kept = len(store.read(out).records)
        _say(f"{kept} records are kept in {out}; the same command goes on from there")
        raise


def _compare(
    module: Any, jobs: Sequence[Any], out: Path, fresh: bool, as_json: bool, rounds: int = 1
) -> Any:
    """Measure the jobs, write table and results of the module's name, print one of them."""
    from gbdnn.files.disk import atomic_write

    with _measuring(out, rounds * len(jobs), fresh) as shown:
        results = module.compare(jobs, out, rounds=rounds, **shown)
    name, text = module.__name__.rpartition(".")[2], module.report(results)
    for suffix, content in ((".md", text), (".json", json.dumps(results, indent=1))):
        with atomic_write(out / (name + suffix)) as file:
            file.write(content.encode())
    click.echo(json.dumps({"out": str(out), "results": results}) if as_json else text)
    return results


@bench.command("sweep")
@_option("--preset", click.Choice(["kepner", "mlp"]),
         "kepner: one layer, time against inverse sparsity (arXiv:1708.02937); mlp: 4 layers of "
         "2048, five batches, biases of all kinds, as a user calls it. Other options override its "
         "lists.")  # fmt: skip
@_option("--sizes", WHOLE, "Neurons of a layer.  [default: 512,2048]")
@_option("--densities", DENSITIES, "Also as 1/64.  [default: 0.2,0.1,0.05,0.01]")
@_option("--batches", WHOLE, "Samples at a time.  [default: 1,64,256]")
@_option("--layers", COUNT, "Layers of a network.  [default: 1]")
@click.option("--bias", "biases", type=_names("benchmarks.sweep", "BIASES"),
              help="mixed: both signs; zero, negative, positive: networks with biases of one kind "
              "take other ways, see them with --ops predict.  [default: mixed]")  # fmt: skip
@_option("--ops", _names("benchmarks.sweep", "OPS"),
         "affine: the bare backends; forward: with the tile executor; predict: as a user calls it; "
         "no-skip: the same with skip=False.  [default: forward]")  # fmt: skip
@_option(
    "--backends",
    _names("gbdnn.backends", "BACKENDS"),
    "Of gbdnn.  [default: all but graphblas-reference]",
)
@_option("--peers", _names("benchmarks.peers", "PEERS"), "torch-csr, torch-dense, scipy, mkl.")
@_option("--dtype", click.Choice(["float32", "float64"]), default="float32")
@_option("--seed", click.IntRange(0), default=0)
@_option("--rounds", click.IntRange(3), "At least.", 15)
@_option("--spread", POSITIVE, "Go on until the median is known to this part (95 % confidence) ...",
         0.05)  # fmt: skip
@_option("--min-time", click.FloatRange(0), "... for at least so many seconds", 0.2)
@_option("--max-time", POSITIVE, "... and at most so many.", 5.0)
@_option("--timeout", click.FloatRange(1), "Seconds after which a process is given up.", 900.0)
@click.option("--disturbed", is_flag=True,
              help="Measure again what was measured while other programs were busy, or is less "
              "certain than --spread.")  # fmt: skip
@click.option("--executor", help="Measure on other machines, a case at a time on each: "
              "dask://host:8786, mpi under mpiexec; they need this checkout.")  # fmt: skip
@run_options
def bench_sweep(
    executor: str | None, preset: str | None, backends: Any, peers: Any, threads: int, rounds: int,
    spread: float,
    min_time: float, max_time: float, timeout: float, fresh: bool, disturbed: bool, out: Path,
    dtype: str, seed: int, as_json: bool, **lists: Any,
) -> None:  # fmt: skip
    """Time every engine on the same matrices; results are compared with float64 before they count.

    Same sizes, densities and values for all engines.
    """
    from benchmarks.sweep import grid, sweep
    from benchmarks.sweep_table import show
    from benchmarks.timing import Timing
    from gbdnn.backends import BACKENDS

    if backends is None:
        backends = [name for name in sorted(BACKENDS) if name != "graphblas-reference"]
    timing = Timing(rounds, spread, min_time, max_time)
    settings = {"threads": threads, "dtype": dtype, "seed": seed, "timing": timing}
    jobs = grid(_present((*backends, *(peers or ()))), **settings, **_filled(preset, lists))
    with ExitStack() as stack:
        pool = None
        if executor is not None:
            from benchmarks.elsewhere import elsewhere
            from gbdnn.distributed import opened

            pool = stack.enter_context(opened(executor))
            if pool is None:  # a rank that was a worker
                return
        shown = stack.enter_context(_measuring(out, len(jobs), fresh))
        if pool is not None:
            records = elsewhere(jobs, out, pool, timeout=timeout, disturbed=disturbed, **shown)
        else:
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
@_option("--neurons", click.Choice(["1024", "4096"]), default="1024")
@_option("--layers", click.IntRange(1, 1920), default=120)
@IMAGES
@ROUNDS
@run_options
def bench_challenge(
    neurons: str, layers: int, images: str | None, threads: int, **run: Any
) -> None:
    """Compare the backends and torch on a network of the Graph Challenge.

    With and without skipping. Writes challenge.json and challenge.md. Torch: `pip install torch`.
    """
    from benchmarks import challenge

    present = _present(engine for engine, _ in challenge.CASES)
    network = {"neurons": int(neurons), "layers": layers, "images": images, "threads": threads}
    jobs = [
        challenge.ChallengeJob(engine=engine, skip=skip, **network)
        for engine, skip in challenge.CASES
        if engine in present
    ]
    _compare(challenge, jobs, **run)


@bench.command("accuracy")
@MNIST
@_option(
    "--methods", _names("benchmarks.accuracy", "METHODS"), default="dense,static,set,rigl,magnitude"
)
@_option("--sparsities", SPARSITIES, default="0.9,0.95,0.98,0.99")
@_option("--hidden", WIDTHS, default="1024,1024")
@_option("--seeds", COUNT, default=3)
@_option("--epochs", COUNT, default=10)
@_option("--batch-size", COUNT, default=128)
@run_options
def bench_accuracy(out: Path, fresh: bool, as_json: bool, **task: Any) -> None:
    """Train dense and sparse networks: accuracy, time, bytes, memory.

    Writes accuracy.json, accuracy.md and, with matplotlib, the Pareto figure.
    """
    from benchmarks import accuracy

    _draw("pareto", accuracy, _compare(accuracy, accuracy.jobs(**task), out, fresh, as_json), out)


@bench.command("pruned")
@MNIST
@_option("--sparsity", click.FloatRange(0, 1, max_open=True), "Of the pruned network.", 0.95)
@_option("--hidden", WIDTHS, default="1024,1024")
@_option("--epochs", COUNT, default=10)
@_option("--batches", WHOLE, "Samples at a time.", "1,16,64,256,1024")
@ROUNDS
@run_options
def bench_pruned(rounds: int, out: Path, fresh: bool, as_json: bool, **model: Any) -> None:
    """Train, prune and time one model: pruned on gbdnn, dense and pruned on BLAS and torch.

    Writes pruned.json, pruned.md with a sentence for the README, and, with matplotlib, the figure.
    """
    from benchmarks import pruned

    jobs = pruned.jobs(_present(pruned.ENGINES), out, **model)
    _draw("pruned", pruned, _compare(pruned, jobs, out, fresh, as_json, rounds), out)


@bench.command("torch-model")
@_option("--sparsities", SPARSITIES, default="0.8,0.9,0.98")
@_option("--widths", WIDTHS, "Features of the input and of each layer.", "1024,4096,4096,10")
@_option("--batches", WHOLE, "Samples at a time.", "1,64,256")
@_option("--seed", click.IntRange(0), default=0)
@ROUNDS
@run_options
def bench_torch_model(rounds: int, out: Path, fresh: bool, as_json: bool, **model: Any) -> None:
    """Take a pruned model of torch to a gbdnn file: bytes, memory and time before and after.

    Writes torch_model.json and torch_model.md.
    """
    from benchmarks import torch_model

    jobs = torch_model.jobs(torch_model.ENGINES, out, **model)
    _compare(torch_model, jobs, out, fresh, as_json, rounds)


@bench.command("quantized")
@_option("--engines", _names("benchmarks.quantized", "ENGINES"),
         "fused is float32, int8 and int4 have 8-bit activations, the others are dense.",
         "fused,int8,int4,torch-int8,torch-bfloat16,onnxruntime-int8")  # fmt: skip
@_option("--densities", DENSITIES, default="0.25,0.2,0.1,0.05,0.03,0.01")
@_option("--batches", WHOLE, "Samples at a time.", "1,8,16,64,256")
@_option("--size", COUNT, "Neurons of a layer.", 2048)
@_option("--layers", COUNT, default=4)
@_option("--seed", click.IntRange(0), default=0)
@ROUNDS
@run_options
def bench_quantized(
    engines: Any, rounds: int, out: Path, fresh: bool, as_json: bool, **network: Any
) -> None:
    """Compare predictions in whole numbers with float32, and with torch's dense int8 and bfloat16.

    Writes quantized.json and quantized.md, with the error beside each time.
    """
    from benchmarks import quantized

    jobs = quantized.jobs(_present(engines), **network)
    _compare(quantized, jobs, out, fresh, as_json, rounds)


@bench.command("kernels")
@_option("--kernels", _names("benchmarks.kernels", "KERNELS"), "By name.",
         "float32 windows,int8 windows,int8 batch")  # fmt: skip
@_option("--densities", DENSITIES, default="0.25,0.1,0.05,0.03,0.01")
@_option("--size", COUNT, "Neurons of the layer.", 2048)
@_option("--seed", click.IntRange(0), default=0)
@ROUNDS
@run_options
def bench_kernels(
    kernels: Any, rounds: int, out: Path, fresh: bool, as_json: bool, **layer: Any
) -> None:
    """Compare kernels of the fused backend with the same ones in C++, compiled by g++.

    Writes kernels.json and kernels.md.
    """
    from benchmarks import kernels as module

    _compare(module, module.jobs(kernels, **layer), out, fresh, as_json, rounds)


@bench.command("lstm")
@_option("--engines", _names("benchmarks.lstm", "ENGINES"),
         "int8 has rounded weights and activations, torch and onnx have dense weights.",
         "fused,graphblas,dense,int8,torch-dense,onnx-dense,onnx-int8")  # fmt: skip
@_option("--layers", _names("benchmarks.lstm", "LAYERS"), default="lstm,gru")
@_option("--ops", _names("benchmarks.lstm", "OPS"), default="predict,train")
@_option("--densities", DENSITIES, default="0.2,0.1")
@_option("--batches", WHOLE, "Sequences at a time.", "1,16,32")
@_option("--size", COUNT, "Inputs and cells.", 640)
@_option("--time-steps", COUNT, default=100)
@_option("--seed", click.IntRange(0), default=0)
@ROUNDS
@run_options
def bench_lstm(
    engines: Any, ops: Any, rounds: int, out: Path, fresh: bool, as_json: bool, **network: Any
) -> None:
    """Compare LSTM and GRU with sparse weights with dense ones of torch and onnxruntime.

    Writes lstm.json and lstm.md.
    """
    from benchmarks import lstm

    _compare(lstm, lstm.jobs(_present(engines), ops, **network), out, fresh, as_json, rounds)


@bench.command("recogniser")
@_option("--engines", _names("benchmarks.recogniser", "ENGINES"),
         "int4 is by the plan fasoli2022; torch and onnx have dense weights.",
         "float32,int8,int4,torch-dense,onnx-dense,onnx-int8")  # fmt: skip
@_option("--sizes", _names("benchmarks.recogniser", "SIZES"),
         default="demo,demo-streaming,ibm-like-streaming")  # fmt: skip
@_option("--densities", DENSITIES, default="1,0.2,0.1")
@_option("--seconds", POSITIVE, "Of audio.", 3.0)
@_option("--seed", click.IntRange(0), default=0)
@ROUNDS
@run_options
def bench_recogniser(
    engines: Any, rounds: int, out: Path, fresh: bool, as_json: bool, **encoder: Any
) -> None:
    """Compare a recogniser's encoder, one recording at a time, with torch's and onnxruntime's.

    Random weights; real-time factors. Writes recogniser.json and recogniser.md.
    """
    from benchmarks import recogniser

    jobs = recogniser.jobs(_present(engines), **encoder)
    _compare(recogniser, jobs, out, fresh, as_json, rounds)


@bench.command("low-precision")
@_option("--images", FILE, "MNIST as .npz with X and y.  [default: scikit-learn's digits]")
@_option("--densities", DENSITIES, default="1,0.2,0.1,0.05")
@_option("--seeds", COUNT, default=3)
@_option("--cells", COUNT, "Of the LSTM.", 128)
@_option("--epochs", COUNT, default=40)
@_option("--samples", COUNT, "To train on.  [default: all]")
@run_options
def bench_low_precision(
    out: Path, fresh: bool, as_json: bool, images: str | None, **settings: Any
) -> None:
    """Train an LSTM on images row by row, and round it to INT8 and INT4 by every plan.

    Accuracy and bytes of each. Writes low_precision.json and low_precision.md.
    """
    from benchmarks import low_precision

    _compare(low_precision, low_precision.jobs(images, **settings), out, fresh, as_json)


@bench.command("estimators")
@_option("--images", FILE, "MNIST as .npz with X and y: that too, at 5 % density.")
@_option("--tasks", _names("benchmarks.estimators", "TASKS"), "[default: all]")
@_option("--seeds", COUNT, default=5)
@_option("--epochs", COUNT, "Of the training on images.", 30)
@run_options
def bench_estimators(
    threads: int, out: Path, fresh: bool, as_json: bool, images: Path | None, seeds: int,
    epochs: int, tasks: tuple[str, ...] | None,
) -> None:  # fmt: skip
    """Cross-validate SparseMLPClassifier beside scikit-learn's MLPClassifier, as both come.

    Writes estimators.json and estimators.md.
    """
    from benchmarks import estimators

    jobs = list(estimators.jobs(tasks=tasks or tuple(estimators.TASKS), seeds=seeds, threads=1))
    if images is not None:
        jobs += estimators.image_jobs(Path(images), seeds=seeds, epochs=epochs, threads=threads)
    _compare(estimators, jobs, out, fresh, as_json)


@bench.command("training")
@_option("--widths", WIDTHS, "Features of the input and of each layer.", "1024,4096,4096,10")
@_option("--sparsities", SPARSITIES, default="0.8,0.9,0.98")
@_option("--batch", COUNT, default=256)
@_option("--engines", _names("benchmarks.training", "engines"),
         "Backends and ways to train with torch.",
         "fused,torch-dense,torch-csr,torch-csr-sampled")  # fmt: skip
@_option("--seconds", POSITIVE, "How long steps are timed in each process.", 2.0)
@_option("--seed", click.IntRange(0), default=0)
@ROUNDS
@run_options
def bench_training(
    engines: Any, sparsities: Any, rounds: int, out: Path, fresh: bool, as_json: bool,
    **network: Any,
) -> None:  # fmt: skip
    """Compare training steps (forward, backward, Adam) of a sparse MLP with torch's.

    Writes training.json and training.md.
    """
    from benchmarks import training

    jobs = training.jobs(sparsities, _present(engines), **network)
    _compare(training, jobs, out, fresh, as_json, rounds)


@bench.command("bytes")
@_option("--width", COUNT, "Neurons of a layer.", 2048)
@_option("--layers", COUNT, "Layers of a network.", 4)
@_option("--densities", DENSITIES, "Also as 1/64.  [default: 0.2,0.1,0.05,0.01]")
@JSON
def bench_bytes(width: int, layers: int, densities: Any, as_json: bool) -> None:
    """Count the bytes of integer weights, in memory and in model files, beside dense float32."""
    from benchmarks import sizes

    records = sizes.compare(width, layers, densities or (0.2, 0.1, 0.05, 0.01))
    click.echo(json.dumps(records) if as_json else sizes.report(records))


@bench.command("transducer")
@_option("--batch", COUNT, default=16)
@_option("--frames", COUNT, default=50)
@_option("--labels", click.IntRange(0), default=25)
@_option("--vocabulary", click.IntRange(2), default=29)
@_option("--seconds", POSITIVE, "How long calls are timed in each process.", 1.0)
@_option("--seed", click.IntRange(0), default=0)
@ROUNDS
@run_options
def bench_transducer(rounds: int, out: Path, fresh: bool, as_json: bool, **sizes: Any) -> None:
    """Compare the transducer loss with torch's log_softmax over the same logits.

    Loss and gradient against the softmax alone, forward and backward. Writes transducer.json and
    transducer.md.
    """
    from benchmarks import transducer

    jobs = transducer.jobs(_present(transducer.ENGINES), **sizes)
    _compare(transducer, jobs, out, fresh, as_json, rounds)


@bench.command("hybrid")
@_option("--words", WHOLE, "Of lexicons.", "20,100,500")
@_option("--frames", COUNT, default=200)
@_option("--seconds", POSITIVE, "How long calls are timed in each process.", 1.0)
@_option("--seed", click.IntRange(0), default=0)
@ROUNDS
@run_options
def bench_hybrid(rounds: int, out: Path, fresh: bool, as_json: bool, **settings: Any) -> None:
    """Compare GraphBLAS with numpy on graphs of a lexicon and a bigram.

    Viterbi and forward-backward. Writes hybrid.json and hybrid.md.
    """
    from benchmarks import hybrid

    _compare(hybrid, hybrid.jobs(**settings), out, fresh, as_json, rounds)


@bench.command("hybrid-accuracy")
@_option("--seeds", COUNT, default=3)
@_option("--utterances", COUNT, "For training.", 1200)
@_option("--held-out", COUNT, "In the test.", 300)
@_option("--layers", str, default="blstm 64, blstm 64")
@_option("--epochs", COUNT, "In float, on each of two alignments.", 8)
@_option("--plan-epochs", COUNT, "Of each training that goes on.", 4)
@_option("--plan-rate", POSITIVE, "Learning rate of these.", 5e-4)
@run_options
def bench_hybrid_accuracy(out: Path, fresh: bool, as_json: bool, **settings: Any) -> None:
    """Train hybrid recognisers of synthetic speech; count errors in float, INT8 and INT4.

    Also shows which parts of the network cost the words. Minutes a seed. Writes
    hybrid_accuracy.json and hybrid_accuracy.md.
    """
    from benchmarks import hybrid_accuracy

    _compare(hybrid_accuracy, hybrid_accuracy.jobs(**settings), out, fresh, as_json)


@bench.command("plot")
@click.argument("folder", type=FOLDER)
@_option("--out", OUT, "Folder for the figures; default the one of the results.")
def bench_plot(folder: Path, out: Path | None) -> None:
    """Draw time, speed-up, roofline and memory as PNG and SVG files."""
    from benchmarks.figures import plot

    for path in plot(folder, folder if out is None else out):
        click.echo(str(path))


def _draw(name: str, module: Any, results: Sequence[Any], out: Path) -> None:
    """Draw the figure of a module's results; without matplotlib say so."""
    from benchmarks.figures import write
    from gbdnn.errors import MissingDependencyError

    try:
        write(name, module.draw, results, out)
    except MissingDependencyError as error:
        _say(str(error))


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
    from benchmarks.sweep import LISTS, PRESETS

    given = {name: value for name, value in lists.items() if value is not None}
    return LISTS | PRESETS.get(preset or "", {}) | given


def _say(message: str) -> None:
    click.echo(message, err=True)
