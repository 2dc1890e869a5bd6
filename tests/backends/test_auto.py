"""The auto backend: its rule, forms, results, one compiled call, pinning."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracle
import pytest
from builders import THREADS, random_csr, random_dense
from products import tiles
from test_affine import Signs

from gbdnn import CSR, Linear, Network, as_csr
from gbdnn.backends import auto, get_backend
from gbdnn.backends.auto import AutoBackend, choose_engine
from gbdnn.backends.base import Affine
from gbdnn.errors import MemoryBudgetError, ShapeError, UnknownNameError
from gbdnn.machine import threads as limits
from gbdnn.weights import Dense

# -- the rule --------------------------------------------------------------------------------------


def with_edges(edges):
    """Return a 30 x 30 CSR with so many entries."""
    return as_csr((np.arange(900) < edges).reshape(30, 30).astype(np.float32))


@pytest.mark.parametrize(
    ("edges", "engine"), [(0, "fused"), (300, "fused"), (301, "dense"), (900, "dense")]
)
def test_crossover_in_density(edges, engine):
    assert choose_engine(with_edges(edges)) == engine
    assert get_backend("auto").engine(with_edges(edges)) == engine
    assert get_backend("fused").engine(with_edges(edges)) == "fused"


@pytest.mark.parametrize("density", [0.0, 0.01, 1.0])
def test_dense_weights_stay_dense(density, rng):
    assert choose_engine(Dense(random_dense(rng, 20, 30, density))) == "dense"


def test_forms_without_kernels_are_fused(rng):
    weight = Signs(random_csr(rng, 20, 30, 0.9), np.ones(600, bool))
    assert choose_engine(weight) == "fused"


@pytest.mark.parametrize(
    ("side", "free", "engine"),
    [
        (16_384, 1 << 40, "dense"),  # 1 GiB in float32
        (16_385, 1 << 40, "fused"),
        (5_000, 200_000_001, "dense"),  # 100 MB
        (5_000, 199_999_999, "fused"),
        (4_096, 0, "dense"),  # 64 MiB: free memory is not looked up
    ],
)
def test_dense_is_excluded_above_the_memory_guard(side, free, engine, monkeypatch):
    class Half(CSR):
        """Says that half of its places are stored, without storing them."""

        nnz = property(lambda self: side * side // 2)

    monkeypatch.setattr(auto, "available_bytes", lambda: free)
    nothing = np.zeros(0, np.int32)
    parts = (np.zeros(side + 1, np.int32), nothing, np.zeros(0, np.float32), (side, side))
    weight = object.__new__(Half)
    for field, part in zip(("indptr", "indices", "values", "shape"), parts, strict=True):
        object.__setattr__(weight, field, part)
    assert choose_engine(weight) == engine


# -- forms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("density", [0.1, 0.9])
def test_the_form_is_the_engines(density, trained, rng):
    weight = random_csr(rng, 30, 40, density)
    w = get_backend("auto").prepare(weight, trained=trained)
    alone = get_backend(choose_engine(weight)).prepare(weight, trained=trained)
    assert type(w.form) is type(alone)
    assert w.nbytes == alone.nbytes
    assert (w.shape, w.dtype) == (alone.shape, alone.dtype)
    if trained:
        assert w.values is w.form.values
        assert w.pattern is w.form.pattern


@pytest.mark.parametrize("error", [MemoryError, MemoryBudgetError])
@pytest.mark.parametrize("trained", [False, True])
def test_dense_without_memory_gives_way_to_fused(trained, error, rng, monkeypatch):
    def refuse(weight, *, trained):
        raise error("dense", "less", "more") if error is MemoryBudgetError else error

    weight = random_csr(rng, 9, 9, 0.8)
    monkeypatch.setattr(get_backend("dense"), "prepare", refuse)
    for given in (weight, Dense(weight.to_dense())):
        assert get_backend("auto").prepare(given, trained=trained).engine == "fused"


def test_a_network_predicts_from_many_threads_at_first_use(rng):
    network = Network([Linear(random_csr(rng, 30, 30, 0.5)), "relu"])
    X = rng.standard_normal((256, 30)).astype(np.float32)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: network.predict(X, backend="auto", threads=1), range(8)))
    for result in results:
        oracle.check(result, network, X)


# -- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("samples", [1, 7, 16, 100, 600])
def test_mixed_network_equals_the_oracle(samples, dtype, rng):
    weights = [
        random_csr(rng, 40, 30, 0.6),  # dense by the rule
        random_csr(rng, 50, 40, 0.05),  # fused
        random_dense(rng, 20, 50, 1.0),  # given dense
    ]
    layers = []
    for weight in weights:
        layers += [Linear(weight, rng.standard_normal(weight.shape[0]), dtype=dtype), "relu"]
    network = Network(layers)
    chosen = [row["backend"] for row in network.summary("auto").rows if row["backend"]]
    assert chosen == ["dense", "fused", "dense"]
    X = rng.standard_normal((samples, 30))
    for threads in {1, THREADS}:
        oracle.check(network.predict(X, backend="auto", threads=threads), network, X)


def test_layers_that_are_all_fused_run_as_one_call(rng):
    backend, fused = AutoBackend(), get_backend("fused")
    sparse, full = random_csr(rng, 30, 30, 0.2), random_csr(rng, 30, 30, 0.8)
    bias = np.zeros(30, np.float32)
    forms = [backend.prepare(sparse) for _ in range(3)]
    assert type(backend.program([Affine(form, bias) for form in forms])) is type(
        fused.program([Affine(form.form, bias) for form in forms])
    )
    assert backend.program([Affine(w, bias) for w in (*forms, backend.prepare(full))]) is None
    network = Network([Linear(random_csr(rng, 30, 30, 0.2), 0.1), "relu"] * 3)
    X = rng.standard_normal((64, 30))
    auto_result = network.predict(X, backend="auto", threads=1)
    np.testing.assert_array_equal(auto_result, network.predict(X, backend="fused", threads=1))


def test_width_is_that_of_fused():
    backend, fused = get_backend("auto"), get_backend("fused")
    for features in (64, 1024, 65536):
        for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
            for batch in (None, 1, 100, 1000):
                assert backend.width(features, dtype, batch) == fused.width(features, dtype, batch)


# -- pinning ---------------------------------------------------------------------------------------


def test_blas_is_pinned_once_a_layer_runs_on_it(rng, monkeypatch):
    entered = []
    pinned = get_backend("dense").pinned

    def spy(threads):
        entered.append(threads)
        return pinned(threads)

    monkeypatch.setattr(get_backend("dense"), "pinned", spy)
    backend = AutoBackend()
    for density, wanted in ((0.1, []), (0.9, [2])):
        w = backend.prepare(random_csr(rng, 9, 9, density))
        with backend.pinned(2):
            backend.affine(w, tiles(rng, 1, 9, 16, np.float32), None, np.empty((1, 9, 16), "f4"))
        assert entered == wanted


def test_pins_are_taken_back_after_an_error(rng):
    backend = get_backend("auto")
    w = backend.prepare(random_csr(rng, 9, 9, 0.9))
    out = np.empty((1, 9, 16), np.float32)
    with pytest.raises(ShapeError), backend.pinned(1):
        backend.affine(w, np.ones((1, 8, 16), np.float32), None, out)
    assert not limits._blas.users


# -- summary ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("density", "engine"), [(0.1, "fused"), (0.9, "dense")])
def test_summary_shows_the_choice(density, engine, rng):
    network = Network([Linear(random_csr(rng, 20, 20, density)), "relu"])
    summary = network.summary("auto")
    assert [row["backend"] for row in summary.rows] == [engine, ""]
    lines = str(summary).splitlines()
    assert lines[0].endswith("backend")
    assert lines[1].endswith(engine)
    assert str(network.summary("graphblas")).splitlines()[1].endswith("graphblas")
    assert "backend" not in str(network.summary())
    with pytest.raises(UnknownNameError):
        network.summary("autos")
