"""What the estimators learn in most tests."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits


@pytest.fixture(scope="module")
def digits():
    """900 digits with pixels from 0 to 1; about half of them are 0."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[:900]
    return X[order] / 16, y[order]
