"""Searches: equal to looking at everything where they keep all; batched, in parts, cached."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import (
    OneByOne,
    Toy,
    ToyLM,
    all_sequences,
    chain,
    lm_log_probability,
    log_probability,
    log_softmax,
)

from gbdnn.decoding import SEARCHES, Decoder, Fusion, InternalLM
from gbdnn.decoding.search import AlignmentSynchronous
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError, UnknownNameError
from gbdnn.losses import transducer_loss

searches = pytest.mark.parametrize("search", sorted(SEARCHES))
beams = pytest.mark.parametrize("search", ["alsd", "tsd"])


def same(a, b):
    assert [h.labels for h in a] == [h.labels for h in b]
    assert [h.frames for h in a] == [h.frames for h in b]
    np.testing.assert_allclose([h.score for h in a], [h.score for h in b], rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(T=st.integers(1, 4), most=st.integers(0, 3), seed=st.integers(0, 1000), fused=st.booleans())
def test_alsd_that_keeps_all_is_exhaustive(T, most, seed, fused):
    model = Toy(seed=seed)
    frames, fusion = model.frames(T, seed), Fusion()
    if fused:
        fusion = Fusion(ToyLM(), ToyLM(seed=8), weight=0.7, source_weight=0.4, bonus=0.3)
    found = Decoder(model, beam=None, max_labels=most, fusion=fusion).decode(frames)
    expected = {}
    for y in all_sequences(3, most):
        expected[y] = log_probability(model, frames, y)
        if fused:
            expected[y] += 0.7 * lm_log_probability(fusion.external, y) + 0.3 * len(y)
            expected[y] -= 0.4 * lm_log_probability(fusion.source, y)
    assert [h.labels for h in found] == sorted(expected, key=lambda y: -expected[y])
    for h in found:
        assert h.score == pytest.approx(expected[h.labels], abs=1e-10)
        assert h.log_probability == pytest.approx(log_probability(model, frames, h.labels))


@settings(deadline=None, max_examples=20)
@given(T=st.integers(1, 3), most=st.integers(1, 2), seed=st.integers(0, 1000))
def test_tsd_that_keeps_all_is_exhaustive(T, most, seed):
    model = Toy(seed=seed)
    frames = model.frames(T, seed)
    found = Decoder(model, "tsd", None, labels_per_frame=most).decode(frames)
    expected = {y: log_probability(model, frames, y, most) for y in all_sequences(3, T * most)}
    assert [h.labels for h in found] == sorted(expected, key=lambda y: -expected[y])
    for h in found:
        assert h.score == pytest.approx(expected[h.labels], abs=1e-10)


def test_scores_are_those_of_the_loss():
    model = Toy(vocabulary=4)
    frames = model.frames(5)
    found = Decoder(model, beam=None, max_labels=3).decode(frames)
    for h in found[:10]:
        vectors = chain(model, h.labels)
        logits = np.array([model.joint(np.tile(f, (len(vectors), 1)), vectors) for f in frames])
        cost, _ = transducer_loss(logits[None], np.array([h.labels], int))
        assert h.log_probability == pytest.approx(-cost[0], abs=1e-9)


def test_greedy_takes_the_best_step():
    model = Toy(vocabulary=5, seed=3)
    frames = model.frames(12)
    (found,) = Decoder(model, "greedy", labels_per_frame=2).decode(frames)
    labels, places, score, state, label = [], [], 0.0, None, 0
    vector, (state,) = model.predict([state], [label])
    for t, frame in enumerate(frames):
        for number in range(3):
            logp = model.joint(frame[None], vector)[0]
            label = 0 if number == 2 else int(logp.argmax())
            score += logp[label]
            if label == 0:
                break
            labels.append(label)
            places.append(t)
            vector, (state,) = model.predict([state], [label])
    assert labels
    assert found.labels == tuple(labels)
    assert found.frames == tuple(places)
    assert found.score == pytest.approx(score)


@beams
@pytest.mark.parametrize("beam", [1, 3, 16, 64])
def test_a_beam_in_a_batch_is_as_one_by_one(search, beam):
    model = Toy(vocabulary=6, seed=4, blank_bias=2.0)
    frames = model.frames(15)
    fusion = Fusion(ToyLM(6), weight=0.5, bonus=0.1)
    batched = Decoder(model, search, beam, fusion=fusion).decode(frames)
    same(batched, Decoder(OneByOne(model), search, beam, fusion=fusion).decode(frames))
    assert len(batched) == beam
    scores = [h.score for h in batched]
    assert scores == sorted(scores, reverse=True)
    assert len({h.labels for h in batched}) == beam


@searches
@pytest.mark.parametrize("max_labels", [None, 5])
@pytest.mark.parametrize("parts", [[30], [1] * 30, [0, 7, 0, 1, 22, 0], [29, 1], [2, 28]])
def test_parts_are_as_the_whole(search, parts, max_labels):
    model = Toy(vocabulary=5, seed=5, blank_bias=1.5)
    frames = model.frames(30).astype(np.float32)
    decoder = Decoder(model, search, 5, max_labels=max_labels)
    session, at = decoder.session(), 0
    for part in parts:
        partial = session.accept(frames[at : at + part])
        at += part
        assert partial == session.best
        assert all(t < at for t in partial.frames)
    found = session.finish()
    same(found, decoder.decode(frames))
    same(found, session.finish())
    if search == "alsd" and max_labels:
        assert max(len(h.labels) for h in found) <= max_labels
    with pytest.raises(InputError, match="session"):
        session.accept(frames)


@searches
def test_each_prefix_is_predicted_once(search):
    model = Toy(vocabulary=4, seed=6, blank_bias=1.0)
    session = Decoder(model, search, 8).session()
    session.accept(model.frames(40))
    session.finish()
    assert len(set(model.predictions)) == len(model.predictions) == session.predicted
    if search != "greedy":
        assert max(model.batches) > 3


@beams
def test_the_best_sequence_is_found_by_a_large_beam(search):
    model = Toy(vocabulary=3, seed=9)
    frames = model.frames(5)
    whole = Decoder(model, beam=None, max_labels=5).decode(frames)
    found = Decoder(model, search, 64, labels_per_frame=5).decode(frames)
    assert found[0].labels == whole[0].labels
    assert found[0].score == pytest.approx(whole[0].score, abs=0.05)


@pytest.mark.parametrize("beam", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", [0, 1, 3, 4])
def test_ending_early_changes_nothing(seed, beam, monkeypatch):
    """ALSD stops when nothing that is left can come among the best."""
    model = Toy(vocabulary=4, seed=seed, blank_bias=6.0)
    frames = model.frames(12)
    session = Decoder(model, beam=beam).session()
    session.accept(frames)
    found = session.finish()
    assert session._search.step < 24
    monkeypatch.setattr(AlignmentSynchronous, "_settled", lambda self: False)
    same(found, Decoder(model, beam=beam).decode(frames))


@searches
def test_times_follow_the_frames(search):
    """Frames that say one label each, clearly: labels are timed where they are said."""
    said = [0, 0, 2, 0, 1, 0, 0, 3, 3, 0]

    class Clear:
        def predict(self, states, labels):
            return np.array(labels)[:, None], list(labels)

        def joint(self, frames, vectors):
            z = np.full((len(frames), 4), -20.0)
            for row, frame, last in zip(z, frames, vectors[:, 0], strict=True):
                word = int(frame[0])
                row[0 if word == last else word] = 0  # said already: go on
            return log_softmax(z)

    found = Decoder(Clear(), search).decode(np.array(said, float)[:, None])[0]
    assert found.labels == (2, 1, 3)
    assert found.frames == (2, 4, 7)
    assert found.score == pytest.approx(0, abs=1e-3)


def test_long_recordings_keep_little():
    model = Toy(vocabulary=4, seed=11, blank_bias=3.0)
    session = Decoder(model, beam=4).session()
    for _ in range(40):
        session.accept(model.frames(50))
    search = session._search
    stack, kept = [search.prefixes.root], 0
    while stack:
        node = stack.pop()
        stack += node.children.values()
        kept += node.vector is not None
    assert session.predicted > 2 * kept
    assert len(search.frames) < 2000
    whole = np.concatenate([model.frames(50)] * 40)
    same(session.finish(), Decoder(model, beam=4).decode(whole))


@searches
def test_nothing_and_one_frame(search):
    model = Toy()
    decoder = Decoder(model, search)
    (empty,) = decoder.decode(model.frames(0))
    assert (empty.labels, empty.frames, empty.score) == ((), (), 0)
    assert decoder.decode(model.frames(1))
    same(decoder.session().finish(), [empty])


def plain(**changes):
    """A transducer with one method replaced."""
    model = Toy()
    for name, function in changes.items():
        setattr(model, name, function)
    return model


FRAMES = Toy().frames(3)
NAN = np.where(np.arange(12).reshape(3, 4) == 5, np.nan, FRAMES)


@searches
@pytest.mark.parametrize(
    ("model", "frames", "error", "says"),
    [
        (plain(), FRAMES[0], ShapeError, "frames"),
        (plain(), FRAMES.astype(int), DtypeError, "floats"),
        (plain(), NAN, NonFiniteError, "frame 1"),
        (plain(joint=lambda f, v: np.full((len(f), 3), np.nan)), FRAMES, NonFiniteError, "joint"),
        (plain(joint=lambda f, v: np.zeros(3)), FRAMES, ShapeError, "joint"),
        (plain(joint=lambda f, v: np.zeros((9, 3))), FRAMES, ShapeError, "joint"),
        (plain(joint=lambda f, v: np.full((len(f), 3), -np.inf)), FRAMES, InputError, "above 0"),
        (plain(predict=lambda s, y: (np.zeros((7, 2)), [0] * 7)), FRAMES, ShapeError, "predict"),
    ],
)  # fmt: skip
def test_bad_models_and_frames(search, model, frames, error, says):
    with pytest.raises(error, match=says):
        Decoder(model, search).decode(frames)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"search": "best"}, UnknownNameError), ({"beam": 0}, InputError),
        ({"beam": 2.5}, InputError), ({"max_labels": -1}, InputError), ({"blank": -1}, InputError),
        ({"labels_per_frame": 0}, InputError), ({"fusion": ToyLM()}, DtypeError),
        ({"model": object()}, DtypeError),
    ],
)  # fmt: skip
def test_bad_settings(settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        Decoder(**{"model": Toy()} | settings)


def test_sessions_refuse_other_features():
    session = Decoder(Toy()).session()
    session.accept(FRAMES)
    with pytest.raises(ShapeError, match=r"\(number, 4\)"):
        session.accept(FRAMES[:, :3])


# -- fusion ----------------------------------------------------------------------------------------


@searches
@pytest.mark.parametrize("beam", [1, 8])
def test_fusion_that_adds_nothing(search, beam):
    model = Toy(vocabulary=5, seed=12, blank_bias=1.0)
    frames, lm = model.frames(12), ToyLM(5)
    expected = Decoder(model, search, beam).decode(frames)
    for fusion in (
        Fusion(lm, lm),
        Fusion(lm, lm, weight=0.8, source_weight=0.8),
        Fusion(InternalLM(model, 4), InternalLM(model, 4), weight=0.3, source_weight=0.3),
        Fusion(lambda s, y: (np.zeros((len(y), 5)), s), weight=2.0),
    ):
        found = Decoder(model, search, beam, fusion=fusion).decode(frames)
        same(found, expected)
    other = Decoder(model, search, beam, fusion=Fusion(lm, weight=0.8)).decode(frames)
    assert [h.score for h in other] != [h.score for h in expected]


def test_a_bonus_trades_deletions():
    model = Toy(vocabulary=5, seed=13, blank_bias=4.0)
    frames = model.frames(20)
    lengths = [
        len(Decoder(model, fusion=Fusion(bonus=bonus)).decode(frames)[0].labels)
        for bonus in (-6.0, 0.0, 6.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]


def test_the_internal_model_is_a_distribution_over_labels():
    model = Toy(vocabulary=5)
    scores, states = InternalLM(model, 4)([None, None], [0, 0])
    assert (scores[:, 0] == -np.inf).all()
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1)
    logp = model.joint(np.zeros((1, 4)), model.predict([None], [0])[0])[0]
    np.testing.assert_allclose(scores[0, 1:], logp[1:] - np.log1p(-np.exp(logp[0])))
    assert len(states) == 2


def test_internal_model_in_an_exhaustive_search():
    model = Toy(seed=14)
    frames, internal = model.frames(3), InternalLM(model, 4)
    fusion = Fusion(source=internal, source_weight=0.5)
    for h in Decoder(model, beam=None, max_labels=2, fusion=fusion).decode(frames):
        expected = log_probability(model, frames, h.labels)
        expected -= 0.5 * lm_log_probability(internal, h.labels)
        assert h.score == pytest.approx(expected, abs=1e-10)


def test_impossible_labels_of_an_external_model():
    """What the external model gives 0 never comes; of a source model that is an error."""
    model = Toy(vocabulary=4, seed=15)

    def never_two(states, labels):
        scores = np.zeros((len(labels), 4))
        scores[:, 2] = -np.inf
        return scores, states

    found = Decoder(model, beam=None, max_labels=2, fusion=Fusion(never_two, weight=0.1))
    assert all(2 not in h.labels for h in found.decode(model.frames(3)))
    assert any(3 in h.labels for h in found.decode(model.frames(3)))
    wrong = Decoder(model, fusion=Fusion(source=never_two, source_weight=0.1))
    with pytest.raises(NonFiniteError, match="source model"):
        wrong.decode(model.frames(3))


@pytest.mark.parametrize(
    ("fusion", "error"),
    [
        (lambda: Fusion(weight=1.0), InputError), (lambda: Fusion(source_weight=1.0), InputError),
        (lambda: Fusion(ToyLM(), weight=-1.0), InputError), (lambda: Fusion("lm"), DtypeError),
        (lambda: Fusion(bonus=np.nan), InputError),
        (lambda: Fusion(ToyLM(9), weight=1.0), ShapeError),
        (lambda: Fusion(lambda s, y: (np.zeros(3), s), weight=1.0), ShapeError),
        (lambda: Fusion(lambda s, y: (np.full((len(y), 3), np.nan), s), weight=1.0),
         NonFiniteError),
    ],
)  # fmt: skip
def test_bad_fusions(fusion, error):
    with pytest.raises(error, match="fusion"):
        Decoder(Toy(), fusion=fusion()).decode(FRAMES)
