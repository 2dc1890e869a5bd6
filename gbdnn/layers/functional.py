"""Activations and their derivatives as plain functions on neuron-major arrays, in place.

An array has shape (..., features, batch). ``name(Z)`` replaces Z by h(Z). ``name_backward(kept,
dY)`` is the chain rule through it: it replaces dY, the gradient with respect to h(Z), by
dZ = dY * h'(Z); `kept`, which stays as it is, is h(Z) where that is enough and Z where it is not.
The layers that use them are in `gbdnn.layers.activations`.
"""

from __future__ import annotations

import math

import numpy as np

from gbdnn.types import Array

__all__ = [
    "gelu", "gelu_backward", "identity", "leaky_relu", "leaky_relu_backward", "relu",
    "relu_backward", "sigmoid", "sigmoid_backward", "softmax", "softmax_backward", "tanh",
    "tanh_backward",
]  # fmt: skip


def identity(Z: Array) -> None:
    """h(z) = z."""


def relu(Z: Array, cap: float | None = None) -> None:
    """h(z) = max(z, 0), or min(max(z, 0), cap).

    The (max, +) half of Kepner et al. 2017, eq. for Y_{k+1}; the cap is the Graph Challenge's
    (Kepner et al. 2019, section II). NaN stays NaN.
    """
    np.maximum(Z, 0, out=Z)
    if cap is not None:
        np.minimum(Z, float(cap), out=Z)


def relu_backward(Y: Array, dY: Array, cap: float | None = None) -> None:
    """dz = dy where 0 < h(z) < cap, else 0.

    At the kinks it is the subgradient 0, as in Glorot, Bordes and Bengio 2011 (section 3).
    """
    np.copyto(dY, 0, where=Y <= 0)
    if cap is not None:
        np.copyto(dY, 0, where=float(cap) <= Y)  # a weak float: compared in Y's dtype


def leaky_relu(Z: Array, slope: float = 0.01) -> None:
    """h(z) = z for z > 0, else slope * z (Maas, Hannun and Ng 2013)."""
    np.multiply(Z, slope, out=Z, where=Z < 0)


def leaky_relu_backward(kept: Array, dY: Array, slope: float = 0.01) -> None:
    """dz = dy for z > 0, else slope * dy (Maas, Hannun and Ng 2013, section 2).

    `kept` is Z; for slope >= 0, where h(z) > 0 exactly if z > 0, it may be h(Z).
    """
    np.multiply(dY, slope, out=dY, where=kept <= 0)


def tanh(Z: Array) -> None:
    """h(z) = tanh(z)."""
    np.tanh(Z, out=Z)


def tanh_backward(Y: Array, dY: Array) -> None:
    """dz = dy (1 - h²), h = h(z) (Bishop 2006, eq. 5.60).

    As (1 - h)(1 + h): the difference is exact near saturation, that of squares is not.
    """
    dY *= 1 - Y
    dY *= 1 + Y


def sigmoid(Z: Array) -> None:
    """h(z) = 1 / (1 + exp(-z)), without overflow for large negative z."""
    from scipy.special import expit

    expit(Z, out=Z)


def sigmoid_backward(Y: Array, dY: Array) -> None:
    """dz = dy h (1 - h), h = h(z) (Bishop 2006, eq. 4.88)."""
    dY *= Y
    dY *= 1 - Y


def gelu(Z: Array) -> None:
    """h(z) = z * Phi(z), Phi the normal distribution function (Hendrycks and Gimpel 2016)."""
    from scipy.special import ndtr

    Z *= ndtr(Z)


def gelu_backward(Z: Array, dY: Array) -> None:
    """dz = dy (Phi(z) + z phi(z)), the product rule on z Phi(z), whose factor's derivative is phi.

    phi(z) = exp(-z²/2) / sqrt(2 pi) (Hendrycks and Gimpel 2016, section 2). It wants Z, as z Phi(z)
    takes most of its negative values twice.
    """
    from scipy.special import ndtr

    with np.errstate(over="ignore"):  # z² may be infinite; exp(-inf) = 0
        slope = np.square(Z)
    slope *= -0.5
    np.exp(slope, out=slope)
    slope *= Z
    slope *= 1 / math.sqrt(2 * math.pi)
    slope += ndtr(Z)
    dY *= slope


def softmax(Z: Array) -> None:
    """h(z)_i = exp(z_i - max z) / sum_j exp(z_j - max z), over the features of each column."""
    Z -= Z.max(axis=-2, keepdims=True)
    np.exp(Z, out=Z)
    Z /= Z.sum(axis=-2, keepdims=True)


def softmax_backward(Y: Array, dY: Array) -> None:
    """dz_i = h_i (dy_i - sum_j h_j dy_j): the Jacobian is diag(h) - h hᵀ (Bishop 2006, eq. 4.106).

    Over the features of each column.
    """
    dY -= (Y * dY).sum(axis=-2, keepdims=True)
    dY *= Y
