"""Activations, their derivatives and losses as plain functions on neuron-major arrays, in place.

An array has shape (..., features, batch). ``name(Z)`` replaces Z by h(Z). ``name_backward(kept,
dY)`` is the chain rule through it: it replaces dY, the gradient with respect to h(Z), by
dZ = dY * h'(Z); `kept`, which stays as it is, is h(Z) where that is enough and Z where it is not.
The names that `Network` and training accept are in `gbdnn.layers`: `ACTIVATIONS` and `LOSSES`.

A loss is ``name(Z, targets, weights) -> float`` for the last layer's Z, shape (features, batch),
and returns L = sum_i weights[i] l_i, the sum in float64. It replaces Z by dL/dZ: a column of weight
0 gets the gradient 0. Targets are either classes, integers of shape (batch,), or values of Z's
shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gbdnn.errors import DtypeError, InputError, ShapeError

__all__ = [
    "Loss",
    "binary_cross_entropy",
    "cross_entropy",
    "gelu",
    "gelu_backward",
    "hinge",
    "huber",
    "identity",
    "leaky_relu",
    "leaky_relu_backward",
    "mse",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
]

Array = npt.NDArray[Any]


# -- activations -----------------------------------------------------------------------------------


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


# -- losses ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loss:
    """A loss with what must be known to use it.

    Parameters
    ----------
    name : str
    function : callable
        ``function(Z, targets, weights) -> float``; replaces Z by dL/dZ.
    kind : {"classes", "values"}
        Targets are integers of shape (batch,), or values of shape (features, batch).
    absorbs : type, optional
        The activation (a class of `gbdnn.layers`) that the loss contains. As the last layer of a
        network it is left out in training: the loss wants what comes before it.
    """

    name: str
    function: Callable[[Array, Array, Array], float]
    kind: Literal["classes", "values"]
    absorbs: type | None = None


def cross_entropy(Z: Array, targets: Array, weights: Array) -> float:
    """l = log(sum_j exp z_j) - z_t for the class t: softmax and its cross-entropy in one.

    dl/dz_j = softmax(z)_j - [j = t] (Bishop 2006, eqs. 4.108 and 4.109). With the largest z
    subtracted before the exponentials nothing overflows (Blanchard, Higham and Higham 2021).

    Parameters
    ----------
    Z : ndarray, shape (classes, batch)
        Logits, without a softmax. Replaced by dL/dZ.
    targets : ndarray of int, shape (batch,)
        Classes, 0 ... classes - 1.
    weights : ndarray, shape (batch,)

    Raises
    ------
    ShapeError, DtypeError, InputError
        For targets that are not such classes.
    """
    columns = _check_classes(targets, len(Z), Z)
    Z -= Z.max(axis=0)
    right = Z[targets, columns]
    np.exp(Z, out=Z)
    total = Z.sum(axis=0)
    value = _weighted(np.log(total) - right, weights)
    Z /= total
    Z[targets, columns] -= 1
    Z *= weights
    return value


def mse(Z: Array, targets: Array, weights: Array) -> float:
    """l = mean_j (z_j - t_j)²; dl/dz_j = 2 (z_j - t_j) / features (Bishop 2006, eq. 5.11).

    Parameters
    ----------
    Z : ndarray, shape (features, batch)
        Replaced by dL/dZ.
    targets : ndarray, shape (features, batch)
    weights : ndarray, shape (batch,)

    Raises
    ------
    ShapeError
        If the targets' shape differs from Z's.
    """
    _check_values(targets, Z)
    Z -= targets
    value = _weighted(np.mean(np.square(Z, dtype=np.float64), axis=0), weights)
    Z *= weights * (2 / len(Z))
    return value


def binary_cross_entropy(Z: Array, targets: Array, weights: Array) -> float:
    """l = mean_j (log(1 + exp z_j) - t_j z_j): sigmoid and cross-entropy of each label in one.

    dl/dz_j = (sigmoid(z_j) - t_j) / features (Bishop 2006, eqs. 4.90 and 4.91), evaluated as
    max(z, 0) - t z + log(1 + exp(-|z|)), which neither overflows nor cancels.

    Parameters
    ----------
    Z : ndarray, shape (labels, batch)
        Logits, without a sigmoid. Replaced by dL/dZ.
    targets : ndarray, shape (labels, batch)
        Probabilities; 0 and 1 as a rule.
    weights : ndarray, shape (batch,)

    Raises
    ------
    ShapeError
        If the targets' shape differs from Z's.
    """
    _check_values(targets, Z)
    each = np.log1p(np.exp(-abs(Z)))
    each += np.maximum(Z, 0) - targets * Z
    value = _weighted(each.mean(axis=0, dtype=np.float64), weights)
    sigmoid(Z)
    Z -= targets
    Z *= weights / len(Z)
    return value


def huber(Z: Array, targets: Array, weights: Array) -> float:
    """l = mean_j rho(z_j - t_j), rho(r) = r²/2 for |r| <= 1, else |r| - 1/2 (Huber 1964).

    dl/dz_j = min(max(z_j - t_j, -1), 1) / features. Parameters as of `mse`.
    """
    _check_values(targets, Z)
    Z -= targets
    size = abs(Z)
    near = np.minimum(size, 1, dtype=np.float64)
    value = _weighted(np.mean(near * (size - near / 2), axis=0), weights)
    np.clip(Z, -1, 1, out=Z)
    Z *= weights / len(Z)
    return value


def hinge(Z: Array, targets: Array, weights: Array) -> float:
    """l = max(0, 1 + max_{j != t} z_j - z_t) for the class t (Crammer and Singer 2001, eq. 3).

    dl/dz is -1 at t and 1 at the largest other score, or 0 where the margin is kept. One output
    tells two classes apart: l = max(0, 1 - s z) with s = 1 for class 1 and -1 for class 0.

    Parameters
    ----------
    Z : ndarray, shape (classes, batch) or (1, batch)
        Scores. Replaced by dL/dZ.
    targets : ndarray of int, shape (batch,)
        Classes, 0 ... classes - 1; 0 or 1 for one output.
    weights : ndarray, shape (batch,)

    Raises
    ------
    ShapeError, DtypeError, InputError
        For targets that are not such classes.
    """
    columns = _check_classes(targets, max(len(Z), 2), Z)
    if len(Z) == 1:
        sign = np.where(targets == 1, 1, -1).astype(Z.dtype)
        margin = 1 - sign * Z[0]
        Z[0] = -sign * (margin > 0) * weights
        return _weighted(np.maximum(margin, 0), weights)
    right = Z[targets, columns]
    Z[targets, columns] = -np.inf
    rival = Z.argmax(axis=0)
    margin = 1 + Z[rival, columns] - right
    pull = (margin > 0) * weights
    Z[...] = 0
    Z[rival, columns] = pull
    Z[targets, columns] = -pull
    return _weighted(np.maximum(margin, 0), weights)


def _weighted(each: Array, weights: Array) -> float:
    """Return sum_i weights[i] each[i], summed in float64."""
    return float(np.dot(each.astype(np.float64), weights.astype(np.float64)))


def _check_classes(targets: Array, classes: int, Z: Array) -> Array:
    """Return the numbers of Z's columns, once `targets` has a class of Z for each."""
    if targets.shape != Z.shape[1:]:
        raise ShapeError("targets", f"a class for each of {Z.shape[1]} columns", f"{targets.shape}")
    if targets.dtype.kind not in "iu":
        raise DtypeError("targets", "whole numbers, the classes", str(targets.dtype))
    if len(targets) and not (targets.min() >= 0 and targets.max() < classes):
        got = f"{targets.min()} to {targets.max()}"
        raise InputError("targets", f"classes from 0 to {classes - 1}", got)
    return np.arange(len(targets))


def _check_values(targets: Array, Z: Array) -> None:
    if targets.shape != Z.shape:
        raise ShapeError("targets", f"shape {Z.shape}, (features, batch)", f"{targets.shape}")
