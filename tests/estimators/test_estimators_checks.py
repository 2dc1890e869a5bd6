"""scikit-learn's checks of estimators, and their use in its company."""

from __future__ import annotations

import doctest

import pandas as pd
import pytest
import scipy.sparse as sp
from estimator_builders import converges_or_not, quick
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from gbdnn.estimators import SparseMLPClassifier, SparseMLPRegressor, classifier
from gbdnn.pruning import Sparsifier

# -- scikit-learn's checks -------------------------------------------------------------------------

ROUNDING = "float32: equal to a few units of rounding, the check wants 1e-7; passes in float64"
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": ROUNDING,
    "check_sample_weight_equivalence_on_sparse_data": ROUNDING,
    "check_methods_subset_invariance": ROUNDING,
}


@converges_or_not
@parametrize_with_checks(
    [SparseMLPClassifier(), SparseMLPRegressor()], expected_failed_checks=lambda estimator: EXPECTED
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@converges_or_not
@pytest.mark.parametrize("check", EXPECTED)
@pytest.mark.parametrize("kind", [SparseMLPClassifier, SparseMLPRegressor])
def test_what_fails_in_float32_passes_in_float64(kind, check):
    getattr(estimator_checks, check)(kind.__name__, kind(dtype="float64"))


@converges_or_not
@pytest.mark.parametrize("growth", ["set", "rigl"])
def test_checks_that_growth_could_break(growth):
    """Moving connections change neither repeatability nor what is kept."""
    estimator = SparseMLPClassifier(growth=growth, max_iter=30)
    for check in ("check_fit_idempotent", "check_estimators_pickle", "check_dict_unchanged"):
        getattr(estimator_checks, check)("SparseMLPClassifier", estimator)


def test_example():
    assert doctest.testmod(classifier).attempted > 3
    assert not doctest.testmod(classifier).failed


# -- in scikit-learn's company ---------------------------------------------------------------------


def test_pipeline_with_sparse_scaling(digits):
    X, y = digits
    pipeline = make_pipeline(StandardScaler(with_mean=False), quick(max_iter=15))
    scores = cross_val_score(pipeline, sp.csr_array(X), y, cv=3)
    assert scores.mean() > 0.85


def test_text_pipeline():
    texts = ["graphs are sparse", "matrices can be dense", "sparse graphs", "dense matrices"] * 5
    topics = ["graph", "matrix"] * 10
    pipeline = make_pipeline(TfidfVectorizer(), quick(max_iter=20, batch_size="auto")).fit(
        texts, topics
    )
    assert pipeline.score(texts, topics) == 1


def test_grid_search(digits):
    X, y = digits
    grid = {"density": [0.02, 0.5], "hidden_layer_sizes": [(8,), (64,)]}
    search = GridSearchCV(quick(max_iter=8, threads=1), grid, cv=2, n_jobs=2).fit(X, y)
    assert search.best_params_ == {"density": 0.5, "hidden_layer_sizes": (64,)}
    assert search.score(X, y) > 0.9


def test_names_of_features(digits):
    X, y = digits
    frame = pd.DataFrame(X, columns=[f"pixel {k}" for k in range(64)])
    model = quick().fit(frame, y)
    assert_array_equal(model.feature_names_in_, frame.columns)
    model.predict(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[frame.columns[::-1]])


def test_clone_and_repr():
    model = SparseMLPClassifier((7, 8), density=0.3, growth=Sparsifier(0.9), class_weight={1: 2})
    assert clone(model).get_params()["density"] == 0.3
    assert "density=0.3" in repr(model)
    assert "alpha" not in repr(model)


def test_progress_goes_to_standard_error(digits, capsys):
    X, y = digits
    quick(verbose=True).fit(X, y)
    assert capsys.readouterr().out == ""
