"""The tile executor: skipping, stages, chunks and lazy layers change nothing; errors surface."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import oracle
import pytest
from builders import ALL, THREADS, TILED, random_dense, random_network, settling_network
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gbdnn import LSTM, Linear, Network, ReLU, as_csr
from gbdnn.backends import get_backend
from gbdnn.data.inputs import BitInputs, as_inputs
from gbdnn.execution import executor
from gbdnn.execution.source import Source
from gbdnn.execution.steps import grouped, prepared_step

seeds = st.integers(0, 2**32 - 1)


class LazySource(Source):
    """A network's layers, prepared one by one each time they are asked for."""

    def __init__(self, network, *, lazy=True, keeps=frozenset()):
        self.network, self.lazy, self.keeps = network, lazy, keeps
        self.depth, self.edges = network.depth, network.edges
        self.widest, self.dtype = network.widest, network.dtype
        self.made = 0

    def steps(self, backend, start=0):
        for _, layers in list(grouped(self.network.layers))[start:]:
            self.made += 1
            yield prepared_step(backend, layers)


class Recorder:
    """Collects results and checks that no column comes twice."""

    view = None

    def __init__(self, samples, features, dtype):
        self.out = np.full((samples, features), np.nan, dtype)
        self.times = np.zeros(samples, int)
        self.lock = threading.Lock()

    def write(self, ids, Y):
        with self.lock:
            self.out[ids] = Y.T
            self.times[ids] += 1

    def fill(self, ids, value):
        with self.lock:
            self.out[ids] = value
            self.times[ids] += 1


def execute(source, X, backend="graphblas", threads=1, **options):
    """Run `source` and return (result, work, progress)."""
    inputs = as_inputs(X, source.network.in_features, source.dtype)
    sink = Recorder(inputs.count, source.network.out_features, source.dtype)
    done, lock = [0], threading.Lock()

    def progress(count):
        with lock:
            done[0] += count

    work = executor.run(
        source, inputs, sink, backend=get_backend(backend), threads=threads, progress=progress,
        **options,
    )  # fmt: skip
    assert (sink.times == 1).all()
    assert done[0] == source.depth * inputs.count
    assert work.nominal_edges == source.edges * inputs.count
    assert 0 <= work.effective_edges <= work.nominal_edges
    assert work.seconds > 0
    return sink.out, work


def batch(rng, samples, features=24):
    """Return whole numbers of which many columns are 0, many at the cap, some small."""
    X = rng.integers(0, 5, (samples, features)) * (rng.random((samples, features)) < 0.4)
    X[rng.random(samples) < 0.3] = 0
    X[rng.random(samples) < 0.2] = 4
    return X


def same_bits(left, right):
    np.testing.assert_array_equal(left.view(np.uint32), right.view(np.uint32))


# -- skipping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", TILED)
@settings(max_examples=25)
@given(
    seed=seeds,
    depth=st.integers(1, 12),
    samples=st.integers(1, 150),
    width=st.sampled_from([1, 3, 8, 16, 64]),
    threads=st.sampled_from([1, THREADS]),
    wakes=st.lists(st.integers(0, 11), max_size=3),
)
def test_skipping_changes_no_bit(backend, seed, depth, samples, width, threads, wakes):
    rng = np.random.default_rng(seed)
    network = settling_network(rng, depth, wake=wakes)
    X = batch(rng, samples)
    run = {"backend": backend, "threads": threads, "width": width}
    plain, work = execute(LazySource(network, lazy=False), X, skip=False, **run)
    assert work.effective_edges == work.nominal_edges
    oracle.check(plain, network, X)
    skipped, _ = execute(LazySource(network, lazy=False), X, skip=True, **run)
    same_bits(plain, skipped)


@pytest.mark.parametrize("backend", TILED)
@settings(max_examples=50)
@given(
    seed=seeds,
    depth=st.integers(2, 10),
    samples=st.integers(1, 500),
    width=st.sampled_from([16, 32, 48, 64, 100, 256]),
)
@example(seed=203624, depth=2, samples=20, width=32)  # the last tile has 4 columns
def test_skipping_changes_no_bit_of_real_numbers(backend, seed, depth, samples, width):
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(depth):
        weight = random_dense(rng, 24, 24, 0.2) + (rng.random() < 0.3)
        layers += [Linear(as_csr(weight), -rng.random() if rng.random() < 0.8 else 0.1), ReLU(4)]
    network = Network(layers)
    X = batch(rng, samples)
    plain, _ = execute(LazySource(network), X, backend, skip=False, width=width)
    skipped, _ = execute(LazySource(network), X, backend, skip=True, width=width)
    oracle.check(skipped, network, X)
    if backend in ("graphblas", "fused"):  # BLAS may sum in another order for other widths
        same_bits(plain, skipped)


@pytest.mark.parametrize("backend", TILED)
def test_dead_and_full_columns_cost_nothing(backend, rng):
    network = settling_network(rng, 20)
    X = np.zeros((400, 24))
    X[::2] = 4.0  # at the cap
    result, work = execute(LazySource(network), X, backend, width=64)
    np.testing.assert_array_equal(result, X)
    assert work.effective_edges < 0.2 * work.nominal_edges


def test_a_positive_bias_in_the_middle_wakes_parked_columns(rng):
    network = settling_network(rng, 15, wake=[9])
    X = batch(rng, 300)
    X[:100] = 0
    result, work = execute(LazySource(network), X, width=16)
    oracle.check(result, network, X)
    assert work.effective_edges < work.nominal_edges
    asleep = settling_network(np.random.default_rng(0), 15)
    assert not execute(LazySource(asleep), 0 * X, width=16)[0].any()


@pytest.mark.parametrize("slope", [0.0, 0.5, -1.0])
def test_signed_zeros(slope, rng):
    layers = []
    for _ in range(6):
        layers += [Linear(as_csr(np.rint(random_dense(rng, 24, 24))), -0.0), "relu"]
    layers[-1] = "identity"
    network = Network(layers)
    X = batch(rng, 100) * slope
    plain, _ = execute(LazySource(network), X, skip=False, width=16)
    skipped, _ = execute(LazySource(network), X, skip=True, width=16)
    same_bits(plain, skipped)


def test_nan_columns_do_not_settle():
    network = Network([Linear(as_csr(np.eye(4)), 0.0), ReLU(1)] * 5)
    X = np.zeros((40, 4), np.float32)
    X[3], X[5, 2] = np.nan, np.nan
    result = network.predict(X, check_finite=False, batch_size=16)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(X))


# -- stages, chunks, lazy layers -------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("keeps", [frozenset(), frozenset({0.0})])
@settings(max_examples=25)
@given(
    seed=seeds,
    budget=st.sampled_from([1, 2_000, 6_000, 20_000, 10**6]),
    samples=st.sampled_from([1, 16, 17, 60, 200, 333]),
    width=st.sampled_from([8, 16, 32]),
    depth=st.integers(1, 14),
    skip=st.booleans(),
)
def test_tiny_budgets(lazy, keeps, seed, budget, samples, width, depth, skip):
    rng = np.random.default_rng(seed)
    network = settling_network(rng, depth, wake=() if keeps else [depth // 2])
    X = batch(rng, samples)
    wanted, _ = execute(LazySource(network), X, skip=False, width=width)
    result, _ = execute(
        LazySource(network, lazy=lazy, keeps=keeps), X, skip=skip, width=width, budget=budget,
        threads=THREADS,
    )  # fmt: skip
    same_bits(wanted, result)


@pytest.mark.parametrize("budget", [1, 5_000, 50_000])
def test_the_reference_in_chunks(budget, rng):
    network = random_network(rng, (24, 30, 24))
    X = batch(rng, 70)
    result, _ = execute(LazySource(network), X, "graphblas-reference", budget=budget)
    oracle.check(result, network, X)


def test_layers_stop_being_made_when_everything_is_settled(rng):
    source = LazySource(settling_network(rng, 200), keeps=frozenset({0.0, 4.0}))
    execute(source, np.zeros((50, 24)), width=16)
    assert source.made < 50


def test_widths_that_change_from_layer_to_layer(rng):
    network = random_network(rng, (24, 3, 50, 1, 17, 8), density=0.6)
    X = batch(rng, 130)
    for budget in (1, 3_000, None):
        for width in (1, 8, 16):
            result, _ = execute(LazySource(network), X, width=width, budget=budget)
            oracle.check(result, network, X)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("samples", [70, 300])
def test_all_columns_end_before_the_last_layer(backend, samples, rng):
    """What is left then has the features of an inner layer, not those of the result."""
    network = random_network(rng, (9, 5, 7, 11))
    network = network.replaced({f"layers.{k}.bias": 0.0 for k in (0, 2, 4)})
    found = network.predict(np.zeros((samples, 9)), backend=backend)
    np.testing.assert_array_equal(found, np.zeros((samples, 11)))


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 100])
def test_packed_bits(samples, rng):
    X = rng.random((samples, 24)) < 0.4
    network = random_network(rng, (24, 10, 4))
    bits = BitInputs(np.packbits(X.T, axis=1), samples)
    for width in (3, 16):
        result, _ = execute(LazySource(network), bits, width=width, budget=1)
        oracle.check(result, network, X)


# -- interruptions and errors ----------------------------------------------------------------------


def ours():
    """Return the executor's threads that are alive, but for the workers that it keeps."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("gbdnn") and "worker" not in name]


class Stop(Exception):
    """What the tests raise."""


def after(calls, act):
    """Return a progress callable that acts at the call number `calls`."""
    seen, lock = [0], threading.Lock()

    def progress(done):
        with lock:
            seen[0] += 1
            now = seen[0] == calls
        if now:
            act()

    return progress


def fail(kind):
    def act():
        raise kind("stop")

    return act


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("threads", sorted({1, THREADS}))
@pytest.mark.parametrize("kind", [KeyboardInterrupt, Stop, SystemExit])
@pytest.mark.parametrize("calls", [1, 9])
def test_an_exception_in_progress_ends_everything(calls, kind, threads, lazy, rng):
    network = settling_network(rng, 12)
    X = batch(rng, 400)
    source = LazySource(network, lazy=lazy)
    inputs = as_inputs(X, 24, network.dtype)
    with pytest.raises(kind, match="stop"):
        executor.run(
            source, inputs, Recorder(400, 24, np.float32), backend=get_backend("graphblas"),
            threads=threads, width=16, budget=20_000, progress=after(calls, fail(kind)),
        )  # fmt: skip
    assert ours() == []
    oracle.check(network.predict(X), network, X)


@pytest.mark.parametrize("backend", TILED)
def test_ctrl_c(backend, rng, monkeypatch):
    monkeypatch.setattr(executor, "SHORT", 0)  # a call of its own is over before the signal
    network = settling_network(rng, 30)
    X = batch(rng, 2000) + 1

    def press():
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        network.predict(X, backend=backend, batch_size=16, threads=THREADS, skip=False,
                        progress=after(3, press))  # fmt: skip
    # A signal between a thread's start and its entry in the pool's list leaves the thread to end
    # by itself, which takes a moment.
    deadline = time.monotonic() + 10
    while ours() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ours() == []
    oracle.check(network.predict(X, backend=backend), network, X)


@pytest.mark.parametrize("samples", [3, 400])
def test_an_error_in_a_backend_surfaces(samples, monkeypatch, network, rng):
    backend = get_backend("dense")
    right, calls = backend.affine, []

    def affine(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise Stop("in a worker")
        right(*args, **kwargs)

    X = rng.standard_normal((samples, 12))
    with monkeypatch.context() as patch:
        patch.setattr(backend, "affine", affine)
        with pytest.raises(Stop, match="in a worker"):
            network.predict(X, backend="dense", batch_size=16)
    assert ours() == []
    oracle.check(network.predict(X, backend="dense"), network, X)


def test_an_error_while_preparing_leaves_the_network_usable(monkeypatch, network):
    backend = get_backend("graphblas")

    def prepare(weight):
        raise Stop("no room")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "prepare", prepare)
        with pytest.raises(Stop):
            network.predict(np.ones((3, 12)), backend="graphblas")
    oracle.check(network.predict(np.ones((3, 12)), backend="graphblas"), network, np.ones((3, 12)))


def test_an_error_in_a_lazy_source_surfaces(rng):
    source = LazySource(settling_network(rng, 12))
    making = source.steps

    def steps(backend, start=0):
        for number, step in enumerate(making(backend, start), start):
            if number == 7:
                raise Stop("file ended")
            yield step

    source.steps = steps
    with pytest.raises(Stop, match="file ended"):
        execute(source, batch(rng, 100) + 1, width=16, budget=5_000)
    assert ours() == []


def test_values_that_do_not_fit_surface_from_a_worker(network):
    X = np.ones((200, 12))
    X[150, 3] = 1e300
    with pytest.raises(Exception, match=r"X: expected finite values.* \(150, 3\)\. The"):
        network.predict(X, batch_size=16, threads=THREADS)
    assert ours() == []


@pytest.mark.parametrize("backend", TILED)
@given(
    names=st.lists(st.sampled_from(["relu", "tanh", "leaky_relu", "softmax", "identity"]),
                   min_size=1, max_size=6),
    samples=st.integers(1, 300), negative=st.booleans(), threads=st.integers(1, 2), seed=seeds,
)  # fmt: skip
@settings(max_examples=60)
def test_activations_in_any_order(backend, names, samples, negative, threads, seed):
    """Activations that are no bounds may end a stage; every sample gets its result."""
    rng = np.random.default_rng(seed)
    layers = []
    for name in names:
        weight = random_dense(rng, 16, 16, 0.5) / 4
        layers += [Linear(weight, -0.1 if negative else rng.standard_normal(16)), name]
    network = Network(layers)
    X = rng.standard_normal((samples, 16), np.float32)
    found = network.predict(X, backend=backend, threads=threads)
    wanted = network.astype(np.float64).predict(X, backend="dense", skip=False)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@given(
    kind=st.sampled_from(["tanh", "relu", "lstm"]), samples=st.integers(1, 200),
    threads=st.integers(2, 3), seed=seeds,
)  # fmt: skip
@example(kind="tanh", samples=33, threads=2, seed=0)
@example(kind="lstm", samples=64, threads=2, seed=0)
@settings(max_examples=60)
@pytest.mark.filterwarnings("ignore:threads:UserWarning")
def test_the_number_of_threads_changes_no_bit(kind, samples, threads, seed):
    rng = np.random.default_rng(seed)
    first = Linear(random_dense(rng, 40, 50, 0.5), 0.1)
    if kind == "lstm":
        first = LSTM(random_dense(rng, 40, 50, 0.5), random_dense(rng, 40, 10, 0.5))
    last = Linear(random_dense(rng, 30, first.out_features, 0.5))
    network = Network([first, last] if kind == "lstm" else [first, kind, last])
    X = rng.standard_normal((samples, 3, 50) if kind == "lstm" else (samples, 50), np.float32)
    alone = network.predict(X, threads=1)
    np.testing.assert_array_equal(network.predict(X, threads=threads), alone)
