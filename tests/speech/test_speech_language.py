"""Language models of text: perplexity, files, steps in batches, beside a search."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest

import gbdnn
from gbdnn.decoding import Decoder, Fusion
from gbdnn.errors import DtypeError, FileFormatError, InputError
from gbdnn.models import recurrent
from gbdnn.speech import language
from gbdnn.speech.data import Vocabulary
from gbdnn.speech.language import NetworkLM, TextLM, load_lm, ngram_lm, recurrent_lm
from gbdnn.training import Trainer

TEXTS = ["one two", "two one", "one one two", "two"] * 6
VOCABULARY = Vocabulary.of(TEXTS)


@pytest.fixture(scope="module")
def network_lm() -> TextLM:
    settings = Trainer(epochs=12, batch_size=8, learning_rate=1e-2, threads=1)
    return recurrent_lm(TEXTS, VOCABULARY, layers="embedding 8, lstm 16", trainer=settings)


@pytest.fixture(scope="module")
def models(network_lm) -> list[TextLM]:
    return [ngram_lm(TEXTS, VOCABULARY, order=3), network_lm]


def by_steps(model, text):
    """Return log P of a text, taken a label at a time."""
    labels = VOCABULARY.encode(text).tolist()
    total, state, given = 0.0, None, 0
    for label in [*labels, 0]:
        scores, (state,) = model([state], [given])
        assert np.exp(scores).sum() == pytest.approx(1, abs=1e-9)
        total += scores[0, label]
        given = label
    return total


def test_a_text_is_worth_the_sum_of_its_steps(models):
    for model in models:
        for text in ("one two", "two", ""):
            found = model.log_probabilities([text, "one"])
            assert found[0] == pytest.approx(by_steps(model, text), rel=1e-5)
        lines = ["one two", "two"]
        total = sum(model.log_probabilities(lines))
        assert model.perplexity(lines) == pytest.approx(math.exp(-total / (8 + 4)))
        assert model.perplexity(lines, unit="word") == pytest.approx(math.exp(-total / (3 + 2)))


def test_models_have_learnt(models):
    for model in models:
        assert model.perplexity(TEXTS) < 2
        assert model.perplexity(TEXTS) < model.perplexity(["wto neo"]) / 3


def test_batches_of_states_are_single_ones(network_lm):
    """Hypotheses from different steps, and beginnings, in one batch."""
    texts = ["one", "two o", "", "tw", "one"]
    states, last = [], []
    for text in texts:
        state, given = None, 0
        for label in VOCABULARY.encode(text).tolist():
            _, (state,) = network_lm([state], [given])
            given = label
        states.append(state)
        last.append(given)
    together, after = network_lm(states, last)
    for k, (state, given) in enumerate(zip(states, last, strict=True)):
        alone, (behind,) = network_lm([state], [given])
        assert np.allclose(together[k], alone[0], atol=1e-5)
        label = int(alone[0, 1:].argmax()) + 1
        one, other = network_lm([behind], [label])[0], network_lm([after[k]], [label])[0]
        assert np.allclose(one, other, atol=1e-5)
    again = network_lm([after[3], after[1]], [1, 2])[0]
    assert np.allclose(again[0], network_lm([after[3]], [1])[0], atol=1e-5)


def test_files_bring_models_back(models, tmp_path):
    for model in models:
        model.save(tmp_path / "a.lm")
        found = load_lm(tmp_path / "a.lm")
        assert found.vocabulary == model.vocabulary
        assert found.log_probabilities(["one two", "two"]) == model.log_probabilities(
            ["one two", "two"]
        )
        assert type(found.model) is type(model.model)
    network = gbdnn.load(tmp_path / "a.lm")  # a model file like others
    assert network.edges == models[1].model.network.edges
    network.save(tmp_path / "plain.safetensors", extra={"language_model": None})
    with pytest.raises(FileFormatError, match="a language model"):
        load_lm(tmp_path / "plain.safetensors")


def test_a_quantized_model_is_one_too(network_lm):
    inputs = [np.array([[0.0], [1.0], [2.0]], np.float32)] * 4
    rounded = gbdnn.quantize(network_lm.model.network, "int8", inputs)
    found = TextLM(VOCABULARY, NetworkLM(rounded))
    assert found.perplexity(TEXTS) < network_lm.perplexity(TEXTS) * 1.1
    assert found.log_probabilities(["one two"])[0] == pytest.approx(
        by_steps(found, "one two"), abs=1e-3
    )


def test_other_vocabularies(models):
    wide = Vocabulary("xyz" + VOCABULARY.characters)
    order = Vocabulary(VOCABULARY.characters[::-1])
    texts = [*TEXTS, "xyz"]
    model = ngram_lm(texts, wide, order=3)
    part = model.for_vocabulary(order)
    scores, states = part([None, None], [0, 0])
    assert scores.shape == (2, order.size)
    full, _ = model([None], [0])
    for k, character in enumerate(order.characters, 1):
        assert scores[0, k] == full[0, wide.encode(character)[0]]
    assert scores[0, 0] == full[0, 0]
    one = int(order.encode("o")[0])
    follow, _ = part(states, [one, one])
    assert follow[0].argmax() == order.encode("n")[0]
    assert models[0].for_vocabulary(VOCABULARY) is models[0].model
    with pytest.raises(InputError, match="without 'xyz'"):
        models[0].for_vocabulary(wide)


class Flat:
    """A transducer that hears nothing: all label sequences are equally likely."""

    def predict(self, states, labels):
        return np.zeros((len(labels), 1)), [None] * len(labels)

    def joint(self, frames, vectors):
        return np.full((len(frames), VOCABULARY.size), -math.log(VOCABULARY.size))


def test_beside_a_search_the_language_model_decides(models):
    for model in models:
        fusion = Fusion(external=model, weight=1.0, bonus=1.5)
        decoder = Decoder(Flat(), beam=16, fusion=fusion, max_labels=7)
        best = VOCABULARY.decode(decoder.decode(np.zeros((8, 1)))[0].labels)
        assert set(best.split()) <= {"one", "two"}, best
        assert len(best) == 7


def test_held_out_texts_keep_the_best_epoch(rng):
    settings = Trainer(epochs=6, batch_size=4, learning_rate=0.05, threads=1)
    texts = ["one two"] * 8
    model = recurrent_lm(texts, VOCABULARY, layers="lstm 8", trainer=settings, held_out=["two one"])
    other = recurrent_lm(texts, VOCABULARY, layers="lstm 8", trainer=settings)
    assert model.perplexity(["two one"]) < other.perplexity(["two one"])


def test_refused(network_lm):
    small = recurrent("lstm 4", 3, 5, head="identity")
    for call, error, message in (
        (lambda: NetworkLM(small), InputError, "numbers of labels"),
        (lambda: TextLM(Vocabulary("ab"), network_lm.model), InputError, "3 labels"),
        (lambda: TextLM(VOCABULARY, lambda s, y: None), DtypeError, "an NGram"),
        (lambda: network_lm([None], [2]), InputError, "the blank 0"),
        (lambda: recurrent_lm([], VOCABULARY), InputError, "at least one"),
        (lambda: ngram_lm(["x"], VOCABULARY), InputError, "'x'"),
        (lambda: network_lm.perplexity([]), InputError, "at least one"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_example():
    result = doctest.testmod(language)
    assert result.attempted > 3
    assert not result.failed
