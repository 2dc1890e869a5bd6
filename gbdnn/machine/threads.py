"""Threads: how many to use, and limits of others, BLAS's among them."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from gbdnn.errors import InputError
from gbdnn.machine import cgroups
from gbdnn.machine.locks import wait_at_fork

__all__ = ["available_cores", "check_threads", "default_threads", "limited_blas"]

VARIABLES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
BUILT_FOR = 64  # threads: numpy's OpenBLAS never makes more, so that only fewer are a limit
NONE = 1 << 30  # no limit


def available_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Return how many threads to use where nobody has said it.

    The fewest of: the cores that the process may run on; the cores whose time control groups
    allow, and the environment's OMP_NUM_THREADS and NUMBA_NUM_THREADS, all as they were when they
    were first asked for; the limit that `threadpoolctl.threadpool_limits` has set for OpenBLAS.
    """
    return min(available_cores(), _declared(), _blas.allowed())


def check_threads(threads: Any) -> int:
    """Return a usable thread count: for None `default_threads`.

    A number above the cores is cut to them with a warning; other limits are for the default.
    """
    if threads is None:
        return default_threads()
    cores = available_cores()
    if isinstance(threads, bool) or not hasattr(threads, "__index__") or int(threads) < 1:
        raise InputError("threads", f"a whole number from 1 to {cores}, or None", repr(threads))
    if int(threads) > cores:
        message = f"threads: {threads} asked for, but this process has {cores} cores; using {cores}"
        warnings.warn(message, stacklevel=3)
    return min(int(threads), cores)


@contextmanager
def limited_blas(threads: int) -> Iterator[None]:
    """Keep BLAS on `threads` threads for calls from this thread.

    For most libraries this is a setting of the process: the first user makes it, the last undoes
    it, and nested or overlapping users share the first one's. Limits that each saved and restored
    on its own would leave the process at 1 thread when two predictions overlap.
    """
    before = _blas.enter(threads)
    try:
        yield
    finally:
        _blas.leave(before)


class _Blas:
    """The limits of numpy's BLAS, and of others that were loaded when it was first looked for."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.users: list[int] = []  # thread of each
        self.before: list[int] = []

    def enter(self, threads: int) -> list[int]:
        """Limit BLAS; return what `leave` needs."""
        with self.lock:  # fork waits for it, and so for the import in `_libraries`
            own, shared = _libraries()
            before = [library.num_threads for library in own]
            if not self.users:
                self.before = [library.num_threads for library in shared]
            self.users.append(threading.get_ident())  # before anything is limited: see `allowed`
            if len(self.users) == 1:
                _limit(shared, [threads] * len(shared))
        _limit(own, [threads] * len(own))
        return before

    def leave(self, before: list[int]) -> None:
        own, shared = _libraries()
        _limit(own, before)
        with self.lock:
            if len(self.users) == 1:
                _limit(shared, self.before)
            self.users.remove(threading.get_ident())

    def allowed(self) -> int:
        """Return the number of threads that others leave to OpenBLAS, or NONE."""
        free = not self.users
        numbers = [read() for _, read in _readers()]
        if self.users or not free:  # they limit and restore only while they are among the users
            with self.lock:
                numbers = [
                    self.before[place] if self.users and place is not None else read()
                    for place, read in _readers()
                ]
        number = min(numbers, default=NONE)
        return number if number < BUILT_FOR else NONE

    def forget_others(self) -> None:
        """In a forked child only this thread is left."""
        others = set(self.users) - {threading.get_ident()}
        self.users = [user for user in self.users if user not in others]
        if others and not self.users:
            _limit(_libraries()[1], self.before)


def _limit(libraries: list[Any], numbers: list[int]) -> None:
    """Set the thread counts of libraries, in the name of whichever thread this is."""
    for library, number in zip(libraries, numbers, strict=True):
        # threadpoolctl lets only the thread that came first set OpenBLAS's limit, for good, and
        # ignores others in silence: so take that right, and give it up again
        release = getattr(library, "clear_controlling_thread", None)
        if release is not None:
            release(force=True)
        library.set_num_threads(number)
        if release is not None:
            release()


@cache
def _libraries() -> tuple[list[Any], list[Any]]:
    """Return the BLAS libraries whose limits hold for a thread, and for the process."""
    import numpy  # noqa: F401  # with its BLAS
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(user_api="blas").lib_controllers
    own = [each for each in found if getattr(each, "threading_layer", "") == "openmp"]
    return own, [each for each in found if each not in own]


@cache
def _readers() -> list[tuple[int | None, Callable[[], int]]]:
    """Return what tells OpenBLAS's limits, and which of the shared libraries each belongs to.

    Its own function where it is known: `num_threads` takes four times as long.
    """
    with _blas.lock:  # fork waits for it, and so for the import
        own, shared = _libraries()
    found: list[tuple[int | None, Callable[[], int]]] = []
    for place, library in enumerate(shared):
        if library.internal_api == "openblas":  # MKL's default is not the number of cores
            symbols = (getattr(library.dynlib, name, None) for name in library.check_symbols)
            found.append((place, next(filter(None, symbols), library.get_num_threads)))
    return [*found, *((None, library.get_num_threads) for library in own)]


@cache
def _declared() -> int:
    """Return what control groups and the environment allow; reading that takes 100 us."""
    found = [cgroups.cpus() or NONE]
    for name in VARIABLES:
        text = os.environ.get(name, "").split(",")[0].strip()  # OpenMP: one for each level
        if text.isdecimal() and int(text):
            found.append(int(text))
    return min(found)


_blas = _Blas()
wait_at_fork(_blas.lock)
os.register_at_fork(after_in_child=_blas.forget_others)
