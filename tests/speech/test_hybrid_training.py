"""Alignment and training on synthetic frames whose segmentation is known; files; decoding."""

import numpy as np
import pytest

import gbdnn
from gbdnn import Network
from gbdnn.decoding import Hypothesis, train_ngram
from gbdnn.errors import (
    DataUnavailableError,
    DtypeError,
    FileFormatError,
    InputError,
    NonFiniteError,
    ShapeError,
)
from gbdnn.models import recurrent
from gbdnn.speech.data import FrontEnd
from gbdnn.speech.hybrid import (
    Hybrid,
    HybridDecoder,
    Lexicon,
    bootstrap,
    load_hybrid,
    realigned,
    train_hybrid,
    tune_hybrid,
)
from gbdnn.speech.hybrid.alignment import Gaussians, flat, log_priors
from gbdnn.training import Trainer

LEXICON = Lexicon.spelled(["ab", "ba", "cab", "bc"], states=2, silence=1)
FEATURES = 6


def speech(count, seed=0, noise=0.4):
    """Utterances of known states: frames around a mean for each state, durations of 2 to 5."""
    means = 2 * np.random.default_rng(99).standard_normal((LEXICON.count, FEATURES))
    rng = np.random.default_rng(seed)
    pairs, truth = [], []
    for _ in range(count):
        words = rng.integers(1, 5, rng.integers(1, 4))
        states = [0]
        for word in words:
            states += LEXICON.states_of(int(word))[0]
            states += [0] * int(rng.random() < 0.5)
        path = np.repeat(states, rng.integers(2, 6, len(states)))
        frames = means[path] + noise * rng.standard_normal((len(path), FEATURES))
        pairs.append((frames.astype(np.float32), LEXICON.decode(words)))
        truth.append(path)
    return pairs, truth


def agreement(found, truth):
    return np.mean(np.concatenate(found) == np.concatenate(truth))


@pytest.fixture(scope="module")
def trained():
    pairs, _ = speech(60)
    trainer = Trainer(epochs=6, batch_size=8, learning_rate=1e-2)
    return train_hybrid(pairs, LEXICON, layers="blstm 12", trainer=trainer, realignments=1)


def test_a_flat_start_finds_the_segmentation():
    pairs, truth = speech(60)
    frames, words = [x for x, _ in pairs], [LEXICON.encode(text) for _, text in pairs]
    start = [flat(LEXICON, text, len(x)) for x, text in zip(frames, words, strict=True)]
    assert agreement(start, truth) < 0.8
    ticks = []
    found = bootstrap(LEXICON, frames, words, rounds=15, progress=ticks.append)
    assert agreement(found, truth) > 0.97
    assert sum(ticks) % 60 == 0
    assert bootstrap(LEXICON, frames, words, rounds=0)[3].tolist() == start[3].tolist()


def test_gaussians():
    rng = np.random.default_rng(0)
    X, s = rng.standard_normal((50, 3)), rng.integers(0, 3, 50)
    model = Gaussians.of([X[:20], X[20:]], [s[:20], s[20:]], 5)
    np.testing.assert_allclose(model.mean[1], X[s == 1].mean(axis=0))
    np.testing.assert_allclose(model.variance[1], X[s == 1].var(axis=0))
    np.testing.assert_allclose(model.mean[4], X.mean(axis=0))  # a state without frames
    np.testing.assert_allclose(model.variance[4], X.var(axis=0))
    wanted = -0.5 * (
        np.log(2 * np.pi * model.variance) + (X[:, None] - model.mean) ** 2 / model.variance
    )
    np.testing.assert_allclose(model.scores(X), wanted.sum(axis=2))
    constant = Gaussians.of([np.ones((4, 2))], [np.zeros(4, int)], 2)
    assert np.isfinite(constant.scores(np.ones((1, 2)))).all()


def test_training_recognises(trained):
    pairs, truth = speech(30, seed=1)
    assert agreement(realigned(trained, pairs), truth) > 0.95
    for engine in ("numpy", "graphblas"):
        decoder = HybridDecoder(trained, engine=engine)
        texts = decoder.texts([x for x, _ in pairs])
        wrong = sum(found != text for found, (_, text) in zip(texts, pairs, strict=True))
        assert wrong <= 2
    hypothesis = decoder.decode(pairs[0][0])[0]
    assert isinstance(hypothesis, Hypothesis)
    assert trained.lexicon.decode(hypothesis.labels) == texts[0]
    words = decoder.words([pairs[0][0]])[0]
    assert [word.begin for word in words] == list(hypothesis.frames)
    changes = np.flatnonzero(np.diff(truth[0]))
    assert all(min(abs(changes + 1 - word.begin)) <= 1 for word in words)
    assert all(word.begin < word.end <= len(truth[0]) for word in words)


def test_scores_of_a_hypothesis(trained):
    frames = speech(1, seed=3)[0][0][0]
    model = train_ngram([[1, 2], [3, 4, 1]], 2, 5)
    plain = HybridDecoder(trained, model, weight=0.0).decode(frames)[0]
    assert plain.score == plain.log_probability
    for weight, bonus in ((2.0, 0.0), (1.0, -3.0)):
        found = HybridDecoder(trained, model, weight=weight, bonus=bonus).decode(frames)[0]
        added = weight * model.log_probability(found.labels) + bonus * len(found.labels)
        assert found.score == pytest.approx(found.log_probability + added)
    none = HybridDecoder(trained).decode(frames)[0]
    added = -np.log(5) * (len(none.labels) + 1)
    assert none.score == pytest.approx(none.log_probability + added)
    assert HybridDecoder(trained).decode(frames[:0]) == [Hypothesis((), (), 0.0, 0.0)]
    assert HybridDecoder(trained, bonus=-1e4).decode(frames)[0].labels == ()
    assert HybridDecoder(trained).texts([frames[:0], frames])[0] == ""
    assert HybridDecoder(trained).decode(frames[:1])[0].labels == ()


def test_a_language_model_counts(trained):
    """With a weight without measure the text is what the model knows, whatever was said."""
    frames = [x for x, text in speech(20, seed=4)[0] if len(text.split()) == 2]
    model = train_ngram([[2, 3]] * 50, 2, 5)
    texts = HybridDecoder(trained, model, weight=200.0).texts(frames)
    assert set(texts) == {"ba cab"}


def test_quantised(trained):
    pairs, _ = speech(60)
    trainer = Trainer(epochs=3, batch_size=8, learning_rate=5e-3, quantization="fasoli2022")
    rounded = tune_hybrid(trained, pairs, trainer)
    assert {w.form for w in rounded.network.weights.values()} == {"int4"}
    test = speech(30, seed=1)[0]
    texts = HybridDecoder(rounded).texts([x for x, _ in test])
    assert sum(found != text for found, (_, text) in zip(texts, test, strict=True)) <= 4


def test_priors():
    found = log_priors([np.array([0, 0, 2]), np.array([2])], 3)
    np.testing.assert_allclose(np.exp(found), [3 / 7, 1 / 7, 3 / 7])


def test_scores_are_posteriors_over_priors(trained):
    frames = [x for x, _ in speech(2, seed=5)[0]]
    plain = trained.scores(frames, prior_scale=0.0)
    for part in plain:
        np.testing.assert_allclose(np.exp(part).sum(axis=1), 1)
    scaled = trained.scores(frames, prior_scale=0.5)
    np.testing.assert_allclose(scaled[1], plain[1] - 0.5 * trained.log_priors)
    behind = trained.with_network(Network([*trained.network.layers, "softmax"]))
    np.testing.assert_allclose(behind.scores(frames)[0], trained.scores(frames)[0], atol=1e-4)
    assert trained.scores([]) == []
    with pytest.raises(DtypeError, match="list"):
        trained.scores(frames[0])


# -- files -----------------------------------------------------------------------------------------


def test_one_file(trained, tmp_path):
    front = FrontEnd(bins=6, stack=1, skip=1)
    model = Hybrid(trained.network, trained.lexicon, trained.log_priors, front)
    model.save(tmp_path / "m.safetensors")
    loaded = load_hybrid(tmp_path / "m.safetensors")
    assert loaded.lexicon == model.lexicon
    assert loaded.front == front
    np.testing.assert_array_equal(loaded.log_priors, model.log_priors)
    frames = [x for x, _ in speech(3, seed=6)[0]]
    np.testing.assert_array_equal(loaded.scores(frames)[2], model.scores(frames)[2])
    loaded.save(tmp_path / "again.safetensors")
    assert load_hybrid(tmp_path / "again.safetensors").lexicon == model.lexicon
    gbdnn.load(tmp_path / "m.safetensors").save(tmp_path / "plain.safetensors")  # as commands do
    assert load_hybrid(tmp_path / "plain.safetensors").front == front
    seconds = HybridDecoder(loaded).words(frames)[0]
    steps = HybridDecoder(trained).words(frames)[0]
    assert [word.end for word in seconds] == pytest.approx([0.01 * word.end for word in steps])


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("lexicon"),
        lambda r: r.update(lexicon=None),
        lambda r: r.update(extra=1),
        lambda r: r["lexicon"]["entries"].__delitem__(slice(2, 4)),  # fewer states then
        lambda r: r["lexicon"].update(states=1),
        lambda r: r["lexicon"].update(states=10**9),
        lambda r: r["lexicon"].update(entries="ab"),
        lambda r: r["lexicon"]["entries"].append([1, 2]),
        lambda r: r.update(log_priors=[0.0]),
        lambda r: r.update(log_priors="zeros"),
        lambda r: r.update(log_priors=["a"] * 7),
        lambda r: r.update(log_priors=[[0.0]] * 7),
        lambda r: r.update(log_priors=[1.0] * 7),
        lambda r: r.update(front={"rate": -1}),
        lambda r: r.update(front=7),
        lambda r: r.update(front=FrontEnd().as_dict()),  # of other features
    ],
)
def test_damaged_records(trained, tmp_path, change):
    record = {"lexicon": trained.lexicon.to_dict(), "log_priors": trained.log_priors.tolist(),
              "front": None}  # fmt: skip
    change(record)
    path = tmp_path / "m.safetensors"
    trained.network.save(path, extra={"hybrid": record})
    with pytest.raises(FileFormatError, match="damaged") as caught:
        load_hybrid(path)
    assert len(str(caught.value)) < 800


def test_files_that_are_no_recogniser(trained, tmp_path):
    trained.network.save(tmp_path / "m.safetensors")
    with pytest.raises(FileFormatError, match="hybrid recogniser"):
        load_hybrid(tmp_path / "m.safetensors")
    with pytest.raises(DataUnavailableError):
        load_hybrid(tmp_path / "none")


# -- what is refused -------------------------------------------------------------------------------


def test_bad_utterances():
    pairs = speech(12)[0]
    frames, text = pairs[0]
    short = Trainer(epochs=1, batch_size=8)
    bad = [(frames, "xyz"), (frames[:4], text), (frames[:, :3], text), (frames * np.nan, text),
           (frames, ""), (frames.astype(int), text)]  # fmt: skip
    kinds = (InputError, InputError, ShapeError, NonFiniteError, InputError, InputError)
    for pair, kind in zip(bad, kinds, strict=True):
        with pytest.raises(kind, match=r"utterances\[1\]"):
            train_hybrid([pairs[0], pair], LEXICON, trainer=short)
    seen = []
    found = train_hybrid(pairs + bad, LEXICON, layers="blstm 4", trainer=short, rounds=1,
                         realignments=0, bad=seen.append)  # fmt: skip
    assert len(seen) == len(bad)
    assert found.network.out_features == LEXICON.count
    with pytest.raises(InputError, match="at least one"):
        train_hybrid(bad[:2], LEXICON, bad=seen.append)
    with pytest.raises(DtypeError, match=r"utterances\[0\]"):
        train_hybrid([frames], LEXICON)


def test_bad_settings(trained):
    pairs = speech(2)[0]
    with pytest.raises(InputError, match="tune_hybrid"):
        train_hybrid(pairs, LEXICON, trainer=Trainer(quantization="int8"))
    with pytest.raises(InputError, match="cross_entropy"):
        train_hybrid(pairs, LEXICON, trainer=Trainer(loss="mse"))
    with pytest.raises(DtypeError, match="Trainer"):
        tune_hybrid(trained, pairs, "adam")
    with pytest.raises(ShapeError, match="states"):
        Hybrid(recurrent("blstm 3", FEATURES, 2), LEXICON, np.zeros(2))
    with pytest.raises(DtypeError, match="lexicon"):
        Hybrid(trained.network, ["ab"], trained.log_priors)
    with pytest.raises(DtypeError, match="front"):
        Hybrid(trained.network, LEXICON, trained.log_priors, "front")
    with pytest.raises(DtypeError, match="Hybrid"):
        HybridDecoder(trained.network)
    with pytest.raises(InputError, match="engine"):
        HybridDecoder(trained, engine="cuda")
