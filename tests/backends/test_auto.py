"""The auto backend: decisions by an invented table, results, forms, threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import oracle
import pytest
from builders import THREADS, random_csr, random_dense
from costs import flat_table, make_table
from numpy.testing import assert_allclose

from gbdnn import CSR, Linear, Network, ReLU, as_csr, calibration
from gbdnn.backends import auto, get_backend
from gbdnn.backends.auto import AutoWeight, Layer, choose, layer_of, shared_rows
from gbdnn.costs import COSTS, CostTable
from gbdnn.errors import InputError, UnknownNameError

SHAPE = (100, 100)


@pytest.fixture
def table() -> Iterator[CostTable]:
    """The flat table, in use."""
    table = flat_table()
    before = calibration._override
    calibration.override(table)
    yield table
    calibration.override(before)


@pytest.fixture
def mixed_table() -> Iterator[CostTable]:
    """One sample: dense is fastest; 4 samples: graphblas; more than 8: fused."""
    costs = {name: np.full((2, 2, 2, 3), 50.0) for name in COSTS}
    costs["dense"][..., 0] = costs["graphblas"][..., 1] = costs["fused"][..., 2] = 1.0
    table = make_table(costs)
    before = calibration._override
    calibration.override(table)
    yield table
    calibration.override(before)


def call(w: Any, Y: Any, threads: int = 1, pinned: bool = True) -> Any:
    """Return relu(W Y) from the auto backend."""
    backend = get_backend("auto")
    out = np.empty((w.layer.shape[0], Y.shape[1]), Y.dtype)
    bias = np.zeros((), Y.dtype)
    if pinned:
        with backend.pinned(threads):
            backend.affine(w, Y, bias, ReLU(), out, threads)
    else:
        backend.affine(w, Y, bias, ReLU(), out, threads)
    return out


# -- decisions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("edges", "engine"), [(2300, "fused"), (2800, "dense"), (10, "fused")])
def test_crossover_in_density(edges: int, engine: str) -> None:
    assert choose(flat_table(), Layer(SHAPE, edges), 64, 1) == engine


def test_home_engine_wins_ties() -> None:
    # 4 x 2600 against 10,000: 4 % slower, within the tolerance; 4 x 2700 is not
    assert choose(flat_table(), Layer(SHAPE, 2600), 64, 1) == "fused"
    assert choose(flat_table(), Layer(SHAPE, 2700), 64, 1) == "dense"


@pytest.mark.parametrize(
    ("batch", "engine"),
    [(1, "dense"), (4, "graphblas"), (9, "fused"), (16, "fused"), (256, "fused")],
)
def test_crossover_in_batch(mixed_table: CostTable, batch: int, engine: str) -> None:
    assert choose(mixed_table, Layer(SHAPE, 5000), batch, 1) == engine


def test_threads_choose_their_part_of_the_table() -> None:
    costs = {name: np.full((2, 2, 2, 3), 50.0) for name in COSTS}
    costs["fused"][0] = costs["graphblas"][1] = 1.0
    table = make_table(costs)
    chosen = [choose(table, Layer(SHAPE, 100), 8, threads) for threads in (1, 2, 5)]
    assert chosen == ["fused", "graphblas", "graphblas"]
    assert choose(table, Layer(SHAPE, 100), 64, 2) == "fused"  # tiles: one thread each


def test_costs_are_interpolated_in_logarithms() -> None:
    costs = {name: np.ones((1, 2, 2, 3)) for name in COSTS}
    costs["fused"][..., 2] = 9.0
    table = make_table(costs)

    def seconds(batch: int) -> float:
        return table.seconds("fused", SHAPE, 100, batch) / (100 * batch)

    assert_allclose([seconds(b) for b in (4, 32, 256, 4096)], [1e-9, 3e-9, 9e-9, 9e-9], rtol=1e-3)
    assert table.seconds("fused", SHAPE, 100, 32, itemsize=8) == table.seconds(
        "fused", SHAPE, 100, 64
    )


def test_dense_weights_stay_dense_unless_fused_is_measured_faster(rng: Any) -> None:
    weight = random_dense(rng, 20, 30, 1.0)
    for shared, engine in ((2.0, "dense"), (1.01, "dense"), (0.9, "fused")):
        table = flat_table(fused_shared=shared)
        assert choose(table, layer_of(table, weight), 64, 1) == engine


def test_shared_patterns_make_fused_cheaper(rng: Any) -> None:
    pattern = rng.random(100) < 0.4
    structured = as_csr((random_dense(rng, 100, 100, 1.0) * pattern).astype(np.float32))
    scattered = random_csr(rng, 100, 100, 0.4)
    assert shared_rows(structured) == 1.0
    assert shared_rows(scattered) == 0.0
    table = flat_table()
    assert choose(table, layer_of(table, structured), 64, 1) == "fused"
    assert choose(table, layer_of(table, scattered), 64, 1) == "dense"


def test_shared_rows_of_an_empty_weight(rng: Any) -> None:
    assert shared_rows(random_csr(rng, 5, 5, 0.0)) == 0.0


@pytest.mark.parametrize("free", [1 << 40, 1 << 27])
def test_dense_is_excluded_above_the_memory_guard(
    monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(auto, "available_bytes", lambda: free)
    table = flat_table(dense=1e-3)  # so fast that it would always win
    shape = (17_000, 17_000) if free > 1 << 30 else (5_000, 5_000)  # 1.08 GiB, 95 MiB
    indptr = np.zeros(shape[0] + 1, np.int32)
    nothing = np.zeros(0, np.int32)
    weight = CSR.unchecked(indptr, nothing, np.zeros(0, np.float32), shape)
    layer = layer_of(table, weight)
    assert not layer.dense_fits
    assert {choose(table, layer, batch, 1) for batch in (1, 64, 256)} == {"fused"}


def test_an_engine_without_memory_gives_way_to_the_home_engine(
    rng: Any, monkeypatch: pytest.MonkeyPatch, mixed_table: CostTable
) -> None:
    def refuse(weight: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(get_backend("dense"), "prepare", refuse)
    w = AutoWeight(random_csr(rng, 9, 9, 0.5), mixed_table)
    call(w, np.ones((9, 1), np.float32))
    assert w.engines == ("fused",)


# -- forms -----------------------------------------------------------------------------------------


def test_one_engine_for_all_batches_means_one_form(rng: Any, table: CostTable) -> None:
    w = get_backend("auto").prepare(random_csr(rng, 30, 30, 0.1))
    assert w.engines == ("fused",)
    for batch in (1, 16, 200):
        call(w, np.ones((30, batch), np.float32))
    assert w.engines == ("fused",)
    assert w.nbytes == w.calls[1, 1][1].nbytes


def test_forms_are_made_when_they_are_used(rng: Any, mixed_table: CostTable) -> None:
    weight = random_csr(rng, 30, 30, 0.5)
    w = get_backend("auto").prepare(weight)
    assert w.engines == ()
    assert w.nbytes == weight.nbytes
    call(w, np.ones((30, 1), np.float32))
    assert w.engines == ("dense",)
    call(w, np.ones((30, 256), np.float32))
    assert w.engines == ("dense", "fused")
    assert w.nbytes > 30 * 30 * 4


def test_first_use_from_many_threads_makes_each_form_once(
    rng: Any, monkeypatch: pytest.MonkeyPatch, mixed_table: CostTable
) -> None:
    made = []
    prepare = get_backend("fused").prepare

    def slow(weight: Any) -> Any:
        made.append(threading.get_ident())
        time.sleep(0.02)
        return prepare(weight)

    monkeypatch.setattr(get_backend("fused"), "prepare", slow)
    dense = random_dense(rng, 30, 30, 0.5)
    w = AutoWeight(as_csr(dense), mixed_table)
    Y = rng.random((30, 256)).astype(np.float32)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: call(w, Y), range(8)))
    assert len(made) == 1
    for result in results:
        assert_allclose(result, np.maximum(dense @ Y, 0), rtol=1e-4, atol=1e-5)


def test_batches_that_are_all_fused_run_as_one_call(rng: Any, mixed_table: CostTable) -> None:
    network = Network([Linear(random_csr(rng, 30, 30, 0.2), 0.1), "relu"] * 3)
    chain = network.chain(get_backend("auto"))
    assert chain.resolve(1, 1) is None  # dense
    assert chain.resolve(4, THREADS) is None  # graphblas
    fused = chain.resolve(64, 1)
    assert fused is chain.resolve(200, THREADS) is not None
    X = rng.standard_normal((64, 30))
    auto_result = network.predict(X, backend="auto", threads=1)
    np.testing.assert_array_equal(auto_result, network.predict(X, backend="fused", threads=1))


# -- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("samples", [1, 7, 16, 100, 600])
def test_mixed_network_equals_the_oracle(
    rng: Any, table: CostTable, samples: int, dtype: Any
) -> None:
    weights: list[Any] = [
        random_csr(rng, 40, 30, 0.6),  # dense by the table
        random_csr(rng, 50, 40, 0.05),  # fused
        random_dense(rng, 20, 50, 1.0),  # given dense
    ]
    layers: list[Any] = []
    for weight in weights:
        layers += [Linear(weight, rng.standard_normal(weight.shape[0]), dtype=dtype), "relu"]
    network = Network(layers)
    chosen = [row["backend"] for row in network.summary("auto").rows if row["backend"]]
    assert chosen == ["dense", "fused", "dense"]
    X = rng.standard_normal((samples, 30))
    for threads in {1, THREADS}:
        oracle.check(network.predict(X, backend="auto", threads=threads), network, X)


def test_every_engine_within_one_network(rng: Any, mixed_table: CostTable) -> None:
    network = Network([Linear(random_csr(rng, 20, 20, 0.5)), "tanh", Linear(np.eye(20)), "relu"])
    for samples in (1, 4, 256):
        X = rng.standard_normal((samples, 20)).astype(np.float32)
        oracle.check(network.predict(X, backend="auto", threads=1), network, X)
    first = next(network.steps(get_backend("auto")))
    assert set(first.weight.engines) == {"dense", "graphblas", "fused"}


def test_only_engines_that_run_are_pinned(
    rng: Any, monkeypatch: pytest.MonkeyPatch, mixed_table: CostTable
) -> None:
    entered: list[str] = []
    for name in ("dense", "graphblas"):
        pinned = get_backend(name).pinned

        def spy(threads: int, name: str = name, pinned: Any = pinned) -> Any:
            entered.append(f"{name} {threads}")
            return pinned(threads)

        monkeypatch.setattr(get_backend(name), "pinned", spy)
    w = AutoWeight(random_csr(rng, 9, 9, 0.5), mixed_table)
    Ys = {batch: np.ones((9, batch), np.float32) for batch in (1, 4, 256)}
    call(w, Ys[256])
    assert entered == []
    backend = get_backend("auto")
    with backend.pinned(2):
        for batch in (1, 4, 1, 256, 4):
            call(w, Ys[batch], pinned=False)
        with backend.pinned(1):
            call(w, Ys[1], pinned=False)
    assert entered == ["dense 2", "graphblas 2", "dense 1"]
    call(w, Ys[1], pinned=False)  # outside of a scope nothing is pinned
    assert len(entered) == 3


def test_pins_are_taken_back_after_an_error(rng: Any, mixed_table: CostTable) -> None:
    from gbdnn.backends import dense

    w = AutoWeight(random_csr(rng, 9, 9, 0.5), mixed_table)
    with pytest.raises(ValueError, match="matmul"), get_backend("auto").pinned(1):
        call(w, np.ones((8, 1), np.float32), pinned=False)
    assert not dense._active


# -- summary ---------------------------------------------------------------------------------------


def test_summary_shows_the_choice(rng: Any, mixed_table: CostTable) -> None:
    network = Network([Linear(random_csr(rng, 20, 20, 0.5)), "relu"])
    for samples, engine in ((1, "dense"), (4, "graphblas"), (64, "fused")):
        summary = network.summary("auto", batch_size=samples, threads=1)
        assert [row["backend"] for row in summary.rows] == [engine, ""]
        lines = str(summary).splitlines()
        assert lines[0].endswith("backend")
        assert lines[1].endswith(engine)
    assert str(network.summary("graphblas")).splitlines()[1].endswith("graphblas")
    assert "backend" not in str(network.summary())
    with pytest.raises(UnknownNameError):
        network.summary("autos")
    with pytest.raises(InputError):
        network.summary("auto", batch_size=0)


def test_all_tiles_of_a_run_get_the_same_engine(mixed_table: CostTable) -> None:
    """Skipping changes widths and threads of the calls; results must not change."""
    for edges in (50, 500, 2500, 5000, 9000):
        for shape in (SHAPE, (2000, 100)):
            layer = Layer(shape, edges)
            wide = {choose(mixed_table, layer, batch, k) for batch in (9, 16, 500) for k in (1, 2)}
            assert len(wide) == 1
