"""The roofline: how many multiply-adds a second the parts of a work reach, by their intensity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gbdnn.errors import InputError, MissingDependencyError
from gbdnn.simulator.reports import Comparison
from gbdnn.simulator.timing import Simulation, Timed
from gbdnn.simulator.work import Product
from gbdnn.types import FilePath

__all__ = ["draw_roofline", "intensities", "save_roofline"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*Xh8"


def intensities(simulation: Simulation) -> dict[str, tuple[float, float]]:
    """Return for each part its multiply-adds a byte from outside, and a second of its products."""
    found: dict[str, list[Timed]] = {}
    for row in simulation.rows:
        if isinstance(row.operation, Product) and row.macs:
            found.setdefault(row.operation.part, []).append(row)
    return {
        part: (sum(row.macs for row in rows) / sum(row.nbytes for row in rows),
               sum(row.macs for row in rows) / sum(row.product for row in rows))
        for part, rows in found.items()
    }  # fmt: skip


def draw_roofline(plt: Any, comparison: Comparison) -> Any:
    """Return a figure: a roof for each format, a point for each part in each of them."""
    machine = comparison.base.machine
    figure, axis = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
    points = {
        (each.format, each.sparse): intensities(each) for each in comparison.simulations
    }  # fmt: skip
    found = [x for own in points.values() for x, _ in own.values()]
    ridges = [machine.peak[name] * machine.utilisation[name] / machine.bandwidth
              for name in machine.formats]  # fmt: skip
    line = np.geomspace(min(found + ridges) / 4, max(found + ridges) * 4, 200)
    parts = list(dict.fromkeys(part for own in points.values() for part in own))
    for colour, name in zip(COLOURS, machine.formats, strict=False):
        roof = machine.peak[name] * machine.utilisation[name]
        limit = np.minimum(roof, line * machine.bandwidth)
        axis.plot(line, limit / 1e9, color=colour, linewidth=1.2, label=f"{name} roof")
        for (format, sparse), own in points.items():
            for part, (x, y) in own.items():
                if format == name:
                    axis.plot(
                        x, y / 1e9, MARKERS[parts.index(part) % len(MARKERS)], color=colour,
                        markerfacecolor="none" if sparse else colour, markersize=7,
                    )  # fmt: skip
    for number, part in enumerate(parts):
        axis.plot([], [], MARKERS[number % len(MARKERS)], color="#666666", label=part)
    axis.set(
        xscale="log", yscale="log",
        xlabel="multiply-adds for each byte from outside",
        ylabel="1e9 multiply-adds a second",
    )  # fmt: skip
    sparse = any(each.sparse for each in comparison.simulations)
    axis.set_title(
        f"simulated: {machine.name}\n{comparison.base.work.description}"
        + "\nhollow: without absent weights" * sparse, fontsize=8,
    )  # fmt: skip
    axis.grid(visible=True, which="major", alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    return figure


def save_roofline(comparison: Comparison, path: FilePath) -> None:
    """Write the roofline of a comparison to a PNG, SVG or PDF file.

    Raises
    ------
    MissingDependencyError
        Without matplotlib.
    InputError
        If the name has another ending, or the file cannot be written.
    """
    if Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise InputError("plot", "a name that ends in .png, .svg or .pdf", str(path))
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        fix = "Run: pip install 'gbdnn[bench]'"
        raise MissingDependencyError("plot", "matplotlib", "no such package", fix) from None
    with plt.rc_context({"font.size": 9, "figure.dpi": 150}):
        figure = draw_roofline(plt, comparison)
        try:
            figure.savefig(path)
        except OSError as error:
            got = f"{path}: {error.strerror}"
            raise InputError("plot", "a file that can be written", got) from None
        finally:
            plt.close(figure)
