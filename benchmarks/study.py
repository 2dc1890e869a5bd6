"""Accuracy against sparsity: dense, static, SET, RigL and magnitude pruning on one task.

``python -m benchmarks.study CELL`` trains one network in one process and prints its record;
`study` runs all cells that have no record yet.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import store
from benchmarks.process import made_on, record_of
from gbdnn.errors import FileFormatError, InputError, choose
from gbdnn.machine import machine, versions

__all__ = ["METHODS", "Cell", "cells", "load_task", "markdown", "network_for", "one_run", "study"]

Array = npt.NDArray[Any]
Record = dict[str, Any]
METHODS = ("dense", "static", "set", "rigl", "magnitude")
SPARSITIES = (0.9, 0.95, 0.98, 0.99)
INFERENCE_BATCH = 256


@dataclass(frozen=True)
class Cell:
    """One training: what, how sparse, which seed, on which data."""

    method: str
    sparsity: float
    seed: int
    images: str | None
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    learning_rate: float
    dropout: float
    threads: int

    @property
    def key(self) -> str:
        """What tells this cell from others."""
        return json.dumps(asdict(self), sort_keys=True)


def cells(
    *,
    methods: Iterable[str] = METHODS,
    sparsities: Iterable[float] = SPARSITIES,
    seeds: int = 3,
    images: Path | None = None,
    hidden: Sequence[int] = (1024, 1024),
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float = 1.5e-3,
    dropout: float = 0.1,
    threads: int = 2,
) -> list[Cell]:
    """Return the cells: all methods at all sparsities, dense once; `seeds` times each."""
    found = []
    levels = tuple(sparsities)
    for seed in range(seeds):
        for method in methods:
            choose("methods", method, METHODS)
            for sparsity in levels if method != "dense" else (0.0,):
                if not 0 <= sparsity < 1:
                    raise InputError("sparsities", "numbers from 0 up, below 1", repr(sparsity))
                found.append(
                    Cell(method, sparsity, seed, None if images is None else str(images),
                         tuple(hidden), epochs, batch_size, learning_rate, dropout, threads)
                )  # fmt: skip
    return found


def study(
    wanted: Sequence[Cell],
    out: Path,
    *,
    progress: Callable[[int], None] = lambda done: None,
    report: Callable[[str], None] = print,
) -> list[Record]:
    """Run the cells that have no record in `out` yet, one process each; return all records."""
    store.require_writable(out)
    known = {record["key"]: record for record in store.read(out).records}
    for cell in wanted:
        if cell.key not in known:
            known[cell.key] = record_of(
                f"{cell.method} {cell.sparsity:g}", "benchmarks.study", cell.key
            )
            store.append(out, known[cell.key])
            record = known[cell.key]
            report(
                f"{cell.method} {cell.sparsity:g} seed {cell.seed}: "
                f"{record['accuracy']:.2%} in {record['training_seconds']:.1f} s"
            )
        progress(1)
    return [known[cell.key] for cell in wanted]


# -- one run in this process -----------------------------------------------------------------------


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


def network_for(cell: Cell, features: int, classes: int) -> Any:
    """Return the network to begin with: dense weights, or ERK densities at random places."""
    from gbdnn import Dropout, Linear, Network, ReLU, Softmax
    from gbdnn.topology import erdos_renyi, erk_densities

    rng = np.random.default_rng([cell.seed, 7])
    widths = (features, *cell.hidden, classes)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    dense = cell.method in ("dense", "magnitude")
    densities = [1.0] * len(shapes)
    if not dense:
        densities = erk_densities(shapes, density=1 - cell.sparsity)
    layers: list[Any] = []
    for (rows, columns), density in zip(shapes, densities, strict=True):
        weight: Any = erdos_renyi(rows, columns, density=density, rng=rng)
        if dense:
            weight = weight.to_dense()
        layers += [Linear(weight, np.zeros(rows)), ReLU()]
        layers += [Dropout(cell.dropout)] if cell.dropout else []
    layers = layers[: -2 if cell.dropout else -1]
    return Network([*layers, Softmax()])


def learning_rate(cell: Cell) -> float:
    """Return the rate: what the cell says, for networks that begin sparse over sqrt(density).

    He's initial weights are larger by that factor where fewer of them meet, and Adam's steps have
    the size of the rate whatever the weights' (Dey et al. 2024 derive such rules).
    """
    dense = cell.method in ("dense", "magnitude")
    return cell.learning_rate / (1.0 if dense else math.sqrt(1 - cell.sparsity))


def _rule(cell: Cell) -> Any:
    """Return what changes the patterns; all methods end at the same densities (ERK)."""
    from gbdnn.pruning import sparsifier

    return sparsifier(cell.method, sparsity=cell.sparsity, distribution="erk")


def one_run(cell: Cell) -> Record:
    """Train, test, time and weigh one network."""
    from gbdnn.machine import peak_rss_bytes
    from gbdnn.training import Trainer

    X, y, X_test, y_test = load_task(cell.images)
    network = network_for(cell, X.shape[1], int(y.max()) + 1)
    rule = None if cell.method == "dense" else _rule(cell)
    trainer = Trainer(
        epochs=cell.epochs, batch_size=cell.batch_size, learning_rate=learning_rate(cell),
        schedule="warm-up", sparsifier=rule, threads=cell.threads, rng=cell.seed,
        backend="dense" if cell.method == "dense" else "fused",
    )  # fmt: skip
    begin = time.perf_counter()
    result = trainer.fit(network, X, y)
    seconds = time.perf_counter() - begin
    peak = peak_rss_bytes()
    trained = result.network
    guess = trained.predict(X_test, backend=trainer.backend, threads=cell.threads).argmax(axis=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        trained.save(path)
        file_bytes = path.stat().st_size
    summary = trained.summary()
    return {
        "key": cell.key,
        **asdict(cell),
        "samples": len(X),
        "accuracy": float((guess == y_test).mean()),
        "training_seconds": seconds,
        "inference_ms": _milliseconds(trained, X_test, trainer.backend, cell.threads),
        "inference_dense_ms": _milliseconds(trained, X_test, "dense", cell.threads),
        "file_bytes": file_bytes,
        "peak_bytes": peak,
        "nnz": summary.total["nnz"],
        "density": summary.total["density"],
        "layer_nnz": [row["nnz"] for row in summary.rows if row["edges"]],
        "final_loss": result.history.records[-1]["loss"],
        "machine": machine(),
        "versions": versions(),
    }


def _milliseconds(network: Any, X: Array, backend: str, threads: int) -> float:
    """Return the median time of `predict` on 256 samples."""
    part = X[:INFERENCE_BATCH]
    times = []
    for _ in range(60):
        begin = time.perf_counter()
        network.predict(part, backend=backend, threads=threads)
        times.append(time.perf_counter() - begin)
    return float(np.median(times[10:]) * 1e3)


def markdown(records: Sequence[Record]) -> str:
    """Return a table: a row for each method and sparsity, mean and spread over the seeds."""
    lines = [
        "| method | sparsity | accuracy, mean (min to max) | non-zeros | file, bytes "
        "| training, s | inference, ms | the same on dense, ms | peak, MiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    groups: dict[tuple[str, float], list[Record]] = {}
    for record in records:
        groups.setdefault((record["method"], record["sparsity"]), []).append(record)
    order = sorted(groups, key=lambda group: (group[1], METHODS.index(group[0])))
    for method, sparsity in order:
        runs = groups[method, sparsity]

        def mean(name: str, runs: list[Record] = runs) -> float:
            return float(np.mean([run[name] for run in runs]))

        accuracy = [run["accuracy"] for run in runs]
        lines.append(
            f"| {method} | {sparsity:.0%} | {np.mean(accuracy):.2%} "
            f"({min(accuracy):.2%} to {max(accuracy):.2%}) | {mean('nnz'):,.0f} "
            f"| {mean('file_bytes'):,.0f} | {mean('training_seconds'):.1f} "
            f"| {mean('inference_ms'):.2f} | {mean('inference_dense_ms'):.2f} "
            f"| {mean('peak_bytes') / 2**20:,.0f} |"
        )
    first = records[0]
    widths = "-".join(str(width) for width in first["hidden"])
    lines += [
        "",
        f"Hidden layers {widths}, {first['samples']:,} training samples, {first['epochs']} epochs, "
        f"batches of {first['batch_size']}, Adam, learning rate {first['learning_rate']:g} "
        "(static, SET and RigL: over the root of the density) with warm-up and cosine, "
        f"dropout {first['dropout']:g}, {first['threads']} threads, "
        f"{len({record['seed'] for record in records})} seeds; inference: median of 50 calls of "
        f"predict with {INFERENCE_BATCH} samples on the backend that trained (fused; dense for "
        f"dense); {made_on(first)}",
    ]
    return "\n".join(lines) + "\n"


def _main() -> None:
    cell = json.loads(sys.argv[1])
    cell["hidden"] = tuple(cell["hidden"])
    print(json.dumps(one_run(Cell(**cell))))


if __name__ == "__main__":
    _main()
