"""Wide samples most of whose features never occur, such as hashed words."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp

from gbdnn.network import Network
from gbdnn.types import Array
from gbdnn.weights import CSR
from gbdnn.weights.csr import index_dtype

__all__ = ["occurring", "spread", "warn_of_width"]

MANY = 1_000_000  # weights of a first layer, from which on it matters that most are not used
FEW = 8  # times as many features as values in a mini-batch


def occurring(X: Any) -> Array | None:
    """Return the features that are not zero in all samples, if those are fewer than half.

    Nothing is learnt about the others: connections to them would cost time and keep their first
    values, which are noise.
    """
    if sp.issparse(X):
        found = np.unique(X.indices[X.data != 0])
    else:
        found = np.flatnonzero((X != 0).any(axis=0))
    return found if 0 < 2 * len(found) < X.shape[1] else None


def spread(network: Network, columns: Array, features: int) -> Network:
    """Return the network for samples with all `features`; it was trained on `columns` of them."""
    name = next(iter(network.weights))
    weight = network.weights[name]
    pattern = weight.pattern()
    shape = (pattern.shape[0], features)
    index = index_dtype(weight.nnz, shape)
    indices = columns.astype(index)[pattern.indices]
    wide = CSR(pattern.indptr.astype(index), indices, weight.entries, shape)
    return network.replaced({name: wide})


def warn_of_width(X: Any, network: Network, batch: int) -> None:
    """Warn of sparse samples that touch a small part of a large first layer."""
    if not sp.issparse(X):
        return
    weights, values = next(iter(network.weights.values())).nnz, batch * X.nnz / max(X.shape[0], 1)
    if weights > MANY and X.shape[1] > FEW * values:
        message = (
            f"X has {X.shape[1]:,} features that occur and the first layer {weights:,} weights; "
            f"each step passes over them all, though {batch} samples have {values:,.0f} values. "
            "Lower density, or make fewer features, such as HashingVectorizer(n_features=2**16)."
        )
        warnings.warn(message, stacklevel=4)
