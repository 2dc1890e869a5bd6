"""Sharing work among threads."""

import threading
import time

import pytest

from gbdnn.backends.workers import share


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_results_come_in_order(threads, count):
    assert share(lambda k: k * k, range(count), threads) == [k * k for k in range(count)]


def test_several_threads_take_part():
    names = set()
    meet = threading.Barrier(2, timeout=10)

    def task(_):
        names.add(threading.current_thread().name)
        meet.wait()

    share(task, range(2), 2)
    assert len(names) == 2


@pytest.mark.parametrize("wrong", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["caller", "worker"])
def test_an_exception_ends_it_and_nobody_works_on(where, wrong):
    caller = threading.current_thread()
    done, busy = [], [0]
    lock = threading.Lock()

    def task(number):
        with lock:
            busy[0] += 1
        try:
            time.sleep(0.001)
            if (threading.current_thread() is caller) == (where == "caller") and number > 2:
                raise wrong("stop")
            done.append(number)
        finally:
            with lock:
                busy[0] -= 1

    with pytest.raises(wrong, match="stop"):
        share(task, range(1000), 2)
    assert busy == [0]
    assert len(done) < 999
    assert share(lambda k: k, range(10), 2) == list(range(10))


def test_callers_do_not_wait_for_each_other():
    """Two callers with one worker: each works by itself while the worker is taken."""
    found = {}

    def call(name):
        found[name] = share(lambda k: (time.sleep(0.001), k)[1], range(50), 2)

    callers = [threading.Thread(target=call, args=(name,)) for name in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert found == {name: list(range(50)) for name in range(4)}
