"""A batch on its way in: checked once, then loaded tile by tile into neuron-major arrays.

The public orientation is (n_samples, n_features); a tile is (1, n_features, width), of sequences
(time, n_features, width). Sparse batches and packed bits are never made dense as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gbdnn.errors import InputError, NonFiniteError, ShapeError
from gbdnn.types import Array
from gbdnn.weights.csr import CSR, as_csr, check_finite, is_canonical
from gbdnn.weights.foreign import from_scipy, from_torch, numeric_array
from gbdnn.weights.patterns import ranges

__all__ = [
    "BitInputs", "DenseInputs", "Inputs", "SequenceInputs", "SparseInputs", "as_inputs", "unpadded",
]  # fmt: skip

FIX = "Clean the inputs, or pass check_finite=False to let NaN and infinity through."
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
        if self.check and self.X.dtype != out.dtype:
            check_finite("X", out, f"The values do not fit into {out.dtype}. {FIX}")


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
    """

    over_time = True

    def __init__(
        self, sequences: Sequence[Array], features: int, dtype: np.dtype[Any], *,
        one_row: bool = False, padding: int | None = None,
    ) -> None:  # fmt: skip
        self.sequences, self.features, self.dtype = list(sequences), features, dtype
        self.one_row, self.padding = one_row, padding
        self.count = len(self.sequences)
        self.lengths = np.array([len(sequence) for sequence in self.sequences], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths

    @property
    def rows(self) -> int:
        """Time steps of all sequences, or their number."""
        return self.count if self.one_row else int(self.lengths.sum())

    @property
    def samples_of_rows(self) -> Array:
        """The sequence that each row of a result belongs to, shape (rows,)."""
        return np.repeat(np.arange(self.count), 1 if self.one_row else self.lengths)

    def time_steps(self, ids: Ids) -> int:
        """Return the length of the longest of some sequences."""
        return int(self.lengths[ids].max(initial=0))

    def places(self, ids: Array) -> Array:
        """Return the rows of a result in which sequence follows sequence; -1 behind an end."""
        if self.one_row:
            return ids[None]
        time = np.arange(self.time_steps(ids))[:, None]
        return np.where(time < self.lengths[ids], self.starts[ids] + time, -1)

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
        out = np.zeros((self.count, self.padding, rows.shape[1]), rows.dtype)
        out[np.arange(self.padding) < self.lengths[:, None]] = rows
        return out


@cache
def _unpacked(dtype: np.dtype[Any]) -> Array:
    """Return the eight values of each byte, shape (256, 8)."""
    return np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(dtype)


def as_inputs(
    X: Any,
    features: int,
    dtype: np.dtype[Any],
    *,
    finite: bool = True,
    name: str = "X",
    later: bool = False,
    lengths: Any = None,
    one_row: bool = False,
) -> Inputs:
    """Check a batch at the door; nothing is copied where it is an ndarray or a canonical CSR.

    Parameters
    ----------
    X : array_like (n_samples, features), scipy sparse of that shape, sequences, or an `Inputs`
        Any memory order; read-only and memory-mapped arrays are fine. Sequences are a list of
        ndarrays of shape (time_i, features), or padded, (n_samples, time, features).
    features : int
        What the first layer takes.
    dtype : float32 or float64
        What the network computes in.
    finite : bool
        Refuse NaN and infinity.
    later : bool
        Leave that to `Inputs.verify`, or to compiled code that reads the values anyway, where no
        conversion is needed.
    lengths : array_like of int, shape (n_samples,), optional
        Of padded sequences; default their whole time.
    one_row : bool
        Of sequences the result has one row each; else one for each time step.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, SparseFormatError, InputError
    """
    if lengths is not None or (isinstance(X, np.ndarray) and X.ndim == 3):
        X, time = unpadded(X, lengths, name)
        X = _sequences(X, dtype, finite, name, time)
    if type(X) is not np.ndarray:
        X = from_torch(X, name)
    if isinstance(X, Inputs):
        checked = X
    elif type(X) is np.ndarray:  # the usual case first: it counts for one row
        checked = _dense(X, dtype, finite, name, later)
    elif _is_sparse(X):
        checked = _sparse(X, dtype, finite, name)
    elif isinstance(X, list | tuple) and any(
        isinstance(part, np.ndarray) and part.ndim == 2 for part in X
    ):
        checked = _sequences(X, dtype, finite, name)
    else:
        checked = _dense(numeric_array(X, name), dtype, finite, name, later)
    if isinstance(checked, SequenceInputs) and checked.one_row != one_row:
        checked = SequenceInputs(checked.sequences, checked.features, dtype, one_row=one_row)
    if checked.features != features:
        raise ShapeError(
            name,
            f"{features} features per sample, as the first layer takes",
            f"{checked.features} (shape {checked.count} x {checked.features})",
        )
    return checked


def _dense(X: Array, dtype: np.dtype[Any], finite: bool, name: str, later: bool) -> DenseInputs:
    array = numeric_array(X, name)
    if array.ndim == 1:
        fix = "For one sample pass X.reshape(1, -1), for one feature X.reshape(-1, 1)."
        raise ShapeError(name, "2 dimensions (n_samples, n_features)", f"{array.shape}", fix)
    if array.ndim != 2:
        raise ShapeError(name, "2 dimensions (n_samples, n_features)", f"shape {array.shape}")
    later = later and finite and array.dtype == dtype
    if finite and not later:
        check_finite(name, array, FIX)
    return DenseInputs(array, dtype, check=finite, pending=later)


def _is_sparse(X: Any) -> bool:
    import scipy.sparse as sp

    return isinstance(X, CSR) or sp.issparse(X)


def _sparse(X: Any, dtype: np.dtype[Any], finite: bool, name: str) -> SparseInputs:
    """Look through a sparse batch once; only what is not canonical is copied."""
    try:
        parts: Any = None if isinstance(X, CSR) else from_scipy(X, name)
        if parts is None or not is_canonical(parts[0], parts[1]):
            csr = as_csr(X, dtype=dtype, name=name, finite=finite)
            parts = csr.indptr, csr.indices, csr.full_values, csr.shape
        elif finite:
            check_finite(name, parts[2])
            _check_fits(name, parts[2], dtype)
    except NonFiniteError as error:
        raise NonFiniteError(name, error.expected, error.got, FIX) from None
    indptr, indices, values, shape = parts
    return SparseInputs(indptr, indices, values, shape[1], dtype)


def _check_fits(name: str, values: Array, dtype: np.dtype[Any]) -> None:
    """Refuse floats that are too large for `dtype`."""
    if values.dtype.kind == "f" and values.dtype.itemsize > dtype.itemsize and values.size:
        largest = max(values.max(), -values.min())
        if largest > np.finfo(dtype).max:
            raise NonFiniteError(name, f"values that fit into {dtype}", f"{largest}")


def unpadded(X: Any, lengths: Any, name: str) -> tuple[list[Array], int]:
    """Return views of padded sequences without the padding, and the time of the padding."""
    array = numeric_array(X, name)
    if array.ndim != 3:
        fix = "Lengths belong to padded sequences; a list of sequences needs none."
        raise ShapeError(name, "shape (n_samples, time, n_features)", f"{array.shape}", fix)
    count, time, _ = array.shape
    given = np.full(count, time) if lengths is None else numeric_array(lengths, "lengths")
    if given.shape != (count,):
        raise ShapeError("lengths", f"shape ({count},), one for each sequence", f"{given.shape}")
    wrong = ~((given >= 1) & (given <= time) & (given == np.floor(given)))
    if wrong.any():
        at = int(wrong.argmax())
        got = f"{given[at]} at index {at}"
        raise InputError("lengths", f"whole numbers from 1 to {time}, the padded time", got)
    return [part[:length] for part, length in zip(array, given.astype(int), strict=True)], time


def _sequences(
    X: Any, dtype: np.dtype[Any], finite: bool, name: str, padding: int | None = None
) -> SequenceInputs:
    """Check sequences; an array of the right dtype is not copied."""
    checked: list[Array] = []
    for k, sequence in enumerate(X):
        part = _dense(numeric_array(sequence, f"{name}[{k}]"), dtype, finite, f"{name}[{k}]", False)
        if part.count == 0:
            raise InputError(f"{name}[{k}]", "at least one time step", "a sequence of length 0")
        if part.features != (checked[0].shape[1] if checked else part.features):
            got = f"{part.features}"
            raise ShapeError(f"{name}[{k}]", f"{checked[0].shape[1]} features as before", got)
        values = part.X.astype(dtype, copy=False)
        if finite and values is not part.X:
            check_finite(f"{name}[{k}]", values, f"The values do not fit into {dtype}. {FIX}")
        checked.append(values)
    features = checked[0].shape[1] if checked else 0
    return SequenceInputs(checked, features, dtype, padding=padding)
