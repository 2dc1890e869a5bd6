"""Estimators that learn in a moment, and how to compare them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from gbdnn.estimators import SparseMLPClassifier

converges_or_not = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
QUICK = {"random_state": 0, "learning_rate_init": 0.01, "n_iter_no_change": np.inf}


def quick(**changes):
    """Return a classifier of 100 hidden neurons and a few passes."""
    few = {"density": 0.3, "learning_rate": "cosine", "max_iter": 4, "batch_size": 50}
    return SparseMLPClassifier(**QUICK | few | changes)


def same_weights(one, other):
    """Assert that two estimators have the same network, bit by bit."""
    for a, b in zip(one.coefs_, other.coefs_, strict=True):
        assert (a != b).nnz == 0
        assert a.nnz == b.nnz
    for a, b in zip(one.intercepts_, other.intercepts_, strict=True):
        assert_array_equal(a, b)
