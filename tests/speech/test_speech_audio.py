"""Audio files and what spoils them; from manifests to examples."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest

from gbdnn.errors import InputError, MissingDependencyError, ShapeError
from gbdnn.speech.data import (
    BadUtterance,
    ClippedAudioWarning,
    FrontEnd,
    Vocabulary,
    add_noise,
    examples,
    mu_law,
    read_audio,
    read_manifest,
    reverberate,
    write_audio,
)
from gbdnn.speech.data.audio import resample

soundfile = pytest.importorskip("soundfile")
TIMES = np.arange(16_000) / 16_000
TONE = (0.4 * np.sin(2 * np.pi * 440 * TIMES)).astype(np.float32)


def test_files_bring_samples_back(tmp_path):
    write_audio(tmp_path / "a.wav", TONE, 16_000)
    assert np.abs(read_audio(tmp_path / "a.wav", 16_000) - TONE).max() < 2 / 32768
    for name, subtype, error in (
        ("a.flac", "PCM_24", 1e-6), ("a.wav", "ULAW", 0.02), ("a.wav", "PCM_U8", 0.01),
        ("a.wav", "GSM610", 0.1), ("a.ogg", "VORBIS", 0.1), ("a.mp3", "MPEG_LAYER_III", 0.1),
        ("a.wav", "DOUBLE", 1e-7),
    ):  # fmt: skip
        soundfile.write(tmp_path / name, TONE, 16_000, subtype=subtype)
        found = read_audio(tmp_path / name, 16_000)
        assert found.dtype == np.float32
        assert np.abs(found - TONE[: len(found)])[500:15_000].max() < error, subtype


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 48_000, 15_991, 44_101])
def test_other_rates_are_resampled(tmp_path, rate):
    write_audio(tmp_path / "a.wav", TONE, 16_000)
    found = read_audio(tmp_path / "a.wav", rate)
    expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(len(found)) / rate)
    assert abs(len(found) - rate) <= 1
    inner = slice(rate // 50, -rate // 50)
    assert np.abs(found - expected)[inner].max() < 2e-3


def test_channels(tmp_path):
    soundfile.write(tmp_path / "same.wav", np.stack([TONE, TONE], axis=1), 16_000)
    assert np.abs(read_audio(tmp_path / "same.wav", 16_000) - TONE).max() < 1e-4
    soundfile.write(tmp_path / "two.wav", np.stack([TONE, -TONE / 2], axis=1), 16_000)
    with pytest.raises(ShapeError, match=r"two\.wav.*one channel, got 2 different"):
        read_audio(tmp_path / "two.wav", 16_000)
    assert np.abs(read_audio(tmp_path / "two.wav", 16_000, channel=1) + TONE / 2).max() < 1e-4


def test_clipping_is_a_warning(tmp_path):
    write_audio(tmp_path / "loud.wav", TONE * 5, 16_000)
    with pytest.warns(ClippedAudioWarning, match=r"loud\.wav: [3-9][0-9]\.[0-9]% of the samples"):
        found = read_audio(tmp_path / "loud.wav", 16_000)
    assert np.abs(found).max() <= 1
    soundfile.write(tmp_path / "float.wav", TONE * 3, 16_000, subtype="FLOAT")
    with pytest.warns(ClippedAudioWarning):
        assert np.abs(read_audio(tmp_path / "float.wav", 16_000)).max() == 1
    with warnings.catch_warnings():  # a tone that just fits is not clipped
        warnings.simplefilter("error")
        write_audio(tmp_path / "full.wav", TONE / np.abs(TONE).max(), 16_000)
        read_audio(tmp_path / "full.wav", 8000)


def test_mu_law_is_that_of_telephones(tmp_path):
    """Near the codec of a file with 8 bits, which has a few levels less."""
    x = np.linspace(-1, 1, 40_001).astype(np.float32)
    found = mu_law(x)
    assert len(np.unique(found)) == 255
    assert np.abs(found - x).max() < 1 / 45
    half = np.expm1(np.log(256) / 254)  # of a step, relative to x + 1 / 255
    assert (np.abs(found - x) <= half * (np.abs(x) + 1 / 255) + 1e-6).all()
    assert np.array_equal(mu_law(found), found)
    soundfile.write(tmp_path / "a.wav", x, 8000, subtype="ULAW")
    codec = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    assert np.abs(found - codec).max() < 0.045


@pytest.mark.parametrize("snr", [20.0, 0.0, -5.0])
@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_noise_has_the_power_it_should(rng, snr, colour):
    quiet = TONE / 100
    noise = add_noise(quiet, snr, rng, colour=colour).astype(np.float64) - quiet
    assert 10 * np.log10(np.mean(quiet**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.01)
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = power[50:200].mean(), power[3200:6400].mean()
    slope = np.log(low / high) / np.log(np.exp(np.log(np.arange(3200, 6400)).mean()) / 112)
    assert slope == pytest.approx(colour, abs=0.25)
    assert np.array_equal(add_noise(quiet, snr, 5), add_noise(quiet, snr, 5))
    assert np.abs(add_noise(TONE, -20, rng)).max() <= 1


def test_rooms(rng):
    click = np.zeros(8000, np.float32)
    click[100] = 0.5
    found = reverberate(click, 8000, 0.4, rng, direct=0.0).astype(np.float64)
    assert np.sum(found**2) == pytest.approx(0.25, rel=1e-4)
    assert np.all(np.abs(found[:100]) < 1e-6)
    assert found[100] ** 2 == pytest.approx(0.125, rel=1e-3)  # as much as the echo
    energy = [np.sum(found[101 + 800 * k : 901 + 800 * k] ** 2) for k in range(3)]
    falls = 10 * np.log10(np.array(energy[:-1]) / energy[1:])
    assert falls == pytest.approx(15, abs=2)  # 60 dB in 0.4 s, parts of 0.1 s
    assert resample(click, 8000, 8000) is click


# -- examples --------------------------------------------------------------------------------------


@pytest.fixture
def manifest(tmp_path):
    pytest.importorskip("kaldi_native_fbank")
    write_audio(tmp_path / "good.wav", TONE, 16_000)
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "nan.wav", np.full(900, np.nan), 8000, subtype="FLOAT")
    lines = [("good", "one"), ("empty", "one"), ("none", "one"), ("good", "öne"), ("good", ""),
             ("nan", "one"), ("good", "neo")]  # fmt: skip
    (tmp_path / "m.tsv").write_text("".join(f"{name}.wav\t{text}\n" for name, text in lines))
    return tmp_path / "m.tsv"


def test_one_bad_utterance_is_named_by_file_and_line(manifest):
    front, vocabulary = FrontEnd(), Vocabulary("eno")
    found = examples(read_manifest(manifest), front, vocabulary)
    first = next(found)
    assert np.array_equal(first.labels, vocabulary.encode("one"))
    assert np.array_equal(first.frames, front(read_audio(first.utterance.audio, 8000)))
    with pytest.raises(BadUtterance, match=r"m\.tsv, line 2: .*empty\.wav.*an empty one"):
        next(found)


def test_bad_utterances_can_be_passed_over(manifest):
    bad, done = [], []
    found = list(examples(read_manifest(manifest), FrontEnd(), Vocabulary("eno"), bad=bad.append,
                          progress=done.append))  # fmt: skip
    assert [example.utterance.text for example in found] == ["one", "neo"]
    assert sum(done) == 7
    said = ["empty one", "No such file", "'ö' in 'öne'", "at least one character", "nan at 0.000 s"]
    for line, (error, part) in enumerate(zip(bad, said, strict=True), 2):
        assert f"line {line}" in error.argument
        assert part in str(error)


def test_without_a_vocabulary_only_the_audio_counts(manifest):
    bad = []
    found = list(examples(read_manifest(manifest), FrontEnd(), bad=bad.append))
    assert len(found) == 4
    assert len(bad) == 3
    assert all(len(example.labels) == 0 for example in found)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("soundfile", lambda path: read_audio(path, 8000)),
        ("soundfile", lambda path: write_audio(path, TONE, 8000)),
        ("kaldi_native_fbank", lambda path: FrontEnd()(TONE)),
        ("kaldi_native_fbank", lambda path: next(examples(read_manifest(path), FrontEnd()))),
    ],
)
def test_a_package_that_is_missing_is_one_clear_line(manifest, monkeypatch, name, call):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=rf"{name}.*pip install 'gbdnn\[speech\]'"):
        call(manifest)


def test_refused_settings():
    with pytest.raises(InputError, match="snr"):
        add_noise(TONE, np.inf, 0)
    with pytest.raises(InputError, match="seconds"):
        reverberate(TONE, 8000, 0.0, 0)
