"""Chunks of rows on a pool: a bounded number under way, those of dead workers done again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from typing import Any

from gbdnn.distributed.executors import Pool
from gbdnn.errors import GbdnnError, WorkerError

__all__ = ["AGAIN", "Given", "completed", "joined"]

AHEAD = 2  # chunks under way for each slot: one is computed, one waits there
TIMES = 3  # that a chunk may lose its worker
Span = tuple[int, int]
AGAIN: Any = object()
"""What `accept` returns for a chunk that is to be given out again."""
Given = Callable[[int], Future[Any]]


def completed(
    pool: Pool,
    spans: Sequence[Span],
    give: Given,
    *,
    accept: Callable[[int, Any], Any] = lambda k, result: result,
    held: Callable[[], list[int]] = list,
    lost: Callable[[], None] = lambda: None,
    ahead: int | None = None,
    ordered: bool = True,
) -> Iterator[tuple[int, Any]]:
    """Give out chunks and yield (number, result) of each.

    Parameters
    ----------
    pool : Pool
    spans : sequence of (start, stop)
        The rows of each chunk, for messages.
    give : callable
        Submits a chunk by its number, perhaps not for the first time.
    accept : callable
        Gets number and result; returns what is to be yielded, AGAIN for a chunk that is to be given
        out again at once, or None for one that `held` will return later.
    held : callable
        Asked after each result for chunks that are to be given out again now.
    lost : callable
        Called when workers died, before their chunks are given out again.
    ahead : int, optional
        Chunks under way, or done and not yet yielded; default two for each slot.
    ordered : bool
        Yield in the order of the rows; else as they are done.

    Raises
    ------
    WorkerError
        If workers died and the pool can neither replace them nor do their chunks again.
    """
    most = AHEAD * pool.slots if ahead is None else ahead
    course, ready, turn = _Course(pool, spans, give, lost), dict[int, Any](), 0
    try:
        while len(course.done) < len(spans):
            course.fill(most - len(ready))
            for k, answer in course.answers():
                result = accept(k, answer)
                if result is AGAIN:
                    course.submit(k)
                elif result is None:
                    course.held += 1
                else:
                    ready[k] = result
                    course.done.add(k)
            for k in held():
                course.held -= 1
                course.submit(k)
            for k in sorted(ready):
                if ordered and k != turn:
                    break
                turn += 1
                yield k, ready.pop(k)
    finally:
        for future in course.under_way:
            future.cancel()


class _Course:
    """Which chunks are under way, which are done, and how often each has lost its worker."""

    def __init__(
        self, pool: Pool, spans: Sequence[Span], give: Given, lost: Callable[[], None]
    ) -> None:
        self.pool, self.spans, self.give, self.lost = pool, spans, give, lost
        self.under_way: dict[Future[Any], int] = {}
        self.done: set[int] = set()
        self.losses = [0] * len(spans)
        self.first = 0  # chunk that was not given out yet
        self.held = 0  # chunks that wait for something

    def submit(self, k: int) -> None:
        """Give out a chunk."""
        self.under_way[self.give(k)] = k

    def fill(self, most: int) -> None:
        """Give out further chunks until so many are under way."""
        while self.first < len(self.spans) and len(self.under_way) + self.held < most:
            try:
                self.submit(self.first)
            except BrokenExecutor as error:  # what is under way, if anything, will tell
                if self.under_way:
                    return
                self._recover(error, [])
            else:
                self.first += 1

    def answers(self) -> Iterator[tuple[int, Any]]:
        """Wait, and yield numbers and results; chunks of dead workers are given out again."""
        finished, _ = wait(self.under_way, return_when=FIRST_COMPLETED)
        broken, cause = list[int](), None
        for future in finished:
            k = self.under_way.pop(future)
            try:
                answer = future.result()
            except (*self.pool.rerun, *self.pool.lost) as error:
                broken.append(k)
                cause = error
                continue
            except GbdnnError as error:
                raise _placed(error, self.spans[k]) from None
            yield k, answer
        if cause is not None:
            self._recover(cause, broken)

    def _recover(self, error: BaseException, broken: list[int]) -> None:
        """Give out chunks again that lost their workers.

        Raises
        ------
        WorkerError
            If that cannot be done, or was done often.
        """
        again = isinstance(error, self.pool.rerun)
        if isinstance(error, BrokenExecutor):  # all that was under way is lost
            broken = [*broken, *self.under_way.values()]
            self.under_way.clear()
            again = self.pool.remake()
        for k in broken:
            self.losses[k] += 1
            again = again and self.losses[k] < TIMES
        rows = joined(self.spans[k] for k in broken)
        if not again:
            raise _lost(error, joined(self.spans[k] for k in self.done), rows) from error
        self.lost()
        if rows:
            text = ", ".join(f"{start} to {stop}" for start, stop in rows)
            warnings.warn(f"executor: a worker died; rows {text} are done again", stacklevel=5)
        for k in broken:
            self.submit(k)


def _lost(error: BaseException, done: Sequence[Span], rows: Sequence[Span]) -> WorkerError:
    spoken = ", ".join(f"{start} to {stop}" for start, stop in done) or "none"
    lost = ", ".join(f"{start} to {stop}" for start, stop in rows)
    got = f"{type(error).__name__}" + (f" at rows {lost}" if lost else "")
    fix = (
        f"Rows done: {spoken}. Make a new executor and go on with the others, or pass a function "
        "that makes one, or 'processes:4': then it is replaced."
    )
    return WorkerError("executor", "workers that live", got, fix, done=done)


def joined(spans: Any) -> list[Span]:
    """Return ranges in order, neighbours as one."""
    found: list[Span] = []
    for start, stop in sorted(spans):
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found


def _placed(error: GbdnnError, span: Span) -> GbdnnError:
    """Let the error of a chunk say which rows it is about."""
    if error.argument == "X":
        error.argument = f"X[{span[0]}:{span[1]}]"
    return error
