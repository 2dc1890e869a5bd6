"""The cases of `gbdnn bench sweep` under pytest-benchmark.

    pytest benchmarks --benchmark-json out.json

All engines share this process here, so each runs on one thread: several thread pools in one
process stall each other. `gbdnn bench sweep` gives each engine a process and all cores.
GBDNN_BENCH=full takes more cases.
"""

import os

import pytest

from benchmarks import engines, peers, worker
from benchmarks.cells import Cell
from benchmarks.oracle import compare

FULL = os.environ.get("GBDNN_BENCH") == "full"
SIZES = (512, 2048, 8192) if FULL else (512, 2048)
DENSITIES = (0.2, 0.1, 0.05, 0.01, 0.001) if FULL else (0.1, 0.01)
BATCHES = (1, 64, 256) if FULL else (64,)
ENGINES = ("dense", "graphblas", "fused", "scipy", "torch-csr", "torch-dense", "mkl")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("size", SIZES)
def test_forward(benchmark, engine, size, density, batch):
    """h(W Y + b), one layer, neuron-major."""
    cell = Cell(engine, "affine", size, 1, density, batch, 1)
    if engine in peers.PEERS and (how := peers.missing(engine)) is not None:
        pytest.skip(f"not installed: {how}")
    weights, biases, X = worker.make_network(cell)
    if engine in peers.PEERS:
        prepared = peers.prepare(engine, weights, biases, cell.threads)
    else:
        prepared = engines.prepare(engine, cell.op, weights, biases, cell.threads)
    benchmark.group = f"size {size}, density {density}, batch {batch}"
    benchmark.extra_info.update(
        backend=engine, size=size, density=density, batch=batch, nnz=cell.nnz,
        edges=cell.nnz * batch, threads=cell.threads,
    )  # fmt: skip
    with prepared.scope():
        entered = prepared.enter(X, batch)
        prepared.run(entered)
        result = benchmark(prepared.run, entered)
        assert compare(weights, biases, X, prepared.leave(result)).right
    benchmark.extra_info["weight_bytes"] = prepared.nbytes()
    if benchmark.stats is not None:  # None with --benchmark-disable
        rate = cell.nnz * batch / benchmark.stats.stats.median / 1e9
        benchmark.extra_info["gedge_per_s"] = rate
