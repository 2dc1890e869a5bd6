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
import numpy.typing as npt

from gbdnn.data.inputs import BitInputs, DenseInputs, Inputs, SparseInputs
from gbdnn.data.samples import Takes, as_targets, as_weights, samples, weighted
from gbdnn.errors import DtypeError
from gbdnn.weights.csr import ranges

__all__ = [
    "ArrayBatches",
    "Batch",
    "Batches",
    "StreamBatches",
    "as_targets",
    "as_weights",
    "samples",
    "take",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples of `inputs`, with targets and weights of these samples.

    The weights sum to 1, or are all 0.
    """

    inputs: Inputs
    ids: Array
    targets: Array
    weights: Array
    total: float  # of the samples' weights before they were divided by it


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

    def epoch(self, number: int, seed: int, start: int = 0) -> Iterator[Batch]:
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
        """Samples whose weight is not 0, ascending."""
        return np.flatnonzero(self.weights)

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
            yield _batch(self.inputs, ids, self.targets[ids], self.weights[ids])


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
    total = float(weights.sum())
    return Batch(inputs, ids, targets, weights / total if total else weights, total)


def take(inputs: Inputs, ids: Array, out: Array) -> None:
    """Write samples `ids`, in this order, as the columns of `out`, shape (features, len(ids))."""
    if isinstance(inputs, DenseInputs):
        DenseInputs(inputs.X[ids], inputs.check).load(0, len(ids), out)
    elif isinstance(inputs, SparseInputs):
        _take_sparse(inputs, ids, out)
    elif isinstance(inputs, BitInputs):
        out[...] = inputs.bits[:, ids // 8] >> (7 - ids % 8).astype(np.uint8) & 1
    else:
        for column, sample in enumerate(ids):
            inputs.load(int(sample), int(sample) + 1, out[:, column : column + 1])


def _take_sparse(inputs: SparseInputs, ids: Array, out: Array) -> None:
    X = inputs.X
    begin, end = X.indptr[ids], X.indptr[ids + 1]
    lengths = end - begin
    columns = np.repeat(np.arange(len(ids)), lengths)
    entries = ranges(begin, lengths)
    out.fill(0)
    out[X.indices[entries], columns] = X.full_values[entries]
