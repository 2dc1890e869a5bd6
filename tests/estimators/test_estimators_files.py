"""`save` and `load` of estimators, and what the command line does with their files."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.exceptions import NotFittedError

import gbdnn
from gbdnn import SparseMLPClassifier, SparseMLPRegressor
from gbdnn.cli.main import cli
from gbdnn.errors import FileFormatError
from gbdnn.pruning import Sparsifier

LABELS = {
    "text": np.array(["no", "maybe", "yes"]),
    "objects": np.array(["no", "maybe", "yes"], object),
    "numbers": np.array([-1, 7, 1 << 40]),
    "bytes of one": np.array([0, 1, 2], np.uint8),
    "fractions": np.array([0.0, 1.0, 2.0]),
    "two": np.array([False, True]),
}


def model(kind=SparseMLPClassifier, **given):
    settings = {"max_iter": 3, "random_state": 0, "density": 0.5, "n_iter_no_change": np.inf}
    return kind((12, 8), **(settings | given))


def samples(count=60):
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, 5)), rng.integers(0, 3, count)


def fitted(made, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made.fit(X, y)


def command(*words):
    result = CliRunner().invoke(cli, [*map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_a_classifier_comes_back(labels, tmp_path):
    X, codes = samples()
    y = labels[codes % len(labels)]
    one = fitted(model(class_weight=dict.fromkeys(labels.tolist(), 2)), X, y)
    one.save(tmp_path / "m")
    two = SparseMLPClassifier.load(tmp_path / "m")
    assert two.get_params() == one.get_params()
    assert two.classes_.dtype == one.classes_.dtype
    np.testing.assert_array_equal(two.predict(X), one.predict(X))
    np.testing.assert_array_equal(two.predict_proba(X), one.predict_proba(X))
    for name, value in vars(one).items():
        if name.endswith("_") and name not in ("network_", "history_"):
            np.testing.assert_array_equal(getattr(two, name), value)
    assert two.history_.records == one.history_.records
    assert two.density_ == one.density_
    found = gbdnn.load(tmp_path / "m")
    assert found.metadata["classes"] == one.classes_.tolist()
    np.testing.assert_array_equal(found.predict(X), one.network_.predict(X))


def test_the_command_line_takes_it(tmp_path):
    X, codes = samples()
    y = LABELS["text"][codes]
    one = fitted(model(), X, y)
    one.save(tmp_path / "m")
    np.savez(tmp_path / "d.npz", X=X, y=y)
    record = command("predict", tmp_path / "m", tmp_path / "d.npz")
    assert record["predictions"] == one.predict(X).tolist()
    assert record["accuracy"] == pytest.approx(one.score(X, y))
    command("train", tmp_path / "d.npz", "--init", tmp_path / "m", "--out", tmp_path / "n",
            "--epochs", 1)  # fmt: skip
    assert [*SparseMLPClassifier.load(tmp_path / "n").classes_] == sorted(LABELS["text"])


def test_it_learns_on(tmp_path):
    X, y = samples()
    fitted(model(warm_start=True), X, y).save(tmp_path / "m")
    two = SparseMLPClassifier.load(tmp_path / "m")
    start = two.loss_
    fitted(two.set_params(max_iter=30), X, y)
    assert two.loss_ < start
    three = SparseMLPClassifier.load(tmp_path / "m").set_params(growth=None)
    before = three.network_.weights["layers.0.weight"].entries.copy()
    three.partial_fit(X[:20], y[:20])
    assert not np.array_equal(before, three.network_.weights["layers.0.weight"].entries)
    three.save(tmp_path / "m")
    np.testing.assert_array_equal(
        SparseMLPClassifier.load(tmp_path / "m").predict(X), three.predict(X)
    )


def test_names_of_features(tmp_path):
    X, y = samples()
    frame = pd.DataFrame(X, columns=list("abcde"))
    fitted(model(), frame, y).save(tmp_path / "m")
    two = SparseMLPClassifier.load(tmp_path / "m")
    assert two.predict(frame).shape == (60,)
    with pytest.raises(ValueError, match="feature names should match"):
        two.predict(frame[frame.columns[::-1]])
    assert gbdnn.load(tmp_path / "m").metadata["feature_names"] == list("abcde")


def test_many_labels_and_values(tmp_path):
    X, _ = samples()
    labels = (X[:, :3] > 0).astype(int)
    one = fitted(model(), X, labels)
    one.save(tmp_path / "m")
    two = SparseMLPClassifier.load(tmp_path / "m")
    np.testing.assert_array_equal(two.predict(X), one.predict(X))
    assert "classes" not in gbdnn.load(tmp_path / "m").metadata  # not one of them for each sample
    for y in (X[:, 0], X[:, :1], X[:, :2]):
        one = fitted(model(SparseMLPRegressor, loss="huber"), X, y)
        one.save(tmp_path / "m")
        two = SparseMLPRegressor.load(tmp_path / "m")
        assert two.loss == "huber"
        np.testing.assert_array_equal(two.predict(X), one.predict(X))


@pytest.mark.parametrize("words", [["--task", "classify"], ["--task", "regress"]])
def test_models_of_the_command_line(words, tmp_path):
    X, y = samples()
    np.savez(tmp_path / "d.npz", X=X, y=y)
    command("train", tmp_path / "d.npz", "--out", tmp_path / "m", "--hidden", 7, "--epochs", 2,
            *words)  # fmt: skip
    right, wrong = SparseMLPClassifier, SparseMLPRegressor
    if "regress" in words:
        right, wrong = wrong, right
    two = right.load(tmp_path / "m")
    assert two.hidden_layer_sizes == (7,)
    wanted = command("predict", tmp_path / "m", tmp_path / "d.npz")["predictions"]
    np.testing.assert_allclose(two.predict(X), np.ravel(wanted))
    assert np.isfinite(two.score(X, y))
    with pytest.raises(FileFormatError, match=r"gbdnn\.load reads the network alone"):
        wrong.load(tmp_path / "m")


def test_objects_among_the_parameters(tmp_path):
    X, y = samples()
    one = fitted(model(growth=Sparsifier(0.7), random_state=np.random.RandomState(3)), X, y)
    with pytest.warns(UserWarning, match="growth, random_state: objects are not saved"):
        one.save(tmp_path / "m")
    two = SparseMLPClassifier.load(tmp_path / "m")
    assert two.random_state is None
    np.testing.assert_array_equal(two.predict(X), one.predict(X))


def test_not_fitted(tmp_path):
    with pytest.raises(NotFittedError):
        model().save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_another_class_or_damage(tmp_path):
    X, y = samples()
    one = fitted(model(), X, y)
    one.save(tmp_path / "m")
    with pytest.raises(FileFormatError, match="expected a SparseMLPRegressor"):
        SparseMLPRegressor.load(tmp_path / "m")
    record = gbdnn.load(tmp_path / "m").metadata["estimator"]

    def having(**attributes):
        return record | {"attributes": record["attributes"] | attributes}

    for change in (
        3, {}, "x", record | {"attributes": {}}, record | {"attributes": {"fit_": 3}},
        record | {"parameters": {"exec": "x"}}, record | {"history": [1]},
        having(n_features_in_=4), having(n_outputs_="3"), having(classes_=3),
        having(classes_={"array": [1, 2], "dtype": "int64"}),
        having(classes_={"array": [1, 2, 3], "dtype": "V8"}), having(classes_={"set": [1]}),
        having(feature_names_in_={"array": ["a"], "dtype": "object"}),
    ):  # fmt: skip
        one.network_.save(tmp_path / "m", extra={"estimator": change})
        with pytest.raises(FileFormatError, match=str(tmp_path / "m")):
            SparseMLPClassifier.load(tmp_path / "m")
    for harmless in ({"fit": 3}, {"__class__": 3}, {"_going": 3}, {"__init_": 3}):
        one.network_.save(tmp_path / "m", extra={"estimator": having(**harmless)})
        two = SparseMLPClassifier.load(tmp_path / "m")
        assert not harmless.keys() & vars(two).keys()
        np.testing.assert_array_equal(two.predict(X), one.predict(X))
