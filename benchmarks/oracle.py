"""Is the result right? The network in float64, with a bound for what rounding may do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.weights.csr import CSR

__all__ = ["Agreement", "compare"]

Array = npt.NDArray[Any]
SAMPLES = 16  # samples of the batch that are recomputed
CHUNK = 1 << 22  # weights that are converted to float64 at a time


@dataclass(frozen=True)
class Agreement:
    """Errors, absolute and in the norm; right if `error_over_tolerance` is at most 1."""

    max_error: float
    relative_error: float
    error_over_tolerance: float
    samples: int

    @property
    def right(self) -> bool:
        """True if no value is further off than rounding can explain; NaN is wrong."""
        return self.error_over_tolerance <= 1


def compare(
    weights: Sequence[CSR | Array], biases: Sequence[Array], X: Array, result: Array
) -> Agreement:
    r"""Compare an engine's result with float64.

    Parameters
    ----------
    weights : sequence of CSR or ndarray, shape (out_features, in_features)
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
        Y, E = _layer(weight, bias.astype(np.float64)[:, None], Y, E, eps)
        allowed += _growth(_longest(weight)) * eps
    if result.shape != (len(X), len(Y)) or not np.isfinite(result[chosen]).all():
        return Agreement(math.inf, math.inf, math.inf, len(chosen))
    error = np.abs(result[chosen].T.astype(np.float64) - Y)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / E)
    relative = float(np.linalg.norm(error) / (np.linalg.norm(Y) or 1.0))
    worst = max(float(ratio.max()), relative / allowed)
    return Agreement(float(error.max()), relative, worst, len(chosen))


def _growth(terms: Any) -> Any:
    """Return by how many eps a sum of so many products may be off, per unit of |W||Y|."""
    return np.minimum(terms, 10 * np.sqrt(terms)) + 2


def _longest(weight: CSR | Array) -> int:
    return int(np.diff(weight.indptr).max()) if isinstance(weight, CSR) else int(weight.shape[1])


def _layer(weight: CSR | Array, bias: Array, Y: Array, E: Array, eps: float) -> tuple[Array, Array]:
    """Return h(W Y + b) and the bound of its error, in blocks of rows."""
    reach, values, bounds = np.abs(Y) + E, [], []
    for rows, W, terms in _blocks(weight):
        b = bias[rows]
        values.append(np.maximum(W @ Y + b, 0))
        positive = abs(W)
        growth = (_growth(terms) * eps)[:, None]
        bounds.append(positive @ E + growth * (positive @ reach + np.abs(b)))
    return np.concatenate(values), np.concatenate(bounds)


def _blocks(weight: CSR | Array) -> Iterator[tuple[slice, Any, Array]]:
    """Yield (rows, W of these rows in float64, non-zeros of each row)."""
    import scipy.sparse as sp

    count, columns = weight.shape
    if not isinstance(weight, CSR):
        step = max(CHUNK // columns, 1)
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            yield rows, weight[rows].astype(np.float64), np.full(rows.stop - start, columns)
        return
    indptr, values = weight.indptr, weight.full_values
    start = 0
    while start < count:
        fits = int(np.searchsorted(indptr, indptr[start] + CHUNK, "right")) - 1
        stop = min(max(fits, start + 1), count)
        part = slice(int(indptr[start]), int(indptr[stop]))
        block = (
            values[part].astype(np.float64),
            weight.indices[part],
            indptr[start : stop + 1] - indptr[start],
        )
        rows = slice(start, stop)
        yield rows, sp.csr_array(block, shape=(stop - start, columns)), np.diff(block[2])
        start = stop
