"""`gbdnn bench accuracy`: dense, static, SET, RigL and magnitude pruning on one task."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.figures import HEIGHT, WIDTH
from benchmarks.process import Job, Record
from benchmarks.rounds import grouped, measured, spread
from benchmarks.timing import Timing, measure
from gbdnn import checks
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.errors import FileFormatError, choose
from gbdnn.network import Network
from gbdnn.types import Array

if TYPE_CHECKING:
    from gbdnn.training import Result

__all__ = [
    "METHODS",
    "AccuracyJob",
    "compare",
    "draw",
    "jobs",
    "load_task",
    "milliseconds",
    "report",
]

METHODS = {  # and what they look like in the figure
    "dense": ("#000000", "X"),
    "static": ("#E69F00", "s"),
    "set": ("#0072B2", "^"),
    "rigl": ("#D55E00", "o"),
    "magnitude": ("#009E73", "D"),
}
SAMPLES = 256  # whose prediction is timed
COLUMNS = {  # of the table: field, unit, number format
    "non-zeros": ("nnz", 1, ",.0f"),
    "file, bytes": ("file_bytes", 1, ",.0f"),
    "training, s": ("training_seconds", 1, ".1f"),
    "inference, ms": ("inference_ms", 1, ".2f"),
    "the same on dense, ms": ("inference_dense_ms", 1, ".2f"),
    "peak, MiB": ("peak_bytes", 2**20, ",.0f"),
}
compare = measured


@dataclass(frozen=True, kw_only=True)
class AccuracyJob(Job):
    """One training: by which method, how sparse, which seed, on which data."""

    told = ("method", "sparsity", "seed", "accuracy", "training_seconds")

    method: str
    sparsity: float
    seed: int = 0
    images: str | None = None
    hidden: tuple[int, ...] = (1024, 1024)
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    dropout: float = 0.1
    save: str | None = None

    def __post_init__(self) -> None:
        choose("methods", self.method, METHODS)
        checks.fraction("sparsities", self.sparsity)

    @property
    def begins_dense(self) -> bool:
        """True for methods that do not start from a sparse network."""
        return self.method in ("dense", "magnitude")

    @property
    def backend(self) -> str:
        """What trains, and predicts."""
        return "dense" if self.method == "dense" else "fused"

    def rate(self) -> float:
        """Return the learning rate; of networks that begin sparse over sqrt(density).

        He's initial weights are larger by that factor where fewer of them meet, and Adam's steps
        have the size of the rate whatever the weights' (Dey et al. 2024 derive such rules).
        """
        return self.learning_rate / (1.0 if self.begins_dense else math.sqrt(1 - self.sparsity))

    def network(self, features: int, classes: int) -> Network:
        """Return the network to begin with: dense weights, or ERK densities at random places."""
        from gbdnn.models import mlp

        return mlp(
            (features, *self.hidden, classes), head="softmax", dropout=self.dropout,
            density=1.0 if self.begins_dense else 1 - self.sparsity,
            rng=np.random.default_rng([self.seed, 7]),
        )  # fmt: skip

    def train(self, X: Array, y: Array) -> Result:
        """Return the result of the training."""
        from gbdnn.pruning import sparsifier
        from gbdnn.training import Trainer

        rule = None
        if self.method != "dense":  # all methods end at the same densities
            rule = sparsifier(self.method, sparsity=self.sparsity, distribution="erk")
        trainer = Trainer(
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.rate(),
            schedule="warm-up", sparsifier=rule, threads=self.threads, rng=self.seed,
            backend=self.backend,
        )  # fmt: skip
        return trainer.fit(self.network(X.shape[1], int(y.max()) + 1), X, y)

    def measure(self) -> Record:
        """Train, test, time and weigh one network."""
        from gbdnn.machine import peak_rss_bytes

        X, y, X_test, y_test = load_task(self.images)
        begin = time.perf_counter()
        result = self.train(X, y)
        seconds, peak, trained = time.perf_counter() - begin, peak_rss_bytes(), result.network
        guess = trained.predict(X_test, backend=self.backend, threads=self.threads)
        summary, sample = trained.summary(), X_test[:SAMPLES]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(self.save or f"{folder}/model.safetensors")
            trained.save(path)
            file_bytes = path.stat().st_size
        return {
            "samples": len(X),
            "accuracy": float((guess.argmax(axis=1) == y_test).mean()),
            "training_seconds": seconds,
            "inference_ms": milliseconds(trained, sample, self.backend, self.threads),
            "inference_dense_ms": milliseconds(trained, sample, "dense", self.threads),
            "file_bytes": file_bytes,
            "peak_bytes": peak,
            "nnz": summary.total["nnz"],
            "density": summary.total["density"],
            "layer_nnz": [row["nnz"] for row in summary.rows if row["edges"]],
            "final_loss": result.history.records[-1]["loss"],
        }


def jobs(
    *, sparsities: Sequence[float], methods: Iterable[str] = METHODS, seeds: int = 3,
    **settings: Any,
) -> list[AccuracyJob]:  # fmt: skip
    """Return all methods at all sparsities, dense once; `settings` are the jobs' other fields."""
    return [
        AccuracyJob(method=method, sparsity=sparsity, seed=seed, **settings)
        for seed in range(seeds)
        for method in methods
        for sparsity in (sparsities if method != "dense" else (0.0,))
    ]


def load_task(images: str | None) -> tuple[Array, Array, Array, Array]:
    """Return X, y of training and test samples; pixels from 0 to 1.

    An .npz file has X and y; the last 10,000 of 70,000 samples are for testing (MNIST's own
    split), of fewer the last sixth. Without a file: the digits that ship inside scikit-learn.
    """
    from gbdnn.cli import datasets

    data = datasets.digits() if images is None else datasets.read(images)
    if data.y is None:
        raise FileFormatError(str(images), "an .npz file with X and y", "no y")
    X = data.X.astype(np.float32) / np.float32(16 if images is None else 255)
    y = data.y.astype(np.int64)
    test = 10_000 if len(X) == 70_000 else len(X) // 6
    return X[:-test], y[:-test], X[-test:], y[-test:]


def milliseconds(network: Network, X: Array, backend: str, threads: int) -> float:
    """Return the median time of `predict`."""
    timed = measure(
        lambda: network.predict(X, backend=backend, threads=threads), Timing.fixed(50, 0.0)
    )
    return timed.seconds * 1e3


def report(records: Sequence[Record]) -> str:
    """Return Markdown: a row for each method and sparsity, mean and spread over the seeds."""
    groups = grouped(records, "method", "sparsity")
    rows = []
    for method, sparsity in sorted(groups, key=lambda key: (key[1], list(METHODS).index(key[0]))):
        runs = groups[method, sparsity]
        accuracy = [run["accuracy"] for run in runs]
        means = [
            format(fmean(run[name] for run in runs) / unit, form)
            for name, unit, form in COLUMNS.values()
        ]
        rows.append([method, f"{sparsity:.0%}", spread(fmean(accuracy), accuracy, ".2%"), *means])
    heads = ["method", "sparsity", "accuracy, mean (min to max)", *COLUMNS]
    first = records[0]
    return (
        f"{markdown_table(heads, rows, left=1)}\nHidden layers "
        f"{'-'.join(map(str, first['hidden']))}, {first['samples']:,} training samples, "
        f"{first['epochs']} epochs, batches of {first['batch_size']}, Adam, learning rate "
        f"{first['learning_rate']:g} (static, SET and RigL: over the root of the density) with "
        f"warm-up and cosine, dropout {first['dropout']:g}, "
        f"{len({record['seed'] for record in records})} seeds; inference: median of 50 rounds of "
        f"predict with {SAMPLES} samples on the backend that trained (fused; dense for dense); "
        f"{origin(first)}\n"
    )


def draw(plt: Any, records: Sequence[Record]) -> Any:
    """Return the figure of test accuracy against non-zeros and against milliseconds.

    A marker is the mean over the seeds, its bar reaches from the worst to the best.
    """
    names = {"nnz": "non-zero weights", "inference_ms": f"predict, {SAMPLES} samples (ms)"}
    figure, axes = plt.subplots(
        1, 2, figsize=(2 * WIDTH, HEIGHT), sharey=True, layout="constrained"
    )
    for axis, (name, label) in zip(axes, names.items(), strict=True):
        for method, (colour, marker) in METHODS.items():
            runs = grouped((r for r in records if r["method"] == method), "sparsity").values()
            cost = [fmean(run[name] for run in here) for here in runs]
            scores = [[100 * run["accuracy"] for run in here] for here in runs]
            mean = [fmean(each) for each in scores]
            low = [middle - min(each) for middle, each in zip(mean, scores, strict=True)]
            high = [max(each) - middle for middle, each in zip(mean, scores, strict=True)]
            axis.errorbar(cost, mean, [low, high], color=colour, marker=marker, label=method,
                          capsize=2, linewidth=1)  # fmt: skip
        axis.set(xscale="log", xlabel=label, ylabel="test accuracy (%)")
        axis.xaxis.set_major_formatter("{x:,g}")
    axes[1].legend(loc="lower right")
    return figure
