"""`gbdnn evaluate`, `gbdnn train --init` and `gbdnn prune --finetune`: what follows a training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from builders import random_network
from click.testing import CliRunner
from sklearn.metrics import log_loss, precision_score, r2_score, recall_score
from test_cli_training import STOPPING, call, called, fails, iris, same_weights, usage

from gbdnn import Dropout, Linear, Network
from gbdnn.cli.main import cli
from gbdnn.models import Scaling, fold
from gbdnn.network import load

__all__ = ["iris"]  # a fixture
NAMES = ["a", "b", "c"]
GOOD = ("--scale", "standard", "--learning-rate", 0.01, "--density", 0.5, "--batch-size", 16)


@pytest.fixture
def labelled(tmp_path):
    """Samples with labels, and a network with three classes that was not trained on them."""
    rng = np.random.default_rng(3)
    network = random_network(rng, (4, 30, 3), density=0.5)
    network = Network([*network.layers[:-1], "softmax"], metadata={"classes": NAMES})
    network.save(tmp_path / "m")
    X = rng.standard_normal((90, 4)).astype(np.float32)
    y = np.array(NAMES)[rng.integers(0, 3, 90)]
    np.savez(tmp_path / "d.npz", X=X, y=y)
    return tmp_path / "m", tmp_path / "d.npz", network.predict(X), X, y


@pytest.fixture
def values(tmp_path):
    """A table with targets far from 0, and a regression trained on it."""
    rng = np.random.default_rng(0)
    X = rng.random((300, 3)) * 50
    y = 1000 + 3 * X[:, 0] - 7 * X[:, 1] + 0.25
    np.savez(tmp_path / "v.npz", X=X, y=y)
    call("train", tmp_path / "v.npz", "--out", tmp_path / "r", "--hidden", 32, "--epochs", 30,
         "--density", 1, "--scale", "standard", "--learning-rate", 0.01)  # fmt: skip
    return tmp_path / "r", tmp_path / "v.npz", X, y


# -- evaluate --------------------------------------------------------------------------------------


def test_evaluate_is_what_scikit_learn_says(labelled):
    model, data, P, _, y = labelled
    record = called("evaluate", model, data)
    guess = np.array(NAMES)[P.argmax(axis=1)]
    assert record["accuracy"] == called("predict", model, data)["accuracy"]
    assert record["loss"] == pytest.approx(
        log_loss(y, P / P.sum(axis=1, keepdims=True, dtype=float)), rel=1e-5
    )
    rows = record["classes"]
    assert [row["class"] for row in rows] == NAMES
    assert [row["samples"] for row in rows] == [int((y == name).sum()) for name in NAMES]
    for key, measure in (("recall", recall_score), ("precision", precision_score)):
        wanted = measure(y, guess, labels=NAMES, average=None, zero_division=0)
        np.testing.assert_allclose([row[key] or 0 for row in rows], wanted)
    text = call("evaluate", model, data)
    assert f"{record['accuracy']:.4f}" in text
    assert text.splitlines()[-1].startswith("c ")
    other = called("evaluate", model, data, "--loss", "mse")
    assert other["loss"] == pytest.approx(((P - np.eye(3)[[*map(NAMES.index, y)]]) ** 2).mean())
    assert other["accuracy"] == record["accuracy"]


def test_evaluate_with_labels_that_the_model_does_not_know(labelled, tmp_path):
    model, _, P, X, y = labelled
    some = np.where(np.arange(90) < 30, "zebra", y)
    np.savez(tmp_path / "u.npz", X=X, y=some)
    record = called("evaluate", model, tmp_path / "u.npz")
    right = np.array(NAMES)[P.argmax(axis=1)] == some
    assert record["unknown_labels"] == 30
    assert record["accuracy"] == right.mean()
    assert "loss" not in record
    assert "30 samples, counted as wrong" in call("evaluate", model, tmp_path / "u.npz")


@pytest.mark.parametrize("last", ["sigmoid", "identity"])
def test_evaluate_with_one_output(tmp_path, last):
    rng = np.random.default_rng(1)
    network = Network([Linear(rng.standard_normal((1, 4))), last], metadata={"classes": [0, 1]})
    network.save(tmp_path / "m")
    X, y = rng.standard_normal((50, 4)), rng.integers(0, 2, 50)
    np.savez(tmp_path / "d.npz", X=X, y=y)
    record = called("evaluate", tmp_path / "m", tmp_path / "d.npz")
    assert record["loss_name"] == "binary_cross_entropy"
    for loss in ("mse", "hinge"):
        found = called("evaluate", tmp_path / "m", tmp_path / "d.npz", "--loss", loss)
        assert found["accuracy"] == record["accuracy"]
    scores = network.predict(X)[:, 0] - (0.5 if last == "sigmoid" else 0)
    assert record["accuracy"] == ((scores > 0) == y).mean()


def test_evaluate_values(values):
    model, data, X, y = values
    record = called("evaluate", model, data)
    found = load(model).predict(X)[:, 0]
    assert record["task"] == "regress"
    assert record["r_squared"] == pytest.approx(r2_score(y, found))
    assert record["mean_squared_error"] == pytest.approx(np.mean((y - found) ** 2))
    assert "R^2" in call("evaluate", model, data)
    assert "compares values" in str(fails("evaluate", model, data, "--loss", "hinge"))


def test_evaluate_what_does_not_fit(labelled, tmp_path):
    model, data, _, X, _ = labelled
    np.savez(tmp_path / "x.npz", X=X)
    assert "--label" in str(fails("evaluate", model, tmp_path / "x.npz"))
    plain = random_network(np.random.default_rng(0), (4, 8, 3))
    plain.save(tmp_path / "p")
    assert "numbers" in str(fails("evaluate", tmp_path / "p", data))
    np.savez(tmp_path / "y.npz", X=X, y=np.ones(90))
    assert "3 a sample" in str(fails("evaluate", tmp_path / "p", tmp_path / "y.npz"))
    plain.save(tmp_path / "p", extra={"training": {"settings": {"loss": ["?"], "scale": 3}}})
    np.savez(tmp_path / "y.npz", X=X, y=np.ones((90, 3)))
    assert called("evaluate", tmp_path / "p", tmp_path / "y.npz")["loss_name"] == "mse"


def test_long_predictions_say_how_far_they_are(labelled, monkeypatch, capfd):
    model, data, *_ = labelled
    called("predict", model, data)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("gbdnn.cli.scores.LONG", 0)
    for command in ("predict", "evaluate"):
        result = CliRunner().invoke(cli, [command, str(model), str(data), "--json"])
        assert "predict, 100%" in result.stderr
        json.loads(result.stdout)


# -- going on --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_scaling_is_taken_out_again(activation, rng):
    """The inverse of `fold`: the network for scaled samples gives scaled results."""
    body = random_network(rng, (5, 9, 2), density=0.6, activation=activation, dtype="float64")
    network = Network([*body.layers[:2], Dropout(0.1), *body.layers[2:-1]])
    scale = Scaling(rng.standard_normal(5), rng.random(5) + 0.5)
    undo = Scaling(np.array([3.0, -7.0]), np.array([0.01, 50.0]))
    inside = fold(network, scale.inverse(), undo.inverse())
    X = rng.standard_normal((6, 5))
    values = (network.predict(X) - undo.shift) * undo.factor
    found = inside.predict((X - scale.shift) * scale.factor)
    np.testing.assert_allclose(found, values, rtol=1e-9)
    back = fold(inside, scale, undo)
    np.testing.assert_allclose(back.predict(X), network.predict(X), rtol=1e-9)
    assert [w.nnz for w in back.weights.values()] == [w.nnz for w in network.weights.values()]


def test_init_goes_on(iris, tmp_path):
    """The second training begins where the first ended, with its patterns and classes."""
    first, second = tmp_path / "a", tmp_path / "b"
    words = ("--label", "species", "--learning-rate", 0.003, "--batch-size", 16)
    fresh = called("train", iris / "train.csv", "--out", first, *words, "--hidden", "32,16",
                   "--epochs", 25, "--scale", "standard", "--density", 0.4)  # fmt: skip
    record = called("train", iris / "train.csv", "--out", second, *words, "--init", first,
                    "--epochs", 3)  # fmt: skip
    assert record["init"] == str(first)
    assert record["history"][0]["loss"] < fresh["history"][0]["loss"] / 2
    assert record["sizes"] == fresh["sizes"] == [4, 32, 16, 3]
    assert record["settings"]["scale"] == "standard"  # the model's
    assert "hidden" not in record["settings"]
    before, after = load(first), load(second)
    for name, weight in before.weights.items():
        np.testing.assert_array_equal(
            weight.pattern().indices, after.weights[name].pattern().indices
        )
        assert not np.array_equal(weight.entries, after.weights[name].entries)
    assert after.metadata["classes"] == before.metadata["classes"]
    assert after.metadata["label"] == "species"
    moved = called("train", iris / "train.csv", "--out", second, *words, "--init", first,
                   "--epochs", 20, "--growth", "set")  # fmt: skip
    assert moved["edges"] == fresh["edges"]


def test_init_with_fewer_classes(iris, tmp_path):
    """Samples of two of three classes: codes are the model's, not those of the samples."""
    first, second, fewer = tmp_path / "a", tmp_path / "b", tmp_path / "f.csv"
    call("train", iris / "train.csv", "--out", first, "--label", "species", "--hidden", "32",
         "--epochs", 40, *GOOD)  # fmt: skip
    lines = (iris / "train.csv").read_text().splitlines()
    fewer.write_text("\n".join(line for line in lines if not line.endswith("setosa")))
    call("train", fewer, "--out", second, "--init", first, "--epochs", 5)
    rows = called("evaluate", second, fewer)["classes"]
    assert [row["samples"] > 0 for row in rows] == [False, True, True]
    assert called("evaluate", second, fewer)["accuracy"] > 0.9
    (tmp_path / "u.csv").write_text(lines[0] + "\n1,2,3,4,rose\n1,2,3,5,virginica\n")
    error = fails("train", tmp_path / "u.csv", "--out", second, "--init", first, "--validation", 0)
    assert "'rose'" in str(error)


def test_init_of_values(values, tmp_path):
    model, data, _, _ = values
    before = called("evaluate", model, data)
    call("train", data, "--out", tmp_path / "b", "--init", model, "--epochs", 40,
         "--learning-rate", 0.01)  # fmt: skip
    assert called("evaluate", tmp_path / "b", data)["loss"] < before["loss"] / 2


def test_init_refuses_what_would_be_ignored(labelled, tmp_path):
    model, data, _, X, y = labelled
    for option, value in (("--hidden", 3), ("--density", 0.5), ("--dropout", 0.5),
                          ("--task", "classify"), ("--topology", "erk")):  # fmt: skip
        assert option in usage(
            "train", data, "--out", tmp_path / "o", "--init", model, option, value
        )
    usage("train", data, "--out", tmp_path / "o", "--init", tmp_path / "none")
    np.savez(tmp_path / "w.npz", X=X[:, :3], y=y)
    error = fails("train", tmp_path / "w.npz", "--out", tmp_path / "o", "--init", model)
    assert "4 features" in str(error)
    assert not (tmp_path / "o").exists()


def test_init_may_be_out(iris, tmp_path):
    """The model is read before it is replaced."""
    out = tmp_path / "m"
    words = ("train", iris / "train.csv", "--label", "species", "--out", out, "--epochs", 2)
    call(*words, "--hidden", 8)
    call(*words, "--init", out)
    assert load(out).metadata["training"]["init"] == str(out)


def test_finetune_makes_up_for_pruning(iris, tmp_path):
    model, plain, tuned = (tmp_path / name for name in "apt")
    call("train", iris / "train.csv", "--out", model, "--label", "species", "--hidden", "64",
         "--epochs", 60, "--growth", "none", "--schedule", "constant", *GOOD)  # fmt: skip
    words = ("--sparsity", 0.8, "--exclude", -1, "--rounds", 0, "--data", iris / "train.csv")
    before = called("prune", model, plain, *words)
    after = called("prune", model, tuned, *words, "--finetune", 40, "--learning-rate", 0.03)
    assert len(after["finetune"]["history"]) == 40
    assert after["finetune"]["accuracy"] == before["accuracy"][1]
    assert after["accuracy"][0] == before["accuracy"][0]
    assert after["accuracy"][1] > 0.95 > before["accuracy"][1]
    for name, weight in load(plain).weights.items():
        other = load(tuned).weights[name]
        np.testing.assert_array_equal(weight.pattern().indices, other.pattern().indices)
    assert load(tuned).metadata == load(model).metadata
    assert "before 1 epochs" in call("prune", model, tuned, *words, "--finetune", 1)
    same = called("prune", model, tuned, *words, "--finetune", 0)
    same_weights(load(plain), load(tuned))
    assert "finetune" not in same


def test_finetune_keeps_the_structure(iris, tmp_path):
    model, out = tmp_path / "m", tmp_path / "o"
    call("train", iris / "train.csv", "--out", model, "--label", "species", "--hidden", "16,16",
         "--epochs", 5, "--density", 1)  # fmt: skip
    call("prune", model, out, "--structure", "2:4", "--exclude", -1, "--data", iris / "train.csv",
         "--finetune", 3, "--rounds", 0)  # fmt: skip
    dense = load(out).weights["layers.2.weight"].to_dense(allow_dense=True)
    assert ((dense != 0).reshape(16, 4, 4).sum(axis=2) == 2).all()


def test_finetune_needs_labels(labelled, tmp_path):
    model, _, _, X, _ = labelled
    words = ("prune", model, tmp_path / "o", "--sparsity", 0.9, "--finetune", 2)
    assert "--data" in usage(*words)
    np.savez(tmp_path / "x.npz", X=X)
    assert "--label" in str(fails(*words, "--data", tmp_path / "x.npz"))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_finetune_is_written(labelled, tmp_path, number, status):
    model, data, *_ = labelled
    words = ["prune", model, tmp_path / "o", "--sparsity", 0.7, "--data", data, "--finetune", 99,
             "--rounds", 0, "--json"]  # fmt: skip
    command = [sys.executable, "-c", STOPPING, str(int(number)), "5", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == status, done.stderr
    assert "the model so far is in" in done.stderr
    assert len(json.loads(done.stdout)["finetune"]["history"]) == 4
    assert load(tmp_path / "o").edges == round(0.3 * 210)
