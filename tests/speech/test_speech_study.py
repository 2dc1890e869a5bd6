"""The study: its cells with as little of everything as there can be, and its rules on made rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from gbdnn.cli.main import cli
from gbdnn.errors import InputError
from gbdnn.speech.scoring import ratio_interval
from gbdnn.speech.study import Settings, Study, study
from gbdnn.speech.study.claims import claims
from gbdnn.speech.study.recognisers import recogniser
from gbdnn.speech.study.report import draw, markdown

pytest.importorskip("espeakng_loader")
pytest.importorskip("soundfile")
pytest.importorskip("kaldi_native_fbank")
pytest.importorskip("jiwer")
PARTS = ("tests", "fusion", "sparse", "simulated")
TINY = Settings(
    seeds=1, utterances=20, tested=2, tuned=1, encoder="lstm 8", epochs=1, plan_epochs=1,
    prune_epochs=1, sparsities=(0.5,), beams=(1, 2), beam=1, threads=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


def test_all_parts_once_and_never_again(folder, monkeypatch):
    said: list[str] = []
    found = study(folder, TINY, parts=PARTS, say=said.append)
    kinds = {row["kind"] for row in Study(folder, TINY).rows.values()}
    assert kinds == {"bytes", "words", "tuned", "simulated"}
    assert any(text.startswith("training float32-0") for text in said)
    cells = [text for text in said if "/" in text]
    assert len(cells) == len(set(cells))
    for name in ("tables.md", "summary.json", "settings.json"):
        assert (folder / name).stat().st_size > 0
    assert {claim.verdict for claim in found} <= {
        "kept", "failed", "not seen at this scale", "not measured",
    }  # fmt: skip
    before = (folder / "results.jsonl").read_bytes()
    (folder / "models" / "naive-0.gbdnn").unlink()  # nothing looks at it once its rows are there
    monkeypatch.setattr("gbdnn.speech.training.train_recogniser", None)
    said.clear()
    again = study(folder, TINY, parts=PARTS, say=said.append)
    assert again == found
    assert not [text for text in said if "/" in text or text.startswith("training")]
    assert (folder / "results.jsonl").read_bytes() == before


def test_a_row_that_is_missing_is_computed(folder):
    path = folder / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"target/int4/none/beam 2/seed 0"' not in line]
    assert len(kept) == len(lines) - 1
    path.write_bytes(b"".join(kept) + b'{"key": "half')  # killed while it was written
    said: list[str] = []
    study(folder, TINY, parts=("fusion",), say=said.append)
    assert "damaged" in said[0]
    assert [text for text in said if "/" in text and "damaged" not in text] == [
        "target/int4/none/beam 2/seed 0"
    ]
    old = {json.loads(line)["key"]: json.loads(line) for line in lines}
    assert Study(folder, TINY).rows == old


def test_recognisers_are_what_they_are_called(folder):
    made = Study(folder, TINY)
    sizes = {row["model"]: row for row in made.of_kind("bytes")}
    assert sizes.keys() == {"float32", "int4", "naive", "int8", "sparse50"}
    assert sizes["float32"]["bytes"] > 2 * sizes["int4"]["bytes"]
    assert sizes["sparse50"]["density"] < 0.9 < sizes["int4"]["density"]
    forms = {w.form for w in recogniser(made, 0, "sparse50").model.weights.values()}
    assert forms == {"int4"}


def test_other_settings_are_refused(folder):
    with pytest.raises(InputError, match="encoder"):
        Study(folder, Settings(**{**vars(TINY), "encoder": "lstm 9"}))
    with pytest.raises(InputError, match="beam"):
        Settings(beam=3)


def test_the_command_prints_claims_of_what_is_there(folder):
    options = {
        "seeds": 1, "utterances": 20, "tested": 2, "tuned": 1, "encoder": "lstm 8", "epochs": 1,
        "plan-epochs": 1, "prune-epochs": 1, "sparsities": "0.5", "beams": "1,2", "beam": 1,
        "threads": 1,
    }  # fmt: skip
    words = ["speech", "study", "--out", str(folder), "--only", "none"]
    words += [f"--{name}={value}" for name, value in options.items()]
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 0, shown.output
    assert "rule: " in shown.stdout
    found = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert any("naive" in claim["claim"] for claim in found["claims"])


# -- rules, on rows that were made up --------------------------------------------------------------


def words(model, wrong, test="matched", fusion="none", seed=0, size=200):
    """A row in which each of the first `wrong` utterances of five words has an error."""
    errors = [int(k < wrong) for k in range(size)]
    return {
        "kind": "words", "model": model, "test": test, "fusion": fusion, "beam": 8, "seed": seed,
        "words": [5] * size, "substitutions": errors, "deletions": [0] * size,
        "insertions": [0] * size,
    }  # fmt: skip


def verdict(rows, text):
    return next(claim.verdict for claim in claims(rows, 8, ["sparse80"]) if text in claim.claim)


def test_verdicts_follow_the_rules():
    base = words("float32", 100)  # 10 %
    for wrong, expected in ((160, "kept"), (101, "not seen at this scale")):
        assert verdict([base, words("naive", wrong)], "naive") == expected
    for wrong, expected in ((113, "kept"), (114, "failed")):
        assert verdict([base, words("int4", wrong)], "tailored") == expected
    # the seeds count together: one is better, one is worse
    rows = [base, words("int4", 130), words("float32", 130, seed=1), words("int4", 110, seed=1)]
    assert verdict(rows, "tailored") == "kept"
    sizes = [{"kind": "bytes", "model": m, "seed": 0, "bytes": b, "compressed": 100} for m, b in
             (("float32", 2000), ("int4", 264), ("sparse80", 120))]  # fmt: skip
    assert verdict(sizes, "7.6") == "failed"
    sizes[1]["bytes"] = 263
    assert verdict(sizes, "7.6") == "kept"
    for wrong, expected in ((120, "kept"), (121, "failed")):
        assert verdict([*sizes, base, words("sparse80", wrong)], "80 %") == expected
    sizes[2]["compressed"] = 101
    assert verdict([*sizes, base, words("sparse80", 120)], "80 %") == "failed"
    assert verdict([], "tailored") == "not measured"


def test_share_of_a_gain():
    def rows(fused):
        given = {"test": "target", "size": 200}
        cells = (("float32", 100, "none"), ("float32", 50, "lodr"), ("int4", 110, "none"),
                 ("int4", fused, "lodr"))  # fmt: skip
        return [words(model, wrong, fusion=kind, **given) for model, wrong, kind in cells]

    assert verdict(rows(70), "lodr") == "kept"
    assert verdict(rows(71), "lodr") == "failed"
    assert verdict(rows(70)[:2], "lodr") == "not measured"
    worse = words("float32", 101, test="target", fusion="lodr")
    assert verdict([rows(70)[0], worse, *rows(70)[2:]], "lodr") == "not seen at this scale"


def test_interval_of_a_ratio():
    rng = np.random.default_rng(0)
    below = rng.integers(0, 3, 400)
    low, high = ratio_interval(2 * below, below)
    assert low == high == 2
    low, high = ratio_interval(rng.integers(0, 3, 400), below)
    assert 0.7 < low < 1 < high < 1.4
    assert ratio_interval(below, 0 * below) == (np.inf, np.inf)


def test_tables_and_figures(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [words(m, w, test="target", fusion=f) for m in ("float32", "int4")
            for f, w in (("none", 90), ("lodr", 40))]  # fmt: skip
    rows += [words("float32", 90), words("int4", 95)]
    rows += [{"kind": "bytes", "model": m, "seed": 0, "bytes": b, "compressed": 9, "density": 1.0}
             for m, b in (("float32", 2000), ("int4", 250))]  # fmt: skip
    made = markdown(rows, 8, ["sparse80"])
    assert made.keys() == {"claims", "tests", "fusion"}
    assert "| int4 | 1 | 250 | 9 | 9.5 (" in made["tests"]
    assert {path.name for path in draw(rows, 8, tmp_path)} == {"fusion.png", "bytes.png"}
