"""Weights of language models, tuned on development data: few decodings, all weights on their lists.

As in minimum error rate training (Och 2003): decode, put the hypotheses into a pool, find the
weights whose best hypotheses of the pool have the fewest errors, decode with these, and so on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.decoding import Fusion, Hypothesis, LanguageModel
from gbdnn.errors import InputError, ShapeError
from gbdnn.speech.scoring import score
from gbdnn.types import Array

__all__ = ["BONUSES", "WEIGHTS", "Trial", "label_scores", "tune_fusion"]

WEIGHTS = tuple(round(0.1 * k, 1) for k in range(13))
BONUSES = tuple(0.25 * k for k in range(-4, 13))
TOGETHER = 256  # sequences that a model scores in a batch

Labels = tuple[int, ...]


@dataclass(frozen=True)
class Trial:
    """A decoding of the development data.

    Attributes
    ----------
    fusion : Fusion
    errors, words : int
    """

    fusion: Fusion
    errors: int
    words: int

    @property
    def rate(self) -> float:
        """Errors / words."""
        return self.errors / self.words


def tune_fusion(
    decode: Callable[[Fusion], Sequence[Sequence[Hypothesis]]],
    references: Sequence[str],
    write: Callable[[Labels], str],
    begin: Fusion,
    *,
    blank: int = 0,
    weights: Sequence[float] = WEIGHTS,
    bonuses: Sequence[float] = BONUSES,
    rounds: int = 4,
    report: Callable[[Trial], Any] | None = None,
) -> tuple[Trial, list[Trial]]:
    """Find the weights with which the fewest words of development data are wrong.

    Parameters
    ----------
    decode : callable
        Given a fusion, the hypotheses of each utterance, the best first; beams of 8 and more give
        lists worth the name.
    references : sequence of str
        What was said in each utterance.
    write : callable
        From labels to text, such as `Vocabulary.decode`.
    begin : Fusion
        With the models, and weights to begin with; 0 is a good beginning.
    blank : int
    weights, bonuses : sequence of float
        Values that are tried, all combinations, for `weight` and `source_weight`, and for `bonus`.
    rounds : int
        Decodings at most.
    report : callable, optional
        Called with each trial.

    Returns
    -------
    best : Trial
        Of those that were decoded, so that it is never worse than `begin`; the earliest of equals.
    trials : list of Trial

    Notes
    -----
    Between combinations with equally many errors the expected number decides, each hypothesis of
    the pool with its share of exp(score): errors alone have many minima. What is found counts for
    the development data; how well it does is for other data to say.

    Raises
    ------
    MissingDependencyError
        Without the package jiwer.
    ShapeError, InputError
        Other numbers of references than of lists; nothing to tune.
    """
    checks.count("rounds", rounds)
    if begin.external is None:
        raise InputError("begin", "a fusion with an external model", repr(begin))
    pool = _Pool(references, write, begin, blank)
    trials: list[Trial] = []
    fusion = begin
    for _ in range(rounds):
        errors = pool.add(decode(fusion))
        trials.append(Trial(fusion, errors, pool.words))
        if report is not None:
            report(trials[-1])
        fusion = pool.best(weights, bonuses)
        if any(_numbers(fusion) == _numbers(trial.fusion) for trial in trials):
            break
    return min(trials, key=lambda trial: trial.errors), trials


def label_scores(model: LanguageModel, sequences: Sequence[Labels], blank: int = 0) -> Array:
    """Return log P of the labels of each sequence, without an end, as a search adds them up.

    Returns
    -------
    ndarray of float64, shape (sequences,)
    """
    out = np.zeros(len(sequences))
    order = sorted(range(len(sequences)), key=lambda k: -len(sequences[k]))
    for start in range(0, len(order), TOGETHER):
        chosen = order[start : start + TOGETHER]
        states: list[Any] = [None] * len(chosen)
        last = [blank] * len(chosen)
        for step in range(len(sequences[chosen[0]])):
            live = [k for k in chosen if len(sequences[k]) > step]
            scores, states = model(states[: len(live)], last[: len(live)])
            last = [sequences[k][step] for k in live]
            out[live] += np.asarray(scores)[np.arange(len(live)), last]
    return out


class _Pool:
    """All hypotheses so far, of each utterance each label sequence once."""

    def __init__(
        self, references: Sequence[str], write: Callable[[Labels], str], begin: Fusion, blank: int
    ) -> None:
        self.references, self.write, self.begin, self.blank = references, write, begin, blank
        self.words = sum(len(text.split()) for text in references)
        if not self.words:
            raise InputError("references", "at least one word", "none")
        self.rows: list[dict[Labels, list[float]]] = [{} for _ in references]
        """By labels: log P of the transducer, of external and source model, errors."""

    def add(self, lists: Sequence[Sequence[Hypothesis]]) -> int:
        """Take lists of hypotheses; return the errors of the best ones."""
        if len(lists) != len(self.references):
            expected = f"{len(self.references)} lists, one for each reference"
            raise ShapeError("decode", expected, f"{len(lists)}")
        new = [
            (row, text, hypothesis.labels)
            for row, text, found in zip(self.rows, self.references, lists, strict=True)
            for hypothesis in found
            if hypothesis.labels not in row
        ]
        sequences = [labels for _, _, labels in new]
        scores = [
            np.zeros(len(new)) if model is None else label_scores(model, sequences, self.blank)
            for model in (self.begin.external, self.begin.source)
        ]
        wrong = self._errors([text for _, text, _ in new], sequences)
        for (row, _, labels), own, other, errors in zip(new, *scores, wrong, strict=True):
            row[labels] = [-np.inf, own, other, errors]
        total = 0
        for row, found in zip(self.rows, lists, strict=True):
            if not found:
                raise ShapeError("decode", "at least one hypothesis of each utterance", "none")
            total += int(row[found[0].labels][3])
            for hypothesis in found:  # which alignments were kept differs between searches
                entry = row[hypothesis.labels]
                entry[0] = max(entry[0], hypothesis.log_probability)
        return total

    def _errors(self, said: list[str], sequences: list[Labels]) -> list[float]:
        heard = [self.write(labels) for labels in sequences]
        found = score(["-", *said], ["-", *heard])  # one reference at least has a word
        errors: list[float] = found.errors[1:].tolist()
        return errors

    def best(self, weights: Sequence[float], bonuses: Sequence[float]) -> Fusion:
        """Return the combination whose best hypotheses of the pool have the fewest errors."""
        longest = max(map(len, self.rows))
        shape = (len(self.rows), longest)
        table = np.zeros((5, *shape))
        table[0] = -np.inf  # where a list is shorter
        for k, row in enumerate(self.rows):
            for m, (labels, entry) in enumerate(row.items()):
                table[:, k, m] = *entry[:3], len(labels), entry[3]
        logs, external, source, lengths, errors = table
        found: tuple[float, float, tuple[float, float, float]] | None = None
        for weight, source_weight, bonus in self._grid(weights, bonuses):
            scores = logs + weight * external - source_weight * source + bonus * lengths
            best = scores.argmax(axis=1)
            top = scores[np.arange(len(best)), best]
            shares = np.exp(scores - top[:, None])
            expected = float(((shares * errors).sum(axis=1) / shares.sum(axis=1)).sum())
            one = float(errors[np.arange(len(best)), best].sum())
            candidate = (one, expected, (weight, source_weight, bonus))
            if found is None or candidate[:2] < found[:2]:
                found = candidate
        assert found is not None
        weight, source_weight, bonus = found[2]
        return replace(self.begin, weight=weight, source_weight=source_weight, bonus=bonus)

    def _grid(
        self, weights: Sequence[float], bonuses: Sequence[float]
    ) -> Iterator[tuple[float, float, float]]:
        sources = weights if self.begin.source is not None else (0.0,)
        return itertools.product(weights, sources, bonuses)


def _numbers(fusion: Fusion) -> tuple[float, float, float]:
    return fusion.weight, fusion.source_weight, fusion.bonus
