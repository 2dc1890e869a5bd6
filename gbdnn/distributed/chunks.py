"""Rows of X, cut into chunks that go to workers."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from gbdnn.data.inputs import DenseInputs, SparseInputs, as_inputs
from gbdnn.distributed.executors import Pool
from gbdnn.errors import InputError, ShapeError
from gbdnn.execution.first import PartOfSparse
from gbdnn.network import Network
from gbdnn.types import Array

__all__ = ["MappedRows", "Rows", "read_rows", "rows_of", "spans_of"]

STEP = 128  # rows: `fused` sums up to 64 in another order (`gbdnn.backends.fused.program.HALF`)
LEAST, SHARE = 256, 4  # rows of a chunk, and chunks for each slot, if they do not get too large
BYTES = 4 << 20  # of a chunk's input, or result: beyond, Dask wants data to be sent otherwise


@dataclass(frozen=True)
class MappedRows:
    """Rows of a file that a worker on this host maps itself.

    `identity` is the file's device, number and length, by which the worker knows it again.
    """

    path: str
    identity: tuple[int, int, int]
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, X: Any) -> MappedRows | None:
        """Return where the rows of a `numpy.memmap` are; None if that cannot be said."""
        base, path = getattr(X, "_mmap", None), getattr(X, "filename", None)
        if base is None or path is None or X.dtype.hasobject or min(X.strides, default=0) < 0:
            return None
        try:
            identity = _identity(os.stat(path))
        except OSError:
            return None
        first = np.frombuffer(base, np.uint8).__array_interface__["data"][0]
        inside = X.__array_interface__["data"][0] - first
        begin = X.offset - X.offset % mmap.ALLOCATIONGRANULARITY  # of the map in the file
        return cls(os.fspath(path), identity, begin + inside, X.shape, X.strides, X.dtype)

    def part(self, start: int, stop: int) -> MappedRows:
        """Return some of the rows."""
        return MappedRows(
            self.path, self.identity, self.start + start * self.strides[0],
            (stop - start, *self.shape[1:]), self.strides, self.dtype,
        )  # fmt: skip

    def read(self) -> Array:
        """Return the rows as a view of the file.

        Raises
        ------
        InputError
            If it is not the same file any more.
        """
        with open(self.path, "rb") as file:
            if _identity(os.fstat(file.fileno())) != self.identity:
                raise InputError("X", f"{self.path} as it was", "another file or length")
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.ndarray(self.shape, self.dtype, whole, self.start, self.strides)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_size


@dataclass(frozen=True, eq=False)
class Rows:
    """What `predict` was given, checked as far as that does not take a pass over dense values.

    Attributes
    ----------
    count : int
    nbytes : int
        Of a row, about.
    part : callable
        Gets start and stop; returns what a task is given.
    grid : tuple of int or None
        Boundaries at which it is cut already.
    """

    count: int
    nbytes: int
    part: Callable[[int, int], Any]
    grid: tuple[int, ...] | None = None


def rows_of(
    X: Any, network: Network, pool: Pool, *, lengths: Any = None, check_finite: bool = True
) -> Rows:
    """Return the rows of X.

    Parameters
    ----------
    X : ndarray, numpy.memmap, scipy sparse, Dask array, list of sequences
        What `Network.predict` takes, and Dask arrays of shape (n_samples, in_features).

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, SparseFormatError
    """
    if type(X).__module__.startswith("dask."):
        return _dask_rows(X, network, pool)
    if lengths is not None or (isinstance(X, np.ndarray) and X.ndim == 3):
        return _padded_rows(X, lengths, network)
    inputs = as_inputs(
        X, network.in_features, network.dtype, one_row=network.one_row,
        time_factor=network.time_factor, later=True,
        finite=check_finite and not isinstance(X, np.ndarray),
    )  # fmt: skip
    if isinstance(inputs, SparseInputs):
        entry = inputs.values.itemsize + inputs.indices.itemsize
        nbytes = int(len(inputs.values) * entry / max(inputs.count, 1))
        return Rows(inputs.count, nbytes, partial(PartOfSparse, inputs))
    if isinstance(inputs, DenseInputs):
        array = inputs.X
        nbytes = array.itemsize * inputs.features
        mapped = MappedRows.of(X) if pool.one_host and isinstance(X, np.memmap) else None
        if mapped is not None:
            return Rows(inputs.count, nbytes, mapped.part)
        return Rows(inputs.count, nbytes, lambda start, stop: np.asarray(array[start:stop]))
    if isinstance(X, list | tuple):
        total = sum(part.nbytes for part in X)
        return Rows(len(X), total // max(len(X), 1), lambda start, stop: list(X[start:stop]))
    raise ShapeError("X", "rows that can be cut into chunks", type(X).__name__)


def _padded_rows(X: Any, lengths: Any, network: Network) -> Rows:
    """Return padded sequences, with their lengths."""
    as_inputs(X, network.in_features, network.dtype, lengths=lengths, finite=False)
    array = np.asarray(X)
    given = np.full(len(array), array.shape[1]) if lengths is None else np.asarray(lengths)
    nbytes = array.itemsize * array.shape[1] * array.shape[2]
    return Rows(len(array), nbytes,
                lambda start, stop: (array[start:stop], given[start:stop]))  # fmt: skip


def _dask_rows(X: Any, network: Network, pool: Pool) -> Rows:
    shape = X.shape
    if len(shape) != 2 or shape[1] != network.in_features:
        raise ShapeError("X", f"a Dask array of {network.in_features} columns", f"{shape}")
    if not all(size == size for size in X.chunks[0]):  # NaN: nobody knows yet
        fix = "Call X.compute_chunk_sizes() before."
        raise ShapeError("X", "a Dask array whose chunks have known sizes", f"{X.chunks[0]}", fix)
    grid = tuple(int(edge) for edge in np.cumsum((0, *X.chunks[0])))
    nbytes = X.dtype.itemsize * shape[1]
    return Rows(grid[-1], nbytes, lambda start, stop: pool.chunk(X[start:stop]), grid)


def read_rows(given: Any) -> tuple[Any, Any]:
    """Return X and lengths of what a task was given."""
    if isinstance(given, MappedRows):
        return given.read(), None
    return given if isinstance(given, tuple) else (given, None)


def spans_of(rows: Rows, network: Network, slots: int, chunk: int | None) -> list[tuple[int, int]]:
    """Return the ranges that rows are cut into.

    Some chunks for each slot, so that a slow one is made up for; not more than `BYTES` in input or
    result; rows that are cut already keep their cuts, unless `chunk` is given. All cuts are moved
    to multiples of `STEP`, and the last chunk has that many rows at least: then every row is
    computed as in one call with all of them.
    """
    edges: Sequence[int]
    if chunk is None and rows.grid is not None:
        edges = rows.grid
    else:
        if chunk is None:
            result = network.out_features * network.dtype.itemsize
            most = max(BYTES // max(rows.nbytes, result, 1), STEP)
            chunk = min(max(-(-rows.count // (SHARE * slots)), LEAST), most)
        edges = range(0, rows.count, -(-chunk // STEP) * STEP)
    inner = {edge // STEP * STEP for edge in edges if edge <= rows.count - STEP}
    cuts = sorted({0, *inner, rows.count})
    return list(pairwise(cuts))
