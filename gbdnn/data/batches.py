"""Mini-batches: which samples, in which order, loaded into neuron-major tiles.

The order of an epoch depends on the seed and the epoch's number alone, so that a training can go on
from the middle of an epoch without a random generator's state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import numpy as np

from gbdnn.data.inputs import Inputs
from gbdnn.data.samples import Takes, samples, weighted
from gbdnn.errors import DtypeError
from gbdnn.types import Array

__all__ = ["ArrayBatches", "Batch", "Batches", "StreamBatches"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples of `inputs`.

    Attributes
    ----------
    inputs : Inputs
    ids : ndarray of int
        Their numbers.
    targets : ndarray, shape (rows,) or (rows, out_features)
        Of all rows of `inputs`.
    weights : ndarray, shape (rows,)
        Of all rows of `inputs`; those of the batch are divided by `total`, unless it is 0.
    total : float
        Sum of the weights of the batch.
    """

    inputs: Inputs
    ids: Array
    targets: Array
    weights: Array
    total: float

    def tile(self, rows: Array) -> tuple[Array, Array]:
        """Return targets and weights of the columns of a tile; a column of row -1 weighs nothing.

        Parameters
        ----------
        rows : ndarray of int, shape (width,)

        Returns
        -------
        targets : ndarray, shape (width,) or (out_features, width)
        weights : ndarray of float64, shape (width,)
        """
        weights = np.where(rows < 0, 0.0, self.weights[rows])
        return self.targets[np.maximum(rows, 0)].T, weights / self.total if self.total else weights


class Batches(Protocol):
    """The mini-batches of an epoch."""

    @property
    def steps(self) -> int | None:
        """Mini-batches in an epoch, None if that is not known."""

    @property
    def once(self) -> bool:
        """Whether they can be passed over once only."""

    @property
    def fingerprint(self) -> str:
        """What a checkpoint remembers, so as not to go on with other data."""

    def epoch(self, number: int, seed: int, start: int = 0) -> Iterator[Any]:
        """Yield the mini-batches of an epoch from number `start` on."""


@dataclass(frozen=True, eq=False)
class ArrayBatches:
    """Mini-batches of arrays in memory, in a new random order each epoch.

    Samples of weight 0 are left out: it is as if they had not been given.
    """

    inputs: Inputs
    targets: Array
    weights: Array
    batch_size: int
    shuffle: bool = True
    once = False

    @cached_property
    def used(self) -> Array:
        """Samples with a weight that is not 0, ascending."""
        return np.unique(self.inputs.samples_of_rows[np.flatnonzero(self.weights)])

    @property
    def steps(self) -> int:
        """ceil(samples / batch_size): the last mini-batch may be smaller."""
        return -(-len(self.used) // self.batch_size)

    @property
    def fingerprint(self) -> str:
        """Number of samples, targets and weights."""
        parts = (np.ascontiguousarray(part).data for part in (self.targets, self.weights))
        digests = [hashlib.sha256(part).hexdigest() for part in parts]
        return f"{self.inputs.count} samples, {' '.join(digests)}"

    def epoch(self, number: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield the mini-batches of an epoch."""
        order = self.used
        if self.shuffle:
            order = order[np.random.default_rng([seed, 0, number]).permutation(len(order))]
        for k in range(start, self.steps):
            ids = order[k * self.batch_size : (k + 1) * self.batch_size]
            yield _batch(self.inputs, ids, self.targets, self.weights)


@dataclass(frozen=True, eq=False)
class StreamBatches:
    """Mini-batches from an iterable of (X, y) or (X, y, sample_weight), one pass an epoch.

    Parameters
    ----------
    stream : iterable
        An iterator (what has ``__next__``: a generator, ``map``, ...) can be passed over once only:
        each epoch takes the next `given_steps` items of it.
    takes : Model
        What the samples must look like.
    given_steps : int, optional
        Items in an epoch; default all.
    factors : ndarray, optional
        Of each class, for the samples' weights.
    """

    stream: Iterable[Any]
    takes: Takes
    given_steps: int | None = None
    factors: Array | None = None

    @property
    def steps(self) -> int | None:
        """What was given, or the length of the iterable."""
        if self.given_steps is not None:
            return self.given_steps
        return len(self.stream) if isinstance(self.stream, Sized) else None

    @property
    def once(self) -> bool:
        """Whether it is an iterator."""
        return isinstance(self.stream, Iterator)

    @property
    def fingerprint(self) -> str:
        """Nothing is known of the items before they come."""
        return "an iterable"

    def epoch(self, number: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield the items, checked; an iterable's first `start` are taken and thrown away."""
        stop = self.given_steps
        if self.once:  # it stands where the last step left it
            items = islice(self.stream, None if stop is None else max(stop - start, 0))
        else:
            items = islice(self.stream, start, stop)
        for item in items:
            if not (isinstance(item, tuple | list) and len(item) in (2, 3)):
                expected = "tuples (X, y) or (X, y, sample_weight) from the iterable"
                raise DtypeError("X", expected, type(item).__name__)
            X, y, sample_weight = (*item, None)[:3]
            inputs, targets, weights = samples(self.takes, X, y, sample_weight, some=False)
            if self.factors is not None:
                weights = weighted(weights, self.factors, targets, some=False)
            yield _batch(inputs, np.arange(inputs.count), targets, weights)


def _batch(inputs: Inputs, ids: Array, targets: Array, weights: Array) -> Batch:
    rows = inputs.places(ids).ravel()
    return Batch(inputs, ids, targets, weights, float(weights[rows[rows >= 0]].sum()))
