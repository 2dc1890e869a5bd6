"""What commands print: JSON or rows on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["echo_json", "echo_rows", "printable"]


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


def printable(text: str) -> str:
    """Return a text from a file without what could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
