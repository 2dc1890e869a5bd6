"""The commands `gbdnn speech make`, `lm` and `score`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from gbdnn.cli.main import cli
from gbdnn.errors import InputError
from gbdnn.speech.data import Utterance, corpus, read_manifest, write_audio, write_manifest
from gbdnn.speech.language import load_lm


def run(*words: object) -> str:
    done = CliRunner().invoke(cli, ["speech", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_make(tmp_path, monkeypatch):
    for name in ("espeakng_loader", "soundfile"):
        pytest.importorskip(name)
    monkeypatch.setattr(corpus, "flite_voices", list)
    options = ["--out", tmp_path / "c", "--utterances", 3, "--held-out", 1, "--target-texts", 4,
               "--words", 2, 3, "--snr", 10, 12, "--no-telephone"]  # fmt: skip
    text = run("make", *options)
    assert "train              3 utterances" in text
    record = json.loads(run("make", *options, "--json"))  # the same plan again
    assert record["sets"]["train"]["utterances"] == 3
    found = read_manifest(record["sets"]["train"]["path"])
    assert all(2 <= len(u.text.split()) <= 3 for u in found)
    assert record["sets"]["train"]["seconds"] == pytest.approx(sum(u.duration for u in found))
    with pytest.raises(InputError, match="another plan"):
        run("make", "--out", tmp_path / "c")


def test_prompts(tmp_path):
    pytest.importorskip("soundfile")
    (tmp_path / "s").mkdir()
    for k in range(10):
        write_audio(tmp_path / "s" / f"p{k}.wav", np.zeros(800, np.float32), 8000)
    lines = [f"p{k}: press {k % 5}, please" for k in range(10)]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    where = ["--sounds", tmp_path / "s", "--transcripts", tmp_path / "t.txt"]
    record = json.loads(run("prompts", "--out", tmp_path / "o", *where, "--json"))["sets"]
    parts = {name: read_manifest(entry["path"]) for name, entry in record.items()}
    assert {name: len(part) for name, part in parts.items()} == {"train": 8, "test": 2}
    assert not {u.text for u in parts["train"]} & {u.text for u in parts["test"]}
    (tmp_path / "w.txt").write_text("press one please\n")
    shown = run("prompts", "--out", tmp_path / "o", *where, "--words", tmp_path / "w.txt")
    assert "prompts-train.jsonl: 2 prompts, 0.0 minutes" in shown


def test_prompts_for_development(tmp_path):
    pytest.importorskip("soundfile")
    for k in range(10):
        write_audio(tmp_path / f"p{k}.wav", np.zeros(800, np.float32), 8000)
    (tmp_path / "t.txt").write_text("\n".join(f"p{k}: press {k}" for k in range(10)))
    options = ["--out", tmp_path / "o", "--sounds", tmp_path, "--transcripts", tmp_path / "t.txt"]
    without = json.loads(run("prompts", *options, "--json"))["sets"]
    test = read_manifest(without["test"]["path"])
    record = json.loads(run("prompts", *options, "--dev", 0.25, "--json"))["sets"]
    parts = {name: read_manifest(entry["path"]) for name, entry in record.items()}
    assert {name: len(part) for name, part in parts.items()} == {"train": 6, "test": 2, "dev": 2}
    assert parts["test"] == test  # the share for development changes no test
    assert len({u.text for part in parts.values() for u in part}) == 10


def test_read(tmp_path):
    for name in ("espeakng_loader", "soundfile"):
        pytest.importorskip(name)
    (tmp_path / "t.txt").write_text("Press 1!\nwait, please\n")
    options = ["--utterances", 5, "--words", 3, 3, "--snr", 30, 40]
    shown = run("read", tmp_path / "t.txt", "--out", tmp_path / "o", *options)
    assert "5 utterances" in shown
    found = read_manifest(tmp_path / "o" / "read.jsonl")
    assert [u.text for u in found] == ["press one", "wait please"] * 2 + ["press one"]
    assert all(u.duration > 0.3 for u in found)
    assert len({u.speaker for u in found}) > 1
    run("read", tmp_path / "t.txt", "--out", tmp_path / "s", *options, "--shuffled", 1)
    texts = [u.text.split() for u in read_manifest(tmp_path / "s" / "read.jsonl")]
    assert all(len(text) == 3 and set(text) <= {"press", "one", "wait", "please"} for text in texts)
    assert len({tuple(text) for text in texts}) > 2
    (tmp_path / "t.txt").write_text("!?\n")
    with pytest.raises(InputError, match="texts: expected at least one word"):
        run("read", tmp_path / "t.txt", "--out", tmp_path / "e")


def test_language_models(tmp_path):
    lines = ["one two", "two one", "two two one"] * 4
    (tmp_path / "t.txt").write_text("\n".join(lines))
    write_manifest(tmp_path / "d.jsonl", [Utterance(tmp_path / "a.wav", "one one")])
    out = tmp_path / "a.lm"
    shown = run("lm", tmp_path / "t.txt", "--out", out, "--order", 3, "--dev", tmp_path / "d.jsonl")
    assert "perplexity, dev" in shown
    model = load_lm(out)
    assert model.model.order == 3
    assert set("xyz'") <= set(model.vocabulary.characters)
    record = json.loads(
        run("lm", tmp_path / "t.txt", "--out", out, "--kind", "lstm", "--layers", "lstm 8",
            "--epochs", 20, "--learning-rate", 0.02, "--characters", " enotw", "--json")
    )  # fmt: skip
    model = load_lm(out)
    assert record["perplexity"] == pytest.approx(model.perplexity(lines))
    assert record["perplexity_of_words"] == pytest.approx(model.perplexity(lines, unit="word"))
    assert record["bytes"] == out.stat().st_size
    assert record["perplexity"] < 6


def test_score(tmp_path):
    pytest.importorskip("jiwer")
    said = ["one two three", "four five", "six"]
    (tmp_path / "r.txt").write_text("\n".join(said))
    (tmp_path / "bad.txt").write_text("one two\nfour nine\nsix six\n")
    (tmp_path / "good.txt").write_text("one two three\nfour nine\nsix\n")
    files = [tmp_path / f"{name}.txt" for name in ("r", "bad", "good")]
    shown = run("score", *files, "--worst", 1)
    assert "50.00%" in shown
    assert "3 in 6 words: 1 substitutions, 1 deletions, 1 insertions" in shown
    assert "heard four nine" in shown
    record = json.loads(run("score", *files, "--json"))
    bad, good = (record["results"][str(path)] for path in files[1:])
    assert (bad["rate"], good["rate"]) == (1 / 2, 1 / 6)
    assert good["against_first"]["difference"] == pytest.approx(-1 / 3)
    assert "against_first" not in bad
    record = json.loads(run("score", *files[:2], "--characters", "--json"))
    assert record["results"][str(files[1])]["words"] == len("".join(said))
