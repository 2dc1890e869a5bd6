"""The demonstration, with as little of everything as there can be."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from gbdnn.cli.main import cli
from gbdnn.speech.demo import Settings, demo
from gbdnn.speech.recogniser import Recogniser

pytest.importorskip("espeakng_loader")
pytest.importorskip("soundfile")
pytest.importorskip("kaldi_native_fbank")
pytest.importorskip("jiwer")
TINY = {"utterances": 20, "tested": 2, "encoder": "lstm 8", "epochs": 1, "plan_epochs": 1}


def test_all_of_it(tmp_path):
    said = []
    rows = demo(tmp_path, Settings(**TINY, tuned=2, threads=1), say=said.append)
    assert [(row.model, row.lm) for row in rows] == [
        ("float32", "none"), ("float32", "density ratio"), ("int4", "none"),
        ("int4", "density ratio"),
    ]  # fmt: skip
    assert said[0].startswith("1/5")
    for row in rows:
        name = {"float32": "float", "int4": "int4"}[row.model]
        assert row.nbytes == (tmp_path / f"{name}.gbdnn").stat().st_size
        fused = row.lm != "none"
        assert row.errors.keys() == {"test-target", *([] if fused else ["test-matched"])}
        assert row.errors["test-target"]["utterances"] == 2
        assert row.real_time > 0
    assert rows[0].nbytes > 2 * rows[2].nbytes
    forms = {
        weight.form for weight in Recogniser.load(tmp_path / "int4.gbdnn").model.weights.values()
    }
    assert forms == {"int4"}
    states = {path: path.read_bytes() for path in tmp_path.glob("state/*/*")}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    arguments = ["speech", "demo", "--out", str(tmp_path), *options, "--threads", "1"]
    with pytest.raises(ValueError, match="another plan"):  # which has 30 for tuning
        raise CliRunner().invoke(cli, arguments).exception
    assert states == {path: path.read_bytes() for path in tmp_path.glob("state/*/*")}


def test_the_table_and_the_json_object(monkeypatch, tmp_path):
    import gbdnn.speech.demo as module

    errors = {"rate": 0.125, "low": 0.1, "high": 0.15}
    made = [
        module.Row(name, "none", size, {"test-target": errors}, 0.04)
        for name, size in (("float32", 2000), ("int4", 250))
    ]
    monkeypatch.setattr(module, "demo", lambda *given, **options: made)
    shown = CliRunner().invoke(cli, ["speech", "demo", "--out", str(tmp_path)]).stdout
    assert "12.5 (10.0-15.0)" in shown
    assert "8.0 times smaller" in shown
    assert "gbdnn speech decode" in shown
    found = json.loads(
        CliRunner().invoke(cli, ["speech", "demo", "--out", str(tmp_path), "--json"]).stdout
    )
    assert [row["nbytes"] for row in found["rows"]] == [2000, 250]
