"""The figures of a sweep, as PNG and SVG files. Okabe and Ito's colours, one marker per engine."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import exp, log
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks import store
from benchmarks.peers import PEERS
from benchmarks.sweep import DENSE, SweepJob
from gbdnn.errors import DataUnavailableError, InputError, MissingDependencyError

__all__ = ["FIGURES", "HEIGHT", "WIDTH", "crossover", "plot", "pyplot", "save"]

# Okabe and Ito 2008; yellow is left out, as it is too pale for lines on white
STYLES = {
    "fused": ("#D55E00", "o"),
    "graphblas": ("#0072B2", "s"),
    "graphblas-reference": ("#56B4E9", "D"),
    "dense": ("#000000", "X"),
    "auto": ("#CC79A7", "P"),
    "torch-csr": ("#009E73", "^"),
    "torch-dense": ("#666666", "v"),
    "scipy": ("#E69F00", "<"),
    "mkl": ("#7F3C8D", ">"),
}
FALLBACK = (("#0072B2", "h"), ("#D55E00", "8"), ("#009E73", "p"), ("#CC79A7", "*"))
CASE = ["op", "size", "layers", "batch", "bias", "threads", "dtype"]
LABELS = {
    "ms": ("time (ms)", "time"), "weights": ("weights (MiB)", "memory of the weights"),
    "peak": ("peak (MiB)", "memory of the process"),
}  # fmt: skip
WIDTH, HEIGHT = 4.6, 3.7  # inches of one panel


def plot(folder: Path | str, out: Path | str) -> list[Path]:
    """Draw all figures of the results in a folder.

    Parameters
    ----------
    folder : path
        What ``gbdnn bench sweep --out`` wrote.
    out : path
        Folder for the files, made if absent.

    Returns
    -------
    list of Path
        Per figure a PNG and an SVG; a figure for which there is no data is left out.

    Raises
    ------
    MissingDependencyError
        Without matplotlib or pandas.
    DataUnavailableError
        If nothing was measured.
    InputError
        If `out` cannot be written.
    """
    plt = pyplot()
    frame = store.load(folder)
    frame = frame[(frame["status"] == "ok") & frame["key"].str.startswith(SweepJob.__name__)]
    if frame.empty:
        fix = "See `reason` in the records."
        raise DataUnavailableError("folder", "measured times", "only skipped or failed", fix)
    frame = frame.assign(
        inverse=1 / frame["density"], ms=1e3 * frame["seconds"],
        weights=frame["weight_bytes"] / 2**20, peak=frame["peak_rss_bytes"] / 2**20,
    ).sort_values("inverse")  # fmt: skip
    written: list[Path] = []
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        for name, draw in FIGURES.items():
            with plt.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
                figure = draw(plt, frame)
                if figure is not None:
                    written += save(plt, figure, Path(out) / name)
    except OSError as error:
        got = f"{error.filename or out}: {error.strerror}"
        raise InputError("out", "a folder that can be written", got) from error
    return written


def crossover(inverse: Any, sparse: Any, dense: float) -> float | None:
    """Return the inverse sparsity from which on `sparse` is faster than `dense`, interpolated.

    Parameters
    ----------
    inverse, sparse : sequence of float
        Inverse sparsity, ascending, and the seconds there.
    dense : float
        Seconds of the dense engine, which do not depend on sparsity.

    Returns
    -------
    float or None
        The last crossing, on logarithmic scales; None if the lines do not cross.
    """
    pairs = list(zip(inverse, sparse, strict=True))
    for (x0, y0), (x1, y1) in reversed(list(pairwise(pairs))):
        if y0 > dense >= y1:
            part = log(y0 / dense) / log(y0 / y1)
            return exp(log(x0) + part * log(x1 / x0))
    return None


def draw_time(plt: Any, frame: Any) -> Any:
    """Time, and memory beside it, against inverse sparsity; a row per size (K17's figure)."""
    frame = _main_case(frame)
    op, batch, layers = (frame[name].iloc[0] for name in ("op", "batch", "layers"))
    sizes = sorted(frame["size"].unique())
    figure, axes = _panels(plt, len(sizes), 2, sharex=True)
    for pair, size in zip(axes, sizes, strict=True):
        here, rings = frame[frame["size"] == size], 0
        dense = here["engine"].isin(DENSE)
        medians = here[dense].groupby("engine")[["ms", "weights"]].median()
        for axis, field in zip(pair, medians, strict=True):
            for engine, value in medians[field].items():
                axis.axhline(value, color=_style(engine)[0], label=engine, linewidth=1.5,
                             linestyle="--" if engine == "dense" else "-.")  # fmt: skip
            for engine, part in here[~dense].groupby("engine"):
                _line(axis, engine, part, field)
                if field == "ms":
                    low, high = 1e3 * part["seconds_p25"], 1e3 * part["seconds_p75"]
                    color = _style(engine)[0]
                    axis.fill_between(part["inverse"], low, high, color=color, alpha=0.18, lw=0)
                    if len(medians):
                        rings += _mark_crossover(axis, engine, part, medians["ms"].min(), rings)
            label, what = LABELS[field]
            axis.set(ylabel=label, title=f"{_shape(size, layers)}: {what}")
            _inverse_axis(axis, here["inverse"], last=size == sizes[-1])
    names = {"affine": "h(W Y + b)", "forward": "whole network"}
    title = f"{names.get(op, op)}, batch {batch}; rings: crossover with the fastest dense engine"
    return _finish(figure, title, frame)


def draw_speedup(plt: Any, frame: Any) -> Any:
    """Speed-up over the dense engine of the same case, by density; None without a dense engine."""
    dense = frame["engine"] == "dense"
    reference = frame[dense].groupby(CASE)["ms"].median().rename("dense_ms").reset_index()
    others = frame[~dense].merge(reference, on=CASE)
    others = others.assign(speedup=others["dense_ms"] / others["ms"])
    return _by_case(plt, others, "speedup", "speed-up over dense (times)", one=True)


def draw_rate(plt: Any, frame: Any) -> Any:
    """GEdge/s by density, with the machine's limits as lines."""
    sparse = frame[~frame["engine"].isin(DENSE)]
    return _by_case(plt, sparse, "gedge_per_s", "GEdge/s (non-zeros x samples)", limits=True)


def draw_roofline(plt: Any, frame: Any) -> Any:
    """The part of the machine's limit that each engine reaches; dense ones by all places."""
    if "roofline_fraction" not in frame or frame["roofline_fraction"].isna().all():
        return None
    frame = frame.assign(percent=100 * frame["roofline_fraction"].astype(float))
    return _by_case(plt, frame, "percent", "part of the roofline (%)")


def draw_memory(plt: Any, frame: Any) -> Any:
    """Bytes of the weights, and the process' peak, by density; a column per size and depth."""
    cases = list(frame.groupby(["size", "layers"]))
    figure, axes = _panels(plt, 2, len(cases))
    for row, field in zip(axes, ("weights", "peak"), strict=True):
        for axis, ((size, layers), here) in zip(row, cases, strict=True):
            for engine, part in here.groupby("engine"):
                _line(axis, engine, part.groupby("inverse", as_index=False)[field].median(), field)
            axis.set(ylabel=LABELS[field][0], title=_shape(size, layers))
            _inverse_axis(axis, here["inverse"])
            if field == "peak":  # mostly the libraries' code: no range of decades
                axis.set_yscale("linear")
                axis.set_ylim(bottom=0)
    note = "above: weights as the engine holds them; below: peak of its process, libraries included"
    return _finish(figure, note, frame)


FIGURES: dict[str, Callable[[Any, Any], Any]] = {
    "time": draw_time,
    "speedup": draw_speedup,
    "rate": draw_rate,
    "roofline": draw_roofline,
    "memory": draw_memory,
}


# -- parts of figures ------------------------------------------------------------------------------


def _by_case(
    plt: Any, frame: Any, field: str, label: str, *, one: bool = False, limits: bool = False
) -> Any:
    """Draw `field` against inverse sparsity: a panel per case, at most four beside each other."""
    cases = list(frame.groupby(CASE))
    if not cases:
        return None
    columns = min(len(cases), 4)
    figure, axes = _panels(plt, -(-len(cases) // columns), columns)
    for axis in axes.flat[len(cases) :]:
        axis.set_visible(False)
    for axis, (case, here) in zip(axes.flat, cases, strict=False):
        for engine, part in here.groupby("engine"):
            _line(axis, engine, part, field)
        if one:
            axis.axhline(1, color=STYLES["dense"][0], linestyle="--", linewidth=1.2)
        if limits and "roofline.fma_all" in here:
            _limit_lines(axis, here)
        op, size, layers, batch, bias, threads, _ = case
        biases = "" if bias == "mixed" else f", {bias} biases"
        title = f"{_shape(size, layers)}, batch {batch}{biases}\n{op}, {_cores(threads)}"
        axis.set(ylabel=label, title=title)
        _inverse_axis(axis, here["inverse"])
    return _finish(figure, "", frame)


def _limit_lines(axis: Any, here: Any) -> None:
    threads = int(here["threads"].iloc[0])
    for name, label, place in (("fma", "arithmetic", 1), ("l1", "L1", 0), ("l2", "L2", 1)):
        one, both = (here[f"roofline.{name}_{which}"].median() for which in ("one", "all"))
        limit = min(threads * one, both)
        if limit == limit:
            axis.axhline(limit, color="#999999", linestyle=":", linewidth=1)
            axis.annotate(
                label, (place, limit), va="bottom", ha="right" if place else "left", fontsize=7,
                xycoords=("axes fraction", "data"), color="#555555",
            )  # fmt: skip


def _main_case(frame: Any) -> Any:
    """Return the rows of the first figure: the usual op, layers, bias and batch, rather 64."""
    for name in ("op", "layers", "bias", "batch"):
        wanted = 64 if name == "batch" and (frame["batch"] == 64).any() else frame[name].mode()[0]
        frame = frame[frame[name] == wanted]
    return frame


def _mark_crossover(axis: Any, engine: str, part: Any, dense: float, number: int) -> bool:
    """Put a ring with the inverse sparsity where a line crosses the dense one, if it does."""
    at = crossover(part["inverse"], part["ms"], dense)
    if at is None:
        return False
    color = _style(engine)[0]
    axis.plot([at], [dense], "o", markersize=11, fillstyle="none", markeredgewidth=1.5, color=color)
    axis.annotate(
        f"{at:.1f}", (at, dense), xytext=(14, 7 + 11 * number), textcoords="offset points",
        color=color, fontsize=8,
    )  # fmt: skip
    return True


def _line(axis: Any, engine: str, part: Any, field: str) -> None:
    color, marker = _style(engine)
    axis.plot(
        part["inverse"], part[field], color=color, marker=marker, label=engine, markersize=6,
        linestyle="--" if engine in DENSE else "-", linewidth=1.2,
        fillstyle="none" if engine in PEERS else "full",
    )  # fmt: skip


def _style(engine: str) -> tuple[str, str]:
    return STYLES.get(engine) or FALLBACK[sum(engine.encode()) % len(FALLBACK)]


def _inverse_axis(axis: Any, inverse: Any, *, last: bool = True) -> None:
    """Logarithmic axes; x has powers of two as ticks if the densities are such."""
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    values = sorted(set(inverse))
    axis.set_xticks(values if len(values) <= 10 else values[::2])
    axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter(lambda value, _: _number(value))
    axis.yaxis.set_major_formatter("{x:g}")
    low, high = axis.get_ylim()
    narrow = high < 100 * low  # hardly a power of ten in sight: label 2 and 5 as well
    axis.yaxis.set_minor_formatter(
        lambda value, _: f"{value:g}" if narrow and f"{value:e}"[0] in "25" else ""
    )
    axis.tick_params(axis="x", rotation=45 if len(values) > 6 else 0, labelbottom=True)
    if last:
        axis.set_xlabel("inverse sparsity (1 / density)")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 or value > 20 else f"{value:.1f}"


def _panels(plt: Any, rows: int, columns: int, **options: Any) -> tuple[Any, Any]:
    size, layout = (WIDTH * columns, HEIGHT * rows + 0.6), "constrained"
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout=layout, **options
    )
    return figure, axes


def _finish(figure: Any, title: str, frame: Any) -> Any:
    """One legend for all panels; below it what was measured on what. Returns the figure."""
    entries: dict[str, Any] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    order = [name for name in STYLES if name in entries] + sorted(set(entries) - set(STYLES))
    columns = max(int(figure.get_figwidth() / 1.5), 1)
    figure.legend(
        [entries[name] for name in order], order, loc="outside upper center",
        ncols=min(len(order), columns), frameon=False,
    )  # fmt: skip
    first = frame.iloc[0]
    machine = f"{first['machine.processor']}, {_cores(int(first['threads']))}"
    versions = f"gbdnn {first['versions.gbdnn']}, {first['dtype']}"
    lines = [line for line in (title, f"{machine}, {versions}; medians") if line]
    width = int(16 * figure.get_figwidth())  # characters of this size
    text = "\n".join(fill(line, width) for line in lines)
    figure.supxlabel(text, fontsize=8, color="#444444")
    return figure


def _shape(size: int, layers: int) -> str:
    return f"{layers} layer{'s' if layers > 1 else ''} of {size} x {size}"


def _cores(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def save(plt: Any, figure: Any, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG and close it."""
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=150)
    plt.close(figure)
    return paths


def pyplot() -> Any:
    """Return matplotlib's pyplot."""
    try:
        from matplotlib import pyplot
    except ImportError:
        raise MissingDependencyError(
            "benchmarks.plot", "matplotlib", "no such package", "Run: pip install 'gbdnn[bench]'"
        ) from None
    return pyplot
