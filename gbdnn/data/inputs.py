"""A batch on its way in: checked once, then loaded tile by tile into neuron-major buffers.

The public orientation is (n_samples, n_features); a tile is (n_features, width). Sparse batches
and packed bits are never made dense as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gbdnn.errors import NonFiniteError, ShapeError
from gbdnn.weights.csr import CSR, as_csr, check_finite
from gbdnn.weights.foreign import numeric_array

__all__ = ["BitInputs", "DenseInputs", "Inputs", "SparseInputs", "as_inputs"]

Array = npt.NDArray[Any]
FIX = "Clean the inputs, or pass check_finite=False to let NaN and infinity through."


class Inputs(Protocol):
    """What the executor reads."""

    @property
    def count(self) -> int:
        """Number of samples."""

    @property
    def features(self) -> int:
        """Values in a sample."""

    def load(self, start: int, stop: int, out: Array) -> None:
        """Write samples start..stop as columns into `out`, shape (features, stop - start)."""


@dataclass(frozen=True, eq=False)
class DenseInputs:
    """Samples in a (n_samples, n_features) ndarray of any real dtype; converted tile by tile."""

    X: Array
    check: bool = False
    pending: bool = False  # nobody has looked for NaN and infinity yet: see `verify`

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.X)

    @property
    def view(self) -> Array:
        """The batch as (features, samples), for those who can read it as it lies."""
        return self.X.T

    def verify(self) -> None:
        """Raise `NonFiniteError` for NaN and infinity, if nobody has looked yet."""
        if self.pending:
            check_finite("X", self.X, FIX)

    @property
    def features(self) -> int:
        """Values in a sample."""
        return int(self.X.shape[1])

    def load(self, start: int, stop: int, out: Array) -> None:
        """Transpose samples start..stop into `out`."""
        # Rows a multiple of 1 KiB apart meet in few sets of the first cache: as many at once as it
        # has ways, else the transpose takes three times as long.
        step = 8 if self.X.strides[0] % 1024 == 0 else max(stop - start, 1)
        with np.errstate(over="ignore"):
            for left in range(start, stop, step):
                right = min(left + step, stop)
                out[:, left - start : right - start] = self.X[left:right].T
        if self.check and self.X.dtype != out.dtype:
            check_finite("X", out, f"The values do not fit into {out.dtype}. {FIX}")


@dataclass(frozen=True, eq=False)
class SparseInputs:
    """Samples in the rows of a CSR matrix."""

    X: CSR

    @property
    def count(self) -> int:
        """Number of samples."""
        return self.X.shape[0]

    @property
    def features(self) -> int:
        """Values in a sample."""
        return self.X.shape[1]

    def load(self, start: int, stop: int, out: Array) -> None:
        """Scatter the entries of samples start..stop into `out`."""
        out.fill(0)
        bounds = self.X.indptr[start : stop + 1]
        part = slice(bounds[0], bounds[-1])
        columns = np.repeat(np.arange(stop - start), np.diff(bounds))
        out[self.X.indices[part], columns] = self.X.full_values[part]


@dataclass(frozen=True, eq=False)
class BitInputs:
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

    @property
    def features(self) -> int:
        """Values in a sample."""
        return len(self.bits)

    def load(self, start: int, stop: int, out: Array) -> None:
        """Unpack samples start..stop into `out`."""
        count = stop - start
        if start % 8 == count % 8 == 0 and out.flags.c_contiguous:
            # eight values at a time from a table: numpy.unpackbits is slow for a few bytes a row
            groups = out.reshape(len(out), count // 8, 8)
            part = self.bits[:, start // 8 : stop // 8]
            np.take(_unpacked(out.dtype), part, axis=0, out=groups, mode="clip")
            return
        first = start // 8
        unpacked = np.unpackbits(self.bits[:, first : -(-stop // 8)], axis=1)
        out[...] = unpacked[:, start - 8 * first : stop - 8 * first]


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
) -> Inputs:
    """Check a batch at the door; nothing is copied where it is an ndarray.

    Parameters
    ----------
    X : array_like (n_samples, features), scipy sparse of that shape, or an `Inputs`
        Any memory order; read-only and memory-mapped arrays are fine.
    features : int
        What the first layer takes.
    dtype : float32 or float64
        What the network computes in.
    finite : bool
        Refuse NaN and infinity.
    later : bool
        Leave that to `DenseInputs.verify`, or to compiled code that reads the values anyway, where
        no conversion is needed.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, SparseFormatError
    """
    if isinstance(X, BitInputs | DenseInputs | SparseInputs):
        checked: Inputs = X
    elif type(X) is not np.ndarray and _is_sparse(X):  # the usual case first: it counts for one row
        checked = SparseInputs(_sparse_batch(X, dtype, finite, name))
    else:
        array = numeric_array(X, name)
        if array.ndim == 1:
            fix = "For one sample pass X.reshape(1, -1), for one feature X.reshape(-1, 1)."
            raise ShapeError(name, "2 dimensions (n_samples, n_features)", f"{array.shape}", fix)
        if array.ndim != 2:
            got = f"shape {array.shape}"
            raise ShapeError(name, "2 dimensions (n_samples, n_features)", got)
        later = later and finite and array.dtype == dtype
        if finite and not later:
            check_finite(name, array, FIX)
        checked = DenseInputs(array, finite, later)
    if checked.features != features:
        raise ShapeError(
            name,
            f"{features} features per sample, as the first layer takes",
            f"{checked.features} (shape {checked.count} x {checked.features})",
        )
    return checked


def _is_sparse(X: Any) -> bool:
    import scipy.sparse as sp

    return sp.issparse(X) or isinstance(X, CSR)


def _sparse_batch(X: Any, dtype: np.dtype[Any], finite: bool, name: str) -> CSR:
    try:
        return as_csr(X, dtype=dtype, name=name, finite=finite)
    except NonFiniteError as error:
        raise NonFiniteError(name, error.expected, error.got, FIX) from None
