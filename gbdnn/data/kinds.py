"""Samples of every kind on their way into neuron-major tiles.

The public orientation is (n_samples, n_features); a tile is (1, n_features, width), of sequences
(time, n_features, width). Sparse batches and packed bits are never made dense as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gbdnn.types import Array
from gbdnn.weights.csr import check_finite
from gbdnn.weights.patterns import ranges

__all__ = ["FIX", "BitInputs", "DenseInputs", "Ids", "Inputs", "SequenceInputs", "SparseInputs"]

FIX = "Clean the inputs; only predict(check_finite=False) lets NaN and infinity through."
Ids = slice | Array  # which samples: a range without steps, or their numbers


class Inputs:
    """Samples of any kind; everything but `count`, `features`, `dtype` and `load` has a default.

    Attributes
    ----------
    count : int
        Number of samples.
    features : int
        Values in a sample, or in a time step of it.
    dtype : float32 or float64
        What `load` is asked for.
    over_time : bool
        The samples are sequences.
    view : ndarray or None
        The batch as (features, samples), for those who can read it as it lies.
    pending : bool
        Nobody has looked for NaN and infinity yet: see `verify`.
    """

    count: int
    features: int
    dtype: np.dtype[Any]
    over_time: bool = False
    view: Array | None = None
    pending: bool = False

    def load(self, ids: Ids, out: Array) -> None:
        """Write samples as columns into `out`, shape (time_steps(ids), features, len(ids))."""
        raise NotImplementedError

    def verify(self) -> None:
        """Raise `NonFiniteError` for NaN and infinity, if nobody has looked yet."""

    @property
    def rows(self) -> int:
        """Rows of a result for all samples: one for each, of sequences one for each time step."""
        return self.count

    def time_steps(self, ids: Ids) -> int:
        """Return the length of the longest of some sequences; 1 for other samples."""
        return 1

    def places(self, ids: Array) -> Array:
        """Return the rows of a result that belong to some samples, shape (time_steps, len(ids)).

        -1 where a sequence is over.
        """
        return ids[None]

    @property
    def samples_of_rows(self) -> Array:
        """The sample that each row of a result belongs to, shape (rows,)."""
        return np.arange(self.count)

    def lengths_of(self, ids: Ids, width: int) -> Array | None:
        """Return the lengths of some sequences, filled up with 0 to `width`; None of others."""
        return None

    def order(self) -> Array:
        """Return the numbers of all samples, sequences of about equal length side by side."""
        return np.arange(self.count)


class DenseInputs(Inputs):
    """Samples in a (n_samples, n_features) ndarray of any real dtype; converted tile by tile."""

    def __init__(
        self, X: Array, dtype: np.dtype[Any], *, check: bool = False, pending: bool = False
    ) -> None:
        self.X, self.dtype, self.check, self.pending = X, dtype, check, pending
        self.count, self.features = X.shape
        self.view = X.T

    def verify(self) -> None:
        """Raise `NonFiniteError` for NaN and infinity, if nobody has looked yet."""
        if self.pending:
            check_finite("X", self.X, FIX)

    def load(self, ids: Ids, out: Array) -> None:
        """Transpose samples into `out`."""
        part, columns = self.X[ids], out[0]
        # Rows a multiple of 1 KiB apart meet in few sets of the first cache: as many at once as it
        # has ways, else the transpose takes three times as long.
        step = 8 if part.strides[0] % 1024 == 0 else max(len(part), 1)
        with np.errstate(over="ignore"):
            for left in range(0, len(part), step):
                columns[:, left : left + step] = part[left : left + step].T
            if self.check and self.X.dtype != out.dtype and not np.isfinite(columns).all():
                whole = self.X.astype(out.dtype)  # so that the place is that in X
                check_finite("X", whole, f"The values do not fit into {out.dtype}. {FIX}")


class SparseInputs(Inputs):
    """Samples in the rows of a CSR matrix, whose arrays may be the caller's own."""

    def __init__(self, indptr: Array, indices: Array, values: Array, features: int, dtype: Any):
        self.indptr, self.indices, self.values = indptr, indices, values
        self.count, self.features, self.dtype = len(indptr) - 1, features, dtype

    def load(self, ids: Ids, out: Array) -> None:
        """Scatter the entries of samples into `out`."""
        out.fill(0)
        begin, end = self.indptr[:-1][ids], self.indptr[1:][ids]
        lengths = end - begin
        columns = np.repeat(np.arange(len(lengths)), lengths)
        entries: Any = ranges(begin, lengths)
        if isinstance(ids, slice) and len(begin):
            entries = slice(int(begin[0]), int(end[-1]))
        out[0][self.indices[entries], columns] = self.values[entries]


@dataclass(frozen=True, eq=False)
class BitInputs(Inputs):
    """Samples of zeros and ones, packed: 60,000 x 65,536 take 0.5 GB.

    Parameters
    ----------
    bits : ndarray of uint8, shape (n_features, ceil(count / 8))
        Neuron-major, as `numpy.packbits(..., axis=1)` makes it.
    count : int
        Number of samples.
    """

    bits: Array
    count: int
    dtype = np.dtype(np.float32)

    @property
    def features(self) -> int:  # type: ignore[override]
        """Values in a sample."""
        return len(self.bits)

    def load(self, ids: Ids, out: Array) -> None:
        """Unpack samples into `out`."""
        if not isinstance(ids, slice):
            out[0] = self.bits[:, ids // 8] >> (7 - ids % 8).astype(np.uint8) & 1
            return
        start, count, columns = ids.start, out.shape[2], out[0]
        if start % 8 == count % 8 == 0 and columns.flags.c_contiguous:
            # eight values at a time from a table: numpy.unpackbits is slow for a few bytes a row
            groups = columns.reshape(len(columns), count // 8, 8)
            part = self.bits[:, start // 8 : (start + count) // 8]
            np.take(_unpacked(out.dtype), part, axis=0, out=groups, mode="clip")
            return
        first = start // 8
        unpacked = np.unpackbits(self.bits[:, first : -(-(start + count) // 8)], axis=1)
        columns[...] = unpacked[:, start - 8 * first : start + count - 8 * first]


class SequenceInputs(Inputs):
    """Sequences of different lengths.

    Parameters
    ----------
    sequences : sequence of ndarray, shapes (time_i, features)
    dtype : float32 or float64
    one_row : bool
        The result has one row for each sequence; else one for each time step.
    padding : int, optional
        Time steps of the padded array that they came in, and that results go into.
    time_factor : int
        So many time steps have one row of the result: T of them ceil(T / time_factor).

    Attributes
    ----------
    lengths, results : ndarray of int64, shape (count,)
        Time steps of each sequence, and rows of its result.
    """

    over_time = True

    def __init__(
        self, sequences: Sequence[Array], features: int, dtype: np.dtype[Any], *,
        one_row: bool = False, padding: int | None = None, time_factor: int = 1,
    ) -> None:  # fmt: skip
        self.sequences, self.features, self.dtype = list(sequences), features, dtype
        self.one_row, self.padding, self.time_factor = one_row, padding, time_factor
        self.count = len(self.sequences)
        self.lengths = np.array([len(sequence) for sequence in self.sequences], np.int64)
        self.results = np.ones_like(self.lengths) if one_row else -(-self.lengths // time_factor)
        self.starts = np.cumsum(self.results) - self.results

    @property
    def rows(self) -> int:
        """Rows of the results of all sequences."""
        return int(self.results.sum())

    @property
    def samples_of_rows(self) -> Array:
        """The sequence that each row of a result belongs to, shape (rows,)."""
        return np.repeat(np.arange(self.count), self.results)

    def time_steps(self, ids: Ids) -> int:
        """Return the length of the longest of some sequences."""
        return int(self.lengths[ids].max(initial=0))

    def places(self, ids: Array) -> Array:
        """Return the rows of a result in which sequence follows sequence; -1 behind an end."""
        row = np.arange(int(self.results[ids].max(initial=0)))[:, None]
        return np.where(row < self.results[ids], self.starts[ids] + row, -1)

    def lengths_of(self, ids: Ids, width: int) -> Array:
        """Return the lengths of some sequences, filled up with 0 to `width`."""
        own = self.lengths[ids]
        return np.concatenate([own, np.zeros(width - len(own), np.int64)])

    def order(self) -> Array:
        """Return the sequences from the longest to the shortest."""
        return np.argsort(-self.lengths, kind="stable")

    def load(self, ids: Ids, out: Array, begin: int = 0) -> None:
        """Write sequences, from time step `begin` on, as columns into `out`; zeros behind ends."""
        for column, k in enumerate(np.arange(self.count)[ids]):
            sequence = self.sequences[k][begin : begin + len(out)]
            out[: len(sequence), :, column] = sequence
            out[len(sequence) :, :, column] = 0

    def split(self, rows: Array) -> Any:
        """Return a result as the sequences came: as a list, or padded with zeros."""
        if self.one_row:
            return rows
        if self.padding is None:
            return np.split(rows, self.starts[1:]) if self.count else []
        longest = -(-self.padding // self.time_factor)
        out = np.zeros((self.count, longest, rows.shape[1]), rows.dtype)
        out[np.arange(longest) < self.results[:, None]] = rows
        return out


@cache
def _unpacked(dtype: np.dtype[Any]) -> Array:
    """Return the eight values of each byte, shape (256, 8)."""
    return np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(dtype)
