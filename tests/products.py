"""The backward products of a backend beside the exact ones."""

from __future__ import annotations

import numpy as np
import oracle
from gradients import tile_major

from gbdnn.backends import get_backend
from gbdnn.weights import as_weight


def tiles(rng, count, features, width, dtype=np.float64, zeros=0.2):
    """Return an aligned tile-major array of normal numbers, some of them zero."""
    out = tile_major(np.zeros((count * width, features), dtype), width)
    out[...] = rng.standard_normal(out.shape) * (rng.random(out.shape) >= zeros)
    return out


def full(weight):
    """Return what a weight means as an ndarray."""
    return as_weight(weight).to_dense()


def trained(name, weight):
    """Return a backend's form of a weight for training."""
    return get_backend(name).prepare(as_weight(weight), trained=True)


def places(w):
    """Return rows and columns of the values of a weight prepared for training."""
    rows = np.repeat(np.arange(w.pattern.shape[0]), np.diff(w.pattern.indptr))
    return rows, w.pattern.indices


def gradients_of(backend, w, dZ, Y, threads=1):
    """Return (W^T dZ, dW) from a backend; their memory holds NaN before."""
    back = np.full_like(Y, np.nan)
    dW = np.full(w.pattern.nnz, np.nan, Y.dtype)
    with backend.pinned(threads):
        backend.input_grad(w, dZ, back, threads)
        backend.weight_grad(w, dZ, Y, dW, threads)
    return back, dW


def check_products(name, weight, dZ, Y, threads=1):
    """Assert that both products are right within the bounds of rounding."""
    backend = get_backend(name)
    w = trained(name, weight)
    back, dW = gradients_of(backend, w, dZ, Y, threads)
    (wanted, bound), (product, product_bound) = oracle.products(full(weight), dZ, Y, Y.dtype)
    assert (abs(back - wanted) <= bound).all()
    assert (abs(dW - product[places(w)]) <= product_bound[places(w)]).all()
