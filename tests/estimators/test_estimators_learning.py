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
from sklearn.neural_network import MLPClassifier, MLPRegressor

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
        model = quick(growth=growth, max_iter=40).fit(X, y)
        patterns[growth] = [(c != 0).toarray() for c in model.coefs_]
    start = [(c != 0).toarray() for c in quick(max_iter=1, growth=None).fit(X, y).coefs_]
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
    options = {"learning_rate": "constant", "max_iter": 100, "loss": "huber"}
    model = SparseMLPRegressor((64,), density=0.5, **options, **QUICK)
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
    model = SparseMLPClassifier(
        (40, 20), density=(0.1, 0.25, 1.0), max_iter=2, learning_rate="constant", **QUICK
    )
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


def test_features_that_never_occur_get_no_connections(digits):
    """Digits spread over 2^20 columns are the digits; the columns between them are not asked."""
    X, y = digits
    at = np.random.default_rng(0).permutation(2**20)[:64]
    at.sort()
    wide = sp.csr_array((X.ravel(), np.tile(at, 900), np.arange(901) * 64), shape=(900, 2**20))
    never = (X == 0).all(axis=0)
    model = quick(early_stopping=True).fit(wide, y)
    plain = quick(early_stopping=True).fit(X[:, ~never], y)
    assert model.coefs_[0].shape == (2**20, 100)
    assert_array_equal(model.coefs_[0][at[~never]].toarray(), plain.coefs_[0].toarray())
    assert model.coefs_[0].nnz == plain.coefs_[0].nnz
    assert model.validation_scores_ == plain.validation_scores_
    assert_allclose(model.predict_proba(wide), plain.predict_proba(X[:, ~never]), atol=1e-6)
    other = sp.csr_array((np.ones(1), ([0], [at[3] + 1])), shape=(1, 2**20))
    nothing = sp.csr_array((1, 2**20))
    assert_array_equal(model.predict_proba(other), model.predict_proba(nothing))
    narrow = np.zeros((900, 200))
    narrow[:, 5:69] = X
    same_weights(quick().fit(narrow, y), quick().fit(sp.csr_array(narrow), y))


def test_a_warning_of_samples_that_touch_little():
    X = sp.random_array((400, 40_000), density=5e-4, format="csr", rng=np.random.default_rng(0))
    y, options = np.arange(400) % 2, {"max_iter": 1, "batch_size": 20}
    with pytest.warns(UserWarning, match=r"first layer .*n_features=2\*\*16"):
        SparseMLPClassifier((2000,), **options).fit(X, y)
    with pytest.warns(UserWarning, match=r"40,000 features"):
        SparseMLPClassifier((300,), **options).partial_fit(X, y, classes=[0, 1])
    SparseMLPClassifier((30,), **options).fit(X, y)


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
    assert model.n_iter_ == 5  # the first, and more than three without an improvement by 10


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
    train, held = model._split(y, np.ones(900), settings.seeds(0)[1])
    assert (len(held), model.t_) == (90, 810 * model.n_iter_)
    assert_array_equal(np.sort(np.r_[train, held]), np.arange(900))
    assert model.score(X[held], y[held]) == pytest.approx(model.best_validation_score_)


@pytest.mark.parametrize("outputs", [1, 3])
def test_validation_score_of_values_is_score(digits, outputs):
    """The best epoch's, with the weights of the samples."""
    X, _ = digits
    y = X[:, [10, 20, 30]] * [1, 2, 0.5]
    y = y if outputs > 1 else y[:, 0]
    weights = np.random.default_rng(0).integers(0, 3, 900).astype(float)
    model = SparseMLPRegressor(early_stopping=True, max_iter=20, **QUICK).fit(X, y, weights)
    _, held = model._split(y, weights, settings.seeds(0)[1])
    assert (weights[held] > 0).all()
    assert len(held) == -(-np.count_nonzero(weights) // 10)
    best = model.score(X[held], y[held], weights[held])
    assert best == pytest.approx(model.best_validation_score_, abs=1e-5)
    assert best > model.validation_scores_[0]


def test_tol_and_n_iter_no_change_mean_what_they_do_in_scikit_learn(digits):
    """The number of passes follows from the losses by scikit-learn's own rule."""
    X, y = digits
    settings = {"learning_rate": "constant", "max_iter": 400, "n_iter_no_change": 4, "tol": 0.01}
    model = quick(**settings).fit(X, y)
    rule = MLPClassifier(early_stopping=False, tol=0.01)
    rule.loss_curve_, rule.best_loss_, rule._no_improvement_count = [], np.inf, 0
    for loss in model.loss_curve_:
        assert rule._no_improvement_count <= 4
        rule.loss_curve_.append(loss)
        rule._update_no_improvement_count(False, None, None, None)
    assert rule._no_improvement_count == 5
    assert rule.best_loss_ == model.best_loss_


@converges_or_not
@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "adaptive"])
def test_learning_rates_of_scikit_learn(digits, learning_rate):
    """Epoch by epoch; SGD without momentum and shuffling from the same dense first weights."""
    X, y = digits
    common = {
        "learning_rate": learning_rate, "learning_rate_init": 0.5, "power_t": 0.3, "solver": "sgd",
        "momentum": 0.0, "alpha": 0.0, "max_iter": 60, "shuffle": False, "n_iter_no_change": 1,
        "tol": 0.05, "batch_size": 300, "random_state": 0,
    }  # fmt: skip
    ours = SparseMLPClassifier((), density=1.0, dtype="float64", **common)
    theirs = MLPClassifier((), warm_start=True, **common | {"max_iter": 1})
    theirs.fit(X, y)
    theirs.coefs_ = [np.zeros((64, 10))]
    theirs.intercepts_ = [np.zeros(10)]
    theirs.set_params(max_iter=60)
    theirs.t_ = 0
    theirs.loss_curve_, theirs.best_loss_, theirs._no_improvement_count = [], np.inf, 0
    theirs.fit(X, y)
    zero = {"layers.0.weight": np.zeros((10, 64)), "layers.0.bias": np.zeros(10)}
    ours.set_params(max_iter=1).fit(X, y)
    ours.network_ = ours.network_.replaced({n: _as(ours, n, v) for n, v in zero.items()})
    ours.loss_curve_, ours.t_ = [], 0
    ours.set_params(warm_start=True, max_iter=60).fit(X, y)
    assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    assert (ours.n_iter_, ours.t_) == (theirs.n_iter_, theirs.t_)


def _as(model, name, values):
    weight = model.network_.weights.get(name)
    return values if weight is None else weight.with_entries(values.ravel())


@converges_or_not
def test_values_and_labels_are_descended_as_in_scikit_learn(digits):
    """Sums over outputs: one step of SGD from the same weights gives the same weights."""
    X, y = digits
    Y = np.eye(10)[y]
    common = {
        "learning_rate": "constant", "learning_rate_init": 0.1, "solver": "sgd", "alpha": 0.3,
        "momentum": 0.0, "max_iter": 1, "shuffle": False, "batch_size": 900, "random_state": 0,
    }  # fmt: skip
    for kind, theirs, targets in [
        (SparseMLPRegressor, MLPRegressor, Y * 3),
        (SparseMLPClassifier, MLPClassifier, Y.astype(int)),
    ]:
        model = kind((), density=1.0, dtype="float64", **common).fit(X, targets)
        other = theirs(hidden_layer_sizes=(), warm_start=True, **common).fit(X, targets)
        other.coefs_ = [c.toarray() for c in model.coefs_]
        other.intercepts_ = [b.copy() for b in model.intercepts_]
        model.set_params(warm_start=True).fit(X, targets)
        other.fit(X, targets)
        assert_allclose(model.coefs_[0].toarray(), other.coefs_[0], rtol=1e-9, atol=1e-12)
        if kind is SparseMLPClassifier:
            assert model.loss_ > 1  # of ten labels together


@pytest.mark.parametrize(
    ("counts", "fraction", "held"),
    [
        ([30, 30, 1], 0.1, 7),  # a class with one sample
        ([30, 1, 1, 1], 0.2, 7),
        ([2] * 12, 0.1, 3),  # more classes than samples to hold out
        ([3, 3, 1] * 4, 0.1, 3),
        ([50, 50], 0.25, 25),
    ],
)
def test_early_stopping_with_small_classes(counts, fraction, held):
    """It trains, and there is something of every class to train on."""
    labels = np.repeat([f"class {k}" for k in range(len(counts))], counts)
    X = np.random.default_rng(0).standard_normal((len(labels), 5))
    model = SparseMLPClassifier(
        (8,), early_stopping=True, validation_fraction=fraction, max_iter=3, random_state=3
    )
    model.fit(X, labels)
    codes = np.unique(labels, return_inverse=True)[1]
    train, out = model._split(codes, np.ones(len(labels)), 7)
    assert len(out) == held
    assert_array_equal(np.sort(np.r_[train, out]), np.arange(len(labels)))
    assert set(labels[train]) == set(labels)


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
