"""Losses: a number for a batch, and its gradient with respect to the last layer's output.

A loss function is ``name(Z, targets, weights) -> float`` for the last layer's Z, shape (features,
batch). It returns L = sum_i weights[i] l_i, the sum in float64, and replaces Z by dL/dZ: a column
of weight 0 gets the gradient 0. Targets are either classes, integers of shape (batch,), or values
of Z's shape.

`LOSSES` is the table: a `Loss` that is put into it can be trained with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.layers.functional import sigmoid
from gbdnn.types import Array

__all__ = [
    "LOSSES", "Loss", "accuracy", "binary_cross_entropy", "cross_entropy", "hinge", "huber",
    "label_accuracy", "label_cross_entropy", "mse", "r_squared", "squared_error",
]  # fmt: skip

LossFunction = Callable[[Array, Array, Array], float]


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
    score : callable
        ``score(outputs, targets, weights) -> float``, higher is better; outputs of shape
        (n_samples, features) as the loss takes them, weights that sum to 1.
    absorbs : str, optional
        The kind of the activation that the loss contains. As the last layer of a network it is left
        out in training: the loss wants what comes before it.
    scores : bool
        It takes scores of any size: a last layer that squeezes them contradicts it.
    probabilities : bool
        Targets must be from 0 to 1.
    least_outputs : int
        Outputs that the network has at least.
    """

    name: str
    function: LossFunction
    kind: Literal["classes", "values"]
    score: Callable[[Array, Array, Array], float]
    absorbs: str | None = None
    scores: bool = False
    probabilities: bool = False
    least_outputs: int = 1


def accuracy(outputs: Array, targets: Array, weights: Array) -> float:
    """Return the part of the samples whose largest output, or sign, is that of their class."""
    one = outputs.shape[1] == 1
    guess = (outputs[:, 0] > 0).astype(np.int64) if one else outputs.argmax(axis=1)
    return float(weights @ (guess == targets))


def label_accuracy(outputs: Array, targets: Array, weights: Array) -> float:
    """Return the part of the samples of which all labels are right."""
    return float(weights @ ((outputs > 0) == (targets > 0.5)).all(axis=1))


def r_squared(outputs: Array, targets: Array, weights: Array) -> float:
    """Return the mean over the outputs of R^2 = 1 - residual / spread, as `r2_score` does.

    That is scikit-learn's with its defaults: an output without spread counts 1 if nothing is left
    of it, else 0.
    """
    targets = targets.astype(np.float64)
    residual = weights @ (targets - outputs) ** 2
    spread = weights @ (targets - weights @ targets) ** 2
    known = np.ptp(targets[weights > 0], axis=0) > 0
    each = np.where(known, 1 - residual / np.where(known, spread, 1), residual == 0)
    return float(each.mean())


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


def label_cross_entropy(Z: Array, targets: Array, weights: Array) -> float:
    """l = sum_j (log(1 + exp z_j) - t_j z_j): `binary_cross_entropy` summed over the labels."""
    return _scaled(binary_cross_entropy, Z, targets, weights, len(Z))


def squared_error(Z: Array, targets: Array, weights: Array) -> float:
    """l = sum_j (z_j - t_j)² / 2; dl/dz_j = z_j - t_j. Parameters as of `mse`."""
    return _scaled(mse, Z, targets, weights, len(Z) / 2)


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


def _scaled(
    function: LossFunction, Z: Array, targets: Array, weights: Array, factor: float
) -> float:
    """Return a loss times `factor`, and so its gradient."""
    value = function(Z, targets, weights)
    Z *= factor
    return value * factor


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


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("binary_cross_entropy", binary_cross_entropy, "values", label_accuracy, "sigmoid",
             scores=True, probabilities=True),
        Loss("cross_entropy", cross_entropy, "classes", accuracy, "softmax", scores=True,
             least_outputs=2),
        Loss("hinge", hinge, "classes", accuracy, scores=True),
        Loss("huber", huber, "values", r_squared),
        Loss("label_cross_entropy", label_cross_entropy, "values", label_accuracy, "sigmoid",
             scores=True, probabilities=True),
        Loss("mse", mse, "values", r_squared),
        Loss("squared_error", squared_error, "values", r_squared),
    )
}  # fmt: skip
