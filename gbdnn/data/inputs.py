"""A batch at the door: checked once, and taken as the kind of samples that it is.

See `gbdnn.data.kinds` for how samples are loaded tile by tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gbdnn.data.kinds import (
    FIX,
    BitInputs,
    DenseInputs,
    Ids,
    Inputs,
    SequenceInputs,
    SparseInputs,
)
from gbdnn.errors import InputError, NonFiniteError, ShapeError
from gbdnn.types import Array
from gbdnn.weights.csr import CSR, as_csr, check_finite, is_canonical
from gbdnn.weights.foreign import from_scipy, from_torch, numeric_array

__all__ = [
    "BitInputs", "DenseInputs", "Ids", "Inputs", "SequenceInputs", "SparseInputs", "as_inputs",
    "unpadded",
]  # fmt: skip


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
    time_factor: int = 1,
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
    time_factor : int
        Of sequences so many time steps have one row of the result.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, SparseFormatError, InputError
    """
    if lengths is not None or (isinstance(X, np.ndarray) and X.ndim == 3):
        parts, time = unpadded(X, lengths, name)
        X = _sequences(parts, dtype, finite, name, time, np.shape(X)[2])
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
    if isinstance(checked, SequenceInputs):
        checked = SequenceInputs(
            checked.sequences, checked.features, dtype, one_row=one_row, time_factor=time_factor,
            padding=None if one_row else checked.padding,
        )  # fmt: skip
    if checked.features != features:
        got = f"{checked.features} (shape {checked.count} x {checked.features})"
        raise ShapeError(name, f"{features} features per sample, as the first layer takes", got)
    return checked


def _dense(X: Array, dtype: np.dtype[Any], finite: bool, name: str, later: bool) -> DenseInputs:
    array = numeric_array(X, name)
    if array.ndim != 2:
        fix = "For one sample pass X.reshape(1, -1), for one feature X.reshape(-1, 1)."
        what = name, "2 dimensions (n_samples, n_features)", f"shape {array.shape}"
        raise ShapeError(*what, fix if array.ndim == 1 else "")
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
    X: Any, dtype: np.dtype[Any], finite: bool, name: str, padding: int | None = None,
    features: int = 0,
) -> SequenceInputs:  # fmt: skip
    """Check sequences, of `features` where there are none; the right dtype is not copied."""
    checked: list[Array] = []
    for k, sequence in enumerate(X):
        part = _dense(numeric_array(sequence, f"{name}[{k}]"), dtype, finite, f"{name}[{k}]", False)
        if part.count == 0:
            raise InputError(f"{name}[{k}]", "at least one time step", "a sequence of length 0")
        if part.features != (checked[0].shape[1] if checked else part.features):
            expected = f"{checked[0].shape[1]} features as before"
            raise ShapeError(f"{name}[{k}]", expected, f"{part.features}")
        with np.errstate(over="ignore"):
            values = part.X.astype(dtype, copy=False)
        if finite and values is not part.X:
            check_finite(f"{name}[{k}]", values, f"The values do not fit into {dtype}. {FIX}")
        checked.append(values)
    found = checked[0].shape[1] if checked else features
    return SequenceInputs(checked, found, dtype, padding=padding)
