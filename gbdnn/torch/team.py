"""torch's OpenMP threads for gbdnn's work.

Behind each of its operations they watch for the next one, for some milliseconds, on the cores that
threads of gbdnn would need: a training step at 98 % took 1.7 times as long. So the products of a
`SparseLinear` are computed by these threads themselves.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from gbdnn.backends.workers import sharing_on

__all__ = ["torchs_threads"]

_Task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def torchs_threads() -> AbstractContextManager[None]:
    """Let gbdnn compute on torch's threads within a `with`; where there are none, on its own."""
    return nullcontext() if _forked or _parallel() is None else sharing_on(_run)


def _run(task: Callable[[], None], count: int) -> None:
    """Call a task on `count` of torch's threads, this one among them."""
    ended: list[None] = []

    def enter(_: Any) -> None:
        task()
        ended.append(None)

    _parallel()(_Task(enter), None, count, 0)
    if len(ended) < count:  # ctypes drops an interrupt that comes between it and the task
        raise KeyboardInterrupt


@cache
def _parallel() -> Any:
    """Return libgomp's `GOMP_parallel`, or None."""
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        if library["user_api"] == "openmp" and "torch" in library["filepath"]:
            found = getattr(ctypes.CDLL(library["filepath"]), "GOMP_parallel", None)
            if found is not None:
                found.argtypes = [_Task, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
                found.restype = None
            return found
    return None


def _forget() -> None:
    """In a forked child libgomp would wait for threads that do not exist."""
    global _forked
    _forked = True


_forked = False
os.register_at_fork(after_in_child=_forget)
