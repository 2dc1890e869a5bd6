"""Sharing work among threads, and work apart from the main thread."""

import threading
import time
import traceback

import pytest
from builders import run_script

from gbdnn.backends import workers
from gbdnn.backends.workers import apart, share


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


def test_an_item_that_was_taken_is_worked_on(monkeypatch):
    """Also where the worker is held up between taking the last item and beginning it."""
    caller = threading.current_thread()

    class Slow(threading.Event):
        def is_set(self):
            if threading.current_thread() is not caller:
                time.sleep(0.05)
            return super().is_set()

    monkeypatch.setattr(workers.threading, "Event", Slow)

    def task(number):
        time.sleep(0.01)
        return number

    assert share(task, range(2), 2) == [0, 1]


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


def test_without_threads_the_caller_works_alone(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(workers, "_pools", {})
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert share(lambda k: k * k, range(10), 3) == [k * k for k in range(10)]
    assert apart(lambda: threading.current_thread(), pytest.fail) is threading.main_thread()


# -- apart -----------------------------------------------------------------------------------------


def test_apart_returns_what_another_thread_computed():
    assert apart(threading.current_thread, pytest.fail) is not threading.main_thread()
    assert apart(lambda: share(lambda k: 2 * k, range(9), 3), pytest.fail) == list(range(0, 18, 2))


def test_apart_uses_one_thread_again():
    assert len({apart(threading.get_ident, pytest.fail) for _ in range(20)}) == 1


def test_apart_from_another_thread_just_runs():
    found = []
    thread = threading.Thread(
        target=lambda: found.append(apart(threading.current_thread, pytest.fail))
    )
    thread.start()
    thread.join(10)
    assert found == [thread]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exceptions_of_the_task_keep_their_traceback(error):
    def fails_here():
        raise error("stop")

    with pytest.raises(error, match="stop") as info:
        apart(fails_here, pytest.fail)
    assert "fails_here" in [frame.name for frame in traceback.extract_tb(info.tb)]
    assert apart(lambda: 3, pytest.fail) == 3


SCRIPT = """
import os, signal, sys, threading, time
from gbdnn.backends.workers import apart

def interrupt(delay):
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()

stop, running, calls = threading.Event(), threading.Event(), []

def task():
    running.set()
    assert stop.wait(20)
    time.sleep(0.05)  # it takes a while to end
    running.clear()

def end():
    calls.append(threading.current_thread())
    stop.set()
"""


def test_an_interrupt_ends_the_task_first():
    run_script(
        SCRIPT
        + """
for attempt in range(20):
    stop.clear()
    interrupt(0.02)
    interrupt(0.04)  # while the task ends, or after
    try:
        apart(task, end)
    except KeyboardInterrupt:
        assert not running.is_set()
    else:
        sys.exit("no KeyboardInterrupt")
    try:
        time.sleep(0.1)
    except KeyboardInterrupt:
        pass
assert set(calls) == {threading.main_thread()}
assert apart(lambda: 5, end) == 5
"""
    )


def test_no_interrupt_is_lost_whenever_it_comes():
    """Also while a task is handed out, or just ended: tasks are short."""
    run_script(
        SCRIPT
        + """
hits, busy = 0, []
for attempt in range(300):
    try:
        interrupt(0.0005 + attempt * 1e-5)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            def work():
                busy.append(1)
                time.sleep(attempt % 3 * 1e-4)
                busy.pop()
            apart(work, lambda: None)
    except KeyboardInterrupt:
        hits += 1
        assert not busy
assert hits == 300, hits
assert apart(lambda: 5, end) == 5
"""
    )


def test_fork_while_a_task_runs():
    run_script(
        SCRIPT
        + """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
results = []

def fork():
    running.wait()
    for _ in range(5):
        child = os.fork()
        if not child:
            signal.alarm(20)
            os._exit(0 if apart(threading.get_ident, end) != threading.get_ident() else 3)
        results.append(os.waitpid(child, 0)[1])
    stop.set()

forker = threading.Thread(target=fork)
forker.start()
apart(task, end)
forker.join()
assert results == [0] * 5, results
"""
    )


@pytest.mark.parametrize("before", ["", "apart(lambda: 5, end)"])
def test_the_process_ends(before):
    """Also if it asks for the last time when no thread can be started any more."""
    run_script(
        SCRIPT
        + f"""
import atexit

def last():
    if apart(lambda: 7, end) != 7:
        os._exit(3)

atexit.register(last)
{before}
""",
        timeout=30,
    )


def test_an_interrupt_from_outside():
    """Ctrl-C in a terminal: the process ends by it, when the task has ended."""
    with pytest.raises(AssertionError, match=r"status -2[\s\S]*ended") as info:
        run_script(SCRIPT + "interrupt(0.1)\napart(lambda: (task(), print('ended')), end)\n")
    assert "KeyboardInterrupt" in str(info.value)
