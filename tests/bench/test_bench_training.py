"""`gbdnn bench training`: what is compared is the same, and the table says what was measured."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import cli, training
from benchmarks.training import Case
from gbdnn.errors import BackendError, InputError, UnknownNameError

TINY = {"widths": (20, 30, 5), "batch": 8, "threads": 1, "seconds": 0.01}
needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="torch is not installed")


@pytest.fixture(scope="module")
def tiny():
    return training.one_run("fused", Case(sparsity=0.5, **TINY))


def test_a_run_reports_what_it_did(tiny):
    assert tiny["nnz"] == 300 + 75
    assert tiny["steps"] >= 5
    assert len(tiny["losses"]) == tiny["steps"] + training.WARM_UP
    assert tiny["step_ms"] > 0
    assert tiny["state_bytes"] >= 16 * tiny["nnz"]  # values, gradient, two moments
    for name in training.PRODUCTS:
        assert tiny["products"][name] > 0
    assert 0 < tiny["products"]["roofline"] < 2


def test_backends_train_the_same(tiny):
    other = training.one_run("dense", Case(sparsity=0.5, **TINY))
    np.testing.assert_allclose(tiny["losses"][:8], other["losses"][:8], rtol=1e-3)


@needs_torch
@pytest.mark.filterwarnings("ignore")  # torch's own, about CSR being in beta
@pytest.mark.parametrize("engine", ["torch-csr", "torch-csr-sampled"])
def test_torch_with_the_same_pattern_trains_the_same(tiny, engine):
    other = training.one_run(engine, Case(sparsity=0.5, **TINY))
    np.testing.assert_allclose(tiny["losses"][:8], other["losses"][:8], rtol=1e-3)
    assert other["state_bytes"] >= 16 * tiny["nnz"]


@needs_torch
def test_torch_dense_starts_the_same(tiny):
    other = training.one_run("torch-dense", Case(sparsity=0.5, **TINY))
    assert other["losses"][0] == pytest.approx(tiny["losses"][0], rel=1e-3)
    assert other["losses"][7] != pytest.approx(tiny["losses"][7], rel=1e-6)  # all places learn


def record(ms, loss=1.0, products=False):
    found = {
        "step_ms": ms, "losses": [loss, loss], "nnz": 100, "state_bytes": 2800,
        "peak_rss_bytes": 1 << 20,
    }  # fmt: skip
    rates = {"products_ms": ms / 2, "l2_gedge_per_s": 50.0, "roofline": 0.8}
    return found | (
        {"products": dict.fromkeys(training.PRODUCTS, 40.0) | rates} if products else {}
    )


def test_medians_and_ratios(monkeypatch):
    times = {"fused": iter([4.0, 2.0, 3.0]), "torch-dense": iter([10.0, 9.0, 30.0])}
    monkeypatch.setattr(
        training, "_in_a_process",
        lambda engine, case: record(next(times[engine]), products=engine == "fused"),
    )  # fmt: skip
    result = training.compare(
        sparsities=[0.9], engines=["fused", "torch-dense"], rounds=3, report=lambda line: None
    )
    fused, dense = result["cells"]
    assert (fused["step_ms"], dense["step_ms"]) == (3.0, 10.0)
    text = training.markdown(result)
    assert "| 90.00% | fused | 3.0 (2.0 to 4.0) | 3.33 | 28.0 |" in text
    assert "| 90.00% | fused | 40.0 | 40.0 | 40.0 | 80% | 50% |" in text
    assert "times torch-csr" not in text


def test_engines_that_disagree_are_not_compared(monkeypatch):
    losses = {"fused": 1.0, "torch-dense": 1.01}
    monkeypatch.setattr(
        training, "_in_a_process", lambda engine, case: record(1.0, loss=losses[engine])
    )
    with pytest.raises(BackendError, match="torch-dense"):
        training.compare(
            sparsities=[0.9], engines=["fused", "torch-dense"], rounds=1, report=lambda line: None
        )


def test_a_failing_process_is_an_error():
    with pytest.raises(BackendError, match="MemoryBudgetError"):
        training.compare(
            sparsities=[0.9999999], engines=["dense"], rounds=1, widths=(10**7, 10**7), batch=1,
            threads=1, report=lambda line: None,
        )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 1.0}, {"sparsity": -0.1}, {"sparsity": float("nan")}, {"widths": (3,)},
        {"widths": (3, 0)}, {"batch": 0}, {"threads": 0}, {"seconds": 0.0},
    ],
)  # fmt: skip
def test_bad_cases(options):
    with pytest.raises(InputError):
        Case(**options)


def test_unknown_engine():
    with pytest.raises(UnknownNameError, match="torch-dense"):
        training.compare(engines=["jax"])


def test_command(tmp_path):
    words = "training --widths 12,12,4 --sparsities 0.5 --batch 4 --engines fused --threads 1"
    words = [*words.split(), "--rounds", "1", "--seconds", "0.01", "--out", str(tmp_path)]
    done = CliRunner().invoke(cli.bench, [*words, "--json"])
    assert done.exit_code == 0, done.output
    saved = json.loads((tmp_path / "training.json").read_text())
    assert saved["widths"] == [12, 12, 4]  # equal widths are not merged
    assert [cell["engine"] for cell in saved["cells"]] == ["fused"]
    assert "| 50.00% | fused |" in (tmp_path / "training.md").read_text()
    assert json.loads(done.stdout)["cells"] == saved["cells"]


def test_command_refuses():
    for words in (["--engines", "jax"], ["--sparsities", "1"], ["--widths", "0,3"]):
        done = CliRunner().invoke(cli.bench, ["training", *words, "--out", "x"])
        assert done.exit_code == 2, done.output
