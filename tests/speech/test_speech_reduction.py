"""Recognisers whose encoder reduces time: sessions, words' times, the commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from tones import RATE, corpus, spoken, texts

from gbdnn.cli.main import cli
from gbdnn.decoding import Hypothesis
from gbdnn.speech import decoding, training
from gbdnn.speech.data import FrontEnd, read_manifest
from gbdnn.speech.recogniser import Recogniser

for package in ("soundfile", "kaldi_native_fbank", "jiwer"):
    pytest.importorskip(package)
FRONT = FrontEnd(RATE, 20, stack=2, skip=2)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("tones"), 24)


def run(*arguments):
    result = CliRunner().invoke(cli, ["speech", *map(str, arguments)])
    if result.exit_code:
        raise result.exception
    return result


@pytest.fixture(scope="module")
def model(manifest):
    """A model file, trained by the command."""
    out = manifest.parent / "model"
    run("train", manifest, "--out", out, "--dev", manifest, "--encoder",
        "lstm 24, reduce 2, lstm 24", "--predictor", "lstm 12", "--size", 24, "--bins", 20,
        "--stack", 2, "--batch-size", 6, "--epochs", 60, "--learning-rate", 1e-2,
        "--threads", 1)  # fmt: skip
    return out


def test_the_commands(model, manifest):
    lines = run("decode", model, manifest, "--json").stdout.splitlines()
    found = [json.loads(line) for line in lines]
    said = [utterance.text for utterance in read_manifest(manifest)]
    assert sum(a["text"] == b for a, b in zip(found, said, strict=True)) >= 16
    for record in found:
        times = [t for word in record["words"] for t in (word["start"], word["end"])]
        assert times == sorted(times)
        assert all(round(t / 0.04, 6).is_integer() for t in times)  # frames of 2 x 20 ms
        assert not times or times[-1] <= record["duration"] + 0.04
    first = manifest.parent / "train-0.wav"
    assert run("decode", model, first).stdout == run("decode", model, first, "--stream").stdout
    summary = CliRunner().invoke(cli, ["summary", str(model)]).stdout
    assert "TimeReduction" in summary


@pytest.mark.parametrize("size", [37, 800, 100_000])
@pytest.mark.parametrize("beam", [1, 4])
def test_a_session_gives_what_the_whole_recording_gives(model, size, beam, rng):
    recogniser = Recogniser.load(model)
    lengths = set()
    for text in texts(4, seed=8):
        samples = spoken(text, rng)
        decoder = recogniser.decoder(beam=beam)
        session = recogniser.session(decoder)
        for part in decoding.parts(samples, size):
            session.accept(part)
        found = session.finish()
        assert found == recogniser.transcribe(samples, decoder)
        assert session.finish() == found
        lengths.add(len(recogniser.front(samples)) % 2)
    assert lengths == {0, 1}  # some leave a group that is not full


def test_words_and_their_times(manifest):
    data = training.read_data(read_manifest(manifest)[:4], FRONT)
    settings = {"predictor": "lstm 4", "size": 8}
    times = []
    for encoder in ("lstm 4", "lstm 4, reduce 3"):
        made = training.new_recogniser(data, FRONT, encoder=encoder, **settings)
        labels = tuple(made.vocabulary.encode("ab d"))
        found = made.transcript(Hypothesis(labels, (0, 2, 3, 5), 0.0, 0.0))
        times.append([(word.start, word.end) for word in found.words])
    assert np.allclose(times[0], [(0, 0.06), (0.1, 0.12)])
    assert np.allclose(times[1], 3 * np.array(times[0]))
