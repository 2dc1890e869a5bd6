"""The cases of `gbdnn bench sweep` under pytest-benchmark.

    pytest benchmarks --benchmark-json out.json

One layer as the bare product, and four as a user calls `predict`, with biases of each kind. All
engines share this process here, so each runs on one thread: several thread pools in one process
stall each other. `gbdnn bench sweep` gives each engine a process and all cores.
GBDNN_BENCH=full takes more cases.
"""

import os

import pytest

from benchmarks import peers
from benchmarks.correctness import agreement
from benchmarks.measuring import make_network, prepared
from benchmarks.sweep import BIASES, grid

FULL = os.environ.get("GBDNN_BENCH") == "full"
LISTS = {
    "sizes": (512, 2048, 8192) if FULL else (512, 2048),
    "densities": (0.2, 0.1, 0.05, 0.01, 0.001) if FULL else (0.1, 0.01),
    "batches": (1, 64, 256) if FULL else (64,),
    "threads": 1,
}
JOBS = grid(["dense", "graphblas", "fused", *sorted(peers.PEERS)], ops=["affine"], **LISTS)
JOBS += grid(["fused", "auto", "torch-csr"], ops=["predict"], layers=4, biases=BIASES, **LISTS)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.key.partition(" ")[2].replace(" ", ","))
def test_sweep(benchmark, job):
    if (how := peers.missing(job.engine)) is not None:
        pytest.skip(f"not installed: {how}")
    weights, biases, X = make_network(job)
    engine = prepared(job, weights, biases)
    benchmark.group = job.key.partition("op=")[2]
    with engine.scope():
        batch = engine.enter(X, job.batch)
        engine.run(batch)
        result = benchmark(engine.run, batch)
        assert agreement(weights, biases, X, engine.leave(result)).right
    benchmark.extra_info.update(
        backend=job.engine, size=job.size, density=job.density, batch=job.batch, bias=job.bias,
        op=job.op, nnz=job.nnz, edges=job.nnz * job.batch, threads=job.threads,
        weight_bytes=engine.nbytes(),
    )  # fmt: skip
    if benchmark.stats is not None:  # None with --benchmark-disable
        rate = job.nnz * job.batch / benchmark.stats.stats.median / 1e9
        benchmark.extra_info["gedge_per_s"] = rate
