"""Alignments of frames with states: uniform ones to begin with, then Viterbi's.

A flat start cuts each utterance into equal parts, one for each state of its transcript. Then one
Gaussian with a diagonal covariance for each state and Viterbi alignments improve each other
("segmental k-means", Juang and Rabiner 1990, IEEE Trans. ASSP 38(9)). A recurrent network
could learn the flat alignment itself, from the position in the utterance; Gaussians cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gbdnn import checks
from gbdnn.decoding import viterbi
from gbdnn.errors import InputError
from gbdnn.speech.hybrid.graph import transcript_graph
from gbdnn.speech.hybrid.lexicon import Lexicon
from gbdnn.types import Array

__all__ = ["Gaussians", "align", "bootstrap", "flat", "log_priors"]

SHORT = "Use fewer states for each unit, or more frames a second; or leave the utterance out."
FLOOR = 0.05  # of the variance over all frames


def flat(lexicon: Lexicon, words: Sequence[int], frames: int) -> Array:
    """Return the states of `frames` frames, equally many for each state of a transcript.

    Silence, the first pronunciation of each word, silence.

    Raises
    ------
    InputError
        If there are fewer frames than states.
    """
    silent = tuple(range(lexicon.silence))
    chain = list(silent)
    for word in words:
        chain += lexicon.states_of(word)[0]
    chain += silent if words else ()
    if frames < len(chain):
        raise _short(frames, len(chain))
    return np.array(chain)[np.arange(frames) * len(chain) // frames]


def align(
    lexicon: Lexicon, words: Sequence[int], scores: Array, *, engine: str = "numpy"
) -> tuple[Array, float]:
    """Return the best states of a transcript, shape (frames,), and their log score.

    Parameters
    ----------
    lexicon : Lexicon
    words : sequence of int
    scores : ndarray of float, shape (frames, lexicon.count)
        Logarithms of likelihoods, up to a constant in each frame.
    engine : {"numpy", "graphblas"}
        For matrices of some hundred entries numpy is faster.

    Raises
    ------
    InputError
        If there are fewer frames than states.
    """
    graph = transcript_graph(lexicon, words)
    least = sum(min(map(len, lexicon.states_of(word))) for word in words)
    if len(scores) < max(least, 1):
        raise _short(len(scores), max(least, 1))
    path, score = viterbi(
        graph.transitions, scores[:, graph.states], graph.initial, graph.final, engine=engine
    )
    return graph.states[path], score


@dataclass(frozen=True, eq=False)
class Gaussians:
    """A normal distribution with a diagonal covariance for each state.

    Attributes
    ----------
    mean, variance : ndarray of float64, shape (states, features)
    """

    mean: Array
    variance: Array

    @classmethod
    def of(cls, frames: Sequence[Array], states: Sequence[Array], count: int) -> Gaussians:
        """Return the distributions of aligned frames; a state without frames has that of all."""
        X = np.concatenate(list(frames)).astype(np.float64)
        s = np.concatenate(list(states))
        seen = np.bincount(s, minlength=count)
        sums, squares = np.zeros((2, count, X.shape[1]))
        np.add.at(sums, s, X)
        np.add.at(squares, s, X**2)
        whole, spread = X.mean(axis=0), X.var(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        some = np.maximum(seen, 1)[:, None]
        mean = np.where(seen[:, None], sums / some, whole)
        variance = np.where(seen[:, None] > 1, squares / some - mean**2, spread)
        return cls(mean, np.maximum(variance, FLOOR * spread))

    def scores(self, frames: Array) -> Array:
        """Return log densities, shape (frames, states)."""
        X, precision = frames.astype(np.float64), 1 / self.variance
        constant = np.log(2 * np.pi * self.variance).sum(axis=1)
        constant = constant + (self.mean**2 * precision).sum(axis=1)
        found: Array = -0.5 * (X**2 @ precision.T - 2 * X @ (self.mean * precision).T + constant)
        return found


def bootstrap(
    lexicon: Lexicon,
    frames: Sequence[Array],
    words: Sequence[Sequence[int]],
    *,
    rounds: int = 10,
    engine: str = "numpy",
    progress: Callable[[int], None] | None = None,
) -> list[Array]:
    """Return alignments from nothing but transcripts: a flat start, then `rounds` of Gaussians.

    Parameters
    ----------
    lexicon : Lexicon
    frames : sequence of ndarray, shape (frames, features)
    words : sequence of sequences of int
        The transcripts.
    rounds : int
        Less are done where alignments do not change any more.
    engine : str
    progress : callable, optional
        Called with 1 after each utterance of each round.

    Returns
    -------
    list of ndarray of int64, shape (frames,)

    Raises
    ------
    InputError
        If an utterance has fewer frames than states.
    """
    checks.count("rounds", rounds, 0)
    found = [flat(lexicon, text, len(part)) for part, text in zip(frames, words, strict=True)]
    for _ in range(rounds):
        model, before, found = Gaussians.of(frames, found, lexicon.count), found, []
        for part, text in zip(frames, words, strict=True):
            found.append(align(lexicon, text, model.scores(part), engine=engine)[0])
            if progress is not None:
                progress(1)
        if all(map(np.array_equal, before, found)):
            break
    return found


def log_priors(alignments: Sequence[Array], count: int) -> Array:
    """Return log P(state), float64, shape (count,): how often each was aligned, and once more."""
    seen = np.bincount(np.concatenate(list(alignments)), minlength=count) + 1.0
    priors: Array = np.log(seen / seen.sum())
    return priors


def _short(frames: int, states: int) -> InputError:
    return InputError("frames", f"at least {states}, the states of the text", f"{frames}", SHORT)
