"""One measurement in a process of its own: a job goes in pickled, a record comes back as JSON."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["COMMAND", "ROOT", "Job", "Record", "environment", "run", "status_bytes"]

Record = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-P", "-m", "benchmarks.process")  # -P: not what the folder here holds
ASIDE = ("timing", "folder", "save")  # fields that do not tell jobs apart
POOLS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process measures.

    A subclass adds fields that JSON can say, and stands in a module of `benchmarks`.
    """

    told: ClassVar[tuple[str, ...]] = ()
    """Fields and results that are shown when a record comes."""

    threads: int

    @property
    def key(self) -> str:
        """What tells jobs apart, as text."""
        words = [f"{name}={value}" for name, value in asdict(self).items() if name not in ASIDE]
        return " ".join([type(self).__name__, *words])

    @property
    def needed_bytes(self) -> int:
        """About how much memory the process needs at its peak; 0 if that was not thought about."""
        return 0

    def measure(self) -> Record:
        """Measure, in this process. A record with ``status="failed"`` has a `reason`."""
        raise NotImplementedError

    def describe(self, record: Record) -> str:
        """Return a line about what was measured; "" for none."""
        values = asdict(self) | record
        return ", ".join(
            f"{name} {values[name]:.4g}" if isinstance(values[name], float)
            else f"{name} {values[name]}"
            for name in self.told
        )  # fmt: skip


def run(job: Job, timeout: float | None = None) -> Record:
    """Measure a job in a fresh process.

    Returns
    -------
    dict
        What `Job.measure` returned, with `status` "ok"; or "failed" and a `reason`, whatever
        happened to the process.
    """
    # A session of its own: Ctrl-C reaches this process only, which then ends the other.
    process = subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(job.threads), start_new_session=True,
    )  # fmt: skip
    try:
        answer, messages = process.communicate(pickle.dumps(job), timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
        return _failed(f"no result within {timeout:g} s")
    except BaseException:
        _kill(process)
        raise
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        memory = ", perhaps out of memory" if name == "SIGKILL" else ""
        return _failed(f"the process was ended by {name}{memory}")
    try:
        record: Record = json.loads(answer)
    except ValueError:
        *_, last = ("", *filter(str.strip, messages.decode(errors="replace").splitlines()))
        return _failed(f"the process ended with status {process.returncode}: {last}".strip(": "))
    return record


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a measurement: every thread pool pinned, this checkout first."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "GOMP_", "KMP_", "NUMBA_NUM_THREADS"))
    }
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    pinned = dict.fromkeys(POOLS, str(threads)) | {"MKL_DYNAMIC": "FALSE"}
    return kept | pinned | {"PYTHONPATH": os.pathsep.join(paths)}


def _failed(reason: str) -> Record:
    return {"status": "failed", "reason": reason}


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


# -- in the process of its own ---------------------------------------------------------------------


def main() -> None:
    """Read a job from standard input, write its record to standard output."""
    _end_with_parent()
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not mix with the record
    try:
        job: Job = pickle.load(sys.stdin.buffer)  # our own
        record = {"status": "ok"} | job.measure()
    except Exception as error:
        record = _failed(f"{type(error).__name__}: {error}".strip())
    with os.fdopen(answer, "w") as stream:
        stream.write(json.dumps(record))


def _end_with_parent() -> None:
    """Linux: end when the parent ends, however it ends; be the first to go when memory is out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def status_bytes(field: str) -> int:
    """Return a size from /proc/self/status, 0 where there is none."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
