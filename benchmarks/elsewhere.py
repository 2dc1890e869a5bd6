"""A sweep on other machines: each case, with all its engines, on one worker of an executor."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import store
from benchmarks.process import Record
from benchmarks.rounds import ignore
from benchmarks.sweep import SweepJob, sweep
from gbdnn.distributed import Pool
from gbdnn.distributed.scheduling import completed
from gbdnn.errors import InputError

__all__ = ["elsewhere"]


def elsewhere(
    jobs: Sequence[SweepJob], out: Path | str, pool: Pool, *, timeout: float = 900.0,
    fresh: bool = False, disturbed: bool = False, progress: Callable[[int], None] = ignore,
    report: Callable[[str], None] = ignore,
) -> list[Record]:  # fmt: skip
    """Measure jobs on the workers of a pool and add their records to ``out/results.jsonl``.

    The engines of a case are compared on one machine; each record says which. Workers need this
    checkout. A case of which all engines have a record is not measured again, whatever machine it
    was measured on.

    Raises
    ------
    InputError
        If several tasks would run on a host at the same time: they would disturb each other.
    """
    if pool.slots_a_host > 1:
        fix = "Give each host one worker with one thread, or say processes:1."
        got = f"{pool.slots_a_host} at the same time"
        raise InputError("executor", "one task on each host, as times are measured", got, fix)
    store.require_writable(out)
    done = {r["key"]: r for r in store.read(out).records if r.get("status") == "ok"}
    cases = [list(case) for _, case in groupby(jobs, _case)]
    found: dict[int, list[Record]] = {}
    for k, case in enumerate(cases):
        if not fresh and all(job.key in done for job in case):
            found[k] = [done[job.key] for job in case]
            progress(len(case))
    if found:
        report(f"{len(found)} of {len(cases)} cases were measured before (--fresh: again)")
    left = [k for k in range(len(cases)) if k not in found]

    def give(number: int) -> Future[Any]:
        return pool.submit(_measured, cases[left[number]], timeout, disturbed)

    spans = [(k, k + 1) for k in left]
    for number, records in completed(pool, spans, give, ahead=pool.slots, ordered=False):
        for record in records:
            store.append(out, record)
        found[left[number]] = records
        progress(len(records))
    return [record for k in range(len(cases)) for record in found[k]]


def _case(job: SweepJob) -> tuple[Any, ...]:
    return job.op, job.size, job.layers, job.bias, job.density, job.batch


def _measured(jobs: list[SweepJob], timeout: float, disturbed: bool) -> list[Record]:
    """Measure the engines of a case, in a worker: each in a process of its own, as ever."""
    with tempfile.TemporaryDirectory() as folder:
        return sweep(jobs, folder, timeout=timeout, disturbed=disturbed)
