"""The regressor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import RegressorMixin

from gbdnn.errors import ShapeError, choose
from gbdnn.estimators.base import FROM_Y, SparseMLP
from gbdnn.types import Array

__all__ = ["SparseMLPRegressor"]

LOSSES = ("huber", "squared_error")


@dataclass(eq=False, repr=False)
class SparseMLPRegressor(RegressorMixin, SparseMLP):  # type: ignore[misc]
    """Multi-layer perceptron with sparse layers, for one value or several.

    Parameters, attributes and notes of `SparseMLPClassifier` hold, without classes and
    class_weight, and with

    Parameters
    ----------
    loss : {"squared_error", "huber"}
        What is minimised over the samples' mean: half of (z - t)^2, summed over the outputs
        (scikit-learn descends this too, but reports as `loss_` the mean over the outputs); or
        Huber's, a mean over the outputs that grows linearly above a residual of 1. Scale y to a
        spread of about 1.

    Attributes
    ----------
    out_activation_ : str
        "identity".
    """

    loss: str = "squared_error"

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseMLPRegressor:
        """Make one pass over some samples; the optimizer's state is kept from call to call.

        Of the settings learning_rate_init, power_t, shuffle and verbose may change between calls.

        Parameters and errors as in `fit`; growth, early_stopping and schedules are refused, as they
        need to know the length of the training.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X: Any) -> Array:
        """Return float64 values, shape (n_samples,) or, where y was such, (n_samples, n_outputs).

        Parameters
        ----------
        X : array_like or scipy sparse, shape (n_samples, n_features)
        """
        outputs = self._outputs(X).astype(np.float64)
        return outputs if self._many_values else outputs[:, 0]

    def _targets(
        self, y: Any, weights: Array, *, reset: bool, classes: Any = FROM_Y
    ) -> tuple[Array, Array]:
        """Return values, shape (n_samples, n_outputs)."""
        choose("loss", self.loss, LOSSES)
        y = y.toarray() if sp.issparse(y) else y
        many, targets = y.ndim > 1, y.reshape(len(y), -1)
        if reset:
            self._many_values, self.n_outputs_ = many, targets.shape[1]
            self.out_activation_ = "identity"
        elif (many, targets.shape[1]) != (self._many_values, self.n_outputs_):
            expected = f"targets with {self.n_outputs_} outputs, as in the last call"
            raise ShapeError("y", expected, f"shape {y.shape}")
        return targets, weights

    def _loss(self) -> str:
        return self._asked or self.loss

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
