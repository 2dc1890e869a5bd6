"""Which samples are held out for early stopping."""

from __future__ import annotations

import math

import numpy as np
from sklearn.model_selection import train_test_split

from gbdnn.errors import InputError
from gbdnn.types import Array

__all__ = ["hold_out"]


def hold_out(ids: Array, labels: Array | None, fraction: float, seed: int) -> tuple[Array, Array]:
    """Return the samples to train on and those that are held out, disjoint parts of `ids`.

    Parameters
    ----------
    ids : ndarray of int
        Numbers of samples; others, such as those of weight 0, are in neither part.
    labels : ndarray or None
        Of all samples. Each class has as large a part in both, or, where it has one sample or there
        are more classes than samples to hold out, at least one sample to train on.
    fraction : float
        Held out, rounded up.
    seed : int

    Raises
    ------
    InputError
        If fewer than two samples would be held out, or none of a class be left.
    """
    count = math.ceil(fraction * len(ids))
    if count < 2 or count >= len(ids):
        raise InputError(
            "validation_fraction", "one that holds out two samples or more, and not all",
            f"{fraction:g} of {len(ids)} samples (of weight above 0)",
            "The validation set is too small or too large: change it or take more samples.",
        )  # fmt: skip
    if labels is None:
        return _split(ids, count, seed, None)
    known, codes, sizes = np.unique(labels[ids], return_inverse=True, return_counts=True)
    if sizes.min() > 1 and len(known) <= min(count, len(ids) - count):
        return _split(ids, count, seed, codes)
    order = np.random.default_rng(seed).permutation(len(ids))
    first = np.unique(codes[order], return_index=True)[1]  # of each class one stays
    rest = np.delete(order, first)
    if len(rest) < count:
        alone = ", ".join(map(repr, known[sizes == 1].tolist()[:5])) or "none"
        raise InputError(
            "y", f"{len(known) + count} samples: one of each class to train on, {count} held out",
            f"{len(ids)} samples; classes with one sample: {alone}",
            "Lower validation_fraction, take more samples, or early_stopping=False.",
        )  # fmt: skip
    held = np.sort(rest[:count])
    return np.delete(ids, held), ids[held]


def _split(ids: Array, count: int, seed: int, codes: Array | None) -> tuple[Array, Array]:
    parts: tuple[Array, Array] = tuple(
        train_test_split(ids, test_size=count, random_state=seed, stratify=codes)
    )
    return parts
