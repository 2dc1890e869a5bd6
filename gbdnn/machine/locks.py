"""Locks and fork: a child has only the thread that forked, so nobody in it releases others' locks.

Two kinds. What is whole between any two steps is guarded by a lock of `lock_of`, which is free in a
child. What would be left half made, such as imports and the compiler's state, is guarded by
`starting`: fork waits until no thread is inside.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  # it and logging take locks at a fork: after ours
import logging  # noqa: F401
import os
import threading
import weakref
from typing import Any

__all__ = ["lock_of", "starting", "wait_at_fork"]

PATIENCE = 60  # seconds: compiling everything takes 10 to 20


def lock_of(owner: Any) -> threading.Lock:
    """Return a lock for the attribute `_lock` of `owner`, which gets a new one in a forked child.

    No class around it: an interrupt between two lines of its own would leave the lock taken.
    """
    _owners.add(owner)
    return threading.Lock()


def wait_at_fork(*locks: Any) -> None:
    """Let every fork take these locks (which have `acquire`), after those that were named before.

    It goes on without a lock that it does not get in PATIENCE seconds: who has it may wait for
    something that the forking thread has.
    """
    _waited_for.extend(locks)


def _before() -> None:
    for lock in _waited_for:  # it may grow meanwhile: whoever is waited for may be importing
        if any(lock.acquire(timeout=1) for _ in range(PATIENCE)):  # time asleep does not count
            _taken.append(lock)  # noqa: PERF401


def _after() -> None:
    while _taken:
        _taken.pop().release()


def _after_in_child() -> None:
    for owner in list(_owners):
        owner._lock = threading.Lock()
    _after()


_owners: weakref.WeakSet[Any] = weakref.WeakSet()
_waited_for: list[Any] = []
_taken: list[Any] = []
starting = threading.RLock()
"""For imports of backends and for compilation: by one thread at a time, in no child half done."""
wait_at_fork(starting)
os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
