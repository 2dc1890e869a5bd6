"""Exact skipping: which columns of a batch no later layer can change.

A column y of Y_k is *settled* at c if all its values are the same number c and every later layer
maps c*1 to c*1. Then it need not be computed any more. Two numbers occur:

* c = 0. W 0 + b = b exactly, so a layer maps 0 to h(b): it keeps 0 if h(b) = 0, a test on b alone.
* c = cap of a capped ReLU. With weights >= 0 all terms of row i of W (cap 1) are >= 0; their sum
  together with b_i, in floating point and in any order, differs from the exact one by less than
  (k + 2) eps ((row sum of W) cap + |b_i|) for k terms (Higham 2002, section 4.2). If the exact sum
  exceeds the cap by that much in every row, h gives the cap exactly. A test on row sums and b.

Both tests are made once per layer. A column settles in the middle of a stage only if the rest of
the stage keeps it; it is parked, and wakes again if a later stage holds a layer that would change
it. As columns do not interact, the result equals the one without skipping bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends.base import Activation
from gbdnn.sparse import CSR

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
        sums, terms = _row_sums(weight)
        slack = 2 * (terms + 2) * np.finfo(weight.dtype).eps * (sums * cap + np.abs(bias))
        if sums.size and (sums * cap + bias - slack >= cap).all():
            kept.append(cap)
    return frozenset(kept)


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
