"""What is timed is right, is timed long enough, and is the same for all engines."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.burble import kernels_of, read_burble
from benchmarks.correctness import agreement
from benchmarks.measuring import make_network, measure_engine, prepared
from benchmarks.sweep import BIASES, OPS, SweepJob
from benchmarks.timing import Timing, measure, median_spread

QUICK = Timing(rounds=3, spread=1.0, min_time=0.0, max_time=0.01)
JOB = SweepJob(
    engine="graphblas", op="forward", size=96, layers=2, density=0.1, batch=17, threads=1,
    timing=QUICK,
)  # fmt: skip


def engine_of(job, weights, biases):
    if job.engine in peers.PEERS:
        pytest.importorskip(peers.PEERS[job.engine].module)
    return prepared(job, weights, biases)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", ["dense", "graphblas", "graphblas-reference", "fused", "scipy"])
@pytest.mark.parametrize(("density", "batch"), [(0.1, 17), (1.0, 1)])
def test_engines_agree_with_float64(name, op, density, batch):
    job = replace(JOB, engine=name, op=op, density=density, batch=batch)
    weights, biases, X = make_network(job)
    record = measure_engine(job, engine_of(job, weights, biases), weights, biases, X)
    assert record["status"] == "ok"
    assert record["error_over_tolerance"] <= 1
    assert record["nnz"] == job.nnz
    assert record["edges"] == job.nnz * batch
    assert record["weight_bytes"] > 0


@pytest.mark.parametrize("factor", [1.001, 0.999])
@pytest.mark.parametrize(("size", "density"), [(64, 0.05), (512, 0.01), (1024, 1.0)])
def test_a_wrong_engine_gets_no_time(factor, size, density):
    """The check fails for a subject that is wrong by 0.1 %."""
    job = replace(JOB, engine="scipy", op="affine", size=size, layers=1, density=density, batch=8)
    weights, biases, X = make_network(job)
    right = engine_of(job, weights, biases)
    wrong = replace(right, leave=lambda Y: right.leave(Y) * np.float32(factor))
    assert measure_engine(job, right, weights, biases, X)["status"] == "ok"
    record = measure_engine(job, wrong, weights, biases, X)
    assert record["status"] == "failed"
    assert "wrong result" in record["reason"]
    assert "seconds" not in record


@pytest.mark.parametrize("damage", ["one value", "nan", "shape", "swapped"])
def test_other_wrong_results(damage):
    weights, biases, X = make_network(JOB)
    engine = engine_of(JOB, weights, biases)
    result = engine.leave(engine.run(engine.enter(X, len(X)))).copy()
    assert agreement(weights, biases, X, result).right
    if damage == "one value":
        result[0, np.argmax(result[0])] *= 1.001
    elif damage == "nan":
        result[0, 0] = np.nan
    elif damage == "shape":
        result = result[:, :-1]
    else:
        result[[0, -1]] = result[[-1, 0]]
    assert not agreement(weights, biases, X, result).right


def test_all_engines_get_the_same_matrices():
    first, _, X = make_network(JOB)
    other, _, Y = make_network(replace(JOB, engine="dense", op="affine"))
    assert np.array_equal(X, Y)
    assert np.array_equal(first[1].values, other[1].values)
    full = replace(JOB, density=1.0)
    sparse = make_network(full)[0][0]
    dense = make_network(replace(full, engine="dense"))[0][0]
    assert np.array_equal(sparse.to_dense(), dense)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("op", OPS)
def test_biases_of_every_kind(bias, op):
    job = replace(JOB, engine="dense", op=op, bias=bias, size=64)
    weights, biases, X = make_network(job)
    low, high = min(b.min() for b in biases), max(b.max() for b in biases)
    assert (low < 0, high > 0) == (bias in ("mixed", "negative"), bias in ("mixed", "positive"))
    engine = prepared(job, weights, biases)
    assert measure_engine(job, engine, weights, biases, X)["status"] == "ok"


def test_peers_chunks_give_the_same_result():
    job = replace(JOB, engine="scipy")
    weights, biases, X = make_network(job)
    engine = engine_of(job, weights, biases)
    whole, cut = (engine.leave(engine.run(engine.enter(X, width))) for width in (17, 5))
    assert np.allclose(whole, cut, rtol=1e-6)


def test_kernel_names_of_graphblas(capfd):
    weights, biases, X = make_network(JOB)
    engine = engine_of(JOB, weights, biases)
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
