"""The table at the end of a sweep: a column per engine, with ratios to dense and torch-csr."""

from __future__ import annotations

from typing import Any

from benchmarks import cells

__all__ = ["show", "text_of"]

REFERENCES = ("dense", "torch-csr")


def show(records: list[dict[str, Any]], *, wide: bool) -> None:
    """Print the records as a table on standard output.

    Parameters
    ----------
    records : list of dict
        See `benchmarks.harness`.
    wide : bool
        Use as many columns as the table takes, as for a file.
    """
    from rich.console import Console
    from rich.table import Table

    engines = list(dict.fromkeys(record["engine"] for record in records))
    present = [name for name in REFERENCES if name in engines]
    heads = ["op", "size", "layers", "batch", "density"]
    table = Table(title="median time in ms", title_justify="left")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for engine in engines:
        table.add_column(engine, justify="right", overflow="fold")
    for case, row in _cases(records).items():
        fastest = min(
            (each for each in row.values() if each["status"] == "ok"),
            key=lambda each: float(each["seconds"]), default=None,
        )  # fmt: skip
        times = []
        for engine in engines:
            text = text_of(row.get(engine), row, present)
            best = fastest is not None and fastest["engine"] == engine
            times.append(f"[bold]{text}[/bold]" if best else text)
        table.add_row(*map(_plain, case), *times)
    console = Console(width=60 + 26 * len(engines)) if wide else Console()
    console.print(table)
    if present:
        console.print(f"In brackets: how many times as fast as {' and '.join(present)}.")
    _explain(records, console)


def text_of(
    record: dict[str, Any] | None, row: dict[str, dict[str, Any]], references: list[str]
) -> str:
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
    marks = ("~" if record["spread"] > record["spread_target"] else "") + (
        "!" if record["others_busy"] > cells.DISTURBED else ""
    )
    text = f"{marks}{_short(record['seconds'] * 1e3, 3)}"
    return f"{text} ({' '.join(ratios)})" if ratios else text


def _cases(records: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
    cases: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for record in records:
        case = tuple(record[name] for name in ("op", "size", "layers", "batch", "density"))
        cases.setdefault(case, {})[record["engine"]] = record
    return cases


def _explain(records: list[dict[str, Any]], console: Any) -> None:
    if any(r["status"] == "ok" and r["spread"] > r["spread_target"] for r in records):
        console.print("~: the median is less certain than the spread that was asked for.")
    if any(r["status"] == "ok" and r["others_busy"] > cells.DISTURBED for r in records):
        console.print("!: other programs were busy meanwhile; the time is not to be trusted.")
    for record in records:
        if record["status"] != "ok":
            where = f"{record['engine']} at size {record['size']}, density {record['density']:.3g}"
            message = f"{record['status']}: {where}, batch {record['batch']}: {record['reason']}"
            console.print(message, markup=False, highlight=False)


def _plain(value: Any) -> str:
    return _short(value, 3) if isinstance(value, float) else str(value)


def _short(number: float, digits: int) -> str:
    """Return so many significant digits without an exponent where that is readable."""
    if number >= 10**digits:
        return f"{number:,.0f}"
    text = f"{number:.{digits}g}"
    return f"{number:.6f}".rstrip("0") if "e" in text and number >= 1e-5 else text
