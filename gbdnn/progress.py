"""Progress on standard error: a bar on a terminal, else a line of plain text now and then.

rich is imported when something is shown. Nothing here changes what is computed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

from gbdnn.errors import DtypeError

__all__ = ["Advance", "bar", "shown", "steps_bar"]

Advance = Callable[[int], None]
SECONDS = 15  # between two lines
_NOTHING: AbstractContextManager[None] = nullcontext()


@contextmanager
def bar(label: str, total: int) -> Iterator[Advance]:
    """Show how much is done while inside; yields a function that counts, for any thread."""
    with _shown(label, total, 0, "TaskProgressColumn") as update:
        lock, done = threading.Lock(), 0

        def advance(more: int) -> None:
            nonlocal done
            with lock:
                done += more
                update(label, done)

        yield advance


def shown(label: str, total: int, progress: Any) -> AbstractContextManager[Advance | None]:
    """Return what `progress` asks for: True is a bar, a callable itself, False nothing."""
    if progress is False:
        return _NOTHING
    if progress is True:
        return bar(label, total)
    if not callable(progress):
        raise DtypeError("progress", "True, False or a callable", repr(progress))
    return nullcontext(progress)


@contextmanager
def steps_bar(text: str, total: int | None, done: int) -> Iterator[Callable[[str, int], None]]:
    """Show steps while inside; yields a function that sets the text and the steps done.

    Without `total` it is not known how much is left.
    """
    with _shown(text, total, done, "MofNCompleteColumn") as update:
        yield update


@contextmanager
def _shown(
    text: str, total: int | None, done: int, column: str
) -> Iterator[Callable[[str, int], None]]:
    from rich.console import Console

    console = Console(stderr=True)
    if not (console.is_interactive or console.is_jupyter):
        lines = _Lines(total, done)
        try:
            yield lines.update
        finally:
            lines.write()
        return
    from rich import progress

    names = (column, "TimeElapsedColumn", "TimeRemainingColumn")
    columns = [progress.TextColumn("{task.description}", markup=False), progress.BarColumn()]
    columns += [getattr(progress, name)() for name in names]
    own = sys.stdout.isatty()  # what a callback prints into a file stays there
    with progress.Progress(*columns, console=console, redirect_stdout=own) as shown:
        task = shown.add_task(text, total=total, completed=done)
        yield lambda text, done: shown.update(task, description=text, completed=done)


class _Lines:
    """Writes a line when `SECONDS` have passed since the last one; `write` at the end the rest.

    The time left follows from what the steps so far took.
    """

    def __init__(self, total: int | None, done: int) -> None:
        self.total, self.first = total, done
        self.begin = self.last = time.monotonic()
        self.news = self.written = ("", done)

    def update(self, text: str, done: int) -> None:
        """Take the news; write them if it is time."""
        self.news = (text, done)
        if time.monotonic() - self.last >= SECONDS:
            self.write()

    def write(self) -> None:
        """Write the last news, unless they were written."""
        self.last = time.monotonic()
        if self.news != self.written:
            print(f"{self.news[0]}{self._course()}", file=sys.stderr, flush=True)
        self.written = self.news

    def _course(self) -> str:
        """Return ", 40%, 12.0 s, about 18.0 s left"."""
        spent, done = self.last - self.begin, self.news[1]
        parts = [_duration(spent)]
        if self.total:
            parts.insert(0, f"{done / self.total:.0%}")
            if self.first < done < self.total:
                left = spent / (done - self.first) * (self.total - done)
                parts.append(f"about {_duration(left)} left")
        return "".join(f", {part}" for part in parts)


def _duration(seconds: float) -> str:
    """Return "12.3 s", or "1:02:03" from a minute on."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
