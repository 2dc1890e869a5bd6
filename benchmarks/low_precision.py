"""`gbdnn bench low-precision`: accuracy, bytes and time of an LSTM in float, INT8 and INT4."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.accuracy import load_task
from benchmarks.process import Job, Record
from benchmarks.rounds import grouped, measured
from benchmarks.timing import Timing, measure
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.types import Array

__all__ = ["LowPrecisionJob", "compare", "jobs", "report"]

compare = measured
VARIANTS = {
    "float32": (None, False),
    "int8": ("int8", False),
    "naive_int4": ("naive_int4", False),
    "naive_int4, QAT": ("naive_int4", True),
    "fasoli2021, QAT": ("fasoli2021", True),
    "fasoli2022": ("fasoli2022", False),
    "fasoli2022, QAT": ("fasoli2022", True),
}
"""Name: plan, and whether it is trained with; else it is only calibrated."""
CALIBRATION, TIMED = 2000, 64  # samples
RULES = (
    ("tailored INT4 with QAT", 0.5, 0.0, (1.0, "fasoli2022, QAT"), (1.0, "float32")),
    ("INT4 at 10%", 1.0, 25.0, (0.1, "fasoli2022, QAT"), (1.0, "float32")),
)
"""What was hoped for: points lost at most, times fewer bytes at least, network, compared with."""


@dataclass(frozen=True, kw_only=True)
class LowPrecisionJob(Job):
    """An LSTM that reads an image row by row, trained at a density, then rounded in every way."""

    images: str | None
    density: float
    seed: int
    cells: int
    epochs: int
    samples: int | None = None

    def measure(self) -> Record:
        """Train the float network, then make the others of it."""
        from gbdnn import Network, Trainer, quantize
        from gbdnn.models import lstm

        X, y, X_test, y_test = load_task(self.images)
        X, y = X[: self.samples], y[: self.samples]
        side = round(X.shape[1] ** 0.5)
        X, X_test = (part.reshape(len(part), -1, side) for part in (X, X_test))
        made = lstm(
            [side, self.cells, int(y.max()) + 1], rows="last", density=self.density, rng=self.seed
        )
        settings: dict[str, Any] = {
            "batch_size": 64, "rng": self.seed, "threads": self.threads, "schedule": "cosine",
            "clip_norm": 5.0,
        }  # fmt: skip
        growth = {} if self.density == 1 else {"sparsifier": "rigl"}
        trainer = Trainer(epochs=self.epochs, learning_rate=5e-3, **growth, **settings)
        floats = trainer.fit(Network([*made.layers, "softmax"]), X, y).network
        tuner = {"epochs": max(self.epochs // 4, 1), "learning_rate": 1e-3, **settings}
        results = {}
        for name, (plan, trains) in VARIANTS.items():
            if plan is None:
                network = floats
            elif trains:
                network = Trainer(quantization=plan, **tuner).fit(floats, X, y).network
            else:
                network = quantize(floats, plan, X[:CALIBRATION])
            results[name] = self._judged(network, X_test, y_test)
        return {"variants": results, "weights": floats.edges, "trained_on": len(X)}

    def _judged(self, network: Any, X: Array, y: Array) -> dict[str, float]:
        """Return accuracy, bytes of the parameters and of the model file, milliseconds."""
        guesses = network.predict(X, threads=self.threads).argmax(axis=1)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            network.save(path)
            size = path.stat().st_size
        accuracy = float(np.mean(guesses == y))
        timed = measure(
            lambda: network.predict(X[:TIMED], threads=self.threads), Timing.fixed(15, 0.0)
        )
        return {
            "accuracy": accuracy, "file_bytes": size, "parameter_bytes": network.nbytes,
            "ms": timed.seconds * 1e3,
        }  # fmt: skip

    def describe(self, record: Record) -> str:
        """Return the job and the accuracies."""
        found = ", ".join(f"{n} {v['accuracy']:.4f}" for n, v in record["variants"].items())
        return f"density {self.density:g}, seed {self.seed}: {found}"


def jobs(
    images: str | Path | None, *, densities: Iterable[float], seeds: int, cells: int, epochs: int,
    threads: int, samples: int | None = None,
) -> list[LowPrecisionJob]:  # fmt: skip
    """Return a job for each seed and density."""
    path = None if images is None else str(Path(images).resolve())
    return [
        LowPrecisionJob(images=path, density=density, seed=seed, cells=cells, epochs=epochs,
                        threads=threads, samples=samples)
        for seed in range(seeds)
        for density in densities
    ]  # fmt: skip


def report(records: Sequence[Record]) -> str:
    """Return Markdown: a row for each density and variant, means over the seeds."""
    groups = grouped(records, "density")
    largest = groups[max(groups)]
    dense = fmean(run["variants"]["float32"]["parameter_bytes"] for run in largest)
    rows = []
    for (density,), runs in sorted(groups.items(), reverse=True):
        for name in VARIANTS:
            own = [run["variants"][name] for run in runs]
            accuracy = [each["accuracy"] for each in own]
            mean = {key: fmean(each[key] for each in own) for key in own[0]}
            rows.append([
                f"{density:.0%}", name, f"{mean['accuracy']:.4f}",
                f"{min(accuracy):.4f} to {max(accuracy):.4f}", f"{mean['parameter_bytes']:,.0f}",
                f"{dense / mean['parameter_bytes']:.1f}", f"{mean['file_bytes']:,.0f}",
                f"{mean['ms']:.1f}",
            ])  # fmt: skip
    heads = ["density", "network", "accuracy", "of the seeds", "bytes of parameters",
             "densest float32 / these", "bytes of the file", "ms"]  # fmt: skip
    first = records[0]
    source = "the digits inside scikit-learn" if first["images"] is None else "MNIST"
    seeds = len({record["seed"] for record in records})
    return (
        f"{markdown_table(heads, rows, left=2)}\n"
        f"An LSTM of {first['cells']} cells over the rows of an image, last step; {source}, "
        f"{first['trained_on']:,} training samples, {seeds} seed{'s' * (seeds > 1)}, "
        f"{first['epochs']} epochs of Adam (RigL below density 1), a quarter as many of "
        f"quantization-aware training; nothing was selected on the test samples; ms: predict of "
        f"{TIMED} samples; {origin(first)}\n" + "".join(f"\n- {line}" for line in judged(groups))
    ).rstrip("\n") + "\n"


def judged(groups: Mapping[Any, Sequence[Record]]) -> list[str]:
    """Return a line for each of `RULES` that was measured: what was found, met or not."""
    lines = []
    for what, points, factor, one, other in RULES:
        if not all((density,) in groups for density, _ in (one, other)):
            continue
        own, base = (
            {key: fmean(run["variants"][name][key] for run in groups[(density,)])
             for key in ("accuracy", "parameter_bytes")}
            for density, name in (one, other)
        )  # fmt: skip
        lost = 100 * (base["accuracy"] - own["accuracy"])
        fewer = base["parameter_bytes"] / own["parameter_bytes"]
        asked = f"at most {points:g} asked"
        found = f"{lost:.2f} points below dense float32 ({asked})"
        if factor:
            found += f", {fewer:.1f} times fewer bytes (at least {factor:g} asked)"
        verdict = "met" if lost <= points and fewer >= factor else "missed"
        lines.append(f"{what}: {found}: {verdict}")
    return lines
