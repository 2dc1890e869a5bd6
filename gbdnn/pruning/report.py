"""What pruning changed: entries, bytes, and measured speed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.layers import Linear
from gbdnn.machine import check_threads
from gbdnn.network import Network

__all__ = ["LayerChange", "PruningReport", "pruning_report"]

ROUND = 2e-3  # seconds that a round lasts at least


@dataclass(frozen=True)
class LayerChange:
    """A Linear before and after; `nnz` are stored entries, of a dense weight all places."""

    layer: int
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
        Sums over the layers; bytes of weights and biases as the network holds them.
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
        head = ["layer", "shape (out x in)"]
        head += [
            f"{what} {when}" for what in ("nnz", "density", "bytes") for when in ("before", "after")
        ]
        rows = [
            [str(c.layer), f"{c.shape[0]} x {c.shape[1]}", *_cells(c.nnz, c.density, c.bytes)]
            for c in self.layers
        ]
        table = [head, *rows, ["total", "", *_cells(self.nnz, self.density, self.bytes)]]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if k < 2 else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in table
        ]
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
    for name, count, least in (("batch", batch, 1), ("rounds", rounds, 0)):
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if not whole or count < least:
            raise InputError(name, f"a whole number from {least} up", repr(count))
    pairs = list(zip(_linears(before), _linears(after), strict=False))
    shapes = [[linear.weight.shape for linear in _linears(network)] for network in (before, after)]
    if shapes[0] != shapes[1]:
        raise ShapeError("after", f"layers of the shapes {shapes[0]}", f"{shapes[1]}")
    cores = check_threads(threads)
    seconds = None
    if rounds:
        if X is None:
            X = np.random.default_rng(0).standard_normal((batch, before.in_features), np.float32)
        seconds = _timed((before, after), X, rounds, backend, cores)
    return PruningReport(
        tuple(_change(k, *pair) for k, pair in enumerate(pairs)),
        (before.edges, after.edges), (before.nbytes, after.nbytes), seconds,
        0 if X is None else X.shape[0] if hasattr(X, "shape") else len(X),
        int(rounds), cores, backend,
    )  # fmt: skip


def _change(number: int, before: Linear, after: Linear) -> LayerChange:
    both = (before, after)
    places = before.out_features * before.in_features
    nnz = (before.edges, after.edges)
    nbytes = [linear.weight.nbytes + linear.bias.nbytes for linear in both]
    shape = (before.out_features, before.in_features)
    density = (nnz[0] / places, nnz[1] / places)
    return LayerChange(number, shape, nnz, density, (int(nbytes[0]), int(nbytes[1])))


def _timed(
    networks: tuple[Network, Network], X: Any, rounds: int, backend: str, threads: int
) -> tuple[float, float]:
    """Return the medians of the seconds of `predict`; the networks take turns."""
    calls = [partial(network.predict, X, backend=backend, threads=threads) for network in networks]
    seconds: list[list[float]] = [[], []]
    repeat = []
    for call in calls:
        call()  # prepares the weights, compiles
        once = min(_seconds(call, 1) for _ in range(3))
        repeat.append(max(1, math.ceil(ROUND / max(once, 1e-9))))
    for _ in range(rounds):
        for call, count, taken in zip(calls, repeat, seconds, strict=True):
            taken.append(_seconds(call, count))
    return median(seconds[0]), median(seconds[1])


def _seconds(call: Any, count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count


def _linears(network: Network) -> list[Linear]:
    return [layer for layer in network.layers if isinstance(layer, Linear)]


def _cells(
    nnz: tuple[int, int], density: tuple[float, float], nbytes: tuple[int, int]
) -> list[str]:
    return [
        *(f"{count:,}" for count in nnz),
        *(f"{part:.3%}" for part in density),
        *(f"{count:,}" for count in nbytes),
    ]
