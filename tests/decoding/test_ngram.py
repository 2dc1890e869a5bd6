"""N-grams: distributions, the published equation by hand, states, perplexity, use in a search."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Toy, all_sequences, lm_log_probability, log_probability

from gbdnn.decoding import Decoder, Fusion, train_ngram
from gbdnn.errors import DtypeError, InputError
from gbdnn.weights import CSR

TEXT = "the cat sat on the mat the rat sat on the cat a hat sat at the tea the heat at tea"
LETTERS = {letter: number for number, letter in enumerate(sorted(set(TEXT) - {" "}), 1)}
WORDS = [[LETTERS[letter] for letter in word] for word in TEXT.split()]
V = len(LETTERS) + 1


def kneser_ney(sentences, order, vocabulary, blank=0):
    """P(w | h) by recursion on the definition, with sets and dictionaries."""
    grams = Counter()
    for labels in sentences:
        padded = [blank, *labels, blank]
        for i in range(1, len(padded)):
            grams[tuple(padded[max(0, i - order + 1) : i + 1])] += 1
    counts = [Counter() for _ in range(order + 1)]  # by length
    everything = set(grams)
    for gram, count in grams.items():
        counts[len(gram)][gram] += count
    for length in range(order, 1, -1):
        for gram in {g for g in everything if len(g) == length}:
            counts[length - 1][gram[1:]] += 1
            everything.add(gram[1:])
    discounts = {}
    for length in range(1, order + 1):
        ones, twos = (sum(c == n for c in counts[length].values()) for n in (1, 2))
        discounts[length] = ones / (ones + 2 * twos) if ones and twos else 0.5

    def probability(word, context):
        context = context[max(0, len(context) - order + 1) :]
        here = {g[-1]: c for g, c in counts[len(context) + 1].items() if g[:-1] == context}
        below = probability(word, context[1:]) if context else 1 / vocabulary
        if not here:
            return below
        D, total = discounts[len(context) + 1], sum(here.values())
        return max(here.get(word, 0) - D, 0) / total + D * len(here) / total * below

    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_equation(order):
    model, probability = train_ngram(WORDS, order, V), kneser_ney(WORDS, order, V)
    for word in [*WORDS, [1, 1, 1, 2], [V - 1] * 5, []]:
        state, last = None, 0
        for position in range(len(word) + 1):
            scores, (state,) = model([state], [last])
            np.testing.assert_allclose(np.exp(scores).sum(), 1, rtol=1e-12)
            context = (0, *word[:position])
            expected = [probability(w, context) for w in range(V)]
            np.testing.assert_allclose(np.exp(scores[0]), expected, rtol=1e-10)
            last = word[position] if position < len(word) else 0


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 4).filter(lambda w: w != 2), max_size=6), min_size=1),
    st.integers(1, 4),
)
def test_every_state_is_a_distribution(sentences, order):
    model = train_ngram(sentences, order, 5, blank=2)
    scores = model.scores(range(model.rows.shape[0]))
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-10)
    assert ((model.lower < np.arange(len(model.lower))) & (model.targets.max() < len(scores))).all()


def test_a_step_is_a_row():
    model = train_ngram(WORDS, 2, V)
    assert isinstance(model.rows, CSR)
    assert model.rows.nnz < V * V
    assert len(model.targets) == model.rows.nnz
    states = model([None, None], [0, 0])[1]
    scores, states = model(states, [LETTERS["t"], LETTERS["h"]])
    for row, state in zip(scores, states, strict=True):
        part = slice(*model.rows.indptr[state : state + 2])
        np.testing.assert_array_equal(row[model.rows.indices[part]], model.rows.values[part])


def test_perplexity():
    lower_is_better = [train_ngram(WORDS, order, V).perplexity(WORDS) for order in (1, 2, 3)]
    assert lower_is_better[0] > lower_is_better[1] > lower_is_better[2] > 1
    model = train_ngram(WORDS, 3, V)
    total = sum(map(model.log_probability, WORDS))
    tokens = sum(len(word) + 1 for word in WORDS)
    assert model.perplexity(WORDS) == pytest.approx(math.exp(-total / tokens))
    uniform = train_ngram([[1], [2], [3]], 1, 4)
    assert uniform.perplexity([[1, 2, 3]]) == pytest.approx(
        math.exp(-uniform.log_probability([1, 2, 3]) / 4)
    )
    other = [list(reversed(word)) for word in WORDS]
    assert model.perplexity(other) > model.perplexity(WORDS)


def test_sentences_are_distributions():
    """The probabilities of all sentences up to a length, and of going on, are 1 together."""
    model = train_ngram([[1, 2], [1], [2, 2, 1]], 3, 3)
    total = sum(math.exp(model.log_probability(y)) for y in all_sequences(3, 4))
    longer = sum(math.exp(lm_log_probability(model, y)) for y in all_sequences(3, 5) if len(y) == 5)
    assert total + longer == pytest.approx(1)


def test_density_ratio_in_an_exhaustive_search():
    model = Toy(seed=3)
    frames = model.frames(4)
    external = train_ngram([[1, 2], [1, 2, 1], [1]], 3, 3)
    bigram = train_ngram([[2, 2], [1, 2, 2], [2]], 2, 3)
    fusion = Fusion(external, bigram, weight=0.6, source_weight=0.3)
    found = Decoder(model, beam=None, max_labels=3, fusion=fusion).decode(frames)
    assert len(found) == 15
    for h in found:
        expected = log_probability(model, frames, h.labels)
        expected += 0.6 * lm_log_probability(external, h.labels)
        expected -= 0.3 * lm_log_probability(bigram, h.labels)
        assert h.score == pytest.approx(expected, abs=1e-10)
    for beam in (1, 4):
        equal = Fusion(bigram, bigram, weight=0.6, source_weight=0.6)
        a, b = (Decoder(model, beam=beam, fusion=f).decode(frames) for f in (equal, Fusion()))
        assert [h.labels for h in a] == [h.labels for h in b]
        np.testing.assert_allclose([h.score for h in a], [h.score for h in b])


def test_the_oracle_is_no_copy():
    """A discount that is wrong by a thousandth would be seen."""
    model, probability = train_ngram(WORDS, 2, V), kneser_ney(WORDS, 2, V)
    moved = model.scores([model.start])[0] * 1.001
    assert not np.allclose(np.exp(moved), [probability(w, (0,)) for w in range(V)], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([], 2, 5), InputError), (([[1, 5]], 2, 5), InputError), (([[1, 0]], 2, 5), InputError),
        (([[-1]], 2, 5), InputError), (([[1.5]], 2, 5), DtypeError), (([1, 2], 2, 5), DtypeError),
        (("text", 2, 5), DtypeError), (([[1]], 0, 5), InputError), (([[1]], 2, 1), InputError),
        (([[1]], 2, 3, 3), InputError),
    ],
)  # fmt: skip
def test_bad_text(arguments, error):
    with pytest.raises(error):
        train_ngram(*arguments)


def test_bad_steps():
    model = train_ngram(WORDS, 2, V)
    with pytest.raises(InputError, match="label"):
        model([0], [V])
    with pytest.raises(InputError, match="label"):
        model([0], [-1])
    with pytest.raises(InputError, match="states"):
        model.scores([10**6])
    with pytest.raises(InputError, match="sentences"):
        model.perplexity([])
