"""Affine maps as one compiled call: small batches as a whole, large ones tile by tile.

A layer of a pruned network and one sample take 10 us; Python's work for each layer, and waking
threads for each, took 50. So what the layers need is written into a table once (a *program*): for
each layer a record that begins with the address of the layer's kernel. The interpreter goes through
it without Python. It is a job of `gbdnn.backends.fused.helpers`:

- *by rows*: the phases are transposing the inputs, each layer, transposing the results; the blocks
  are ranges of rows, and a phase begins when the one before is done. The columns stand in sections
  as wide as a tile, and what fills no strip in a narrow one: 65 columns cost what 64 and 1 cost;
- *by tiles*: one phase, the blocks are tiles, each goes through all layers in one thread.

Tiles that all participants can fill go first, by tiles, and what is left over goes by rows.

Wide columns use `kernels.product`, in the same strips as `FusedBackend.affine`. One sample has a
kernel of its own: Y is loaded value by value into vectors, several sums are in flight. A row is
always summed by one thread in one order: of one form the number of threads changes no bit. Columns
that are final are left out, see `through`; only whole strips take each other's places, so that
this changes no bit either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from gbdnn.backends.base import STRIP, Affine, Passed, Program, aligned_empty, whole_strip
from gbdnn.backends.fused import helpers, interpreter, through
from gbdnn.backends.fused.groups import is_wide
from gbdnn.backends.fused.helpers import address_of
from gbdnn.backends.fused.integers.vnni.form import VnniIntegers, computes_here, few_of, link
from gbdnn.backends.fused.integers.vnni.layer import entry_kernel
from gbdnn.backends.integers import IntegerForm
from gbdnn.errors import InputError, ShapeError
from gbdnn.machine.locks import lock_of
from gbdnn.types import Array

__all__ = ["FusedProgram"]

BLOCKS = 4  # of a phase for each participant: what is lost if the last one comes late
SPARES, SPARE = 4, 4 << 20  # workspaces that are kept between calls, and bytes of each
COMPARISONS = 64  # kinds of calls of which it is known whether helpers help
WORTH = 8e-6  # seconds of work for each participant below which it is not asked
EDGE, EDGE_COLUMN = 0.25e-9, 0.035e-9  # about the seconds of an edge, and for each column
REST = 48  # columns that are stored as fewer than a strip
HALF = 32  # columns of a tile for batches of up to REST, and of up to STRIP if layers are light:
LIGHT = 0.5e-3  # seconds of a layer in one thread
PHASE = 15e-6  # seconds of a layer for each participant below which waiting for others costs more
PLAIN = False, False, 0  # layers hand numbers over: see `_table`
SHORT = 0.05  # seconds of one call of `through`: a Ctrl-C waits for its end


@dataclass(frozen=True, eq=False)
class _State:
    """The words of a state, and the arrays that they point at."""

    words: Array
    ids: Array
    finals: Array
    others: tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class _Workspace:
    """Memory of one call: the words of its job and of the states, and their arrays."""

    job: Array
    address: int
    states: Array
    kept: list[_State]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers between layers."""
        return sum(array.nbytes for state in self.kept for array in state.others)


def _rest(columns: int, lanes: int) -> int:
    """Return how many of the columns fill no strip of `lanes` and are stored as fewer."""
    return columns % lanes if columns % lanes <= REST else 0


def _narrow(columns: int) -> int:
    """Return as how many columns a few are stored: 1, 2, 4, 8, 16, 32, 48 or 64."""
    return 1 << (columns - 1).bit_length() if columns <= 16 else -(-columns // 16) * 16


class FusedProgram(Program):
    """Affine maps with bounds as one compiled call. Read-only, shared by threads.

    Attributes
    ----------
    dtype : float32 or float64
    in_features, out_features : int
    edges : int
        Stored weights of all layers.
    """

    def __init__(self, affines: Sequence[Affine]) -> None:
        first, last = affines[0].weight, affines[-1].weight
        self.dtype = first.dtype
        self._affines = [  # keeps alive what the tables point at
            replace(affine, bias=np.ascontiguousarray(affine.bias, self.dtype))
            for affine in affines
        ]
        self.in_features, self.out_features = first.shape[1], last.shape[0]
        self._edges = np.array([affine.weight.edges for affine in affines], np.int64)
        self._edges_until = self._edges.cumsum()
        self.edges = int(self._edges_until[-1])
        outs = [affine.weight.shape[0] for affine in affines]
        self._features = np.array([self.in_features, *outs], np.int64)
        self._widest = int(self._features.max())
        # each block of an integer layer rounds the whole input, unless it is given codes
        integers = [affine.weight for affine in affines if isinstance(affine.weight, IntegerForm)]
        rounds = not all(isinstance(weight, VnniIntegers) for weight in integers)
        self._blocks = 1 if rounds else BLOCKS
        self._entry = entry_kernel(self.dtype) if computes_here(affines[0]) else 0
        self._few = few_of(affines) if computes_here(affines[-1]) else 0
        self._participant = interpreter.participant(self.dtype)
        self._tables: dict[tuple[bool, int, bool, bool, int], Array] = {}
        self._constant_tables: dict[tuple[frozenset[float], ...], Array] = {}
        self._spare: dict[Any, _Workspace] = {}
        self._comparisons: dict[Any, helpers.Comparison] = {}
        self._lock = lock_of(self)

    def fits(self, view: Array) -> bool:
        """True if `run` can read or write an array of shape (features, samples) as it is."""
        size = self.dtype.itemsize
        return (
            (size in view.strides or view.shape[1] == 1)
            and view.dtype == self.dtype
            and view.flags.aligned
        )

    def rounds_as_tiles(self, count: int) -> bool:
        """True if no column is stored in a narrow section."""
        return count > STRIP and not _rest(count, STRIP)

    def run(
        self,
        source: Array,
        target: Array,
        *,
        width: int,
        threads: int,
        check: bool,
        constants: Sequence[frozenset[float]] | None = None,
    ) -> tuple[int, int] | None:
        """Compute the last layer's output; see `Program.run`.

        Raises
        ------
        ShapeError, InputError
            For arrays that the compiled code cannot use.
        """
        count = source.shape[1]
        self._check(source, target, count)
        seconds = self.edges * (EDGE + EDGE_COLUMN * count)
        parts = min(threads, int(seconds / WORTH) or 1)
        finals = None if constants is None or count <= REST else tuple(constants)
        # whatever fills no strip goes by rows, however many threads there are: the same bits
        light = count <= REST or seconds < LIGHT * len(self._affines)
        if HALF < count <= STRIP and light:
            width = min(width, HALF)
        lanes = whole_strip(width)
        width = -(-width // lanes) * lanes
        done = count // width // parts * parts * width  # columns that fill a tile for each
        if count >= 2 * STRIP and parts > 1 and seconds < PHASE * parts * len(self._affines):
            # one for each participant, unless they get too narrow
            width = min(width, max(-(-count // parts // STRIP) * STRIP, STRIP))
            done = count - _rest(count, lanes)
        edges = idle = 0
        for first, last, tiled in ((0, done, True), (done, count, False)):
            if first < last:
                part = source[:, first:last], target[:, first:last]
                found = self._job(*part, width, parts, check, tiled, finals)
                if found is None:
                    return None
                edges, idle = edges + found[0], idle + found[1]
        return edges, idle

    def _job(
        self, source: Array, target: Array, width: int, parts: int, check: bool, tiled: bool,
        finals: tuple[frozenset[float], ...] | None,
    ) -> tuple[int, int] | None:  # fmt: skip
        """Compute some columns, by tiles or by rows."""
        count = source.shape[1]
        seconds = self.edges * (EDGE + EDGE_COLUMN * count)
        key = (count, width, parts, check, tiled, finals, source.strides, target.strides)
        with self._lock:
            space = self._spare.pop(key, None)
            if len(self._comparisons) > COMPARISONS:
                self._comparisons.clear()
            comparison = self._comparisons.get(key)
            if comparison is None:
                comparison = self._comparisons[key] = helpers.Comparison()
        space = space or self._new_workspace(key)
        interpreter.begin(space.address, source, target)
        bad, reusable = helpers.run(
            space.job, space.address, parts, seconds, (self, space), comparison
        )
        edges, idle = self.edges * count, 0
        if finals is not None and any(finals):
            edges, idle = space.states[:, [through.EDGES, through.IDLE]].sum(axis=0).tolist()
        if reusable and space.nbytes <= SPARE:
            with self._lock:
                self._spare[key] = space
                if len(self._spare) > SPARES:
                    del self._spare[next(iter(self._spare))]
        return None if bad else (edges, idle)

    def through(
        self,
        buffers: tuple[Array, Array],
        ids: Array,
        *,
        lanes: int,
        first: int,
        constants: Sequence[frozenset[float]],
        cancelled: Callable[[], bool],
    ) -> Passed | None:
        """Take one tile through some layers; see `Program.through`."""
        count, stop = len(ids), first + len(constants)
        columns = -(-count // lanes) * lanes
        self._check_buffers(buffers, columns, self._features[first : stop + 1], len(constants))
        state = self._state(count, 0, columns, lanes, 1, constants, buffers=buffers)
        words, run = state.words, through.loaded()
        words[through.CONSTANTS] -= first * words[through.CHOICES] * 8  # its rows begin at `first`
        words[through.LAST] = first
        state.ids[:] = ids
        seconds = self._edges_until * max(count, 1) * EDGE_COLUMN
        while (begin := words[through.LAST]) < stop:
            if cancelled():
                return None
            limit = SHORT + (seconds[begin - 1] if begin else 0)
            words[through.FIRST] = begin
            words[through.LAST] = np.clip(np.searchsorted(seconds, limit), begin + 1, stop)
            run(address_of(words))
        left, side = int(words[through.COUNT]), int(words[through.SIDE])
        features, columns = int(self._features[stop]), -(-left // lanes) * lanes
        ids, values = state.ids[left:], state.finals[left:]
        final = {float(value): ids[values == value] for value in set(values.tolist())}
        Y = buffers[side][: features * columns].reshape(features, columns)
        return Passed(state.ids[:left], Y, final, int(words[through.EDGES]))

    def _check_buffers(
        self, buffers: tuple[Array, Array], columns: int, features: Array, maps: int
    ) -> None:
        """Refuse what would make the compiled code read or write elsewhere."""
        if len(features) != maps + 1:
            raise ShapeError("constants", "a set for each of some layers", f"{maps} sets")
        for buffer in buffers:
            if buffer.ndim != 1 or buffer.dtype != self.dtype or not buffer.flags.writeable:
                raise InputError("buffers", f"writable vectors of {self.dtype}", repr(buffer.shape))
            if not buffer.flags.c_contiguous or len(buffer) < features.max() * columns:
                expected = f"{features.max() * columns} values side by side"
                raise ShapeError("buffers", expected, f"{buffer.shape}")

    def _check(self, source: Array, target: Array, count: int) -> None:
        """Refuse what would make the compiled code read or write elsewhere."""
        if source.shape != (self.in_features, count) or count < 1:
            raise ShapeError("Y", f"shape ({self.in_features}, batch)", f"shape {source.shape}")
        if target.shape != (self.out_features, count):
            expected = f"shape {(self.out_features, count)}"
            raise ShapeError("out", expected, f"shape {target.shape}")
        if not (self.fits(source) and self.fits(target) and target.flags.writeable):
            expected = f"aligned {self.dtype} with neighbours in rows or columns, out writable"
            raise InputError("Y, out", expected, f"strides {source.strides}, {target.strides}")

    def _new_workspace(self, key: Any) -> _Workspace:
        count, width, parts, check, tiled, constants, source, target = key
        size, depth = self.dtype.itemsize, len(self._affines)
        lanes = whole_strip(width)
        rest = 0 if tiled else _rest(count, lanes)
        in_place = count == 1 and source[0] == size
        out_place = count == 1 and target[0] == size
        # what looks for final columns sees numbers, not codes
        linked = constants is None or not any(constants)
        entered = linked and self._entry != 0 and (tiled or not in_place)
        pitch = 0
        if linked and 1 < count == _narrow(rest) <= self._few and target[0] == size:
            pitch, out_place = target[1], True
        ways = linked, entered, pitch
        if tiled:
            phases, blocks = 1, -(-count // width)
            state = (min(count, width), 0, width, lanes, 1, constants, ways)
            states = [self._state(*state) for _ in range(parts)]
            for each in states:
                each.words[through.LAST] = depth
        else:
            phases = int(not in_place) + depth + int(not out_place)
            blocks = self._blocks * parts if parts > 1 else 1
            narrow = _narrow(rest)
            states = [
                self._state(count - rest, 0, width, lanes, blocks, constants, ways),
                self._state(rest, count - rest, narrow, narrow, blocks, None, ways),
            ]
            states = [state for state in states if state.words[through.TOTAL]]
        table = aligned_empty(len(states) * through.STATE, np.int64).reshape(len(states), -1)
        table[:] = [state.words for state in states]
        job = aligned_empty(helpers.words_of(phases, parts), np.int64)
        job[: helpers.WORDS] = 0
        for word, value in {
            helpers.FUNCTION: self._participant, helpers.PHASES: phases, helpers.BLOCKS: blocks,
            helpers.AFTER: not tiled and bool(constants) and any(constants),
            interpreter.LAYERS: depth, interpreter.TILED: tiled, interpreter.SAMPLES: count,
            interpreter.IN: self.in_features, interpreter.OUT: self.out_features,
            interpreter.SOURCE_ROW: source[0], interpreter.SOURCE_COLUMN: source[1],
            interpreter.TARGET_ROW: target[0], interpreter.TARGET_COLUMN: target[1],
            interpreter.STATES: address_of(table), interpreter.STATE_COUNT: len(states),
            interpreter.LOADS: not (in_place or tiled), interpreter.CHECK: check,
            interpreter.IN_PLACE: in_place, interpreter.OUT_PLACE: out_place,
            interpreter.ENTRY: self._entry if entered else 0,
        }.items():  # fmt: skip
            job[word] = value
        return _Workspace(job, address_of(job), table, states)

    def _state(
        self, count: int, start: int, width: int, lanes: int, blocks: int,
        constants: Sequence[frozenset[float]] | None, ways: tuple[bool, bool, int] = PLAIN,
        buffers: tuple[Array, Array] | None = None,
    ) -> _State:  # fmt: skip
        """Return where `count` columns are on their way; see `through`."""
        width = max(min(width, -(-count // lanes) * lanes), 1)
        section = -(-self._widest * -(-width // lanes) * lanes // STRIP) * STRIP
        if buffers is None:
            room = -(-count // width) * section
            buffers = aligned_empty(room, self.dtype), aligned_empty(room, self.dtype)
        ids, finals, flags = np.empty(count, np.int64), np.empty(count), np.empty(count, np.uint8)
        program = self._table(is_wide(width * self.dtype.itemsize), blocks, *ways)
        words = np.zeros(through.STATE, np.int64)
        arrays = {
            through.PROGRAM: program, through.FEATURES: self._features,
            through.WEIGHTS: self._edges, through.IDS: ids, through.FINALS: finals,
            through.FLAGS: flags, through.FRONT: buffers[0], through.BACK: buffers[1],
        }  # fmt: skip
        if constants is not None and any(constants):
            table = arrays[through.CONSTANTS] = self._constants(constants)
            words[through.CHOICES] = table.shape[1]
            words[through.DROP] = through.dropping(self.dtype)
        for word, array in arrays.items():
            words[word] = address_of(array)
        words[through.WIDTH], words[through.LANES] = width, lanes
        words[through.SECTION] = section * self.dtype.itemsize
        words[through.START], words[through.TOTAL], words[through.COUNT] = start, count, count
        return _State(words, ids, finals, (*buffers, flags))

    def _constants(self, constants: Sequence[frozenset[float]]) -> Array:
        """Return the table of constants, made once."""
        key = tuple(constants)
        table = self._constant_tables.get(key)
        if table is None:
            table = np.full((len(key), max(map(len, key))), np.nan)
            for row, numbers in zip(table, key, strict=True):
                row[: len(numbers)] = sorted(numbers)
            table = self._constant_tables.setdefault(key, table)  # jobs know its address
        return table

    def _table(self, wide: bool, blocks: int, linked: bool, entered: bool, pitch: int) -> Array:
        """Return the table for a Y with wide rows or narrow ones, and so many blocks of rows.

        `linked` layers hand codes over, and the first one gets codes where the input is `entered`;
        for `pitch` see `link`.
        """
        key = wide, blocks, linked, entered, pitch
        table = self._tables.get(key)
        if table is None:
            records = [affine.weight.record(affine, wide, blocks) for affine in self._affines]
            if linked:
                link(self._affines, records, entered=entered, pitch=pitch)
            starts = np.cumsum([len(records), *map(len, records)])[:-1]
            table = np.array([*starts.tolist(), *chain.from_iterable(records)], np.int64)
            table = self._tables.setdefault(key, table)  # jobs know its address
        return table
