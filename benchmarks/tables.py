"""Tables in Markdown and on the terminal, and the line that says where they were measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.process import Record

__all__ = ["markdown", "origin", "terminal", "write"]


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 0) -> str:
    """Return a Markdown table; the first `left` columns are aligned left, the others right."""
    rule = ["---"] * left + ["--:"] * (len(heads) - left)
    lines = [f"| {' | '.join(row)} |" for row in (heads, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]]) + "\n"


def terminal(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, width: int | None = None
) -> None:
    """Print a table on standard output, all columns aligned right; in `width` characters."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=width).print(table)


def origin(record: Record) -> str:
    """Return threads, machine and versions of a record, as the end of a sentence."""
    here = record["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return (
        f"{record['threads']} threads; {here['processor']}, {here['cores']} cores, "
        f"{', '.join(here['vectors'])}; {packages}."
    )


def write(out: Path, name: str, text: str, result: Any = None) -> None:
    """Write ``name.md`` and, of a `result`, ``name.json``; each whole or not at all."""
    from gbdnn.files.disk import atomic_write

    files = {f"{name}.md": text}
    if result is not None:
        files[f"{name}.json"] = json.dumps(result, indent=1)
    for file_name, content in files.items():
        with atomic_write(out / file_name) as file:
            file.write(content.encode())
