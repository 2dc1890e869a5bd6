"""What pruning changed: entries, bytes, and measured speed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from statistics import median
from timeit import repeat, timeit
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.errors import DtypeError, ShapeError
from gbdnn.machine import check_threads
from gbdnn.network import Network
from gbdnn.summary import text_table

__all__ = ["LayerChange", "PruningReport", "pruning_report"]

ROUND = 2e-3  # seconds that a round lasts at least


@dataclass(frozen=True)
class LayerChange:
    """A weight before and after.

    Attributes
    ----------
    name : str
        "layers.0.weight".
    nnz, density : tuple of int, of float
        Stored entries (of a dense weight all places), and what part of all places they are.
    bytes : tuple of int
        Of the weight; the first weight of a layer counts its biases too.
    """

    name: str
    shape: tuple[int, int]
    nnz: tuple[int, int]
    density: tuple[float, float]
    bytes: tuple[int, int]


@dataclass(frozen=True)
class PruningReport:
    """Two networks beside each other: pairs are (before, after). Prints as a table.

    Attributes
    ----------
    layers : tuple of LayerChange
    nnz, bytes : tuple of int
        Of all weights; bytes of weights and biases as the network holds them.
    seconds : tuple of float or None
        Medians over the rounds of `predict` for `samples` samples.
    samples, rounds, threads : int
    backend : str
    """

    layers: tuple[LayerChange, ...]
    nnz: tuple[int, int]
    bytes: tuple[int, int]
    seconds: tuple[float, float] | None
    samples: int
    rounds: int
    threads: int
    backend: str

    @property
    def density(self) -> tuple[float, float]:
        """Stored entries over all places."""
        places = sum(math.prod(change.shape) for change in self.layers)
        return self.nnz[0] / places, self.nnz[1] / places

    @property
    def speedup(self) -> float | None:
        """How many times faster `predict` has become."""
        return None if self.seconds is None else self.seconds[0] / self.seconds[1]

    def __str__(self) -> str:
        head = [f"{what} {when}" for what in ("nnz", "density", "bytes")
                for when in ("before", "after")]  # fmt: skip
        rows = [[c.name, f"{c.shape[0]} x {c.shape[1]}", *_cells(c)] for c in self.layers]
        table = [["weight", "shape (out x in)", *head], *rows, ["total", "", *_cells(self)]]
        lines = [text_table(table, left=2)]
        if self.seconds is not None and self.speedup is not None:
            before, after = (f"{1e3 * seconds:.3g} ms" for seconds in self.seconds)
            lines.append(
                f"predict, {self.samples} samples, {self.backend}, {self.threads} threads, medians "
                f"of {self.rounds} rounds: {before} before, {after} after ({self.speedup:.2f} x)"
            )
        return "\n".join(lines)


def pruning_report(
    before: Network,
    after: Network,
    *,
    X: Any = None,
    batch: int = 256,
    rounds: int = 15,
    backend: str = "fused",
    threads: int | None = None,
) -> PruningReport:
    """Compare a network with what pruning made of it, by size and by measured speed.

    Parameters
    ----------
    before, after : Network
        Layers of the same shapes.
    X : array_like or scipy sparse, optional
        What `predict` is timed with; default `batch` samples of normal random numbers.
    batch : int
        Number of those.
    rounds : int
        The two networks are timed in turn, each round once (or several times, if that is quicker
        than 2 ms), after a warm-up. 0: no timing.
    backend : str
        "dense" compares what the dense product makes of both.
    threads : int, optional
        Default all cores.

    Raises
    ------
    ShapeError, DtypeError, InputError
    """
    for name, network in (("before", before), ("after", after)):
        if not isinstance(network, Network):
            raise DtypeError(name, "a Network", type(network).__name__)
    checks.count("batch", batch)
    checks.count("rounds", rounds, least=0)
    shapes, found = (
        [weight.shape for weight in network.weights.values()] for network in (before, after)
    )
    if shapes != found:
        raise ShapeError("after", f"weights of the shapes {shapes}", f"{found}")
    cores = check_threads(threads)
    seconds = None
    if rounds:
        if X is None:
            X = np.random.default_rng(0).standard_normal((batch, before.in_features), np.float32)
        seconds = _timed((before, after), X, rounds, backend, cores)
    changes = _changes(before, after)
    old, new = (sum(change.nnz[k] for change in changes) for k in range(2))
    return PruningReport(
        changes, (old, new), (before.nbytes, after.nbytes), seconds,
        0 if X is None else X.shape[0] if hasattr(X, "shape") else len(X),
        int(rounds), cores, backend,
    )  # fmt: skip


def _changes(before: Network, after: Network) -> tuple[LayerChange, ...]:
    pairs = zip(before.weights.items(), after.weights.values(), strict=True)
    nbytes = list(zip(_bytes(before), _bytes(after), strict=True))
    return tuple(
        LayerChange(name, old.shape, (old.nnz, new.nnz), (old.density, new.density), nbytes[k])
        for k, ((name, old), new) in enumerate(pairs)
    )


def _bytes(network: Network) -> list[int]:
    """Return the bytes of each weight, of a layer's first one with those of its other arrays."""
    found: list[int] = []
    for layer in network.layers:
        own = [int(getattr(layer, name).nbytes) for name in layer.weight_names]
        if own:
            found += [own[0] + layer.nbytes - sum(own), *own[1:]]
    return found


def _timed(
    networks: tuple[Network, Network], X: Any, rounds: int, backend: str, threads: int
) -> tuple[float, float]:
    """Return the medians of the seconds of `predict`; the networks take turns."""
    calls = [partial(network.predict, X, backend=backend, threads=threads) for network in networks]
    for call in calls:
        call()  # prepares the weights, compiles
    once = [min(repeat(call, number=1, repeat=3)) for call in calls]
    counts = [max(1, math.ceil(ROUND / max(seconds, 1e-9))) for seconds in once]
    taken = [
        [timeit(call, number=count) / count for call, count in zip(calls, counts, strict=True)]
        for _ in range(rounds)
    ]
    before, after = map(median, zip(*taken, strict=True))
    return before, after


def _cells(change: LayerChange | PruningReport) -> list[str]:
    return [
        *(f"{count:,}" for count in change.nnz),
        *(f"{part:.3%}" for part in change.density),
        *(f"{count:,}" for count in change.bytes),
    ]
