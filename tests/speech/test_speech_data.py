"""Manifests, vocabularies, frames, augmentation and texts."""

from __future__ import annotations

import doctest
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbdnn.errors import DtypeError, FileFormatError, InputError, NonFiniteError, ShapeError
from gbdnn.speech.data import (
    FrontEnd,
    Utterance,
    Vocabulary,
    read_manifest,
    spec_augment,
    split,
    texts,
    vocabulary,
    write_manifest,
)
from gbdnn.speech.data.manifest import paired_texts, read_texts

# -- manifests -------------------------------------------------------------------------------------


def test_manifest_round_trip(tmp_path):
    utterances = [
        Utterance(tmp_path / "audio" / "a.wav", 'say "ü"', 1.5, "m1"),
        Utterance(tmp_path.parent / "b.wav", ""),
    ]
    for name in ("all.jsonl", "all.jsonl.gz"):
        write_manifest(tmp_path / name, utterances)
        found = read_manifest(tmp_path / name)
        assert found == utterances
        assert found[1].origin == f"{tmp_path / name}, line 2"
    first = json.loads((tmp_path / "all.jsonl").read_text().splitlines()[0])
    assert first["audio_filepath"] == "audio/a.wav"


@pytest.mark.parametrize(
    "text",
    [
        "a.wav\tone two\t1.5\nb.wav\tthree\n",
        "\ufeffaudio_filepath\ttext\tduration\n\na.wav\tone two\t1.5\r\nb.wav\tthree\t\r\n",
        "client_id\tpath\tduration\tsentence\nx\ta.wav\t1.5\tone two\ny\tb.wav\t\tthree\n",
        '{"audio_filepath": "a.wav", "text": "one two", "duration": 1.5, "lang": [1]}\n'
        '{"text": "three", "audio_filepath": "b.wav", "duration": null}',
    ],
)
def test_manifests_of_other_tools(tmp_path, text):
    (tmp_path / "m").write_text(text)
    a, b = tmp_path / "a.wav", tmp_path / "b.wav"
    assert read_manifest(tmp_path / "m") == [Utterance(a, "one two", 1.5), Utterance(b, "three")]


def test_errors_name_file_and_line(tmp_path):
    path = tmp_path / "m.jsonl"
    line = '{"audio_filepath": "a.wav", "text": "one"}'
    for bad in ("[]", '{"text": "x"}', "{", '{"audio_filepath": "a.wav", "text": 3}'):
        path.write_text(f"{line}\n\n{bad}\n{line}\n")
        with pytest.raises(FileFormatError, match="line 3") as caught:
            read_manifest(path)
        assert str(path) in caught.value.argument
    path = tmp_path / "m.tsv"
    path.write_text("path\ttext\tduration\na.wav\tone\t1\nb.wav\ttwo\tlong\n")
    with pytest.raises(FileFormatError, match=r"line 3: expected a duration.*'long'"):
        read_manifest(path)


def test_texts_and_pairs(tmp_path):
    said = [Utterance(tmp_path / f"{k}.wav", text) for k, text in enumerate(("a b", "c", "d"))]
    write_manifest(tmp_path / "r.jsonl", said)
    write_manifest(tmp_path / "h.jsonl", [Utterance(u.audio, u.text.upper()) for u in said[::-1]])
    (tmp_path / "h.txt").write_text("A B\n\nD\n")
    r = tmp_path / "r.jsonl"
    assert paired_texts(r, tmp_path / "h.jsonl") == (["a b", "c", "d"], ["A B", "C", "D"])
    assert paired_texts(r, tmp_path / "h.txt") == (["a b", "c", "d"], ["A B", "", "D"])
    assert paired_texts(tmp_path / "h.txt", r)[0] == ["A B", "", "D"]
    assert read_texts(r) == ["a b", "c", "d"]
    assert read_texts(tmp_path / "h.txt") == ["A B", "D"]
    write_manifest(tmp_path / "few.jsonl", said[:2])
    with pytest.raises(FileFormatError, match=r"2\.wav"):
        paired_texts(r, tmp_path / "few.jsonl")
    (tmp_path / "few.txt").write_text("a\nb\n")
    with pytest.raises(FileFormatError, match="3 lines"):
        paired_texts(r, tmp_path / "few.txt")


# -- vocabularies ----------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=8), min_size=1).filter(any))
def test_a_vocabulary_brings_its_texts_back(lines):
    found = Vocabulary.of(lines)
    for line in lines:
        labels = found.encode(line)
        assert labels.dtype == np.int32
        assert ((labels > 0) & (labels < found.size)).all()
        assert found.decode(labels) == line


def test_vocabulary_refuses():
    found = Vocabulary("ab")
    for call, error, message in (
        (lambda: found.encode("abc"), InputError, "'c' in 'abc'"),
        (lambda: found.decode([0]), InputError, "1 to 2"),
        (lambda: found.decode([3]), InputError, "got 3"),
        (lambda: Vocabulary("aba"), InputError, "'a' twice"),
        (lambda: Vocabulary(""), DtypeError, "text"),
        (lambda: Vocabulary.of([]), InputError, "at least one"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_examples_in_docstrings():
    for module in (vocabulary, texts):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


# -- frames ----------------------------------------------------------------------------------------

SHAPES = [(3, 3, False), (1, 1, False), (1, 1, True), (4, 3, True), (2, 5, True)]


@pytest.fixture
def speech(rng):
    pytest.importorskip("kaldi_native_fbank")
    slow = np.sin(np.arange(12_000) / 700) ** 2
    return (rng.standard_normal(12_000) * 0.2 * slow).astype(np.float32)


@pytest.mark.parametrize(("stack", "skip", "deltas"), SHAPES)
def test_parts_give_the_frames_of_the_whole(speech, rng, stack, skip, deltas):
    front = FrontEnd(stack=stack, skip=skip, deltas=deltas).fitted([speech])
    whole = front(speech)
    windows = (12_000 - 200) // 80 + 1
    assert whole.shape == (-(-windows // skip), front.features)
    assert whole.dtype == np.float32
    for _ in range(3):
        session = front.session()
        cuts = np.sort(rng.integers(0, len(speech), 30))
        parts = [session.accept(part) for part in np.split(speech, cuts)]
        found = np.concatenate([*parts, session.finish()])
        assert np.array_equal(found, whole)
        assert len(session.finish()) == 0
        with pytest.raises(InputError, match="finish"):
            session.accept(speech)


def test_stacking_and_skipping_by_hand(speech):
    single = FrontEnd(stack=1, skip=1)(speech)
    stacked = FrontEnd(stack=4, skip=3)(speech)
    padded = np.concatenate([single, single[-1:].repeat(3, axis=0)])
    for k, frame in enumerate(stacked):
        assert np.array_equal(frame, padded[3 * k : 3 * k + 4].reshape(-1))


def test_differences_are_slopes(speech):
    plain = FrontEnd(stack=1, skip=1)(speech).astype(np.float64)
    found = FrontEnd(stack=1, skip=1, deltas=True)(speech).astype(np.float64)
    padded = np.concatenate([plain[:1]] * 4 + [plain] + [plain[-1:]] * 4)
    slopes = [
        np.polyfit(range(-2, 3), padded[t - 2 : t + 3], 1)[0] for t in range(2, len(padded) - 2)
    ]
    second = [
        np.polyfit(range(-2, 3), slopes[t - 2 : t + 3], 1)[0] for t in range(2, len(slopes) - 2)
    ]
    assert np.array_equal(found[:, :40], plain)
    assert np.allclose(found[:, 40:80], slopes[2:-2], atol=1e-5)
    assert np.allclose(found[:, 80:], second, atol=1e-5)


def test_log_mel_energies_by_a_plain_transform(speech):
    """The first window against a Fourier transform and triangles on the mel scale in float64."""
    found = FrontEnd(stack=1, skip=1)(speech)[0]
    window = speech[:200].astype(np.float64)
    window = window - window.mean()
    window = window - 0.97 * np.concatenate([window[:1], window[:-1]])
    window *= (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 199)) ** 0.85
    power = np.abs(np.fft.rfft(window, 256)) ** 2
    mel = 1127 * np.log(1 + np.arange(129) * 8000 / 256 / 700)
    low, high = 1127 * np.log(1 + np.array([20.0, 4000.0]) / 700)
    edges = np.linspace(low, high, 42)
    rise = (mel - edges[:-2, None]) / (edges[1] - edges[0])
    triangles = np.clip(np.minimum(rise, 2 - rise), 0, None)
    triangles[:, 128] = 0
    expected = np.log(np.maximum(triangles @ power, np.finfo(np.float32).eps))
    assert np.allclose(found, expected, atol=2e-3)


def test_fitted(speech, rng):
    other = (rng.standard_normal(5000) * 0.01).astype(np.float32)
    front = FrontEnd(deltas=True)
    fitted = front.fitted([speech, other])
    assert fitted == front.fitted([front(speech), front(other)])
    rows = np.concatenate([fitted(speech), fitted(other)]).reshape(-1, fitted.single)
    assert np.allclose(rows.mean(axis=0), 0, atol=1e-4)
    assert np.allclose(rows.std(axis=0), 1, atol=1e-4)
    assert FrontEnd.from_dict(json.loads(json.dumps(fitted.as_dict()))) == fitted
    with pytest.raises(InputError, match="not normalised"):
        fitted.fitted([fitted(speech)])


def test_front_end_refuses(speech):
    front = FrontEnd()
    spoiled = speech.copy()
    spoiled[7] = np.nan
    for call, error, message in (
        (lambda: front(speech[:199]), InputError, "25 ms"),
        (lambda: front(spoiled), NonFiniteError, "sample 7"),
        (lambda: front(speech.reshape(2, -1)), ShapeError, r"\(samples,\)"),
        (lambda: front((speech * 1000).astype(np.int16)), DtypeError, "32768"),
        (lambda: front.fitted([]), InputError, "at least one frame"),
        (lambda: front.fitted([np.zeros((3, 7), np.float32)]), ShapeError, "120"),
        (lambda: FrontEnd(mean=(0.0,) * 40), InputError, "both"),
        (lambda: FrontEnd(mean=(0.0,) * 40, deviation=(0.0,) * 40), InputError, "positive"),
        (lambda: FrontEnd(mean=(0.0,), deviation=(1.0,)), InputError, "40 finite numbers"),
        (lambda: FrontEnd(skip=0), InputError, "skip"),
        (lambda: FrontEnd(bins=128)(speech), InputError, "fewer mel filters for 8000 Hz"),
        (lambda: FrontEnd.from_dict({"rat": 8000}), FileFormatError, "rate"),
        (lambda: FrontEnd.from_dict({"rate": "x"}), FileFormatError, "rate"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert front.seconds_per_frame == 0.03


def test_spec_augment(rng):
    frames = rng.standard_normal((60, 120)).astype(np.float32)
    before = frames.copy()
    seen = []
    for _ in range(50):
        out = spec_augment(frames, rng, bins=40, bin_width=8, time_width=10)
        assert np.array_equal(frames, before)
        gone = out == 0
        assert np.array_equal(out[~gone], frames[~gone])
        groups = gone.reshape(60, 3, 40)
        assert (groups == groups[:, :1]).all()
        rows, columns = gone.all(axis=1), groups[:, 0].all(axis=0)
        assert np.array_equal(groups[:, 0], rows[:, None] | columns)
        assert rows.sum() <= 20
        assert columns.sum() <= 16
        seen.append((rows.sum(), columns.sum()))
    assert np.mean(seen, axis=0).min() > 3
    assert np.array_equal(spec_augment(frames, rng, bin_masks=0, time_masks=0), frames)
    with pytest.raises(ShapeError, match="multiple of 50"):
        spec_augment(frames, rng, bins=50)


# -- texts -----------------------------------------------------------------------------------------


def test_both_domains_have_the_same_words(rng):
    target = texts.distinct(texts.target_text, 4000, rng)
    source = texts.distinct(texts.source_text, 2000, rng, target)
    assert len(set(target) | set(source)) == 6000
    words = [set(" ".join(lines).split()) for lines in (target, source)]
    assert words[1] == set(texts.WORDS)
    assert words[0] <= words[1]
    assert len(words[0]) > 70


def test_distinct_ends_when_there_is_no_more(rng):
    with pytest.raises(InputError, match="10 were found"):
        texts.distinct(lambda rng: str(rng.integers(10)), 11, rng)


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "zero"), (14, "fourteen"), (20, "twenty"), (305, "three hundred five"),
     (70_021, "seventy thousand twenty one")],
)  # fmt: skip
def test_spelled(number, words):
    assert texts.spelled(number) == words
    assert texts.normalised(f"({number})") == words


def test_normalised():
    text = "That’s 'it': dial 1-800, or 007... A_M"
    assert texts.normalised(text) == "that's it dial one eight hundred or zero zero seven a m"


def test_split_shares_no_text():
    utterances = [Utterance(f"{k}.wav", f"text {k % 10}") for k in range(40)]
    first, second = split(utterances, 0.2, 0)
    assert len(second) == 8
    assert len(first) == 32
    assert not {u.text for u in first} & {u.text for u in second}
