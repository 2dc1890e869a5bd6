"""Stages: the layers that tiles go through together, before survivors are merged to full tiles."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from gbdnn.backends.base import Backend
from gbdnn.backends.workers import share
from gbdnn.execution.run import Memory, Run
from gbdnn.execution.skipping import Aside, drop
from gbdnn.execution.source import Sink, Source
from gbdnn.execution.steps import Compiled, Step, compiled, stays
from gbdnn.execution.tiles import Block, Tile, padded
from gbdnn.types import Array

__all__ = ["Execution", "Stage", "Waiting", "prefetched", "stages", "through"]

Waiting = tuple[int, Block]  # columns, and the number of the stage that they wait for
MOST = 0.75  # of a tile's strips left: more, and it goes on without being merged


class Execution:
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

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, *error: object) -> None:
        self.cancelled.set()  # a thread that fetches layers ahead stops

    def map(self, task: Callable[[int, Tile], Waiting | None], tiles: list[Tile]) -> list[Waiting]:
        """Run the tiles on the workers; with fewer tiles than workers split each tile's rows."""
        if len(tiles) < self.threads or self.threads == 1:
            made = [task(self.threads, tile) for tile in tiles]
        else:
            try:
                made = share(partial(self._until_cancelled, task), tiles, self.threads)
            except BaseException:
                self.cancelled.set()  # also if Ctrl-C came while this thread waited
                raise
        return [waiting for waiting in made if waiting is not None]

    def _until_cancelled(
        self, task: Callable[[int, Tile], Waiting | None], tile: Tile
    ) -> Waiting | None:
        try:
            return task(1, tile)
        except BaseException:
            self.cancelled.set()  # the others stop at their next layer
            raise

    def final(self, stage: Stage, *, last: bool) -> list[frozenset[float]]:
        """Return for each step of a stage at which constants a column behind it is final."""
        return stays(stage.steps, last=last) if self.skip else [frozenset()] * len(stage.steps)

    def count(self, edges: int, pairs: int) -> None:
        """Count what was done: weights x columns, and (sample, step) pairs."""
        with self.lock:
            self.effective_edges += edges
        self.advance(pairs)

    def memory(self) -> Memory:
        """Return this thread's memory."""
        if not hasattr(self.local, "memory"):
            self.local.memory = Memory(self.source.dtype)
        made: Memory = self.local.memory
        return made


@dataclass(frozen=True, eq=False)
class Stage:
    """Steps that a tile goes through without a stop.

    Attributes
    ----------
    number : int
        0, 1, ...
    steps : sequence of Step
    whole : Compiled or None
        A compiled call that has them from its map `first` on.
    """

    number: int
    steps: Sequence[Step]
    whole: Compiled | None = None
    first: int = 0

    @property
    def widest(self) -> int:
        """Largest number of features anywhere."""
        return max(self.steps[0].in_features, *(step.out_features for step in self.steps))


def through(
    this: Execution, coming: Sequence[Stage], tiles: list[Tile], width: int, done: int
) -> list[Waiting]:
    """Take tiles of up to `width` columns through the first of the stages that come.

    A tile of which most columns are left goes on through the stages behind it at once; what is left
    of others waits to be merged. Columns that come out of the last layer are results.

    Parameters
    ----------
    done : int
        Layers before these stages.

    Returns
    -------
    list of (number, Block)
        Columns, and the number of the stage that they wait for.
    """
    stage = coming[0]
    if stage.whole is not None and not 0 < len(tiles) < this.threads:
        room = max(stage.widest for stage in coming) * padded(width, this.lanes)
        return this.map(partial(_at_once, this, coming, room, done), tiles)
    return this.map(partial(_one_tile, this, stage, done), tiles)


def _at_once(
    this: Execution, coming: Sequence[Stage], room: int, done: int, threads: int, tile: Tile
) -> Waiting | None:
    """Take one tile through stages, each as one compiled call; columns are dropped inside."""
    memory, lanes = this.memory(), this.lanes
    buffers = memory.array("front", (room,)), memory.array("back", (room,))

    def empty(features: int, columns: int) -> Array:
        columns = padded(columns, lanes)
        return buffers[0][: features * columns].reshape(features, columns)

    ids, Y = tile(empty)
    for stage in coming:
        entered, whole = len(ids), stage.whole
        done += len(stage.steps)
        last = done == this.source.depth
        if whole is None:
            return stage.number, Block(ids, Y[:, : len(ids)].copy())
        if Y.ctypes.data != buffers[0].ctypes.data:
            buffers = buffers[::-1]
        passed = whole.program.through(
            buffers, ids, lanes=lanes, first=stage.first, constants=this.final(stage, last=last),
            cancelled=this.cancelled.is_set,
        )  # fmt: skip
        if passed is None:
            return None
        ids, Y = passed.ids, passed.Y
        for value, gone in passed.final.items():
            this.aside.put(gone, value, stage.number)
        this.count(passed.edges, entered * len(stage.steps))
        if last:
            for layer in whole.tail:
                layer.apply(Y)
            this.sink.write(ids, Y[:, : len(ids)])
            return None
        if padded(len(ids), lanes) < MOST * padded(entered, lanes):
            break
    return _waiting(stage, ids, Y)


def _one_tile(this: Execution, stage: Stage, done: int, threads: int, tile: Tile) -> Waiting | None:
    """Take one tile through a stage, step by step, and drop columns between them."""
    run, edges, side = Run(this.backend, this.memory(), threads), 0, 0
    last = done + len(stage.steps) == this.source.depth
    final = this.final(stage, last=last)

    def empty(features: int, columns: int) -> Array:
        nonlocal side
        side = 1 - side  # what lies on the other side is read meanwhile
        run.at(side)
        array: Array = run.empty(1, features, padded(columns, this.lanes))[0]
        return array

    with this.backend.pinned(threads):
        ids, Y = tile(empty)
        entered = len(ids)
        for number, (step, constants) in enumerate(zip(stage.steps, final, strict=True), 1):
            if this.cancelled.is_set():
                return None
            side = 1 - side
            run.at(side)
            Y = step.forward(run, Y[None])[0]
            edges += step.edges * len(ids)
            if constants:
                ids, Y = drop(
                    ids, Y, constants, partial(this.aside.put, stage=stage.number),
                    partial(empty, len(Y)), force=number == len(stage.steps),
                )  # fmt: skip
                if not len(ids):
                    break
    this.count(edges, entered * len(stage.steps))
    if last and len(ids):  # else Y may be of any layer
        this.sink.write(ids, Y[:, : len(ids)])
        return None
    return _waiting(stage, ids, Y)


def _waiting(stage: Stage, ids: Array, Y: Array) -> Waiting | None:
    return (stage.number + 1, Block(ids, Y[:, : len(ids)].copy())) if len(ids) else None


def stages(this: Execution, start: int, size: int, budget: int, number: int) -> Iterator[Stage]:
    """Group steps: `size` of them, then twice as many each time, within the bytes of `budget`."""
    whole = None if this.source.lazy else this.source.compiled(this.backend)
    steps: list[Step] = []
    nbytes = 0

    def stage() -> Stage:
        if whole is not None:
            return Stage(number, steps, whole, start)
        made = compiled(this.backend, steps)
        between = start + len(steps) < this.source.depth  # where `_at_once` applies no tail
        return Stage(number, steps, None if made is not None and made.tail and between else made)

    for step in this.source.steps(this.backend, start):
        if this.cancelled.is_set():  # Ctrl-C while a thread fetches hundreds of layers ahead
            return
        steps.append(step)
        nbytes += step.nbytes
        if len(steps) >= size or nbytes >= budget:
            yield stage()
            number, start = number + 1, start + len(steps)
            steps, nbytes, size = [], 0, 2 * size
    if steps:
        yield stage()


def prefetched(this: Execution, stages: Iterator[Stage]) -> Iterator[Stage]:
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
