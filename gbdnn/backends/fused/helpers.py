"""Helper threads that share short compiled jobs: awake between calls, absent without harm.

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
import threading
import time
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numba import carray, int64, njit

from gbdnn.backends.base import aligned_empty
from gbdnn.backends.fused.compilation import compiled, jit
from gbdnn.backends.fused.instructions import add, call, fetch, pause, pointer, put
from gbdnn.types import Array

__all__ = [
    "AFTER", "BAD", "BLOCKS", "FUNCTION", "PARTS", "PHASES", "WORDS", "YIELD", "Comparison",
    "address_of", "finished", "inner", "load_functions", "run", "take", "wait_for_phase",
    "words_of",
]  # fmt: skip

FUNCTION = 0  # address of `void participate(job, me)`
PHASES = 1
BLOCKS = 2  # in each phase
PARTS = 3  # participants, the caller included
YIELD = 4  # address of a function that lets other threads run
AFTER = 5  # 1 if who finishes a phase's last block does something more before the next phase
BAD = 40  # not zero: blocks are only counted from now on; on a line of its own
WORDS = 48  # before the counters
LINE = 8  # words
SPINS = 500  # looks before a waiting thread lets others run
AWAKE = 300e-6  # seconds that a helper watches for the next job
LONG = 150e-6  # seconds of a job for which a sleeping helper is woken at once
ROUND, SETTLING = 8, 3  # calls of a round of `Comparison`, and how many of them do not count
PROBE, FIRST = 32, 4  # rounds
CLEAR = 0.75  # of the time that a job takes alone: with helpers it is half of it, or less
# A helper's words: the job (low six bits: a running number), the job it is in, whether it sleeps
JOB, INSIDE, ASLEEP = 0, LINE, LINE + 1
SLOT = 2 * LINE
MOST = 256  # participants


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
    """Say that `count` blocks are done; return how many are so far.

    With AFTER, who finishes the last block adds one more when the phase is done.
    """
    return add(_counter(job, phase, carray(pointer(job), WORDS, int64)[PARTS]), count) + count


@inner
def wait_for_phase(job, phase):
    """Wait for the blocks that others have taken, and for what comes after them."""
    word = carray(pointer(job), WORDS, int64)
    done, spins = _counter(job, phase, word[PARTS]), 0
    while fetch(done) < word[BLOCKS] + word[AFTER]:
        pause()
        spins += 1
        if spins > SPINS:  # its core may be taken from it, or be this one
            call(word[YIELD], (0,))


@jit
def _run_job(job, slots):
    """Offer a job to helpers, take part, and return 2 * (one is still inside) + (it is bad)."""
    word = carray(pointer(job), WORDS, int64)
    parts = word[PARTS]
    put(job + 8 * BAD, 0)
    for phase in range(word[PHASES]):
        for part in range(parts + 1):
            put(_counter(job, phase, part), 0)
    for helper in range(parts - 1):
        slot = slots + 8 * SLOT * helper
        number = carray(pointer(slot + 8 * (JOB + 1)), 1, int64)
        number[0] = (number[0] + 1) % 64
        put(slot + 8 * JOB, job + number[0])
    call(word[FUNCTION], (job, 0))
    inside = 0
    for helper in range(parts - 1):
        slot = slots + 8 * SLOT * helper
        put(slot + 8 * JOB, 0)
        looks = 0
        while fetch(slot + 8 * INSIDE) == job and looks < SPINS:  # mostly it is on its way out
            pause()
            looks += 1
        if looks == SPINS:
            inside = 2
    return inside + (fetch(job + 8 * BAD) != 0)


@jit
def _watch(slot, me, most):
    """Take part in jobs until none has come for `most` looks."""
    looks, last = 0, 0
    while looks < most:
        offered = fetch(slot + 8 * JOB)
        if offered == 0 or offered == last:
            pause()
            looks += 1
            continue
        last, job = offered, offered // 64 * 64
        # The caller frees a job's memory only if INSIDE does not name it. So: name it, then look
        # whether it is still offered. Afterwards the counters alone say what there is to do.
        put(slot + 8 * INSIDE, job)
        if fetch(slot + 8 * JOB) == offered:
            call(carray(pointer(job), WORDS, int64)[FUNCTION], (job, me))
            looks = 0
        put(slot + 8 * INSIDE, 0)
    put(slot + 8 * ASLEEP, 1)


@jit
def _look(word, count):
    """Look so many times at a word, as `_watch` does."""
    for _ in range(count):
        fetch(word)
        pause()


class _Helper:
    """A thread that watches its slot, and sleeps on a lock when nothing comes."""

    def __init__(self, number: int, looks: int) -> None:
        self.number, self.looks = number, looks
        self.state = _slots()[SLOT * (number - 1) : SLOT * number]
        self.state[:] = 0
        self.wakes = threading.Lock()
        self.wakes.acquire()
        self.stopped = False
        self.thread = threading.Thread(
            target=self._live, name=f"gbdnn-worker-helper-{number}", daemon=True
        )
        self.thread.start()

    def _live(self) -> None:
        slot = address_of(self.state)
        while True:
            _watch(slot, self.number, self.looks)
            if self.stopped:
                return
            self.wakes.acquire()

    def wake(self) -> None:
        """Wake it if it sleeps; only who holds `_Helpers.lock` does."""
        if self.state[ASLEEP] and not self.stopped:
            self.state[ASLEEP] = 0
            self.wakes.release()

    def stop(self) -> None:
        """Let the thread end, at the latest when it would sleep."""
        self.stopped = True
        with suppress(RuntimeError):  # it is awake
            self.wakes.release()


class Comparison:
    """Which is faster for a job that runs again and again: with helpers, or alone.

    On a core that another program uses, or whose time the host gives to others, helpers cost more
    than they give. So calls are timed in rounds of ROUND, and every PROBE rounds, from the FIRST
    one on, there is one of the other kind; but none alone as long as helpers clearly help.

    Attributes
    ----------
    helped : bool
        Whether the next call should be with helpers.
    """

    def __init__(self) -> None:
        self.helped = True
        self._rounds = 0
        self._times: list[float] = []
        self._medians = {True: np.inf, False: np.inf}

    def add(self, seconds: float, expected: float) -> None:
        """Take note of the last call, which was as `helped` says; alone one was `expected`."""
        self._times.append(seconds)
        if len(self._times) >= ROUND:  # more by a thread that came in between
            settled = sorted(self._times[SETTLING:])
            self._medians[self.helped] = settled[len(settled) // 2]
            self._times.clear()
            self._rounds += 1
            better = self._medians[True] <= self._medians[False]
            doubt = not better or self._medians[True] > CLEAR * expected
            self.helped = not better if doubt and self._rounds % PROBE == FIRST else better


class _Helpers:
    """All helper threads of the process. One caller at a time has them; others work alone."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.threads: list[_Helper] = []
        self.last = 0.0
        self.in_use: list[tuple[int, Any]] = []

    def run(self, job: int, parts: int, seconds: float, keep: Any) -> int:
        with suppress(RuntimeError):  # no more threads: at exit, or above a limit
            while len(self.threads) < parts - 1:
                self.threads.append(_Helper(len(self.threads) + 1, _looks()))
        # A sleeping helper comes too late for a short job, but in time for the next one.
        if seconds > LONG or time.perf_counter() - self.last < AWAKE:
            for helper in self.threads[: parts - 1]:
                helper.wake()
        if self.in_use:
            inside = {int(helper.state[INSIDE]) for helper in self.threads}
            self.in_use = [each for each in self.in_use if each[0] in inside]
        self.in_use.append((job, keep))  # before: an interrupt may come right after the call
        result = int(_run_job(job, _slots_address()))
        if not result & 2:
            self.in_use.pop()
        self.last = time.perf_counter()
        return result

    def stop(self) -> None:
        for helper in self.threads:
            helper.stop()
        for helper in self.threads:
            helper.thread.join(1)


_helpers = _Helpers()


def run(
    job: Array, address: int, parts: int, seconds: float, keep: Any, comparison: Comparison
) -> tuple[bool, bool]:
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
    comparison : Comparison
        Of earlier calls of this kind.
    """
    helpers = _helpers
    job[YIELD] = _yield_address()
    parts, helped = min(parts, MOST), comparison.helped
    begin = time.perf_counter()
    if parts > 1 and helped and helpers.lock.acquire(False):
        try:
            job[PARTS] = parts
            result = helpers.run(address, parts, seconds, keep)
        finally:
            helpers.lock.release()
    else:
        job[PARTS] = 1
        result = int(_run_job(address, 0))
    if parts > 1 and (job[PARTS] > 1) == helped:  # else another caller had the helpers
        comparison.add(time.perf_counter() - begin, seconds)
    return bool(result & 1), not result & 2


def load_functions() -> None:
    """Load the compiled functions from the disk cache, or compile them."""

    def make() -> None:
        for function, parameters in ((_run_job, 2), (_watch, 3), (_look, 2)):
            function.compile((int64,) * parameters)

    compiled(make)


@cache
def _slots() -> Array:
    slots = aligned_empty(SLOT * MOST, np.int64)
    slots[:] = 0
    return slots


@cache
def _slots_address() -> int:
    return address_of(_slots())


@cache
def _looks() -> int:
    """Return how many looks take AWAKE seconds."""
    fastest = float("inf")
    for _ in range(20):  # another program's turn on this core in between must not count
        begin = time.perf_counter()
        _look(_slots_address(), 100)
        fastest = min(fastest, time.perf_counter() - begin)
    return int(AWAKE / max(fastest, 1e-7) * 100)


@cache
def _yield_address() -> int:
    """Return the address of the system's call that lets another thread run."""
    return int(ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0)


def _forget() -> None:
    """In a forked child the parent's threads do not exist."""
    global _helpers
    _helpers = _Helpers()


atexit.register(lambda: _helpers.stop())
os.register_at_fork(after_in_child=_forget)
