"""The Graph Challenge over inputs on an executor: each worker makes or reads the network itself."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gbdnn import checks
from gbdnn.backends import get_backend
from gbdnn.challenge import files, runner
from gbdnn.challenge.generate import Spec
from gbdnn.challenge.images import InputBits
from gbdnn.challenge.runner import ChallengeInputs, ColumnSums, Result
from gbdnn.challenge.source import ChallengeSource
from gbdnn.distributed.chunks import STEP
from gbdnn.distributed.executors import opened
from gbdnn.distributed.prediction import threads_for
from gbdnn.distributed.scheduling import completed
from gbdnn.execution import executor as local
from gbdnn.execution.source import Work
from gbdnn.machine import default_threads, peak_rss_bytes
from gbdnn.types import Array

__all__ = ["opened", "run"]

SHARE = 2  # chunks for each slot: in large ones, what is left of the inputs fills more tiles


@dataclass(frozen=True, eq=False)
class _Part:
    """What a worker says of some inputs, and of itself."""

    alive: Array
    sums: Array
    work: Work
    threads: int
    worker: str
    load_seconds: float
    compact_seconds: float
    compact_edges: int | None
    peak: int


def run(
    spec: Spec,
    inputs: ChallengeInputs,
    *,
    executor: Any,
    backend: str = "fused",
    threads: int | None = None,
    skip: bool = True,
    compact: bool = True,
    data: Path | None = None,
    truth: Path | None = None,
    chunk: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Result | None:
    """Run one network, the inputs spread over workers; see `gbdnn.challenge.runner.run`.

    Parameters
    ----------
    executor : Executor, callable or str
        See `gbdnn.distributed.opened`.
    data : Path, optional
        A folder that all workers see.
    chunk : int, optional
        Inputs that a task takes, a multiple of 128 at least; default two for each worker.
    progress : callable, optional
        Gets the number of (input, layer) pairs just computed.

    Returns
    -------
    Result or None
        Categories and sums are those of one process, bit for bit. Its record has the `workers` that
        took part; `threads` is their sum, `load_seconds` the longest that one has taken to load,
        `seconds` what the rest took from the first task to the last result. None in ranks that were
        workers of "mpi".
    """
    get_backend(backend)
    known = None if truth is None else files.read_categories(truth)
    count = inputs.bits.count
    with opened(executor) as pool:
        if pool is None:
            return None
        if chunk is None:
            chunk = max(-(-count // (SHARE * pool.slots)), STEP)
        step = -(-checks.count("chunk", chunk) // STEP) * STEP
        spans = [(start, min(start + step, count)) for start in range(0, count, step)]
        settings = (backend, skip, compact)
        begin = time.perf_counter()

        def give(k: int) -> Future[Any]:
            part = inputs.bits.part(*spans[k])
            return pool.submit(_ran, spec, data, settings, threads_for(pool, threads), part)

        sink, found = ColumnSums(count, spec.neurons), list[_Part]()
        for k, part in completed(pool, spans, give, ordered=False):
            start, stop = spans[k]
            sink.alive[start:stop], sink.sums[start:stop] = part.alive, part.sums
            found.append(part)
            if progress:
                progress((stop - start) * spec.layers)
        seconds = time.perf_counter() - begin
    work = Work(0, sum(part.work.effective_edges for part in found))
    loaded = max(part.load_seconds for part in found)
    work.seconds = max(seconds - loaded, 1e-9)
    source = ChallengeSource(spec, data, compact)
    workers = {part.worker: part.threads for part in found}
    result = runner.finished(
        inputs, source, sink, work, loaded, known=known, backend=backend, skip=skip,
        compact=compact, threads=sum(workers.values()), workers=len(workers),
    )  # fmt: skip
    last = found[-1]
    result.record.update(
        compact_seconds=last.compact_seconds, compact_edges=last.compact_edges,
        peak_rss_bytes=max(part.peak for part in found),
    )  # fmt: skip
    return result


# -- in a worker -----------------------------------------------------------------------------------

_lock = threading.Lock()
_loaded: dict[Any, tuple[ChallengeSource, float]] = {}  # the last network


def _source(spec: Spec, data: Path | None, backend: str, compact: bool) -> Any:
    """Return the network, loaded, and the seconds that this took, once in a process."""
    key = spec, data, backend, compact
    with _lock:
        if key not in _loaded:
            _loaded.clear()
            begin = time.perf_counter()
            source = ChallengeSource(spec, data, compact)
            source.load(get_backend(backend), None)
            get_backend(backend).warm_up(source.dtype)
            _loaded[key] = source, time.perf_counter() - begin
        return _loaded[key]


def _ran(
    spec: Spec,
    data: Path | None,
    settings: tuple[str, bool, bool],
    threads: tuple[int | None, int],
    bits: InputBits,
) -> _Part:
    """Compute some inputs."""
    backend, skip, compact = settings
    source, seconds = _source(spec, data, backend, compact)
    asked, tasks = threads
    number = max(default_threads() // tasks, 1) if asked is None else asked
    sink = ColumnSums(bits.count, spec.neurons)
    work = local.run(
        source, source.behind_first(bits), sink, backend=get_backend(backend), threads=number,
        skip=skip,
    )  # fmt: skip
    if source.first is not None:
        work.effective_edges += source.first.nnz * bits.count
    return _Part(
        sink.alive, sink.sums, work, number, f"{platform.node()} {os.getpid()}",
        seconds + work.waited, source.compact_seconds, source.compact_edges, peak_rss_bytes(),
    )  # fmt: skip
