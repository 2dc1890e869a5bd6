"""Run the cells of a sweep, each in a fresh process, and keep every record as it comes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import store
from benchmarks.cells import DENSE, DISTURBED, Cell, needed_bytes
from benchmarks.timing import Timing
from gbdnn import machine
from gbdnn.errors import MemoryBudgetError
from gbdnn.machine import available_bytes

__all__ = ["WORKER", "Outcome", "refuse_impossible", "sweep", "worker_environment"]

WORKER = (sys.executable, "-m", "benchmarks.worker")
PACKAGES = (*machine.PACKAGES, "torch", "sparse-dot-mkl", "mkl")
POOLS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """`records` has one entry per cell in their order; `reused` of them were measured before."""

    records: list[dict[str, Any]]
    reused: int


def sweep(
    cells: Sequence[Cell],
    out: Path | str,
    *,
    timing: Timing | None = None,
    timeout: float = 900.0,
    fresh: bool = False,
    disturbed: bool = False,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    worker: Sequence[str] = WORKER,
) -> Outcome:
    """Measure cells and add their records to ``out/results.jsonl``.

    Parameters
    ----------
    cells : sequence of Cell
        See `grid`.
    out : path
        A folder; a cell that has a result there from the same machine and versions is not
        measured again.
    timing : Timing, optional
    timeout : float
        Seconds after which a worker is given up.
    fresh : bool
        Measure again what has a result.
    disturbed : bool
        Measure again what was measured while other programs were busy.
    progress, warn : callable, optional
        Get 1 after each cell, and messages.
    worker : sequence of str
        The command that measures one cell.

    Returns
    -------
    Outcome
        A cell's record has `status` "ok"; or "skipped" (it does not fit into memory) or "failed"
        (the worker died, took too long, or its result was wrong) and a `reason`.

    Raises
    ------
    InputError
        If the folder cannot be written.
    MemoryBudgetError
        If no cell of one of the sizes fits into memory.
    """
    refuse_impossible(cells)
    store.require_writable(out)
    known = store.read(out)
    for message in known.damaged:
        (warn or _ignore)(message)
    timing = timing or Timing()
    setting = {"machine": machine.machine(), "versions": machine.versions(PACKAGES)}
    fingerprint = _fingerprint(setting)
    done = {} if fresh else _finished(known.records, fingerprint, disturbed)
    limits: dict[str, Any] = {}
    records = []
    for cell in cells:
        record = done.get(cell.key)
        if record is None:
            record = _measured(cell, timing, timeout, worker, limits)
            record |= {**setting, "fingerprint": fingerprint}
            store.append(out, record)
        records.append(record)
        (progress or _ignore)(1)
    return Outcome(records, sum(cell.key in done for cell in cells))


def refuse_impossible(cells: Sequence[Cell]) -> None:
    """Raise `MemoryBudgetError` if some size fits with none of its engines."""
    free = available_bytes()
    for size in dict.fromkeys(cell.size for cell in cells):
        least = min(needed_bytes(cell) for cell in cells if cell.size == size)
        if least > free:
            raise MemoryBudgetError(
                "sizes",
                f"cells that fit into the {free:,} bytes that are free",
                f"size {size}, of which the smallest cell needs about {least:,} bytes",
                "Use smaller sizes, densities or batches.",
            )


def worker_environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker: every thread pool pinned, whatever it was before."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "GOMP_", "KMP_", "NUMBA_NUM_THREADS"))
    }
    return kept | dict.fromkeys(POOLS, str(threads)) | {"MKL_DYNAMIC": "FALSE"}


def _finished(
    records: list[dict[str, Any]], fingerprint: str, disturbed: bool
) -> dict[str, dict[str, Any]]:
    """Return what need not be measured again, by key."""
    return {
        record["key"]: record
        for record in records
        if record.get("status") == "ok"
        and record.get("fingerprint") == fingerprint
        and not (disturbed and record.get("others_busy", 0) > DISTURBED)
    }


def _fingerprint(setting: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:16]


def _measured(
    cell: Cell, timing: Timing, timeout: float, worker: Sequence[str], limits: dict[str, Any]
) -> dict[str, Any]:
    """Return the record of a cell, whatever happens to its worker."""
    head = {
        **asdict(cell), "key": cell.key, "finished": datetime.now(UTC).isoformat("T", "seconds"),
    }  # fmt: skip
    needed, free = needed_bytes(cell), available_bytes()
    if needed > free:
        reason = f"needs about {needed:,} bytes of memory, {free:,} are free"
        return head | {"status": "skipped", "reason": reason, "needed_bytes": needed}
    if cell.dtype not in limits:
        probe = {"kind": "roofline", "dtype": cell.dtype}
        limits[cell.dtype] = _ask(WORKER, probe, machine.machine()["cores"], 120)
    job = {"kind": "cell", "cell": asdict(cell), "timing": asdict(timing)}
    found = head | _ask(worker, job, cell.threads, timeout)
    found["finished"] = datetime.now(UTC).isoformat("T", "seconds")
    if found["status"] != "ok":
        return found
    return found | {"spread_target": timing.spread} | _fraction(found, limits[cell.dtype])


def _fraction(record: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """Compare the rate with the machine's limit for this kind of engine.

    A sparse product loads a vector of Y for each multiply-add: its limit is arithmetic fed from
    the first cache. A dense one keeps operands in registers, as one with common columns may: its
    limit is arithmetic. A dense engine's rate counts all places, not only the non-zeros.
    """
    if "fma_one" not in limits:
        return {"roofline": None, "roofline_limit": None, "roofline_fraction": None}
    dense = record["engine"] in DENSE
    name = "fma" if dense or record["density"] == 1 else "l1"
    limit = min(record["threads"] * limits[f"{name}_one"], limits[f"{name}_all"])
    places = record["layers"] * record["size"] ** 2 * record["batch"]
    rate = (places if dense else record["edges"]) / record["seconds"] / 1e9
    return {"roofline": limits, "roofline_limit": name, "roofline_fraction": rate / limit}


def _ask(
    worker: Sequence[str], job: dict[str, Any], threads: int, timeout: float
) -> dict[str, Any]:
    """Give a job to a fresh process and return its answer, or why there is none."""
    # A session of its own: Ctrl-C reaches this process only, which then ends the worker.
    process = subprocess.Popen(
        worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=worker_environment(threads), start_new_session=True, text=True, errors="replace",
    )  # fmt: skip
    try:
        answer, messages = process.communicate(json.dumps(job), timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
        return _failed(f"no result within {timeout:g} s")
    except BaseException:
        _kill(process)
        raise
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        memory = ", perhaps out of memory" if name == "SIGKILL" else ""
        return _failed(f"the worker was ended by {name}{memory}")
    try:
        found: dict[str, Any] = json.loads(answer)
    except ValueError:
        last = next((line for line in reversed(messages.splitlines()) if line.strip()), "")
        return _failed(f"the worker ended with status {process.returncode}: {last}".strip(": "))
    return found


def _failed(reason: str) -> dict[str, Any]:
    return {"status": "failed", "reason": reason}


def _kill(process: subprocess.Popen[str]) -> None:
    """End a worker and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _ignore(_: object) -> None:
    """Take no notice."""
