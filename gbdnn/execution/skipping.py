"""Exact skipping: which columns of a batch no later layer can change.

A column y of Y_k is *settled* at c if all its values are the same number c and every later layer
maps c*1 to c*1. Then it need not be computed any more. Two numbers occur:

* c = 0. W 0 + b = b exactly, so a layer maps 0 to h(b): it keeps 0 if h(b) = 0, a test on b alone.
* c = cap of a capped ReLU. With weights >= 0 all terms of row i of W (cap 1) are >= 0; their sum
  together with b_i, in floating point and in any order, differs from the exact one by less than
  (k + 2) eps ((row sum of W) cap + |b_i|) for k terms (Higham 2002, section 4.2). If the exact sum
  exceeds the cap by that much in every row, h gives the cap exactly. A test on row sums and b.
  Products below the normal numbers lose more; each adds the smallest of them to the bound.

Both tests are made once per layer. A column settles in the middle of a stage only if the rest of
the stage keeps it; it is parked, and wakes again if a later stage holds a layer that would change
it. As columns do not interact, the result equals the one without skipping bit for bit, if the
backend takes a column's sums in the same order in all tiles: `graphblas` does, `fused` does for the
widths that the executor makes. BLAS promises no order and may round columns that stay differently.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends.base import Activation
from gbdnn.weights.csr import CSR

__all__ = ["constants_kept"]

Array = npt.NDArray[Any]


def constants_kept(weight: CSR | Array, bias: Array, activation: Activation) -> frozenset[float]:
    """Return which of 0 and cap the layer h(W y + b) maps to themselves. O(nnz).

    Parameters
    ----------
    weight : CSR or ndarray, shape (out_features, in_features)
    bias : ndarray, shape () or (out_features,)
    activation : Activation
    """
    kept = []
    of_zero = np.array(np.broadcast_to(bias, weight.shape[0]))[:, None]
    activation.apply(of_zero)
    if not of_zero.any():
        kept.append(0.0)
    low, high = activation.clamp or (0.0, np.inf)
    if low == 0 and np.isfinite(high):
        cap = float(weight.dtype.type(high))
        with np.errstate(over="ignore", invalid="ignore"):  # too large to tell is not kept
            sums, terms = _row_sums(weight)
            if sums.size and _reaches(cap, sums * cap, bias, terms, np.finfo(weight.dtype)):
                kept.append(cap)
    return frozenset(kept)


def _reaches(cap: float, products: Array, bias: Array, terms: int, kind: Any) -> bool:
    """True if products + bias, computed in any order, is at least the cap in every row."""
    slack = 2 * (terms + 2) * (float(kind.eps) * (products + np.abs(bias)) + float(kind.tiny))
    return bool((products + bias - slack >= cap).all())


def _row_sums(weight: CSR | Array) -> tuple[Array, int]:
    """Return the float64 row sums and the longest row; no sums if a weight is negative."""
    values = weight.values if isinstance(weight, CSR) else weight
    if values.size == 0 or values.min() < 0:
        return np.empty(0), 0
    if not isinstance(weight, CSR):
        return weight.sum(axis=1, dtype=np.float64), weight.shape[1]
    lengths = np.diff(weight.indptr)
    if weight.iso:
        return lengths * float(values[0]), int(lengths.max())
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return np.bincount(rows, values, minlength=len(lengths)), int(lengths.max())
