"""Tables and figures of a study, from its rows alone; what is not there is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.files.disk import atomic_write
from gbdnn.files.rows import Record
from gbdnn.speech.study.claims import Claim, claims, select
from gbdnn.speech.study.decoded import pooled
from gbdnn.speech.study.quantizers import GRANULARITIES, STARTS, WEIGHTS
from gbdnn.speech.study.settings import FUSIONS, TESTS
from gbdnn.summary import markdown_table

__all__ = ["draw", "markdown", "short", "summarised"]

COLOURS = dict(zip(FUSIONS, ("#666666", "#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True))
SETS = {
    "known": "voices of the training", "matched": "voices not trained on",
    "target": "target domain", "noise": "10 dB", "shifted": "another engine (flite)",
    "prompts": "telephone prompts",
}  # fmt: skip


def short(row: Record) -> Record:
    """Return a row with sums in place of the errors of each recording, as a small file has it."""
    if "words" not in row:
        return row
    kept = {key: value for key, value in row.items() if not isinstance(value, list)}
    return {**kept, **pooled([row]).record}


def summarised(rows: Sequence[Record]) -> list[Record]:
    """Return the rows as `short` makes them."""
    return [short(row) for row in rows]


def markdown(rows: Sequence[Record], beam: int, sparse: Sequence[str]) -> dict[str, str]:
    """Return tables by name, as Markdown."""
    made = {
        "claims": _claims(claims(rows, beam, sparse)),
        "tests": _tests(rows, beam),
        "fusion": _fusion(rows),
        "weights": _weights(rows),
        "quantizers": _quantizers(rows),
        "speed": _speed(rows),
        "simulated": _simulated(rows),
    }
    return {name: text for name, text in made.items() if text}


def _claims(found: Sequence[Claim]) -> str:
    rows = [[each.claim, each.rule, each.found, f"**{each.verdict}**"] for each in found]
    return markdown_table(["claim", "rule", "found", "verdict"], rows, left=4)


def _tests(rows: Sequence[Record], beam: int) -> str:
    words = {"kind": "words", "fusion": "none", "beam": beam}
    names = list(dict.fromkeys(row["model"] for row in select(rows, **words)))
    tests = [name for name in TESTS if select(rows, **words, test=name)]
    table = []
    for name in names:
        size = select(rows, kind="bytes", model=name)
        seeds = {row["seed"] for row in select(rows, **words, model=name)}
        cells = [_interval(select(rows, **words, model=name, test=test)) for test in tests]
        sizes = [f"{size[0][key]:,}" if size else "" for key in ("bytes", "compressed")]
        table.append([name, f"{len(seeds)}", *sizes, *cells])
    columns = ["recogniser", "seeds", "file, bytes", "compressed"]
    return _table([*columns, *(SETS[test] for test in tests)], table)


def _fusion(rows: Sequence[Record]) -> str:
    own = {"kind": "words", "test": "target"}
    beams = sorted({row["beam"] for row in select(rows, **own)})
    table = []
    for kind, model in product(FUSIONS, ("float32", "int4")):
        cells = [_interval(_first(select(rows, **own, model=model, fusion=kind, beam=beam)))
                 for beam in beams]  # fmt: skip
        if any(cells):
            table.append([kind, model, *cells])
    return _table(["fusion", "recogniser", *(f"beam {beam}" for beam in beams)], table, left=2)


def _weights(rows: Sequence[Record]) -> str:
    table = [
        [row["fusion"], f"{row['seed']}", f"{row['weight']:g}", f"{row['source_weight']:g}",
         f"{row['bonus']:g}", f"{row['errors']} of {row['of']}"]
        for row in select(rows, kind="tuned")
    ]  # fmt: skip
    return _table(["fusion", "seed", "weight", "of the source", "bonus", "errors in tuning"], table)


def _quantizers(rows: Sequence[Record]) -> str:
    table = []
    for weight, granularity, start in product(WEIGHTS, GRANULARITIES, STARTS):
        own = {"kind": "quantizer", "weight": weight, "granularity": granularity, "start": start}
        cells = [_interval(select(rows, **own, way=way)) for way in ("rounded", "trained")]
        if any(cells):
            table.append([weight, granularity, start, *cells])
    heads = ["weights", "scale for each", "clips begin at", "rounded", "trained a little"]
    return _table(heads, table, left=3)


def _speed(rows: Sequence[Record]) -> str:
    own = select(rows, kind="speed")
    heads = ["recogniser", "no language model, 1 thread", "2 threads"]
    heads += ["density ratio, 1 thread", "2 threads"]
    table = []
    for name in dict.fromkeys(row["model"] for row in own):
        cells = [
            "".join(f"{row['rtf']:.4f}" for row in _first(
                select(own, model=name, fusion=kind, threads=count)))
            for kind in ("none", "density-ratio")
            for count in (1, 2)
        ]  # fmt: skip
        table.append([name, *cells])
    return _table(heads, table)


def _simulated(rows: Sequence[Record]) -> str:
    table = [
        [row["model"], row["fusion"], f"{row['beam']}", f"{row['speedup']:.2f}",
         f"{row['rtf']:.4f}", f"{row['compression']:.2f}"]
        for row in select(rows, kind="simulated")
    ]  # fmt: skip
    heads = ["recogniser", "fusion", "beam", "times FP16, simulated", "RTF INT4, simulated",
             "times smaller than FP32, computed"]  # fmt: skip
    return _table(heads, table, left=2)


def _table(heads: Sequence[str], table: Sequence[Sequence[str]], left: int = 1) -> str:
    return markdown_table(heads, table, left=left) if table else ""


def _first(rows: Sequence[Record]) -> list[Record]:
    return list(rows[:1])


def _interval(rows: Sequence[Record]) -> str:
    """Return a rate in percent, all seeds together, with its interval."""
    if not rows:
        return ""
    found = pooled(rows)
    low, high = found.interval()
    return f"{100 * found.rate:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def draw(rows: Sequence[Record], beam: int, folder: Path) -> list[Path]:
    """Write fusion.png, errors over beams, and bytes.png, errors against bytes.

    Raises
    ------
    MissingDependencyError
        Without matplotlib.
    """
    checks.package("matplotlib", "figures", "bench")
    from matplotlib.figure import Figure

    found = []
    for name, sketch in (("fusion", _draw_fusion), ("bytes", _draw_bytes)):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        if sketch(figure, rows, beam):
            path = folder / f"{name}.png"
            with atomic_write(path) as file:
                figure.savefig(file, format="png", dpi=120)
            found.append(path)
    return found


def _draw_fusion(figure: Any, rows: Sequence[Record], _: int) -> bool:
    axes = figure.subplots(1, 2, sharey=True)
    some = False
    for axis, model in zip(axes, ("float32", "int4"), strict=True):
        for kind in FUSIONS:
            own = select(rows, kind="words", test="target", model=model, fusion=kind)
            first = [row for row in own if row["seed"] == own[0]["seed"]]
            points = sorted((row["beam"], 100 * pooled([row]).rate) for row in first)
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=kind,
                          color=COLOURS[kind])  # fmt: skip
                some = True
        axis.set_xscale("log", base=2)
        ticks = sorted({row["beam"] for row in select(rows, kind="words", test="target")})
        axis.set_xticks(ticks, [f"{tick}" for tick in ticks])
        axis.minorticks_off()
        axis.set(title=model, xlabel="beam")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("errors of words in percent, target domain")
    axes[0].set_ylim(bottom=0)
    axes[1].legend(frameon=False, fontsize=8, loc="lower left")
    return some


def _draw_bytes(figure: Any, rows: Sequence[Record], beam: int) -> bool:
    axis = figure.subplots()
    places: list[float] = []
    for name, size in _sizes(rows):
        own = select(rows, kind="words", test="matched", fusion="none", beam=beam, model=name)
        if not own:
            continue
        rate, (low, high) = pooled(own).rate, pooled(own).interval()
        around = 100 * np.array([[rate - low], [high - rate]])
        near = sum(abs(place / size - 1) < 0.05 for place in places)
        places.append(size)
        x = size / 1000 * 1.12**near  # side by side
        axis.errorbar([x], [100 * rate], around, marker="o", capsize=3)
        axis.annotate(name, (x, 100 * high), xytext=(0, 4 + 10 * (near % 2)), ha="center",
                      textcoords="offset points", fontsize=8)  # fmt: skip
    axis.set_xscale("log")
    ticks = [tick for tick in (50, 100, 200, 500, 1000, 2000, 5000)
             if places and min(places) / 2e3 < tick < max(places) / 5e2]  # fmt: skip
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.margins(x=0.1)
    axis.set(xlabel="file, thousand bytes; those of one size stand side by side",
             ylabel="errors of words in percent")  # fmt: skip
    axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
    axis.grid(alpha=0.3)
    return bool(places)


def _sizes(rows: Sequence[Record]) -> Iterator[tuple[str, int]]:
    yield from {row["model"]: row["bytes"] for row in select(rows, kind="bytes")}.items()
