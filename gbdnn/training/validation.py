"""Loss and score on samples that are not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.data.inputs import Inputs
from gbdnn.training.model import Model

__all__ = ["HeldOut"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Samples for validation."""

    inputs: Inputs
    targets: Array
    weights: Array

    def measure(self, model: Model) -> tuple[float, float]:
        """Return the mean loss and the score: accuracy for classes and labels, else R^2.

        Both follow the samples' weights. Dropout is off.
        """
        out = model.outputs(self.inputs, head=False)
        weights = self.weights / self.weights.sum()
        Z = out.T.copy()  # neuron-major, and the loss overwrites it
        with np.errstate(over="ignore", invalid="ignore"):  # of what diverges the numbers tell
            value = model.loss.function(Z, self.targets.T, weights.astype(Z.dtype))
            return value, _score(model, out, self.targets, weights)


def _score(model: Model, Z: Array, targets: Array, weights: Array) -> float:
    """Return the accuracy (of labels: where all are right) or R^2; weights sum to 1."""
    if model.loss.kind == "classes":
        guess = Z.argmax(axis=1) if Z.shape[1] > 1 else (Z[:, 0] > 0).astype(np.int64)
        return float(weights @ (guess == targets))
    if model.loss.name == "binary_cross_entropy":
        return float(weights @ ((Z > 0) == (targets > 0.5)).all(axis=1))
    targets = targets.astype(np.float64)
    residual = float(weights @ ((targets - Z) ** 2).sum(axis=1))
    spread = float(weights @ ((targets - weights @ targets) ** 2).sum(axis=1))
    return 1 - residual / spread if spread else 0.0
