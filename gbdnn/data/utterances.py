"""Utterances for transducers: frames and labels, and mini-batches of about equal length."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from gbdnn.data.inputs import SequenceInputs, as_inputs
from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.types import Array

__all__ = ["Augment", "UtteranceBatches", "Utterances", "utterances"]

POOL = 32  # mini-batches that are sorted by length together
AUGMENT = 4  # purpose of random numbers; see gbdnn.training.step

Augment = Callable[[Array, np.random.Generator], Array]


@dataclass(frozen=True, eq=False)
class Utterances:
    """Frames, and the labels that they say.

    Attributes
    ----------
    frames : list of ndarray of float, shapes (time_i, features)
    labels : list of ndarray of int64, shapes (number_i,)
    """

    frames: list[Array]
    labels: list[Array]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def total(self) -> float:
        """How many there are: the weight of a mini-batch."""
        return float(len(self))

    def some(self, ids: Array) -> Utterances:
        """Return those with the numbers `ids`."""
        return Utterances([self.frames[k] for k in ids], [self.labels[k] for k in ids])

    @cached_property
    def by_length(self) -> Array:
        """Their numbers, the longest first."""
        return np.argsort([-len(part) for part in self.frames], kind="stable")


class Takes(Protocol):
    """What utterances must look like; a `gbdnn.models.Transducer` knows it."""

    @property
    def in_features(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def blank(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...


def utterances(takes: Takes, X: Any, y: Any, prefix: str = "") -> Utterances:
    """Check utterances; frames of the right dtype are not copied.

    Parameters
    ----------
    takes : Transducer
    X : list of ndarray, shapes (time_i, features)
    y : list of array_like of int, shapes (number_i,)
        Labels below the vocabulary, without the blank; may be empty.
    prefix : str
        Put before the arguments' names in messages.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, InputError
    """
    if isinstance(X, list | tuple) and not len(X):
        raise ShapeError(f"{prefix}X", "at least one utterance", "none")
    inputs = as_inputs(X, takes.in_features, takes.dtype, name=f"{prefix}X")
    if not isinstance(inputs, SequenceInputs):
        raise DtypeError(f"{prefix}X", "a list of arrays (time, features)", type(X).__name__)
    if not isinstance(y, list | tuple) or len(y) != inputs.count:
        got = f"{len(y)} of them" if isinstance(y, list | tuple) else type(y).__name__
        raise ShapeError(f"{prefix}y", f"a list of {inputs.count} label sequences", got)
    labels = []
    for k, part in enumerate(y):
        array = np.asarray(part)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            got = f"{array.dtype} of shape {array.shape}"
            raise DtypeError(f"{prefix}y[{k}]", "whole numbers, one for each label", got)
        array = array.astype(np.int64)
        wrong = (array < 0) | (array >= takes.vocabulary) | (array == takes.blank)
        if wrong.any():
            most = takes.vocabulary - 1
            expected = f"labels from 0 to {most} without the blank {takes.blank}"
            raise InputError(f"{prefix}y[{k}]", expected, f"{array[wrong][0]}")
        labels.append(array)
    return Utterances(inputs.sequences, labels)


@dataclass(frozen=True, eq=False)
class UtteranceBatches:
    """Mini-batches of utterances of about equal length, in a new random order each epoch.

    Utterances are shuffled, taken together for 32 mini-batches at a time, sorted by length and cut;
    the mini-batches are shuffled again.

    Parameters
    ----------
    data : Utterances
    batch_size : int
    shuffle : bool
        Without it the order is that of the data.
    augment : callable, optional
        Called as augment(frames, rng) for each utterance of a mini-batch; returns frames of the
        same shape. The generator depends on seed, epoch and mini-batch alone.
    """

    data: Utterances
    batch_size: int
    shuffle: bool = True
    augment: Augment | None = None
    once = False

    @property
    def steps(self) -> int:
        """ceil(utterances / batch_size)."""
        return -(-len(self.data) // self.batch_size)

    @property
    def fingerprint(self) -> str:
        """Lengths and labels."""
        digest = hashlib.sha256()
        for frames, labels in zip(self.data.frames, self.data.labels, strict=True):
            digest.update(f"{frames.shape}".encode() + labels.tobytes())
        augment = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.augment))
        return f"{len(self.data)} utterances {digest.hexdigest()} {augment}"

    def epoch(self, number: int, seed: int, start: int = 0) -> Iterator[Utterances]:
        """Yield the mini-batches of an epoch from number `start` on."""
        for k, ids in enumerate(self._cut(number, seed)[start:], start):
            part = self.data.some(ids)
            if self.augment is not None:
                rng = np.random.default_rng([seed, AUGMENT, number, k])
                frames = [self._augmented(frames, rng) for frames in part.frames]
                part = Utterances(frames, part.labels)
            yield part

    def _cut(self, number: int, seed: int) -> Sequence[Array]:
        """Return the numbers of the utterances in each mini-batch."""
        order, size = np.arange(len(self.data)), self.batch_size
        if not self.shuffle:
            return [order[k : k + size] for k in range(0, len(order), size)]
        rng = np.random.default_rng([seed, 0, number])
        order = rng.permutation(order)
        lengths = np.array([len(frames) for frames in self.data.frames])
        found: list[Array] = []
        for first in range(0, len(order), POOL * size):
            pool = order[first : first + POOL * size]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            cut = [pool[k : k + size] for k in range(0, len(pool), size)]
            found += [cut[k] for k in rng.permutation(len(cut))]
        return found

    def _augmented(self, frames: Array, rng: np.random.Generator) -> Array:
        assert self.augment is not None
        made = np.asarray(self.augment(frames, rng))
        if made.shape != frames.shape:
            raise ShapeError("augment", f"frames of shape {frames.shape}", f"{made.shape}")
        return made.astype(frames.dtype, copy=False)
