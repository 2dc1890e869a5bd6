"""What the commands make of data from elsewhere: names, classes, numbering, and their messages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import dump_svmlight_file, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from test_cli_training import SMALL, call, called, fails, usage

from gbdnn.estimators import SparseMLPClassifier, SparseMLPRegressor
from gbdnn.network import load

FAST = ("--hidden", "32", "--epochs", 30, "--density", 0.5, "--learning-rate", 0.01, "--scale",
        "standard", "--batch-size", 32)  # fmt: skip


@pytest.fixture(scope="module")
def flowers():
    """Iris as a DataFrame with names of columns, the last of them of labels, shuffled."""
    data = load_iris(as_frame=True)
    table = data.data.assign(species=data.target_names[data.target])
    return table.sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def trained(flowers, tmp_path_factory):
    """A model of the table."""
    folder = tmp_path_factory.mktemp("trained")
    flowers.to_csv(folder / "a.csv", index=False)
    call("train", folder / "a.csv", "--out", folder / "m", *FAST)
    return folder / "m"


# -- names -----------------------------------------------------------------------------------------


def test_columns_are_found_by_name(flowers, trained, tmp_path):
    """In any order, with the labels or without, also by a pruned model."""
    assert load(trained).metadata["feature_names"] == list(flowers.columns[:4])
    path, pruned = tmp_path / "a.csv", tmp_path / "p"
    call("prune", trained, pruned, "--sparsity", 0.6, "--rounds", 0)
    for model in (trained, pruned):
        flowers.to_csv(path, index=False)
        wanted = called("predict", model, path)
        for order in ([3, 0, 4, 2, 1], [2, 1, 0, 3]):
            flowers[flowers.columns[order]].to_csv(path, index=False)
            found = called("predict", model, path)
            assert found["predictions"] == wanted["predictions"]
            assert ("accuracy" in found) == (4 in order)
        flowers.to_csv(path)
        with pytest.warns(UserWarning, match="left out"):
            assert called("predict", model, path)["predictions"] == wanted["predictions"]
        flowers.drop(columns="petal width (cm)").assign(width=1).to_csv(path, index=False)
        error = fails("predict", model, path)
        assert "'petal width (cm)'" in str(error)
        assert "'width'" in str(error)
    assert wanted["accuracy"] > 0.6


@pytest.mark.parametrize("names", ["abcd", ["a", "b", "c"], ["a", "a", "b", "c"], [1, 2, 3, 4], 3])
def test_names_in_a_file_are_checked(trained, flowers, tmp_path, names):
    load(trained).save(tmp_path / "m", extra={"feature_names": names})
    flowers.to_csv(tmp_path / "a.csv", index=False)
    assert "feature_names" in str(fails("predict", tmp_path / "m", tmp_path / "a.csv"))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_saved_estimator_knows_classes_and_columns(flowers, tmp_path):
    """`classifier.network_.save` is enough for the command line."""
    X, y, path = flowers.iloc[:, :4], flowers["species"].to_numpy(), tmp_path / "a.csv"
    flowers[flowers.columns[::-1]].to_csv(path, index=False)
    model = SparseMLPClassifier((16,), density=0.5, max_iter=5, random_state=0)
    model.partial_fit(X, y, classes=np.unique(y)).fit(X, y)
    model.network_.save(tmp_path / "m")
    assert called("predict", tmp_path / "m", path)["predictions"] == model.predict(X).tolist()
    for labels, classes in (
        (y == "setosa", [False, True]),
        (np.where(y == "setosa", 7, 3), [3, 7]),
        (np.where(y == "setosa", 7.0, 3.0), [3.0, 7.0]),
        (np.stack([y == "setosa", y == "virginica"], axis=1).astype(int), None),
    ):
        network = model.fit(X.to_numpy(), labels).network_
        assert network.metadata.get("classes") == classes
        assert "feature_names" not in network.metadata
        network.save(tmp_path / "m")
    network = SparseMLPRegressor((4,), max_iter=2).fit(X, X.iloc[:, 0]).network_
    assert network.metadata == {"feature_names": list(X.columns)}


def test_bytes_are_no_labels():
    X, y = np.eye(4), np.array([b"a", b"b", b"a", b"b"])
    for labels in (y, y.astype(object), y.tolist()):
        with pytest.raises(TypeError, match="text, not bytes"):
            SparseMLPClassifier().fit(X, labels)
    quick = SparseMLPClassifier(max_iter=1, learning_rate="constant")
    with pytest.warns(ConvergenceWarning):
        model = quick.fit(X, np.char.decode(y.astype(bytes)))
    assert model.classes_.tolist() == ["a", "b"]


# -- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["007", "7"], ["1_1", "11"], ["1e3", "1000"]])
def test_texts_come_back_as_they_were(tmp_path, words):
    path, model = tmp_path / "a.csv", tmp_path / "m"
    x = np.arange(40) % 2
    pd.DataFrame({"x": x, "label": np.array(words)[x]}).to_csv(path, index=False)
    call("train", path, "--out", model, *FAST, "--density", 1, "--validation", 0)
    record = called("predict", model, path)
    assert record["accuracy"] == 1
    assert record["predictions"] == np.array(words)[x].tolist()


def test_many_whole_numbers_may_be_values(tmp_path):
    path, model = tmp_path / "a.csv", tmp_path / "m"
    x = np.arange(300.0)
    pd.DataFrame({"x": x / 7, "y": x.astype(int) // 3}).to_csv(path, index=False)
    with pytest.warns(UserWarning, match="--task regress"):
        assert called("train", path, "--out", model, *SMALL)["outputs"] == 100
    assert called("train", path, "--out", model, *SMALL, "--task", "regress")["outputs"] == 1
    assert "mean_squared_error" in called("predict", model, path)
    call("prune", model, tmp_path / "p", "--sparsity", 0.9, "--score", "gradient", "--data", path)
    assert called("train", path, "--out", model, *SMALL, "--task", "classify")["outputs"] == 100
    assert called("train", path, "--out", model, *SMALL, "--loss", "mse")["outputs"] == 1
    error = fails("train", path, "--out", model, *SMALL, "--loss", "hinge", "--task", "regress")
    assert "--loss" in str(error)


# -- numbering -------------------------------------------------------------------------------------


def test_numbering_of_svmlight_files(tmp_path):
    """The digits, whose first pixel is always empty, as scikit-learn writes them."""
    X, y = load_digits(return_X_y=True)
    path, model = tmp_path / "a.svm", tmp_path / "m"
    dump_svmlight_file(X, y, str(path))
    np.savez(tmp_path / "a.npz", X=X, y=y)
    words = ("--out", model, *FAST, "--epochs", 5)
    call("train", tmp_path / "a.npz", *words)
    assert "--zero-based or --one-based" in str(fails("predict", model, path))
    right = called("predict", model, tmp_path / "a.npz")
    assert called("predict", model, path, "--zero-based")["accuracy"] == right["accuracy"] > 0.9
    assert called("predict", model, path, "--one-based")["accuracy"] < 0.6
    record = called("train", path, *words, "--zero-based")
    assert record["features"] == 64
    assert load(model).metadata["first_feature"] == 0
    assert called("predict", model, path)["accuracy"] > 0.9
    with pytest.warns(UserWarning, match="--zero-based"):
        call("train", path, *words)


# -- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["train", "--hidden", "2000000000,2000000000"], "--hidden"),
        (["train", "--batch-size", "99999"], "--batch-size"),
        (["train", "--validation", "0.00001"], "--validation"),
        (["train", "--loss", "binary_cross_entropy"], "--loss"),
        (["train", "INPUT", "--label", "colour"], "--label"),
        (["prune", "MODEL"], "--sparsity"),
        (["prune", "MODEL", "--sparsity", "2"], "--sparsity"),
        (["prune", "MODEL", "--sparsity", ".9", "--exclude", "77"], "--exclude"),
        (["prune", "MODEL", "--sparsity", ".9", "--exclude", "abc"], "--exclude"),
        (["prune", "MODEL", "--sparsity", ".9", "--structure", "5x"], "--structure"),
        (["prune", "MODEL", "--sparsity", ".9", "--score", "gradient"], "--data"),
        (["prune", "MODEL", "--sparsity", ".9", "--data", "INPUT", "--label", "x"], "--label"),
    ],
)
def test_errors_name_options(words, option, trained, flowers, tmp_path):
    files = {"MODEL": trained, "INPUT": tmp_path / "a.csv"}
    flowers.to_csv(files["INPUT"], index=False)
    words = [files.get(word, word) for word in words]
    out = tmp_path / "out"
    words = [*words, "--out", out] if words[0] == "train" else [*words[:2], out, *words[2:]]
    error = fails(*words)
    assert error.argument == option
    assert "batch_size=" not in str(error)
    assert not out.exists()


def test_errors_say_what_to_do_with_options(trained, tmp_path):
    error = fails("prune", trained, tmp_path / "p", "--sparsity", 0.9, "--structure", "3x5")
    assert "with --exclude, or" in error.fix
    assert "--fraction" not in usage("train", "--out", tmp_path / "p", "--validation", "7")


def test_a_folder_that_is_missing(tmp_path):
    error = fails("train", "--out", tmp_path / "no" / "m")
    assert f"{tmp_path / 'no'}, which does not exist" in str(error)
    assert f"mkdir -p {tmp_path / 'no'}" in error.fix
