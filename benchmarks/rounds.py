"""Jobs, each in a process of its own, several rounds; every record is kept as it comes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import process, store
from benchmarks.process import Job, Record
from gbdnn import machine
from gbdnn.errors import BackendError

__all__ = ["DISTURBED", "doubtful", "grouped", "ignore", "measured", "medians", "spread"]

PACKAGES = (*machine.PACKAGES, "torch", "sparse-dot-mkl", "mkl")
DISTURBED = 0.1  # cores that other processes kept busy, above which a time is not to be trusted


def doubtful(record: Record) -> str:
    """Return "!" if other programs were busy meanwhile, "~" if the median is uncertain, else ""."""
    uncertain = record.get("spread", 0) > record.get("timing", {}).get("spread", 1)
    return "!" * (record.get("others_busy", 0) > DISTURBED) + "~" * uncertain


def ignore(_: object) -> None:
    """Take no notice."""


def measured(
    jobs: Sequence[Job], out: Path | str, *, rounds: int = 1, timeout: float | None = None,
    fresh: bool = False, disturbed: bool = False, strict: bool = True,
    accept: Callable[[Record], Record] = lambda record: record,
    progress: Callable[[int], None] = ignore, report: Callable[[str], None] = ignore,
) -> list[Record]:  # fmt: skip
    """Measure all jobs in turn, `rounds` times, and add their records to ``out/results.jsonl``.

    In turn: a machine that drifts meets all of them alike.

    Parameters
    ----------
    jobs : sequence of Job
    out : path
        A folder; what has a record there from the same machine and versions is not measured again.
    rounds : int
    timeout : float, optional
        Seconds after which a process is given up.
    fresh, disturbed : bool
        Measure again what has a record; or what is `doubtful`.
    strict : bool
        Raise where a job fails. Else its record has `status` "failed", or "skipped" if it does not
        fit into memory, and a `reason`; it is tried again the next time.
    accept : callable
        Gets each record, new or not, before it is kept, and returns it, perhaps with more.
    progress, report : callable, optional
        Get 1 after each measurement, and messages.

    Returns
    -------
    list of dict
        A record for each job, round after round: the job's fields, `key`, `round`, `status`,
        `machine`, `versions`, `fingerprint` of both, `finished`, and what was measured.

    Raises
    ------
    InputError
        If the folder cannot be written.
    BackendError
        If a job fails and `strict` is true.
    """
    store.require_writable(out)
    known = store.read(out)
    for message in known.damaged:
        report(message)
    setting: Record = {"machine": machine.machine(), "versions": machine.versions(PACKAGES)}
    digest = hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()
    setting["fingerprint"] = digest[:16]
    done = {
        (record["key"], record.get("round", 1)): record
        for record in known.records
        if record.get("status") == "ok"
        and record.get("fingerprint") == setting["fingerprint"]
        and not (disturbed and doubtful(record))
    }
    todo = [(number, job) for number in range(1, rounds + 1) for job in jobs]
    reused = 0 if fresh else sum((job.key, number) in done for number, job in todo)
    if reused:
        report(f"{reused} of {len(todo)} were measured before (--fresh: again)")
    records = []
    for number, job in todo:
        old = None if fresh else done.get((job.key, number))
        record = accept(_record(job, number, timeout, setting, strict) if old is None else old)
        if old is None:
            store.append(out, record)
            if line := job.describe(record):
                report(line if rounds == 1 else f"round {number}: {line}")
        records.append(record)
        progress(1)
    return records


def _record(job: Job, number: int, timeout: float | None, setting: Record, strict: bool) -> Record:
    """Return the record of one measurement."""
    needed, free = job.needed_bytes, machine.available_bytes()
    if needed > free:
        reason = f"needs about {needed:,} bytes of memory, {free:,} are free"
        found: Record = {"status": "skipped", "reason": reason, "needed_bytes": needed}
    else:
        found = process.run(job, timeout)
    if strict and found["status"] != "ok":
        raise BackendError(job.key, "a result", found["reason"])
    finished = datetime.now(UTC).isoformat("T", "seconds")
    head = {**asdict(job), "key": job.key, "round": number, "finished": finished}
    return head | found | setting


def grouped(records: Iterable[Record], *names: str) -> dict[tuple[Any, ...], list[Record]]:
    """Return the records with equal values of some fields together, in the order they came."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        found.setdefault(tuple(record[name] for name in names), []).append(record)
    return found


def medians(records: Iterable[Record], keys: Sequence[str], name: str) -> list[Record]:
    """Return of each case its first record, with the median of a field, and all values of it."""
    found = []
    for runs in grouped(records, *keys).values():
        values = [run[name] for run in runs]
        found.append(runs[0] | {name: float(median(values)), f"all_{name}": values})
    return found


def spread(middle: float, values: Sequence[float], form: str) -> str:
    """Return a median or mean with the smallest and the largest value, in a number format."""
    return f"{middle:{form}} ({min(values):{form}} to {max(values):{form}})"
