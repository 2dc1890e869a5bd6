"""What commands print: JSON or rows on standard output, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import click

from gbdnn.progress import Advance, bar

__all__ = ["echo_json", "echo_rows", "progress"]


def echo_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    click.echo(json.dumps(record))


def echo_rows(title: str, rows: Mapping[str, str]) -> None:
    """Print a title and rows: on a terminal as a table, else as aligned plain text."""
    if not sys.stdout.isatty():
        width = max(map(len, rows))
        lines = [title, *(f"  {key.ljust(width)}  {value}" for key, value in rows.items())]
        click.echo("\n".join(lines))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(Text(key), Text(value))
    Console().print(table)


def progress(label: str, total: int) -> AbstractContextManager[Advance]:
    """Return a progress bar; nothing is shown where standard error is not a terminal."""
    return bar(label, total, disable=not sys.stderr.isatty())
