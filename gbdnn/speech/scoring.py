"""Word error rates: substitutions, deletions, insertions, intervals, and pairs of recognisers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gbdnn import checks
from gbdnn.errors import InputError, ShapeError, choose
from gbdnn.types import Array

__all__ = ["KINDS", "Comparison", "Score", "compare", "ratio_interval", "score"]

KINDS = ("substitutions", "deletions", "insertions")
SAMPLES = 10_000  # of a bootstrap
BLOCK = 1 << 20  # numbers that are drawn at once


@dataclass(frozen=True, eq=False)
class Score:
    """Errors of each utterance.

    Attributes
    ----------
    words, substitutions, deletions, insertions : ndarray of int64, shape (utterances,)
        `words` are those of the reference, or its characters.
    """

    words: Array
    substitutions: Array
    deletions: Array
    insertions: Array

    @property
    def errors(self) -> Array:
        """All errors of each utterance."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors / words of all utterances; insertions may take it above 1."""
        return float(self.errors.sum() / self.words.sum())

    def interval(
        self, *, level: float = 0.95, samples: int = SAMPLES, rng: np.random.Generator | int = 0
    ) -> tuple[float, float]:
        """Return a bootstrap interval of the rate (Bisani and Ney 2004).

        Utterances are drawn with replacement; the interval is that of the rates' quantiles.
        """
        drawn = _resampled([self.errors, self.words], samples, rng)
        return _quantiles(drawn[0] / np.maximum(drawn[1], 1), level)

    @property
    def record(self) -> dict[str, float]:
        """Numbers for JSON: rate, interval, counts."""
        low, high = self.interval()
        counts = {name: int(getattr(self, name).sum()) for name in KINDS}
        wrong = int((self.errors > 0).sum())
        return {
            "rate": self.rate, "low": low, "high": high, "words": int(self.words.sum()),
            "errors": int(self.errors.sum()), **counts,
            "utterances": len(self.words), "wrong_utterances": wrong,
        }  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Two recognisers on the same utterances.

    Attributes
    ----------
    difference : float
        Rate of the second less that of the first; negative when the second is better.
    low, high : float
        Bootstrap interval of the difference, both resampled together.
    better : float
        Share of the bootstrap's samples in which the second has fewer errors; half of the ties.
    p : float
        Of the matched-pairs test (Gillick and Cox 1989), two-sided, with utterances as segments:
        how likely so large a difference were if there was none.
    """

    difference: float
    low: float
    high: float
    better: float
    p: float


def score(references: Sequence[str], hypotheses: Sequence[str], *, unit: str = "word") -> Score:
    """Align texts and count errors; with unit "character" errors of characters.

    Parameters
    ----------
    references, hypotheses : sequence of str
        One for each utterance. Words are what stands between blanks.

    Raises
    ------
    MissingDependencyError
        Without the package jiwer.
    ShapeError, InputError
        Different numbers of texts; references without a word.
    """
    jiwer = checks.package("jiwer", "word error rates", "speech")
    choose("unit", unit, ("word", "character"))
    if len(references) != len(hypotheses):
        expected = f"{len(references)} texts, one for each reference"
        raise ShapeError("hypotheses", expected, f"{len(hypotheses)}")
    texts = [[" ".join(text.split()) for text in part] for part in (references, hypotheses)]
    if not any(texts[0]):
        raise InputError("references", "at least one word", "none")
    align = jiwer.process_words if unit == "word" else jiwer.process_characters
    counts = {name: np.zeros(len(references), np.int64) for name in ("words", *KINDS)}
    kinds = dict(zip(("substitute", "delete", "insert"), KINDS, strict=True))
    for number, chunks in enumerate(align(*texts).alignments):
        for chunk in chunks:
            said = chunk.ref_end_idx - chunk.ref_start_idx
            counts["words"][number] += said
            if chunk.type in kinds:
                length = max(said, chunk.hyp_end_idx - chunk.hyp_start_idx)
                counts[kinds[chunk.type]][number] += length
    return Score(**counts)


def compare(
    first: Score,
    second: Score,
    *,
    level: float = 0.95,
    samples: int = SAMPLES,
    rng: np.random.Generator | int = 0,
) -> Comparison:
    """Compare two recognisers on the same utterances; see `Comparison`.

    Raises
    ------
    InputError
        The utterances are others.
    """
    if not np.array_equal(first.words, second.words):
        raise InputError("second", "scores of the same references", "of other ones")
    gain = second.errors - first.errors
    drawn, words = _resampled([gain, first.words], samples, rng)
    low, high = _quantiles(drawn / np.maximum(words, 1), level)
    better = float((drawn < 0).mean() + (drawn == 0).mean() / 2)
    count = len(gain)
    spread = float(gain.std(ddof=1)) if count > 1 else 0.0
    z = abs(float(gain.mean())) / (spread / math.sqrt(count)) if spread else 0.0
    if not spread and gain.any():
        z = math.inf
    return Comparison(second.rate - first.rate, low, high, better, math.erfc(z / math.sqrt(2)))


def ratio_interval(
    above: Array, below: Array, *, level: float = 0.95, samples: int = SAMPLES,
    rng: np.random.Generator | int = 0,
) -> tuple[float, float]:  # fmt: skip
    """Return a bootstrap interval of sum(above) / sum(below) over utterances drawn together.

    Such as the gain of one recogniser over that of another, in errors. Samples without a gain of
    the second count as infinite.
    """
    top, bottom = _resampled([above, below], samples, rng)
    good = bottom > 0
    ratios = np.where(good, top / np.where(good, bottom, 1), np.inf)
    checks.within("level", level, "(0, 1)")
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(ratios, ends, method="nearest")
    return float(low), float(high)


def _resampled(
    columns: list[Array], samples: int, rng: np.random.Generator | int
) -> tuple[Array, Array]:
    """Return the sums of two columns over utterances drawn with replacement, each (samples,)."""
    rng = np.random.default_rng(checks.generator_or_seed("rng", rng))
    table = np.stack(columns, axis=1)
    parts = [table[ids].sum(axis=1) for ids in _draws(len(table), samples, rng)]
    sums = np.concatenate(parts)
    return sums[:, 0], sums[:, 1]


def _draws(count: int, samples: int, rng: np.random.Generator) -> Iterator[Array]:
    left, rows = checks.count("samples", samples), max(1, BLOCK // max(count, 1))
    while left > 0:
        yield rng.integers(count, size=(min(rows, left), count))
        left -= rows


def _quantiles(values: Array, level: float) -> tuple[float, float]:
    checks.within("level", level, "(0, 1)")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
