"""Small batches: one compiled call takes the batch through all layers.

A layer of a pruned network and one sample take 10 us; Python's work for each layer, and waking
threads for each, took 50. So what the layers need is written into a table once (a *program*): for
each layer a record that begins with the address of the layer's kernel. The interpreter goes through
it without Python. It is a job of `gbdnn.backends.fused.helpers`:

- *by rows*: one tile; the phases are transposing the inputs, each layer, transposing the results;
  the blocks are ranges of rows, and a phase begins when the one before is done;
- *by tiles*: one phase, the blocks are tiles, each goes through all layers in one thread.

Wide tiles use `kernels.product`, in the same strips as `FusedBackend.affine`. One sample has a
kernel of its own: Y is loaded value by value into vectors, several sums are in flight.
A row is always summed by one thread in one order: the number of threads changes no bit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from gbdnn.backends.base import Affine, Program, aligned_empty
from gbdnn.backends.fused import helpers, interpreter
from gbdnn.backends.fused.groups import is_wide
from gbdnn.backends.fused.helpers import address_of
from gbdnn.errors import InputError, ShapeError
from gbdnn.types import Array

__all__ = ["FusedProgram"]

BLOCKS = 4  # of a phase for each participant: what is lost if the last one comes late
SPARES, SPARE = 4, 4 << 20  # workspaces that are kept between calls, and bytes of each
WORTH = 8e-6  # seconds of work for each participant below which it is not asked
EDGE, EDGE_COLUMN = 0.25e-9, 0.035e-9  # about the seconds of an edge, and for each column


@dataclass(eq=False)
class _Workspace:
    """Memory of one call: the words of its job and the buffers between layers."""

    job: Array
    address: int
    buffers: Array


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
        self.edges = sum(affine.weight.edges for affine in affines)
        self._widest = max(self.in_features, *(affine.weight.shape[0] for affine in affines))
        self._participant = interpreter.participant(self.dtype)
        self._tables: dict[tuple[bool, int], Array] = {}
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
        """Compute the last layer's output; False if `check` found NaN or infinity.

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
        interpreter.set_addresses(space.address, source, target)
        bad, reusable = helpers.run(space.job, space.address, parts, seconds, (self, space))
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
            phases = loads + len(self._affines) + int(not out_place)
            blocks = BLOCKS * parts if parts > 1 else 1
        job = aligned_empty(helpers.words_of(phases, parts), np.int64)
        buffers = aligned_empty(2 * (parts if tiles > 1 else 1) * nbytes // size, self.dtype)
        job[: helpers.WORDS] = 0
        table = self._table(is_wide(tile * size), 1 if tiles > 1 else blocks)
        for word, value in {
            helpers.FUNCTION: self._participant, helpers.PHASES: phases, helpers.BLOCKS: blocks,
            interpreter.PROGRAM: address_of(table), interpreter.LAYERS: len(self._affines),
            interpreter.IN: self.in_features, interpreter.OUT: self.out_features,
            interpreter.TILED: tiles > 1,
            interpreter.SOURCE_ROW: source[0], interpreter.SOURCE_COLUMN: source[1],
            interpreter.TARGET_ROW: target[0], interpreter.TARGET_COLUMN: target[1],
            interpreter.COUNT: count, interpreter.WIDTH: width, interpreter.LANES: lanes,
            interpreter.BUFFERS: address_of(buffers), interpreter.BUFFER_BYTES: nbytes,
            interpreter.LOADS: loads, interpreter.CHECK: check,
            interpreter.IN_PLACE: in_place, interpreter.OUT_PLACE: out_place,
        }.items():  # fmt: skip
            job[word] = value
        return _Workspace(job, address_of(job), buffers)

    def _table(self, wide: bool, blocks: int) -> Array:
        """Return the table for a Y with wide rows or narrow ones, and so many blocks of rows."""
        table = self._tables.get((wide, blocks))
        if table is None:
            records = [affine.weight.record(affine, wide, blocks) for affine in self._affines]
            starts = np.cumsum([len(records), *map(len, records)])[:-1]
            table = np.array([*starts.tolist(), *chain.from_iterable(records)], np.int64)
            table = self._tables.setdefault((wide, blocks), table)  # jobs know its address
        return table
