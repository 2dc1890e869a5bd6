"""Decoding: the best word sequence of a hybrid recogniser's scores, with times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.decoding import Hypothesis, NGram, viterbi
from gbdnn.decoding.hmm import ENGINES
from gbdnn.errors import DtypeError, InputError, choose
from gbdnn.speech.hybrid.graph import Graph, decoding_graph
from gbdnn.speech.hybrid.model import Hybrid
from gbdnn.speech.recogniser import Transcript
from gbdnn.speech.recogniser import Word as Timed
from gbdnn.types import Array

__all__ = ["HybridDecoder", "Word"]


@dataclass(frozen=True)
class Word:
    """A word that was recognised.

    Attributes
    ----------
    text : str
    begin, end : float
        Of it, in frames, or in seconds if the recogniser has a front end.
    """

    text: str
    begin: float
    end: float


@dataclass(frozen=True, eq=False)
class HybridDecoder:
    """How frames become words: Viterbi on the graph of lexicon and bigram, exact, without pruning.

        score = sum_t (log P(s_t | x) - prior_scale log P(s_t)) + log transitions
                + weight log P_ngram(words) + bonus |words|

    Parameters
    ----------
    model : Hybrid
    language_model : NGram, optional
        Of order 1 or 2, on the numbers of the lexicon's words.
    weight : float
        Of the language model's logarithms. Neighbouring frames are not independent, as the sum
        over frames takes them to be, so that good weights are far above 1; tuned on development
        data, as the others.
    bonus : float
        Of each word, in nats.
    prior_scale : float
    engine : {"graphblas", "numpy"}
        What computes the max-plus products.
    """

    model: Hybrid
    language_model: NGram | None = None
    weight: float = 1.0
    bonus: float = 0.0
    prior_scale: float = 1.0
    engine: str = "graphblas"
    graph: Graph = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, Hybrid):
            raise DtypeError("model", "a Hybrid", type(self.model).__name__)
        choose("engine", self.engine, ENGINES)
        checks.not_negative("prior_scale", self.prior_scale)
        graph = decoding_graph(
            self.model.lexicon, self.language_model, weight=self.weight, bonus=self.bonus
        )
        object.__setattr__(self, "graph", graph)

    def decode(self, frames: Array, **computing: Any) -> list[Hypothesis]:
        """Return the best word sequence of an utterance, as a list of one hypothesis.

        Parameters
        ----------
        frames : ndarray of float, shape (frames, features)
            Without frames the result is the empty sequence.
        **computing
            See `Network.predict`.

        Returns
        -------
        list of Hypothesis
            `labels` are numbers of words, from 1, `frames` where each of them begins, of those that
            the network gives;
            `log_probability` is `score` without the language model and the bonus.
        """
        if not len(frames):
            return [Hypothesis((), (), 0.0, 0.0)]
        scores = self.model.scores([frames], prior_scale=self.prior_scale, **computing)[0]
        return [self.best(scores)[0]]

    def words(self, frames: Sequence[Array], **computing: Any) -> list[list[Word]]:
        """Return the words of some utterances with their times.

        Parameters
        ----------
        frames : sequence of ndarray, shape (frames, features)
        """
        given = [part for part in frames if len(part)]
        scores = iter(self.model.scores(given, prior_scale=self.prior_scale, **computing))
        return [self._words(self.best(next(scores))[1]) if len(part) else [] for part in frames]

    def texts(self, frames: Sequence[Array], **computing: Any) -> list[str]:
        """Return the texts of some utterances."""
        return [" ".join(word.text for word in words) for words in self.words(frames, **computing)]

    def transcribe(self, samples: Any, *, threads: int | None = 1) -> Transcript:
        """Return what a recording says, with words' times in seconds.

        Parameters
        ----------
        samples : array_like of float, shape (samples,)
            At the rate of the front end.

        Raises
        ------
        InputError
            If the model has no front end; else as `FrontEnd`.
        """
        if self.model.front is None:
            fix = "Train it with front=, as gbdnn speech train does, or use decode(frames)."
            raise InputError("model", "one with a front end", "none", fix)
        frames = self.model.front(samples)
        found, spans = self.best(self.model.scores([frames], prior_scale=self.prior_scale,
                                                   threads=threads)[0])  # fmt: skip
        words = tuple(Timed(word.text, word.begin, word.end) for word in self._words(spans))
        text = " ".join(word.text for word in words)
        return Transcript(text, words, found.score, found.log_probability)

    def _words(self, spans: Sequence[tuple[int, int, int]]) -> list[Word]:
        """Return words with their times; frames are those of the front end, or given ones."""
        scale, names = self.model.seconds_per_frame, self.model.lexicon.words
        return [Word(names[word - 1], scale * begin, scale * end) for word, begin, end in spans]

    def best(self, scores: Array) -> tuple[Hypothesis, list[tuple[int, int, int]]]:
        """Return the best hypothesis of states' scores, and (word, first frame, behind the last).

        Parameters
        ----------
        scores : ndarray of float64, shape (frames, states)
            As `Hybrid.scores` gives them.
        """
        graph = self.graph
        path, score = viterbi(
            graph.transitions, scores[:, graph.states], graph.initial, graph.final,
            engine=self.engine,
        )  # fmt: skip
        spans = graph.spans(path)
        labels = tuple(word for word, _, _ in spans)
        added = self.bonus * len(labels) + self.weight * self._language(labels)
        begins = tuple(begin for _, begin, _ in spans)
        return Hypothesis(labels, begins, score, score - added), spans

    def _language(self, labels: Sequence[int]) -> float:
        if self.language_model is None:
            return -float(np.log(len(self.model.lexicon.words) + 1)) * (len(labels) + 1)
        return self.language_model.log_probability(labels)
