"""One cell in a process of its own: ``python -m benchmarks.worker``, JSON in, JSON out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from benchmarks.cells import Cell
    from benchmarks.engines import Engine
    from benchmarks.timing import Timing
    from gbdnn.weights.csr import CSR

    Array = npt.NDArray[Any]

__all__ = ["main", "make_network", "measure_cell", "measure_engine"]


def main() -> None:
    """Read a job from standard input, write its record to standard output."""
    _die_with_parent()
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not mix with the record
    job = json.loads(sys.stdin.read())
    record = _roofline(job["dtype"]) if job["kind"] == "roofline" else _cell(job)
    with os.fdopen(answer, "w") as stream:
        stream.write(json.dumps(record))


def _cell(job: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.cells import Cell
    from benchmarks.timing import Timing

    try:
        return measure_cell(Cell(**job["cell"]), Timing(**job["timing"]))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip()
        return {"status": "failed", "reason": reason}


def _roofline(dtype: str) -> dict[str, Any]:
    from gbdnn.backends.fused.roofline import probe_roofline

    return asdict(probe_roofline(dtype))


def measure_cell(cell: Cell, timing: Timing) -> dict[str, Any]:
    """Make the cell's network, prepare its engine, time it and check it."""
    from benchmarks import engines, peers
    from gbdnn.backends import BACKENDS

    weights, biases, X = make_network(cell)
    _reset_peak()
    resident = _status_bytes("VmRSS")
    begin = time.perf_counter()
    if cell.engine in BACKENDS:
        engine = engines.prepare(cell.engine, cell.op, weights, biases, cell.threads)
    else:
        engine = peers.prepare(cell.engine, weights, biases, cell.threads)
        engine = engines.as_predict(engine) if cell.op == "predict" else engine
    prepared = time.perf_counter() - begin
    record = measure_engine(cell, engine, weights, biases, X, timing)
    return {**record, "prepare_seconds": prepared, "base_rss_bytes": resident}


def measure_engine(
    cell: Cell,
    engine: Engine,
    weights: list[CSR | Array],
    biases: list[Array],
    X: Array,
    timing: Timing,
) -> dict[str, Any]:
    """Time an engine and compare its result with float64; a wrong one gets no time.

    Returns
    -------
    dict
        What the worker contributes to a record (`benchmarks.harness` adds the rest).
    """
    from benchmarks.burble import kernels_of
    from benchmarks.oracle import compare
    from benchmarks.timing import measure

    with engine.scope():
        width = _best_width(engine, X)
        batch = engine.enter(X, width)
        before = _busy()
        timed = measure(lambda: engine.run(batch), timing)
        others = _others(before, _busy())
        peak = _peak()
        result = engine.leave(engine.run(batch))
        graphblas = cell.engine.startswith("graphblas")
        kernels = kernels_of(lambda: engine.run(batch)) if graphblas else []
    agreement = compare(weights, biases, X, result)
    nnz = sum(_stored(weight) for weight in weights)
    record = {
        "status": "ok",
        "nnz": nnz,
        "edges": nnz * cell.batch,
        **asdict(timed),
        "gedge_per_s": nnz * cell.batch / timed.seconds / 1e9,
        "others_busy": others,
        "weight_bytes": engine.nbytes(),
        "peak_rss_bytes": peak,
        "kernels": kernels,
        "engine_threads": engine.threads,
        "chunk": width,
        "max_error": agreement.max_error,
        "relative_error": agreement.relative_error,
        "error_over_tolerance": agreement.error_over_tolerance,
    }
    if agreement.right:
        return record
    reason = (
        f"wrong result: off by {agreement.max_error:.3g}, "
        f"{agreement.error_over_tolerance:.3g} times what rounding explains"
    )
    return {"status": "failed", "reason": reason}


def make_network(cell: Cell) -> tuple[list[CSR | Array], list[Array], Array]:
    """Return weights, biases and a batch X (n_samples, features); they depend on the cell only.

    At density 1 the values are drawn without drawing places; dense engines get an ndarray then.
    """
    import numpy as np

    from benchmarks.cells import DENSE
    from gbdnn.topology import erdos_renyi

    rng = np.random.default_rng([cell.seed, cell.size, cell.layers])
    dtype = np.dtype(cell.dtype)
    weights: list[CSR | Array] = []
    biases = []
    for _ in range(cell.layers):
        if cell.density == 1:
            weights.append(_full(cell.size, rng, dtype, sparse=cell.engine not in DENSE))
        else:
            weights.append(
                erdos_renyi(cell.size, cell.size, density=cell.density, rng=rng, dtype=dtype)
            )
        biases.append(rng.uniform(-0.1, 0.1, cell.size).astype(dtype))
    return weights, biases, rng.random((cell.batch, cell.size), dtype)


def _full(size: int, rng: np.random.Generator, dtype: np.dtype[Any], sparse: bool) -> CSR | Array:
    import numpy as np

    from gbdnn.weights.csr import CSR

    values = rng.standard_normal(size * size, dtype)
    values *= np.sqrt(2 / size).astype(dtype)
    if not sparse:
        return values.reshape(size, size)
    index = np.int32 if size * size < 2**31 else np.int64
    indptr = np.arange(0, size * size + 1, size, dtype=index)
    indices = np.tile(np.arange(size, dtype=index), size)
    return CSR.unchecked(indptr, indices, values, (size, size))


def _best_width(engine: Engine, X: Array) -> int:
    """Try the engine's chunk widths, three calls each after one to warm up."""
    widths = [len(X), *(width for width in engine.chunks if width < len(X))]
    if len(widths) == 1:
        return widths[0]
    seconds = {width: _quick(engine.run, engine.enter(X, width)) for width in widths}
    return min(seconds, key=seconds.__getitem__)


def _quick(run: Callable[[Any], Any], batch: Any) -> float:
    run(batch)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        run(batch)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _stored(weight: CSR | Array) -> int:
    from gbdnn.weights.csr import CSR

    return weight.nnz if isinstance(weight, CSR) else int(weight.size)


# -- the process -----------------------------------------------------------------------------------


def _die_with_parent() -> None:
    """Linux: end when the sweep ends, however it ends; be the OOM killer's first choice."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if sys.platform == "linux":
        import ctypes
        import signal

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _busy() -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds of this process, and of the whole machine (Linux)."""
    own = os.times()
    whole = 0.0
    with suppress(OSError):
        user, nice, system = Path("/proc/stat").read_text().split()[1:4]
        whole = (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), own.user + own.system, whole


def _others(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    """Return how many cores other processes kept busy meanwhile."""
    wall, own, whole = (b - a for a, b in zip(before, after, strict=True))
    return max(whole - own, 0.0) / wall if wall > 0 else 0.0


def _reset_peak() -> None:
    """Forget the peak so far, which making the matrices has set (Linux only)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    from gbdnn.machine import peak_rss_bytes

    return _status_bytes("VmHWM") or peak_rss_bytes()


def _status_bytes(field: str) -> int:
    """Return a size from /proc/self/status, 0 where there is none."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
