"""`gbdnn bench accuracy`: dense, static, SET, RigL and magnitude pruning on one task."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.process import Job, Record
from benchmarks.rounds import grouped
from benchmarks.tables import markdown, origin
from gbdnn import checks
from gbdnn.errors import FileFormatError, choose
from gbdnn.network import Network
from gbdnn.types import Array

__all__ = ["METHODS", "AccuracyJob", "jobs", "load_task", "report"]

METHODS = ("dense", "static", "set", "rigl", "magnitude")
SPARSITIES = (0.9, 0.95, 0.98, 0.99)
SAMPLES = 256  # whose prediction is timed


@dataclass(frozen=True, kw_only=True)
class AccuracyJob(Job):
    """One training: by which method, how sparse, which seed, on which data."""

    method: str
    sparsity: float
    seed: int
    images: str | None
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    learning_rate: float
    dropout: float

    def __post_init__(self) -> None:
        choose("methods", self.method, METHODS)
        checks.fraction("sparsities", self.sparsity)
        object.__setattr__(self, "hidden", tuple(self.hidden))

    @property
    def begins_dense(self) -> bool:
        """True for methods that do not start from a sparse network."""
        return self.method in ("dense", "magnitude")

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

    def measure(self) -> Record:
        """Train, test, time and weigh one network."""
        from gbdnn.machine import peak_rss_bytes
        from gbdnn.pruning import sparsifier
        from gbdnn.training import Trainer

        X, y, X_test, y_test = load_task(self.images)
        rule = None
        if self.method != "dense":  # all methods end at the same densities
            rule = sparsifier(self.method, sparsity=self.sparsity, distribution="erk")
        trainer = Trainer(
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.rate(),
            schedule="warm-up", sparsifier=rule, threads=self.threads, rng=self.seed,
            backend="dense" if self.method == "dense" else "fused",
        )  # fmt: skip
        network = self.network(X.shape[1], int(y.max()) + 1)
        begin = time.perf_counter()
        result = trainer.fit(network, X, y)
        seconds = time.perf_counter() - begin
        peak = peak_rss_bytes()
        trained = result.network
        guess = trained.predict(X_test, backend=trainer.backend, threads=self.threads)
        summary = trained.summary()
        return {
            "samples": len(X),
            "accuracy": float((guess.argmax(axis=1) == y_test).mean()),
            "training_seconds": seconds,
            "inference_ms": self._milliseconds(trained, X_test, trainer.backend),
            "inference_dense_ms": self._milliseconds(trained, X_test, "dense"),
            "file_bytes": _file_bytes(trained),
            "peak_bytes": peak,
            "nnz": summary.total["nnz"],
            "density": summary.total["density"],
            "layer_nnz": [row["nnz"] for row in summary.rows if row["edges"]],
            "final_loss": result.history.records[-1]["loss"],
        }

    def _milliseconds(self, network: Network, X: Array, backend: str) -> float:
        """Return the median time of `predict` on some samples."""
        from benchmarks.timing import Timing, measure

        def call() -> None:
            network.predict(X[:SAMPLES], backend=backend, threads=self.threads)

        return measure(call, Timing.fixed(50, 0.0)).seconds * 1e3

    def describe(self, record: Record) -> str:
        """Return method, accuracy and time."""
        return (
            f"{self.method} {self.sparsity:g} seed {self.seed}: "
            f"{record['accuracy']:.2%} in {record['training_seconds']:.1f} s"
        )


def jobs(
    *,
    methods: Iterable[str] = METHODS,
    sparsities: Iterable[float] = SPARSITIES,
    seeds: int = 3,
    images: Path | None = None,
    hidden: Sequence[int] = (1024, 1024),
    epochs: int = 10,
    batch_size: int = 128,
    threads: int = 2,
) -> list[AccuracyJob]:
    """Return all methods at all sparsities, dense once; `seeds` times each."""
    path, levels = None if images is None else str(images.resolve()), tuple(sparsities)
    return [
        AccuracyJob(
            method=method, sparsity=sparsity, seed=seed, images=path, hidden=tuple(hidden),
            epochs=epochs, batch_size=batch_size, learning_rate=1.5e-3, dropout=0.1,
            threads=threads,
        )
        for seed in range(seeds)
        for method in methods
        for sparsity in (levels if method != "dense" else (0.0,))
    ]  # fmt: skip


def load_task(images: str | None) -> tuple[Array, Array, Array, Array]:
    """Return X, y of training and test samples; pixels from 0 to 1.

    An .npz file has X and y; the last 10,000 of 70,000 samples are for testing (MNIST's own
    split), of fewer the last sixth. Without a file: the digits that ship inside scikit-learn.
    """
    if images is None:
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        X = X / 16
    else:
        try:
            with np.load(images) as file:
                X, y = file["X"].reshape(len(file["X"]), -1) / np.float32(255), file["y"]
        except (KeyError, ValueError, OSError) as error:
            raise FileFormatError(images, "an .npz file with X and y", str(error)) from None
    X, y = X.astype(np.float32), y.astype(np.int64)
    test = 10_000 if len(X) == 70_000 else len(X) // 6
    return X[:-test], y[:-test], X[-test:], y[-test:]


def _file_bytes(network: Network) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        network.save(path)
        return path.stat().st_size


def report(records: Sequence[Record]) -> str:
    """Return Markdown: a row for each method and sparsity, mean and spread over the seeds."""
    groups = grouped(records, "method", "sparsity")
    rows = []
    for method, sparsity in sorted(groups, key=lambda key: (key[1], METHODS.index(key[0]))):
        runs = groups[method, sparsity]
        mean: dict[str, float] = {
            name: fmean(run[name] for run in runs)
            for name, value in runs[0].items()
            if isinstance(value, int | float)
        }
        accuracy = [run["accuracy"] for run in runs]
        rows.append([
            method,
            f"{sparsity:.0%}",
            f"{mean['accuracy']:.2%} ({min(accuracy):.2%} to {max(accuracy):.2%})",
            f"{mean['nnz']:,.0f}",
            f"{mean['file_bytes']:,.0f}",
            f"{mean['training_seconds']:.1f}",
            f"{mean['inference_ms']:.2f}",
            f"{mean['inference_dense_ms']:.2f}",
            f"{mean['peak_bytes'] / 2**20:,.0f}",
        ])  # fmt: skip
    heads = ["method", "sparsity", "accuracy, mean (min to max)", "non-zeros", "file, bytes",
             "training, s", "inference, ms", "the same on dense, ms", "peak, MiB"]  # fmt: skip
    first: dict[str, Any] = records[0]
    return (
        f"{markdown(heads, rows, left=1)}\nHidden layers {'-'.join(map(str, first['hidden']))}, "
        f"{first['samples']:,} training samples, {first['epochs']} epochs, batches of "
        f"{first['batch_size']}, Adam, learning rate {first['learning_rate']:g} (static, SET and "
        "RigL: over the root of the density) with warm-up and cosine, dropout "
        f"{first['dropout']:g}, {len({record['seed'] for record in records})} seeds; inference: "
        f"median of 50 rounds of predict with {SAMPLES} samples on the backend that trained "
        f"(fused; dense for dense); {origin(first)}\n"
    )
