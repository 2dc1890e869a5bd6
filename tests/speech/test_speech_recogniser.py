"""Recognisers: from samples to words, in parts, in few bits, by the commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from tones import RATE, corpus, spoken, texts

import gbdnn
from gbdnn.cli.main import cli
from gbdnn.decoding import Hypothesis
from gbdnn.errors import FileFormatError, GbdnnError, InputError, ShapeError
from gbdnn.models import Transducer, transducer
from gbdnn.quantization.transducer import quantize_transducer
from gbdnn.speech import decoding, training
from gbdnn.speech.data import FrontEnd, Vocabulary, read_manifest
from gbdnn.speech.data.loading import BadUtterance
from gbdnn.speech.language import ngram_lm
from gbdnn.speech.recogniser import Recogniser, Word
from gbdnn.training import Trainer

pytest.importorskip("soundfile")
pytest.importorskip("kaldi_native_fbank")
pytest.importorskip("jiwer")
FRONT = FrontEnd(RATE, 20, stack=3, skip=3)
SMALL = ["--encoder", "lstm 32", "--predictor", "lstm 16", "--size", "32", "--bins", "20",
         "--batch-size", "6", "--threads", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tones")


@pytest.fixture(scope="module")
def manifest(place):
    return corpus(place, 30)


@pytest.fixture(scope="module")
def data(manifest):
    return training.read_data(read_manifest(manifest), FRONT)


@pytest.fixture(scope="module")
def learned(data):
    """A recogniser that has learned the thirty recordings."""
    start = training.new_recogniser(data, FRONT, encoder="lstm 32", predictor="lstm 16", size=32,
                                    embedding=8, rng=1)  # fmt: skip
    trainer = Trainer(epochs=60, batch_size=6, learning_rate=1e-2, schedule="cosine", threads=1,
                      clip_norm=5.0)  # fmt: skip
    return training.train_recogniser(trainer, start, data)[0]


@pytest.fixture(scope="module")
def rounded(learned, data):
    """The same after training with four bits."""
    trainer = Trainer(epochs=6, batch_size=6, learning_rate=2e-3, schedule="cosine", threads=1,
                      quantization="fasoli2022")  # fmt: skip
    return training.train_recogniser(trainer, learned, data)[0]


def run(*arguments, **options):
    result = CliRunner().invoke(cli, ["speech", *map(str, arguments)], **options)
    if result.exit_code:
        raise result.exception
    return result


def test_thirty_recordings_are_learned_and_four_bits_hear_the_same(learned, rounded, manifest):
    said = read_manifest(manifest)
    for recogniser in (learned, rounded):
        decoder = recogniser.decoder(beam=4)
        heard = [
            recogniser.transcribe(decoding.load_samples(utterance, FRONT), decoder).text
            for utterance in said
        ]
        assert heard == [utterance.text for utterance in said]
    forms = {weight.form for weight in rounded.model.weights.values()}
    assert forms == {"int4"}


def test_a_file_brings_all_of_it_back(rounded, place, rng):
    rounded.save(place / "rounded")
    assert (place / "rounded").stat().st_size == rounded.file_nbytes
    found = Recogniser.load(place / "rounded")
    assert found.front == rounded.front
    assert found.vocabulary == rounded.vocabulary
    samples = spoken("ab cad", rng)
    assert found.transcribe(samples) == rounded.transcribe(samples)
    model = gbdnn.load(place / "rounded")
    assert isinstance(model, Transducer)
    model.encoder.save(place / "network")
    transducer("lstm 4", 60, 6).save(place / "bare")
    for other in ("network", "bare"):
        with pytest.raises(FileFormatError, match="recogniser"):
            Recogniser.load(place / other)


@pytest.mark.parametrize("size", [37, 800, 100_000])
@pytest.mark.parametrize("beam", [1, 4])
def test_a_session_gives_what_the_whole_recording_gives(learned, rounded, size, beam, rng):
    for recogniser in (learned, rounded):
        for text in texts(3, seed=8):
            samples = spoken(text, rng)
            decoder = recogniser.decoder(beam=beam)
            session = recogniser.session(decoder)
            seen = [session.accept(part).text for part in decoding.parts(samples, size)]
            assert session.finish() == recogniser.transcribe(samples, decoder)
            assert len(seen) == 1 or any(seen[:-1])  # something is heard before the end
            assert size > 37 or seen[0] == ""


def test_a_session_needs_an_encoder_that_reads_one_way(data):
    start = training.new_recogniser(data, FRONT, encoder="blstm 4", predictor="lstm 4", size=8)
    with pytest.raises(InputError, match="reads one way"):
        start.session()


def test_words_and_their_times(learned):
    labels = learned.vocabulary.encode("ab  cd ")
    found = learned.transcript(Hypothesis(tuple(labels), (0, 2, 3, 3, 5, 9, 9), -2.0, -1.0))
    assert found.text == "ab cd"
    assert [word.text for word in found.words] == ["ab", "cd"]
    times = [(word.start, word.end) for word in found.words]
    assert np.allclose(times, [(0, 0.09), (0.15, 0.3)])
    assert learned.transcript(Hypothesis((), (), 0.0, 0.0)).words == ()
    assert isinstance(found.words[0], Word)


def test_words_stand_where_they_are_said(learned):
    rng = np.random.default_rng(3)
    silence = np.zeros(RATE // 2, np.float32) + 0.01 * rng.standard_normal(RATE // 2)
    samples = np.concatenate([spoken("ab", rng), silence.astype(np.float32), spoken("cd", rng)])
    found = learned.transcribe(samples)
    if found.text == "ab cd":  # it was never trained on so long a gap
        first, second = found.words
        assert first.end < second.start
        assert second.end <= len(samples) / RATE + 0.2


def test_frames_are_normalised_as_the_front_end_does(data, manifest, learned):
    whole = learned.front(decoding.load_samples(read_manifest(manifest)[0], FRONT))
    apart = training.normalised(learned.front, data.frames[0])
    assert np.allclose(whole, apart, atol=1e-5)
    every = np.concatenate([training.normalised(learned.front, part) for part in data.frames])
    every = every.reshape(-1, FRONT.single)
    assert np.allclose(every.mean(axis=0), 0, atol=1e-3)
    assert np.allclose(every.std(axis=0), 1, atol=1e-3)


def test_parts_that_do_not_fit_are_refused(learned):
    with pytest.raises(ShapeError, match="front"):
        Recogniser(learned.model, FrontEnd(RATE, 40), learned.vocabulary)
    with pytest.raises(InputError, match="vocabulary"):
        Recogniser(learned.model, learned.front, Vocabulary("ab"))
    with pytest.raises(TypeError):
        Recogniser(learned.model.encoder, learned.front, learned.vocabulary)


def test_fusion_by_name_and_tuning(learned, data):
    vocabulary = learned.vocabulary
    target = ngram_lm(["ab", "cd", "ab cd"], vocabulary, order=3).for_vocabulary(vocabulary)
    source = ngram_lm(data.texts, vocabulary, order=2).for_vocabulary(vocabulary)
    long = ngram_lm(data.texts, vocabulary, order=3).for_vocabulary(vocabulary)
    assert decoding.fusion(learned, "shallow", target, weight=0.5).source is None
    assert decoding.fusion(learned, "lodr", target, source).source is source
    assert decoding.fusion(learned, "ilme", target).source.features == learned.model.size
    for kind, given in (("lodr", long), ("density-ratio", None)):
        with pytest.raises(InputError, match="source_lm"):
            decoding.fusion(learned, kind, target, given)
    with pytest.raises(InputError, match="one of"):
        decoding.fusion(learned, "deep", target)
    frames = [training.normalised(learned.front, part) for part in data.frames[:4]]
    seen = []
    best = decoding.tuned(
        learned, decoding.fusion(learned, "density-ratio", target, source), frames,
        data.texts[:4], beam=2, report=lambda trial: seen.append(trial.rate),
    )  # fmt: skip
    assert best.rate == min(seen) == 0
    assert best.fusion.external is target


def test_commands(manifest, place):
    model, whole = place / "model", place / "int4"
    result = run("train", manifest, "--out", model, *SMALL, "--epochs", 40, "--learning-rate", 1e-2,
                 "--dev", manifest, "--checkpoint", place / "state", "--json")  # fmt: skip
    record = json.loads(result.stdout)
    assert record["utterances"] == record["dev_utterances"] == 30
    assert record["bytes"] == model.stat().st_size
    assert record["streams"]
    assert record["trainings"]["float"]["validation_score"] > 0.9
    plan = ["--plan", "int8", "--plan-epochs", 2, "--threads", 1]
    result = run("train", manifest, "--init", model, "--out", whole, "--epochs", 0, *plan,
                 "--compress")  # fmt: skip
    assert "int8" in result.stdout
    assert whole.stat().st_size < Recogniser.load(whole).file_nbytes
    first = place / "train-0.wav"
    alone = run("decode", whole, first).stdout.strip()
    assert alone == run("decode", whole, first, "--stream").stdout.strip()
    lines = run("decode", whole, manifest, "--beam", 4, "--json")
    found = [json.loads(line) for line in lines.stdout.splitlines()]
    assert len(found) == 30
    assert found[0]["text"] == run("decode", whole, first, "--beam", 4).stdout.strip()
    assert [word["word"] for word in found[0]["words"]] == found[0]["text"].split()
    assert "real-time factor" in lines.stderr
    assert "errors of words" in lines.stderr
    heard = place / "heard.jsonl"
    heard.write_text(lines.stdout)
    scored = json.loads(run("score", manifest, heard, "--json").stdout)
    assert scored


def test_standard_input_is_raw_samples(learned, place):
    model = place / "stdin"
    learned.save(model)
    rng = np.random.default_rng(2)
    samples = np.round(spoken("abc", rng) * 32767).astype("<i2")
    expected = learned.transcribe(samples.astype(np.float32) / 32768).text
    for options in ((), ("--stream",)):
        result = run("decode", model, "-", *options, input=samples.tobytes())
        assert result.stdout.strip() == expected
    with pytest.raises(InputError, match="RIFF"):
        run("decode", model, "-", input=(place / "train-0.wav").read_bytes())


def test_bad_recordings(manifest, place, learned):
    lines = manifest.read_text().splitlines()[:8]
    (place / "empty.wav").write_bytes(b"")
    bad = [{"audio_filepath": "empty.wav", "text": "ab"}, {"audio_filepath": "no.wav", "text": "a"}]
    mixed = place / "mixed.jsonl"
    mixed.write_text("\n".join([*lines[:4], *map(json.dumps, bad), *lines[4:]]))
    with pytest.raises(BadUtterance, match="line 5"):
        run("train", mixed, "--out", place / "m", "--dev", manifest, *SMALL, "--epochs", 1)
    result = run("train", mixed, "--out", place / "m", "--dev", manifest, *SMALL, "--epochs", 1,
                 "--skip-bad", "--json")  # fmt: skip
    record = json.loads(result.stdout)
    assert record["utterances"] == 8
    assert len(record["bad"]) == 2
    assert "empty.wav" in result.stderr
    learned.save(place / "good")
    with pytest.raises(BadUtterance, match=r"empty\.wav"):
        run("decode", place / "good", mixed)
    assert len(run("decode", place / "good", mixed, "--skip-bad").stdout.splitlines()) == 8
    with pytest.raises(GbdnnError):
        run("decode", place / "good", place / "nothing.wav")


def test_sparse_recognisers_and_pruned_ones(manifest, place):
    common = ["--dev", manifest, *SMALL, "--epochs", 2, "--json"]
    sparse = json.loads(
        run("train", manifest, "--out", place / "sparse", *common, "--density", 0.3).stdout
    )
    cells = Recogniser.load(place / "sparse").model.encoder.layers[0]
    assert cells.weight.nnz < 0.4 * np.prod(cells.weight.shape)
    assert sparse["density"] < 0.6
    run("train", manifest, "--out", place / "dense", *common)
    pruned = json.loads(
        run("train", manifest, "--init", place / "dense", "--out", place / "pruned", *common,
            "--density", 0.5).stdout
    )  # fmt: skip
    assert pruned["density"] < 0.7


def test_post_training_quantization(learned, data):
    frames, labels = training.arrays(learned, data)
    model = quantize_transducer(learned.model, "int8", frames, labels)
    recogniser = Recogniser(model, learned.front, learned.vocabulary)
    heard = [recogniser.transcribe_frames(part).text for part in frames]
    wrong = sum(a != b for a, b in zip(heard, data.texts, strict=True))
    assert wrong <= 2
