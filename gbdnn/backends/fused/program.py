"""Small batches: one compiled call takes the batch through all layers.

A layer of a pruned network and one sample take 10 us; Python's work for each layer, and waking
threads for each, took 50. So the addresses of everything that the layers need are written into a
table once (a *program*), and `interpreter.participate` goes through it without Python. It is a job
of `gbdnn.backends.fused.helpers`:

- *by rows*: one tile; the phases are transposing the inputs, each layer, transposing the results;
  the blocks are ranges of rows, and a phase begins when the one before is done;
- *by tiles*: one phase, the blocks are tiles, each goes through all layers in one thread.

Wide tiles use `_kernels.layer`, in the same strips as `FusedBackend.affine`. One sample has a
kernel of its own: Y is loaded value by value into vectors, several sums are in flight.
A row is always summed by one thread in one order: the number of threads changes no bit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain as joined
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends.base import aligned_empty
from gbdnn.backends.fused import helpers, interpreter
from gbdnn.backends.fused.helpers import address_of
from gbdnn.errors import InputError, ShapeError

__all__ = ["Chain", "link"]

Array = npt.NDArray[Any]
BLOCKS = 4  # of a phase for each participant: what is lost if the last one comes late
WIDE = 128  # bytes of a row of Y from which blocks of columns pay, as in `fused`
SPARES, SPARE = 4, 4 << 20  # workspaces that are kept between calls, and bytes of each
WORTH = 8e-6  # seconds of work for each participant below which it is not asked
EDGE, EDGE_COLUMN = 0.25e-9, 0.035e-9  # about the seconds of an edge, and for each column


def link(steps: Sequence[Any]) -> Chain | None:
    """Return the steps as a chain; None if one before the last has an activation that is no clamp.

    Also None if index dtypes differ.
    """
    reals = {step.weight.dtype for step in steps}
    indices = {step.weight.grouped.indices.dtype for step in steps}
    clamped = all(_clamp(step) is not None for step in steps[:-1])
    return Chain(steps) if clamped and len(reals) == len(indices) == 1 else None


def _clamp(step: Any) -> tuple[float, float] | None:
    found: tuple[float, float] | None = getattr(step.activation, "clamp", None)
    return found


@dataclass(eq=False)
class _Workspace:
    """Memory of one call: the words of its job and the buffers between layers."""

    job: Array
    address: int
    buffers: Array


class Chain:
    """Layers with bounds for activations, as one compiled call. Read-only, shared by threads.

    Attributes
    ----------
    settles : bool
        Some layer keeps a constant, so that skipping may find something.
    edges : int
        Stored weights of all layers.
    tail : Activation or None
        The last layer's activation where it is no clamp (a softmax): left to the caller.
    """

    def __init__(self, steps: Sequence[Any]) -> None:
        self._steps = tuple(steps)  # keeps alive what the programs point at
        self.dtype = steps[0].weight.dtype
        self.in_features, self.out_features = steps[0].in_features, steps[-1].out_features
        self.edges = sum(step.edges for step in steps)
        self.settles = any(step.keeps for step in steps)
        self._widest = max(self.in_features, *(step.out_features for step in steps))
        self.tail = steps[-1].activation if _clamp(steps[-1]) is None else None
        bounds = joined.from_iterable(_clamp(step) or (-np.inf, np.inf) for step in steps)
        self._bounds = np.array(list(bounds), self.dtype)
        self._functions = _compiled(self.dtype, steps[0].weight.grouped.indices.dtype)
        self._programs: dict[tuple[bool, int], Array] = {}
        self._spare: dict[Any, _Workspace] = {}
        self._lock = threading.Lock()

    def fits(self, view: Array) -> bool:
        """True if `run` can read or write an array of shape (features, samples) as it is."""
        size = self.dtype.itemsize
        return (
            (size in view.strides or view.shape[1] == 1)
            and view.dtype == self.dtype
            and view.flags.aligned
        )

    def run(
        self, source: Array, target: Array, *, width: int, lanes: int, threads: int, check: bool
    ) -> bool:
        """Compute the last layer's output, but for `tail`; False if `check` found NaN or infinity.

        Parameters
        ----------
        source : ndarray, shape (in_features, samples)
            A view for which `fits` is true, that is neuron-major or a transposed batch.
        target : ndarray, shape (out_features, samples)
            The same, writable. Undefined if the result is False.
        width, lanes : int
            Columns of a tile, and what their number is rounded up to.
        threads : int
        check : bool
            Look for NaN and infinity in the source.

        Raises
        ------
        ShapeError, InputError
            For arrays that the compiled code cannot use.
        """
        count = source.shape[1]
        self._check(source, target, count)
        seconds = self.edges * (EDGE + EDGE_COLUMN * count)
        parts = min(threads, int(seconds / WORTH) or 1)
        key = (count, width, lanes, parts, check, source.strides, target.strides)
        with self._lock:
            space = self._spare.pop(key, None)
        space = space or self._new_workspace(key)
        interpreter.aim(space.address, source, target)
        bad, reusable = helpers.perform(space.job, space.address, parts, seconds, (self, space))
        if reusable and space.buffers.nbytes <= SPARE:
            with self._lock:
                self._spare[key] = space
                if len(self._spare) > SPARES:
                    del self._spare[next(iter(self._spare))]
        return not bad

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
        count, width, lanes, parts, check, source, target = key
        size = self.dtype.itemsize
        tiles = -(-count // width)
        if tiles == 1:
            lanes = 1 << (count - 1).bit_length() if count <= 32 else lanes
        tile = -(-min(count, width) // lanes) * lanes
        nbytes = -(-self._widest * tile * size // 64) * 64
        in_place = count == 1 and source[0] == size
        out_place = count == 1 and target[0] == size
        if tiles > 1:
            loads, phases, blocks = 0, 1, tiles
        else:
            loads = int(not in_place)
            phases = loads + len(self._steps) + int(not out_place)
            blocks = BLOCKS * parts if parts > 1 else 1
        job = aligned_empty(helpers.words_of(phases, parts), np.int64)
        buffers = aligned_empty(2 * (parts if tiles > 1 else 1) * nbytes // size, self.dtype)
        job[: helpers.WORDS] = 0
        program = self._program(tile * size >= WIDE, 1 if tiles > 1 else blocks)
        for word, value in {
            helpers.FUNCTION: self._functions[0], interpreter.KERNEL: self._functions[1],
            helpers.PHASES: phases, helpers.BLOCKS: blocks,
            interpreter.PROGRAM: address_of(program), interpreter.BOUNDS: address_of(self._bounds),
            interpreter.LAYERS: len(self._steps), interpreter.TILED: tiles > 1,
            interpreter.SOURCE_ROW: source[0], interpreter.SOURCE_COLUMN: source[1],
            interpreter.TARGET_ROW: target[0], interpreter.TARGET_COLUMN: target[1],
            interpreter.COUNT: count, interpreter.WIDTH: width, interpreter.LANES: lanes,
            interpreter.BUFFERS: address_of(buffers), interpreter.BUFFER_BYTES: nbytes,
            interpreter.LOADS: loads, interpreter.CHECK: check,
            interpreter.IN_PLACE: in_place, interpreter.OUT_PLACE: out_place,
        }.items():  # fmt: skip
            job[word] = value
        return _Workspace(job, address_of(job), buffers)

    def _program(self, blocked: bool, blocks: int) -> Array:
        """Return the table of the layers for so many blocks of rows."""
        found = self._programs.get((blocked, blocks))
        if found is None:
            layers = [_layer_words(step, blocked, blocks) for step in self._steps]
            starts = np.cumsum([len(layers), *map(len, layers)])[:-1]
            found = np.array([*starts.tolist(), *joined.from_iterable(layers)], np.int64)
            self._programs[blocked, blocks] = found
        return found


def _layer_words(step: Any, blocked: bool, blocks: int) -> list[int]:
    shares = step.weight.shares(blocks, blocked=blocked)
    pieces = [
        [
            *(rows, iso, address_of(table), address_of(indices), address_of(values)),
            *(resume, strip, final),
            *(share[piece][0][5] for share in shares),
            shares[-1][piece][0][6],
        ]
        for piece, ((rows, iso, table, indices, values, _, _, resume, strip), final) in enumerate(
            shares[0]
        )
    ]
    bias = step.bias.reshape(-1)
    head = [len(pieces), address_of(bias), len(bias), step.in_features, step.out_features]
    return [int(word) for word in (*head, *joined.from_iterable(pieces))]


@cache
def _compiled(real: np.dtype[Any], index: np.dtype[Any]) -> tuple[int, int]:
    """Return the addresses of the compiled functions for these dtypes."""
    with _compiling:
        helpers.prepare()
        interpreter.compile_aim(real)
        participate, kernel = interpreter.compiled(real, index)
        return int(participate.address), int(kernel.address)


_compiling = threading.Lock()
