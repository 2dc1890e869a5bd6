"""Commands that print tables, from the measurement to the file."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import cli, peers
from benchmarks.accuracy import AccuracyJob, jobs
from gbdnn.challenge.table import markdown_table


def run(*words):
    done = CliRunner().invoke(cli.bench, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done


def test_markdown():
    text = markdown_table(["a", "b"], [["x", "1"], ["y", "2"]], left=1)
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


def test_estimators(tmp_path):
    """Both of them on the same folds, and images in a table of their own."""
    X = np.random.default_rng(0).integers(0, 255, (60, 5, 5), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", X=X, y=np.arange(60) % 3)
    done = run(
        "estimators", "--tasks", "wine", "--seeds", 1, "--images", tmp_path / "images.npz",
        "--epochs", 1, "--out", tmp_path,
    )  # fmt: skip
    *records, images = json.loads((tmp_path / "estimators.json").read_text())
    assert [(r["engine"], len(r["hidden"])) for r in records] == [
        ("SparseMLPClassifier", 2), ("MLPClassifier", 2),
        ("SparseMLPClassifier", 1), ("MLPClassifier", 1),
    ]  # fmt: skip
    assert records[1]["weights"] == 13 * 256 + 256 * 256 + 256 * 3 > 5 * records[0]["weights"]
    assert all(record["accuracy"] > 0.9 for record in records)
    assert 0.04 < images["density"] < 0.06
    assert done.stdout.count("| wine |") == 2
    assert "| 0 |" in done.stdout


def test_all_methods_at_all_sparsities_and_dense_once():
    found = jobs(sparsities=[0.5, 0.9], seeds=2, threads=2)
    assert len(found) == 2 * (1 + 4 * 2)
    assert len({job.key for job in found}) == len(found)
    sparse = next(job for job in found if job.method == "static")
    assert isinstance(sparse, AccuracyJob)
    assert sparse.rate() > sparse.learning_rate
    network = sparse.network(64, 10)
    assert abs(sum(w.nnz for w in network.weights.values()) / 1_124_352 - 0.5) < 0.01


def test_pruned(tmp_path):
    words = ("pruned", "--sparsity", 0.5, "--hidden", "16,16", "--epochs", 1, "--batches", "1,64",
             "--rounds", 2, "--threads", 1, "--out", tmp_path)  # fmt: skip
    done = run(*words)
    saved = json.loads((tmp_path / "pruned.json").read_text())
    by_engine = {case["engine"]: case for case in saved if case["batch"] == 64}
    assert by_engine["fused"]["nnz"] < by_engine["dense"]["nnz"] == 64 * 16 + 16 * 16 + 16 * 10
    assert by_engine["fused"]["file_bytes"] == (tmp_path / files(tmp_path)[1]).stat().st_size
    assert str(tmp_path) not in (tmp_path / "pruned.json").read_text()
    first = (tmp_path / "pruned.md").read_text().splitlines()[0]
    assert first.startswith("Pruned to 50% of its weights")
    assert "64 samples" in first
    assert first in done.stdout
    assert (tmp_path / "pruned.png").exists() == bool(find_spec("matplotlib"))
    before = files(tmp_path)
    run(*words)
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2 + 2 * len(saved)
    (tmp_path / before[0]).unlink()
    run(*words)  # a model that was deleted is trained again
    assert files(tmp_path) == before


def test_torch_model(tmp_path):
    for name in ("torch", "onnx", "onnxruntime"):
        pytest.importorskip(name)
    done = run("torch-model", "--sparsities", 0.9, "--widths", "64,300,10", "--batches", 4,
               "--rounds", 1, "--threads", 1, "--out", tmp_path)  # fmt: skip
    cases = {case["engine"]: case for case in
             json.loads((tmp_path / "torch_model.json").read_text())}  # fmt: skip
    assert set(cases) == {"torch", "onnxruntime", "gbdnn"}
    assert min(case["ms"] for case in cases.values()) > 0
    assert cases["gbdnn"]["nnz"] == 1920 + 300
    assert cases["gbdnn"]["file_bytes"] < cases["torch"]["file_bytes"] / 2
    assert cases["gbdnn"]["error"] < 1e-5
    assert "times torch" in done.stdout


def files(folder):
    return sorted(path.name for path in folder.glob("*.safetensors"))
