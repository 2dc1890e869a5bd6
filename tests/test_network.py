"""Networks against the float64 oracle on every backend, and what predict accepts and refuses."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from builders import ALL, THREADS, random_csr, random_dense, random_network
from hypothesis import given, settings
from hypothesis import strategies as st

from gbdnn import Dense, Linear, Network, ReLU, Softmax, as_csr
from gbdnn.data.inputs import as_inputs
from gbdnn.errors import (
    DtypeError,
    InputError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from gbdnn.execution import executor
from gbdnn.layers import activation_names
from gbdnn.machine import available_cores

seeds = st.integers(0, 2**32 - 1)


def scaled(network, factor):
    """Return the network with its first weight multiplied by `factor`."""
    first = network.layers[0]
    weight = sp.csr_array(first.weight.to_scipy() * factor)
    return Network([Linear(weight, first.bias, dtype=network.dtype), *network.layers[1:]])


# -- against the oracle ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", activation_names())
@pytest.mark.parametrize("backend", ALL)
def test_every_activation(backend, activation, dtype, rng):
    network = random_network(rng, (30, 50, 41, 17), activation=activation, dtype=dtype)
    X = rng.standard_normal((70, 30)).astype(dtype)
    oracle.check(network.predict(X, backend=backend), network, X)


@pytest.mark.parametrize("scalar_bias", [False, True])
@pytest.mark.parametrize("sign", [-1, 0, 1])
@pytest.mark.parametrize("backend", ALL)
def test_every_bias(backend, sign, scalar_bias, rng):
    layers = []
    for _ in range(4):
        bias = sign * (0.2 if scalar_bias else rng.random(40))
        layers += [Linear(random_csr(rng, 40, 40, 0.1), bias), ReLU(3.0)]
    network = Network(layers)
    X = random_dense(rng, 100, 40)
    oracle.check(network.predict(X, backend=backend), network, X)


@pytest.mark.parametrize("backend", ALL)
def test_several_activations_in_a_row_and_none_at_the_end(backend, rng):
    first, second = Linear(random_csr(rng, 9, 6), 0.1), Linear(random_csr(rng, 4, 9), -0.1)
    network = Network([first, "tanh", ReLU(0.5), "sigmoid", second])
    X = rng.standard_normal((11, 6)).astype(np.float32)
    oracle.check(network.predict(X, backend=backend), network, X)


@pytest.mark.parametrize("backend", ALL)
def test_layers_without_entries(backend, rng):
    network = Network([
        Linear(random_csr(rng, 8, 6), 0.5), "relu", Linear(sp.csr_array((5, 8)), np.arange(5) - 2),
        "relu", Linear(random_csr(rng, 3, 5)),
    ])  # fmt: skip
    X = rng.standard_normal((20, 6)).astype(np.float32)
    oracle.check(network.predict(X, backend=backend), network, X)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("widths", [(1, 1), (1, 7, 1), (3, 1, 5), (2, 300, 2)])
def test_odd_widths(backend, widths, rng):
    network = random_network(rng, widths, density=0.8)
    for samples in (1, 2, 3, 65):
        X = rng.standard_normal((samples, widths[0])).astype(np.float32)
        oracle.check(network.predict(X, backend=backend), network, X)


@pytest.mark.parametrize("backend", ALL)
def test_iso_weights(backend, rng):
    pattern = random_csr(rng, 30, 30)
    iso = type(pattern)(pattern.indptr, pattern.indices, np.full(1, 1 / 16, "f4"), pattern.shape)
    network = Network([Linear(iso, -0.3), ReLU(32), Linear(iso, -0.3), ReLU(32)])
    X = 32 * (rng.random((40, 30)) < 0.5)
    oracle.check(network.predict(X, backend=backend), network, X)


@pytest.mark.parametrize("backend", ALL)
def test_the_checker_sees_one_part_in_a_thousand(backend, network, rng):
    X = rng.standard_normal((30, 12)).astype(np.float32)
    result = network.predict(X, backend=backend)
    oracle.check(result, network, X)
    with pytest.raises(AssertionError, match="above a bound"):
        oracle.check(scaled(network, 1.001).predict(X, backend=backend), network, X)
    with pytest.raises(AssertionError, match="above a bound"):
        oracle.check(result * np.float32(1.001), network, X)


@pytest.mark.parametrize("activation", activation_names())
def test_the_checker_sees_it_behind_every_activation(activation, rng):
    network = random_network(rng, (12, 20, 9, 5), activation=activation)
    X = rng.standard_normal((30, 12)).astype(np.float32)
    with pytest.raises(AssertionError, match="above a bound"):
        oracle.check(scaled(network, 1.001).predict(X), network, X)


# -- properties ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ALL)
@settings(max_examples=20)
@given(seed=seeds, samples=st.integers(0, 90), batch_size=st.integers(1, 100))
def test_batch_size_changes_nothing(backend, seed, samples, batch_size):
    rng = np.random.default_rng(seed)
    network = random_network(rng, (12, 20, 5))
    X = rng.standard_normal((samples, 12)).astype(np.float32)
    result = network.predict(X, backend=backend, batch_size=batch_size, threads=THREADS)
    oracle.check(result, network, X)
    parts = [
        network.predict(X[k : k + 7], backend=backend, threads=1) for k in range(0, samples, 7)
    ]
    oracle.check(np.concatenate([*parts, np.empty((0, 5), "f4")]), network, X)


@pytest.mark.parametrize("backend", ALL)
@settings(max_examples=20)
@given(seed=seeds)
def test_samples_can_be_permuted(backend, seed):
    rng = np.random.default_rng(seed)
    network = random_network(rng, (12, 20, 5))
    X = rng.integers(-3, 4, (60, 12))
    order = rng.permutation(60)
    result = network.predict(X[order], backend=backend)
    oracle.check(result, network, X[order])
    _, E = oracle.forward(network, X)
    assert (abs(result - network.predict(X, backend=backend)[order]) <= 2 * E[order]).all()


@pytest.mark.parametrize("backend", ALL)
@settings(max_examples=20)
@given(seed=seeds)
def test_dense_weights_equal_sparse_ones(backend, seed):
    rng = np.random.default_rng(seed)
    sparse = random_network(rng, (12, 20, 5))
    dense = Network(
        Linear(layer.weight.to_dense(), layer.bias) if isinstance(layer, Linear) else layer
        for layer in sparse.layers
    )
    X = rng.standard_normal((33, 12)).astype(np.float32)
    oracle.check(dense.predict(X, backend=backend), sparse, X)


@pytest.mark.skipif(available_cores() < 2, reason="needs two cores")
@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("samples", [1, 40, 500])
def test_one_thread_equals_two(backend, samples, rng):
    weights = [np.rint(4 * random_dense(rng, 64, 64, 0.1)) for _ in range(3)]  # exact in float32
    network = Network([layer for W in weights for layer in (Linear(as_csr(W), -1), ReLU(9))])
    X = rng.integers(0, 3, (samples, 64))
    one, two = (network.predict(X, backend=backend, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
    oracle.check(one, network, X)


# -- what X may be ---------------------------------------------------------------------------------


def memmapped(X, folder):
    path = folder / "X.npy"
    np.save(path, X)
    return np.load(path, mmap_mode="r")


def frozen(X):
    X = X.copy()
    X.flags.writeable = False
    return X


ACCEPTED = {
    "float16": lambda X, _: X.astype(np.float16),
    "float32": lambda X, _: X.astype(np.float32),
    "float64": lambda X, _: X,
    "longdouble": lambda X, _: X.astype(np.longdouble),
    "int8": lambda X, _: X.astype(np.int8),
    "uint64": lambda X, _: abs(X).astype(np.uint64),
    "bool": lambda X, _: X > 0,
    "big-endian": lambda X, _: X.astype(">f4"),
    "list": lambda X, _: X.tolist(),
    "tuple of arrays": lambda X, _: tuple(X),
    "Fortran": lambda X, _: np.asfortranarray(X),
    "read-only": lambda X, _: frozen(X),
    "memmap": memmapped,
    "strided": lambda X, _: np.repeat(np.repeat(X, 3, axis=0), 2, axis=1)[::3, ::2],
    "backwards": lambda X, _: X[::-1, ::-1],
    "broadcast": lambda X, _: np.broadcast_to(X[0], X.shape),
    "unaligned": lambda X, _: np.frombuffer(b"x" + X.tobytes(), np.uint8)[1:].view(float)
    .reshape(X.shape),
    "masked, nothing hidden": lambda X, _: np.ma.masked_array(X),
    "csr_array": lambda X, _: sp.csr_array(X),
    "coo_matrix": lambda X, _: sp.coo_matrix(X),
    "csc int": lambda X, _: sp.csc_array(X.astype(int)),
    "dok": lambda X, _: sp.dok_array(X),
    "CSR": lambda X, _: as_csr(X),
    "one sample": lambda X, _: X[:1],
    "empty": lambda X, _: X[:0],
    "empty sparse": lambda X, _: sp.csr_array(X[:0]),
    "no entries": lambda X, _: sp.csr_array(X.shape),
}  # fmt: skip


def as_dense(X):
    if sp.issparse(X):
        return X.toarray()
    return np.asarray(X.to_dense() if hasattr(X, "to_dense") else X)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("kind", ACCEPTED)
def test_accepts(kind, backend, network, rng, tmp_path):
    X = ACCEPTED[kind](rng.integers(-3, 4, (37, 12)).astype(float), tmp_path)
    before = as_dense(X).copy()
    result = network.predict(X, backend=backend, batch_size=16)
    oracle.check(result, network, before)
    np.testing.assert_array_equal(as_dense(X), before)  # unchanged
    assert result.flags.writeable
    assert not np.shares_memory(result, as_dense(X))


def test_identity_network_returns_a_copy():
    X = np.eye(3, dtype=np.float32)
    result = Network([Linear(np.eye(3))]).predict(X)
    np.testing.assert_array_equal(result, X)
    result[:] = 5
    np.testing.assert_array_equal(X, np.eye(3))


REFUSED = {
    "1-D": (np.ones(12), ShapeError),
    "0-D": (3.0, ShapeError),
    "3-D": (np.ones((2, 12, 1)), ShapeError),
    "narrow": (np.ones((2, 11)), ShapeError),
    "transposed": (np.ones((12, 2)), ShapeError),
    "no features": (np.ones((2, 0)), ShapeError),
    "empty list": ([], ShapeError),
    "wide sparse": (sp.csr_array((2, 13)), ShapeError),
    "1-D sparse": (sp.coo_array(np.ones(12)), ShapeError),
    "complex": (np.ones((2, 12), complex), DtypeError),
    "complex sparse": (sp.csr_array(np.ones((2, 12), complex)), DtypeError),
    "object": (np.ones((2, 12), object), DtypeError),
    "str": (np.full((2, 12), "1"), DtypeError),
    "text": ("text", DtypeError),
    "dates": (np.zeros((2, 12), "M8[s]"), DtypeError),
    "None": (None, DtypeError),
    "ragged": ([[1.0] * 12, [1.0]], DtypeError),
    "masked": (np.ma.masked_array(np.ones((2, 12)), np.eye(2, 12)), InputError),
    "NaN": (np.where(np.eye(2, 12), np.nan, 1), NonFiniteError),
    "inf": (np.where(np.eye(2, 12), np.inf, 1), NonFiniteError),
    "both infinities": (np.where(np.eye(2, 12), np.inf, -np.inf), NonFiniteError),
    "float16 inf": (np.full((2, 12), np.inf, np.float16), NonFiniteError),
    "too large": (np.full((2, 12), 1e300), NonFiniteError),
    "sparse NaN": (sp.csr_array(np.where(np.eye(2, 12), np.nan, 0)), NonFiniteError),
    "sparse too large": (sp.coo_array(np.eye(2, 12) * 1e300), NonFiniteError),
    "CSR NaN": (as_csr(sp.csr_array(np.eye(2, 12) * np.nan), finite=False), NonFiniteError),
}


@pytest.mark.parametrize("backend", ["dense", "graphblas-reference"])
@pytest.mark.parametrize("kind", REFUSED)
def test_refuses(kind, backend, network):
    X, error = REFUSED[kind]
    with pytest.raises(error, match=r"^X: expected .*, got ") as caught:
        network.predict(X, backend=backend)
    assert type(caught.value) is error
    if error is NonFiniteError:
        assert "check_finite=False" in str(caught.value)


def test_large_values_are_fine_if_finite(network):
    X = np.full((4, 12), 3e38, np.float32)  # the sum overflows, no value does
    assert network.predict(X, backend="graphblas").shape == (4, 5)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("sparse", [False, True])
def test_nan_and_infinity_pass_when_asked(backend, sparse):
    network = Network([Linear(sp.csr_array(np.diag([1.0, 2, 3])), 0.5), "identity"])
    X = np.array([[1, np.nan, 3], [np.inf, 2, 3], [1, 2, 3]], np.float32)
    # dense arithmetic multiplies infinity by the zeros of W, which warns and gives NaN
    with np.errstate(invalid="ignore"):
        result = network.predict(
            sp.csr_array(X) if sparse else X, backend=backend, check_finite=False, threads=1
        )
    assert np.isnan(result[0, 1])
    assert not np.isfinite(result[1, 0])
    np.testing.assert_array_equal(result[2], [1.5, 4.5, 9.5])
    if backend not in ("auto", "dense"):  # auto may choose dense
        np.testing.assert_array_equal(result[0, ::2], [1.5, 9.5])


# -- other arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["batch_size", "threads"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, np.True_, [1], float("nan"), 2.0])
def test_bad_counts(name, value, network):
    with pytest.raises(InputError, match=rf"^{name}: expected a whole number from 1"):
        network.predict(np.ones((2, 12)), **{name: value})


@pytest.mark.parametrize("batch_size", [1, np.int64(3), 10**9, 10**30])
def test_good_batch_sizes(batch_size, network, rng):
    X = rng.standard_normal((20, 12)).astype(np.float32)
    oracle.check(network.predict(X, batch_size=batch_size, threads=1), network, X)


def test_more_threads_than_cores_warn(network):
    X = np.ones((2, 12))
    with pytest.warns(UserWarning, match=r"threads: 10000 asked for") as caught:
        result = network.predict(X, threads=10000)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(result, network.predict(X, threads=1))


@pytest.mark.parametrize("backend", ["torch", "", None, 3, "GraphBLAS"])
def test_unknown_backend(backend, network):
    with pytest.raises(UnknownNameError, match=r"one of .*'dense'.*'graphblas'"):
        network.predict(np.ones((2, 12)), backend=backend)


@pytest.mark.parametrize("progress", [3, "yes", None])
def test_bad_progress(progress, network):
    with pytest.raises(DtypeError, match="progress: expected True, False or a callable"):
        network.predict(np.ones((2, 12)), progress=progress)


def test_arguments_after_X_have_names(network):
    with pytest.raises(TypeError):
        network.predict(np.ones((2, 12)), "dense")


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("samples", [0, 1, 5, 100])
def test_progress_counts_every_layer_of_every_sample(samples, backend, skip, rng):
    layers = []
    for _ in range(9):
        layers += [Linear(random_csr(rng, 16, 16, 0.1), -0.4), ReLU(1)]
    calls, lock = [], threading.Lock()

    def progress(done):
        with lock:
            calls.append(done)

    X = random_dense(rng, samples, 16)
    Network(layers).predict(X, backend=backend, skip=skip, batch_size=8, progress=progress)
    assert sum(calls) == 9 * samples
    assert all(isinstance(done, int) and done >= 0 for done in calls)


def test_progress_bar_is_on_standard_error(network, capfd):
    network.predict(np.ones((2, 12)), progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "predict" in err
    assert "100%" in err


def test_results_that_do_not_fit(monkeypatch, network):
    monkeypatch.setattr("gbdnn.execution.executor.available_bytes", lambda: 99)
    monkeypatch.setattr("gbdnn.execution.executor.SMALL", 0)
    with pytest.raises(MemoryBudgetError, match="100 bytes"):
        network.predict(np.ones((5, 12)))


def test_tiles_that_do_not_fit(monkeypatch, network):
    monkeypatch.setattr("gbdnn.execution.executor.available_bytes", lambda: 1000)
    monkeypatch.setattr("gbdnn.execution.executor.SMALL", 0)
    with pytest.raises(MemoryBudgetError, match=r"batch_size: expected tiles that fit"):
        network.predict(np.ones((5, 12)))
    assert network.predict(np.ones((0, 12))).shape == (0, 5)


# -- construction ----------------------------------------------------------------------------------


def eye(size, **options):
    return Linear(Dense(np.eye(size)), **options)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([], InputError, "a layer with weights as the first"),
        (["relu"], InputError, "a layer with weights as the first"),
        (["relu", eye(2)], InputError, "a layer with weights as the first"),
        ([eye(2), "swish"], UnknownNameError, "'gelu', 'identity', 'leaky_relu'"),
        ([eye(2), eye(3)], ShapeError, r"layers\[1\]: expected 2 in_features"),
        ([eye(2), "relu", eye(2), eye(3)], ShapeError, r"layers\[3\]: expected 2"),
        ([eye(2), eye(2, dtype="f8")], DtypeError, "float32 as before, got float64"),
        ([np.eye(2)], DtypeError, r"layers\[0\]: .*Wrap weights"),
        ([eye(2), None], DtypeError, r"layers\[1\]"),
        ([eye(2), ReLU], DtypeError, r"layers\[1\]"),
        ("relu", DtypeError, "a list of layers"),
        (eye(2), DtypeError, "a list of layers"),
        (None, DtypeError, "a list of layers"),
        (np.eye(2), DtypeError, r"layers\[0\]"),
    ],
)
def test_wrong_layers(layers, error, message):
    with pytest.raises(error, match=message):
        Network(layers)


def test_layers_may_come_from_a_generator():
    network = Network(layer for layer in (eye(3), "relu", Softmax()))
    assert network.depth == 1
    assert repr(network).startswith("Network(Linear(3 -> 3, dense")


def test_numbers_about_a_network(rng):
    network = Network([
        Linear(random_csr(rng, 20, 12), np.ones(20)), "relu", Linear(random_dense(rng, 5, 20)),
    ])  # fmt: skip
    nnz = network.layers[0].weight.nnz
    assert (network.in_features, network.out_features, network.depth) == (12, 5, 2)
    assert (network.widest, network.edges) == (20, nnz + 100)
    assert network.nbytes == network.layers[0].weight.nbytes + 20 * 4 + 100 * 4 + 4
    summary = network.summary()
    first, relu, last = summary.rows
    assert first["nnz"] == first["edges"] == nnz
    assert first["density"] == nnz / 240
    assert relu["edges"] == 0
    assert last["edges"] == 100
    assert last["nnz"] == network.layers[2].weight.nnz == 100
    assert summary.total["edges"] == network.edges
    assert summary.total["bytes"] == network.nbytes
    lines = str(summary).splitlines()
    assert len(lines) == 5
    assert lines[0].split() == ["layer", "kind", "shape", "(out", "x", "in)", "nnz", "density",
                                "bytes", "edges"]  # fmt: skip
    assert "20 x 12" in lines[1]
    assert lines[-1].startswith("total")
    assert repr(summary) == str(summary)


@pytest.mark.parametrize("backend", ALL)
def test_astype(backend, network, rng):
    X = rng.standard_normal((9, 12))
    wide = network.astype(np.float64)
    assert wide.dtype == np.float64
    oracle.check(wide.predict(X, backend=backend), wide, X)
    back = wide.astype("float32")
    np.testing.assert_array_equal(
        back.predict(X, backend=backend), network.predict(X, backend=backend)
    )
    with pytest.raises(DtypeError):
        network.astype(np.float16)


@pytest.mark.parametrize("backend", ALL)
def test_weights_are_not_changed_by_predicting(backend, network, rng):
    before = [layer.weight.to_dense() for layer in network.layers if isinstance(layer, Linear)]
    first = network.predict(np.ones((3, 12)), backend=backend)
    second = network.predict(np.ones((3, 12)), backend=backend)
    np.testing.assert_array_equal(first, second)
    after = [layer.weight.to_dense() for layer in network.layers if isinstance(layer, Linear)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_pickles_are_whole_and_read_only(rng):
    network = random_network(rng, [7, 5, 3])
    network.metadata["name"] = "small"
    X = rng.standard_normal((4, 7))
    network.predict(X)  # what the backend prepared stays behind
    copy = pickle.loads(pickle.dumps(network))
    assert copy.metadata == {"name": "small"}
    np.testing.assert_array_equal(copy.predict(X), network.predict(X))
    assert not copy.layers[0].weight.indices.flags.writeable


# -- what showing, keeping and naming may not change -----------------------------------------------


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("samples", [1, 3, 200])
def test_a_bar_changes_no_bit_and_no_engine(samples, backend, rng, monkeypatch, capfd):
    network = random_network(rng, (30, 40, 20, 10))
    X = rng.standard_normal((samples, 30), np.float32)
    used = []
    monkeypatch.setattr(
        executor, "_run_compiled",
        lambda *args, real=executor._run_compiled: used.append(found := real(*args)) or found,
    )  # fmt: skip
    wanted = network.predict(X, backend=backend)
    plain, used[:] = list(used), []
    done = []
    for progress in (True, done.append):
        np.testing.assert_array_equal(
            network.predict(X, backend=backend, progress=progress), wanted
        )
        assert used == plain
        used[:] = []
    assert sum(done) == 3 * samples


def test_release_forgets_what_backends_made(network, rng):
    X = rng.standard_normal((5, 12))
    wanted = {name: network.predict(X, backend=name) for name in ("dense", "fused", "graphblas")}
    assert set(network._steps) == set(wanted)
    network.release("dense")
    assert set(network._steps) == {"fused", "graphblas"}
    network.release()
    assert not network._steps
    assert not network._compiled
    for name, found in wanted.items():
        np.testing.assert_array_equal(network.predict(X, backend=name), found)


def test_a_sparse_batch_is_looked_through_and_not_copied(network, rng, monkeypatch):
    X = sp.random_array((50, 12), density=0.3, rng=rng, dtype=np.float32, format="csr")
    monkeypatch.setattr("gbdnn.data.inputs.as_csr", None)  # which copies
    inputs = as_inputs(X, 12, np.dtype(np.float32))
    for ours, theirs in ((inputs.indices, X.indices), (inputs.values, X.data)):
        assert np.shares_memory(ours, theirs)
    np.testing.assert_array_equal(network.predict(X), network.predict(X.toarray()))


def test_parameters_by_name(network, rng):
    assert list(network.parameters) == [
        f"layers.{k}.{name}" for k in (0, 2, 4) for name in ("weight", "bias")
    ]
    assert list(network.weights) == ["layers.0.weight", "layers.2.weight", "layers.4.weight"]
    other = random_csr(rng, 9, 20)
    changed = network.replaced({"layers.2.weight": other, "layers.0.bias": np.ones(20)})
    assert changed.weights["layers.2.weight"] is other
    assert changed.layers[4] is network.layers[4]
    np.testing.assert_array_equal(changed.layers[0].bias, 1)
    assert network.weights["layers.2.weight"] is network.layers[2].weight
    with pytest.raises(UnknownNameError, match=r"'layers\.0\.weight'"):
        network.replaced({"layers.1.weight": other})
    with pytest.raises(ShapeError):
        network.replaced({"layers.2.weight": random_csr(rng, 9, 21)})
