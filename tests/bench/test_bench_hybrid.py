"""`gbdnn bench hybrid`: jobs, table, command."""

import json

import pytest
from click.testing import CliRunner

from benchmarks import cli, hybrid
from benchmarks.hybrid import HybridJob
from gbdnn.errors import BackendError, InputError, UnknownNameError

TINY = {"words": 3, "frames": 40, "threads": 1, "seconds": 0.01}


@pytest.mark.parametrize("op", hybrid.OPS)
def test_engines_agree(op):
    a, b = (HybridJob(engine=engine, op=op, **TINY).measure() for engine in ("graphblas", "numpy"))
    assert a["check"] == pytest.approx(b["check"], rel=1e-12)
    assert (a["nodes"], a["entries"]) == (b["nodes"], b["entries"])
    assert a["ms"] > 0


def test_wrong_jobs():
    with pytest.raises(UnknownNameError):
        HybridJob(engine="torch", threads=1)
    with pytest.raises(UnknownNameError):
        HybridJob(engine="numpy", op="beam", threads=1)
    with pytest.raises(InputError, match="words"):
        HybridJob(engine="numpy", words=0, threads=1)


def test_other_scores_are_found(tmp_path, monkeypatch):
    case = {"op": "viterbi", "words": 3, "ms": 1.0}
    cases = [
        {**case, "engine": "graphblas", "check": 1.0},
        {**case, "engine": "numpy", "check": 1.001},
    ]
    monkeypatch.setattr(hybrid, "measured", lambda *a, **k: [])
    monkeypatch.setattr(hybrid, "medians", lambda *a: cases)
    with pytest.raises(BackendError, match=r"1\.001"):
        hybrid.compare([], tmp_path)


def test_the_command(tmp_path):
    words = ["hybrid", "--words", "2", "--frames", "40", "--threads", "1", "--seconds", "0.01",
             "--rounds", "1", "--out", str(tmp_path), "--json"]  # fmt: skip
    done = CliRunner().invoke(cli.bench, words)
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["results"]) == 4
    assert "| forward-backward | 2 |" in (tmp_path / "hybrid.md").read_text()
