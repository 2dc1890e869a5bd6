"""Small batches in one compiled call, shared with helper threads: right whatever these do."""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracle
import pytest
from builders import random_network, run_script
from programs import batch, program_of, run

from gbdnn.backends.base import aligned_empty
from gbdnn.backends.fused import helpers, program


@pytest.fixture(autouse=True)
def helpers_for_the_smallest_job(monkeypatch):
    monkeypatch.setattr(program, "WORTH", 1e-12)
    monkeypatch.setattr(helpers, "LONG", 0.0)


@pytest.fixture
def network(rng):
    return random_network(rng, (64, 100, 80, 30))


@pytest.mark.parametrize("samples", [1, 20, 200])
@pytest.mark.parametrize("threads", [2, 3, 5, 9])
def test_more_helpers_than_cores(samples, threads, network, rng):
    X = batch(rng, samples, 64)
    alone = run(network, X)
    for _ in range(20):
        np.testing.assert_array_equal(run(network, X, threads=threads), alone)


def test_helpers_take_part():
    """A caller that waits inside a job for the first helper meets it there.

    It is woken there again: on a busy core it watches and sleeps before the job is there.
    """
    came = threading.Event()

    @ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)
    def participate(job, me):
        if me:
            came.set()
            return
        for _ in range(6000):
            helpers._helpers.threads[0].wake()
            if came.wait(0.01):
                return

    job = aligned_empty(helpers.words_of(1, 2), np.int64)
    job[:] = 0
    job[[helpers.FUNCTION, helpers.PHASES, helpers.BLOCKS]] = (
        ctypes.cast(participate, ctypes.c_void_p).value, 1, 1,
    )  # fmt: skip
    helpers.run(job, helpers.address_of(job), 2, 1.0, (job, participate), helpers.Comparison())
    assert came.is_set()


class _Absent:
    """A helper whose core is never free."""

    def __init__(self):
        self.state = np.zeros(helpers.SLOT, np.int64)

    def wake(self):
        """Nobody is there."""

    def stop(self):
        """Nobody is there."""


@pytest.mark.parametrize("samples", [1, 20, 200])
def test_nobody_waits_for_a_helper_that_does_not_come(samples, network, monkeypatch, rng):
    threads = helpers._Helpers()
    threads.threads = [_Absent() for _ in range(3)]
    monkeypatch.setattr(helpers, "_helpers", threads)
    monkeypatch.setattr(helpers, "_slots_address", lambda: helpers.address_of(slots))
    slots = np.zeros(helpers.SLOT * 4, np.int64)
    X = batch(rng, samples, 64)
    oracle.check(run(network, X, threads=4), network, X)


def test_memory_that_a_helper_may_read_is_not_used_again(network, monkeypatch, rng):
    """A helper that loses its core inside a job comes back when the job is long over."""
    threads = helpers._Helpers()
    threads.threads = [_Absent()]
    slots = np.zeros(helpers.SLOT * 2, np.int64)
    threads.threads[0].state = slots[: helpers.SLOT]
    monkeypatch.setattr(helpers, "_helpers", threads)
    monkeypatch.setattr(helpers, "_slots_address", lambda: helpers.address_of(slots))
    X = batch(rng, 3, 64)
    run(network, X, threads=2)
    one = program_of(network)
    (space,) = one._spare.values()
    slots[helpers.INSIDE] = space.address
    run(network, X, threads=2)
    assert not one._spare
    assert [address for address, _ in threads.in_use] == [space.address]
    oracle.check(run(network, X, threads=2), network, X)
    assert space not in one._spare.values()
    slots[helpers.INSIDE] = 0
    run(network, X, threads=2)
    assert threads.in_use == []


def test_no_threads_are_left(network, monkeypatch, rng):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(helpers, "_helpers", helpers._Helpers())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    X = batch(rng, 3, 64)
    oracle.check(run(network, X, threads=3), network, X)


def test_many_callers_at_once(network, rng):
    batches = [batch(rng, samples, 64) for samples in (1, 1, 5, 20, 33, 64)]
    wanted = [run(network, X) for X in batches]

    def call(number):
        for _ in range(50):
            for X, result in zip(batches, wanted, strict=True):
                np.testing.assert_array_equal(run(network, X, threads=1 + number % 3), result)

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(call, number) for number in range(6)]:
            done.result(60)


def test_workspaces_are_few(network, rng):
    for samples in range(1, 30):
        run(network, batch(rng, samples, 64))
    assert len(program_of(network)._spare) <= program.SPARES


SCRIPT = """
import os, signal, sys, threading, time, warnings
import numpy as np
from gbdnn import Linear, Network
from gbdnn.backends.fused import program
from gbdnn.backends.fused import helpers
program.WORTH, helpers.LONG = 1e-12, 0.0
rng = np.random.default_rng(0)
layers = [Linear(np.rint(4 * rng.random((200, 200)) * (rng.random((200, 200)) < .1)), -1.0)] * 3
network = Network([layers[0], "relu", layers[1], "relu", layers[2], "relu"])
X = rng.integers(0, 2, (40, 200)).astype("f4")
one = network.compiled(__import__("gbdnn").backends.get_backend("fused")).program

def call(samples):
    out = np.empty((samples, 200), "f4")
    form = dict(width=32, threads=2, check=True)
    assert one.run(X[:samples].T, out.T, **form)
    return out

wanted = {samples: call(samples) for samples in (1, 20, 40)}
assert len(helpers._helpers.threads) == 1
"""


def test_fork():
    run_script(
        SCRIPT
        + """
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads, the very point
stop = threading.Event()
def busy():
    while not stop.is_set():
        call(20)
other = threading.Thread(target=busy)
other.start()
for _ in range(10):
    child = os.fork()  # in the middle of another thread's call
    if not child:
        signal.alarm(30)
        assert not helpers._helpers.threads
        same = all(np.array_equal(call(n), wanted[n]) for n in wanted for _ in range(20))
        os._exit(0 if same and len(helpers._helpers.threads) == 1 else 3)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
stop.set()
other.join()
assert all(np.array_equal(call(n), wanted[n]) for n in wanted)
"""
    )


@pytest.mark.parametrize(
    "rest", ["", "time.sleep(0.1)", "threading.Thread(target=call, args=(20,)).start()"]
)
def test_the_process_ends(rest):
    run_script(SCRIPT + f"call(1)\n{rest}\n", timeout=30)


def test_ctrl_c():
    run_script(
        SCRIPT
        + """
hits = 0
for attempt in range(20):
    try:
        timer = threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for n in wanted:
                call(n)
    except KeyboardInterrupt:
        hits += 1
    timer.join()
assert hits == 20, hits
assert all(np.array_equal(call(n), wanted[n]) for n in wanted)
"""
    )


def test_helpers_that_cost_more_than_they_give_are_not_asked():
    """By times that are made up: a core becomes busy, and free again."""
    comparison = helpers.Comparison()
    busy, asked = False, []
    for call in range(3000):
        busy = 1000 <= call < 2000
        asked.append(comparison.helped)
        comparison.add((1.4 if busy else 0.5) if comparison.helped else 1.0, 1.0)
    assert all(asked[:1000])  # they clearly help: nothing is tried
    assert np.mean(asked[1300:2000]) < 0.1
    assert np.mean(asked[2300:]) > 0.9


def test_few_calls_decide_nothing():
    """Single calls that took long, as the first ones do, are no reason."""
    comparison = helpers.Comparison()
    for call in range(1000):
        assert comparison.helped
        comparison.add(9.0 if call % 8 < 4 else 0.6, 1.0)


def test_either_way_the_bits_are_the_same(network, rng):
    X = batch(rng, 20, 64)
    alone = run(network, X)
    run(network, X, threads=2)
    one = program_of(network)
    for helped in (True, False, True):
        for comparison in one._comparisons.values():
            comparison.helped = helped
        np.testing.assert_array_equal(run(network, X, threads=2), alone)
        assert (list(one._spare.values())[-1].job[helpers.PARTS] > 1) == helped
