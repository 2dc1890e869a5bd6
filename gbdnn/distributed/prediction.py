"""`predict` and `stream`: a network over the rows of X on any `concurrent.futures.Executor`."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.backends import BACKENDS
from gbdnn.distributed.chunks import Rows, read_rows, rows_of, spans_of
from gbdnn.distributed.executors import Pool, opened
from gbdnn.distributed.scheduling import AGAIN, completed
from gbdnn.distributed.shipping import Payload, Segment, key_of, network_of, pack
from gbdnn.errors import DtypeError, InputError, ShapeError, choose
from gbdnn.execution import executor as local
from gbdnn.machine import default_threads
from gbdnn.network import Network, check_network
from gbdnn.progress import shown
from gbdnn.types import Array

__all__ = ["predict", "stream", "threads_for"]


def predict(
    network: Network,
    X: Any,
    *,
    executor: Any,
    lengths: Any = None,
    out: Array | None = None,
    chunk: int | None = None,
    backend: str = "fused",
    threads: int | None = None,
    progress: bool | Callable[[int], None] = False,
    check_finite: bool = True,
    skip: bool = True,
) -> Any:
    """Return the last layer's output for each sample, computed by the workers of an executor.

    Parameters
    ----------
    network : Network
        Goes once to each worker: through shared memory on the same host, by `Client.scatter` with
        Dask, else with the first chunk that a worker takes. Workers keep it for later calls.
    X : array_like, scipy sparse, Dask array, or sequences; n_samples rows
        As `Network.predict` takes it. A `numpy.memmap` is mapped by the workers of a process pool
        themselves; chunks of a Dask array are computed where the cluster wants, with a Dask
        executor they never come here.
    executor : Executor, callable or str
        A `ProcessPoolExecutor` (made with the start method "spawn"), `Client.get_executor()`, an
        `MPIPoolExecutor`, or any other; a function that makes one; or "processes:4",
        "dask://host:8786", "mpi". See `gbdnn.distributed.opened`.
    lengths : array_like of int, shape (n_samples,), optional
        Time steps of padded sequences.
    out : ndarray of `network.dtype`, shape (n_samples, out_features), optional
        Where results go, a `numpy.memmap` for example; not for sequences with a result for each
        time step.
    chunk : int, optional
        Rows that a task takes; default some tasks for each worker, at most 4 MB. A Dask array is
        cut at its own chunks.
    backend : str
    threads : int, optional
        Of each task; default the cores of a host over the tasks that run there at the same time.
    progress : bool or callable
        True shows a bar; a callable gets the number of rows just done.
    check_finite, skip : bool
        As for `Network.predict`.

    Returns
    -------
    ndarray of `network.dtype`, shape (n_samples, out_features)
        `out` if it was given; None in ranks that were workers of "mpi". Of sequences what
        `Network.predict` returns. On the backends "fused" and "graphblas" the bits of
        `Network.predict`, whatever the chunks are; a product of dense BLAS may be rounded in
        another way in a batch of another size.

    Raises
    ------
    WorkerError
        If workers died and the executor cannot replace them; its `done` has the rows that there are
        results of.
    ShapeError, DtypeError, NonFiniteError, SparseFormatError, MemoryBudgetError, UnknownNameError
        As `Network.predict`; what is wrong in the middle of X may be found after rows behind it.

    Warns
    -----
    UserWarning
        When rows of a worker that died are done again.
    """
    with opened(executor) as pool:
        if pool is None:
            return None
        rows = _checked(network, X, pool, lengths, backend, check_finite)
        options = {"backend": backend, "threads": threads, "check_finite": check_finite,
                   "skip": skip}  # fmt: skip
        parts: dict[int, Any] = {}
        if out is not None:
            _check_out(out, network, rows)
        with shown("predict", rows.count, progress) as advance:
            for (start, stop), result in _results(network, rows, pool, chunk, False, options):
                if isinstance(result, list) or result.ndim == 3:
                    parts[start] = result
                else:
                    if out is None:
                        out = local.result_array(rows.count, network.out_features, network.dtype)
                    out[start:stop] = result
                if advance:
                    advance(stop - start)
        if out is not None:
            return out
        found = [parts[start] for start in sorted(parts)]
        if found and isinstance(found[0], list):
            return [sequence for part in found for sequence in part]
        if found:
            return np.concatenate(found)
        return network.predict(X.compute() if hasattr(X, "compute") else X, lengths=lengths)


def stream(
    network: Network,
    X: Any,
    *,
    executor: Any,
    lengths: Any = None,
    chunk: int | None = None,
    backend: str = "fused",
    threads: int | None = None,
    check_finite: bool = True,
    skip: bool = True,
) -> Iterator[Any]:
    """Yield the results of `predict` chunk by chunk, in the order of the rows.

    A bounded number of chunks is under way or waits to be taken, so that neither X nor the results
    need to fit into memory. Arguments and errors are those of `predict`.
    """
    with opened(executor) as pool:
        if pool is None:
            return
        rows = _checked(network, X, pool, lengths, backend, check_finite)
        options = {"backend": backend, "threads": threads, "check_finite": check_finite,
                   "skip": skip}  # fmt: skip
        for _, result in _results(network, rows, pool, chunk, True, options):
            yield result


def threads_for(pool: Pool, threads: int | None) -> tuple[int | None, int]:
    """Return what a worker must know to choose its threads: what was asked for, tasks on a host."""
    given = None if threads is None else checks.count("threads", threads)
    return given, pool.slots_a_host


def _checked(
    network: Network, X: Any, pool: Pool, lengths: Any, backend: str, check_finite: bool
) -> Rows:
    check_network("network", network)
    choose("backend", backend, BACKENDS)
    return rows_of(X, network, pool, lengths=lengths, check_finite=check_finite)


def _check_out(out: Any, network: Network, rows: Rows) -> None:
    if not isinstance(out, np.ndarray) or out.dtype != network.dtype:
        got = str(out.dtype) if isinstance(out, np.ndarray) else type(out).__name__
        raise DtypeError("out", f"an ndarray of {network.dtype}", got)
    if out.shape != (rows.count, network.out_features):
        raise ShapeError("out", f"shape {(rows.count, network.out_features)}", f"{out.shape}")
    if not out.flags.writeable:
        raise InputError("out", "an array that can be written", "a read-only one")


def _results(
    network: Network, rows: Rows, pool: Pool, chunk: int | None, ordered: bool,
    options: dict[str, Any],
) -> Iterator[tuple[tuple[int, int], Any]]:  # fmt: skip
    """Yield ((start, stop), result) of all chunks."""
    given = None if chunk is None else checks.count("chunk", chunk)
    spans = spans_of(rows, network, pool.slots, given)
    options |= {"threads": threads_for(pool, options["threads"])}
    with _shipped(network, pool) as shipment:

        def give(k: int) -> Future[Any]:
            start, stop = spans[k]
            return pool.submit(_predicted, *shipment.task(k), rows.part(start, stop), options)

        found = completed(pool, spans, give, accept=shipment.accept, held=shipment.released,
                          lost=shipment.lost, ordered=ordered)  # fmt: skip
        try:
            for k, result in found:
                yield spans[k], result
        finally:
            found.close()  # type: ignore[attr-defined]


def _predicted(
    key: str, place: str | None, payload: Payload | None, given: Any, options: dict[str, Any]
) -> tuple[str, Any]:
    """Compute a chunk, in a worker; return who it is, and the result or None: network not known."""
    network = network_of(key, place, payload)
    who = f"{platform.node()} {os.getpid()}"
    if network is None:
        return who, None
    asked, tasks = options["threads"]
    threads = max(default_threads() // tasks, 1) if asked is None else asked
    X, lengths = read_rows(given)
    return who, network.predict(X, lengths=lengths, **{**options, "threads": threads})


class Shipment:
    """Decides which tasks carry the network, and how.

    Where workers should know the key already a task has nothing but that; else also the name of a
    segment of shared memory. Where that is not seen, on another host, the network itself comes with
    one task for each worker that has asked, while the worker's other chunks wait.
    """

    def __init__(self, network: Network, pool: Pool) -> None:
        self.network, self.pool, self.key = network, pool, key_of(network)
        self.known = pool.in_process or self.key in pool.known  # from a call before
        self.asked: dict[int, str] = {}  # chunks that carry the network: the worker that asked
        self.named: set[int] = set()  # chunks that went with the name of the segment
        self.waiting: list[int] = []
        self.ready: list[int] = []

    @cached_property
    def segment(self) -> Segment | None:
        """The network in shared memory; None if there is not enough, as in many containers."""
        try:
            return Segment(self._packed)
        except OSError:
            return None

    @cached_property
    def payload(self) -> Any:
        """What a task is given that carries the network."""
        return self.pool.payload(self._packed)

    @cached_property
    def _packed(self) -> Payload:
        return pack(self.network)

    def task(self, k: int) -> tuple[str, str | None, Any]:
        """Return key, name of the segment, and payload for a task with chunk k."""
        if k in self.asked or (self.pool.scatters and not self.known):
            return self.key, None, self.payload
        if self.known:
            return self.key, None, None
        self.named.add(k)
        return self.key, None if self.segment is None else self.segment.name, None

    def accept(self, k: int, answer: tuple[str, Any]) -> Any:
        """Return a result; AGAIN or None for a chunk whose worker lacks the network."""
        who, result = answer
        if self.asked.pop(k, None) is not None:
            self.ready, self.waiting = self.ready + self.waiting, []
        if result is not None:
            self.pool.known.add(self.key)
            return result
        self.known = False  # a new worker, or one that has forgotten
        if self.pool.scatters or k not in self.named:
            return AGAIN
        if who in self.asked.values():
            self.waiting.append(k)
            return None
        self.asked[k] = who
        return AGAIN

    def released(self) -> list[int]:
        """Return chunks that waited for a worker to get the network."""
        ready, self.ready = self.ready, []
        return ready

    def lost(self) -> None:
        """Workers died, and with them perhaps what was scattered."""
        self.__dict__.pop("payload", None)
        self.known = self.pool.in_process

    def close(self) -> None:
        """Remove the segment."""
        segment = self.__dict__.pop("segment", None)
        if segment is not None:
            segment.close()


@contextmanager
def _shipped(network: Network, pool: Pool) -> Iterator[Shipment]:
    shipment = Shipment(network, pool)
    try:
        yield shipment
    finally:
        shipment.close()
