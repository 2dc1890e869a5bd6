"""Bad settings, labels and weights."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from estimator_builders import quick
from sklearn.exceptions import DataConversionWarning, NotFittedError

from gbdnn.errors import (
    DtypeError,
    InputError,
    MemoryBudgetError,
    ShapeError,
    UnknownNameError,
)
from gbdnn.estimators import SparseMLPClassifier, SparseMLPRegressor

BAD_SETTINGS = [
    ({"hidden_layer_sizes": 0}, InputError),
    ({"hidden_layer_sizes": (10, -1)}, InputError),
    ({"hidden_layer_sizes": 2.5}, InputError),
    ({"hidden_layer_sizes": "100"}, InputError),
    ({"hidden_layer_sizes": [[1], [2, 3]]}, InputError),
    ({"hidden_layer_sizes": None}, InputError),
    ({"hidden_layer_sizes": (10**8,), "density": 1.0}, MemoryBudgetError),
    ({"density": 0}, InputError),
    ({"density": 1.01}, InputError),
    ({"density": np.nan}, InputError),
    ({"density": True}, InputError),
    ({"density": "0.1"}, InputError),
    ({"density": (0.1,)}, InputError),
    ({"density": (0.1, 2)}, InputError),
    ({"topology": "star"}, UnknownNameError),
    ({"growth": "fast"}, UnknownNameError),
    ({"activation": "swish"}, UnknownNameError),
    ({"solver": "lbfgs"}, UnknownNameError),
    ({"alpha": -1e-9}, InputError),
    ({"alpha": np.inf}, InputError),
    ({"batch_size": 0}, InputError),
    ({"batch_size": 1.5}, InputError),
    ({"batch_size": "all"}, InputError),
    ({"learning_rate": "falling"}, UnknownNameError),
    ({"learning_rate_init": "fast"}, InputError),
    ({"power_t": -1}, InputError),
    ({"learning_rate": 0.1}, UnknownNameError),
    ({"learning_rate_init": 0}, InputError),
    ({"learning_rate_init": -1.0}, InputError),
    ({"learning_rate_init": np.nan}, InputError),
    ({"max_iter": 0}, InputError),
    ({"max_iter": 2.5}, InputError),
    ({"shuffle": "yes"}, InputError),
    ({"random_state": "seed"}, InputError),
    ({"tol": -1}, InputError),
    ({"momentum": 1.0}, InputError),
    ({"early_stopping": 1}, InputError),
    ({"validation_fraction": 1.0}, InputError),
    ({"validation_fraction": 0}, InputError),
    ({"beta_1": 1}, InputError),
    ({"beta_2": -0.1}, InputError),
    ({"epsilon": 0}, InputError),
    ({"n_iter_no_change": 0}, InputError),
    ({"dtype": "float16"}, DtypeError),
    ({"backend": "torch"}, UnknownNameError),
    ({"threads": 0}, InputError),
    ({"class_weight": "even"}, UnknownNameError),
    ({"class_weight": [1, 2]}, DtypeError),
    ({"class_weight": {99: 1.0}}, InputError),
    ({"class_weight": {3: -1.0}}, InputError),
]


@pytest.mark.parametrize(
    ("changes", "error"), BAD_SETTINGS, ids=lambda v: str(v)[:60] if isinstance(v, dict) else ""
)
def test_bad_settings(digits, changes, error):
    """They are refused by fit, not by the constructor, and by name."""
    X, y = digits
    model = quick(**changes)
    with pytest.raises(error) as caught:
        model.fit(X, y)
    assert next(iter(changes)) in str(caught.value)
    assert all((caught.value.argument, caught.value.expected, caught.value.got))
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_bad_loss_of_a_regressor(digits):
    with pytest.raises(UnknownNameError, match="squared_error"):
        SparseMLPRegressor(loss="absolute").fit(*digits)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"growth": "set"}, "growth"),
        ({"early_stopping": True}, "early_stopping"),
        ({"learning_rate": "cosine"}, "learning_rate"),
        ({"learning_rate": "adaptive"}, "learning_rate"),
        ({"class_weight": "balanced"}, "class_weight"),
    ],
)
def test_partial_fit_refuses_what_needs_the_length(digits, changes, name):
    X, y = digits
    with pytest.raises(InputError, match=f"{name}: expected .* in partial_fit"):
        SparseMLPClassifier(**changes).partial_fit(X, y, classes=range(10))


def test_labels_that_do_not_fit(digits):
    X, y = digits
    with pytest.raises(InputError, match="at least two classes, got one class only"):
        quick().fit(X, np.full(900, "a"))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        quick().fit(X, y[:-1])
    with pytest.raises(ValueError, match="contains NaN"):
        quick().fit(X, np.where(y == 3, np.nan, y))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        quick().fit(X, y + 0.5)
    with pytest.raises(ShapeError, match="indicator matrix of 0 and 1"):
        quick().fit(X, np.stack([y, y], axis=1))
    with pytest.warns(DataConversionWarning):
        quick().fit(X, y[:, None])
    with pytest.raises(InputError, match="class_weight: expected None for many labels"):
        quick(class_weight="balanced").fit(X, np.stack([y > 4, y < 3], axis=1).astype(int))
    with pytest.raises(DtypeError, match="y: expected numbers"):
        SparseMLPRegressor().fit(X, np.full(900, "a"))


def test_classes_of_partial_fit(digits):
    X, y = digits
    model = SparseMLPClassifier()
    with pytest.raises(InputError, match="classes: expected all labels, in the first call"):
        model.partial_fit(X, y)
    with pytest.raises(InputError, match="unseen labels: 9"):
        model.partial_fit(X, y, classes=range(9))
    with pytest.raises(InputError, match="one class only"):
        model.partial_fit(X, y, classes=[3])
    model.partial_fit(X[:300], y[:300], classes=range(10))
    with pytest.raises(InputError, match="unseen labels: 10, 11"):
        model.partial_fit(X, np.where(y > 7, y + 2, y))
    with pytest.raises(InputError, match="unseen labels: '0'"):
        model.partial_fit(X, y.astype(str))
    with pytest.raises(InputError, match="those of the first call"):
        model.partial_fit(X, y, classes=range(11))
    with pytest.raises(ShapeError, match="kind and number of the last call"):
        model.partial_fit(X, np.eye(10, dtype=int)[y])
    with pytest.raises(ValueError, match=r"63 features, but .* is expecting 64"):
        model.partial_fit(X[:, 1:], y)
    many = SparseMLPClassifier().partial_fit(X, np.eye(10, dtype=int)[y])
    with pytest.raises(ShapeError, match="kind and number of the last call"):
        many.partial_fit(X, np.eye(10, dtype=int)[y][:, :9])
    with pytest.raises(InputError, match="None or 10 labels"):
        SparseMLPClassifier().partial_fit(X, np.eye(10, dtype=int)[y], classes=[0, 1])
    values = SparseMLPRegressor().partial_fit(X, y)
    with pytest.raises(ShapeError, match="1 outputs, as in the last call"):
        values.partial_fit(X, np.stack([y, y], axis=1))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(900), "at least one above 0, got zeros only"),
        (np.r_[-1.0, np.ones(899)], "numbers from 0 up"),
        (np.ones(899), r"shape \(900,\)"),
        (np.full(900, np.nan), "finite"),
        (["a"] * 900, "numbers"),
    ],
)
def test_bad_sample_weights(digits, weights, message):
    X, y = digits
    with pytest.raises((InputError, DtypeError), match=f"sample_weight: .*{message}"):
        quick().fit(X, y, sample_weight=weights)
    with pytest.raises((InputError, DtypeError), match=f"sample_weight: .*{message}"):
        SparseMLPRegressor().partial_fit(X, y, sample_weight=weights)


def test_no_weight_is_held_out(digits):
    X, y = digits
    weights = np.zeros(900)
    weights[0] = 1
    with pytest.raises(InputError, match=r"validation_fraction: .* 1 samples \(of weight above 0"):
        quick(early_stopping=True).fit(X, y, sample_weight=weights)


@pytest.mark.parametrize("kind", [SparseMLPClassifier, SparseMLPRegressor])
def test_too_small_a_validation_set(digits, kind):
    """Of one sample, or of all but none; the words are scikit-learn's too."""
    X, _ = digits
    for count, fraction in [(10, 0.1), (900, 0.001), (3, 0.99)]:
        model = kind(early_stopping=True, validation_fraction=fraction)
        with pytest.raises(InputError, match=r"validation_fraction: .* set is too small"):
            model.fit(X[:count], np.arange(count) % 2)


def test_classes_of_which_none_can_be_held_out():
    """Named in the error, as they stand in y."""
    model = SparseMLPClassifier(early_stopping=True, validation_fraction=0.3)
    labels = [*"abcdef", "g", "g"]
    with pytest.raises(InputError, match=r"y: expected 10 samples.*one sample: 'a', 'b', 'c'"):
        model.fit(np.ones((8, 2)), labels)


def test_a_failed_fit_leaves_no_half_fitted_estimator(digits):
    X, y = digits
    model = quick().fit(X, y)
    with pytest.raises(InputError):
        model.fit(X[:, :10], np.zeros(900))
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_unfitted_estimators_have_no_coefficients():
    for name in ("coefs_", "intercepts_", "density_", "network_"):
        assert not hasattr(SparseMLPClassifier(), name)
    with pytest.raises(NotFittedError):
        SparseMLPRegressor().predict(np.ones((2, 3)))


def test_the_module_does_not_keep_samples(digits):
    """Nothing of the size of X stays in the estimator."""
    X, y = digits
    assert len(pickle.dumps(SparseMLPClassifier((8,)).partial_fit(X, y, range(10)))) < X.nbytes / 10
