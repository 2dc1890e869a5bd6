"""The layers of a challenge network for the executor, compacted as they are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gbdnn.backends.base import Backend
from gbdnn.challenge import files
from gbdnn.challenge.first import FirstLayer
from gbdnn.challenge.generate import Spec, layers
from gbdnn.challenge.images import InputBits
from gbdnn.compaction import twins_merged
from gbdnn.data.inputs import Inputs
from gbdnn.execution.source import Source
from gbdnn.execution.steps import Compiled, Step, compiled, prepared_step
from gbdnn.layers import Linear, ReLU
from gbdnn.machine import available_bytes
from gbdnn.types import Array
from gbdnn.weights import CSR

__all__ = ["ChallengeSource"]

KNOWN = 64  # layers for which it is kept where merged neurons are: runs in parts begin there


@dataclass(eq=False)
class ChallengeSource(Source):
    """The layers of a network: in memory if they fit, else made or read on the way."""

    spec: Spec
    data: Path | None
    compact: bool = False
    lazy: bool = True
    resident: list[Step] = field(default_factory=list)
    whole: Compiled | None = None
    compact_seconds: float = 0.0
    places: dict[int, Array | None] = field(default_factory=lambda: {0: None})
    stored: dict[int, int] = field(default_factory=dict)  # weights of merged layers
    first: CSR | None = None  # computed on the bits: the steps begin behind it

    dtype = np.dtype(np.float32)

    def __post_init__(self) -> None:
        self.depth, self.edges, self.widest = self.spec.layers, self.spec.edges, self.spec.neurons
        if self.data is None:  # 32 weights of 1/16 a row: they keep 0 (b < 0) and the cap
            self.keeps = frozenset((0.0, self.spec.cap))

    def load(self, backend: Backend, progress: Callable[[int], None] | None) -> None:
        """Prepare all layers now, if they take at most a quarter of the free memory.

        Where equal neurons are merged the layers behind the first one are narrow, and unpacking the
        bits would take longer than they do: `fused` computes the first layer on the bits.
        """
        if self.compact and backend.name == "fused" and self.depth > 1:
            first = next(self.merged(0))
            if FirstLayer.suits(first):
                self.first, self.widest, self.depth = first, first.shape[0], self.depth - 1
                self.edges -= self.spec.edges // self.spec.layers
        per_edge = 4 * self.spec.neurons / 32 if backend.name == "dense" else 16
        if self.spec.edges * per_edge > available_bytes() // 4:
            return  # also where merging makes them small: inputs may be done long before the end
        for step in self.steps(backend):
            self.resident.append(step)
            if progress:
                progress(1)
        self.lazy, self.whole = False, compiled(backend, self.resident)

    def behind_first(self, bits: InputBits) -> Inputs:
        """Return inputs for the steps: where these leave the first layer out, behind that."""
        if self.first is None:
            return bits
        return FirstLayer(bits, self.first, self.spec.bias, self.spec.cap)

    @property
    def compact_edges(self) -> int | None:
        """Stored weights after merging; None if not all layers were read, or nothing is merged."""
        return sum(self.stored.values()) if len(self.stored) == self.spec.layers else None

    def compiled(self, backend: Backend) -> Compiled | None:
        """Return the layers as one compiled call if they are in memory."""
        return self.whole

    def weights(self, start: int = 0) -> Iterator[CSR]:
        """Yield the weights from layer `start` on, generated or read."""
        if self.data is None:
            yield from layers(self.spec, start=start)
            return
        for k in range(start, self.spec.layers):
            path = files.layer_path(self.data, self.spec.neurons, k + 1)
            yield files.read_layer(path, self.spec.neurons)

    def merged(self, start: int) -> Iterator[CSR]:
        """Yield the weights without twins from layer `start` on."""
        known = max(k for k in self.places if k <= start)
        place = self.places[known]
        for k, weight in enumerate(self.weights(known), known):
            begin = time.perf_counter()
            made, place = twins_merged(weight, place, rows=k + 1 < self.spec.layers)
            self.compact_seconds += time.perf_counter() - begin
            self.stored[k] = made.nnz
            if k < KNOWN:
                self.places[k + 1] = place
            if k >= start:
                yield made

    def steps(self, backend: Backend, start: int = 0) -> Iterator[Step]:
        """Yield the layers in the backend's form."""
        if not self.lazy:
            yield from self.resident[start:]
            return
        h, start = ReLU(self.spec.cap), start + (self.first is not None)
        for weight in self.merged(start) if self.compact else self.weights(start):
            yield prepared_step(backend, (Linear(weight, self.spec.bias), h))
