"""The executor: takes a batch through all layers, for every backend alike.

The batch is cut into *tiles*, columns that fit the cache, and each tile goes through many layers
before the next one starts (depth first), one tile per worker thread. Layers are grouped into
*stages*: between two stages the columns that are still alive are merged into full tiles again, and
only one stage's weights need to be in memory, so that layers may come from a generator. Columns
that no later layer changes are dropped: see `gbdnn.execution.skipping`.

Sequences are sorted by length and cut by samples only: a tile of theirs has all their time steps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from gbdnn.backends.base import Backend, aligned_empty
from gbdnn.backends.workers import apart, share
from gbdnn.data.inputs import Inputs
from gbdnn.errors import MemoryBudgetError
from gbdnn.execution.run import Memory, Run
from gbdnn.execution.skipping import Aside, drop
from gbdnn.execution.source import Sink, Source, Work
from gbdnn.execution.sparse import run_sparse
from gbdnn.execution.steps import Compiled, Step
from gbdnn.execution.tiles import (
    NARROW,
    STRIP,
    Block,
    Tile,
    load_inputs,
    load_pieces,
    merged,
    padded,
    whole_strip,
)
from gbdnn.machine import available_bytes
from gbdnn.types import Array

__all__ = ["SMALL", "run"]

SHORT = 1 << 30  # edges x samples of a batch for which one call is short enough for Ctrl-C: 40 ms
STAGED = 4 << 20  # bytes of a batch that is copied as a whole: larger ones go tile by tile
SMALL = 1 << 26  # bytes that are allocated without looking at what is free, which takes 50 us


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
        Drop columns that no later layer changes (exact).
    progress : callable, optional
        Called with the number of (sample, step) pairs that were just done, from any thread.
    budget : int, optional
        Bytes for the weights of a stage, and again for the activations between stages; default a
        quarter of the free memory.
    """
    begin, count, advance = time.perf_counter(), inputs.count, progress or _ignore
    width = width or backend.width(source.widest, source.dtype)
    if count < width * threads:  # a tile for each thread, unless they get too narrow
        width = max(padded(-(-count // threads)), min(NARROW, width))
    _check_room(source, count and threads, width)
    skip = skip and count > NARROW  # below, looking for them costs more than it saves
    lanes, nominal = whole_strip(count, width), source.edges * inputs.rows
    if 0 < nominal <= SHORT and not 1 < -(-count // width) < threads:
        whole = None if inputs.over_time else source.compiled(backend)
        form = {"width": width, "lanes": lanes, "threads": threads}
        if whole and not (skip and whole.may_skip) and _run_compiled(whole, inputs, sink, form):
            advance(count * source.depth)
            return Work(nominal, nominal, time.perf_counter() - begin)
    inputs.verify()
    this = _Execution(backend, source, sink, threads, width, lanes, skip, advance)
    if not count:
        return Work(seconds=time.perf_counter() - begin)
    if inputs.over_time:
        way = partial(_run_sequences, this, inputs)
    elif backend.sparse_activations:
        way = partial(_run_sparse, this, inputs, budget)
    elif count <= width and not source.lazy:
        way = partial(_run_one_tile, this, inputs)
    else:
        way = partial(_run_tiles, this, inputs, budget)
    with this:
        if backend.calls_in_main_thread:
            way()
        else:
            apart(way, this.cancelled.set)
    return Work(nominal, this.effective_edges, time.perf_counter() - begin, this.waited)


class _Execution:
    """What the parts of one run share: settings, counters, columns set aside and the workers."""

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
        self.threads, self.width, self.lanes = threads, width, lanes
        self.skip, self.advance = skip, advance
        self.effective_edges, self.waited = 0, 0.0
        self.aside = Aside()
        self.lock = threading.Lock()
        self.local = threading.local()
        self.cancelled = threading.Event()

    def __enter__(self) -> _Execution:
        return self

    def __exit__(self, *error: object) -> None:
        self.cancelled.set()  # a thread that fetches layers ahead stops

    def map(self, task: Callable[[int, Tile], Block | None], tiles: list[Tile]) -> list[Block]:
        """Run the tiles on the workers; with fewer tiles than workers split each tile's rows."""
        if len(tiles) < self.threads or self.threads == 1:
            made = [task(self.threads, tile) for tile in tiles]
        else:
            try:
                made = share(partial(self._until_cancelled, task), tiles, self.threads)
            except BaseException:
                self.cancelled.set()  # also if Ctrl-C came while this thread waited
                raise
        return [block for block in made if block is not None]

    def _until_cancelled(
        self, task: Callable[[int, Tile], Block | None], tile: Tile
    ) -> Block | None:
        try:
            return task(1, tile)
        except BaseException:
            self.cancelled.set()  # the others stop at their next layer
            raise

    def memory(self) -> Memory:
        """Return this thread's memory."""
        if not hasattr(self.local, "memory"):
            self.local.memory = Memory(self.source.dtype)
        made: Memory = self.local.memory
        return made


def _run_compiled(whole: Compiled, inputs: Inputs, sink: Sink, form: dict[str, int]) -> bool:
    """Take a small batch through all layers as one compiled call; False if that copies much."""
    program, given, taken = whole.program, inputs.view, sink.view
    in_place = given is not None and program.fits(given)
    direct = taken is not None and program.fits(taken) and not whole.tail
    copied = (0 if in_place else whole.in_features) + (0 if direct else whole.out_features)
    if copied * inputs.count * inputs.dtype.itemsize > STAGED:
        return False
    if given is None or not in_place:
        given = _neuron_major(whole.in_features, inputs)
        inputs.load(slice(0, inputs.count), given[None])
    if taken is None or not direct:
        taken = _neuron_major(whole.out_features, inputs)
    if not program.run(given, taken, check=inputs.pending, **form):
        inputs.verify()  # raises, unless X was changed meanwhile
        program.run(given, taken, check=False, **form)
    for layer in whole.tail:
        layer.apply(taken)
    if not direct:
        sink.write(np.arange(inputs.count), taken)
    return True


def _neuron_major(features: int, inputs: Inputs) -> Array:
    return aligned_empty(features * inputs.count, inputs.dtype).reshape(features, inputs.count)


def _run_one_tile(this: _Execution, inputs: Inputs) -> None:
    """Take a small batch through all layers: no stages and no threads but the backend's own."""
    tile: Tile = partial(load_inputs, inputs, 0, inputs.count)
    _through(this, list(this.source.steps(this.backend)), [tile], last=True)
    _fill_aside(this)


def _run_tiles(this: _Execution, inputs: Inputs, budget: int | None) -> None:
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


def _finish(this: _Execution, blocks: list[Block], stages: Iterator[list[Step]], done: int) -> None:
    """Take blocks through the remaining stages, then hand out what is set aside."""
    depth, aside = this.source.depth, this.aside
    if this.source.lazy:
        stages = _prefetched(this, stages)
    while blocks or not aside.columns.keys() <= this.source.keeps:
        stage = next(stages, None)
        if stage is None:
            break
        kept = frozenset.intersection(*(step.keeps for step in stage))
        for value in [value for value in aside.columns if value not in kept]:
            ids = np.concatenate(aside.columns.pop(value))
            blocks.append(Block(ids, np.broadcast_to(value, (stage[0].in_features, len(ids)))))
        done += len(stage)
        this.advance(len(stage) * aside.count())
        tiles: list[Tile] = [partial(load_pieces, tile) for tile in merged(blocks, this.width)]
        blocks = _through(this, stage, tiles, last=done == depth)
    this.advance((depth - done) * aside.count())
    _fill_aside(this)


def _fill_aside(this: _Execution) -> None:
    """Hand out the columns that stayed what they were."""
    for value, lists in this.aside.columns.items():
        this.sink.fill(np.concatenate(lists), value)
    this.aside.columns.clear()


def _through(this: _Execution, stage: list[Step], tiles: list[Tile], *, last: bool) -> list[Block]:
    """Take tiles through one stage; return the surviving columns, of the last stage none."""
    kept = frozenset[float]().union(*(step.keeps for step in stage))
    stays = [frozenset[float]() if last else kept]  # what a column may stay at after each step
    for step in reversed(stage[1:]):
        kept &= step.keeps
        stays.append(kept)
    return this.map(partial(_one_tile, this, stage, stays[::-1], last), tiles)


def _one_tile(
    this: _Execution,
    stage: list[Step],
    stays: list[frozenset[float]],
    last: bool,
    threads: int,
    tile: Tile,
) -> Block | None:
    """Take one tile through a stage, step by step, and drop columns between them."""
    run, edges, side = Run(this.backend, this.memory(), threads), 0, 0

    def empty(features: int, columns: int) -> Array:
        nonlocal side
        side = 1 - side  # what lies on the other side is read meanwhile
        run.at(side)
        array: Array = run.empty(1, features, padded(columns, this.lanes))[0]
        return array

    with this.backend.pinned(threads):
        ids, Y = tile(empty)
        entered = len(ids)
        for number, (step, constants) in enumerate(zip(stage, stays, strict=True), 1):
            if this.cancelled.is_set():
                return None
            side = 1 - side
            run.at(side)
            Y = step.forward(run, Y[None])[0]
            edges += step.edges * len(ids)
            if this.skip and constants:
                ids, Y = drop(
                    this.backend, ids, Y, constants, this.aside, partial(empty, len(Y)),
                    force=number == len(stage),
                )  # fmt: skip
                if not len(ids):
                    break
    with this.lock:
        this.effective_edges += edges
    this.advance(entered * len(stage))
    if last:
        this.sink.write(ids, Y[:, : len(ids)])
        return None
    return Block(ids, Y[:, : len(ids)].copy()) if len(ids) else None


def _run_sequences(this: _Execution, inputs: Inputs) -> None:
    """Take sequences of about equal length through all layers, all time steps together."""
    steps, order = list(this.source.steps(this.backend)), inputs.order()
    groups = [order[k : k + this.width] for k in range(0, len(order), this.width)]

    def through(threads: int, ids: Any) -> None:
        run, time_steps = Run(this.backend, this.memory(), threads), inputs.time_steps(ids)
        with this.backend.pinned(threads):
            run.at("inputs")
            Y = run.empty(time_steps, inputs.features, padded(len(ids), this.lanes))
            inputs.load(ids, Y[:, :, : len(ids)])
            Y[:, :, len(ids) :] = 0
            for number, step in enumerate(steps):
                if this.cancelled.is_set():
                    return
                run.at(number % 2)
                Y = step.forward(run, Y)
        for places, y in zip(inputs.places(ids), Y, strict=True):
            there = np.flatnonzero(places >= 0)
            this.sink.write(places[there], y[:, there])
        with this.lock:
            this.effective_edges += this.source.edges * time_steps * len(ids)
        this.advance(len(ids) * len(steps))

    this.map(through, groups)  # type: ignore[arg-type]


def _run_sparse(this: _Execution, inputs: Inputs, budget: int | None) -> None:
    this.effective_edges += run_sparse(
        this.source, inputs, this.sink, backend=this.backend, threads=this.threads, budget=budget,
        cancelled=this.cancelled.is_set, advance=this.advance,
    )  # fmt: skip


# -- stages ----------------------------------------------------------------------------------------


def _stages(this: _Execution, start: int, size: int, budget: int) -> Iterator[list[Step]]:
    """Group steps: `size` of them, then twice as many each time, within the bytes of `budget`."""
    stage: list[Step] = []
    nbytes = 0
    for step in this.source.steps(this.backend, start):
        if this.cancelled.is_set():  # Ctrl-C while a thread fetches hundreds of layers ahead
            return
        stage.append(step)
        nbytes += step.nbytes
        if len(stage) >= size or nbytes >= budget:
            yield stage
            stage, nbytes, size = [], 0, 2 * size
    if stage:
        yield stage


def _prefetched(this: _Execution, stages: Iterator[list[Step]]) -> Iterator[list[Step]]:
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
