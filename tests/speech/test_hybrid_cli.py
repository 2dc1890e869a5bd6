"""Hybrid recognisers by the commands: training, decoding, language models of words, files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from tones import RATE, corpus, spoken

from gbdnn.cli.main import cli
from gbdnn.errors import FileFormatError, GbdnnError, InputError
from gbdnn.speech.data import FrontEnd, Vocabulary, read_manifest
from gbdnn.speech.data.loading import BadUtterance
from gbdnn.speech.data.manifest import read_texts
from gbdnn.speech.decoding import load_samples
from gbdnn.speech.files import load_recogniser
from gbdnn.speech.hybrid import (
    Hybrid,
    HybridDecoder,
    Lexicon,
    load_hybrid,
    load_word_lm,
    tune_decoder,
    word_lm,
)
from gbdnn.speech.language import load_lm, ngram_lm
from gbdnn.speech.recogniser import Recogniser
from gbdnn.speech.training import new_recogniser, read_data

for package in ("soundfile", "kaldi_native_fbank", "jiwer"):
    pytest.importorskip(package)
SMALL = ["--kind", "hybrid", "--encoder", "blstm 16", "--bins", 20, "--stack", 2, "--batch-size", 6,
         "--learning-rate", 1e-2, "--threads", 1]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("hybrid")


@pytest.fixture(scope="module")
def manifest(place):
    return corpus(place, 30)


@pytest.fixture(scope="module")
def test(place):
    return corpus(place, 8, seed=5, name="test")


def run(*arguments, **options):
    result = CliRunner().invoke(cli, ["speech", *map(str, arguments)], **options)
    if result.exit_code:
        raise (
            result.exception
            if not isinstance(result.exception, SystemExit)
            else ValueError(result.output)
        )
    return result


@pytest.fixture(scope="module")
def model(manifest, test, place):
    """A model file, trained by the command; the dictionary of what the command said."""
    out = place / "model"
    done = run("train", manifest, "--out", out, "--dev", test, "--words", test, *SMALL, "--epochs",
               12, "--json")  # fmt: skip
    return out, json.loads(done.stdout)


@pytest.fixture(scope="module")
def recurrent_model(manifest, place):
    """An RNN-T that was not trained."""
    front = FrontEnd(RATE, 20, stack=2, skip=2)
    data = read_data(read_manifest(manifest), front)
    new_recogniser(data, front, encoder="lstm 4", predictor="lstm 4", size=8).save(place / "rnnt")
    return place / "rnnt"


def test_train_says_what_it_did(model, manifest, test):
    out, record = model
    assert record["kind"] == "hybrid"
    assert record["bytes"] == out.stat().st_size
    assert (record["utterances"], record["dev_utterances"]) == (30, 8)
    words = {
        word for path in (manifest, test) for text in read_texts(path) for word in text.split()
    }
    assert record["words"] == len(words)
    assert record["states"] == 5  # silence and four letters
    assert list(record["trainings"]) == ["alignment-0", "alignment-1"]
    assert record["trainings"]["alignment-1"]["validation_score"] > 0.8
    summary = CliRunner().invoke(cli, ["summary", str(out)])
    assert summary.exit_code == 0
    assert "BLSTM" in summary.stdout


def test_decode_and_score(model, test, place):
    out, _ = model
    done = run("decode", out, test, "--json", "--threads", 1)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    said = read_manifest(test)
    assert sum(a["text"] == b.text for a, b in zip(found, said, strict=True)) >= 7
    assert "real-time factor" in done.stderr
    for record in found:
        assert " ".join(word["word"] for word in record["words"]) == record["text"]
        times = [t for word in record["words"] for t in (word["start"], word["end"])]
        assert times == sorted(times)
        assert times[-1] <= record["duration"] + 0.02
    (place / "heard.jsonl").write_text(done.stdout)
    scored = json.loads(run("score", test, place / "heard.jsonl", "--json").stdout)
    assert scored["results"][str(place / "heard.jsonl")]["rate"] <= 0.1


def test_decoding_is_equal_before_and_after_a_file(model, test, tmp_path):
    loaded = load_recogniser(model[0])
    assert isinstance(loaded, Hybrid)
    loaded.save(tmp_path / "again")
    again = load_recogniser(tmp_path / "again")
    assert again.lexicon == loaded.lexicon
    for utterance in read_manifest(test)[:3]:
        samples = load_samples(utterance, loaded.front)
        assert HybridDecoder(again).transcribe(samples) == HybridDecoder(loaded).transcribe(samples)


def test_raw_samples_on_standard_input(model):
    samples = np.round(spoken("ab cad", np.random.default_rng(2)) * 32767).astype("<i2")
    found = run("decode", model[0], "-", "--threads", 1, input=samples.tobytes()).stdout.strip()
    wanted = HybridDecoder(load_hybrid(model[0])).transcribe(samples.astype(np.float32) / 32768)
    assert found == wanted.text


def test_language_model_of_words(model, test, place):
    out, _ = model
    words = set(load_hybrid(out).lexicon.words)
    common = sorted(words)[:2]
    (place / "t.txt").write_text(f"{' '.join(common)}\n" * 20 + "zz top\n")
    record = json.loads(run("lm", place / "t.txt", "--recogniser", out, "--out", place / "w.lm",
                            "--json").stdout)  # fmt: skip
    assert (record["texts"], record["passed_over"]) == (20, 1)
    assert record["perplexity_of_words"] < 2
    one = place / "test-0.wav"
    strong = run("decode", out, one, "--lm", place / "w.lm", "--lm-weight", 300).stdout.strip()
    assert strong == " ".join(common)  # whatever was said
    tuned = run("decode", out, test, "--lm", place / "w.lm", "--tune", test, "--tune-utterances", 4)
    assert tuned.stderr.count("of the words wrong") == 20
    assert "chosen: --lm-weight" in tuned.stderr
    with pytest.raises(FileFormatError, match="expected a language model, got one of words"):
        load_lm(place / "w.lm")
    run("lm", place / "t.txt", "--out", place / "c.lm")
    with pytest.raises(FileFormatError, match="got one of characters"):
        run("decode", out, one, "--lm", place / "c.lm")
    other = word_lm(["ab"], Lexicon.spelled(["ab", "xy"]))
    other.save(place / "o.lm")
    with pytest.raises(InputError, match=r"the \d+ words of the recogniser's lexicon, got 2 words"):
        run("decode", out, one, "--lm", place / "o.lm")
    with pytest.raises(InputError, match="1 or 2"):
        run("lm", place / "t.txt", "--recogniser", out, "--out", place / "w3.lm", "--order", 3)
    with pytest.raises(ValueError, match="--characters is for language models of characters"):
        run("lm", place / "t.txt", "--recogniser", out, "--out", place / "w3.lm", "--characters",
            "ab")  # fmt: skip
    assert not (place / "w3.lm").exists()


def test_word_models_in_files(tmp_path):
    lexicon = Lexicon.spelled(["ab", "ba", "cab"])
    made = word_lm(["ab ba", "cab"], lexicon)
    made.save(tmp_path / "m")
    found = load_word_lm(tmp_path / "m")
    assert found.words == lexicon.words
    for labels in ((1, 2), (3,), (), (2, 2, 1)):
        assert found.for_lexicon(lexicon).log_probability(labels) == pytest.approx(
            made.model.log_probability(labels)
        )
    ngram_lm(["ab"], Vocabulary("ab")).save(tmp_path / "c")
    with pytest.raises(FileFormatError, match="one of characters"):
        load_word_lm(tmp_path / "c")


def test_resume_goes_on_where_it_was(manifest, test, place):
    """The second call finds every training finished, and writes the same file."""
    options = ["--dev", test, "--words", test, *SMALL, "--epochs", 2, "--plan", "int8",
               "--plan-epochs", 1, "--resume"]  # fmt: skip
    run("train", manifest, "--out", place / "r", *options)
    state = sorted(path.relative_to(place / "r.state").as_posix() for path in
                   (place / "r.state").glob("*/alignment-*"))  # fmt: skip
    assert state == ["float/alignment-0", "float/alignment-1"]
    first = load_hybrid(place / "r")
    assert {w.form for w in first.network.weights.values()} == {"int8"}
    (place / "r").unlink()
    run("train", manifest, "--out", place / "r", *options)
    again = load_hybrid(place / "r")
    for name, weight in first.network.weights.items():
        np.testing.assert_array_equal(again.network.weights[name].entries, weight.entries)
    np.testing.assert_array_equal(again.log_priors, first.log_priors)


def test_sparse_rounded_and_pruned(model, manifest, test, place):
    data = ["--dev", test, "--words", test, *SMALL, "--json"]
    sparse = json.loads(run("train", manifest, "--out", place / "s", *data, "--epochs", 2,
                            "--density", 0.4, "--plan", "fasoli2022", "--plan-epochs", 1,
                            "--realignments", 0).stdout)  # fmt: skip
    assert list(sparse["trainings"]) == ["alignment-0", "plan"]
    layers = load_hybrid(place / "s").network.layers
    assert layers[0].forward_weight.nnz < 0.5 * np.prod(layers[0].forward_weight.shape)
    assert layers[-1].weight.nnz == np.prod(layers[-1].weight.shape)
    pruned = json.loads(run("train", manifest, "--init", model[0], "--out", place / "p", "--kind",
                            "hybrid", "--dev", test, "--epochs", 2, "--density", 0.5, "--threads",
                            1, "--json").stdout)  # fmt: skip
    assert pruned["density"] < 0.6
    assert load_hybrid(place / "p").lexicon == load_hybrid(model[0]).lexicon
    rounded = json.loads(run("train", manifest, "--init", model[0], "--out", place / "q", "--kind",
                             "hybrid", "--dev", test, "--epochs", 0, "--plan", "fasoli2022",
                             "--plan-epochs", 2, "--threads", 1, "--compress",
                             "--json").stdout)  # fmt: skip
    assert rounded["bytes"] < 0.4 * model[1]["bytes"]
    load_hybrid(place / "q").save(place / "plain")
    assert rounded["bytes"] < 0.9 * (place / "plain").stat().st_size
    found = run("decode", place / "q", test, "--json").stdout.splitlines()
    right = [json.loads(line)["text"] == u.text
             for line, u in zip(found, read_manifest(test), strict=True)]  # fmt: skip
    assert sum(right) >= 6


def test_a_network_that_reduces_time(manifest, test, place):
    """Frames of 10 ms, two of which become one: words' times are the same as with frames of 20."""
    out = place / "reduced"
    run("train", manifest, "--out", out, "--dev", test, "--words", test, *SMALL, "--encoder",
        "blstm 16, reduce 2, blstm 16", "--stack", 1, "--epochs", 12)  # fmt: skip
    loaded = load_hybrid(out)
    assert loaded.network.time_factor == 2
    assert loaded.seconds_per_frame == pytest.approx(0.02)
    records = [json.loads(line) for line in run("decode", out, test, "--json").stdout.splitlines()]
    said = read_manifest(test)
    assert sum(a["text"] == b.text for a, b in zip(records, said, strict=True)) >= 6
    assert all(0.7 * r["duration"] < r["words"][-1]["end"] <= r["duration"] + 0.02 for r in records)


def test_a_lexicon_in_a_file(manifest, place):
    (place / "lex.txt").write_text("ab a b\nab x\n")
    options = ["--out", place / "l", "--lexicon", place / "lex.txt", *SMALL, "--epochs", 1]
    with pytest.raises(BadUtterance, match=r"line \d+.*expected words of the lexicon's 1"):
        run("train", manifest, *options)
    with pytest.raises(ValueError, match="--words cannot be used with --lexicon"):
        run("train", manifest, *options, "--words", manifest)
    with pytest.raises(BadUtterance, match=r"frames: expected at least \d+, the states"):
        run("train", manifest, "--out", place / "l", *SMALL, "--epochs", 1, "--states", 16)


@pytest.mark.parametrize(("option", "words"), [
    (["--beam", 4], "--beam is for RNN-T"), (["--search", "tsd"], "--search is for RNN-T"),
    (["--stream"], "--stream is for RNN-T"), (["--fusion", "shallow"], "--fusion is for RNN-T"),
    (["--source-weight", 1], "--source-weight is for RNN-T"),
    (["--lm-weight", 2], "--lm-weight needs --lm"),
])  # fmt: skip
def test_options_of_the_other_kind_in_decoding(option, words, model, place):
    with pytest.raises(ValueError, match=words):
        run("decode", model[0], place / "test-0.wav", *option)


def test_options_and_files_of_the_other_kind(model, recurrent_model, manifest, place):
    for option in (["--predictor", "lstm 4"], ["--size", 8], ["--combine", "add"], ["--augment"]):
        with pytest.raises(ValueError, match=f"{option[0]} is for --kind rnnt"):
            run("train", manifest, "--out", place / "no", *SMALL, *option)
    for option in (["--states", 2], ["--realignments", 0], ["--words", manifest]):
        with pytest.raises(ValueError, match=f"{option[0]} is for --kind hybrid"):
            run("train", manifest, "--out", place / "no", *option)
    with pytest.raises(ValueError, match="--prior-scale is for hybrid"):
        run("decode", recurrent_model, place / "test-0.wav", "--prior-scale", 0.5)
    with pytest.raises(ValueError, match="--epochs 0 is for --init"):
        run("train", manifest, "--out", place / "no", *SMALL, "--epochs", 0, "--plan", "int8")
    assert isinstance(load_recogniser(recurrent_model), Recogniser)
    with pytest.raises(FileFormatError, match="--kind hybrid"):
        run("train", manifest, "--out", place / "no", "--init", model[0])
    with pytest.raises(GbdnnError, match="hybrid recogniser"):
        run("train", manifest, "--out", place / "no", "--init", recurrent_model, *SMALL)
    assert not (place / "no").exists()


def test_tuning(model, test):
    loaded = load_hybrid(model[0])
    frames = [loaded.front(load_samples(u, loaded.front)) for u in read_manifest(test)]
    texts, seen = read_texts(test), []
    best = tune_decoder(HybridDecoder(loaded, bonus=-1e3), frames, texts, report=seen.append)
    assert len(seen) == 5  # without a language model the bonus alone
    assert best.rate == min(trial.rate for trial in seen) < 0.2
    heard = best.decoder.texts(frames)
    assert (best.rate == 0) == (heard == texts)
    with pytest.raises(InputError, match="at least one word"):
        tune_decoder(HybridDecoder(loaded), frames[:1], [""])


def test_a_recogniser_of_frames_hears_no_samples(model):
    loaded = load_hybrid(model[0])
    plain = Hybrid(loaded.network, loaded.lexicon, loaded.log_priors)
    with pytest.raises(InputError, match="front end"):
        HybridDecoder(plain).transcribe(np.zeros(8000, np.float32))
