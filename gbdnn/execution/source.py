"""What the executor is given, and what it gives back: layers, a place for results, counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gbdnn.backends.base import Backend
from gbdnn.execution.steps import Compiled, Step
from gbdnn.types import Array

__all__ = ["ArraySink", "Sink", "Source", "Work"]


class Source:
    """Layers, in memory or made on the way.

    Attributes
    ----------
    depth : int
        Number of steps.
    edges : int
        Stored weights of all layers.
    widest : int
        Largest number of features before, between or after the layers.
    dtype : float32 or float64
        What the layers compute in.
    time_factor : int
        So many time steps of a sequence have one row of the result.
    lazy : bool
        `steps` makes layers on the way, so that fetching ahead pays.
    keeps : frozenset of float
        Constants that all layers are known to keep, without looking at them one by one.
    """

    depth: int
    edges: int
    widest: int
    dtype: np.dtype[Any]
    time_factor: int = 1
    lazy: bool = False
    keeps: frozenset[float] = frozenset()

    def steps(self, backend: Backend, start: int = 0) -> Iterator[Step]:
        """Yield the steps from number `start` on, in the backend's form."""
        raise NotImplementedError

    def compiled(self, backend: Backend) -> Compiled | None:
        """Return all layers as one call for small batches; None if there is no such."""
        return None


class Sink(Protocol):
    """Where results go. Called from several threads, never twice for a column."""

    @property
    def view(self) -> Array | None:
        """The results as (features, samples), if all of them may be written there."""

    def write(self, ids: Array, Y: Array) -> None:
        """Take the last layer's columns Y, shape (features, len(ids)), of the results `ids`."""

    def fill(self, ids: Array, value: float) -> None:
        """Results `ids` have `value` in every feature."""


@dataclass(eq=False)
class ArraySink:
    """Collects results in a (n_samples, out_features) array."""

    out: Array

    @property
    def view(self) -> Array:
        """The results as (features, samples), for those who can write all of them."""
        return self.out.T

    def write(self, ids: Array, Y: Array) -> None:
        """Store columns as rows."""
        if len(ids) and ids[-1] - ids[0] + 1 == len(ids) and (np.diff(ids) == 1).all():
            self.out[ids[0] : ids[-1] + 1] = Y.T
        else:
            self.out[ids] = Y.T

    def fill(self, ids: Array, value: float) -> None:
        """Store constant rows."""
        self.out[ids] = value


@dataclass
class Work:
    """What a run did: edges = stored weights x columns; effective ones were computed.

    `seconds` is the whole time, `waited` the part of it that was spent waiting for layers which a
    lazy source had not made or read yet.
    """

    nominal_edges: int = 0
    effective_edges: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def __iadd__(self, other: Work) -> Work:
        self.nominal_edges += other.nominal_edges
        self.effective_edges += other.effective_edges
        self.seconds += other.seconds
        self.waited += other.waited
        return self
