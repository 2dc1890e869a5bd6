"""Hostile cases of the estimators: case name -> (function, expected class of gbdnn.errors or None).

scikit-learn's own checks of X and y raise plain ValueErrors, with parts that are empty; those cases
assert the message themselves and return.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from gbdnn.errors import (
    DivergenceError,
    DtypeError,
    InputError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
    SparseFormatError,
    UnknownNameError,
)
from gbdnn.estimators import SparseMLPClassifier, SparseMLPRegressor

CASES: dict[str, tuple[Callable[[], Any], type[Exception] | None]] = {}
X = np.linspace(-1, 1, 60).reshape(20, 3)
Y = np.arange(20) % 2
FEW = {
    "hidden_layer_sizes": 4, "backend": "dense", "threads": 1, "max_iter": 2, "random_state": 0,
    "learning_rate": "cosine",
}  # fmt: skip


def classifier(**changes: Any) -> SparseMLPClassifier:
    """Return a small classifier."""
    return SparseMLPClassifier(**FEW | changes)


def regressor(**changes: Any) -> SparseMLPRegressor:
    """Return a small regressor."""
    return SparseMLPRegressor(**FEW | changes)


classifier().fit(X, Y).predict(X)  # compiles once, before the cases fork


def valueless(message: str, function: Callable[[], Any]) -> Callable[[], None]:
    """Return a function that asserts scikit-learn's ValueError or TypeError."""

    def run() -> None:
        with pytest.raises((ValueError, TypeError), match=message):
            function()

    return run


def damaged(**attributes: Any) -> sp.csr_array:
    """Return a sparse X with attributes replaced behind scipy's back."""
    made = sp.csr_array(X)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def damaged_columns() -> sp.csc_array:
    """Return the same by columns, with indices far outside."""
    made = sp.csc_array(X)
    made.indices = wild
    return made


# -- samples ---------------------------------------------------------------------------------------

TOP = 2**31 - 1
wild = np.full(60, TOP, np.int32)
long = np.r_[np.arange(20) * 3, TOP].astype(np.int32)
for label, matrix in {
    "indices far outside": lambda: damaged(indices=wild),
    "negative indices": lambda: damaged(indices=-wild),
    "indptr beyond the data": lambda: damaged(indptr=long),
    "indptr that falls": lambda: damaged(indptr=np.arange(21, dtype=np.int32)[::-1].copy()),
    "too few values": lambda: damaged(data=np.ones(2)),
    "csc, indices far outside": damaged_columns,
    "repeated entries": lambda: sp.csr_array(
        (np.ones(3), np.zeros(3, np.int32), np.r_[0, 3, np.full(19, 3)]), shape=(20, 3)
    ),
}.items():
    CASES[f"fit, sparse X: {label}"] = (lambda make=matrix: classifier().fit(make(), Y),
                                        SparseFormatError)  # fmt: skip
    CASES[f"predict, sparse X: {label}"] = (
        lambda make=matrix: classifier().fit(X, Y).predict(make()), SparseFormatError
    )  # fmt: skip


partial = classifier(learning_rate="constant")
CASES |= {
    "X: complex sparse": (lambda: classifier().fit(sp.csr_array(X * 1j), Y), DtypeError),
    "X: too large for float32": (lambda: classifier().fit(X * 1e300, Y), NonFiniteError),
    "y: too large for float32": (lambda: regressor().fit(X, Y * 1e300), NonFiniteError),
    "X: too large for float32, in predict": (
        lambda: regressor().fit(X, Y).predict(X * 1e300), NonFiniteError
    ),
    "y: text": (lambda: regressor().fit(X, np.full(20, "a")), DtypeError),
    "y: one class": (lambda: classifier().fit(X, np.zeros(20)), InputError),
    "y: several classes for each sample": (
        lambda: classifier().fit(X, np.arange(40).reshape(20, 2) % 3), ShapeError
    ),
    "y: labels of all sorts": (
        valueless("label type", lambda: classifier().fit(X, np.array([1, "a"] * 10, object))), None
    ),
    "y: objects": (valueless("label type", lambda: classifier().fit(X, [object()] * 20)), None),
    "y: nothing": (valueless("requires y", lambda: classifier().fit(X, None)), None),
    "y: 3-D": (valueless("dim 3", lambda: classifier().fit(X, np.zeros((20, 2, 2)))), None),
    "y: too short": (valueless("inconsistent", lambda: classifier().fit(X, Y[1:])), None),
    "y: NaN": (valueless("NaN", lambda: classifier().fit(X, np.full(20, np.nan))), None),
    "X: NaN": (valueless("NaN", lambda: classifier().fit(X * np.nan, Y)), None),
    "X: inf, sparse": (
        valueless("infinity", lambda: classifier().fit(sp.csr_array(X + np.inf), Y)), None
    ),
    "X: text": (valueless("numeric", lambda: classifier().fit(np.full((20, 3), "a"), Y)), None),
    "X: no samples": (valueless("0 sample", lambda: classifier().fit(X[:0], Y[:0])), None),
    "X: no features": (valueless("0 feature", lambda: classifier().fit(X[:, :0], Y)), None),
    "X: ragged": (
        valueless("inhomogeneous", lambda: classifier().fit([[1], [2, 3]], [0, 1])), None
    ),
    "X: other width": (
        valueless("2 features", lambda: classifier().fit(X, Y).predict(X[:, :2])), None
    ),
    "X: more features than fit into memory": (
        lambda: classifier().fit(sp.csr_array((20, 2**40)), Y), MemoryBudgetError
    ),
    "early stopping: too few samples": (
        valueless(
            "validation set is too small",
            lambda: classifier(early_stopping=True).fit(X[:3], [0, 1, 1]),
        ),
        None,
    ),
    "partial_fit: unseen labels": (
        lambda: partial.partial_fit(X, Y, [0, 1]).partial_fit(X, Y + 1),
        InputError,
    ),
    "partial_fit: text after numbers": (
        lambda: partial.partial_fit(X, Y, [0, 1]).partial_fit(
            X, Y.astype(str)
        ),
        InputError,
    ),
    "partial_fit: NaN among the classes": (
        lambda: partial.partial_fit(X, Y, [0, 1, np.nan]), NonFiniteError
    ),
    "partial_fit: NaN": (
        valueless("NaN", lambda: partial.partial_fit(X, Y * np.nan, [0, 1])), None
    ),
    "y: text and None": (lambda: classifier().fit(X, ["a", None] * 10), DtypeError),
    "y: labels neither 0 nor 1": (lambda: classifier().fit(X, np.c_[Y, 1 - Y] * 2), InputError),
    "partial_fit: other classes, 2-D": (
        valueless("1d array", lambda: partial.partial_fit(X, Y, [0, 1]).partial_fit(
            X, Y, np.eye(2))), None
    ),
    "partial_fit: no classes": (
        lambda: partial.partial_fit(X, Y), InputError
    ),
    "partial_fit: 3-D classes": (
        valueless("dim 3", lambda: partial.partial_fit(
            X, Y, np.zeros((2, 2, 2)))), None
    ),
}  # fmt: skip

# -- settings --------------------------------------------------------------------------------------

for argument, error, values in (
    ("density", InputError, (0, -1, 1.5, np.nan, "a", [], (0.1, 0.1, 0.1), [None, 1], {}, True)),
    (
        "hidden_layer_sizes",
        InputError,
        (10**300, 0, -4, np.inf, np.nan, "a", [[4]], {}, 1.5, (True,)),
    ),
    ("hidden_layer_sizes", MemoryBudgetError, (10**9, 2**62, (10**6, 10**6))),
    ("learning_rate_init", InputError, (0, -1, np.nan, np.inf, "a", None, [0.1])),
    ("learning_rate", UnknownNameError, ("adaptively", 1, None, [])),
    ("batch_size", InputError, (0, -1, 2.5, np.nan, "all", None, [1])),
    ("max_iter", InputError, (0, -1, 2.5, np.nan, np.inf, "1", None)),
    ("n_iter_no_change", InputError, (0, -1, 2.5, np.nan, "1", None)),
    ("validation_fraction", InputError, (0, 1, np.nan, "a", None)),
    ("alpha", InputError, (-1, np.nan, np.inf, "a", None)),
    ("growth", UnknownNameError, ("fast", 1, [])),
    ("solver", UnknownNameError, ("lbfgs", None, [])),
    ("activation", UnknownNameError, ("swish", None, {})),
    ("backend", UnknownNameError, ("torch", None, [])),
    ("dtype", DtypeError, ("int8", "a", None, [])),
    ("threads", InputError, (0, -1, 1.5, "2")),
    ("class_weight", InputError, ({7: 1}, {0: -1}, {0: np.nan}, {0: "a"})),
    ("class_weight", DtypeError, ([1, 2], 3)),
    ("random_state", InputError, (-1, 1.5, "a", 2**70)),
):
    for value in values:
        CASES[f"{argument}: {value!r:.40}"] = (
            lambda argument=argument, value=value: classifier(**{argument: value}).fit(X, Y), error
        )  # fmt: skip


# -- weights ---------------------------------------------------------------------------------------

for label, given, error in (
    ("negative", np.r_[-1.0, np.ones(19)], InputError),
    ("zeros", np.zeros(20), InputError),
    ("NaN", np.full(20, np.nan), NonFiniteError),
    ("text", ["a"] * 20, DtypeError),
    ("too short", np.ones(19), ShapeError),
    ("2-D", np.ones((20, 1)), ShapeError),
    ("a number", 3.0, ShapeError),
    ("tiny", np.full(20, 1e-3), None),
    ("vanishing beside alpha", np.full(20, 1e-300), InputError),
    ("huge", np.full(20, 1e300), None),
    ("of one class only", Y.astype(float), None),
):
    for make in (classifier, regressor):
        CASES[f"{make.__name__}, sample_weight: {label}"] = (
            lambda make=make, given=given: make().fit(X, Y, sample_weight=given).predict(X), error
        )  # fmt: skip


def case(name: str, error: type[Exception] | None) -> Callable[[Callable[[], Any]], Any]:
    """Add a function as a case."""

    def add(function: Callable[[], Any]) -> Callable[[], Any]:
        CASES[name] = (function, error)
        return function

    return add


@case("divergence", DivergenceError)
def divergence() -> None:
    """Raised, and the estimator still predicts finite numbers."""
    model = regressor(solver="sgd", alpha=0.0, learning_rate_init=1e17, max_iter=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model.fit(X, Y)
        finally:
            assert np.isfinite(model.predict(X)).all()


@case("pickle: weights cut off", ShapeError)
def cut() -> None:
    """A pickled network that was changed: layers that do not chain are refused."""
    model = classifier().fit(X, Y)
    rebuild, (layers, metadata) = model.network_.__reduce__()
    rebuild(layers[2:] + layers[:2], metadata)
