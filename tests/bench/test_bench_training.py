"""`gbdnn bench training`: what is compared is the same, and the table says what was measured."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import cli, process, training
from benchmarks.training import TrainingJob
from gbdnn.errors import BackendError, InputError, UnknownNameError

TINY = {"widths": (20, 30, 5), "batch": 8, "threads": 1, "seconds": 0.01, "sparsity": 0.5}
TWO = training.jobs([0.9], ["fused", "torch-dense"], threads=2)
needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="torch is not installed")


@pytest.fixture(scope="module")
def tiny():
    return TrainingJob(engine="fused", **TINY).measure()


def test_a_run_reports_what_it_did(tiny):
    assert tiny["nnz"] == 300 + 75
    assert tiny["steps"] >= 5
    assert len(tiny["losses"]) == training.KEPT
    assert tiny["step_ms"] > 0
    assert tiny["state_bytes"] >= 16 * tiny["nnz"]  # values, gradient, two moments
    for name in training.PRODUCTS:
        assert tiny["products"][name] > 0
    assert 0 < tiny["products"]["roofline"] < 2


def test_backends_train_the_same(tiny):
    other = TrainingJob(engine="dense", **TINY).measure()
    np.testing.assert_allclose(tiny["losses"][:8], other["losses"][:8], rtol=1e-3)


@needs_torch
@pytest.mark.filterwarnings("ignore")  # torch's own, about CSR being in beta
@pytest.mark.parametrize("engine", ["torch-csr", "torch-csr-sampled"])
def test_torch_with_the_same_pattern_trains_the_same(tiny, engine):
    other = TrainingJob(engine=engine, **TINY).measure()
    np.testing.assert_allclose(tiny["losses"][:8], other["losses"][:8], rtol=1e-3)
    assert other["state_bytes"] >= 16 * tiny["nnz"]


@needs_torch
def test_torch_dense_starts_the_same(tiny):
    other = TrainingJob(engine="torch-dense", **TINY).measure()
    assert other["losses"][0] == pytest.approx(tiny["losses"][0], rel=1e-3)
    assert other["losses"][7] != pytest.approx(tiny["losses"][7], rel=1e-6)  # all places learn


def record(ms, loss=1.0, products=False):
    found = {
        "status": "ok", "step_ms": ms, "losses": [loss, loss], "nnz": 100, "state_bytes": 2800,
        "peak_rss_bytes": 1 << 20,
    }  # fmt: skip
    rates = {"products_ms": ms / 2, "l2_gedge_per_s": 50.0, "roofline": 0.8}
    return found | (
        {"products": dict.fromkeys(training.PRODUCTS, 40.0) | rates} if products else {}
    )


def test_medians_and_ratios(monkeypatch, tmp_path):
    times = {"fused": iter([4.0, 2.0, 3.0]), "torch-dense": iter([10.0, 9.0, 30.0])}
    monkeypatch.setattr(
        process, "run",
        lambda job, timeout: record(next(times[job.engine]), products=job.engine == "fused"),
    )  # fmt: skip
    found = training.compare(TWO, tmp_path, rounds=3)
    fused, dense = found
    assert (fused["step_ms"], dense["step_ms"]) == (3.0, 10.0)
    text = training.report(found)
    assert "| 90.00% | fused | 3.0 (2.0 to 4.0) | 3.33 | 28.0 |" in text
    assert "| 90.00% | fused | 40.0 | 40.0 | 40.0 | 80% | 50% |" in text
    assert "medians of 3 rounds" in text
    assert "times torch-csr" not in text


def test_engines_that_disagree_are_not_compared(monkeypatch, tmp_path):
    losses = {"fused": 1.0, "torch-dense": 1.01}
    monkeypatch.setattr(process, "run", lambda job, timeout: record(1.0, loss=losses[job.engine]))
    with pytest.raises(BackendError, match="torch-dense"):
        training.compare(TWO, tmp_path)


def test_a_failing_process_is_an_error(tmp_path):
    jobs = training.jobs([0.9999999], ["dense"], widths=(10**7, 10**7), batch=1, threads=1)
    with pytest.raises(BackendError, match="MemoryBudgetError"):
        training.compare(jobs, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 1.0}, {"sparsity": -0.1}, {"sparsity": float("nan")}, {"widths": (3,)},
        {"widths": (3, 0)}, {"batch": 0}, {"threads": 0}, {"seconds": 0.0},
    ],
)  # fmt: skip
def test_jobs_are_checked(options):
    with pytest.raises(InputError):
        TrainingJob(**{"engine": "fused", **TINY} | options)


def test_unknown_engine():
    with pytest.raises(UnknownNameError, match="torch-dense"):
        training.jobs([0.5], ["jax"], threads=1)


def test_command(tmp_path):
    words = "training --widths 12,12,4 --sparsities 0.5 --batch 4 --engines fused --threads 1"
    words = [*words.split(), "--rounds", "1", "--seconds", "0.01", "--out", str(tmp_path)]
    done = CliRunner().invoke(cli.bench, [*words, "--json"])
    assert done.exit_code == 0, done.output
    saved = json.loads((tmp_path / "training.json").read_text())
    assert saved[0]["widths"] == [12, 12, 4]  # equal widths are not merged
    assert [case["engine"] for case in saved] == ["fused"]
    assert "| 50.00% | fused |" in (tmp_path / "training.md").read_text()
    assert json.loads(done.stdout)["results"] == saved


def test_command_refuses():
    for words in (["--engines", "jax"], ["--sparsities", "1"], ["--widths", "0,3"]):
        done = CliRunner().invoke(cli.bench, ["training", *words, "--out", "x"])
        assert done.exit_code == 2, done.output
