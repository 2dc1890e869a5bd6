"""Helpers that share short compiled jobs: awake between calls, absent without harm.

Waking a thread takes 50 us and more, as long as a small network takes altogether. A helper
therefore stays in compiled code, without the GIL, and watches a word of memory for a while after
each job (as OpenMP's threads do), then sleeps. A job is a row of *phases* of *blocks*. Whoever
takes part takes blocks by atomic counters, first those of its own share, which stay in its core's
caches from call to call, then those of others. Nobody waits for a thread, only for blocks that a
thread has taken: if another program has the second core, the caller does all blocks itself.

A job is an int64 vector, 64-byte aligned: words as below, then counters, each on a cache line of
its own: for each phase one for each participant's share and one for the blocks that are done.
"""

# mypy: disable-error-code="attr-defined,call-arg,call-overload,no-untyped-def,var-annotated"
# numba's own annotations do not know what compiled code may do.

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray, int64, njit

from gbdnn.backends.base import aligned_empty
from gbdnn.backends.fused.instructions import add, call, fetch, pause, pointer, put
from gbdnn.backends.fused.kernels import jit

__all__ = [
    "BAD", "BLOCKS", "FUNCTION", "PARTS", "PHASES", "WORDS", "YIELD", "address_of",
    "await_phase", "finished", "inner", "perform", "prepare", "take", "words_of",
]  # fmt: skip

Array = npt.NDArray[Any]
FUNCTION = 0  # address of `void participate(job, me)`
PHASES = 1
BLOCKS = 2  # in each phase
PARTS = 3  # participants, the caller included
YIELD = 4  # address of a function that lets other threads run, or 0
BAD = 40  # not zero: blocks are only counted from now on; on a line of its own
WORDS = 48  # before the counters
LINE = 8  # words
SPINS = 500  # looks before a waiting thread lets others run
AWAKE = 300e-6  # seconds that a helper watches for the next job
LONG = 150e-6  # seconds of a job for which a sleeping helper is woken at once
# A helper's words: the job (low six bits: a running number), the job it is in, whether it sleeps
JOB, INSIDE, ASLEEP = 0, LINE, LINE + 1
MAIL = 2 * LINE


inner = njit(nogil=True)  # a part of a cached function: with a cache of its own it could be stale


def words_of(phases: int, parts: int) -> int:
    """Return the length of a job."""
    return WORDS + LINE * phases * (parts + 1)


def address_of(array: Array) -> int:
    """Return where the data of an array begins."""
    return int(array.__array_interface__["data"][0])


@inner
def _counter(job, phase, part):
    parts = carray(pointer(job), WORDS, int64)[PARTS]
    return job + 8 * (WORDS + LINE * (phase * (parts + 1) + part))


@inner
def take(job, phase, me):
    """Return a block that nobody has taken, or -1."""
    word = carray(pointer(job), WORDS, int64)
    parts, blocks = word[PARTS], word[BLOCKS]
    for k in range(parts):
        part = (me + k) % parts
        first = part * blocks // parts
        size = (part + 1) * blocks // parts - first
        counter = _counter(job, phase, part)
        if fetch(counter) < size:
            number = add(counter, 1)
            if number < size:
                return first + number
    return -1


@inner
def finished(job, phase, count):
    """Say that `count` blocks are done."""
    add(_counter(job, phase, carray(pointer(job), WORDS, int64)[PARTS]), count)


@inner
def await_phase(job, phase):
    """Wait for the blocks that others have taken."""
    word = carray(pointer(job), WORDS, int64)
    done, spins = _counter(job, phase, word[PARTS]), 0
    while fetch(done) < word[BLOCKS]:
        pause()
        spins += 1
        if spins > SPINS and word[YIELD]:  # its core may be taken from it, or be this one
            call(word[YIELD], 0, 0)


@jit
def _conduct(job, mail):
    """Offer a job to helpers, take part, and return 2 * (one is still inside) + (it is bad)."""
    word = carray(pointer(job), WORDS, int64)
    parts = word[PARTS]
    put(job + 8 * BAD, 0)
    for phase in range(word[PHASES]):
        for part in range(parts + 1):
            put(_counter(job, phase, part), 0)
    for helper in range(parts - 1):
        box = mail + 8 * MAIL * helper
        number = carray(pointer(box + 8 * (JOB + 1)), 1, int64)
        number[0] = (number[0] + 1) % 64
        put(box + 8 * JOB, job + number[0])
    call(word[FUNCTION], job, 0)
    inside = 0
    for helper in range(parts - 1):
        box = mail + 8 * MAIL * helper
        put(box + 8 * JOB, 0)
        if fetch(box + 8 * INSIDE) == job:
            inside = 2
    return inside + (fetch(job + 8 * BAD) != 0)


@jit
def _attend(box, me, patience):
    """Take part in jobs until none has come for `patience` looks."""
    looks, last = 0, 0
    while looks < patience:
        offered = fetch(box + 8 * JOB)
        if offered == 0 or offered == last:
            pause()
            looks += 1
            continue
        last, job = offered, offered // 64 * 64
        # The caller frees a job's memory only if INSIDE does not name it. So: name it, then look
        # whether it is still offered. Afterwards the counters alone say what there is to do.
        put(box + 8 * INSIDE, job)
        if fetch(box + 8 * JOB) == offered:
            call(carray(pointer(job), WORDS, int64)[FUNCTION], job, me)
            looks = 0
        put(box + 8 * INSIDE, 0)
    put(box + 8 * ASLEEP, 1)


@jit
def _look(box, count):
    """Look so many times at a word, as `_attend` does."""
    for _ in range(count):
        fetch(box)
        pause()


class _Helper:
    """A thread that watches its mailbox, and sleeps on a lock when nothing comes."""

    def __init__(self, number: int, patience: int) -> None:
        self.number = number
        self.box = address_of(_mail()) + 8 * MAIL * (number - 1)
        self.state = _mail()[MAIL * (number - 1) : MAIL * number]
        self.state[:] = 0
        self.bell = threading.Lock()
        self.bell.acquire()
        self.patience, self.stopped = patience, False
        self.thread = threading.Thread(
            target=self._live, name=f"gbdnn-worker-helper-{number}", daemon=True
        )
        self.thread.start()

    def _live(self) -> None:
        while True:
            _attend(self.box, self.number, self.patience)
            if self.stopped:
                return
            self.bell.acquire()

    def wake(self) -> None:
        """Ring, if it sleeps; only the crew's owner of the moment does."""
        if self.state[ASLEEP] and not self.stopped:
            self.state[ASLEEP] = 0
            self.bell.release()

    def stop(self) -> None:
        """Let the thread end, at the latest when its patience does."""
        self.stopped = True
        with suppress(RuntimeError):  # it was awake, and the bell has rung already
            self.bell.release()


class _Crew:
    """All helpers of the process. One caller at a time has them; others work alone."""

    def __init__(self) -> None:
        self.owner = threading.Lock()
        self.helpers: list[_Helper] = []
        self.patience = 0
        self.last = 0.0
        self.stuck: list[tuple[int, Any]] = []

    def perform(self, job: int, parts: int, seconds: float, keep: Any) -> int:
        with suppress(RuntimeError):  # no more threads: at exit, or above a limit
            while len(self.helpers) < parts - 1:
                self.patience = self.patience or _patience()
                self.helpers.append(_Helper(len(self.helpers) + 1, self.patience))
        # A sleeping helper comes too late for a short job, but in time for the next one.
        if seconds > LONG or time.perf_counter() - self.last < AWAKE:
            for helper in self.helpers[: parts - 1]:
                helper.wake()
        if self.stuck:
            inside = {int(helper.state[INSIDE]) for helper in self.helpers}
            self.stuck = [each for each in self.stuck if each[0] in inside]
        self.stuck.append((job, keep))  # before: an interrupt may come right after the call
        found = int(_conduct(job, _mail_address()))
        if not found & 2:
            self.stuck.pop()
        self.last = time.perf_counter()
        return found

    def stop(self) -> None:
        for helper in self.helpers:
            helper.stop()
        for helper in self.helpers:
            helper.thread.join(1)


MOST = 256  # participants


def prepare() -> None:
    """Load the compiled functions from the disk cache, or compile them."""
    for function, parameters in ((_conduct, 2), (_attend, 3), (_look, 2)):
        function.compile((int64,) * parameters)


@cache
def _mail() -> Array:
    mail = aligned_empty(MAIL * MOST, np.int64)
    mail[:] = 0
    return mail


@cache
def _mail_address() -> int:
    return address_of(_mail())


_crew = _Crew()


def perform(job: Array, address: int, parts: int, seconds: float, keep: Any) -> tuple[bool, bool]:
    """Run a job with up to parts - 1 helpers; return (it is bad, its memory may be used again).

    Parameters
    ----------
    job : ndarray of int64
        All words set but PARTS and YIELD.
    address : int
        Of the job.
    parts : int
        Participants, from 1 up.
    seconds : float
        About how long it takes one thread.
    keep : object
        Kept alive as long as a helper may still read the job. Such a helper, one that lost its core
        in the wrong moment, does not touch anything but the job's words.
    """
    crew = _crew
    job[YIELD] = _yield_address()
    parts = min(parts, MOST)
    if parts > 1 and crew.owner.acquire(False):
        try:
            job[PARTS] = parts
            found = crew.perform(address, parts, seconds, keep)
        finally:
            crew.owner.release()
    else:
        job[PARTS] = 1
        found = int(_conduct(address, 0))
    return bool(found & 1), not found & 2


@cache
def _patience() -> int:
    """Return how many looks take AWAKE seconds."""
    box, fastest = address_of(_mail()), float("inf")
    for _ in range(20):  # another program's turn on this core in between must not count
        begin = time.perf_counter()
        _look(box, 100)
        fastest = min(fastest, time.perf_counter() - begin)
    return int(AWAKE / max(fastest, 1e-7) * 100)


@cache
def _yield_address() -> int:
    """Return the address of the system's call that lets another thread run; 0 if not found."""
    try:
        library = ctypes.WinDLL("kernel32") if sys.platform == "win32" else ctypes.CDLL(None)
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        return int(ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0)
    except (OSError, AttributeError, TypeError):
        return 0


def _forget() -> None:
    """In a forked child the parent's threads do not exist."""
    global _crew
    _crew = _Crew()


atexit.register(lambda: _crew.stop())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
