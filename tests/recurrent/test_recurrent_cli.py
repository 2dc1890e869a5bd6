"""The command line on sequences: train, predict, evaluate, prune, summary."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import gbdnn
from gbdnn.cli.main import cli
from gbdnn.errors import GbdnnError
from gbdnn.models import lstm, recurrent


def run(*words, code=0):
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def report(*words):
    output = run(*words, "--json")
    return json.JSONDecoder().raw_decode(output[output.index("{") :])[0]  # hints may follow


@pytest.fixture
def files(tmp_path, rng):
    """Sequences whose first value says the class; behind ends there is NaN."""
    lengths = rng.integers(1, 8, 300)
    X = rng.standard_normal((300, 7, 3)).astype(np.float32)
    kind = (X[:, 0, 0] > 0).astype(int)
    X[np.arange(7) >= lengths[:, None]] = np.nan
    words = np.array(["low", "high"])[kind]
    np.savez(tmp_path / "each.npz", X=X, lengths=lengths, y=np.repeat(words[:, None], 7, axis=1))
    np.savez(tmp_path / "one.npz", X=X, lengths=lengths, y=words)
    np.savez(tmp_path / "values.npz", X=X, lengths=lengths, y=X[:, 0, :2] / 3)
    return tmp_path


FAST = ["--epochs", 40, "--batch-size", 20, "--learning-rate", 0.02, "--density", 0.7]


@pytest.mark.parametrize(("data", "layers", "rows"), [
    ("one", "lstm 16", 300), ("one", "blstm 8, mean", 300),
    ("each", "gru 16, linear 8, tanh", None),
    ("each", "lstm 16 8", None),
])  # fmt: skip
def test_train_predict_evaluate_prune(data, layers, rows, files):
    source, model = files / f"{data}.npz", files / "model"
    lengths = np.load(source)["lengths"]
    rows = rows or int(lengths.sum())
    done = report("train", source, "--layers", layers, "--out", model, *FAST)
    assert done["validation_score"] > 0.9
    assert done["settings"]["layers"] == layers
    found = report("predict", model, source)
    assert found["samples"] == rows
    assert found["accuracy"] > 0.9
    assert set(found["predictions"]) == {"low", "high"}
    judged = report("evaluate", model, source)
    assert judged["accuracy"] == found["accuracy"]
    assert sum(row["samples"] for row in judged["classes"]) == rows
    run("predict", model, source, "--proba", "--out", files / "p.npy")
    np.testing.assert_allclose(np.load(files / "p.npy").sum(axis=1), 1, atol=1e-5)
    assert str(gbdnn.load(model).edges) in run("summary", model).replace(",", "")
    pruned = report("prune", model, files / "pruned", "--sparsity", 0.6, "--data", source,
                    "--score", "gradient", "--rounds", 0)  # fmt: skip
    assert pruned["accuracy"][0] == found["accuracy"]
    again = report("train", source, "--init", model, "--out", files / "more", "--epochs", 1)
    assert again["validation_score"] > 0.8


@pytest.mark.parametrize(("data", "layers"), [
    ("one", "lstm 16"), ("each", "gru 16"), ("values", "lstm 12, last"),
])  # fmt: skip
def test_finetune_of_sequences(data, layers, files):
    source, model, key = files / f"{data}.npz", files / "model", "accuracy"
    report("train", source, "--layers", layers, "--out", model, *FAST)
    done = report("prune", model, files / "tuned", "--sparsity", 0.8, "--data", source, "--rounds",
                  0, "--finetune", 15, "--learning-rate", 0.02)  # fmt: skip
    if data == "values":
        key = "mean_squared_error"
        assert done[key][1] < done["finetune"][key]
    else:
        assert done[key][1] > max(done["finetune"][key], 0.8)
    assert len(done["finetune"]["history"]) == 15
    assert report("evaluate", files / "tuned", source)[key] == pytest.approx(done[key][1])
    before, after = (gbdnn.load(files / name) for name in ("model", "tuned"))
    assert after.metadata == before.metadata
    assert after.edges < 0.5 * before.edges


def test_finetune_of_symbols(tmp_path, rng):
    X = rng.integers(0, 20, (100, 5))
    np.savez(tmp_path / "d.npz", X=X, y=X[:, 0] % 2)
    report("train", tmp_path / "d.npz", "--layers", "embedding 8 20, lstm 8", "--out",
           tmp_path / "m", "--epochs", 2)  # fmt: skip
    words = ("--data", tmp_path / "d.npz", "--rounds", 0, "--finetune", 2)
    done = report("prune", tmp_path / "m", tmp_path / "t", "--sparsity", 0.8, *words)
    assert len(done["finetune"]["history"]) == 2
    np.savez(tmp_path / "e.npz", X=X)
    done = CliRunner().invoke(cli, ["prune", str(tmp_path / "m"), str(tmp_path / "t"), "--sparsity",
                                    "0.8", *map(str, words[2:]), "--data",
                                    str(tmp_path / "e.npz")])  # fmt: skip
    assert isinstance(done.exception, GbdnnError)
    assert "labels" in str(done.exception)


@pytest.mark.parametrize("data", ["one", "each"])
def test_quantized_without_the_padding(data, files):
    """Behind ends there is NaN; the accuracy is what `gbdnn evaluate` says."""
    source = files / f"{data}.npz"
    report("train", source, "--layers", "lstm 8", "--out", files / "m", "--epochs", 2)
    words = ("quantize", files / "m", files / "q", "--plan", "int8", "--data", source)
    done = report(*words)
    for k, name in enumerate("mq"):
        found = report("evaluate", files / name, source)
        assert done["accuracy"][k] == pytest.approx(found["accuracy"])
    X, lengths = (np.load(source)[name] for name in ("X", "lengths"))
    parts = [x[:length] for x, length in zip(X, lengths, strict=True)]
    before, after = (gbdnn.load(files / name) for name in "mq")
    wanted = gbdnn.quantize(before, "int8", parts)
    for one, other in zip(after.weights.values(), wanted.weights.values(), strict=True):
        assert one.levels == other.levels


def test_values_of_sequences(files):
    model = files / "model"
    report("train", files / "values.npz", "--layers", "lstm 12, last", "--out", model, *FAST)
    assert report("evaluate", model, files / "values.npz")["mean_squared_error"] < 0.1


def test_time_reduction(files):
    """A label for each two time steps, or one for each sequence."""
    source, model = files / "each.npz", files / "model"
    arrays = dict(np.load(source))
    halves = arrays["y"][:, :4]
    np.savez(files / "half.npz", **(arrays | {"y": halves}))
    layers = ["--layers", "lstm 12, reduce 2, lstm 12"]
    done = report("train", files / "half.npz", *layers, "--out", model, *FAST)
    assert done["validation_score"] > 0.9
    found = report("predict", model, files / "half.npz")
    assert found["samples"] == int(-(-arrays["lengths"] // 2).sum())
    assert found["accuracy"] > 0.9
    report("train", files / "one.npz", *layers, "--out", model, *FAST)
    assert report("evaluate", model, files / "one.npz")["accuracy"] > 0.9
    refused = CliRunner().invoke(cli, ["train", str(source), *layers, "--out", str(files / "no")])
    assert "(300, 4), a label for each 2 time steps" in str(refused.exception)


def test_digits_row_by_row_and_truncated(files):
    done = report("train", "--layers", "lstm 24", "--out", files / "m", "--epochs", 12,
                  "--learning-rate", 0.03)  # fmt: skip
    assert done["validation_score"] > 0.8
    each = files / "each.npz"
    report(
        "train", each, "--layers", "lstm 8", "--out", files / "m", "--epochs", 1, "--truncate", 3
    )
    assert gbdnn.load(files / "m").in_features == 3


def test_symbols(tmp_path, rng):
    X = rng.integers(0, 20, (200, 5))
    np.savez(tmp_path / "d.npz", X=X, y=X[:, 0] % 2)
    layers = "embedding 8 20, lstm 8, mean"
    report("train", tmp_path / "d.npz", "--layers", layers, "--out", tmp_path / "m", *FAST)
    assert report("predict", tmp_path / "m", tmp_path / "d.npz")["samples"] == 200


@pytest.mark.parametrize(("words", "message"), [
    (["--layers", "lstm 8", "--hidden", "8"], "cannot be used with --layers"),
    (["--truncate", "3"], "needs --layers"),
    (["--layers", "lstm"], "such as 'lstm 128'"),
    (["--layers", "lstm 8, reduce"], "such as 'lstm 128'"),
    (["--layers", "lstm 8, reduce 1"], "factor"),
    (["--layers", "lstm x"], "whole numbers"),
    (["--layers", "lstx 8"], "lstm"),
    (["--layers", "lstm 8, last, lstm 8"], "nothing over time"),
    (["--layers", "lstm 8", "--loss", "mse", "--task", "classify"], "cross_entropy"),
])  # fmt: skip
def test_wrong_options(words, message, files):
    done = CliRunner().invoke(cli, ["train", str(files / "one.npz"), "--out", str(files / "m"),
                                    "--epochs", "1", *words])  # fmt: skip
    assert done.exit_code != 0
    assert message in done.output + str(done.exception)
    assert not (files / "m").exists()


@pytest.mark.parametrize(("arrays", "message"), [
    ({"lengths": np.zeros(4, int)}, "from 1 to 5"), ({"lengths": np.full(4, 6)}, "from 1 to 5"),
    ({"lengths": np.ones(3, int)}, "lengths"), ({"y": np.zeros(3)}, "as many as sequences"),
    ({"X": np.full((4, 5, 2), np.nan)}, "finite"), ({"X": np.ones((4, 5, 2, 2))}, "sequences"),
    ({"X": np.ones(4)}, "sequences"), ({"lengths": np.array(["a"] * 4)}, "numbers"),
])  # fmt: skip
def test_wrong_files(arrays, message, tmp_path):
    given = {"X": np.ones((4, 5, 2)), "y": np.arange(4) % 2, "lengths": np.full(4, 5)} | arrays
    np.savez(tmp_path / "d.npz", **given)
    done = CliRunner().invoke(cli, ["train", str(tmp_path / "d.npz"), "--layers", "lstm 4", "--out",
                                    str(tmp_path / "m"), "--epochs", "1",
                                    "--validation", "0.25"])  # fmt: skip
    assert done.exit_code != 0
    assert message in done.output + str(done.exception)
    assert not (tmp_path / "m").exists()


def test_builders():
    net = lstm((28, 64, 32, 10), density=0.25, rows="last", head="softmax", rng=1)
    kinds = [layer.kind for layer in net.layers]
    assert kinds == ["lstm", "lstm", "last", "linear", "softmax"]
    assert abs(net.edges - (0.25 * 4 * (64 * 92 + 32 * 96) + 320)) < 50
    same = lstm((28, 64, 32, 10), density=0.25, rows="last", head="softmax", rng=1)
    for name, weight in net.weights.items():
        np.testing.assert_array_equal(weight.entries, same.weights[name].entries)
    assert recurrent("lstm 8 4, gru 5", 3, 2, dropout=0.1).dtype == np.float32
    for wrong in ("", "lstm 8 4 2", "gru 8 4", "lstm 0", "last 3", "lstm 4, embedding 3 9"):
        with pytest.raises(GbdnnError, match="layers"):
            recurrent(wrong, 3, 2)
    with pytest.raises(GbdnnError, match="sizes"):
        lstm((3, 2))
