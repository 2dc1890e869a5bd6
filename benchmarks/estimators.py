"""`gbdnn bench estimators`: the estimators as they come beside scikit-learn's of the same sizes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.accuracy import load_task
from benchmarks.process import Job, Record
from benchmarks.rounds import grouped, measured
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.errors import choose
from gbdnn.types import Array

__all__ = [
    "TASKS", "EstimatorJob", "ImagesJob", "compare", "image_jobs", "jobs", "report",
]  # fmt: skip

compare = measured
FOLDS = 3
DENSITY = 0.1
SIZES = ((256, 256), (100,))
ENGINES = ("SparseMLPClassifier", "MLPClassifier")
TARGETS = {(256, 256): 0.01, (100,): 0.02}  # how much less accurate it may be


def _made() -> tuple[Array, Array]:
    from sklearn.datasets import make_classification

    X, y = make_classification(
        2000, 20, n_informative=10, n_redundant=5, n_classes=4, random_state=0
    )
    return X, y


def _of(name: str) -> Any:
    def load() -> Any:
        from sklearn import datasets

        return getattr(datasets, f"load_{name}")(return_X_y=True)

    return load


TASKS = {
    "digits": _of("digits"),
    "wine": _of("wine"),
    "breast cancer": _of("breast_cancer"),
    "make_classification": _made,
}


@dataclass(frozen=True, kw_only=True)
class EstimatorJob(Job):
    """Cross-validation of one estimator with its defaults on standardised samples."""

    told = ("task", "engine", "hidden", "seed", "accuracy")

    task: str
    engine: str
    hidden: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        choose("tasks", self.task, TASKS)
        choose("engine", self.engine, ENGINES)

    def measure(self) -> Record:
        """Return the mean accuracy of the folds; the seed is of the folds and of the estimator."""
        from sklearn.model_selection import StratifiedKFold, cross_validate
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        from gbdnn.estimators import SparseMLPClassifier

        X, y = TASKS[self.task]()
        ours = self.engine == "SparseMLPClassifier"
        model: Any = (
            SparseMLPClassifier(
                self.hidden, density=DENSITY, random_state=self.seed, threads=self.threads
            )
            if ours else MLPClassifier(self.hidden, random_state=self.seed)
        )  # fmt: skip
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLPClassifier reaches max_iter
            found = cross_validate(
                make_pipeline(StandardScaler(), model), X, y, cv=folds, return_estimator=True
            )
        fitted = found["estimator"][0][-1]
        weights = sum(c.nnz if ours else c.size for c in fitted.coefs_)
        return {
            "accuracy": float(found["test_score"].mean()),
            "fit_seconds": float(found["fit_time"].mean()),
            "weights": int(weights),
            "density": fitted.density_ if ours else 1.0,
            "iterations": fitted.n_iter_,
        }


@dataclass(frozen=True, kw_only=True)
class ImagesJob(Job):
    """``SparseMLPClassifier((1024, 1024), density=.05)`` on images, nothing else set."""

    told = ("seed", "accuracy")

    images: str
    seed: int
    epochs: int = 30

    def measure(self) -> Record:
        """Train and test."""
        from gbdnn.estimators import SparseMLPClassifier

        X, y, X_test, y_test = load_task(self.images)
        model = SparseMLPClassifier(
            (1024, 1024), density=0.05, max_iter=self.epochs, random_state=self.seed,
            threads=self.threads,
        )  # fmt: skip
        model.fit(X, y)
        return {
            "accuracy": float(model.score(X_test, y_test)),
            "weights": model.network_.edges,
            "density": model.density_,
            "fit_seconds": model.history_["seconds"][-1],
        }


def jobs(
    *,
    tasks: Iterable[str] = tuple(TASKS),
    sizes: Iterable[Sequence[int]] = SIZES,
    seeds: int = 5,
    threads: int = 1,
) -> list[EstimatorJob]:
    """Return both engines on all tasks, in all sizes, `seeds` times each."""
    return [
        EstimatorJob(task=task, engine=engine, hidden=tuple(hidden), seed=seed, threads=threads)
        for seed in range(seeds)
        for hidden in sizes
        for task in tasks
        for engine in ENGINES
    ]


def image_jobs(images: Path, *, seeds: int, threads: int, epochs: int = 30) -> list[ImagesJob]:
    """Return one training for each seed."""
    path = str(images.resolve())
    return [
        ImagesJob(images=path, seed=seed, epochs=epochs, threads=threads) for seed in range(seeds)
    ]


def report(records: Sequence[Record]) -> str:
    """Return Markdown: a row for each task and size, means over the seeds; images in a table."""
    pictures = [record for record in records if "images" in record]
    records = [record for record in records if "images" not in record]
    groups = grouped(records, "hidden", "task")
    rows = []
    for (hidden, task), runs in groups.items():
        ours, theirs = ([run for run in runs if run["engine"] == engine] for engine in ENGINES)
        mine, other = (fmean(run["accuracy"] for run in part) for part in (ours, theirs))
        target = TARGETS.get(tuple(hidden))
        rows.append([
            task,
            "-".join(map(str, hidden)),
            f"{mine:.4f}",
            f"{other:.4f}",
            f"{mine - other:+.4f}",
            "" if target is None else f"{-target:+.2f}",
            f"{ours[0]['weights']:,} ({ours[0]['density']:.0%})",
            f"{theirs[0]['weights']:,}",
        ])  # fmt: skip
    heads = ["samples", "hidden", *ENGINES, "difference", "wanted, at least", "weights", "dense"]
    seeds = len({record["seed"] for record in records})
    return (
        f"{markdown_table(heads, rows, left=2)}\n"
        f"Accuracy, means of {seeds} times {FOLDS} folds (seeds 0 to {seeds - 1}), standardised "
        f"samples, density {DENSITY:g}, all else as it comes; "
        f"{origin(records[0])}\n" + (f"\n{_images(pictures)}" if pictures else "")
    )


def _images(records: Sequence[Record]) -> str:
    """Return Markdown: a row for each seed."""
    rows = [
        [str(r["seed"]), f"{r['accuracy']:.2%}", f"{r['weights']:,} ({r['density']:.2%})",
         f"{r['fit_seconds']:.0f}"]
        for r in records
    ]  # fmt: skip
    heads = ["seed", "accuracy", "weights", "training, s"]
    return (
        f"{markdown_table(heads, rows)}\nSparseMLPClassifier((1024, 1024), density=0.05, "
        f"max_iter={records[0]['epochs']}), all else as it comes; {origin(records[0])}\n"
    )
