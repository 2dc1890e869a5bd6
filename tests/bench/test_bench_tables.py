"""Commands that print tables, from the measurement to the file."""

import json
from importlib.util import find_spec

from click.testing import CliRunner

from benchmarks import cli, peers
from benchmarks.accuracy import AccuracyJob, jobs
from benchmarks.tables import markdown


def run(*words):
    done = CliRunner().invoke(cli.bench, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done


def test_markdown():
    text = markdown(["a", "b"], [["x", "1"], ["y", "2"]], left=1)
    assert text == "| a | b |\n|---|--:|\n| x | 1 |\n| y | 2 |\n"


def test_challenge(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    words = ("challenge", "--layers", 2, "--rounds", 2, "--threads", 1, "--out", tmp_path)
    done = run(*words)
    assert "torch-csr is not installed" in done.stderr
    saved = json.loads((tmp_path / "challenge.json").read_text())
    assert [(case["engine"], case["skip"]) for case in saved] == [
        ("graphblas", False), ("fused", False),
        ("graphblas-reference", True), ("graphblas", True), ("fused", True),
    ]  # fmt: skip
    assert len({tuple(case["categories"]) for case in saved}) == 1
    assert all(len(case["all_seconds"]) == 2 for case in saved)
    text = (tmp_path / "challenge.md").read_text()
    assert "| fused | yes |" in text
    assert "medians of 2 rounds" in text
    assert text in done.stdout
    assert "10 of 10 were measured before" in run(*words).stderr


def test_accuracy(tmp_path):
    done = run(
        "accuracy", "--methods", "dense,rigl", "--sparsities", 0.5, "--hidden", "16,16", "--seeds",
        1, "--epochs", 1, "--threads", 1, "--out", tmp_path,
    )  # fmt: skip
    dense, rigl = json.loads((tmp_path / "accuracy.json").read_text())
    assert (dense["sparsity"], rigl["sparsity"]) == (0.0, 0.5)
    assert dense["nnz"] == 64 * 16 + 16 * 16 + 16 * 10 > rigl["nnz"]
    assert "| rigl | 50% |" in done.stdout
    assert (tmp_path / "pareto.png").exists() == bool(find_spec("matplotlib"))


def test_all_methods_at_all_sparsities_and_dense_once():
    found = jobs(sparsities=[0.5, 0.9], seeds=2)
    assert len(found) == 2 * (1 + 4 * 2)
    assert len({job.key for job in found}) == len(found)
    sparse = next(job for job in found if job.method == "static")
    assert isinstance(sparse, AccuracyJob)
    assert sparse.rate() > sparse.learning_rate
    network = sparse.network(64, 10)
    assert abs(sum(w.nnz for w in network.weights.values()) / 1_124_352 - 0.5) < 0.01
