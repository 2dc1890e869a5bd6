"""`gbdnn bench pruned`: one model, dense and pruned, as it would be served; README's first figure.

Trained, and pruned by magnitude meanwhile, as `gbdnn bench accuracy` does; then `predict` on
samples as they come, (n_samples, n_features), a process for each engine and batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import AccuracyJob, load_task
from benchmarks.figures import HEIGHT, STYLES, WIDTH
from benchmarks.process import Job, Record
from benchmarks.rounds import ignore, measured, medians, spread
from benchmarks.timing import Timing, measure
from gbdnn.backends import BACKENDS
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.layers import Linear
from gbdnn.network import load

__all__ = ["ENGINES", "PrunedJob", "compare", "draw", "jobs", "report", "sentence"]

ENGINES = {  # and the model that each of them runs
    "fused": "magnitude", "torch-csr": "magnitude", "dense": "dense", "torch-dense": "dense",
}  # fmt: skip
NAMES = {"fused": "gbdnn", "torch-csr": "torch CSR", "dense": "BLAS", "torch-dense": "torch"}
MODELS = {"magnitude": "pruned", "dense": "dense"}
KEPT = ("engine", "model", "batch", "threads", "sparsity", "hidden", "epochs", "samples", "ms",
        "all_ms", "accuracy", "nnz", "file_bytes", "machine", "versions")  # fmt: skip
MAIN = 64  # samples at a time that the sentence is about, if it was measured


@dataclass(frozen=True, kw_only=True)
class PrunedJob(Job):
    """One engine on the model that a training leaves in a folder, at one batch size."""

    told = ("engine", "batch", "ms")

    engine: str
    batch: int
    training: AccuracyJob
    folder: str

    @property
    def path(self) -> Path:
        """The file of the model."""
        digest = sha256(self.training.key.encode()).hexdigest()
        return Path(self.folder) / f"{self.training.method}-{digest[:8]}.safetensors"

    def measure(self) -> Record:
        """Load the model and time its predictions of test samples."""
        network, X_test = load(self.path), load_task(self.training.images)[2]
        X = np.resize(X_test, (self.batch, X_test.shape[1]))
        timing = Timing(min_time=0.5, max_time=3.0)
        if self.engine in BACKENDS:
            options = {"backend": self.engine, "threads": self.threads}
            return {"ms": 1e3 * measure(lambda: network.predict(X, **options), timing).seconds}
        from benchmarks import engines, peers

        layers = [layer for layer in network.layers if isinstance(layer, Linear)]
        parts = [layer.weight for layer in layers], [layer.bias for layer in layers]
        # ReLU stands for the softmax of ten outputs
        engine = engines.as_predict(peers.prepare(self.engine, *parts, self.threads))
        with engine.scope():
            return {"ms": 1e3 * measure(lambda: engine.run(X), timing).seconds}


def jobs(
    engines: Iterable[str], out: Path, *, batches: Sequence[int], sparsity: float, **training: Any
) -> list[PrunedJob]:
    """Return all engines at all batch sizes; `training` are fields of `AccuracyJob`."""
    trainings = {
        "dense": AccuracyJob(method="dense", sparsity=0.0, **training),
        "magnitude": AccuracyJob(method="magnitude", sparsity=sparsity, **training),
    }
    return [
        PrunedJob(engine=engine, batch=batch, training=trainings[ENGINES[engine]],
                  folder=str(out.resolve()), threads=training["threads"])
        for batch in batches
        for engine in engines
    ]  # fmt: skip


def compare(
    jobs: Sequence[PrunedJob], out: Path, *, rounds: int = 1, **options: Any
) -> list[Record]:
    """Train what is missing, time all jobs in turn, return the medians of each."""
    out.mkdir(parents=True, exist_ok=True)
    models = {job.path: replace(job.training, save=str(job.path)) for job in jobs}
    trained = {}
    for path, training in models.items():
        changed = {"fresh": options.get("fresh") or not path.exists(), "progress": ignore}
        (trained[training.method],) = measured([training], out, **options | changed)
    records = measured(jobs, out, rounds=rounds, **options)
    cases = medians(records, ("engine", "batch"), "ms")
    for case in cases:
        method = ENGINES[case["engine"]]
        case |= trained[method] | case | {"model": MODELS[method]}
    return [{name: case[name] for name in KEPT} for case in cases]


def sentence(cases: Sequence[Record]) -> str:
    """Return what pruning gained, in one sentence."""
    batches = [case["batch"] for case in cases]
    batch = MAIN if MAIN in batches else max(batches)
    here = {case["engine"]: case for case in cases if case["batch"] == batch}
    pruned = here["fused"]
    whole = min((c for c in here.values() if c["model"] == "dense"), key=lambda c: float(c["ms"]))
    library = {"dense": "BLAS", "torch-dense": "torch"}[whole["engine"]]
    return (
        f"Pruned to {1 - pruned['sparsity']:.0%} of its weights, a network with hidden layers of "
        f"{' and '.join(f'{n:,}' for n in pruned['hidden'])} neurons predicts {batch} samples in "
        f"**{pruned['ms']:.2f} ms instead of {whole['ms']:.2f}** "
        f"({whole['ms'] / pruned['ms']:.1f} times faster than dense {library}, the fastest dense "
        f"one here), its file is **{whole['file_bytes'] / pruned['file_bytes']:.1f} times "
        f"smaller**, and its accuracy {pruned['accuracy']:.2%} instead of {whole['accuracy']:.2%}."
    )


def report(cases: Sequence[Record]) -> str:
    """Return the sentence and the times in Markdown."""
    first = cases[0]
    rows = [
        [
            str(case["batch"]), case["engine"], case["model"],
            spread(case["ms"], case["all_ms"], ".3f"), f"{case['batch'] / case['ms']:,.1f}",
            f"{case['file_bytes']:,}", f"{case['accuracy']:.2%}",
        ]
        for case in cases
    ]  # fmt: skip
    heads = ["batch", "engine", "model", "ms (min to max)", "samples / ms", "file, bytes",
             "accuracy"]  # fmt: skip
    return (
        f"{sentence(cases)}\n\n{markdown_table(heads, rows)}\n`predict` with conversions, "
        f"{first['samples']:,} training samples, {first['epochs']} epochs, magnitude pruning "
        f"meanwhile; medians of {len(first['all_ms'])} rounds, engines in turn, one process each; "
        f"{origin(first)}\n"
    )


def draw(plt: Any, cases: Sequence[Record]) -> Any:
    """Return the figure: time by batch size, and the files."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(2 * WIDTH, HEIGHT), layout="constrained", width_ratios=[2, 1]
    )
    for engine in dict.fromkeys(case["engine"] for case in cases):
        here = [case for case in cases if case["engine"] == engine]
        colour, marker = STYLES[engine]
        left.plot(
            [case["batch"] for case in here], [case["ms"] for case in here], color=colour,
            marker=marker, linestyle="--" if here[0]["model"] == "dense" else "-",
            label=f"{NAMES[engine]}, {here[0]['model']} model",
        )  # fmt: skip
    batches = sorted({case["batch"] for case in cases})
    left.set(xscale="log", yscale="log", xlabel="samples at a time", ylabel="predict (ms)")
    left.set_xticks(batches, map(str, batches), minor=False)
    left.set_xticks([], minor=True)
    left.yaxis.set_major_formatter("{x:g}")
    left.legend(frameon=False)
    models = {case["model"]: case for case in cases}
    bars = right.bar(
        list(models), [case["file_bytes"] / 1e6 for case in models.values()], width=0.6,
        color=[STYLES["fused" if name == "pruned" else "dense"][0] for name in models],
    )  # fmt: skip
    texts = [f"{c['file_bytes'] / 1e6:.2f} MB\n{c['accuracy']:.2%} right" for c in models.values()]
    right.bar_label(bars, texts, padding=2)
    right.margins(y=0.18)
    right.set(ylabel="model file (MB)")
    return figure
