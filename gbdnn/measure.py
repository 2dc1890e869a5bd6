"""Measuring the cost table: small layers in each engine, engine after engine, in several rounds.

The rounds let every engine meet the same weather: a burst of other load spoils one sample, and the
fastest counts. Engines do not alternate call by call, because the threads of one that still spin
would slow the next one down. Layers come in stacks, as in a network: a single small one would stay
in the first caches.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends import get_backend
from gbdnn.backends.base import aligned_empty
from gbdnn.costs import ENGINES, SHARED, CostTable
from gbdnn.execution.executor import Step
from gbdnn.layers import ReLU
from gbdnn.machine import available_cores
from gbdnn.weights.csr import CSR

__all__ = ["FULL", "Grid", "measure"]

Array = npt.NDArray[Any]
SLICE = 0.5e-3  # seconds of repetitions for one cell in one round
HOPELESS = 3.0  # times the best, after two rounds: not measured again
NARROW = 16  # columns below which reading W limits, and W must not fit into the caches
TINY = 16  # features of the layer whose time is the cost of a call


@dataclass(frozen=True)
class Grid:
    """The points that are measured, ascending, and how often."""

    sizes: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    densities: tuple[float, ...] = (0.01, 0.1, 0.25, 0.5)
    batches: tuple[int, ...] = (1, 2, 16, 64, 256)
    rounds: int = 3


FULL = Grid()


@dataclass(eq=False)
class _Cell:
    """A stack of layers in one engine, and the fastest pass through it so far."""

    engine: str
    threads: int
    batch: int
    shape: tuple[int, int]
    edges: int  # of all layers; of the dense engine all places
    forms: list[Any]
    seconds: float = np.inf

    @property
    def peers(self) -> tuple[int, int]:
        """What the cells that compete with this one have in common."""
        return self.threads, self.batch


def measure(grid: Grid = FULL, *, origin: dict[str, Any] | None = None) -> CostTable:
    """Return the costs on this machine; takes some seconds and 300 MB.

    Parameters
    ----------
    grid : Grid
    origin : dict, optional
        Goes into the table, with the seconds that measuring took and the load average before.
    """
    begin, load = time.perf_counter(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    threads = tuple(sorted({1, available_cores()}))
    rng = np.random.default_rng(0)
    calls = _calls(threads, grid.rounds, rng)
    shape = tuple(map(len, (threads, grid.sizes, grid.densities, grid.batches)))
    costs = {engine: np.full(shape, np.inf) for engine in (*ENGINES, SHARED)}
    for i, size in enumerate(grid.sizes):
        full = [_random_full(size, size, rng) for _ in range(_copies(size))]
        for j, density in enumerate((*grid.densities, 1.0)):
            cells = list(_cells(grid, threads, full, density, rng))
            _run(cells, grid.rounds)
            places: Any = j if density < 1 else slice(None)  # full rows share their pattern
            for cell in cells:
                at, k = threads.index(cell.threads), grid.batches.index(cell.batch)
                call = len(cell.forms) * calls[cell.engine][at]
                net = max(cell.seconds - call, cell.seconds / 20)
                costs[cell.engine][at, i, places, k] = net / (cell.edges * cell.batch)
    # the same products for each density: twice the samples
    costs["dense"][:] = costs["dense"].min(axis=2, keepdims=True)
    taken = {"seconds": round(time.perf_counter() - begin, 1), "load": round(load, 1)}
    axes = (threads, grid.sizes, grid.densities, grid.batches)
    return CostTable(*axes, calls, costs, (origin or {}) | taken)


def _calls(threads: tuple[int, ...], rounds: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return the seconds of a call without work worth mentioning."""
    weight: dict[str, Any] = {name: _random_csr(TINY, TINY, 0.1, rng) for name in ENGINES}
    weight["dense"] = _random_full(TINY, TINY, rng)
    forms = {name: get_backend(name).prepare(weight[name]) for name in ENGINES}
    shape = (TINY, TINY)
    cells = [_Cell(name, n, 1, shape, 0, [forms[name]]) for name, n in product(ENGINES, threads)]
    _run(cells, rounds)
    calls = {
        name: np.array([cell.seconds for cell in cells if cell.engine == name]) for name in ENGINES
    }
    return calls | {SHARED: calls["fused"]}


def _cells(
    grid: Grid, threads: tuple[int, ...], full: list[Array], density: float, rng: Any
) -> Iterator[_Cell]:
    """Yield the cells of one size and density, for all batches and threads."""
    size = full[0].shape[1]
    narrow = [batch for batch in grid.batches if batch < NARROW]
    wide = [batch for batch in grid.batches if batch >= NARROW]
    for rows, batches in ((min(size, 2048), narrow), (min(size, 512), wide)):
        parts: list[Any] = [matrix[:rows] for matrix in full]
        weights = {SHARED: parts}
        if density < 1:
            sparse: list[Any] = [_random_csr(rows, size, density, rng) for _ in full]
            weights = {"fused": sparse, "graphblas": sparse}
            if density in grid.densities[-2:]:  # its cost is the same for all
                weights["dense"] = parts
        for engine, stack in weights.items():
            places = sum(part.size for part in parts)
            edges = sum(weight.nnz for weight in stack) if stack is not parts else places
            forms = [_backend(engine).prepare(weight) for weight in stack]
            for count, batch in product(threads, batches):
                yield _Cell(engine, count, batch, (rows, size), edges, forms)


def _copies(size: int) -> int:
    return 4 if size <= 1024 else 1


def _run(cells: list[_Cell], rounds: int) -> None:
    """Measure the cells in rounds; those far behind their peers only once."""
    engines = list(dict.fromkeys((cell.threads, cell.engine) for cell in cells))
    buffers = [aligned_empty(_room(cells), np.float32) for _ in range(2)]
    buffers[0][:] = np.resize(np.linspace(0.1, 0.9, 997, dtype=np.float32), len(buffers[0]))
    best: dict[tuple[int, int], float] = {}
    for number, (threads, engine) in product(range(rounds), engines):
        with _backend(engine).pinned(threads):
            for cell in cells:
                if (cell.threads, cell.engine) != (threads, engine):
                    continue
                if number > 1 and cell.seconds > HOPELESS * best[cell.peers]:
                    continue
                cell.seconds = min(cell.seconds, _fastest(cell, buffers))
                best[cell.peers] = min(cell.seconds, best.get(cell.peers, np.inf))


def _fastest(cell: _Cell, buffers: list[Array]) -> float:
    """Return the seconds of the fastest of some passes through the stack; the first warms up."""
    rows, columns = cell.shape
    Y = buffers[0][: columns * cell.batch].reshape(columns, cell.batch)
    out = buffers[1][: rows * cell.batch].reshape(rows, cell.batch)
    calls = [_call(cell, form, Y, out) for form in cell.forms]
    fastest, spent, passes = np.inf, 0.0, 0
    while passes < 2 or spent < SLICE:
        begin = time.perf_counter()
        for call in calls:
            call()
        taken = time.perf_counter() - begin
        fastest, spent, passes = min(fastest, taken), spent + taken, passes + 1
    return fastest


def _call(cell: _Cell, form: Any, Y: Array, out: Array) -> Callable[[], Any]:
    """Return h(W Y + b) as `predict` computes it: narrow fused layers as one compiled call."""
    rows, columns = cell.shape
    bias, h, backend = np.zeros(rows, np.float32), ReLU(), _backend(cell.engine)
    if cell.engine in ("fused", SHARED) and cell.batch < NARROW:
        step = Step(form, bias, h, columns, rows, form.edges, frozenset())
        options = {"width": NARROW, "lanes": NARROW, "threads": cell.threads, "check": False}
        return partial(backend.chain([step]).run, Y, out, **options)
    return partial(backend.affine, form, Y, bias, h, out, cell.threads)


def _room(cells: list[_Cell]) -> int:
    return max(max(cell.shape) * cell.batch for cell in cells)


def _backend(engine: str) -> Any:
    return get_backend("fused" if engine == SHARED else engine)


def _random_full(rows: int, columns: int, rng: np.random.Generator) -> Array:
    return rng.standard_normal((rows, columns), dtype=np.float32)


def _random_csr(rows: int, columns: int, density: float, rng: np.random.Generator) -> CSR:
    """Return an Erdos-Renyi matrix, in time that follows its entries: the gaps are geometric."""
    expected = rows * columns * density
    gaps = rng.geometric(density, int(expected + 6 * expected**0.5 + 10))
    places = np.cumsum(gaps) - 1
    places = places[places < rows * columns]
    indptr = np.searchsorted(places, np.arange(rows + 1) * columns).astype(np.int32)
    values = rng.standard_normal(len(places), dtype=np.float32)
    indices = (places % columns).astype(np.int32)
    return CSR.unchecked(indptr, indices, values, (rows, columns))
