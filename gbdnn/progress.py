"""Progress bars on standard error; rich is imported when one is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Advance", "bar", "steps_bar"]

Advance = Callable[[int], None]


@contextmanager
def bar(label: str, total: int, *, disable: bool = False) -> Iterator[Advance]:
    """Show a bar while inside; yields a function, callable from any thread, that moves it."""
    with _bar("TaskProgressColumn", "TimeElapsedColumn", disable=disable) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.advance(task, done)


@contextmanager
def steps_bar(text: str, total: int | None, done: int) -> Iterator[Callable[[str, int], None]]:
    """Show a bar of steps while inside; yields a function that sets its text and the steps done.

    Without `total` it is not known how much is left, and the bar only shows that something moves.
    """
    with _bar("MofNCompleteColumn", "TimeRemainingColumn") as progress:
        task = progress.add_task(text, total=total, completed=done)
        yield lambda text, done: progress.update(task, description=text, completed=done)


def _bar(*columns: str, disable: bool = False) -> Any:
    """Return rich's bar with a text before it and columns behind it."""
    from rich import progress
    from rich.console import Console

    parts = [progress.TextColumn("{task.description}"), progress.BarColumn()]
    parts += [getattr(progress, name)() for name in columns]
    return progress.Progress(*parts, console=Console(stderr=True), disable=disable)
