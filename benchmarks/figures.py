"""The figures of a sweep, as PNG and SVG files. Okabe and Ito's colours, one marker per engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, zip_longest
from math import exp, log
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks import store
from benchmarks.peers import PEERS
from benchmarks.rounds import DISTURBED
from benchmarks.sweep import DENSE, SweepJob
from gbdnn.errors import DataUnavailableError, InputError, MissingDependencyError

__all__ = ["FIGURES", "HEIGHT", "STYLES", "WIDTH", "crossover", "plot", "write"]

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
CASE = ["op", "size", "layers", "threads", "dtype", "batch", "bias"]
LABELS = {
    "ms": "time (ms)", "weights": "weights (MiB)", "peak": "peak of the process (MiB)",
    "speedup": "speed-up over dense (times)", "gedge_per_s": "GEdge/s (non-zeros x samples)",
    "percent": "part of the roofline (%)",
}  # fmt: skip
WIDTH, HEIGHT, COLUMNS = 4.6, 3.7, 5  # inches of one panel, panels beside each other
DOUBT = "doubtful: other programs were busy, or the median is uncertain"
Mark = Callable[[Any, Any, str], None]  # (axis, rows of the panel, field)


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
    frame = store.load(folder)
    frame = frame[(frame["status"] == "ok") & frame["key"].str.startswith(SweepJob.__name__)]
    if frame.empty:
        fix = "See `reason` in the records."
        raise DataUnavailableError("folder", "measured times", "only skipped or failed", fix)
    frame = frame.assign(
        inverse=1 / frame["density"], ms=1e3 * frame["seconds"],
        weights=frame["weight_bytes"] / 2**20, peak=frame["peak_rss_bytes"] / 2**20,
        doubt=(frame["others_busy"] > DISTURBED) | (frame["spread"] > frame["timing.spread"]),
    ).sort_values("inverse")  # fmt: skip
    return [path for name, draw in FIGURES.items() for path in write(name, draw, frame, out)]


def write(name: str, draw: Callable[[Any, Any], Any], data: Any, out: Path | str) -> list[Path]:
    """Draw ``draw(pyplot, data)`` and write it as PNG and SVG; nothing where it returns None."""
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        raise MissingDependencyError(
            "benchmarks.plot", "matplotlib", "no such package", "Run: pip install 'gbdnn[bench]'"
        ) from None
    style = {"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 150}
    with plt.rc_context(style):
        figure = draw(plt, data)
        paths = [Path(out) / f"{name}{suffix}" for suffix in (".png", ".svg") if figure]
        try:
            Path(out).mkdir(parents=True, exist_ok=True)
            for path in paths:
                figure.savefig(path)
        except OSError as error:
            got = f"{error.filename or out}: {error.strerror}"
            raise InputError("out", "a folder that can be written", got) from error
        finally:
            plt.close(figure)
    return paths


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
    for name in ("op", "layers", "bias", "batch"):  # the usual case; of the batches rather 64
        wanted = 64 if name == "batch" and (frame["batch"] == 64).any() else frame[name].mode()[0]
        frame = frame[frame[name] == wanted]
    rows = [
        [(f"{size} x {size}", here, field) for field in ("ms", "weights")]
        for size, here in frame.groupby("size")
    ]
    note = "Left: time, shaded between the quartiles; rings with the inverse sparsity there: "
    note += "crossover with the fastest dense engine. Right: memory of the weights"
    return _figure(plt, frame, rows, f"{note}; {_words(frame)}", _mark_time, sharey="col")


def draw_speedup(plt: Any, frame: Any) -> Any:
    """Speed-up over the dense engine of the same case, by density; None without a dense engine."""
    dense = frame["engine"] == "dense"
    reference = frame[dense].groupby(CASE)["ms"].median().rename("dense_ms").reset_index()
    others = frame[~dense].merge(reference, on=CASE)
    others = others.assign(speedup=others["dense_ms"] / others["ms"])
    return _by_case(plt, others, "speedup", "Above the line faster than dense", _mark_one)


def draw_rate(plt: Any, frame: Any) -> Any:
    """GEdge/s by density, with the machine's limits as lines."""
    sparse = frame[~frame["engine"].isin(DENSE)]
    note = "Dotted: multiply-adds that the machine can do, with operands in registers, L1, L2"
    return _by_case(plt, sparse, "gedge_per_s", note, _mark_limits)


def draw_roofline(plt: Any, frame: Any) -> Any:
    """The part of the machine's limit that each engine reaches; dense ones by all places."""
    if "roofline_fraction" not in frame or frame["roofline_fraction"].isna().all():
        return None
    frame = frame.assign(percent=100 * frame["roofline_fraction"].astype(float))
    note = "Of the arithmetic fed from L1; dense engines: of the arithmetic, counting all places"
    return _by_case(plt, frame, "percent", note)


def draw_memory(plt: Any, frame: Any) -> Any:
    """Bytes of the weights, and the process' peak, by density; a column per size and depth."""
    fields = ["weights", "peak"]
    medians = [
        (f"{_word('size', size)}, {_word('layers', layers)}",
         here.groupby(["engine", "inverse"], as_index=False)[fields].median())
        for (size, layers), here in frame.groupby(["size", "layers"])
    ]  # fmt: skip
    rows = [[(title, here, field) for title, here in medians] for field in fields]
    note = "Above: weights as the engine holds them; below: peak of its process, libraries included"
    return _figure(plt, frame, rows, note, sharey="row")


FIGURES: dict[str, Callable[[Any, Any], Any]] = {
    "time": draw_time,
    "speedup": draw_speedup,
    "rate": draw_rate,
    "roofline": draw_roofline,
    "memory": draw_memory,
}


# -- parts of figures ------------------------------------------------------------------------------


def _by_case(plt: Any, frame: Any, field: str, note: str, mark: Mark | None = None) -> Any:
    """Draw `field` against inverse sparsity: a panel per case, biases of all kinds in a row."""
    if frame.empty:
        return None
    vary = [name for name in CASE if frame[name].nunique() > 1] or ["size"]
    panels = [
        (", ".join(map(_word, vary, values)), here, field) for values, here in frame.groupby(vary)
    ]
    columns = frame["bias"].nunique() if "bias" in vary else min(len(panels), COLUMNS)
    rows = [panels[k : k + columns] for k in range(0, len(panels), columns)]
    return _figure(plt, frame, rows, f"{note}; {_words(frame)}", mark, sharey=True)


def _figure(
    plt: Any, frame: Any, rows: Sequence[Sequence[tuple[str, Any, str]]], note: str,
    mark: Mark | None = None, *, sharey: bool | str,
) -> Any:  # fmt: skip
    """Draw panels (title, rows, field) with common axes, one legend, and a note below."""
    size = (WIDTH * len(rows[0]), HEIGHT * len(rows) + 0.6)
    figure, axes = plt.subplots(
        len(rows), len(rows[0]), figsize=size, squeeze=False, layout="constrained",
        sharex=True, sharey=sharey,
    )  # fmt: skip
    inverse = sorted(set(frame["inverse"]))
    entries: dict[str, Any] = {}
    for axis, panel in zip_longest(axes.flat, [panel for row in rows for panel in row]):
        if panel is None:
            axis.set_visible(False)
            continue
        title, here, field = panel
        for engine, part in here.groupby("engine"):
            entries[engine] = _line(axis, engine, part, field)
        if field != "weights" and "doubt" in here and here["doubt"].any():
            odd = here[here["doubt"]]
            style = {"s": 60, "marker": "x", "color": "black", "linewidth": 0.8, "zorder": 3}
            entries[DOUBT] = axis.scatter(odd["inverse"], odd[field], **style)
        axis.set(title=title, ylabel=LABELS[field], xlabel="inverse sparsity (1 / density)")
        _log_axes(axis, inverse)
        if mark:
            mark(axis, here, field)
    order = [name for name in STYLES if name in entries] + sorted(set(entries) - set(STYLES))
    figure.legend(
        [entries[name] for name in order], order, loc="outside upper center", frameon=False,
        ncols=min(len(order), max(int(size[0] / 1.5), 1)),
    )  # fmt: skip
    first = frame.iloc[0]
    machine = f"{first['machine.processor']}, gbdnn {first['versions.gbdnn']}; medians"
    text = "\n".join(fill(line, int(16 * size[0])) for line in (note, machine))
    figure.supxlabel(text, fontsize=8, color="#444444")
    return figure


def _line(axis: Any, engine: str, part: Any, field: str) -> Any:
    color, marker = STYLES.get(engine) or FALLBACK[sum(engine.encode()) % len(FALLBACK)]
    (line,) = axis.plot(
        part["inverse"], part[field], color=color, marker=marker, markersize=6, linewidth=1.2,
        linestyle="--" if engine in DENSE else "-", fillstyle="none" if engine in PEERS else "full",
    )  # fmt: skip
    if field == "ms":
        quartiles = 1e3 * part["seconds_p25"], 1e3 * part["seconds_p75"]
        axis.fill_between(part["inverse"], *quartiles, color=color, alpha=0.18, lw=0)
    return line


def _log_axes(axis: Any, inverse: Sequence[float]) -> None:
    """Logarithmic axes; x has the densities that were measured as ticks, y plain numbers."""
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(inverse if len(inverse) <= 10 else inverse[::2])
    axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter(
        lambda value, _: f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
    )
    axis.yaxis.set_major_formatter("{x:g}")
    axis.tick_params(axis="x", rotation=45 if len(inverse) > 6 else 0)
    axis.tick_params(labelbottom=True, labelleft=True)


def _mark_time(axis: Any, here: Any, field: str) -> None:
    """Put rings where lines cross the one of the fastest dense engine."""
    dense = here["engine"].isin(DENSE)
    if field != "ms" or not dense.any():
        return
    level = here[dense].groupby("engine")["ms"].median().min()
    shift = 7
    for engine, part in here[~dense].groupby("engine"):
        if (at := crossover(part["inverse"], part["ms"], level)) is not None:
            color = STYLES.get(engine, FALLBACK[0])[0]
            axis.plot([at], [level], "o", markersize=11, fillstyle="none", color=color)
            axis.annotate(f"{at:.1f}", (at, level), xytext=(14, shift), color=color, fontsize=8,
                          textcoords="offset points")  # fmt: skip
            shift += 11


def _mark_one(axis: Any, here: Any, field: str) -> None:
    axis.axhline(1, color=STYLES["dense"][0], linestyle="--", linewidth=1.2)


def _mark_limits(axis: Any, here: Any, field: str) -> None:
    if "roofline.fma_all" not in here:
        return
    threads = int(here["threads"].iloc[0])
    for name, label, place in (("fma", "registers", 1), ("l1", "L1", 0), ("l2", "L2", 1)):
        one, both = (here[f"roofline.{name}_{which}"].median() for which in ("one", "all"))
        limit = min(threads * one, both)
        if limit == limit:
            axis.axhline(limit, color="#999999", linestyle=":", linewidth=1)
            axis.annotate(
                label, (place, limit), va="bottom", ha="right" if place else "left", fontsize=7,
                xycoords=("axes fraction", "data"), color="#555555",
            )  # fmt: skip


def _word(name: str, value: Any) -> str:
    """Return the value of a field of a case as words."""
    words = {
        "size": f"{value} x {value}", "batch": f"batch {value}", "bias": f"bias {value}",
        "layers": f"{value} layers" if value != 1 else "1 layer",
        "threads": f"{value} threads" if value != 1 else "1 thread",
    }  # fmt: skip
    return words.get(name, str(value))


def _words(frame: Any) -> str:
    """Return what all panels have in common."""
    return ", ".join(_word(n, frame[n].iloc[0]) for n in CASE if frame[n].nunique() == 1)
