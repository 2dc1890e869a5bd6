"""`gbdnn train`, `prune`, `predict` and `summary` as a user meets them."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.sparse as sp
from builders import random_csr, random_network
from click.testing import CliRunner
from sklearn.datasets import dump_svmlight_file, load_iris

from gbdnn import Linear, Network
from gbdnn.cli.main import cli
from gbdnn.errors import GbdnnError
from gbdnn.network import load

SMALL = ("--hidden", "32", "--epochs", "2", "--density", "0.3")


def process(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "gbdnn.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def call(*words: object) -> str:
    """Run the command here and return its standard output; it must not fail."""
    result = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def called(*words: object) -> dict:
    """Run the command with --json."""
    return json.loads(call(*words, "--json"))


def usage(*words: object) -> str:
    """Run the command, which must be wrong usage, and return what it says."""
    result = CliRunner().invoke(cli, list(map(str, words)))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr


def fails(*words: object) -> GbdnnError:
    """Run the command, which must raise an error of gbdnn (exit 1), and return it."""
    result = CliRunner().invoke(cli, list(map(str, words)))
    assert isinstance(result.exception, GbdnnError), result.output
    assert result.stdout == ""
    return result.exception


def same_weights(left: Network, right: Network) -> None:
    """Assert that two networks have the same parameters, bit by bit."""
    assert left.parameters.keys() == right.parameters.keys()
    for name, one in left.weights.items():
        other = right.weights[name]
        assert one.form == other.form
        np.testing.assert_array_equal(one.pattern().indices, other.pattern().indices)
        np.testing.assert_array_equal(one.entries, other.entries)
    for name in left.parameters.keys() - left.weights.keys():
        np.testing.assert_array_equal(left.parameters[name], right.parameters[name])


@pytest.fixture
def model(tmp_path):
    """A classifier of three flowers that takes four numbers; and the network itself."""
    rng = np.random.default_rng(3)
    network = random_network(rng, (4, 30, 3), density=0.5)
    network = Network([*network.layers[:-1], "softmax"], metadata={"classes": ["a", "b", "c"]})
    path = tmp_path / "m.safetensors"
    network.save(path)
    return path, network


@pytest.fixture(scope="module")
def iris(tmp_path_factory):
    """Iris as a table with names: 120 shuffled samples for training, 30 to test."""
    data = load_iris()
    order = np.random.default_rng(0).permutation(150)
    folder = tmp_path_factory.mktemp("iris")
    for name, part in (("train", order[:120]), ("test", order[120:])):
        lines = ["sepal length,sepal width,petal length,petal width,species"]
        lines += [
            ",".join(map(str, data.data[k])) + f",{data.target_names[data.target[k]]}" for k in part
        ]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


# -- train, and what its model does ----------------------------------------------------------------


def test_train_predict_prune_with_names(iris, tmp_path):
    """The whole way, with text as labels: the names come back, the columns are found again."""
    model, pruned, out = (tmp_path / name for name in ("m", "p", "out.csv"))
    record = called(
        "train", iris / "train.csv", "--label", "species", "--out", model, "--hidden", "64",
        "--epochs", 60, "--scale", "standard", "--learning-rate", 0.01, "--density", 0.5,
        "--batch-size", 32,
    )  # fmt: skip
    assert record["samples"] == 108
    assert record["validation_samples"] == 12
    assert len(record["history"]) == 60
    assert record["history"][-1]["loss"] < record["history"][0]["loss"] / 3
    assert record["file_bytes"] == model.stat().st_size
    network = load(model)
    assert network.metadata["classes"] == ["setosa", "versicolor", "virginica"]
    assert network.metadata["label"] == "species"
    assert network.edges == record["edges"]
    first, last = (weight.nnz for weight in network.weights.values())
    assert first == 4 * 64  # neurons of few inputs have them all
    assert last < 0.6 * 64 * 3
    scored = called("predict", model, iris / "test.csv", "--out", out)
    assert scored["accuracy"] > 0.9
    rows = list(csv.reader(io.StringIO(out.read_text())))
    assert rows[0] == ["prediction"]
    truth = [line.split(",")[-1] for line in (iris / "test.csv").read_text().splitlines()[1:]]
    right = [row[0] == name for row, name in zip(rows[1:], truth, strict=True)]
    assert np.mean(right) == scored["accuracy"]
    report = called("prune", model, pruned, "--sparsity", 0.7, "--data", iris / "test.csv")
    assert report["nnz"] == [network.edges, load(pruned).edges]
    assert load(pruned).edges == round(0.3 * 448)
    assert report["accuracy"][0] == scored["accuracy"]
    assert report["file_bytes"][1] == pruned.stat().st_size < model.stat().st_size
    assert report["seconds"][0] > 0
    assert load(pruned).metadata == network.metadata


def test_train_learns_the_digits(tmp_path):
    """Without INPUT; the network takes pixels as they are, from Python too."""
    model = tmp_path / "digits.safetensors"
    record = called("train", "--out", model, "--hidden", "256", "--epochs", 20)
    assert record["validation_score"] > 0.9
    assert record["density"] == pytest.approx(0.1, abs=0.002)
    from sklearn.datasets import load_digits

    data = load_digits()
    found = load(model).predict(data.data).argmax(axis=1)
    assert (found == data.target).mean() > 0.92
    assert load(model).metadata["classes"] == list(range(10))


def test_train_from_sparse_samples(tmp_path):
    """Svmlight samples stay sparse; numbering of the features goes into the model."""
    rng = np.random.default_rng(0)
    X = sp.random_array((300, 5000), density=0.01, rng=rng, format="csr")
    y = np.where(X[:, [0]].toarray().ravel() + np.asarray(X[:, :2500].sum(axis=1)) > 12.5, 1, -1)
    path, model = tmp_path / "a.svm", tmp_path / "m"
    dump_svmlight_file(X, y, str(path), zero_based=False)
    record = called("train", path, "--out", model, *SMALL, "--validation", 0, "--one-based")
    assert record["features"] in (4999, 5000)
    network = load(model)
    assert network.metadata["classes"] == [-1, 1]
    assert network.metadata["first_feature"] == 1
    assert called("predict", model, path)["accuracy"] > 0.5


def test_train_regression(tmp_path):
    """Fractions as labels: values come back in their own units."""
    rng = np.random.default_rng(0)
    X = rng.random((400, 3)) * 50
    y = 1000 + 3 * X[:, 0] - 7 * X[:, 1] + 0.25
    path, model = tmp_path / "a.npz", tmp_path / "m"
    np.savez(path, X=X, y=y)
    record = called(
        "train", path, "--out", model, "--hidden", "64", "--epochs", 80, "--density", 1, "--scale",
        "standard", "--learning-rate", 0.01, "--batch-size", 50,
    )  # fmt: skip
    assert record["task"] == "regress"
    assert record["validation_score"] > 0.98
    scored = called("predict", model, path)
    assert scored["form"] == "values"
    assert scored["mean_squared_error"] < 0.02 * y.var()
    assert np.ravel(scored["predictions"]) == pytest.approx(y, abs=60)


@pytest.mark.parametrize("hidden", ["64", "16,16"])
def test_a_small_table_is_learnt_with_nothing_set(iris, tmp_path, hidden):
    """Features of different sizes, few samples, few inputs; the model takes them as they are."""
    out = tmp_path / "m"
    record = called("train", iris / "train.csv", "--label", "species", "--out", out, "--hidden",
                    hidden)  # fmt: skip
    assert called("predict", out, iris / "test.csv")["accuracy"] > 0.9
    assert record["settings"]["scale"] == "standard"
    assert (record["settings"]["epochs"], len(record["history"])) == (200, 200)
    if hidden == "64":
        assert record["edges"] >= 4 * 64 + 64 + 3


def test_a_hint_where_nothing_was_learnt(iris, tmp_path):
    """Labels that have nothing to do with the samples, and a training that is too short."""
    words = ("train", "--out", tmp_path / "m", "--hidden", "8")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", X=rng.random((400, 3)), y=np.r_[np.zeros(390), np.ones(10)])
    done = CliRunner().invoke(cli, list(map(str, (*words, "--epochs", 1, tmp_path / "a.npz"))))
    assert done.exit_code == 0
    assert "hint: one and the same answer" in done.stderr
    learnt = CliRunner().invoke(cli, list(map(str, (*words, iris / "train.csv"))))
    assert learnt.exit_code == 0
    assert "hint" not in learnt.stderr


def test_training_is_repeatable(iris, tmp_path):
    files = []
    for k, seed in enumerate((1, 1, 2)):
        path = tmp_path / str(k)
        call("train", iris / "train.csv", "--out", path, *SMALL, "--seed", seed, "--threads", 1)
        files.append(load(path).weights["layers.0.weight"].entries.tobytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_resume_is_as_if_never_stopped(tmp_path, number, status):
    """Stopped after the first checkpoint: no model; --resume ends with the same model."""
    folder, out = tmp_path / "states", tmp_path / "m"
    words = ["train", "--out", str(out), "--hidden", "256,256", "--epochs", "40", "--threads", "1",
             "--growth", "set"]  # fmt: skip
    command = [sys.executable, "-m", "gbdnn.cli.main", *words, "--checkpoint", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        while not list(folder.glob("step-*.safetensors")):
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.02)
        running.send_signal(number)
        _, messages = running.communicate(timeout=60)
    assert running.returncode == status, messages
    assert "--resume" in messages
    assert "Traceback" not in messages
    assert not out.exists()
    assert "--resume" in str(fails(*words, "--checkpoint", folder))
    resumed = called(*words, "--checkpoint", folder, "--resume")
    assert len(resumed["history"]) == 40
    found = load(out)
    straight = called(*words)
    same_weights(found, load(out))
    assert resumed["history"][-1]["loss"] == straight["history"][-1]["loss"]


STOPPING = """
import os, sys
from gbdnn.cli.main import main
from gbdnn.training.hooks import Bar

number, step = int(sys.argv.pop(1)), int(sys.argv.pop(1))

def after_step(self, training, loss):
    if training.step == step:
        os.kill(os.getpid(), number)

Bar.after_step = after_step
if step == 0:
    Bar.started = lambda self, training: os.kill(os.getpid(), number)
main()
"""


@pytest.mark.parametrize(
    ("number", "status", "step", "validation"),
    [(signal.SIGINT, 130, 45, 0.2), (signal.SIGTERM, 143, 45, 0), (signal.SIGTERM, 143, 3, 0.2),
     (signal.SIGINT, 130, 0, 0.2)],
)  # fmt: skip
def test_what_was_reached_is_written(iris, tmp_path, number, status, step, validation):
    """Stopped in a step: the model so far, exit code and a word; before the first step nothing."""
    out = tmp_path / "m"
    words = ["train", iris / "train.csv", "--label", "species", "--out", out, "--hidden", 16,
             "--epochs", 99, "--batch-size", 10, "--validation", validation, "--json"]  # fmt: skip
    command = [sys.executable, "-c", STOPPING, str(int(number)), str(step), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    if not step:
        assert os.listdir(tmp_path) == []
        return
    assert f"the model so far is in {out}" in done.stderr
    record = json.loads(done.stdout)
    assert record["stopped"] == "interrupted"
    assert len(record["history"]) == step // (10 if validation else 12)
    assert ("loss" in record) == (step > 12)
    assert load(out).metadata["classes"] == ["setosa", "versicolor", "virginica"]
    assert 0 <= called("predict", out, iris / "test.csv")["accuracy"] <= 1


WILD = ("--hidden", 64, "--epochs", 12, "--density", 1, "--optimizer", "sgd", "--learning-rate",
        2.5, "--batch-size", 16, "--scale", "standard", "--seed", 3)  # fmt: skip


def test_the_best_epoch_is_kept(iris, tmp_path):
    """Where there is validation: a learning rate at which epochs get worse again."""
    out = tmp_path / "m"
    words = ("train", iris / "train.csv", "--label", "species", "--out", out, *WILD)
    record = called(*words, "--validation", 0.3)
    scores = [row["validation_score"] for row in record["history"]]
    assert scores[-1] < max(scores) == record["validation_score"] == scores[record["epoch"]]
    assert "is kept" in call(*words, "--validation-fraction", 0.3)
    last = called(*words, "--validation", 0)
    assert last["epoch"] == 11
    assert last["loss"] == last["history"][-1]["loss"]


def test_early_stopping(iris, tmp_path):
    words = ("train", iris / "train.csv", "--label", "species", "--out", tmp_path / "m",
             "--hidden", 16, "--epochs", 200, "--batch-size", 16, "--early-stopping")  # fmt: skip
    short = called(*words, "--patience", 2)
    long = called(*words, "--n-iter-no-change", 10)
    assert short["stopped"] == "early stopping"
    assert len(short["history"]) < len(long["history"]) < 200
    loss = called(*words, "--validation", 0, "--tol", 0.5)  # then it is the loss that counts
    assert loss["stopped"] == "early stopping"
    for option in ("--patience", "--n-iter-no-change", "--tol"):
        assert "--early-stopping" in usage("train", "--out", "m", option, 3)


@pytest.mark.parametrize(
    "options",
    [
        ["--topology", "uniform"],
        ["--growth", "set"],
        ["--activation", "tanh", "--dropout", "0.2"],
        ["--activation", "gelu", "--optimizer", "adamw", "--schedule", "cosine"],
        ["--optimizer", "nesterov", "--schedule", "warm-up"],
        ["--hidden", "none"],
        ["--density", "1"],
        ["--scale", "none", "--validation", "0"],
        ["--plan", "naive_int4"],
        ["--loss", "cross_entropy"],
        ["--backend", "dense"],
        ["--backend", "graphblas"],
    ],
)
def test_train_options(iris, tmp_path, options):
    out = tmp_path / "m"
    words = [*SMALL, "--label", "species", "--out", out, *options]
    record = called("train", iris / "train.csv", *words)
    assert np.isfinite(record["loss"])
    assert ("validation_score" in record) == ("--validation" not in options)
    assert load(out).predict(np.ones((2, 4))).sum(axis=1) == pytest.approx(1)


def test_train_is_the_estimator(tmp_path):
    """One way to train: the command's network is the estimator's, but for the scaling."""
    from sklearn.datasets import load_digits

    from gbdnn.estimators import SparseMLPClassifier

    out = tmp_path / "m"
    call("train", "--out", out, *SMALL, "--scale", "none", "--validation", 0, "--seed", 7)
    X, y = load_digits(return_X_y=True)
    model = SparseMLPClassifier(
        (32,), density=0.3, alpha=0.0, batch_size=128, max_iter=2, random_state=7,
        n_iter_no_change=np.inf,
    )  # fmt: skip
    model.fit(X.astype(np.float32), y)
    same_weights(load(out), model.network_)


@pytest.mark.parametrize(
    ("loss", "outputs", "head"),
    [("binary_cross_entropy", 1, "sigmoid"), ("hinge", 1, "linear"),
     ("cross_entropy", 2, "softmax")],
)  # fmt: skip
def test_losses_of_two_classes(tmp_path, loss, outputs, head):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 4)).astype(np.float32)
    path, out = tmp_path / "a.npz", tmp_path / "m"
    np.savez(path, X=X, y=np.where(X[:, 0] > 0, "up", "down"))
    words = ("--hidden", "32", "--epochs", 40, "--density", 1, "--learning-rate", 0.01)
    record = called("train", path, "--out", out, *words, "--loss", loss)
    assert record["settings"]["loss"] == loss
    assert record["outputs"] == outputs
    assert load(out).layers[-1].kind == head
    assert called("predict", out, path)["accuracy"] > 0.9


def test_losses_of_values(tmp_path):
    """Whole numbers as labels are values for a loss of values."""
    X = np.random.default_rng(0).random((200, 3)).astype(np.float32)
    path, out = tmp_path / "a.npz", tmp_path / "m"
    np.savez(path, X=X, y=np.arange(200) % 7)
    for loss in ("huber", "mse"):
        assert called("train", path, "--out", out, *SMALL, "--loss", loss)["task"] == "regress"
    assert "classes" in str(fails("train", "--out", out, *SMALL, "--loss", "binary_cross_entropy"))
    np.savez(path, X=X, y=np.round(X))
    record = called("train", path, "--out", out, *SMALL, "--loss", "binary_cross_entropy")
    assert load(out).layers[-1].kind == "sigmoid"
    assert record["outputs"] == 3


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["train", "--out", "m", "no-such-file.csv"],
        ["train", "--out", "m", "--hidden", "10,x"],
        ["train", "--out", "m", "--hidden", "10,0"],
        ["train", "--out", "m", "--hidden", "-5"],
        ["train", "--out", "m", "--density", "0"],
        ["train", "--out", "m", "--density", "1.5"],
        ["train", "--out", "m", "--density", "nan"],
        ["train", "--out", "m", "--learning-rate", "0"],
        ["train", "--out", "m", "--learning-rate", "-1"],
        ["train", "--out", "m", "--learning-rate", "nan"],
        ["train", "--out", "m", "--learning-rate", "inf"],
        ["train", "--out", "m", "--epochs", "0"],
        ["train", "--out", "m", "--batch-size", "0"],
        ["train", "--out", "m", "--validation", "1"],
        ["train", "--out", "m", "--validation", "nan"],
        ["train", "--out", "m", "--dropout", "1"],
        ["train", "--out", "m", "--seed", "-1"],
        ["train", "--out", "m", "--growth", "magic"],
        ["train", "--out", "m", "--activation", "softmax"],
        ["train", "--out", "m", "--optimizer", "lbfgs"],
        ["train", "--out", "m", "--backend", "torch"],
        ["train", "--out", "m", "--threads", "0"],
        ["train", "--out", "m", "--resume"],
        ["predict"],
        ["predict", "no-model", "no-data"],
        ["prune", "no-model", "out"],
        ["summary", "no-model"],
    ],
)
def test_wrong_usage_exits_2(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Error" in usage(*words)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "content", "options", "match"),
    [
        ("a.csv", "a,b\n1,2\n3,4\n", [], "--label"),
        ("a.csv", "a,b\n1,2\n3,4\n", ["--label", "c"], "one of a, b"),
        ("a.csv", "a,label\n1,2\n3,2\n", [], "two classes"),
        ("a.csv", "a,label\n1,2\n3,nan\n5,1\n7,1\n", [], "finite"),
        ("a.csv", "a,label\nnan,2\n3,1\n4,1\n", ["--validation", "0"], "finite"),
        (
            "a.csv",
            "a,label\n1,2\n3,1\n",
            ["--batch-size", "64", "--validation", "0"],
            "--batch-size",
        ),
        ("a.csv", "a,label\n1,2\n3,1\n", ["--validation", "0.9"], "validation"),
        ("a.csv", "a,label\n1,x\n3,y\n", ["--task", "regress"], "classify"),
        ("a.svm", "1 1:2\n0 1:3\n", ["--label", "0"], "svmlight"),
        ("a.npz", "no zip", [], "npz"),
    ],
)
def test_train_with_bad_samples(tmp_path, name, content, options, match):
    path, out = tmp_path / name, tmp_path / "out" / "m"
    path.write_text(content)
    out.parent.mkdir()
    error = fails("train", path, "--out", out, *SMALL, *options)
    assert match in str(error)
    assert os.listdir(out.parent) == []


def test_train_that_diverges(iris, tmp_path):
    out = tmp_path / "m"
    out.write_bytes(b"old")
    words = [
        "train",
        iris / "train.csv",
        "--out",
        out,
        "--learning-rate",
        1e30,
        "--optimizer",
        "sgd",
    ]
    error = fails(*words, "--epochs", 30, "--hidden", "32")
    assert "--learning-rate" in error.fix
    assert out.read_bytes() == b"old"


@pytest.mark.parametrize("out", ["missing/m", "."])
def test_out_is_checked_before_the_work(tmp_path, monkeypatch, out, model):
    monkeypatch.chdir(tmp_path)
    for words in (["train", "--out", out], ["prune", model[0], out, "--sparsity", 0.5]):
        assert "can be written" in str(fails(*words))


# -- predict ---------------------------------------------------------------------------------------


@pytest.fixture
def samples(tmp_path):
    """Five samples in every format."""
    X = np.random.default_rng(9).random((5, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", X=X)
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in X.tolist()))
    dump_svmlight_file(X, np.zeros(5), str(tmp_path / "x.svm"), zero_based=False)
    return X


@pytest.mark.parametrize("suffix", ["npz", "npy", "csv", "svm"])
def test_predict_from_every_format(model, samples, tmp_path, suffix):
    path, network = model
    wanted = network.predict(samples)
    record = called("predict", path, tmp_path / f"x.{suffix}", "--proba")
    np.testing.assert_allclose(record["predictions"], wanted, rtol=1e-5)
    record = called("predict", path, tmp_path / f"x.{suffix}")
    assert record["form"] == "classes"
    assert record["predictions"] == [["a", "b", "c"][k] for k in wanted.argmax(axis=1)]


@pytest.mark.parametrize("form", ["--proba", "--classes"])
def test_predict_to_every_format(model, samples, tmp_path, form):
    path, network = model
    wanted = network.predict(samples)
    names = np.array(["a", "b", "c"])[wanted.argmax(axis=1)]
    printed = call("predict", path, tmp_path / "x.npy", form)
    for suffix in ("csv", "npy", "json"):
        out = tmp_path / f"out.{suffix}"
        assert call("predict", path, tmp_path / "x.npy", form, "--out", out) == ""
        if suffix == "npy":
            found = np.load(out)
        elif suffix == "json":
            found = np.array(json.loads(out.read_text())["predictions"])
        else:
            assert out.read_text() == printed
            rows = list(csv.reader(io.StringIO(out.read_text())))
            assert rows[0] == (["a", "b", "c"] if form == "--proba" else ["prediction"])
            found = np.array(rows[1:])
        if form == "--proba":
            np.testing.assert_array_equal(found.astype(np.float32), wanted)
        else:
            assert found.ravel().tolist() == names.tolist()


def test_predict_of_any_network(tmp_path, samples):
    """Without classes in the file: values, or the number of the likeliest."""
    network = random_network(np.random.default_rng(0), (4, 8, 3), activation="tanh")
    network.save(tmp_path / "m")
    wanted = network.predict(samples)
    words = ("predict", tmp_path / "m", tmp_path / "x.npy")
    np.testing.assert_array_equal(np.array(called(*words)["predictions"], np.float32), wanted)
    assert called(*words, "--classes")["predictions"] == wanted.argmax(axis=1).tolist()
    assert "softmax or sigmoid" in str(fails(*words, "--proba"))
    options = ("--backend", "dense", "--batch-size", 2, "--threads", 1)
    np.testing.assert_allclose(called(*words, *options)["predictions"], wanted, rtol=1e-5)


@pytest.mark.parametrize("last", ["sigmoid", "identity"])
def test_predict_with_one_output(tmp_path, samples, last):
    network = Network([Linear(random_csr(np.random.default_rng(1), 1, 4, 1.0)), last],
                      metadata={"classes": ["no", "yes"]})  # fmt: skip
    network.save(tmp_path / "m")
    values = network.predict(samples - 0.5)[:, 0]
    np.save(tmp_path / "x.npy", samples - 0.5)
    words = ("predict", tmp_path / "m", tmp_path / "x.npy")
    limit = 0.5 if last == "sigmoid" else 0
    assert called(*words)["predictions"] == ["yes" if v > limit else "no" for v in values]
    if last == "sigmoid":
        found = np.array(called(*words, "--proba")["predictions"])
        np.testing.assert_allclose(found, np.column_stack([1 - values, values]), rtol=1e-6)


def test_predict_with_labels_unknown_to_the_model(model, samples, tmp_path):
    np.savez(tmp_path / "y.npz", X=samples, y=np.array(["a", "zebra", "a", "b", "?"]))
    record = called("predict", model[0], tmp_path / "y.npz")
    right = [p == t for p, t in zip(record["predictions"], "azabz", strict=True) if t != "z"]
    assert record["accuracy"] == sum(right) / 5


@pytest.mark.parametrize(
    ("classes", "good"),
    [(["a", "b"], False), (["a", "a", "b"], False), ("abc", False), ([[], [], []], False),
     ([1, 2.5, "x"], True)],
)  # fmt: skip
def test_classes_in_a_file_are_checked(model, samples, tmp_path, classes, good):
    model[1].save(model[0], extra={"classes": classes})
    words = ("predict", model[0], tmp_path / "x.npy")
    if good:
        call(*words)
    else:
        assert "classes" in str(fails(*words))


def test_predict_with_other_samples(model, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 7)))
    assert "4 features" in str(fails("predict", model[0], tmp_path / "x.npy"))
    np.save(tmp_path / "x.npy", np.full((2, 4), np.nan))
    out = tmp_path / "out.csv"
    fails("predict", model[0], tmp_path / "x.npy", "--out", out)
    assert not out.exists()
    assert "ends in none" in usage("predict", model[0], tmp_path / "x.npy", "--out", "x.pkl")


# -- summary and prune -----------------------------------------------------------------------------


def test_summary(model):
    path, network = model
    record = called("summary", path)
    assert record["total"]["nnz"] == network.edges
    assert [row["kind"] for row in record["layers"]] == ["Linear", "ReLU", "Linear", "Softmax"]
    assert record["file_bytes"] == path.stat().st_size
    assert record["metadata"] == {"classes": ["a", "b", "c"]}
    text = call("summary", path)
    assert f"{network.edges:,}" in text
    assert "30 x 4" in text
    assert "fused" in call("summary", path, "--backend", "fused")


def test_summary_does_not_steer_the_terminal(model):
    model[1].save(model[0], extra={"note": "\x1b[2Jgone", "\x1b]0;x": 1})
    assert "\x1b" not in call("summary", model[0])


@pytest.mark.parametrize(
    "options",
    [
        ["--sparsity", "0.8"],
        ["--sparsity", "0.8", "--score", "random", "--seed", "3"],
        ["--sparsity", "0.8", "--distribution", "erk"],
        ["--sparsity", "0.8", "--distribution", "uniform", "--rounds", "0"],
        ["--sparsity", "0.5", "--structure", "neuron", "--exclude", "-1"],
        ["--structure", "2:4", "--exclude", "-1"],
    ],
)
def test_prune_options(model, tmp_path, options):
    out = tmp_path / "p"
    report = called("prune", model[0], out, *options)
    assert report["nnz"][1] <= report["nnz"][0]
    assert report["nnz"][1] == load(out).edges
    assert (report["seconds"] is None) == ("--rounds" in options)
    if options == ["--sparsity", "0.8"]:
        assert report["nnz"][1] == round(0.2 * 210)
        text = call("prune", model[0], out, *options)
        assert "before" in text
        assert "file" in text


def test_prune_by_gradient(iris, tmp_path):
    model, out = tmp_path / "m", tmp_path / "p"
    call("train", iris / "train.csv", "--label", "species", "--out", model, *SMALL)
    words = ("prune", model, out, "--sparsity", 0.9, "--score", "gradient")
    report = called(*words, "--data", iris / "train.csv")
    assert report["nnz"][1] == load(out).edges == round(0.1 * 7 * 32)
    assert "gradients" in str(fails(*words))


@pytest.mark.parametrize("sparsity", ["0.1", "1", "1.5", "-1", "nan"])
def test_prune_with_bad_sparsity(model, tmp_path, sparsity):
    error = fails("prune", model[0], tmp_path / "p", "--sparsity", sparsity)
    assert "sparsity" in str(error)
    assert not (tmp_path / "p").exists()
    fails("prune", model[0], tmp_path / "p")


def test_prune_in_place(model):
    call("prune", model[0], model[0], "--sparsity", 0.9, "--rounds", 0)
    assert load(model[0]).edges == 21


# -- processes -------------------------------------------------------------------------------------


def test_processes(model, samples, tmp_path):
    """Exit codes, and nothing but the result on standard output."""
    path = model[0]
    done = process("predict", path, tmp_path / "x.csv")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6
    assert "5 samples" in done.stderr
    path.write_bytes(path.read_bytes()[:-1])
    for words in (("summary", path), ("predict", path, tmp_path / "x.csv")):
        done = process(*words)
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.strip().splitlines()) == 1
        assert str(path) in done.stderr
    done = process("train", "--out", tmp_path / "t", "--density", "2")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    done = process("train", "--out", tmp_path / "t", *SMALL, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["out"] == str(tmp_path / "t")
    assert "epoch 2" in done.stderr
