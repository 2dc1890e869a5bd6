"""`gbdnn quantize`, `gbdnn train --plan`, `gbdnn summary` of models of whole numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import random_csr, random_dense
from click.testing import CliRunner

from gbdnn import Dense, Linear, Network, load, quantize
from gbdnn.cli.main import cli
from gbdnn.errors import GbdnnError
from gbdnn.models.scaling import Scaling, fold
from gbdnn.weights import Int4, Integers


def call(*words):
    result = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(*words):
    result = CliRunner().invoke(cli, list(map(str, words)))
    assert isinstance(result.exception, GbdnnError), result.output
    return str(result.exception)


@pytest.fixture
def model(tmp_path, rng):
    net = Network([Linear(random_csr(rng, 24, 12, 0.5), 0.1), "relu",
                   Linear(random_dense(rng, 3, 24, 1.0)), "softmax"])  # fmt: skip
    net.metadata = {"classes": [0, 1, 2]}
    net.save(tmp_path / "m")
    X = rng.standard_normal((60, 12)).astype(np.float32)
    np.savez(tmp_path / "d.npz", X=X, y=net.predict(X).argmax(axis=1))
    return tmp_path


@pytest.mark.parametrize("plan", ["int8", "fasoli2022", "plan.json"])
def test_quantize(model, plan):
    record = {"rules": {"*.weight": {"quantizer": "sawb", "bits": 4}, "*.input": "max"}}
    (model / "plan.json").write_text(json.dumps(record))
    named = model / plan if "." in plan else plan
    words = ["quantize", model / "m", model / "q", "--plan", named, "--data", model / "d.npz"]
    found = json.loads(call(*words, "--json"))
    made, whole = load(model / "q"), load(model / "m")
    assert all(isinstance(w, Integers) for w in made.weights.values())
    assert found["bytes"] == [whole.nbytes, made.nbytes]
    assert found["accuracy"][0] == 1
    assert found["accuracy"][1] > 0.6
    assert 0 < found["change"] < 0.9
    X = np.load(model / "d.npz")["X"]
    again = quantize(whole, record if "." in plan else plan, X)
    np.testing.assert_array_equal(made.predict(X), again.predict(X))
    text = call(*words)
    for word in ("layers.0.weight", "layers.2.input", "accuracy, 1.0000 before", "bytes"):
        assert word in text
    table = json.loads(call("summary", model / "q", "--json"))["tensors"]
    bits = {row["tensor"]: row["bits"] for row in table}
    assert bits["layers.0.weight"] == (8 if plan == "int8" else 4)
    assert sum(row["bytes"] for row in table) == made.nbytes
    assert "levels of" in call("summary", model / "q")


def test_compressed_files(tmp_path, rng):
    """Smaller by more than a tenth, the same arrays; from a file of either kind to either kind."""
    whole = Network([Linear(random_csr(rng, 200, 300, 0.2)), "relu"])
    whole.save(tmp_path / "m")
    weights = tmp_path / "plan.json"
    weights.write_text('{"rules": {"*.weight": {"quantizer": "sawb", "bits": 4}}}')
    call("quantize", tmp_path / "m", tmp_path / "q", "--plan", weights)
    call("quantize", tmp_path / "m", tmp_path / "small", "--plan", weights, "--compress")
    call("compact", tmp_path / "small", tmp_path / "q2")
    call("compact", tmp_path / "q2", tmp_path / "small2", "--compress")
    sizes = {name: (tmp_path / name).stat().st_size for name in ("q", "q2", "small", "small2")}
    assert sizes["small"] < 0.9 * sizes["q"]
    assert sizes["small2"] < 0.9 * sizes["q2"]
    X = rng.standard_normal((5, 300)).astype(np.float32)
    wanted = load(tmp_path / "q").predict(X)
    np.testing.assert_array_equal(load(tmp_path / "small").predict(X), wanted)
    for name in ("q2", "small2"):
        np.testing.assert_allclose(load(tmp_path / name).predict(X), wanted, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_quantized(model):
    words = ["quantize", model / "m", model / "q", "--plan"]
    assert "--plan: expected one of 'fasoli2021'" in fails(*words, "int5")
    assert "--data: expected samples" in fails(*words, "int8")
    assert "no.json" in fails(*words, model / "no.json")
    (model / "p.json").write_text('{"rules": {"*.wait": "max"}}')
    assert "layers.0.weight" in fails(*words, model / "p.json")
    assert not (model / "q").exists()


@pytest.mark.parametrize("plan", ["fasoli2022", "int8"])
def test_train_with_a_plan(tmp_path, plan):
    words = ["train", "--out", tmp_path / "m", "--hidden", "32", "--density", "0.5",
             "--epochs", "12", "--plan", plan]  # fmt: skip
    record = json.loads(call(*words, "--json"))
    assert record["settings"]["plan"] == plan
    made = load(tmp_path / "m")
    assert all(isinstance(w, Integers) for w in made.weights.values())
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)  # as they are: the scaling is part of the network
    assert (made.predict(X).argmax(axis=1) == y).mean() > 0.75
    message = fails(*words, "--scale", "standard")
    assert "--scale: expected max or none with --plan" in message


@pytest.mark.parametrize("granularity", ["tensor", "row", 4])
def test_fold_keeps_codes(granularity, rng):
    net = Network([Linear(random_csr(rng, 8, 12, 0.5), 0.1), "relu",
                   Linear(Dense(random_dense(rng, 2, 8, 1.0)), 0.3)])  # fmt: skip
    X = rng.standard_normal((40, 12)).astype(np.float32)
    plan = {"*.weight": {"quantizer": "max", "granularity": granularity},
            "*.input": {"quantizer": "max", "sides": "two"}}  # fmt: skip
    made = quantize(net, plan, X)
    scale = Scaling(np.zeros(12), np.full(12, 1 / 16))
    undo = Scaling(np.array([2.0, -1.0]), np.array([0.5, 4.0]))
    folded = fold(made, scale, undo)
    wanted = made.predict(X) / undo.factor + undo.shift
    np.testing.assert_allclose(folded.predict(16 * X), wanted, rtol=1e-5, atol=1e-5)
    assert all(isinstance(w, Int4) for w in folded.weights.values())
    for name, weight in folded.weights.items():
        np.testing.assert_array_equal(weight.codes, made.weights[name].codes)
    for other in (Scaling(np.ones(12), np.ones(12)), Scaling(np.zeros(12), np.arange(1.0, 13))):
        with pytest.raises(GbdnnError, match="one factor"):
            fold(made, other)
