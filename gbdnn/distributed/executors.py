"""Executors of several kinds behind one interface, `Pool`, and how they are opened by name."""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

from gbdnn import checks
from gbdnn.distributed.shipping import Payload
from gbdnn.errors import DtypeError, InputError, MissingDependencyError, choose
from gbdnn.machine import available_cores

__all__ = ["KINDS", "Pool", "opened", "process_pool"]

LOCAL_SIZES = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_TASKS_PER_NODE")
"""Where launchers say how many ranks there are on a host."""


class Pool:
    """An executor as the loop over chunks sees it; this class does for any executor.

    Parameters
    ----------
    executor : Executor
    make : callable, optional
        Makes another executor when this one is broken.

    Attributes
    ----------
    slots : int
        Tasks that run at the same time.
    slots_a_host : int
        The most of them on one host.
    one_host : bool
        All workers are on this host: they see its files and its shared memory.
    scatters : bool
        `payload` puts a network onto the workers, so that any number of tasks may refer to it.
    rerun : tuple of exceptions
        By which a task ends that may be given out again.
    lost : tuple of exceptions
        By which a task ends whose workers died, and that is not to be given out again.
    """

    one_host: ClassVar[bool] = False
    scatters: ClassVar[bool] = False

    def __init__(self, executor: Any, make: Callable[[], Any] | None = None) -> None:
        self.executor, self.make = executor, make

    @classmethod
    def suits(cls, executor: Any) -> bool:
        """Return whether an executor is of this kind."""
        return isinstance(executor, Executor)

    @classmethod
    @contextmanager
    def opened(cls, where: str) -> Iterator[Pool | None]:
        """Make an executor as the text behind the kind's name says, and shut it down at the end.

        Gives None in processes that were only workers, when they have done their work.
        """
        raise NotImplementedError
        yield

    @property
    def slots(self) -> int:
        """Tasks that run at the same time."""
        return int(getattr(self.executor, "_max_workers", None) or available_cores())

    @property
    def slots_a_host(self) -> int:
        """The most of them on one host."""
        return self.slots

    @property
    def rerun(self) -> tuple[type[BaseException], ...]:
        """How a task ends that may be given out again."""
        return ()

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """How a task ends whose worker died for good."""
        return (BrokenExecutor,)

    @property
    def owner(self) -> Any:
        """What lives as long as the workers, for remembering which networks they have."""
        return self.executor

    @property
    def known(self) -> set[str]:
        """Keys of the networks that the workers were given."""
        return _known.setdefault(self.owner, set())

    @property
    def in_process(self) -> bool:
        """Workers are threads of this process, which see its networks."""
        return isinstance(self.executor, ThreadPoolExecutor)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Give out a task."""
        future: Future[Any] = self.executor.submit(function, *arguments)
        return future

    def payload(self, payload: Payload) -> Any:
        """Return what a task is given for a network that comes with it."""
        return payload

    def chunk(self, part: Any) -> Any:
        """Return what a task is given for the rows of a Dask array: here the rows."""
        return part.compute()

    def remake(self) -> bool:
        """Make another executor for one that is broken; False if that is not known how."""
        if self.make is None:
            return False
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.executor = self.make()
        return True

    def close(self) -> None:
        """Shut down an executor that was made here."""
        self.executor.shutdown(wait=True, cancel_futures=True)


class Processes(Pool):
    """`concurrent.futures.ProcessPoolExecutor`: "processes:4", or "processes" for one a core."""

    one_host = True

    @classmethod
    def suits(cls, executor: Any) -> bool:
        """Return whether it is one."""
        return isinstance(executor, ProcessPoolExecutor)

    @classmethod
    @contextmanager
    def opened(cls, where: str) -> Iterator[Pool | None]:
        """Start processes; `where` is their number."""
        if where and not where.isdecimal():
            raise InputError("executor", "a number behind 'processes:'", repr(where))
        number = checks.count("executor", int(where) if where else available_cores())
        pool = cls(process_pool(number), lambda: process_pool(number))
        try:
            yield pool
        finally:
            pool.close()


class MPI(Pool):
    """`mpi4py.futures`: "mpi" under mpiexec has rank 0 give out tasks and the others do them."""

    @classmethod
    def suits(cls, executor: Any) -> bool:
        """Return whether it comes from mpi4py."""
        return type(executor).__module__.startswith("mpi4py")

    @classmethod
    @contextmanager
    def opened(cls, where: str) -> Iterator[Pool | None]:
        """Use the ranks of mpiexec, or those that `python -m mpi4py.futures` has."""
        if where:
            raise InputError("executor", "'mpi' and nothing behind it", repr(where))
        try:
            from mpi4py import MPI as mpi
            from mpi4py import futures
        except ImportError:
            raise _missing("mpi", "mpi4py") from None
        if mpi.COMM_WORLD.size == 1 or "mpi4py.futures" in sys.orig_argv:
            if mpi.COMM_WORLD.size == 1:
                fix = "Start it by mpiexec -n 3 ...: one rank gives out tasks, the others work."
                raise InputError("executor", "several ranks for 'mpi'", "one", fix)
            with futures.MPIPoolExecutor() as executor:
                yield cls(executor)
            return
        with futures.MPICommExecutor(mpi.COMM_WORLD, root=0) as executor:
            yield None if executor is None else cls(executor)

    @property
    def slots(self) -> int:
        """Ranks that work."""
        return max(int(getattr(self.executor, "num_workers", 1)), 1)

    @property
    def slots_a_host(self) -> int:
        """What the launcher says, else all."""
        for name in LOCAL_SIZES:
            text = os.environ.get(name, "").split("(")[0]
            if text.isdecimal():
                return max(min(int(text), self.slots), 1)
        return self.slots


class Dask(Pool):
    """A Dask cluster: "dask://host:port", or what `Client.get_executor()` returns."""

    scatters = True

    @classmethod
    def suits(cls, executor: Any) -> bool:
        """Return whether it comes from dask.distributed."""
        return type(executor).__module__.startswith("distributed")

    @classmethod
    @contextmanager
    def opened(cls, where: str) -> Iterator[Pool | None]:
        """Connect to a scheduler; `where` is its address."""
        try:
            from distributed import Client
        except ImportError:
            raise _missing("dask", "distributed") from None
        address = where.removeprefix("//")
        if not address:
            expected = "the address of a scheduler, 'dask://host:8786'"
            raise InputError("executor", expected, repr(f"dask:{where}"))
        try:
            client = Client(f"tcp://{address}")
        except (OSError, ValueError) as error:
            fix = "Start one with dask scheduler, and workers with dask worker."
            got = str(error).partition("\n")[0] or type(error).__name__
            raise InputError("executor", f"a scheduler at {address}", got, fix) from None
        with client:
            yield cls(client.get_executor())

    @property
    def _client(self) -> Any:
        return self.executor._client

    @property
    def _hosts(self) -> dict[str, int]:
        """Threads of the workers of each host."""
        found: dict[str, int] = {}
        for address, threads in self._client.nthreads().items():
            where = address.partition("://")[2]  # host:port, of threads in this process host/...
            host = where.partition("/")[0].rpartition(":")[0] or where.partition("/")[0]
            found[host] = found.get(host, 0) + threads
        return found or {"": 1}

    @property
    def slots(self) -> int:
        """Threads of all workers: each runs one task."""
        return sum(self._hosts.values())

    @property
    def slots_a_host(self) -> int:
        """Threads of the workers of the host that has most."""
        return max(self._hosts.values())

    @property
    def rerun(self) -> tuple[type[BaseException], ...]:
        """Data that a task needed are gone with their worker."""
        return (CancelledError,)

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """The task was run again by the scheduler, as often as it allows."""
        from distributed import KilledWorker

        return (KilledWorker, BrokenExecutor)

    @property
    def owner(self) -> Any:
        """The client."""
        return self._client

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Give out a task; equal arguments do not make equal tasks, and need no digest."""
        future: Future[Any] = self.executor.submit(function, *arguments, pure=False)
        return future

    def payload(self, payload: Payload) -> Any:
        """Put the network onto every worker, which the workers help to do; tasks refer to it."""
        return self._client.scatter(payload, broadcast=True, hash=False)

    def chunk(self, part: Any) -> Any:
        """Let the cluster compute rows of a Dask array; they never come here."""
        return self._client.compute(part.rechunk(part.shape).to_delayed().ravel()[0])


_known: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()
KINDS: dict[str, type[Pool]] = {"dask": Dask, "mpi": MPI, "processes": Processes}
"""What the text in front of a colon says. Other executors are used as they are, by `Pool`."""


@contextmanager
def opened(executor: Any) -> Iterator[Pool | None]:
    """Give a `Pool` for what a user has: an executor, a function that makes one, or text.

    Parameters
    ----------
    executor : Executor, callable or str
        An executor is left open. What is made here is shut down at the end, and made again when
        workers died: of a callable, and of "processes:4". "dask://host:8786" is a scheduler, "mpi"
        are the ranks that mpiexec has started.

    Raises
    ------
    DtypeError, InputError, UnknownNameError
        If it is none of these, or nothing answers there.
    MissingDependencyError
        If the package that is needed is not installed.
    """
    if isinstance(executor, str):
        name, _, where = executor.partition(":")
        with KINDS[choose("executor", name, KINDS)].opened(where) as pool:
            yield pool
        return
    if isinstance(executor, Pool):
        yield executor
        return
    make = executor if callable(executor) and not isinstance(executor, Executor) else None
    made = executor if make is None else make()
    kinds: list[type[Pool]] = [*KINDS.values(), Pool]
    kind = next((kind for kind in kinds if kind.suits(made)), None)
    if kind is None:
        expected = "an executor, a function that makes one, 'processes:4', 'dask://...' or 'mpi'"
        raise DtypeError("executor", expected, type(made).__name__)
    pool = kind(made, make)
    try:
        yield pool
    finally:
        if make is not None:
            pool.close()


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of spawned processes that leave Ctrl-C to this one and end when it ends."""
    from multiprocessing import get_context

    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the parent's end, however it comes: its workers would wait for tasks for ever."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        with suppress(OSError):
            parent.join()
        os._exit(1)


def _missing(extra: str, package: str) -> MissingDependencyError:
    fix = f"Install it: pip install 'gbdnn[{extra}]'."
    return MissingDependencyError("executor", f"the package {package}", "none", fix)
