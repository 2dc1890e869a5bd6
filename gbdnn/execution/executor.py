"""The executor: takes a batch through all layers, for every backend alike.

The batch is cut into *tiles*, columns that fit the cache, and each tile goes through many layers
before the next one starts (depth first), one tile per worker thread. Layers are grouped into
*stages*: between two stages the columns that are still alive are merged into full tiles again, and
only one stage's weights need to be in memory, so that layers may come from a generator. Columns
that no later layer changes are dropped: see `gbdnn.execution.skipping`.

Sequences are sorted by length and cut by samples only: a tile of theirs has all their time steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from gbdnn.backends.base import STRIP, Backend, aligned_empty
from gbdnn.backends.workers import apart
from gbdnn.data.inputs import Inputs, SequenceInputs
from gbdnn.errors import MemoryBudgetError
from gbdnn.execution.run import Run
from gbdnn.execution.source import Sink, Source, Work
from gbdnn.execution.sparse import run_sparse
from gbdnn.execution.stages import Execution, Stage, Waiting, prefetched, stages, through
from gbdnn.execution.steps import Compiled, Step
from gbdnn.execution.tiles import (
    NARROW,
    Block,
    Tile,
    lanes_of,
    load_inputs,
    load_pieces,
    merged,
    padded,
)
from gbdnn.machine import available_bytes
from gbdnn.types import Array

__all__ = ["SMALL", "result_array", "run"]

SHORT = 1 << 30  # edges x samples of a batch for which one call is short enough for Ctrl-C: 40 ms
MERGED = 0.75  # of the work left by skipping: less, and it pays to merge what is left of the tiles
PART = 8 << 20  # bytes of the widest layer's values: sequences with more of them go in parts
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
    nominal = source.edges * inputs.rows
    if isinstance(inputs, SequenceInputs) and source.time_factor > 1:
        nominal = _edges(list(source.steps(backend)), inputs.lengths)
    whole = None if inputs.over_time else source.compiled(backend)
    settles = skip and whole and whole.settles and whole.program.rounds_as_tiles(count)
    if whole and 0 < nominal <= SHORT and not settles:
        _check_room(source, min(padded(count), 2 * threads * width))
        done = _run_compiled(whole, inputs, sink, width, threads, skip)
        if done is not None:
            edges, idle = done
            whole.settles = edges - idle < MERGED * nominal
            advance(count * source.depth)
            return Work(nominal, edges, time.perf_counter() - begin)
    if count < width * threads:  # a tile for each thread, of whole strips: the bits are the same
        width = max(padded(-(-count // threads)), min(STRIP, width))
    skip = skip and count > NARROW  # below, looking for them costs more than it saves
    lanes = lanes_of(count, width)
    _check_room(source, min(threads, -(-count // width)) * padded(width, lanes))
    inputs.verify()
    this = Execution(backend, source, sink, threads, width, lanes, skip, advance)
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
    if whole:
        whole.settles = this.effective_edges < MERGED * nominal
    return Work(nominal, this.effective_edges, time.perf_counter() - begin, this.waited)


def _run_compiled(
    whole: Compiled, inputs: Inputs, sink: Sink, width: int, threads: int, skip: bool
) -> tuple[int, int] | None:
    """Take a small batch through all layers as one compiled call; None if that copies much."""
    program, given, taken = whole.program, inputs.view, sink.view
    in_place = given is not None and program.fits(given)
    direct = taken is not None and program.fits(taken) and not whole.tail
    copied = (0 if in_place else whole.in_features) + (0 if direct else whole.out_features)
    if copied * inputs.count * inputs.dtype.itemsize > STAGED:
        return None
    if given is None or not in_place:
        given = _neuron_major(whole.in_features, inputs)
        inputs.load(slice(0, inputs.count), given[None])
    if taken is None or not direct:
        taken = _neuron_major(whole.out_features, inputs)
    constants = whole.stays if skip else None
    done = program.run(given, taken, width=width, threads=threads, check=inputs.pending,
                       constants=constants)  # fmt: skip
    if done is None:
        inputs.verify()  # raises, unless X was changed meanwhile
        done = program.run(given, taken, width=width, threads=threads, check=False,
                           constants=constants)  # fmt: skip
    for layer in whole.tail:
        layer.apply(taken)
    if not direct:
        sink.write(np.arange(inputs.count), taken)
    return done


def _neuron_major(features: int, inputs: Inputs) -> Array:
    return aligned_empty(features * inputs.count, inputs.dtype).reshape(features, inputs.count)


def _run_one_tile(this: Execution, inputs: Inputs) -> None:
    """Take a small batch through all layers: no stages and no threads but the backend's own."""
    tile: Tile = partial(load_inputs, inputs, 0, inputs.count)
    stage = Stage(0, list(this.source.steps(this.backend)), this.source.compiled(this.backend))
    through(this, [stage], [tile], this.width, 0)
    _fill_aside(this)


def _run_tiles(this: Execution, inputs: Inputs, budget: int | None) -> None:
    """Take all inputs through the first stage; whenever survivors fill the budget, to the end."""
    source = this.source
    budget = available_bytes() // 4 if budget is None else budget
    capacity = max(budget // (source.widest * source.dtype.itemsize), this.width)
    size = 2 if inputs.count <= capacity else 32
    size = size if this.skip else source.depth  # without survivors to merge: one stage if it fits
    begin = time.perf_counter()
    coming = stages(this, 0, size, budget, 0)
    head = [next(coming)] if source.lazy else list(coming)
    this.waited += time.perf_counter() - begin if source.lazy else 0.0
    depth = len(head[0].steps)
    waiting: list[Waiting] = []
    for start in range(0, inputs.count, capacity):
        stop = min(start + capacity, inputs.count)
        tiles: list[Tile] = [
            partial(load_inputs, inputs, left, min(left + this.width, stop))
            for left in range(start, stop, this.width)
        ]
        waiting += through(this, head, tiles, this.width, 0)
        if stop == inputs.count or sum(len(block.ids) for _, block in waiting) > capacity // 2:
            coming = stages(this, depth, 2 * size, budget, 1) if source.lazy else iter(head[1:])
            _finish(this, waiting, coming, depth)
            waiting = []


def _finish(this: Execution, waiting: list[Waiting], coming: Iterator[Stage], done: int) -> None:
    """Take columns through the remaining stages, then hand out what is set aside."""
    depth, aside, lazy = this.source.depth, this.aside, this.source.lazy
    ahead = list[Stage]() if lazy else list(coming)
    if lazy:
        coming = prefetched(this, coming)
    while waiting or aside.columns:
        if lazy and not waiting and {value for _, value in aside.columns} <= this.source.keeps:
            break  # no layer to come changes anything: they need not be made
        stage = next(coming, None) if lazy else ahead[0] if ahead else None
        if stage is None:
            break
        blocks = [block for number, block in waiting if number == stage.number]
        waiting = [each for each in waiting if each[0] != stage.number]
        kept = frozenset.intersection(*(step.keeps for step in stage.steps))
        for ids, value in aside.changed(kept, stage.number):
            shape = stage.steps[0].in_features, len(ids)
            blocks.append(Block(ids, np.broadcast_to(value, shape)))
        this.advance(len(stage.steps) * aside.count(stage.number))
        tiles: list[Tile] = [partial(load_pieces, tile) for tile in merged(blocks, this.width)]
        waiting += through(this, ahead or [stage], tiles, this.width, done)
        done += len(stage.steps)
        ahead = ahead[1:]
    this.advance((depth - done) * aside.count(depth))
    _fill_aside(this)


def _fill_aside(this: Execution) -> None:
    """Hand out the columns that stayed what they were."""
    for (_, value), lists in this.aside.columns.items():
        this.sink.fill(np.concatenate(lists), value)
    this.aside.columns.clear()


def _run_sequences(this: Execution, inputs: Inputs) -> None:
    """Take sequences of about equal length through all layers, many time steps together.

    Long ones go in parts, from state to state, where no layer needs all time steps at once: the
    bits are the same, and memory does not grow with the length. No part cuts a group of time steps
    that become one.
    """
    assert isinstance(inputs, SequenceInputs)
    steps, order = list(this.source.steps(this.backend)), inputs.order()
    groups = [order[k : k + this.width] for k in range(0, len(order), this.width)]
    in_parts = not any(layer.needs_all_steps for step in steps for layer in step.layers)
    factor = this.source.time_factor

    def computed(threads: int, ids: Any) -> None:
        run, time_steps = Run(this.backend, this.memory(), threads), inputs.time_steps(ids)
        columns, places = padded(len(ids), this.lanes), inputs.places(ids)
        each = time_steps
        if in_parts:
            nbytes = this.source.widest * columns * this.source.dtype.itemsize
            each = min(max(PART // nbytes // factor, 1) * factor, time_steps)
            run.states = {}
        for begin in range(0, time_steps, each):
            count = min(each, time_steps - begin)
            with this.backend.pinned(threads):
                run.at("inputs")
                Y = run.empty(count, inputs.features, columns)
                inputs.load(ids, Y[:, :, : len(ids)], begin)
                Y[:, :, len(ids) :] = 0
                run.lengths = (inputs.lengths_of(ids, columns) - begin).clip(0, count)
                for number, step in enumerate(steps):
                    if this.cancelled.is_set():
                        return
                    run.at(number % 2)
                    Y = step.forward(run, Y)
            rows = places[begin // factor :][: len(Y)]
            values = Y.transpose(0, 2, 1)[:, : len(ids)]
            if len(ids) > 1 or rows.min() < 0:
                values = values[rows >= 0]
            rows = rows[rows >= 0]
            this.sink.write(rows, values.reshape(len(rows), -1).T)
        with this.lock:
            this.effective_edges += _edges(steps, np.full(len(ids), time_steps))
        this.advance(len(ids) * len(steps))

    try:
        this.map(computed, groups)  # type: ignore[arg-type]
    except MemoryError as error:
        if isinstance(error, MemoryBudgetError):
            raise
        longest = inputs.time_steps(order[: this.width])
        raise MemoryBudgetError(
            "X", "sequences that fit into memory with all values of their time steps",
            f"{min(len(order), this.width)} sequences of up to {longest:,} time steps at a time",
            "Pass a smaller batch_size, shorter sequences or fewer threads.",
        ) from error  # fmt: skip


def _edges(steps: Sequence[Step], lengths: Array) -> int:
    """Return the multiply-adds of sequences of some lengths: sums of edges x time steps."""
    total = 0
    for step in steps:
        total += step.edges * int(lengths.sum())
        lengths = -(-lengths // step.time_factor)
    return total


def _run_sparse(this: Execution, inputs: Inputs, budget: int | None) -> None:
    this.effective_edges += run_sparse(
        this.source, inputs, this.sink, backend=this.backend, threads=this.threads, budget=budget,
        cancelled=this.cancelled.is_set, advance=this.advance,
    )  # fmt: skip


def result_array(samples: int, features: int, dtype: np.dtype[Any]) -> Array:
    """Return an uninitialised array for results.

    Raises
    ------
    MemoryBudgetError
    """
    nbytes = samples * features * dtype.itemsize
    if nbytes > SMALL and nbytes > (free := available_bytes()):
        raise MemoryBudgetError(
            "X", f"a result that fits into the {free:,} bytes that are free",
            f"{samples} x {features} values, {nbytes:,} bytes", "Predict in parts.",
        )  # fmt: skip
    return np.empty((samples, features), dtype)


def _check_room(source: Source, columns: int) -> None:
    """Refuse tiles that do not fit into memory: two buffers of so many columns altogether."""
    nbytes = 2 * source.widest * columns * source.dtype.itemsize
    if nbytes > SMALL and nbytes > (free := available_bytes()):
        raise MemoryBudgetError(
            "batch_size",
            f"tiles that fit into the {free:,} bytes that are free",
            f"{columns} columns of {source.widest} values at a time, {nbytes:,} bytes",
            "Pass a smaller batch_size or fewer threads.",
        )


def _ignore(done: int) -> None:
    """Take no notice."""
