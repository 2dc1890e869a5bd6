"""The cases of `gbdnn bench sweep` under pytest-benchmark.

    pytest benchmarks --benchmark-json out.json

All engines share this process here, so each runs on one thread: several thread pools in one
process stall each other. `gbdnn bench sweep` gives each engine a process and all cores.
GBDNN_BENCH=full takes more cases.
"""

import os

import pytest

from benchmarks import peers
from benchmarks.correctness import agreement
from benchmarks.measuring import make_network, prepared
from benchmarks.sweep import SweepJob

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
    if (how := peers.missing(engine)) is not None:
        pytest.skip(f"not installed: {how}")
    job = SweepJob(
        engine=engine, op="affine", size=size, layers=1, density=density, batch=batch, threads=1
    )
    weights, biases, X = make_network(job)
    made = prepared(job, weights, biases)
    benchmark.group = f"size {size}, density {density}, batch {batch}"
    benchmark.extra_info.update(
        backend=engine, size=size, density=density, batch=batch, nnz=job.nnz,
        edges=job.nnz * batch, threads=job.threads,
    )  # fmt: skip
    with made.scope():
        entered = made.enter(X, batch)
        made.run(entered)
        result = benchmark(made.run, entered)
        assert agreement(weights, biases, X, made.leave(result)).right
    benchmark.extra_info["weight_bytes"] = made.nbytes()
    if benchmark.stats is not None:  # None with --benchmark-disable
        rate = job.nnz * batch / benchmark.stats.stats.median / 1e9
        benchmark.extra_info["gedge_per_s"] = rate
