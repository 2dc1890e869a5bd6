"""Synthetic speech, corpora and telephone prompts."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from gbdnn.errors import DataUnavailableError, InputError, UnknownNameError
from gbdnn.speech.data import (
    Utterance,
    corpus,
    make_corpus,
    read_audio,
    read_manifest,
    splice,
    telephone_prompts,
    texts,
    write_audio,
)
from gbdnn.speech.data.corpus import CorpusPlan
from gbdnn.speech.data.synthesis import ACCENTS, VARIANTS, Voice, synthesise, voices

PLAN = CorpusPlan(utterances=6, held_out=2, target_texts=9, rooms=0.5, seed=3)
BREATHES = Voice("america", "f2")  # a voice with noise


@pytest.fixture(autouse=True)
def _engine():
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("soundfile")


def test_equal_text_voice_and_seed_give_equal_samples():
    chosen = [BREATHES, Voice("scotland", "klatt2", 140, 30), Voice("america", "Alex")]
    first = [synthesise("seven five oh two", voice)[0] for voice in chosen]
    again = [synthesise("seven five oh two", voice)[0] for voice in chosen[::-1]][::-1]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one, other)
        assert np.abs(one).max() <= 1
        assert one.std() > 0.02
        assert 0.8 < len(one) / 22050 < 3
    code = (
        "from gbdnn.speech.data.synthesis import *;"
        "x, _ = synthesise('seven five oh two', Voice('america', 'f2'));"
        "import hashlib; print(hashlib.sha256(x.tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(first[0].tobytes()).hexdigest()
    other, rate = synthesise("seven five oh two", BREATHES, seed=1)
    assert rate == 22050
    assert not np.array_equal(other, first[0])


def test_rate_and_pitch_are_heard():
    slow, fast = (synthesise("one two three", Voice(rate=rate))[0] for rate in (100, 250))
    assert len(slow) > 1.5 * len(fast)

    def tone(pitch):  # the first strong place of the autocorrelation, in Hz
        x, rate = synthesise("oh oh oh oh", Voice(variant="m3", pitch=pitch, range=10))
        spectrum = np.abs(np.fft.rfft(x, 2 * len(x))) ** 2
        lags = np.fft.irfft(spectrum)[rate // 400 : rate // 50]
        return rate / (rate // 400 + int(lags.argmax()))

    assert tone(90) > 1.3 * tone(10)


def test_every_accent_speaks():
    found = {accent: synthesise("four", Voice(accent, "m3"))[0].tobytes() for accent in ACCENTS}
    assert len(set(found.values())) == len(ACCENTS)
    assert len(set(VARIANTS)) == len(VARIANTS)
    assert len(voices(["america"], ["m1", "f1"], [150, 200], [50])) == 4


def test_synthesis_refuses():
    for call, error, message in (
        (lambda: synthesise("one", Voice(variant="nobody")), UnknownNameError, "nobody"),
        (lambda: Voice("mars"), UnknownNameError, "caribbean"),
        (lambda: Voice(rate=10), InputError, "rate"),
        (lambda: synthesise(" ", Voice()), InputError, "words"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_corpus_is_the_same_again_and_shares_no_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "flite_voices", list)
    done = []
    found = make_corpus(tmp_path / "a", PLAN, progress=done.append)
    assert sum(done) == 6 + 8 * 2
    make_corpus(tmp_path / "b", PLAN)
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")}
    assert len(files) == 6 + 8 * 2 + 9 + 2 + 1
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    sets = {name: read_manifest(path) for name, path in found.items() if path.suffix == ".jsonl"}
    lines = {name: [u.text for u in utterances] for name, utterances in sets.items()}
    assert lines["test-5db"] == lines["test-20db"] == lines["test-matched"]
    own = [line for name, part in lines.items() if not name.endswith("db") for line in part]
    target = found["target"].read_text().splitlines()
    assert len(set(own) | set(target)) == len(own) + len(target) == 6 + 5 * 2 + 9
    assert found["source"].read_text().splitlines() == lines["train"]
    speakers = {name: {u.speaker.split("+")[1] for u in part} for name, part in sets.items()}
    assert not speakers["train"] & speakers["test-matched"]
    for part in sets.values():
        for utterance in part:
            samples = read_audio(utterance.audio, 8000)
            assert len(samples) / 8000 == pytest.approx(utterance.duration, abs=1e-3)
            assert 0.05 < np.abs(samples).max() <= 1
    with pytest.raises(InputError, match="another plan"):
        make_corpus(tmp_path / "a", CorpusPlan(seed=4))


def test_what_is_held_out_stays_when_the_training_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "flite_voices", list)
    sets = corpus._sets(PLAN)
    small, large = (corpus._texts(plan, sets) for plan in (PLAN, CorpusPlan(40, 2, 9, seed=3)))
    assert all(small[number] == large[number] for number in small if number > 0)
    assert large[0][:2] == small[0][:2]


def test_noise_levels(tmp_path, monkeypatch):
    """The same speech, and the noise as strong as the name says."""
    monkeypatch.setattr(corpus, "flite_voices", list)
    plan = CorpusPlan(utterances=1, held_out=3, target_texts=0, telephone=False)
    found = make_corpus(tmp_path, plan)
    levels = {n: [read_audio(u.audio, 8000) for u in read_manifest(found[f"test-{n}db"])]
              for n in (20, 10, 5)}  # fmt: skip
    for quiet, medium, loud in zip(*levels.values(), strict=True):
        powers = [float(np.mean(x.astype(float) ** 2)) for x in (quiet, medium, loud)]
        # speech + noise of 1 / 100, 1 / 10, 1 / 3.16 of its power, nothing being scaled down
        assert powers[1] / powers[0] == pytest.approx(1.1 / 1.01, rel=0.02)
        assert powers[2] / powers[0] == pytest.approx(1.316 / 1.01, rel=0.02)


def test_telephone_prompts(tmp_path):
    lines = """; a comment
beep: [a beep]
digits/1: one
dial: Please dial 12, now!
star: press * now
letters/at: at [@]
modem: at 28.8 now
missing: one two
"""
    with gzip.open(tmp_path / "texts.txt.gz", "wt") as file:
        file.write(lines)
    for name in ("beep", "digits/1", "dial", "star", "modem", "letters/at"):
        path = tmp_path / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        write_audio(path, np.zeros(800, np.float32), 8000)
    found = telephone_prompts(tmp_path, tmp_path / "texts.txt.gz")
    assert [u.text for u in found] == ["one", "please dial twelve now", "at"]
    assert found[0].audio == tmp_path / "digits" / "1.wav"
    assert found[1].origin.endswith("line 4")
    assert found[1].duration == 0.1
    assert telephone_prompts(tmp_path, tmp_path / "texts.txt.gz", longest=0.05) == []
    chosen = telephone_prompts(tmp_path, tmp_path / "texts.txt.gz", words={"one", "at", "two"})
    assert [u.text for u in chosen] == ["one", "at"]
    with pytest.raises(DataUnavailableError, match="apt-get install"):
        telephone_prompts(tmp_path / "nowhere")


def test_splice(tmp_path):
    """Recordings of steady values tell which word stands where, and what is between them."""
    known = [*texts.DIGITS, "monday", "noise", "hundred"]
    prompts = []
    for k, word in enumerate(known, 1):
        write_audio(tmp_path / f"{word}.wav", np.full(100 * k, k / 20, np.float32), 8000)
        prompts.append(Utterance(tmp_path / f"{word}.wav", word, None, "her"))
    found = splice(tmp_path / "o", prompts, 12, 0, digits=0.5)
    assert len({u.text for u in found}) == 12
    assert {w for u in found for w in u.text.split()} <= set(known) - {"noise"}
    assert any({"monday", "hundred"} & set(u.text.split()) for u in found)
    for utterance in found:
        samples = read_audio(utterance.audio, 8000)
        assert utterance.duration == pytest.approx(len(samples) / 8000, abs=1e-3)
        values = np.round(samples * 20).astype(int)
        starts = np.flatnonzero(np.diff(values, prepend=-1))
        lengths = np.diff([*starts, len(values)]).tolist()
        heard = values[starts].tolist()
        assert [known[k - 1] for k in heard[::2]] == utterance.text.split()
        assert lengths[::2] == [100 * k for k in heard[::2]]
        assert set(heard[1::2]) <= {0}
        assert all(240 <= length <= 960 for length in lengths[1::2])
    with pytest.raises(InputError, match="none of three"):
        splice(tmp_path / "o", [p for p in prompts if p.text != "three"], 3, 0)


def test_installed_prompts_can_be_read():
    if not (corpus.SOUNDS.exists() and corpus.TRANSCRIPTS.exists()):
        pytest.skip("no telephone prompts installed")
    found = telephone_prompts()
    assert len(found) > 500
    assert all(len(read_audio(u.audio, 8000)) > 800 for u in found[:50])
    assert {u.text for u in found} >= set(texts.DIGITS)


def test_flite():
    from gbdnn.speech.data.synthesis import flite, flite_voices

    if not flite_voices():
        pytest.skip("flite is not installed")
    samples, rate = flite("seven", "slt")
    assert rate == 16000
    assert samples.std() > 0.01
    with pytest.raises(UnknownNameError, match="slt"):
        flite("seven", "nobody")
