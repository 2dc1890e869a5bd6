"""The figure of `gbdnn bench accuracy`: what accuracy costs in non-zeros and in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.figures import HEIGHT, WIDTH, pyplot, save
from benchmarks.process import Record
from benchmarks.rounds import grouped

__all__ = ["plot_pareto"]


STYLES = {
    "dense": ("#000000", "X"),
    "static": ("#E69F00", "s"),
    "set": ("#0072B2", "^"),
    "rigl": ("#D55E00", "o"),
    "magnitude": ("#009E73", "D"),
}


def plot_pareto(records: Sequence[Record], out: Path | str) -> list[Path]:
    """Draw test accuracy against non-zeros and against milliseconds.

    A marker is the mean over the seeds, its bar reaches from the worst to the best.

    Raises
    ------
    MissingDependencyError
        Without matplotlib.
    """
    plt = pyplot()
    with plt.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        figure, axes = plt.subplots(1, 2, figsize=(2 * WIDTH, HEIGHT), sharey=True)
        for method, (colour, marker) in STYLES.items():
            points = _points([run for run in records if run["method"] == method])
            for axis, name in zip(axes, ("nnz", "inference_ms"), strict=True):
                if points:
                    accuracy = [100 * point["accuracy"] for point in points]
                    low = [100 * (point["accuracy"] - point["worst"]) for point in points]
                    high = [100 * (point["best"] - point["accuracy"]) for point in points]
                    axis.errorbar(
                        [point[name] for point in points], accuracy, [low, high], color=colour,
                        marker=marker, label=method, capsize=2, linewidth=1,
                    )  # fmt: skip
        axes[0].set(xscale="log", xlabel="non-zero weights", ylabel="test accuracy (%)")
        axes[1].set(xscale="log", xlabel="predict, 256 samples (ms)")
        axes[1].legend()
        figure.tight_layout()
        Path(out).mkdir(parents=True, exist_ok=True)
        return save(plt, figure, Path(out) / "pareto")


def _points(runs: Sequence[Record]) -> list[dict[str, float]]:
    """Return mean, worst and best of each sparsity, sparse ones first."""
    points = []
    for _, here in sorted(grouped(runs, "sparsity").items(), reverse=True):
        accuracy = [run["accuracy"] for run in here]
        means = {name: fmean(run[name] for run in here) for name in ("nnz", "inference_ms")}
        points.append({
            "accuracy": fmean(accuracy), "worst": min(accuracy), "best": max(accuracy), **means
        })  # fmt: skip
    return points
