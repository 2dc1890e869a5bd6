"""The worker threads: pools that are kept between calls, and made anew after fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

__all__ = ["apart", "share", "sharing_on"]

Item = TypeVar("Item")
Found = TypeVar("Found")

_lock = threading.Lock()
_pools: dict[str, tuple[ThreadPoolExecutor, int]] = {}
_others = threading.local()


@contextmanager
def sharing_on(run: Callable[[Callable[[], None], int], None]) -> Iterator[None]:
    """Let `share` in this thread use threads of somebody else.

    Another library's threads may watch for work on the cores that the pool's would need.

    Parameters
    ----------
    run : callable
        ``run(task, count)`` calls ``task()`` on `count` threads, this one among them, and returns
        when all have ended. A task raises nothing.
    """
    before, _others.run = getattr(_others, "run", None), run
    try:
        yield
    finally:
        _others.run = before


def share(task: Callable[[Item], Found], items: Iterable[Item], threads: int) -> list[Found]:
    """Return ``[task(item) for item in items]``, computed by this thread and threads - 1 workers.

    Whoever is free takes the next item. This thread works too: waking another one costs 50 us and
    more, so short work is done before the workers come. An exception, also a KeyboardInterrupt in
    this thread, stops the handing out of items; it is raised when no worker is inside `task` any
    more.
    """
    numbered = list(enumerate(items))
    if threads == 1 or len(numbered) < 2:
        return [task(item) for _, item in numbered]
    results: dict[int, Found] = {}
    waiting = iter(numbered)  # next() is atomic: all take from the same iterator
    stopped = threading.Event()

    def drain() -> None:
        for number, item in waiting:
            if stopped.is_set():
                return
            try:
                results[number] = task(item)
            except BaseException:
                stopped.set()
                raise

    helpers = min(threads, len(numbered)) - 1
    run = getattr(_others, "run", None)
    if run is not None:
        errors: list[BaseException] = []

        def drain_apart() -> None:
            try:
                drain()
            except BaseException as error:
                errors.append(error)

        run(drain_apart, helpers + 1)
        if errors:
            raise errors[0]
        return [results[number] for number, _ in numbered]
    futures: list[Future[None]] = []
    try:
        with suppress(RuntimeError):  # no more threads: at exit, or above a limit
            for _ in range(helpers):
                futures.append(_submit("gbdnn-worker", helpers, drain))  # noqa: PERF401
        drain()
    except BaseException:
        stopped.set()  # only now: a worker may have taken the last item without having begun it
        raise
    finally:
        for _ in waiting:  # nothing is left to take, also after an exception
            pass
        for future in futures:
            if not future.cancel():
                future.exception()
    for future in futures:
        if not future.cancelled():
            future.result()
    return [results[number] for number, _ in numbered]


def apart(task: Callable[[], Found], on_interrupt: Callable[[], None] = lambda: None) -> Found:
    """Return ``task()``, computed by another thread while this one, the main thread, only waits.

    For libraries in which a KeyboardInterrupt could be lost, or leave something half made, as in an
    import. When one comes, `on_interrupt` is called, which may make the task end soon; the
    interrupt is raised when the task has ended. An exception of the task is raised here. In any
    other thread, where no interrupt arrives, the task just runs; also where no thread can be had.
    """
    if threading.current_thread() is not threading.main_thread():
        return task()
    results: list[Found] = []
    errors: list[BaseException] = []
    interrupted = threading.Event()
    taken, ended = threading.Lock(), threading.Lock()
    ended.acquire()

    def run() -> None:
        if not taken.acquire(False):  # it was handed out twice
            return
        try:
            if interrupted.is_set():
                raise KeyboardInterrupt
            results.append(task())
        except BaseException as error:
            errors.append(error)
        ended.release()

    def wait() -> None:
        try:
            _submit("gbdnn-worker-apart", 1, run)
        except RuntimeError:  # no more threads: at exit, or above a limit
            run()
        while not results and not errors:
            ended.acquire(timeout=1)  # wakes at once when the task ends

    try:
        wait()
    except BaseException:
        interrupted.set()
        while not results and not errors:
            with suppress(KeyboardInterrupt):  # another one
                on_interrupt()
                wait()  # hands out again, as the first time may have been interrupted
        raise
    if errors:
        raise errors.pop()
    return results[0]


def _submit(name: str, count: int, task: Callable[[], None]) -> Future[Any]:
    """Hand a task to the pool of that name, which has at least `count` threads."""
    with _lock:
        pool, size = _pools.get(name, (None, 0))
        if pool is None or size < count:
            pool = ThreadPoolExecutor(count, name)
            _pools[name] = pool, count
    return pool.submit(task)


def _forget() -> None:
    """In a forked child the parent's threads do not exist."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


os.register_at_fork(after_in_child=_forget)
