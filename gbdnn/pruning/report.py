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
from gbdnn.errors import InputError, ShapeError
from gbdnn.layers import Embedding
from gbdnn.machine import check_threads
from gbdnn.network import Network, check_network
from gbdnn.summary import text_table
from gbdnn.weights.foreign import numeric_array

__all__ = ["LayerChange", "PruningReport", "pruning_report"]

ROUND = 2e-3  # seconds that a round lasts at least
STEPS = 16  # of random sequences


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
    accuracy : tuple of float or None
        Part of the samples whose class is right, where `y` has classes.
    mean_squared_error : tuple of float or None
        Over samples and outputs, where `y` has values.
    """

    layers: tuple[LayerChange, ...]
    nnz: tuple[int, int]
    bytes: tuple[int, int]
    seconds: tuple[float, float] | None
    samples: int
    rounds: int
    threads: int
    backend: str
    accuracy: tuple[float, float] | None = None
    mean_squared_error: tuple[float, float] | None = None

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
        for name in ("accuracy", "mean_squared_error"):
            if (pair := getattr(self, name)) is not None:
                text = f"{pair[0]:.4f} before, {pair[1]:.4f} after"
                lines.append(f"{name.replace('_', ' ')}, {self.samples} samples: {text}")
        return "\n".join(lines)


def pruning_report(
    before: Network,
    after: Network,
    *,
    X: Any = None,
    y: Any = None,
    batch: int = 256,
    rounds: int = 15,
    backend: str = "fused",
    threads: int | None = None,
) -> PruningReport:
    """Compare a network with what pruning made of it, by size and by measured speed.

    Parameters
    ----------
    before, after : Network
        Layers of the same shapes, or of `compact` smaller ones.
    X : array_like, scipy sparse or list of sequences, optional
        What `predict` is timed with; default `batch` samples of normal random numbers, for
        recurrent layers sequences of 16 of them, for an embedding random symbols.
    y : array_like, optional
        Targets of X: classes as whole numbers from 0, shape (n_samples,), or values of the shape of
        the outputs. Adds accuracy or mean squared error.
    batch : int
        Number of random samples.
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
        check_network(name, network)
    checks.count("batch", batch)
    checks.count("rounds", rounds, least=0)
    shapes, found = (
        [weight.shape for weight in network.weights.values()] for network in (before, after)
    )
    if (
        len(shapes) != len(found)
        or any(new[0] > old[0] or new[1] > old[1] for old, new in zip(shapes, found, strict=True))
        or (shapes[0][1], shapes[-1][0]) != (found[0][1], found[-1][0])
    ):
        raise ShapeError("after", f"weights of the shapes {shapes}", f"{found}")
    cores = check_threads(threads)
    if y is not None and X is None:
        raise InputError("X", "the samples that y belongs to", "None")
    if X is None and rounds:
        X = _random(before, batch)
    seconds = _timed((before, after), X, rounds, backend, cores) if rounds else None
    score: dict[str, tuple[float, float]] = {}
    if y is not None:
        outputs = [each.predict(X, backend=backend, threads=cores) for each in (before, after)]
        score = _scores(before, outputs, y)
    changes = _changes(before, after)
    old, new = (sum(change.nnz[k] for change in changes) for k in range(2))
    return PruningReport(
        changes, (old, new), (before.nbytes, after.nbytes), seconds,
        0 if X is None else X.shape[0] if hasattr(X, "shape") else len(X),
        int(rounds), cores, backend, **score,
    )  # fmt: skip


def _random(network: Network, batch: int) -> Any:
    """Return normal random numbers, or symbols, that the network can take."""
    rng, first = np.random.default_rng(0), network.layers[0]
    over_time = any(layer.over_time for layer in network.layers)
    shape = (batch, STEPS, network.in_features) if over_time else (batch, network.in_features)
    if isinstance(first, Embedding):
        X: Any = rng.integers(first.weight.shape[1], size=shape)
    else:
        X = rng.standard_normal(shape, np.float32)
    return list(X) if over_time else X


def _scores(network: Network, outputs: list[Any], y: Any) -> dict[str, tuple[float, float]]:
    """Return the accuracies, or the mean squared errors, of two networks' outputs."""
    targets, found = numeric_array(y, "y"), []
    if any(isinstance(each, list) for each in outputs):  # of sequences
        outputs = [np.concatenate(each) for each in outputs]
    classes = targets.ndim == 1 and targets.dtype.kind in "biu"
    rows, width = outputs[0].shape
    if classes and len(targets) == rows:
        half = 0.5 if network.layers[-1].kind == "sigmoid" else 0.0
        for each in outputs:
            guess = each[:, 0] > half if width == 1 else each.argmax(axis=1)
            found.append(float((guess == targets).mean()))
        return {"accuracy": (found[0], found[1])}
    if not classes and targets.size == rows * width and len(targets) == rows:
        errors = [float(np.square(targets.reshape(rows, width) - each).mean()) for each in outputs]
        return {"mean_squared_error": (errors[0], errors[1])}
    expected = f"{rows} classes as whole numbers, or values of shape {(rows, width)}"
    raise ShapeError("y", expected, f"{targets.dtype} of shape {targets.shape}")


def _changes(before: Network, after: Network) -> tuple[LayerChange, ...]:
    pairs = zip(before.weights.items(), after.weights.values(), strict=True)
    nbytes = list(zip(_bytes(before), _bytes(after), strict=True))
    return tuple(
        LayerChange(name, old.shape, (old.nnz, new.nnz),
                    (old.density, new.nnz / math.prod(old.shape)), nbytes[k])
        for k, ((name, old), new) in enumerate(pairs)
    )  # fmt: skip


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
