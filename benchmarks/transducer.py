"""`gbdnn bench transducer`: `transducer_loss` beside torch's log_softmax over the same logits.

The softmax forward and backward is the least that a training step does with these logits; the loss
contains it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import Job, Record
from benchmarks.rounds import measured, medians, spread
from benchmarks.timing import Timing, measure
from gbdnn import checks
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.errors import BackendError, choose
from gbdnn.types import Array

__all__ = ["ENGINES", "TransducerJob", "compare", "jobs", "report"]

PEER = "torch-log-softmax"


@dataclass(frozen=True, kw_only=True)
class TransducerJob(Job):
    """One engine; all get the same float32 logits, made from the seed.

    Attributes
    ----------
    engine : str
        One of `ENGINES`.
    batch, frames, labels, vocabulary : int
        Logits have the shape (batch, frames, labels + 1, vocabulary).
    threads, seed : int
    seconds : float
        How long calls are timed.
    """

    told = ("engine", "ms")

    engine: str
    batch: int = 16
    frames: int = 50
    labels: int = 25
    vocabulary: int = 29
    seed: int = 0
    seconds: float = 1.0

    def __post_init__(self) -> None:
        choose("engine", self.engine, ENGINES)
        for name in ("batch", "frames", "threads"):
            checks.count(name, getattr(self, name))
        checks.count("labels", self.labels, 0)
        checks.count("vocabulary", self.vocabulary, 2)
        checks.positive("seconds", self.seconds)

    def arrays(self) -> tuple[Array, Array]:
        """Return logits, normal numbers, and random labels."""
        rng = np.random.default_rng(self.seed)
        shape = (self.batch, self.frames, self.labels + 1, self.vocabulary)
        logits = rng.standard_normal(shape, np.float32)
        return logits, rng.integers(1, self.vocabulary, (self.batch, self.labels))

    def measure(self) -> Record:
        """Time calls: ``ms`` (median), ``spread``, and ``check``, the sum of the results."""
        call, check = ENGINES[self.engine](self)
        timed = measure(call, Timing.fixed(15, self.seconds))
        record = {"ms": timed.seconds * 1e3, "spread": timed.spread, "check": check()}
        if not np.isfinite(record["check"]):
            raise BackendError(self.engine, "a finite result", repr(record["check"]))
        return record


Made = tuple[Callable[[], Any], Callable[[], float]]


def _gbdnn(job: TransducerJob) -> Made:
    from gbdnn.losses import transducer_loss

    logits, labels = job.arrays()

    def call() -> tuple[Array, Array]:
        return transducer_loss(logits, labels, threads=job.threads)

    return call, lambda: float(call()[0].sum())


def _log_softmax(job: TransducerJob) -> Made:
    import torch

    torch.set_num_threads(job.threads)
    logits = torch.from_numpy(job.arrays()[0]).requires_grad_()
    onward = torch.ones_like(logits)

    def call() -> Any:
        logits.grad = None
        found = torch.log_softmax(logits, -1)
        found.backward(onward)
        return found

    return call, lambda: float(call().detach().sum())


ENGINES: dict[str, Callable[[TransducerJob], Made]] = {"gbdnn": _gbdnn, PEER: _log_softmax}


def jobs(engines: Sequence[str], **settings: Any) -> list[TransducerJob]:
    """Return a job for each engine; `settings` are its other fields."""
    return [TransducerJob(engine=engine, **settings) for engine in engines]


def compare(jobs: Sequence[TransducerJob], out: Path, **options: Any) -> list[Record]:
    """Time all jobs in turn, `measured` with its options; return each one's median ms, and all."""
    return medians(measured(jobs, out, **options), ("engine",), "ms")


def report(cases: Sequence[Record]) -> str:
    """Return a Markdown table with the ratio to torch's log_softmax."""
    other = {case["engine"]: case["ms"] for case in cases}.get(PEER)
    rows = [
        [case["engine"], spread(case["ms"], case["all_ms"], ".2f"),
         "" if other is None else f"{case['ms'] / other:.2f}"]
        for case in cases
    ]  # fmt: skip
    first = cases[0]
    shape = tuple(first[name] for name in ("batch", "frames", "labels", "vocabulary"))
    return (
        f"{markdown_table(['engine', 'ms (min to max)', f'of {PEER}'], rows, left=1)}\n"
        "gbdnn: transducer loss and gradient; torch: log_softmax alone, forward and backward. "
        "Batch {}, {} frames, {} labels, vocabulary {}, float32; ".format(*shape)
        + f"medians of {len(first['all_ms'])} rounds, engines in turn, one process each; "
        f"{origin(first)}\n"
    )
