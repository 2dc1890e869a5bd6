"""`gbdnn bench hybrid`: decoding graphs of lexicons and bigrams, on GraphBLAS and in numpy.

Viterbi is a max-plus product for each frame, forward-backward two plus-times products. Both engines
get the same matrix and the same scores, and must find the same log score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import Job, Record
from benchmarks.rounds import measured, medians, spread
from benchmarks.timing import Timing, measure
from gbdnn import checks
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.decoding import forward_backward, train_ngram, viterbi
from gbdnn.decoding.hmm import ENGINES
from gbdnn.errors import BackendError, choose
from gbdnn.speech.hybrid import Graph, Lexicon, decoding_graph
from gbdnn.types import Array

__all__ = ["OPS", "HybridJob", "compare", "jobs", "report"]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
OPS = ("viterbi", "forward-backward")


@dataclass(frozen=True, kw_only=True)
class HybridJob(Job):
    """One engine on one graph.

    Attributes
    ----------
    engine : str
        "graphblas" or "numpy".
    op : str
        One of `OPS`.
    words, frames : int
        Random words of 2 to 8 letters, three states each; frames of an utterance.
    threads, seed : int
    seconds : float
        How long calls are timed.
    """

    told = ("op", "words", "engine", "ms")

    engine: str
    op: str = "viterbi"
    words: int = 100
    frames: int = 200
    seed: int = 0
    seconds: float = 1.0

    def __post_init__(self) -> None:
        choose("engine", self.engine, ENGINES)
        choose("op", self.op, OPS)
        for name in ("words", "frames", "threads"):
            checks.count(name, getattr(self, name))
        checks.positive("seconds", self.seconds)

    def problem(self) -> tuple[Graph, Array]:
        """Return the graph and log scores, shape (frames, nodes)."""
        rng = np.random.default_rng(self.seed)
        found: dict[str, None] = {}
        while len(found) < self.words:
            found["".join(rng.choice(list(LETTERS), rng.integers(2, 9)))] = None
        lexicon = Lexicon.spelled(found)
        texts = rng.integers(1, self.words + 1, (10 * self.words, 5)).tolist()
        graph = decoding_graph(lexicon, train_ngram(texts, 2, self.words + 1))
        scores = 3 * rng.standard_normal((self.frames, lexicon.count))
        return graph, scores[:, graph.states]

    def measure(self) -> Record:
        """Time calls: ``ms`` (median), ``spread``, ``nodes``, ``entries``, ``check``, the score."""
        graph, scores = self.problem()
        function = viterbi if self.op == "viterbi" else forward_backward
        call = partial(function, graph.transitions, scores, graph.initial, graph.final,
                       engine=self.engine)  # fmt: skip
        timed = measure(call, Timing.fixed(5, self.seconds))
        found: Any = call()
        check = found[1] if self.op == "viterbi" else found.log_likelihood
        return {"ms": timed.seconds * 1e3, "spread": timed.spread, "check": float(check),
                "nodes": len(graph.states), "entries": graph.transitions.nnz}  # fmt: skip


def jobs(words: Sequence[int], **settings: Any) -> list[HybridJob]:
    """Return the jobs of both engines and operations; `settings` are their other fields."""
    return [
        HybridJob(engine=engine, op=op, words=count, **settings)
        for op in OPS
        for count in words
        for engine in ENGINES
    ]


def compare(jobs: Sequence[HybridJob], out: Path, **options: Any) -> list[Record]:
    """Time all jobs in turn; return each one's median ms, and all.

    Raises
    ------
    BackendError
        If the engines' scores differ.
    """
    cases = medians(measured(jobs, out, **options), ("op", "words", "engine"), "ms")
    first: dict[tuple[str, int], float] = {}
    for case in cases:
        expected = first.setdefault((case["op"], case["words"]), case["check"])
        if not np.isclose(case["check"], expected, rtol=1e-9):
            raise BackendError(case["engine"], f"the score {expected}", f"{case['check']}")
    return cases


def report(cases: Sequence[Record]) -> str:
    """Return a Markdown table with the ratio of both engines."""
    times = {(case["op"], case["words"], case["engine"]): case["ms"] for case in cases}
    rows = [
        [case["op"], f"{case['words']}", f"{case['nodes']:,}", f"{case['entries']:,}",
         case["engine"], spread(case["ms"], case["all_ms"], ".1f"),
         f"{case['ms'] / times[case['op'], case['words'], 'numpy']:.2f}"]
        for case in cases
    ]  # fmt: skip
    head = ["operation", "words", "nodes", "entries", "engine", "ms (min to max)", "of numpy"]
    first = cases[0]
    return (
        f"{markdown_table(head, rows, left=1)}\n"
        f"Random words and scores, a bigram of all pairs, {first['frames']} frames, float64; "
        f"medians of {len(first['all_ms'])} rounds, engines in turn, one process each; "
        f"{origin(first)}\n"
    )
