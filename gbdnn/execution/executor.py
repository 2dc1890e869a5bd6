"""The tile executor: takes a batch through all layers, for every backend alike.

The batch is cut into *tiles*, columns that fit the cache, and each tile goes through many layers
before the next one starts (depth first), one tile per worker thread. Layers are grouped into
*stages*: between two stages the columns that are still alive are merged into full tiles again, and
only one stage's weights need to be in memory, so that layers may come from a generator.

Columns that no later layer changes are dropped: see `gbdnn.execution.skipping`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gbdnn.backends import columns
from gbdnn.backends.base import Activation, Backend, Prepared, aligned_empty
from gbdnn.backends.workers import share
from gbdnn.data.inputs import Inputs
from gbdnn.errors import MemoryBudgetError
from gbdnn.execution.skipping import constants_kept
from gbdnn.execution.tiles import (
    NARROW,
    STRIP,
    Block,
    Buffers,
    Tile,
    load_inputs,
    load_pieces,
    merged,
    padded,
    whole_strip,
)
from gbdnn.machine import available_bytes
from gbdnn.weights.csr import CSR

__all__ = ["Affine", "Sink", "Source", "Step", "Work", "prepare_step", "run"]

Array = npt.NDArray[Any]
SHORT = 1 << 30  # edges x samples of a batch for which one call is short enough for Ctrl-C: 40 ms
STAGED = 4 << 20  # bytes of a batch that is copied as a whole: larger ones go tile by tile
SMALL = 1 << 26  # bytes that are allocated without looking at what is free, which takes 50 us


@dataclass(frozen=True, eq=False)
class Affine:
    """One layer as it is computed: h(W y + b)."""

    weight: CSR | Array
    bias: Array
    activation: Activation


@dataclass(frozen=True, eq=False)
class Step:
    """An `Affine` in a backend's own form, with the constants c that it maps to themselves."""

    weight: Prepared
    bias: Array
    activation: Activation
    in_features: int
    out_features: int
    edges: int
    keeps: frozenset[float]


class Source(Protocol):
    """Layers, in memory or made on the way."""

    @property
    def depth(self) -> int:
        """Number of layers."""

    @property
    def edges(self) -> int:
        """Stored weights of all layers."""

    @property
    def widest(self) -> int:
        """Largest number of features before, between or after the layers."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the layers compute in."""

    @property
    def lazy(self) -> bool:
        """True if `steps` makes layers on the way, so that fetching ahead pays."""

    @property
    def keeps(self) -> frozenset[float]:
        """Constants that all layers are known to keep, without looking at them one by one."""

    def steps(self, backend: Backend, start: int = 0) -> Iterator[Step]:
        """Yield the layers from number `start` on."""


class Sink(Protocol):
    """Where results go. Called from several threads, never twice for a column."""

    def write(self, ids: Array, Y: Array) -> None:
        """Take the last layer's columns Y, shape (features, len(ids)), of samples `ids`."""

    def fill(self, ids: Array, value: float) -> None:
        """Samples `ids` have `value` in every feature."""


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


def run(
    source: Source,
    inputs: Inputs,
    sink: Sink,
    *,
    backend: Backend,
    threads: int,
    width: int | None = None,
    skip: bool = True,
    progress: Callable[[int], None] | None = None,
    budget: int | None = None,
) -> Work:
    """Take `inputs` through the layers of `source` and hand the results to `sink`.

    Parameters
    ----------
    width : int, optional
        Columns per tile; default what the backend is fastest with.
    skip : bool
        Drop settled columns (exact, see above).
    progress : callable, optional
        Called with the number of (sample, layer) pairs that were just done, from any thread.
    budget : int, optional
        Bytes for the weights of a stage, and again for the activations between stages; default a
        quarter of the free memory.
    """
    begin, count = time.perf_counter(), inputs.count
    width = width or backend.tile_width(source.widest, source.dtype)
    if count < width * threads:  # a tile for each thread, unless they get too narrow
        width = max(padded(-(-count // threads)), min(NARROW, width))
    _check_room(source, count and threads, width)
    skip = skip and count > NARROW  # below, looking for them costs more than it saves
    lanes, nominal = whole_strip(count, width), source.edges * count
    if 0 < nominal <= SHORT and not 1 < -(-count // width) < threads and progress is None:
        chain = source.chain(backend) if hasattr(source, "chain") else None
        if chain is not None and hasattr(chain, "resolve"):  # of a backend that decides by batch
            chain = chain.resolve(count, threads)
        form = {"width": width, "lanes": lanes, "threads": threads}
        if (
            chain is not None
            and not (skip and chain.settles)
            and _run_chain(chain, inputs, sink, form)
        ):
            return Work(nominal, nominal, time.perf_counter() - begin)
    if hasattr(inputs, "verify"):
        inputs.verify()
    this = _Run(backend, source, sink, threads, width, lanes, skip, progress or _ignore)
    if count == 0:
        pass
    elif getattr(backend, "sparse_activations", False):
        _run_sparse(this, inputs, budget)
    else:
        with this:
            if count <= width and not source.lazy:
                _run_one_tile(this, inputs)
            else:
                _run_tiles(this, inputs, budget)
    return Work(nominal, this.effective_edges, time.perf_counter() - begin, this.waited)


class _Run:
    """What the parts of one run share: settings, counters, parked columns and the workers."""

    def __init__(
        self,
        backend: Backend,
        source: Source,
        sink: Sink,
        threads: int,
        width: int,
        lanes: int,
        skip: bool,
        advance: Callable[[int], None],
    ) -> None:
        self.backend, self.source, self.sink = backend, source, sink
        self.columns = getattr(backend, "columns", columns)  # compiled, where the backend has them
        self.threads, self.width, self.lanes = threads, width, lanes
        self.skip, self.advance = skip, advance
        self.effective_edges, self.waited = 0, 0.0
        self.parked: dict[float, list[Array]] = {}
        self.lock = threading.Lock()
        self.local = threading.local()
        self.cancelled = threading.Event()

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.cancelled.set()  # a thread that fetches layers ahead stops

    def map(self, task: Callable[[int, Tile], Block | None], tiles: list[Tile]) -> list[Block]:
        """Run the tiles on the workers; with fewer tiles than workers split each tile's rows."""
        if len(tiles) < self.threads or self.threads == 1:
            found = [task(self.threads, tile) for tile in tiles]
        else:
            try:
                found = share(partial(self._until_cancelled, task), tiles, self.threads)
            except BaseException:
                self.cancelled.set()  # also if Ctrl-C came while this thread waited
                raise
        return [block for block in found if block is not None]

    def _until_cancelled(
        self, task: Callable[[int, Tile], Block | None], tile: Tile
    ) -> Block | None:
        try:
            return task(1, tile)
        except BaseException:
            self.cancelled.set()  # the others stop at their next layer
            raise

    def buffers(self) -> Buffers:
        """Return this thread's two tile buffers."""
        if not hasattr(self.local, "buffers"):
            self.local.buffers = Buffers(
                self.source.widest * padded(self.width, self.lanes),
                self.source.dtype,
                self.lanes,
            )
        found: Buffers = self.local.buffers
        return found

    def park(self, ids: Array, value: float) -> None:
        """Put columns aside that are `value` everywhere and stay so."""
        with self.lock:
            self.parked.setdefault(value, []).append(ids)

    def parked_columns(self) -> int:
        """Return how many columns are parked."""
        return sum(len(ids) for groups in self.parked.values() for ids in groups)


def _run_chain(chain: Any, inputs: Inputs, sink: Sink, form: dict[str, int]) -> bool:
    """Take a small batch through all layers as one compiled call; False if that copies much."""
    given: Any = getattr(inputs, "view", None)
    taken: Any = getattr(sink, "view", None)
    in_place = given is not None and chain.fits(given)
    direct = taken is not None and chain.fits(taken) and chain.tail is None
    copied = (0 if in_place else chain.in_features) + (0 if direct else chain.out_features)
    if copied * inputs.count * chain.dtype.itemsize > STAGED:
        return False
    if not in_place:
        given = _neuron_major(chain.in_features, inputs.count, chain.dtype)
        inputs.load(0, inputs.count, given)
    if not direct:
        taken = _neuron_major(chain.out_features, inputs.count, chain.dtype)
    if not chain.run(given, taken, check=getattr(inputs, "pending", False), **form):
        inputs.verify()  # type: ignore[attr-defined]  # raises, unless X was changed meanwhile
        chain.run(given, taken, check=False, **form)
    if chain.tail is not None:
        chain.tail.apply(taken)
    if not direct:
        sink.write(np.arange(inputs.count), taken)
    return True


def _neuron_major(features: int, count: int, dtype: np.dtype[Any]) -> Array:
    return aligned_empty(features * count, dtype).reshape(features, count)


def _run_one_tile(this: _Run, inputs: Inputs) -> None:
    """Take a small batch through all layers: no stages and no threads but the backend's own."""
    tile: Tile = partial(load_inputs, inputs, 0, inputs.count)
    _through(this, list(this.source.steps(this.backend)), [tile], last=True)
    _fill_parked(this)


def _run_tiles(this: _Run, inputs: Inputs, budget: int | None) -> None:
    """Take all inputs through the first stage; whenever survivors fill the budget, to the end."""
    source = this.source
    budget = available_bytes() // 4 if budget is None else budget
    capacity = max(budget // (source.widest * source.dtype.itemsize), this.width)
    size = 2 if inputs.count <= capacity else 32
    size = size if this.skip else source.depth  # without survivors to merge: one stage if it fits
    begin = time.perf_counter()
    head = next(_stages(this, 0, size, budget))
    this.waited += time.perf_counter() - begin if source.lazy else 0.0
    waiting: list[Block] = []
    for start in range(0, inputs.count, capacity):
        stop = min(start + capacity, inputs.count)
        tiles: list[Tile] = [
            partial(load_inputs, inputs, left, min(left + this.width, stop))
            for left in range(start, stop, this.width)
        ]
        waiting += _through(this, head, tiles, last=len(head) == source.depth)
        if stop == inputs.count or sum(len(block.ids) for block in waiting) > capacity // 2:
            rest = _stages(this, len(head), 2 * size, budget)
            _finish(this, waiting, rest, len(head))
            waiting = []


def _finish(this: _Run, blocks: list[Block], stages: Iterator[list[Step]], done: int) -> None:
    """Take blocks through the remaining stages, then hand out what is parked."""
    depth = this.source.depth
    if this.source.lazy:
        stages = _prefetched(this, stages)
    while blocks or not this.parked.keys() <= this.source.keeps:
        stage = next(stages, None)
        if stage is None:
            break
        kept = frozenset.intersection(*(step.keeps for step in stage))
        for value in [value for value in this.parked if value not in kept]:
            ids = np.concatenate(this.parked.pop(value))
            blocks.append(Block(ids, np.broadcast_to(value, (stage[0].in_features, len(ids)))))
        done += len(stage)
        this.advance(len(stage) * this.parked_columns())
        tiles: list[Tile] = [partial(load_pieces, tile) for tile in merged(blocks, this.width)]
        blocks = _through(this, stage, tiles, last=done == depth)
    this.advance((depth - done) * this.parked_columns())
    _fill_parked(this)


def _fill_parked(this: _Run) -> None:
    """Hand out the columns that stayed what they were."""
    for value, groups in this.parked.items():
        this.sink.fill(np.concatenate(groups), value)
    this.parked.clear()


def _through(this: _Run, stage: list[Step], tiles: list[Tile], *, last: bool) -> list[Block]:
    """Take tiles through one stage; return the surviving columns, of the last stage none."""
    kept = frozenset[float]().union(*(step.keeps for step in stage))
    stays = [frozenset[float]() if last else kept]  # what a column may settle at after each layer
    for step in reversed(stage[1:]):
        kept &= step.keeps
        stays.append(kept)
    return this.map(partial(_one_tile, this, stage, stays[::-1], last), tiles)


def _one_tile(
    this: _Run,
    stage: list[Step],
    stays: list[frozenset[float]],
    last: bool,
    threads: int,
    tile: Tile,
) -> Block | None:
    """Take one tile through a stage: h(W Y + b) and dropping, layer by layer."""
    backend, buffers, edges = this.backend, this.buffers(), 0
    with backend.pinned(threads):
        ids, Y = tile(buffers)
        entered = len(ids)
        for number, (step, constants) in enumerate(zip(stage, stays, strict=True), 1):
            if this.cancelled.is_set():
                return None
            out = buffers.next(step.out_features, len(ids))
            backend.affine(step.weight, Y, step.bias, step.activation, out, threads)
            edges += step.edges * len(ids)
            Y = out
            if this.skip and constants:
                ids, Y = _drop(this, ids, Y, constants, force=number == len(stage))
                if not len(ids):
                    break
    with this.lock:
        this.effective_edges += edges
    this.advance(entered * len(stage))
    if last:
        this.sink.write(ids, Y[:, : len(ids)])
        return None
    return Block(ids, Y[:, : len(ids)].copy()) if len(ids) else None


def _drop(
    this: _Run, ids: Array, Y: Array, constants: frozenset[float], *, force: bool
) -> tuple[Array, Array]:
    """Park the settled columns and close the gaps, if enough of them make it worth while."""
    first = Y[0, : len(ids)]
    candidates = np.zeros(len(ids), bool)
    for value in constants:
        candidates |= first == value
    worthwhile = 1 if force else max(len(ids) // 4, 1)
    if np.count_nonzero(candidates) < worthwhile:
        return ids, Y  # a look at one row: not enough columns can be constant
    settled = this.columns.constant(Y)[: len(ids)] & candidates
    if np.count_nonzero(settled) < worthwhile:
        return ids, Y
    for value in constants:
        if (here := settled & (first == value)).any():
            this.park(ids[here], value)
    left = np.flatnonzero(~settled)
    packed = this.buffers().next(len(Y), len(left))
    this.columns.pack(Y, left, packed)
    return ids[left], packed


def _run_sparse(this: _Run, inputs: Inputs, budget: int | None) -> None:
    """Layer by layer over wide chunks, for the backend that keeps Y sparse itself."""
    backend: Any = this.backend
    source = this.source
    budget = available_bytes() // 4 if budget is None else budget
    chunk = max(budget // (16 * source.widest * source.dtype.itemsize), 1)
    with backend.pinned(this.threads):
        for start in range(0, inputs.count, chunk):
            ids = np.arange(start, min(start + chunk, inputs.count))
            full = np.empty((inputs.features, len(ids)), source.dtype)
            inputs.load(start, start + len(ids), full)
            Y = backend.enter(full)
            del full
            for step in source.steps(backend):
                this.effective_edges += step.edges * backend.live(Y)
                Y = backend.forward(step.weight, Y, step.bias, step.activation)
                this.advance(len(ids))
            this.sink.write(ids, backend.leave(Y))


# -- stages and tiles ------------------------------------------------------------------------------


def _stages(this: _Run, start: int, size: int, budget: int) -> Iterator[list[Step]]:
    """Group layers: `size` of them, then twice as many each time, within the bytes of `budget`."""
    stage: list[Step] = []
    nbytes = 0
    for step in this.source.steps(this.backend, start):
        if this.cancelled.is_set():  # Ctrl-C while a thread fetches hundreds of layers ahead
            return
        stage.append(step)
        nbytes += step.weight.nbytes
        if len(stage) >= size or nbytes >= budget:
            yield stage
            stage, nbytes, size = [], 0, 2 * size
    if stage:
        yield stage


def _prefetched(this: _Run, stages: Iterator[list[Step]]) -> Iterator[list[Step]]:
    """Make the next stage while the current one is being computed."""
    with ThreadPoolExecutor(1, "gbdnn-prefetch") as pool:
        coming = pool.submit(next, stages, None)
        while True:
            begin = time.perf_counter()
            stage = coming.result()
            this.waited += time.perf_counter() - begin
            if stage is None:
                return
            coming = pool.submit(next, stages, None)
            yield stage


def prepare_step(backend: Backend, affine: Affine) -> Step:
    """Bring a layer into the backend's form."""
    weight = affine.weight
    return Step(
        backend.prepare(weight),
        affine.bias,
        affine.activation,
        int(weight.shape[1]),
        int(weight.shape[0]),
        weight.nnz if isinstance(weight, CSR) else int(weight.size),
        constants_kept(weight, affine.bias, affine.activation),
    )


def _check_room(source: Source, threads: int, width: int) -> None:
    """Refuse tiles that do not fit into memory: two buffers for each thread."""
    nbytes = 2 * threads * source.widest * padded(width, STRIP) * source.dtype.itemsize
    if nbytes > SMALL and nbytes > (free := available_bytes()):
        raise MemoryBudgetError(
            "batch_size",
            f"tiles that fit into the {free:,} bytes that are free",
            f"{threads} threads with tiles of {width} x {source.widest} values, {nbytes:,} bytes",
            "Pass a smaller batch_size or fewer threads.",
        )


def _ignore(done: int) -> None:
    """Take no notice."""
