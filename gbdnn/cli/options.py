"""Types and groups of options that several commands have. Nothing heavy is imported here."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbdnn.errors import DataUnavailableError

__all__ = [
    "BACKEND", "COMPRESS", "FILE", "FOLDER", "JSON", "OUT", "THREADS", "Number", "TableChoice",
    "TableHint", "check_out", "data_options", "options", "plan_of", "run_options",
]  # fmt: skip

Command = Callable[..., Any]
if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:  # generic from click 8.4 on
    _Choice = click.Choice


class TableChoice(_Choice):
    """One of the names in a table, looked up when a value is given or help is shown.

    What is put into the table is therefore accepted and appears in the help.

    Parameters
    ----------
    module, attribute : str
        Where the table is: names, a mapping of them, or a function that returns either.
    *more : str
        Names besides.
    """

    case_sensitive = True

    def __init__(self, module: str, attribute: str, *more: str) -> None:
        self.module, self.attribute, self.more = module, attribute, more

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names there are now."""
        table = getattr(import_module(self.module), self.attribute)
        names: Iterable[Any] = table() if callable(table) else table
        return (*self.more, *map(str, sorted(names)))


class TableHint(TableChoice):
    """Text for which the help shows the names in a table; what uses the text checks it."""

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the text."""
        return str(value)


class Number(click.FloatRange):
    """A float range that refuses NaN and infinity too."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not finite.", param, ctx)
        return number


FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
OUT = click.Path(path_type=Path)
BACKEND = TableChoice("gbdnn.backends", "BACKENDS")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
COMPRESS = click.option("--compress", is_flag=True, help="Store codes as Huffman codes: smaller "
                        "files of INT4 and INT8 weights, the same results.")  # fmt: skip
THREADS = click.option("--threads", type=click.IntRange(1), help="Default: all cores.")


def options(*added: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds options; the help shows them in this order."""

    def add(command: Command) -> Command:
        for option in reversed(added):
            command = option(command)
        return command

    return add


def _first(context: Any, option: Any, zero: bool | None) -> int | None:
    return None if zero is None else 1 - zero


run_options = options(
    click.option("--backend", type=BACKEND, default="fused", show_default=True,
                 help="What computes."),
    THREADS,
    JSON,
)  # fmt: skip
data_options = options(
    click.option("--label", help="Column (name, or number from 0) or array of the labels."),
    click.option("--header/--no-header", default=None,
                 help="Whether a table's first line is a header; default: by its look."),
    click.option("--zero-based/--one-based", "first", default=None, callback=_first,
                 help="The number of the first feature in .svm; default: the model's, or 0 if that "
                 "occurs."),
)  # fmt: skip


def check_out(path: Path) -> None:
    """Raise before hours of work if a file could not be written afterwards."""
    folder = path.absolute().parent
    problem, fix = None, "Choose another."
    if path.is_dir():
        problem = "the name of a folder"
    elif not folder.is_dir():
        problem, fix = f"one in {folder}, which does not exist", f"Make it: mkdir -p {folder}"
    elif not os.access(folder, os.W_OK):
        problem = f"one in {folder}, where you may not write"
    if problem:
        raise DataUnavailableError(str(path), "a file that can be written", problem, fix)


def plan_of(text: str) -> Any:
    """Return a plan of quantization: its name, or what a JSON file holds.

    Raises
    ------
    UnknownNameError, DataUnavailableError, FileFormatError
    """
    from gbdnn.errors import choose
    from gbdnn.quantization import PLANS, QuantizationPlan

    if text.endswith(".json") or os.path.sep in text:
        return QuantizationPlan.load(text)
    return choose("plan", text, PLANS)
