"""One engine on one network of a sweep, in this process: made, timed, and checked."""

from __future__ import annotations

import os
import time
import timeit
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks import engines, peers
from benchmarks.burble import kernels_of
from benchmarks.correctness import agreement
from benchmarks.engines import Engine
from benchmarks.process import Record, status_bytes
from benchmarks.sweep import BIASES, DENSE, SweepJob
from benchmarks.timing import measure
from gbdnn.backends import BACKENDS
from gbdnn.machine import peak_rss_bytes
from gbdnn.topology import erdos_renyi
from gbdnn.types import Array
from gbdnn.weights import Dense, Weight
from gbdnn.weights.patterns import full_pattern

__all__ = ["make_network", "measure_engine", "measure_job", "prepared"]


def measure_job(job: SweepJob) -> Record:
    """Make the job's network, prepare its engine, time it and check it."""
    weights, biases, X = make_network(job)
    _reset_peak()
    resident = status_bytes("VmRSS")
    begin = time.perf_counter()
    engine = prepared(job, weights, biases)
    record = {"prepare_seconds": time.perf_counter() - begin, "base_rss_bytes": resident}
    return record | measure_engine(job, engine, weights, biases, X)


def prepared(job: SweepJob, weights: Sequence[Weight], biases: Sequence[Array]) -> Engine:
    """Bring layers into the form of the job's engine."""
    if job.engine in BACKENDS:
        return engines.prepare(job.engine, job.op, weights, biases, job.threads)
    engine = peers.prepare(job.engine, weights, biases, job.threads)
    return engines.as_predict(engine) if job.op in ("predict", "no-skip") else engine


def measure_engine(
    job: SweepJob, engine: Engine, weights: Sequence[Weight], biases: Sequence[Array], X: Array
) -> Record:
    """Time an engine and compare its result with float64; a wrong one gets no time."""
    with engine.scope():
        width = _best_width(engine, X)
        batch = engine.enter(X, width)
        before = _busy()
        timed = measure(lambda: engine.run(batch), job.timing)
        others = _others(before, _busy())
        peak = status_bytes("VmHWM") or peak_rss_bytes()
        result = engine.leave(engine.run(batch))
        graphblas = job.engine.startswith("graphblas")
        kernels = kernels_of(lambda: engine.run(batch)) if graphblas else []
    found = agreement(weights, biases, X, result)
    if not found.right:
        reason = (
            f"wrong result: off by {found.max_error:.3g}, "
            f"{found.error_over_tolerance:.3g} times what rounding explains"
        )
        return {"status": "failed", "reason": reason}
    nnz = sum(weight.nnz for weight in weights)
    return {
        "status": "ok",
        "nnz": nnz,
        "edges": nnz * job.batch,
        **asdict(timed),
        "gedge_per_s": nnz * job.batch / timed.seconds / 1e9,
        "others_busy": others,
        "weight_bytes": engine.nbytes(),
        "peak_rss_bytes": peak,
        "kernels": kernels,
        "engine_threads": engine.threads,
        "chunk": width,
        **asdict(found),
    }


def make_network(job: SweepJob) -> tuple[list[Weight], list[Array], Array]:
    """Return weights, biases and a batch X (n_samples, features), the same for all engines.

    At density 1 the values are drawn without drawing places; dense engines get `Dense` then.
    """
    rng = np.random.default_rng([job.seed, job.size, job.layers])
    dtype, shape = np.dtype(job.dtype), (job.size, job.size)
    low, high = BIASES[job.bias]
    weights: list[Weight] = []
    biases = []
    for _ in range(job.layers):
        if job.density < 1:
            weights.append(erdos_renyi(*shape, density=job.density, rng=rng, dtype=dtype))
        else:
            values = rng.standard_normal(shape, dtype) * np.sqrt(2 / job.size).astype(dtype)
            weights.append(Dense(values) if job.engine in DENSE else full_pattern(values))
        biases.append(rng.uniform(low, high, job.size).astype(dtype))
    return weights, biases, rng.random((job.batch, job.size), dtype)


def _best_width(engine: Engine, X: Array) -> int:
    """Try the engine's chunk widths, three calls each after one to warm up."""

    def quickest(width: int) -> float:
        batch = engine.enter(X, width)
        engine.run(batch)
        return min(timeit.repeat(lambda: engine.run(batch), repeat=3, number=1))

    widths = [len(X), *(width for width in engine.chunks if width < len(X))]
    return min(widths, key=quickest) if len(widths) > 1 else widths[0]


def _busy() -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds of this process, and of the whole machine (Linux)."""
    own = os.times()
    whole = 0.0
    with suppress(OSError):
        user, nice, system, *_, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        whole = (user + nice + system + steal) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), own.user + own.system, whole


def _others(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    """Return how many cores other processes, or other guests of the host, took meanwhile."""
    wall, own, whole = (b - a for a, b in zip(before, after, strict=True))
    return max(whole - own, 0.0) / wall if wall > 0 else 0.0


def _reset_peak() -> None:
    """Forget the peak so far, which making the matrices has set (Linux only)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
