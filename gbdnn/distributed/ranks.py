"""Data-parallel training: one process a rank over MPI, gradients added by Allreduce.

Each rank holds the whole network and takes a part of each mini-batch. With w_i the weights of the
samples over their sum in the whole mini-batch, loss and gradients are sums over samples,

    L = sum_r sum_{i in r} w_i l_i        dW = sum_r dW_r,

so that the parts of the ranks are added and nothing is averaged. What goes over the wire in a step
is the entries of the gradients, O(nnz), and five numbers. All ranks then take the same step of the
optimizer on the same bits, and change patterns by the same random numbers.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from gbdnn.data.batches import Batches
from gbdnn.distributed.parallel import (
    AgreedStop,
    FromRankZero,
    ParallelModel,
    SharedValidation,
)
from gbdnn.errors import (
    DivergenceError,
    GbdnnError,
    InputError,
    MissingDependencyError,
    TrainingInterrupted,
    WorkerError,
)
from gbdnn.machine import default_threads
from gbdnn.training.checkpoints import Checkpoints
from gbdnn.training.hooks import Bar, Callbacks, Hook, Validation
from gbdnn.training.step import Training
from gbdnn.training.stored import dump, load
from gbdnn.types import Array

__all__ = ["MPIRanks", "launched"]

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
"""Where MPICH's, Intel's and Open MPI's launchers say how many ranks they have started."""
PATIENCE = 1.0  # seconds that other ranks leave to the first one to say what all would say
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def launched() -> bool:
    """Return whether this process is one of several that a launcher of MPI has started."""
    return any(os.environ.get(name, "1") not in ("0", "1") for name in SIZES)


class MPIRanks:
    """The ranks of an MPI communicator, as the `ranks` of a `Trainer`.

    As a context manager it ends all ranks when one of them raises what the others do not know of:
    they would wait for it for ever.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        Default all ranks that were started.

    Attributes
    ----------
    rank, size : int
    threads : int
        That each rank uses unless it is told otherwise: the cores that it may run on over the
        ranks that may run on the same ones.

    Raises
    ------
    MissingDependencyError
        If mpi4py is not installed.

    Examples
    --------
    In a script that is started by ``mpiexec -n 4 python script.py``::

        with gbdnn.distributed.MPIRanks() as ranks:
            result = gbdnn.Trainer(batch_size=1024, ranks=ranks).fit(network, X, y)
            if ranks.rank == 0:
                result.network.save("model.safetensors")
    """

    def __init__(self, comm: Any = None) -> None:
        try:
            from mpi4py import MPI
        except ImportError:
            fix = "Install it: pip install 'gbdnn[mpi]'."
            raise MissingDependencyError("ranks", "the package mpi4py", "none", fix) from None
        self.comm: Any = MPI.COMM_WORLD if comm is None else comm
        self.rank, self.size = int(self.comm.rank), int(self.comm.size)
        local = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        places = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.threads = max(default_threads() // local.allgather(places).count(places), 1)
        local.Free()
        self.stop = 0  # the signal by which all ranks end after this step
        self.arrived = 0  # the signal that has come to this one
        self.agreed = False  # that a training has failed: all ranks know it
        self._buffers: dict[Any, Array] = {}

    def __repr__(self) -> str:
        return f"MPIRanks(rank={self.rank}, size={self.size})"

    def __enter__(self) -> MPIRanks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        if error is None or self.size == 1 or self._known(error):
            return
        self.abort(error)

    def _known(self, error: BaseException) -> bool:
        """Return whether all ranks raise this, at the same step."""
        stopped = isinstance(error, TrainingInterrupted) and bool(self.stop)
        return self.agreed or stopped or isinstance(error, DivergenceError)

    def abort(self, error: BaseException) -> None:
        """Say what happened and end all ranks; checkpoints on the disk are whole."""
        if self.rank:
            time.sleep(PATIENCE)
        if not isinstance(error, GbdnnError | KeyboardInterrupt | SystemExit):
            sys.excepthook(type(error), error, error.__traceback__)
        text = str(error) or type(error).__name__
        print(f"error: rank {self.rank} of {self.size}: {text}", file=sys.stderr, flush=True)
        self.comm.Abort(1)
        os._exit(1)  # the launcher may take its time

    # -- what the Trainer calls --------------------------------------------------------------------

    def model(self, network: Any, *, threads: int | None = None, **options: Any) -> Any:
        """Return a model that computes this rank's part of each mini-batch."""
        threads = self.threads if threads is None else threads
        return ParallelModel(network, ranks=self, threads=threads, **options)

    def begin(
        self,
        training: Training,
        batches: Batches,
        hooks: list[Hook],
        checkpoints: Checkpoints | None,
        resume: bool,
    ) -> tuple[list[Hook], Checkpoints | None]:
        """Let all ranks start from the state of rank 0; it alone writes and reports.

        Raises
        ------
        InputError
            If network, data or seed differ from rank to rank; what `Checkpoints.open` raises at
            rank 0 is raised by all.
        """
        self.agreed = False
        network = training.model.fingerprint()
        self.check("ranks", [str(training.seed), batches.fingerprint, *network])
        if checkpoints is not None:
            if self.rank == 0:
                self.from_zero(lambda: _opened(checkpoints, training, batches, resume))
            else:
                state = self.from_zero()
                if state is not None:
                    load(checkpoints.folder, training, *state)
        if self.rank:
            hooks = [hook for hook in hooks if not isinstance(hook, Bar)]
        hooks = [self._shared(hook) for hook in hooks]
        kept = checkpoints if self.rank == 0 else None
        return [*hooks, AgreedStop(self, kept)], kept

    def _shared(self, hook: Hook) -> Hook:
        if isinstance(hook, Callbacks):
            return FromRankZero(hook, self)
        return SharedValidation(hook.held_out) if isinstance(hook, Validation) else hook

    # -- what goes from rank to rank ---------------------------------------------------------------

    def from_zero(self, task: Any = None) -> Any:
        """Return what `task` gives at rank 0 to all; an exception of it is raised by all."""
        found, failure = None, None
        if self.rank == 0 and task is not None:
            try:
                found = task()
            except Exception as error:
                failure = error
        text = failure and (failure if isinstance(failure, GbdnnError) else repr(failure))
        found, text = self.comm.bcast((found, text))
        if failure is not None or text is not None:
            self.agreed = True
            if failure is not None:
                raise failure
            raise text if isinstance(text, GbdnnError) else _failed("rank 0", text)
        return found

    def check(self, what: str, parts: list[str]) -> None:
        """Raise on all ranks if some text is not the same on all."""
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        others = self.comm.allgather(digest)
        if len(set(others)) > 1:
            self.agreed = True
            odd = [rank for rank, other in enumerate(others) if other != others[0]]
            raise InputError(
                what, "the same network, data and settings on all ranks",
                f"others than at rank 0 at {', '.join(map(str, odd))}",
                "Give all ranks the same files, seeds and versions of gbdnn and numpy.",
            )  # fmt: skip

    def together(self, value: float, failure: BaseException | None) -> float:
        """Return the sum of a number over ranks; raise on all ranks if one has failed.

        Ranks also agree here whether a signal that came to one of them ends the training.
        """
        stops = [float(self.arrived == number) for number in SIGNALS]
        failed = failure is not None
        mine = np.array([value, failed, failed * self.rank, *stops], np.float64)
        total = np.empty_like(mine)
        self.comm.Allreduce(mine, total)
        if total[1]:
            self.agreed = True
            if failure is not None:
                raise failure
            where = f"rank {int(total[2])}" if total[1] == 1 else f"{int(total[1])} ranks"
            raise _failed(where, "an error, which is printed there")
        came = [number for number, count in zip(SIGNALS, total[3:], strict=True) if count]
        self.stop = int(came[-1]) if came else 0
        return float(total[0])

    def add(self, arrays: list[Array]) -> None:
        """Replace arrays by their sums over ranks, the same bits on all ranks."""
        for dtype in {array.dtype: None for array in arrays}:
            group = [array.reshape(-1) for array in arrays if array.dtype == dtype]
            size = sum(array.size for array in group)
            both = self._buffers.get(dtype)
            if both is None or both.shape[1] != size:
                both = self._buffers[dtype] = np.empty((2, size), dtype)
            np.concatenate(group, out=both[0])
            self.comm.Allreduce(both[0], both[1])
            begin = 0
            for array in group:
                array[...] = both[1, begin : begin + array.size]
                begin += array.size

    def columns(self, Y: Array) -> Array:
        """Return the columns of all ranks as one tile, shape (1, features, columns)."""
        return self.rows(Y.transpose(0, 2, 1).reshape(-1, Y.shape[1])).T[None]

    def rows(self, mine: Array) -> Array:
        """Return the rows of all ranks, one rank after the other."""
        counts = self.comm.allgather(mine.size)
        whole = np.empty((sum(counts) // mine.shape[1], mine.shape[1]), mine.dtype)
        self.comm.Allgatherv(np.ascontiguousarray(mine), [whole, counts])
        return whole

    # -- signals -----------------------------------------------------------------------------------

    def listen(self) -> dict[int, Any]:
        """Note signals instead of raising; return the handlers of before. The second one raises."""
        before: dict[int, Any] = {}

        def note(number: int, frame: FrameType | None) -> None:
            if self.arrived:
                raise KeyboardInterrupt
            self.arrived = number

        try:
            for number in SIGNALS:
                before[number] = signal.signal(number, note)
        except ValueError:  # not in the main thread
            pass
        return before


def _opened(checkpoints: Checkpoints, training: Training, batches: Batches, resume: bool) -> Any:
    """Open the folder; return the state that was restored, None if there was none."""
    fresh = not training.step
    checkpoints.open(training, batches, resume=resume)
    return dump(training) if fresh and training.step else None


def _failed(where: str, got: str) -> WorkerError:
    fix = "All ranks have stopped; go on from the newest checkpoint with resume."
    return WorkerError(where, "a rank that goes on", got, fix)
