"""The oracle: a network in plain float64 numpy, with how far float32 may be from it.

Rounding errors of a sum of k products and a bias, in any order, with or without fused operations:

    |fl(W y + b) - (W y + b)| <= (k + 2) eps (|W| |y| + |b|)           (Higham 2002, section 3.1)

An error E of y becomes |W| E. An activation passes it on multiplied by its Lipschitz constant and
adds what its own evaluation loses.

Beside it the gradients' closed formulas: `slope` of activations, `LOSSES`, and `products`, the
backward products with the same bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

from gbdnn import Linear, Network

Array = npt.NDArray[Any]
ULPS = 16  # an elementary function in float32, generously


def exact(name: str, Z: Array, layer: Any = None) -> Array:
    """Return h(Z), Z of shape (features, batch), from its closed formula."""
    match name:
        case "Identity" | "Dropout":
            return Z.copy()
        case "ReLU":
            return np.minimum(np.where(Z > 0, Z, 0), np.inf if layer.cap is None else layer.cap)
        case "LeakyReLU":
            return np.where(Z > 0, Z, layer.negative_slope * Z)
        case "Tanh":
            return 1 - 2 / (np.exp(2 * Z) + 1)
        case "Sigmoid":
            return 1 / (1 + np.exp(-Z))
        case "GELU":
            return Z / 2 * (1 + scipy.special.erf(Z / np.sqrt(2)))
        case "Softmax":
            return np.exp(Z) / np.exp(Z).sum(axis=0)
    raise NotImplementedError(name)


def _elementwise(lipschitz: float, own: Callable[[Array, Array, float], Array]) -> Any:
    return lambda Z, h, E, eps: lipschitz * E + own(Z, h, eps)


# E' of h(Z): from Z, h(Z), E and eps
ERRORS: dict[str, Callable[[Array, Array, Array, float], Array]] = {
    "Identity": _elementwise(1, lambda Z, h, eps: 0 * h),
    "Dropout": _elementwise(1, lambda Z, h, eps: 0 * h),
    "ReLU": _elementwise(1, lambda Z, h, eps: 0 * h),
    "LeakyReLU": _elementwise(1, lambda Z, h, eps: 2 * eps * abs(h)),  # slopes up to 1
    "Tanh": _elementwise(1, lambda Z, h, eps: ULPS * eps * abs(h)),
    "Sigmoid": _elementwise(1, lambda Z, h, eps: ULPS * eps * abs(h)),
    "GELU": _elementwise(1.13, lambda Z, h, eps: ULPS * eps * abs(Z)),
    # the exponents err by E and by rounding z - max z; the sum by one rounding for each term
    "Softmax": lambda Z, h, E, eps: (
        h * np.expm1(2 * E.max(axis=0) + eps * (2 * abs(Z).max(axis=0) + len(Z) + ULPS))
    ),
}


# -- gradients -------------------------------------------------------------------------------------


def backward(name: str, Z: Array, dY: Array, layer: Any = None) -> Array:
    """Return dZ = J(Z)^T dY from closed formulas of h'(z); Z of shape (features, batch)."""
    match name:
        case "Identity":
            return dY.copy()
        case "ReLU":
            return dY * ((Z > 0) & ((np.inf if layer.cap is None else layer.cap) > Z))
        case "LeakyReLU":
            return dY * np.where(Z > 0, 1.0, layer.negative_slope)
        case "Tanh":
            return dY / np.cosh(Z) ** 2
        case "Sigmoid":
            return dY / (2 * np.cosh(Z / 2)) ** 2
        case "GELU":
            density = np.exp(-(Z**2) / 2) / np.sqrt(2 * np.pi)
            return dY * ((1 + scipy.special.erf(Z / np.sqrt(2))) / 2 + Z * density)
        case "Softmax":
            columns = []
            for h, dy in zip(exact(name, Z).T, dY.T, strict=True):
                columns.append((np.diag(h) - np.outer(h, h)) @ dy)
            return np.array(columns).T
    raise NotImplementedError(name)


def loss_of_column(name: str, z: Array, target: Any) -> float:
    """Return l of one sample: its scores or values z, shape (features,)."""
    match name:
        case "cross_entropy":
            return float(scipy.special.logsumexp(z) - z[target])
        case "mse":
            return float(np.mean((z - target) ** 2))
        case "squared_error":
            return float(np.sum((z - target) ** 2) / 2)
        case "binary_cross_entropy" | "label_cross_entropy":
            log_p, log_q = scipy.special.log_expit(z), scipy.special.log_expit(-z)
            each = -target * log_p - (1 - target) * log_q
            return float(np.mean(each) if name == "binary_cross_entropy" else np.sum(each))
        case "huber":
            r = abs(z - target)
            return float(np.mean(np.where(r <= 1, r**2 / 2, r - 0.5)))
        case "hinge" if len(z) == 1:
            return max(0.0, 1 - float(z[0]) * (1 if target == 1 else -1))
        case "hinge":
            return max(0.0, 1 + max(s for j, s in enumerate(z) if j != target) - z[target])
    raise NotImplementedError(name)


def products(W: Array, dZ: Array, Y: Array, dtype: Any) -> tuple[tuple[Array, Array], ...]:
    """Return (W^T dZ, its bound) and (sum of dZ Y^T over tiles, its bound), from float64.

    W is (out, in), dZ (tiles, out, width), Y (tiles, in, width). A sum of k products in `dtype`
    errs by (k + 2) eps times the sum of their sizes.
    """
    W, dZ, Y = (array.astype(np.float64) for array in (W, dZ, Y))
    eps = float(np.finfo(dtype).eps)
    terms = np.count_nonzero(W, axis=0)[None, :, None]
    back, back_size = W.T @ dZ, abs(W).T @ abs(dZ)
    dW = np.einsum("toc,tic->oi", dZ, Y)
    dW_size = np.einsum("toc,tic->oi", abs(dZ), abs(Y))
    columns = Y.shape[0] * Y.shape[2]
    return (back, (terms + 2) * eps * back_size), (dW, (columns + 2) * eps * dW_size)


# -- networks --------------------------------------------------------------------------------------


def forward(network: Network, X: Any) -> tuple[Array, Array]:
    """Return the exact result in float64 and its bound, both (n_samples, out_features)."""
    dtype = network.dtype
    eps = float(np.finfo(dtype).eps) * (2 if dtype == np.float64 else 1)  # float64 itself errs too
    Y = np.asarray(X).astype(dtype).astype(np.float64).T
    E = np.zeros_like(Y)
    for layer in network.layers:
        if isinstance(layer, Linear):
            Y, E = _affine(layer, Y, E, eps)
        else:
            name = type(layer).__name__
            h = exact(name, Y, layer)
            Y, E = h, ERRORS[name](Y, h, E, eps)
    return Y.T, E.T


def _affine(layer: Linear, Y: Array, E: Array, eps: float) -> tuple[Array, Array]:
    weight = layer.weight
    W = weight.to_dense().astype(np.float64)
    b = np.broadcast_to(layer.bias, len(W)).astype(np.float64)[:, None]
    terms = np.count_nonzero(W, axis=1)[:, None]
    size = abs(W) @ (abs(Y) + E) + abs(b)
    return W @ Y + b, abs(W) @ E + (terms + 2) * eps * size


def check(result: Array, network: Network, X: Any) -> None:
    """Assert that a prediction is right within the bounds of rounding."""
    Y, E = forward(network, X)
    assert result.shape == Y.shape
    assert result.dtype == network.dtype
    assert result.flags.c_contiguous
    excess = abs(result - Y) - E
    assert (excess <= 0).all(), f"off by up to {excess.max():.3g} above a bound of {E.max():.3g}"
