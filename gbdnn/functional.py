"""Activations as plain functions on neuron-major arrays, in place.

Z has shape (features, batch). Each function replaces Z by h(Z); none allocates more than it must.
`ACTIVATIONS` maps the names that `Network` accepts to the layers of `gbdnn.layers`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["gelu", "identity", "leaky_relu", "relu", "sigmoid", "softmax", "tanh"]

Array = npt.NDArray[Any]


def identity(Z: Array) -> None:
    """h(z) = z."""


def relu(Z: Array, cap: float | None = None) -> None:
    """h(z) = max(z, 0), or min(max(z, 0), cap).

    The (max, +) half of Kepner et al. 2017, eq. for Y_{k+1}; the cap is the Graph Challenge's
    (Kepner et al. 2019, section II). NaN stays NaN.
    """
    np.maximum(Z, 0, out=Z)
    if cap is not None:
        np.minimum(Z, cap, out=Z)


def leaky_relu(Z: Array, slope: float = 0.01) -> None:
    """h(z) = z for z > 0, else slope * z (Maas, Hannun and Ng 2013)."""
    np.multiply(Z, slope, out=Z, where=Z < 0)


def tanh(Z: Array) -> None:
    """h(z) = tanh(z)."""
    np.tanh(Z, out=Z)


def sigmoid(Z: Array) -> None:
    """h(z) = 1 / (1 + exp(-z)), without overflow for large negative z."""
    from scipy.special import expit

    expit(Z, out=Z)


def gelu(Z: Array) -> None:
    """h(z) = z * Phi(z), Phi the normal distribution function (Hendrycks and Gimpel 2016)."""
    from scipy.special import ndtr

    Z *= ndtr(Z)


def softmax(Z: Array) -> None:
    """h(z)_i = exp(z_i - max z) / sum_j exp(z_j - max z), over the features of each column."""
    Z -= Z.max(axis=0)
    np.exp(Z, out=Z)
    Z /= Z.sum(axis=0)
