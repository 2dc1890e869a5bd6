"""The worker threads: one pool for the process, kept between calls, made anew after fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["apart", "share"]

Item = TypeVar("Item")
Found = TypeVar("Found")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


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
    pool = _workers(helpers)
    futures = [pool.submit(drain) for _ in range(helpers)]
    try:
        drain()
    finally:
        for _ in waiting:  # nothing is left to take, also after an exception
            pass
        stopped.set()
        for future in futures:
            if not future.cancel():
                future.exception()
    for future in futures:
        if not future.cancelled():
            future.result()
    return [results[number] for number, _ in numbered]


def apart(task: Callable[[], None], on_interrupt: Callable[[], None]) -> None:
    """Run `task` in another thread while this one, the main thread, only waits.

    For libraries in which a KeyboardInterrupt could be lost. When one comes, `on_interrupt` is
    called, which makes the task end soon; it is raised when the task has ended. An exception of the
    task is raised here. In any other thread, where no interrupt arrives, the task just runs.
    """
    if threading.current_thread() is not threading.main_thread():
        task()
        return
    raised: list[BaseException] = []

    def run() -> None:
        try:
            task()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="gbdnn-apart")
    thread.start()
    interrupted = None
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt as error:
            interrupted = error
            on_interrupt()
    if interrupted is not None:
        raise interrupted
    if raised:
        raise raised[0]


def _workers(count: int) -> ThreadPoolExecutor:
    """Return a pool with at least `count` threads."""
    global _pool, _size
    with _lock:
        if _pool is None or _size < count:
            _pool, _size = ThreadPoolExecutor(count, "gbdnn-worker"), count
        return _pool


def _forget() -> None:
    """In a forked child the parent's threads do not exist."""
    global _lock, _pool, _size
    _lock, _pool, _size = threading.Lock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
