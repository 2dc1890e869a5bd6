"""scikit-learn estimators: multi-layer perceptrons whose layers are sparse from the start.

Parameters and attributes have the names and meanings of `sklearn.neural_network.MLPClassifier`
where it has them. Training itself is `gbdnn.training`; here are settings, labels and checks.
"""

from __future__ import annotations

from gbdnn.estimators.classifier import SparseMLPClassifier
from gbdnn.estimators.regressor import SparseMLPRegressor

__all__ = ["SparseMLPClassifier", "SparseMLPRegressor"]
