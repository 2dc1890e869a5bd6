"""What is timed is right, is timed long enough, and is the same for all engines."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import engines, peers, worker
from benchmarks.burble import kernels_of, read_burble
from benchmarks.cells import OPS, Cell
from benchmarks.oracle import compare
from benchmarks.timing import Timing, measure, median_spread

QUICK = Timing(rounds=3, spread=1.0, min_time=0.0, max_time=0.01)
CELL = Cell("graphblas", "forward", 96, 2, 0.1, 17, 1)


def engine_of(cell, weights, biases):
    if cell.engine in peers.PEERS:
        pytest.importorskip(peers.PEERS[cell.engine].module)
        engine = peers.prepare(cell.engine, weights, biases, cell.threads)
        return engines.as_predict(engine) if cell.op == "predict" else engine
    return engines.prepare(cell.engine, cell.op, weights, biases, cell.threads)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", ["dense", "graphblas", "graphblas-reference", "fused", "scipy"])
@pytest.mark.parametrize(("density", "batch"), [(0.1, 17), (1.0, 1)])
def test_engines_agree_with_float64(name, op, density, batch):
    cell = replace(CELL, engine=name, op=op, density=density, batch=batch)
    weights, biases, X = worker.make_network(cell)
    record = worker.measure_engine(
        cell, engine_of(cell, weights, biases), weights, biases, X, QUICK
    )
    assert record["status"] == "ok"
    assert record["error_over_tolerance"] <= 1
    assert record["nnz"] == cell.nnz
    assert record["edges"] == cell.nnz * batch
    assert record["weight_bytes"] > 0


@pytest.mark.parametrize("factor", [1.001, 0.999])
@pytest.mark.parametrize(("size", "density"), [(64, 0.05), (512, 0.01), (1024, 1.0)])
def test_a_wrong_engine_gets_no_time(factor, size, density):
    """The check fails for a subject that is wrong by 0.1 %."""
    cell = Cell("scipy", "affine", size, 1, density, 8, 1)
    weights, biases, X = worker.make_network(cell)
    right = engine_of(cell, weights, biases)
    wrong = replace(right, leave=lambda Y: right.leave(Y) * np.float32(factor))
    assert worker.measure_engine(cell, right, weights, biases, X, QUICK)["status"] == "ok"
    record = worker.measure_engine(cell, wrong, weights, biases, X, QUICK)
    assert record["status"] == "failed"
    assert "wrong result" in record["reason"]
    assert "seconds" not in record


@pytest.mark.parametrize("damage", ["one value", "nan", "shape", "swapped"])
def test_other_wrong_results(damage):
    weights, biases, X = worker.make_network(CELL)
    engine = engine_of(CELL, weights, biases)
    result = engine.leave(engine.run(engine.enter(X, len(X)))).copy()
    assert compare(weights, biases, X, result).right
    if damage == "one value":
        result[0, np.argmax(result[0])] *= 1.001
    elif damage == "nan":
        result[0, 0] = np.nan
    elif damage == "shape":
        result = result[:, :-1]
    else:
        result[[0, -1]] = result[[-1, 0]]
    assert not compare(weights, biases, X, result).right


def test_all_engines_get_the_same_matrices():
    first, _, X = worker.make_network(CELL)
    other, _, Y = worker.make_network(replace(CELL, engine="dense", op="affine"))
    assert np.array_equal(X, Y)
    assert np.array_equal(first[1].values, other[1].values)
    full = replace(CELL, density=1.0)
    sparse = worker.make_network(full)[0][0]
    dense = worker.make_network(replace(full, engine="dense"))[0][0]
    assert np.array_equal(sparse.to_dense(), dense)


def test_peers_chunks_give_the_same_result():
    cell = replace(CELL, engine="scipy")
    weights, biases, X = worker.make_network(cell)
    engine = engine_of(cell, weights, biases)
    whole, cut = (engine.leave(engine.run(engine.enter(X, width))) for width in (17, 5))
    assert np.allclose(whole, cut, rtol=1e-6)


def test_kernel_names_of_graphblas(capfd):
    weights, biases, X = worker.make_network(CELL)
    engine = engine_of(CELL, weights, biases)
    batch = engine.enter(X, len(X))
    assert "GrB_mxm: saxpy5" in kernels_of(lambda: engine.run(batch))
    assert capfd.readouterr().out == ""
    engine.run(batch)
    assert capfd.readouterr().out == ""


def test_read_burble():
    report = (
        " [ GrB_reduce \n BinaryOp given name: [GxB_ANY_FP32]\nC=A'*B, (dot2) \n 1 s ]\n"
        " [ GrB_Matrix_nvals \n 2e-07 sec ]\n [ GrB_mxm C=A*B (saxpy5: F += F*S) \n 1e-4 s ]\n"
        " [ GrB_mxm C=A*B (saxpy5: F += F*S) \n 1e-4 s ]\n [ GrB_select (C dense) \n 1 s ]\n"
    )
    assert read_burble(report) == ["GrB_reduce: dot2", "GrB_mxm: saxpy5", "GrB_select"]


def test_spread_of_the_median():
    assert median_spread([1.0]) == 0
    assert median_spread([1.0, 1.0, 2.0]) == 0.5
    assert median_spread([1.0] * 99 + [50.0]) == 0  # an outlier does not matter
    draws = np.random.default_rng(0).normal(1.0, 0.1, 400)
    assert median_spread(list(draws)) == pytest.approx(1.96 * 1.2533 * 0.1 / 20, rel=0.4)


def test_rounds_end():
    """A call of 0 s and one with a wild spread both end, within the bounds that were given."""
    assert measure(lambda: None, Timing(rounds=5, spread=0.5, min_time=0.0)).rounds >= 5
    calls = iter([0.0] + [0.001, 0.02] * 500)
    import time

    timed = measure(lambda: time.sleep(next(calls)), Timing(3, 1e-9, 0.0, 0.2))
    assert timed.spread > 1e-9
    assert timed.rounds >= 3
