"""What estimators learn, what the fitted ones hold, and when they stop."""

from __future__ import annotations

import os
import signal
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from builders import THREADS
from estimator_builders import QUICK, converges_or_not, quick, same_weights
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_regression
from sklearn.exceptions import ConvergenceWarning

from gbdnn import Network
from gbdnn.errors import (
    DivergenceError,
)
from gbdnn.estimators import SparseMLPClassifier, SparseMLPRegressor, settings
from gbdnn.pruning import Sparsifier
from gbdnn.training import Cosine
from gbdnn.training.step import Training

# -- learning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("growth", [None, "set", "rigl", Sparsifier(0.95)])
def test_learns_digits(digits, growth):
    X, y = digits
    model = quick(hidden_layer_sizes=(256,), growth=growth, max_iter=20).fit(X[:600], y[:600])
    assert model.score(X[600:], y[600:]) > 0.9
    assert model.n_iter_ == len(model.loss_curve_) == len(model.history_) == 20
    assert model.loss_curve_[-1] < model.loss_curve_[0] / 4
    density = 0.05 if isinstance(growth, Sparsifier) else 0.3
    assert model.density_ == pytest.approx(density, abs=0.001)


def test_growth_moves_connections(digits):
    """And nothing else does."""
    X, y = digits
    patterns = {}
    for growth in (None, "set", "rigl"):
        model = quick(growth=growth).fit(X, y)
        patterns[growth] = [(c != 0).toarray() for c in model.coefs_]
    start = [(c != 0).toarray() for c in quick(max_iter=1).fit(X, y).coefs_]
    assert_array_equal(patterns[None][0], start[0])
    for growth in ("set", "rigl"):
        assert (patterns[growth][0] != start[0]).any()


@converges_or_not
@pytest.mark.parametrize("solver", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "gelu", "tanh", "logistic", "identity"]
)
def test_solvers_and_activations(digits, solver, activation):
    """The loss falls well below that of guessing, log 10."""
    X, y = digits
    model = SparseMLPClassifier(
        activation=activation, solver=solver, learning_rate_init=0.1 if solver == "sgd" else 0.01,
        density=0.3, max_iter=10, random_state=0, batch_size=20,
    )  # fmt: skip
    assert model.fit(X, y).loss_ < 1


def test_regression():
    X, y = make_regression(400, 8, noise=1.0, random_state=0)
    X, y = X.astype(np.float32), y / y.std()
    model = SparseMLPRegressor((64, 64), density=0.3, learning_rate="cosine", max_iter=150, **QUICK)
    model.fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.9
    assert model.predict(X).shape == (400,)
    assert model.predict(X).dtype == np.float64
    assert model.out_activation_ == "identity"
    assert not hasattr(model, "classes_")


def test_regression_of_several_values():
    X, Y = make_regression(300, 6, n_targets=3, random_state=0)
    Y /= Y.std(axis=0)
    model = SparseMLPRegressor((64,), density=0.5, max_iter=100, loss="huber", **QUICK)
    with pytest.warns(ConvergenceWarning, match="max_iter=100"):
        model.fit(X, Y)
    assert model.predict(X).shape == Y.shape
    assert model.score(X, Y) > 0.8
    column = SparseMLPRegressor(max_iter=1, learning_rate="cosine").fit(X, Y[:, :1])
    assert column.predict(X).shape == (300, 1)


def test_many_labels():
    X = np.random.default_rng(0).standard_normal((400, 6))
    Y = np.stack([X[:, 0] > 0, X[:, 1] > 0, X[:, 0] + X[:, 1] > 0, X[:, 2] > 1], axis=1).astype(int)
    model = quick(max_iter=20).fit(X, Y)
    assert_array_equal(model.predict(X), (model.predict_proba(X) > 0.5).astype(int))
    assert model.score(X, Y) > 0.8  # all four right
    assert_array_equal(model.classes_, range(4))
    assert (model.out_activation_, model.n_outputs_) == ("logistic", 4)
    same_weights(model, clone(model).fit(X, sp.csr_matrix(Y)))


@pytest.mark.parametrize("classes", [["no", "yes"], ["eight", "nine", "zero"], [True, False]])
def test_labels_of_any_kind(digits, classes):
    X, y = digits
    few = y < len(classes)
    labels = np.array(classes)[y[few]]
    model = quick(max_iter=20).fit(X[few], labels)
    assert_array_equal(model.classes_, np.unique(classes))
    assert model.score(X[few], labels) > 0.9
    probabilities = model.predict_proba(X[few])
    assert_array_equal(model.classes_[probabilities.argmax(axis=1)], model.predict(X[few]))
    assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert_allclose(np.exp(model.predict_log_proba(X[few])), probabilities, rtol=1e-5, atol=1e-30)


def test_certain_predictions_have_a_logarithm():
    X = np.array([[0.0], [1.0]] * 20)
    model = SparseMLPClassifier((), learning_rate="cosine", max_iter=5).fit(X, np.tile([0, 1], 20))
    assert model.predict_log_proba(1e6 * X).min() == -np.inf


# -- the network -----------------------------------------------------------------------------------


def test_attributes(digits):
    X, y = digits
    model = SparseMLPClassifier((40, 20), density=(0.1, 0.25, 1.0), max_iter=2, **QUICK)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    assert isinstance(model.network_, Network)
    assert [c.shape for c in model.coefs_] == [(64, 40), (40, 20), (20, 10)]
    assert all(isinstance(c, sp.csr_array) for c in model.coefs_)
    assert [c.nnz for c in model.coefs_] == [256, 200, 200]
    assert [b.shape for b in model.intercepts_] == [(40,), (20,), (10,)]
    assert model.density_ == (256 + 200 + 200) / (64 * 40 + 40 * 20 + 20 * 10)
    assert (model.n_layers_, model.n_outputs_, model.n_features_in_) == (4, 10, 64)
    assert model.out_activation_ == "softmax"
    assert model.loss_ == model.loss_curve_[-1]
    assert model.best_loss_ == min(model.loss_curve_)
    assert model.validation_scores_ is model.best_validation_score_ is None
    Y = X
    for coefficients, intercept in zip(model.coefs_, model.intercepts_, strict=True):
        Z = Y @ coefficients + intercept
        Y = np.maximum(Z, 0)
    Y = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    assert_allclose(model.predict_proba(X), Y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("density", "topology", "counts"),
    [
        (0.2, "uniform", [12800, 25600, 2560]),  # the output layer is dense
        (1e-9, "erk", [64 + 1000, 1000 + 128, 128 + 20]),  # one for each neuron
        (1.0, "erk", [64000, 128000, 2560]),
        (np.float32(1), "uniform", [64000, 128000, 2560]),
    ],
)
def test_density(density, topology, counts):
    """One number for all layers."""
    model = SparseMLPClassifier(
        (1000, 128), density=density, topology=topology, max_iter=1, learning_rate="cosine"
    )
    rng = np.random.default_rng(0)
    model.fit(rng.random((40, 64)), np.arange(40) % 20)
    assert [weight.nnz for weight in model.network_.weights.values()] == counts


def test_density_of_all_layers_together():
    """As asked for; the smallest layer is the densest."""
    model = SparseMLPClassifier((1000, 128), density=0.2, max_iter=1, learning_rate="cosine")
    rng = np.random.default_rng(0)
    model.fit(rng.random((40, 64)), np.arange(40) % 20)
    assert model.density_ == pytest.approx(0.2, abs=1e-4)
    densities = [c.nnz / np.prod(c.shape) for c in model.coefs_]
    assert densities[1] < 0.2 < densities[0] < densities[2]


def test_sparse_and_dense_inputs_agree(digits):
    """To the last bit, in any format, and neither is changed."""
    X, y = digits
    copied = X.copy()
    from_dense = quick().fit(X, y)
    assert_array_equal(X, copied)
    for layout in ("csr", "csc", "coo"):
        batch = sp.csr_array(X).asformat(layout)
        model = quick().fit(batch, y)
        same_weights(model, from_dense)
        assert_array_equal(model.predict_proba(batch), from_dense.predict_proba(X))
        assert (batch.toarray() == X).all()
    for other in (X.astype(np.float32), np.asfortranarray(X), pd.DataFrame(X)):
        same_weights(quick().fit(other, y), from_dense)  # sixteenths are exact in float32


def test_sparse_inputs_stay_sparse():
    """Made dense they would take 200 MB in float32; a mini-batch takes 5."""
    X = sp.random_array((10_000, 5000), density=1e-3, format="csr", rng=np.random.default_rng(0))
    y = np.arange(10_000) % 2
    model = quick(density=0.01, batch_size=200, max_iter=1, early_stopping=True)
    model.fit(X[:500], y[:500])  # compiles
    tracemalloc.start()
    try:
        model.fit(X, y).predict(X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("changes", [{}, {"early_stopping": True}, {"growth": "rigl"}])
def test_fit_is_repeatable(digits, changes):
    """On any number of threads; another random_state gives another network."""
    X, y = digits
    one = quick(threads=1, **changes).fit(X, y)
    same_weights(one, quick(threads=THREADS, **changes).fit(X, y))
    same_weights(one, quick(random_state=np.random.RandomState(0), **changes).fit(X, y))
    other = quick(random_state=1, **changes).fit(X, y)
    assert (one.coefs_[0] != other.coefs_[0]).nnz


@pytest.mark.parametrize("backend", ["dense", "graphblas"])
def test_backends_learn_the_same(digits, backend):
    """In float64 the orders of summation differ by far less than this."""
    X, y = digits
    options = {"dtype": "float64", "threads": 1, "max_iter": 2}
    model = quick(backend=backend, **options).fit(X, y)
    expected = quick(**options).fit(X, y)
    assert_allclose(model.predict_proba(X), expected.predict_proba(X), rtol=1e-9, atol=1e-12)


# -- stopping --------------------------------------------------------------------------------------


def test_stops_when_the_loss_does_not_improve(digits):
    X, y = digits
    model = quick(learning_rate="constant", n_iter_no_change=3, tol=10.0, max_iter=50).fit(X, y)
    assert model.n_iter_ == 4  # the first, and three without an improvement by 10


def test_early_stopping_keeps_the_best(digits):
    """Its score is the best one, not the last."""
    X, y = digits
    model = quick(
        early_stopping=True, learning_rate="constant", n_iter_no_change=3, max_iter=300, tol=1e-3
    ).fit(X, y)
    assert 4 <= model.n_iter_ < 300
    assert len(model.validation_scores_) == model.n_iter_
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.best_validation_score_ > model.validation_scores_[-1]
    assert model.best_loss_ is None
    _, (X_out, y_out, _) = model._split(X, y, np.ones(900), settings.seeds(0)[1])
    assert len(y_out) == 90
    assert model.score(X_out, y_out) == pytest.approx(model.best_validation_score_)


def test_warns_unless_it_converges(digits):
    X, y = digits
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        quick(learning_rate="constant", max_iter=2).fit(X, y)
    quick(learning_rate=Cosine(), max_iter=2).fit(X, y)  # lasts max_iter passes by intention


def test_batches_above_the_samples(digits):
    X, y = digits
    with pytest.warns(UserWarning, match="batch_size=1000 is above the 900 samples"):
        model = quick(batch_size=1000).fit(X, y)
    same_weights(model, quick(batch_size=900).fit(X, y))


def test_interrupted(digits, monkeypatch):
    """Ctrl-C ends fit with KeyboardInterrupt; what was learned until then can predict."""
    X, y = digits
    step = Training.train_step

    def interrupt_at_the_seventh(self, *args):
        if self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    whole = quick(max_iter=1, learning_rate="constant", batch_size=200)
    with pytest.warns(ConvergenceWarning):
        whole.fit(X, y)
    monkeypatch.setattr(Training, "train_step", interrupt_at_the_seventh)
    model = quick(learning_rate="constant", batch_size=200)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.n_iter_ == 1
    assert model.loss_curve_ == whole.loss_curve_
    assert model.predict(X).shape == y.shape
    assert np.isfinite(model.predict_proba(X)).all()
    partial = SparseMLPClassifier(batch_size=100, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        partial.partial_fit(X, y, classes=range(10))
    monkeypatch.undo()
    partial.partial_fit(X[:250], y[:250])  # a pass from its first batch on
    assert (partial.n_iter_, partial._going.step) == (1, 7 + 3)


def test_divergence_keeps_the_last_good_weights(digits):
    X, y = digits
    model = quick(solver="sgd", alpha=0, learning_rate="constant", learning_rate_init=1e30)
    with (
        np.errstate(all="ignore"),
        pytest.raises(DivergenceError, match="expected finite loss"),
    ):
        model.fit(X, y)
    assert all(np.isfinite(c.data).all() for c in model.coefs_)
