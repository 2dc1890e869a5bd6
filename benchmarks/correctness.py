"""Is the result right? The network in float64, with a bound for what rounding may do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn.types import Array
from gbdnn.weights import Dense, Weight

__all__ = ["Agreement", "agreement"]

SAMPLES = 16  # samples of the batch that are recomputed
CHUNK = 1 << 22  # weights that are converted to float64 at a time


@dataclass(frozen=True)
class Agreement:
    """Errors, absolute and in the norm; right if `error_over_tolerance` is at most 1."""

    max_error: float
    relative_error: float
    error_over_tolerance: float

    @property
    def right(self) -> bool:
        """True if no value is further off than rounding can explain; NaN is wrong."""
        return self.error_over_tolerance <= 1


def agreement(
    weights: Sequence[Weight], biases: Sequence[Array], X: Array, result: Array
) -> Agreement:
    r"""Compare an engine's result with float64.

    Parameters
    ----------
    weights : sequence of CSR or Dense, shape (out_features, in_features)
    biases : sequence of ndarray, shape (out_features,)
    X : ndarray, shape (n_samples, in_features)
    result : ndarray, shape (n_samples, out_features)
        What the engine computed for ReLU after each layer.

    Notes
    -----
    A layer that computes in precision eps adds at most :math:`(k + 2)\,eps\,(|W||Y| + |b|)` to
    the error, k the non-zeros of the row, in whatever order it sums (Higham 2002, section 4.2),
    and passes on what it is given as :math:`|W|E`; ReLU does not enlarge it. Zeros that a dense
    engine adds are exact. Under random rounding :math:`10 \sqrt k` stands for k with a certainty
    of 1 - 1e-21 (Higham and Mary 2019).

    That bound is wide where large terms cancel; so the relative error in the Frobenius norm must
    also stay below :math:`(10 \sqrt k + 2)\,eps` per layer, true for the random weights here. It
    catches results that are slightly wrong everywhere.
    """
    chosen = np.unique(np.linspace(0, len(X) - 1, SAMPLES).astype(int))
    eps = float(np.finfo(X.dtype).eps)
    Y = X[chosen].T.astype(np.float64)
    E, allowed = np.zeros_like(Y), 0.0
    for weight, bias in zip(weights, biases, strict=True):
        Y, E, growth = _layer(weight, bias.astype(np.float64)[:, None], Y, E, eps)
        allowed += growth
    if result.shape != (len(X), len(Y)) or not np.isfinite(result[chosen]).all():
        return Agreement(math.inf, math.inf, math.inf)
    error = np.abs(result[chosen].T.astype(np.float64) - Y)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / E)
    relative = float(np.linalg.norm(error) / (np.linalg.norm(Y) or 1.0))
    return Agreement(float(error.max()), relative, max(float(ratio.max()), relative / allowed))


def _layer(
    weight: Weight, bias: Array, Y: Array, E: Array, eps: float
) -> tuple[Array, Array, float]:
    """Return h(W Y + b), the bound of its error, and the largest growth of a row; in blocks."""
    matrix, terms = _rows(weight)
    growth = ((np.minimum(terms, 10 * np.sqrt(terms)) + 2) * eps)[:, None]  # per unit of |W||Y|
    reach, values, bounds = np.abs(Y) + E, [], []
    step = max(CHUNK // max(int(terms.max()), 1), 1)
    for start in range(0, len(terms), step):
        rows = slice(start, start + step)
        W = matrix[rows].astype(np.float64)
        positive, b = abs(W), bias[rows]
        values.append(np.maximum(W @ Y + b, 0))
        bounds.append(positive @ E + growth[rows] * (positive @ reach + np.abs(b)))
    return np.concatenate(values), np.concatenate(bounds), float(growth.max())


def _rows(weight: Weight) -> tuple[Any, Array]:
    """Return a matrix that can be cut into rows, without a copy, and the terms of each row."""
    if isinstance(weight, Dense):
        return weight.values, np.full(weight.shape[0], weight.shape[1])
    import scipy.sparse as sp

    csr = weight.pattern()
    matrix = sp.csr_array((weight.entries, csr.indices, csr.indptr), shape=weight.shape)
    return matrix, np.diff(csr.indptr)
