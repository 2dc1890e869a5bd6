"""Groups of commands that are imported when they are called."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group of the commands in a table; its help reads the table only.

    Parameters
    ----------
    table : dict
        Name: module, a click command in it or a function that returns one, and a line of help.
    """

    def __init__(self, *, table: Mapping[str, tuple[str, str, str]], **settings: Any) -> None:
        super().__init__(**settings)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return sorted(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command."""
        if cmd_name not in self.table:
            return None
        module, attribute, _ = self.table[cmd_name]
        found: Any = getattr(import_module(module), attribute)
        command: click.Command = found if isinstance(found, click.Command) else found()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands' lines of help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.table[name][2]) for name in self.list_commands(ctx)])
