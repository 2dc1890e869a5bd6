"""`gbdnn.distributed.predict` and `stream` on a pool of spawned processes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.sparse as sp
from distribution_builders import layers_of, segments

import gbdnn
from gbdnn import Network
from gbdnn.distributed import Pool, opened, predict, prediction, stream
from gbdnn.distributed.chunks import STEP, MappedRows, Rows, spans_of
from gbdnn.errors import (
    DtypeError,
    InputError,
    MissingDependencyError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
    WorkerError,
)


def same(got, want):
    return got.dtype == want.dtype and got.tobytes() == want.tobytes()


@pytest.mark.parametrize("backend", ["fused", "graphblas"])
def test_bits_do_not_depend_on_chunks(pool, network, X, backend):
    want = network.predict(X, backend=backend)
    for chunk in (None, 1, 100, 10_000):
        assert same(predict(network, X, executor=pool, chunk=chunk, backend=backend), want)


@pytest.mark.parametrize("count", [1, 63, 65, 129, 191])
def test_any_number_of_rows(pool, network, X, count):
    want = network.predict(X[:count])
    assert same(predict(network, X[:count], executor=pool, chunk=64), want)


def test_no_rows(pool, network, X):
    assert predict(network, X[:0], executor=pool).shape == (0, 20)
    assert list(stream(network, X[:0], executor=pool)) == []


def test_stream_is_in_order_and_bounded(pool, network, X, monkeypatch):
    want, taken = network.predict(X), 0
    given, submit = [], Pool.submit

    def noted(self, function, *arguments):
        given.append(len(arguments[3]))
        return submit(self, function, *arguments)

    monkeypatch.setattr(Pool, "submit", noted)
    for part in stream(network, X, executor=pool, chunk=64):
        assert sum(given) <= taken + (2 * 2 + 2) * STEP
        assert same(part, want[taken : taken + len(part)])
        taken += len(part)
    assert taken == len(X)


def test_a_stream_that_is_left_leaves_nothing(pool, X, rng):
    before = segments()
    results = stream(Network(layers_of(rng, 30, 8)), X, executor=pool, chunk=64)
    next(results)
    assert len(segments() - before) == (1 if os.path.isdir("/dev/shm") else 0)
    results.close()
    assert segments() == before


def test_sparse_rows(pool, network, X):
    S = sp.csr_array(np.where(X > 1, X, 0))
    assert same(predict(network, S, executor=pool, chunk=64), network.predict(S))
    assert same(predict(network, S.tocsc(), executor=pool, chunk=64), network.predict(S))


def test_very_sparse_rows_are_computed_as_the_whole_batch_is(pool, rng):
    """The rule is about the batch: half of it alone would be computed in the other way."""
    network = Network(layers_of(rng, 4096, 16, density=0.01))
    dense = sp.random_array((128, 4096), density=0.05, rng=rng)
    thin = sp.random_array((640, 4096), density=0.001, rng=rng)
    S = sp.csr_array(sp.vstack([dense, thin]).astype(np.float32))
    assert not same(network.predict(S[:128]), network.predict(S)[:128])
    assert same(predict(network, S, executor=pool, chunk=128), network.predict(S))


def test_a_memory_map_is_mapped_by_the_workers(pool, network, X, tmp_path):
    path = tmp_path / "rows.bin"
    with path.open("wb") as file:
        file.write(b"head")
        file.write(X.tobytes())
    mapped = np.memmap(path, np.float32, "r", offset=4, shape=X.shape)
    for view, want in ((mapped, X), (mapped[5:], X[5:]), (mapped[::3], X[::3])):
        assert np.array_equal(MappedRows.of(view).read(), want)
        assert same(predict(network, view, executor=pool, chunk=64), network.predict(want))
    assert MappedRows.of(mapped[::-1]) is None
    out = np.memmap(tmp_path / "out.bin", np.float32, "w+", shape=(700, 20))
    assert predict(network, mapped, executor=pool, chunk=64, out=out) is out
    assert same(np.array(out), network.predict(X))
    rows = MappedRows.of(mapped)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match="another file or length"):
        rows.read()


def test_sequences(pool, rng):
    network = gbdnn.models.lstm([6, 16, 4], density=0.5, rng=0)
    sequences = [
        rng.standard_normal((int(n), 6)).astype(np.float32) for n in rng.integers(1, 9, 200)
    ]
    want = network.predict(sequences)
    got = predict(network, sequences, executor=pool, chunk=64)
    assert len(got) == 200
    assert all(map(same, got, want))
    padded, lengths = rng.standard_normal((200, 5, 6)), rng.integers(1, 6, 200)
    got = predict(network, padded, lengths=lengths, executor=pool, chunk=64)
    assert same(got, network.predict(padded, lengths=lengths))


def test_integer_weights(pool, rng):
    X = rng.standard_normal((300, 30), np.float32)
    network = gbdnn.quantize(Network(layers_of(rng, 30, 40, 10)), "int8", X)
    want = network.predict(X, backend="graphblas")  # whose sums are exact too; not compiled first
    assert same(predict(network, X, executor=pool, chunk=64, backend="graphblas"), want)


def test_weights_go_once(pool, network, X, monkeypatch):
    made = []
    segment = prediction.Segment
    monkeypatch.setattr(prediction, "Segment", lambda p: made.append(p) or segment(p))
    want = network.predict(X)
    for _ in range(3):
        assert same(predict(network, X, executor=pool, chunk=64), want)
    assert 1 <= len(made) <= 2  # two if one worker did all of the first call


@pytest.mark.parametrize("trouble", ["another host", "no shared memory"])
def test_weights_go_with_a_task_where_memory_is_not_shared(pool, network, X, monkeypatch, trouble):
    class Unseen:
        name = "gbdnn-on-another-host"

        def __init__(self, payload):
            if trouble == "no shared memory":
                raise OSError("no space")

        def close(self):
            pass

    sent = []
    task = prediction.Shipment.task

    def noted(self, k):
        found = task(self, k)
        sent.append(found[2] is not None)
        return found

    monkeypatch.setattr(prediction, "Segment", Unseen)
    monkeypatch.setattr(prediction.Shipment, "task", noted)
    X = np.tile(X, (8, 1))
    assert same(predict(network, X, executor=pool, chunk=64), network.predict(X))
    assert len(sent) > 40  # two for each worker's first chunks
    assert 1 <= sum(sent) <= 20  # one that another worker has taken is sent again, one at a time


def test_errors_say_which_rows(pool, network, X):
    before = segments()
    X[500, 3] = np.nan
    with pytest.raises(NonFiniteError, match=r"X\[384:512\]"):
        predict(network, X, executor=pool, chunk=64)
    assert segments() == before
    predict(network, X, executor=pool, chunk=64, check_finite=False)


def test_wrong_arguments(pool, network, X):
    with pytest.raises(ShapeError, match="30 features"):
        predict(network, X[:, :5], executor=pool)
    with pytest.raises(UnknownNameError):
        predict(network, X, executor=pool, backend="fast")
    with pytest.raises(DtypeError, match="executor"):
        predict(network, X, executor=3)
    for text in ("processes:many", "processes:0", "mpi:3", "dask:"):
        with pytest.raises((InputError, MissingDependencyError)):
            predict(network, X, executor=text)
    with pytest.raises(UnknownNameError, match="processes"):
        predict(network, X, executor="cluster:3")
    with pytest.raises(InputError, match="chunk"):
        predict(network, X, executor=pool, chunk=0)
    with pytest.raises(ShapeError, match="out"):
        predict(network, X, executor=pool, out=np.empty((3, 20), np.float32))
    with pytest.raises(DtypeError, match="out"):
        predict(network, X, executor=pool, out=np.empty((700, 20)))


@pytest.mark.parametrize(("package", "text"), [("distributed", "dask://x:1"), ("mpi4py", "mpi")])
def test_a_missing_package_is_one_clear_line(network, X, monkeypatch, package, text):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'gbdnn\[(dask|mpi)\]'"):
        predict(network, X, executor=text)


def test_threads_of_an_executor_in_this_process(network, X, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(prediction, "Segment", None)  # nothing is shipped
    with ThreadPoolExecutor(2) as threads:
        assert same(predict(network, X, executor=threads, chunk=64), network.predict(X))


def test_killed_workers_are_replaced_or_named(network, X, tmp_path):
    """One start of a pool for the user's own, which breaks, and one that replaces it."""
    before, want = segments(), network.predict(X, backend="graphblas")
    out = np.full_like(want, np.nan)
    chosen = {"chunk": 64, "backend": "graphblas"}  # of which a new process is ready soonest
    with opened("processes:1") as pool:
        kill = Killer(pool)
        make, pool.make = pool.make, None
        with pytest.raises(WorkerError) as caught:
            predict(network, X, executor=pool.executor, out=out, progress=kill, **chosen)
        assert caught.value.done
        assert caught.value.done[-1][1] < 700
        for start, stop in caught.value.done:
            assert same(out[start:stop], want[start:stop])
        assert f"Rows done: 0 to {caught.value.done[0][1]}" in str(caught.value)
        assert segments() == before
        pool.make = make
        pool.remake()
        kill.left = 1
        with pytest.warns(UserWarning, match=r"a worker died; rows \d+ to \d+ are done again"):
            assert same(predict(network, X, executor=pool, progress=kill, **chosen), want)
    assert segments() == before


class Killer:
    """Progress that kills a worker at the first news."""

    def __init__(self, pool):
        self.pool, self.left = pool, 1

    def __call__(self, rows):
        if self.left:
            self.left -= 1
            os.kill(next(iter(self.pool.executor._processes)), signal.SIGKILL)


STOPPED = """
import os, sys, time
import numpy as np
import gbdnn
from gbdnn.distributed import stream

if __name__ == "__main__":
    network = gbdnn.Network([gbdnn.Linear(np.eye(30)), "relu"]).astype(np.float32)
    X = np.zeros((6400, 30), np.float32)
    for part in stream(network, X, executor="processes:1", chunk=64, backend="dense"):
        print(os.getpid(), flush=True)
        time.sleep(0.2)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_program_ends_early(tmp_path, number):
    """Neither shared memory nor workers, which would wait for tasks for ever."""
    (tmp_path / "program.py").write_text(STOPPED)
    with subprocess.Popen(
        [sys.executable, "program.py"], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True, text=True,
    ) as program:  # fmt: skip
        assert program.stdout.readline()
        if os.path.isdir("/dev/shm"):
            assert len(segments(program.pid)) == 1
        if number == signal.SIGINT:
            os.killpg(program.pid, number)  # as a terminal does
        else:
            program.send_signal(number)
        said = program.stderr.read()  # ends when the last worker has closed it
        assert program.wait(60)
    if number == signal.SIGINT:
        assert said.count("KeyboardInterrupt") == 1
    until = time.monotonic() + 30
    while segments(program.pid) and time.monotonic() < until:
        time.sleep(0.1)  # the resource tracker has its turn when the process is gone
    assert not segments(program.pid)


def test_cuts_are_multiples_and_the_rest_is_not_alone(network):
    for count in (1, 63, 64, 65, 127, 128, 129, 1000):
        for chunk in (None, 1, 100, 4096):
            spans = spans_of(Rows(count, 100, slice), network, 3, chunk)
            assert spans[0][0] == 0
            assert spans[-1][1] == count
            assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
            assert all(start % STEP == 0 for start, _ in spans)
            assert all(stop - start >= min(STEP, count) for start, stop in spans)
    cut = Rows(1000, 100, slice, (0, 90, 100, 500, 990, 1000))
    assert spans_of(cut, network, 3, None) == [(0, 384), (384, 1000)]
