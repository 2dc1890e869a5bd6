"""`gbdnn bench transducer`: jobs, table, command."""

import json
from importlib.util import find_spec

import pytest
from click.testing import CliRunner

from benchmarks import cli, transducer
from benchmarks.transducer import TransducerJob
from gbdnn.errors import InputError, UnknownNameError

TINY = {"batch": 2, "frames": 4, "labels": 2, "vocabulary": 5, "threads": 1, "seconds": 0.01}
needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="torch is not installed")


@pytest.mark.parametrize("engine", ["gbdnn", pytest.param("torch-log-softmax", marks=needs_torch)])
def test_engines_compute_on_the_same_logits(engine):
    record = TransducerJob(engine=engine, **TINY).measure()
    assert record["ms"] > 0
    logits, labels = TransducerJob(engine=engine, **TINY).arrays()
    if engine == "gbdnn":
        from gbdnn.losses import transducer_loss

        assert record["check"] == pytest.approx(transducer_loss(logits, labels)[0].sum())
    else:
        import torch

        expected = torch.log_softmax(torch.from_numpy(logits), -1).sum()
        assert record["check"] == pytest.approx(float(expected), rel=1e-5)


def test_wrong_jobs():
    with pytest.raises(UnknownNameError):
        TransducerJob(engine="warp", threads=1)
    with pytest.raises(InputError, match="frames"):
        TransducerJob(engine="gbdnn", threads=1, frames=0)


@needs_torch
def test_the_command(tmp_path):
    sizes = [f"--{name}={value}" for name, value in TINY.items()]
    words = ["transducer", *sizes, "--rounds", "2", "--out", str(tmp_path), "--json"]
    done = CliRunner().invoke(cli.bench, words)
    assert done.exit_code == 0, done.output
    cases = json.loads(done.stdout)["results"]
    assert [case["engine"] for case in cases] == list(transducer.ENGINES)
    assert all(len(case["all_ms"]) == 2 for case in cases)
    text = (tmp_path / "transducer.md").read_text()
    ratio = cases[0]["ms"] / cases[1]["ms"]
    assert f"| {ratio:.2f} |" in text
    assert "Batch 2, 4 frames, 2 labels, vocabulary 5" in text
