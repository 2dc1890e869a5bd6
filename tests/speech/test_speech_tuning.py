"""Tuning of fusion weights: a task whose best weights are known, and lists checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gbdnn.decoding import Decoder, Fusion, Hypothesis
from gbdnn.errors import InputError, ShapeError
from gbdnn.speech.data import Vocabulary
from gbdnn.speech.language import ngram_lm
from gbdnn.speech.scoring import score
from gbdnn.speech.tuning import label_scores, tune_fusion

pytest.importorskip("jiwer")
VOCABULARY = Vocabulary(" ab")
SAID = ["ab ab", "ab", "ab ab ab", "ab ab"] * 6


class Noisy:
    """A transducer that hears each character at its frame, not always the right one."""

    def predict(self, states, labels):
        states = [0 if state is None else state + 1 for state in states]
        return np.array(states, float)[:, None], states

    def joint(self, frames, vectors):
        """Frames have scores for the character of their number; else there is a blank."""
        scores = np.full((len(frames), VOCABULARY.size), -30.0)
        scores[:, 0] = -1e-9
        due = frames[:, 0] == vectors[:, 0]
        scores[due, 1:], scores[due, 0] = frames[due, 1:], -9.0
        return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def frames_of(text, rng):
    labels = VOCABULARY.encode(text)
    scores = rng.normal(0, 1.2, (len(labels), 3))
    scores[np.arange(len(labels)), labels - 1] += 1.5
    rows = np.column_stack([np.arange(len(labels)), scores])
    return np.repeat(rows, 2, axis=0)  # a frame for the label and one for the blank


@pytest.fixture(scope="module")
def utterances():
    rng = np.random.default_rng(5)
    return [frames_of(text, rng) for text in SAID]


@pytest.fixture(scope="module")
def external():
    return ngram_lm(["ab ab", "ab", "ab ab ab"] * 4, VOCABULARY, order=3)


def decoder_of(utterances, calls, beam=8):
    def decode(fusion):
        calls.append(fusion)
        found = Decoder(Noisy(), beam=beam, fusion=fusion)
        return [found.decode(frames) for frames in utterances]

    return decode


def errors_of(utterances, fusion):
    found = decoder_of(utterances, [])(fusion)
    return score(SAID, [VOCABULARY.decode(lists[0].labels) for lists in found]).errors.sum()


def test_few_decodings_reach_what_a_search_by_decodings_does(utterances, external):
    calls, seen = [], []
    begin = Fusion(external)
    best, trials = tune_fusion(
        decoder_of(utterances, calls), SAID, VOCABULARY.decode, begin, report=seen.append
    )
    assert seen == trials
    assert [trial.fusion for trial in trials] == calls
    assert trials[0].fusion == begin
    assert len(calls) <= 4
    assert best.errors == errors_of(utterances, best.fusion) == min(t.errors for t in trials)
    assert best.errors < trials[0].errors / 2
    assert best.rate == best.errors / sum(len(text.split()) for text in SAID)
    by_decodings = min(
        errors_of(utterances, Fusion(external, weight=weight, bonus=bonus))
        for weight in (0.0, 0.3, 0.6, 1.0)
        for bonus in (0.0, 0.5, 1.0)
    )
    assert best.errors <= by_decodings + 2


def test_the_source_model_gets_a_weight_where_it_helps(external):
    """Lists by hand: only less of the source model makes the right texts win."""
    source = ngram_lm(["b b b", "bb b"] * 4, VOCABULARY, order=2)
    said, other = "ab ab", "bb bb"

    def lists(fusion):
        pair = []
        for text, own in ((said, -6.0), (other, -5.0)):
            labels = tuple(VOCABULARY.encode(text).tolist())
            pair.append(Hypothesis(labels, labels, 0.0, own))
        pair.sort(key=lambda h: -total(h, fusion))
        return [pair] * 3

    def total(hypothesis, fusion):
        found = hypothesis.log_probability
        for model, factor in ((external, fusion.weight), (source, -fusion.source_weight)):
            found += factor * label_scores(model, [hypothesis.labels])[0]
        return found

    begin = Fusion(lambda s, y: (np.zeros((len(y), 4)), s), source)
    best, trials = tune_fusion(lists, [said] * 3, VOCABULARY.decode, begin, bonuses=(0.0,))
    assert trials[0].errors == 6
    assert best.errors == 0
    assert best.fusion.source_weight > 0


def test_label_scores(external, rng):
    sequences = [tuple(rng.integers(1, 4, size=n).tolist()) for n in (3, 0, 5, 1, 5, 2)] * 60
    found = label_scores(external, sequences)
    for labels, value in list(zip(sequences, found, strict=True))[:12]:
        with_end = external.model.log_probability(labels)
        end = external.model.scores([_state(external.model, labels)])[0, 0]
        assert value == pytest.approx(with_end - end, abs=1e-9)
    assert np.array_equal(found[:6], found[-6:])


def _state(model, labels):
    state = model.start
    for label in labels:
        state = model.step(state, label)
    return state


def test_it_is_never_worse_than_the_beginning(utterances, external):
    """A language model of other texts can only do harm; the tuner sees it."""
    wrong = ngram_lm(["bbbb", "aa aa"] * 5, VOCABULARY, order=3)
    best, trials = tune_fusion(
        decoder_of(utterances, []), SAID, VOCABULARY.decode, Fusion(wrong), rounds=3
    )
    assert best.errors <= trials[0].errors


def test_refused(utterances, external):
    decode = decoder_of(utterances, [])
    with pytest.raises(InputError, match="external"):
        tune_fusion(decode, SAID, VOCABULARY.decode, Fusion())
    with pytest.raises(InputError, match="at least one word"):
        tune_fusion(decode, [""] * len(SAID), VOCABULARY.decode, Fusion(external))
    with pytest.raises(ShapeError, match="3 lists"):
        tune_fusion(decode, SAID[:3], VOCABULARY.decode, Fusion(external))
    with pytest.raises(ShapeError, match="at least one hypothesis"):
        tune_fusion(lambda f: [[]] * len(SAID), SAID, VOCABULARY.decode, Fusion(external))
