"""The table at the end of a sweep: a column per engine, with ratios to dense and torch-csr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.process import Record
from benchmarks.rounds import doubtful, grouped

__all__ = ["show", "text_of"]

REFERENCES = ("dense", "torch-csr")
NOTES = {
    "~": "the median is less certain than the spread that was asked for.",
    "!": "other programs were busy meanwhile; the time is not to be trusted.",
}


def show(records: Sequence[Record], *, wide: bool) -> None:
    """Print the records as a table on standard output.

    Parameters
    ----------
    records : sequence of dict
        See `benchmarks.sweep.sweep`.
    wide : bool
        Use as many columns as the table takes, as for a file.
    """
    engines = list(dict.fromkeys(record["engine"] for record in records))
    present = [name for name in REFERENCES if name in engines]
    heads = ["op", "size", "layers", "batch", "density"]
    heads += ["bias"] if {record["bias"] for record in records} != {"mixed"} else []
    rows = []
    for case, found in grouped(records, *heads).items():
        row = {record["engine"]: record for record in found}
        ok = [record for record in found if record["status"] == "ok"]
        fastest = min(ok, key=lambda record: float(record["seconds"]))["engine"] if ok else None
        times = [text_of(row.get(engine), row, present) for engine in engines]
        times = [f"[bold]{text}[/bold]" if engine == fastest else text
                 for engine, text in zip(engines, times, strict=True)]  # fmt: skip
        rows.append([*map(_plain, case), *times])
    table = Table(title="median time in ms", title_justify="left")
    for head in (*heads, *engines):
        table.add_column(head, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=66 + 26 * len(engines) if wide else None).print(table)
    for line in _notes(records, present):
        click.echo(line)


def text_of(record: Record | None, row: Mapping[str, Record], references: Sequence[str]) -> str:
    """Return time and ratios of one engine in one case."""
    if record is None:
        return ""
    if record["status"] != "ok":
        return str(record["status"])
    ratios = []
    for name in references:
        other = row.get(name)
        if other is None or other["status"] != "ok":
            ratios.append("-")
        else:
            ratios.append(f"{_short(other['seconds'] / record['seconds'], 2)}x")
    text = f"{doubtful(record)}{_short(record['seconds'] * 1e3, 3)}"
    return f"{text} ({' '.join(ratios)})" if ratios else text


def _notes(records: Sequence[Record], present: Sequence[str]) -> Iterator[str]:
    if present:
        yield f"In brackets: how many times as fast as {' and '.join(present)}."
    shown = "".join(doubtful(record) for record in records if record["status"] == "ok")
    yield from (f"{sign}: {meaning}" for sign, meaning in NOTES.items() if sign in shown)
    for record in records:
        if record["status"] != "ok":
            where = f"{record['engine']} at size {record['size']}, density {record['density']:.3g}"
            yield f"{record['status']}: {where}, batch {record['batch']}: {record['reason']}"


def _plain(value: Any) -> str:
    return _short(value, 3) if isinstance(value, float) else str(value)


def _short(number: float, digits: int) -> str:
    """Return so many significant digits without an exponent where that is readable."""
    if number >= 10**digits:
        return f"{number:,.0f}"
    text = f"{number:.{digits}g}"
    return f"{number:.6f}".rstrip("0") if "e" in text and number >= 1e-5 else text
