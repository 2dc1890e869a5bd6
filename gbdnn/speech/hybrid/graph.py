"""Graphs of states: a lexicon and an n-gram, or a transcript, as one sparse transition matrix.

A node is a state at a place in a word. Within a pronunciation a node leads to itself and to the
next one, log 1/2 each. Behind each word there may be silence, nodes of its own for each word, so
that what follows still knows the word before. The bigram stands in the entries from every word's
last nodes to every word's first one:

    A[last(v), first(w)] = log 1/2 + log P(no silence) + weight log P(w | v) + bonus

Viterbi on such a graph is a max-plus product for each frame (`gbdnn.decoding.viterbi`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.decoding import NGram
from gbdnn.errors import DtypeError, InputError
from gbdnn.speech.hybrid.lexicon import Lexicon
from gbdnn.types import Array
from gbdnn.weights import CSR

__all__ = ["Graph", "decoding_graph", "transcript_graph"]

HALF = math.log(0.5)
LARGEST = 50_000_000  # entries


@dataclass(frozen=True, eq=False)
class Graph:
    """States as nodes, and how they follow each other.

    Attributes
    ----------
    transitions : CSR of float64, shape (nodes, nodes)
        Natural logarithms, (from, to).
    states : ndarray of int64, shape (nodes,)
        The state of the hidden Markov model at each node.
    words : ndarray of int64, shape (nodes,)
        Number of the word that the node is in; 0 in silence.
    first : ndarray of bool, shape (nodes,)
        A word begins at the node.
    initial, final : ndarray of float64, shape (nodes,)
        Logarithms; -inf where nothing begins or ends.
    """

    transitions: CSR
    states: Array
    words: Array
    first: Array
    initial: Array
    final: Array

    def spans(self, path: Array) -> list[tuple[int, int, int]]:
        """Return (word, first frame, frame behind its last) for each word of a path of nodes."""
        found: list[tuple[int, int, int]] = []
        before = -1
        for t, node in enumerate(map(int, path)):
            if self.words[node] and self.first[node] and node != before:
                found.append((int(self.words[node]), t, t + 1))
            elif self.words[node]:
                found[-1] = (*found[-1][:2], t + 1)
            before = node
        return found


class _Nodes:
    """A graph in the making."""

    def __init__(self, lexicon: Lexicon, silence: float) -> None:
        checks.within("silence_probability", silence, "[0, 1)")
        self.lexicon = lexicon
        self.states: list[int] = []
        self.words: list[int] = []
        self.first: list[bool] = []
        self.arcs: list[tuple[Any, Any, Any]] = []
        self.into_silence = math.log(silence) if silence else -math.inf
        self.past_silence = math.log1p(-silence)

    def chain(self, states: Sequence[int], word: int) -> tuple[int, int]:
        """Add nodes one after the other; return the first and the last."""
        begin, count = len(self.states), len(states)
        self.states += states
        self.words += [word] * count
        self.first += [True] + [False] * (count - 1)
        nodes = np.arange(begin, begin + count)
        self.arcs.append((nodes, nodes, HALF))
        self.arcs.append((nodes[:-1], nodes[1:], HALF))
        return begin, begin + count - 1

    def quiet(self, before: Sequence[int] = ()) -> tuple[int, int]:
        """Add silence behind some last nodes."""
        begin, end = self.chain(range(self.lexicon.silence), 0)
        for node in before:
            self.arcs.append((node, begin, HALF + self.into_silence))
        return begin, end

    def word(self, number: int) -> tuple[list[int], list[tuple[int, float]]]:
        """Add a word with all its pronunciations; return its first nodes, and its ends.

        An end is a node and the logarithm of leaving it for what follows.
        """
        chains = [self.chain(states, number) for states in self.lexicon.states_of(number)]
        lasts = [last for _, last in chains]
        ends = [(last, HALF + self.past_silence) for last in lasts]
        if self.into_silence > -math.inf:
            ends.append((self.quiet(lasts)[1], HALF))
        return [begin for begin, _ in chains], ends

    def graph(self, initial: Array, final: Array) -> Graph:
        """Return the graph; arcs that are impossible are left out."""
        n = len(self.states)
        parts = [np.broadcast_arrays(*arc) for arc in self.arcs]
        rows, columns, values = (np.concatenate([np.ravel(p[k]) for p in parts]) for k in range(3))
        possible = values > -np.inf
        rows, columns, values = (part[possible] for part in (rows, columns, values))
        order = np.lexsort((columns, rows))
        indptr = np.searchsorted(rows[order], np.arange(n + 1))
        matrix = CSR(indptr, columns[order].astype(np.int64), values[order].astype(float), (n, n))
        return Graph(matrix, np.array(self.states), np.array(self.words), np.array(self.first),
                     initial, final)  # fmt: skip


def decoding_graph(
    lexicon: Lexicon,
    model: NGram | None = None,
    *,
    weight: float = 1.0,
    bonus: float = 0.0,
    silence_probability: float = 0.5,
) -> Graph:
    """Return the graph of all word sequences.

    Parameters
    ----------
    lexicon : Lexicon
    model : NGram, optional
        Of order 1 or 2 on the lexicon's words, ``train_ngram(map(lexicon.encode, texts), 2,
        len(lexicon.words) + 1)``. None: all words, and the end, are equally likely everywhere.
    weight : float
        Of the logarithms of its probabilities.
    bonus : float
        Of each word, in nats.
    silence_probability : float
        Of a silence before the first word and behind each word; [0, 1).

    Returns
    -------
    Graph
        With 2 entries for each pair of words, besides those within words. A word that has a single
        state in all follows itself only behind a silence: a node that leads to itself stays.

    Raises
    ------
    InputError, DtypeError
        Also for a graph of more than 50 million entries.
    """
    checks.not_negative("weight", weight)
    if isinstance(bonus, bool) or not math.isfinite(bonus):
        raise InputError("bonus", "a finite number", repr(bonus))
    words = len(lexicon.words)
    starts = len(lexicon.entries)
    if (starts + words) * starts > LARGEST:
        fix = "Use fewer words."
        expected = f"at most {LARGEST:,} entries between words"
        raise InputError("lexicon", expected, f"{(starts + words) * starts:,}", fix)
    follow = weight * _log_probabilities(model, words)  # row 0: the beginning, column 0: the end
    follow[:, 1:] += bonus
    nodes = _Nodes(lexicon, silence_probability)
    quiet = nodes.quiet()[1]
    firsts: list[tuple[int, int, float]] = []  # node, word, logarithm of the pronunciation
    ends: list[tuple[int, int, float]] = [(quiet, 0, HALF)]
    for number in range(1, words + 1):
        begins, leaving = nodes.word(number)
        firsts += [(node, number, -math.log(len(begins))) for node in begins]
        ends += [(node, number, value) for node, value in leaving]
    to, to_word, chosen = (np.array(part) for part in zip(*firsts, strict=True))
    for node, word, leave in ends:
        values = follow[word, to_word] + chosen + leave
        values[to == node] = -np.inf
        nodes.arcs.append((np.full(len(to), node), to, values))
    initial, final = (np.full(len(nodes.states), -np.inf) for _ in range(2))
    initial[to] = follow[0, to_word] + chosen + nodes.past_silence
    initial[0] = nodes.into_silence
    for node, word, leave in ends:
        final[node] = follow[word, 0] + leave
    final[: quiet + 1] = follow[0, 0] + HALF  # no word at all: silence of any length
    return nodes.graph(initial, final)


def transcript_graph(
    lexicon: Lexicon, words: Sequence[int], *, silence_probability: float = 0.5
) -> Graph:
    """Return the graph of one word sequence, with silence where it may be.

    Parameters
    ----------
    lexicon : Lexicon
    words : sequence of int
        Numbers of words, as `Lexicon.encode` gives them.
    silence_probability : float

    Raises
    ------
    InputError
    """
    for number in words:
        checks.within("words", number, f"[1, {len(lexicon.words)}]", whole=True)
    nodes = _Nodes(lexicon, silence_probability)
    quiet = nodes.quiet()[1]
    ends, begins = [(quiet, HALF)], list[int]()
    for place, number in enumerate(words):
        heads, leaving = nodes.word(int(number))
        for node, leave in ends:
            nodes.arcs.append((node, np.array(heads), leave - math.log(len(heads))))
        begins, ends = (heads if place == 0 else begins), leaving
    initial, final = (np.full(len(nodes.states), -np.inf) for _ in range(2))
    initial[0] = nodes.into_silence
    if begins:
        initial[begins] = nodes.past_silence - math.log(len(begins))
    for node, leave in ends:
        final[node] = leave
    return nodes.graph(initial, final)


def _log_probabilities(model: NGram | None, words: int) -> Array:
    """Return log P(next | before), shape (words + 1, words + 1); 0 are beginning and end."""
    if model is None:
        return np.full((words + 1, words + 1), -math.log(words + 1))
    if not isinstance(model, NGram):
        raise DtypeError("model", "a gbdnn.decoding.NGram or None", type(model).__name__)
    if model.vocabulary != words + 1 or model.blank != 0:
        expected = f"{words + 1} labels, those of the lexicon's words and 0 for the end"
        got = f"{model.vocabulary}, the end {model.blank}"
        raise InputError("model", expected, got)
    if model.order > 2:
        fix = "train_ngram(..., order=2, ...) makes a bigram."
        raise InputError("model", "order 1 or 2: a node knows one word before", f"{model.order}",
                         fix)  # fmt: skip
    rows = [model.start, *(model.step(model.start, word) for word in range(1, words + 1))]
    return model.scores(rows)
