"""Warm starts, partial_fit, pickles; weights of samples and classes."""

from __future__ import annotations

import copy
import pickle

import joblib
import numpy as np
import pytest
from estimator_builders import QUICK, quick, same_weights
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from gbdnn.errors import InputError, ShapeError
from gbdnn.estimators import SparseMLPClassifier, SparseMLPRegressor

# -- going on --------------------------------------------------------------------------------------


def test_warm_start(digits):
    X, y = digits
    model = quick(warm_start=True, growth=None).fit(X, y)
    first, losses = model.coefs_[0], model.loss_curve_
    model.fit(X[:500], y[:500])
    assert_array_equal(model.coefs_[0].indices, first.indices)
    assert model.loss_curve_[:4] == losses
    assert len(model.loss_curve_) == 8
    assert model.loss_curve_[4] < losses[0] / 2
    cold = quick().fit(X, y).fit(X, y)
    same_weights(cold, quick().fit(X, y))
    with pytest.raises(InputError, match="unseen labels: 'a'"):
        model.fit(X, np.where(y == 3, "a", "b"))
    with pytest.raises(ShapeError, match="64, 100, 10"):
        model.set_params(hidden_layer_sizes=33).fit(X, y)


def test_partial_fit(digits):
    """Passes over all samples are what fit does, but for the seeds' use."""
    X, y = digits
    model = SparseMLPClassifier((64,), density=0.3, **QUICK)
    for number in range(12):
        assert model.partial_fit(X, y, classes=np.arange(10)) is model
        assert model.n_iter_ == len(model.loss_curve_) == number + 1
    assert model.score(X, y) > 0.9
    assert model._going.step == 12 * 5
    with pytest.warns(ConvergenceWarning):
        fitted = SparseMLPClassifier(
            (64,), density=0.3, max_iter=12, growth=None, learning_rate="constant", **QUICK
        ).fit(X, y)
    same_weights(model, fitted)
    before = model.loss_
    model.partial_fit(X[:10], y[:10])  # fewer samples than batch_size, not all classes
    assert model.loss_ != before


def test_partial_fit_after_fit_goes_on_from_its_weights(digits):
    X, y = digits
    model = quick(max_iter=20).fit(X, y)
    pattern, loss = model.coefs_[0].indices, model.loss_
    model.set_params(learning_rate="constant", learning_rate_init=1e-4).partial_fit(X, y)
    assert_array_equal(model.coefs_[0].indices, pattern)
    assert model.loss_ < 1.2 * loss
    assert model.n_iter_ == 1


def test_the_learning_rate_may_change_between_calls(digits):
    """At next to nothing the weights stay where they are."""
    X, y = digits
    model = SparseMLPClassifier(**QUICK).partial_fit(X, y, classes=range(10))
    before = model.coefs_[0].data
    model.set_params(learning_rate_init=1e-12).partial_fit(X, y)
    assert_array_equal(model.coefs_[0].data, before)


@pytest.mark.parametrize("kind", [SparseMLPClassifier, SparseMLPRegressor])
def test_partial_fit_counts_samples_and_speaks(digits, kind, capsys):
    """`t_` counts samples, "invscaling" falls with them, and verbose gives a line for each pass."""
    X, y = digits
    options = {"classes": range(10)} if kind is SparseMLPClassifier else {}
    model = kind(learning_rate="invscaling", learning_rate_init=0.5, power_t=0.5, verbose=True)
    for count, seen in [(900, 900), (300, 1200)]:
        model.partial_fit(X[:count], y[:count], **options)
        assert model.t_ == seen
    assert model.history_["learning_rate"] == pytest.approx([0.5 / np.sqrt(901)])
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["pass 1", "pass 2"]


def test_partial_fit_of_labels_and_values(digits):
    X, y = digits
    Y = np.stack([y > 4, y % 2 == 0], axis=1).astype(int)
    assert SparseMLPClassifier().partial_fit(X, Y).predict(X).shape == Y.shape
    model = SparseMLPRegressor(density=0.3, **QUICK)
    for _ in range(30):
        model.partial_fit(X, y / 5)
    assert model.score(X, y / 5) > 0.7


@pytest.mark.parametrize("dump", [pickle, joblib])
def test_a_pickle_goes_on_as_if_nothing_had_happened(digits, dump, tmp_path):
    """Network, optimizer and place in the order of samples come back."""
    X, y = digits
    model = SparseMLPClassifier((32,), density=(0.2, 1.0), **QUICK).partial_fit(X, y, range(10))
    path = tmp_path / "model"
    if dump is pickle:
        path.write_bytes(pickle.dumps(model))
        loaded = pickle.loads(path.read_bytes())
    else:
        joblib.dump(model, path)
        loaded = joblib.load(path, mmap_mode="r")
    for each in (loaded, copy.deepcopy(model)):
        assert_array_equal(each.predict_proba(X), model.predict_proba(X))
        going_on = copy.deepcopy(each).partial_fit(X, y)
        same_weights(going_on, pickle.loads(pickle.dumps(each)).partial_fit(X, y))
    same_weights(going_on, model.partial_fit(X, y))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("kind", [SparseMLPClassifier, SparseMLPRegressor])
@pytest.mark.parametrize("growth", [None, "set"])
def test_a_mapped_estimator_learns_on(digits, kind, solver, growth, tmp_path):
    """joblib's workers get read-only arrays; the file they lie in is not changed."""
    X, y = digits[0][:200], digits[1][:200]
    options = QUICK | {
        "solver": solver,
        "max_iter": 2,
        "n_iter_no_change": 2,
        "learning_rate": "constant",
        "batch_size": 50,
    }
    model = kind((16,), density=0.3, **options).partial_fit(
        X, y, **({"classes": range(10)} if kind is SparseMLPClassifier else {})
    )
    path = tmp_path / "model"
    joblib.dump(model, path)
    before = path.read_bytes()
    mapped = joblib.load(path, mmap_mode="r")
    for _ in range(2):
        same_weights(mapped.partial_fit(X, y), model.partial_fit(X, y))
    mapped.set_params(warm_start=True, growth=growth)
    with pytest.warns(ConvergenceWarning):
        mapped.fit(X, y)
    assert path.read_bytes() == before


def test_a_pickle_is_small(digits):
    """After fit it holds no optimizer state and no buffers."""
    X, y = digits
    model = quick(hidden_layer_sizes=(2000,)).fit(X, y)
    assert len(pickle.dumps(model)) < model.network_.nbytes + 20_000


# -- weights of samples and classes ----------------------------------------------------------------


def test_weight_zero_is_as_if_left_out(digits):
    X, y = digits
    weights = (y != 3).astype(float)
    model = quick().fit(X, y, sample_weight=weights)
    left_out = quick().fit(X[y != 3], y[y != 3])
    assert_array_equal(left_out.classes_, np.delete(model.classes_, 3))
    assert (model.predict(X) != 3).all()


@pytest.mark.parametrize("weighting", ["balanced", "dict", "samples"])
def test_rare_classes_count_more(digits, weighting):
    X, y = digits
    rare = y == 8
    keep = ~rare | (np.cumsum(rare) <= 8)
    X, labels = X[keep], np.where(y[keep] == 8, "eight", "other")
    weights = np.where(labels == "eight", 50.0, 1.0) if weighting == "samples" else None
    class_weight = {"balanced": "balanced", "dict": {"eight": 50}, "samples": None}[weighting]
    model = quick(class_weight=class_weight, max_iter=3).fit(X, labels, sample_weight=weights)
    plain = quick(max_iter=3).fit(X, labels)
    rare = labels == "eight"
    assert model.predict_proba(X[rare])[:, 0].mean() > 2 * plain.predict_proba(X[rare])[:, 0].mean()


def test_a_dict_of_class_weights_equals_sample_weights(digits):
    X, y = digits
    by_class = quick(class_weight={3: 5.0, 4: 0.5}).fit(X, y)
    weights = np.where(y == 3, 5.0, np.where(y == 4, 0.5, 1.0))
    same_weights(by_class, quick().fit(X, y, sample_weight=weights))


def test_alpha_counts_beside_the_samples(digits):
    """All samples four times and alpha four times is the same problem, but not with adamw."""
    X, y = digits
    four = np.full(900, 4.0)
    for solver in ("adam", "sgd"):
        model = quick(solver=solver, alpha=40.0).fit(X, y, sample_weight=four)
        same_weights(model, quick(solver=solver, alpha=10.0).fit(X, y))
        weaker = quick(solver=solver, alpha=1.0).fit(X, y)
        assert abs(model.coefs_[0]).sum() < abs(weaker.coefs_[0]).sum()
    decoupled = quick(solver="adamw", alpha=10.0).fit(X, y, sample_weight=four)
    same_weights(decoupled, quick(solver="adamw", alpha=10.0).fit(X, y))
