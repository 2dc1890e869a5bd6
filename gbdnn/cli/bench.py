"""`gbdnn bench`: the benchmarks of a checkout; they are no part of the installed package."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import click

__all__ = ["ROOT", "load"]

ROOT = Path(__file__).resolve().parents[2]  # the checkout, if gbdnn is imported from one
MISSING = (
    "bench: expected the folder benchmarks of a checkout of gbdnn beside the package, got an "
    "installed package, which has none. Get the source, run pip install -e '.[bench]' in it, and "
    "call gbdnn bench again."
)


def load() -> click.Command:
    """Return the group `bench`; where there is no checkout a command that says how to get it.

    That command takes any arguments and ends with exit code 2.
    """
    if not (ROOT / "benchmarks" / "cli.py").is_file():
        settings = {"ignore_unknown_options": True, "allow_extra_args": True}
        return click.Command(
            "bench", callback=_explain, context_settings=settings, add_help_option=False
        )
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    group: click.Command = import_module("benchmarks.cli").bench
    return group


class _NoCheckout(click.ClickException):
    exit_code = 2


def _explain() -> None:
    raise _NoCheckout(MISSING)
