"""A thread in which the matrices of prepared weights are freed.

Whoever drops a network does so in some thread, mostly the main one. There python-graphblas's
`__del__` would run, and a KeyboardInterrupt that arrives in a `__del__` is lost.
"""

from __future__ import annotations

import os
import threading
import weakref
from queue import SimpleQueue
from typing import Any

__all__ = ["free_apart"]


class _Owned(weakref.ref[Any]):
    """Keeps matrices until the thread has taken note that their owner is gone."""

    __slots__ = ("matrices",)
    matrices: tuple[Any, ...]


class _Freeing:
    def __init__(self) -> None:
        self.alive: set[_Owned] = set()
        self.dropped: SimpleQueue[_Owned] = SimpleQueue()
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def run(self) -> None:
        while True:
            self.alive.discard(self.dropped.get())

    def start(self) -> None:
        with self.lock:
            if self.thread is None:
                thread = threading.Thread(target=self.run, name="gbdnn-worker-frees", daemon=True)
                thread.start()
                self.thread = thread


_freeing = _Freeing()


def free_apart(owner: Any, *matrices: Any) -> None:
    """Keep matrices as long as `owner` lives; then another thread frees them."""
    _freeing.start()
    owned = _Owned(owner, _freeing.dropped.put)  # compiled code: no interrupt arrives in it
    owned.matrices = matrices
    _freeing.alive.add(owned)


def _forget() -> None:
    """In a forked child the thread does not exist; what the parent made stays."""
    global _freeing
    _freeing = _Freeing()


os.register_at_fork(after_in_child=_forget)
