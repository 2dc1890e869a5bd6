"""Weights: matrices in several forms, checked at the door.

`FORMS` is the table: a form that is put into it can be computed with, trained, pruned and saved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.errors import DtypeError, InputError, choose
from gbdnn.weights.base import Weight, as_float_dtype
from gbdnn.weights.csr import CSR, as_csr, check_finite
from gbdnn.weights.dense import Dense
from gbdnn.weights.foreign import from_torch, numeric_array
from gbdnn.weights.integers import Int4, Int8, Integers, Levels
from gbdnn.weights.integers.forms import LAYOUTS, codes_of
from gbdnn.weights.integers.scales import check_scales, scale_of_entries

__all__ = [
    "CSR", "FORMS", "Dense", "Int4", "Int8", "Integers", "Levels", "Weight", "as_csr",
    "as_float_dtype", "as_weight", "integer_weight",
]  # fmt: skip

FORMS: dict[str, type[Weight]] = {"csr": CSR, "dense": Dense, "int8": Int8, "int4": Int4}


def as_weight(matrix: Any, *, dtype: npt.DTypeLike | None = None, name: str = "weight") -> Weight:
    """Return any matrix as a weight: a sparse one as `CSR`, an ndarray or list as `Dense`.

    Of an ndarray or list that is at most half full, but not all zeros, the non-zeros become a
    `CSR`: it was pruned, and training would fill the zeros of a `Dense`. To train all places pass
    ``Dense(matrix)``.

    Parameters
    ----------
    matrix : Weight, scipy sparse, graphblas.Matrix, torch tensor, ndarray, list, tuple
        A `Weight` keeps its form.
    dtype : float32 or float64, optional
        Default float32, but float64 stays float64; a `Weight` keeps its own.
    name : str
        What error messages call the matrix.

    Raises
    ------
    DtypeError, ShapeError, SparseFormatError, NonFiniteError
        See `as_csr`.
    """
    matrix = from_torch(matrix, name)
    if isinstance(matrix, CSR):
        return as_csr(matrix, dtype=dtype, name=name)
    if isinstance(matrix, Weight):
        return matrix if dtype is None else matrix.astype(dtype)
    if isinstance(matrix, np.ndarray | list | tuple):
        dense = Dense(matrix, dtype=dtype, name=name)
        pruned = 0 < 2 * np.count_nonzero(dense.values) <= dense.nnz
        return as_csr(dense.values, name=name) if pruned else dense
    return as_csr(matrix, dtype=dtype, name=name)


def integer_weight(
    weight: Any,
    scales: Any,
    *,
    bits: int,
    levels: Levels | None = None,
    layout: str | None = None,
    name: str = "weight",
) -> Int8 | Int4:
    """Return a weight as whole numbers times scales: code = rint(entry / scale), half to even.

    Parameters
    ----------
    weight : Weight or anything that `as_weight` takes
        Its pattern stays, entries whose code is 0 too.
    scales : float or array_like
        A number or shape (parts,): each for as many rows, one after the other; that is 1 for the
        whole weight, 4 for the gates of an LSTM, or the number of rows. Or shape (rows, groups),
        each for as many consecutive columns of the row. float32, 0 or more; with scale 0 codes are
        0.
    bits : int
        2 to 8: codes are -(2^(bits - 1) - 1) ... 2^(bits - 1) - 1, larger entries are clipped. Up
        to 4 bits make an `Int4`, others an `Int8`.
    levels : Levels, optional
        How the input of products with this weight is rounded; products are then of whole numbers.
        Without, activations stay floats.
    layout : "dense", "csr" or "bitmap", optional
        How it is stored; default the one of the fewest bytes. "dense" stores every place, those of
        a sparse weight that are absent as code 0.
    name : str
        What error messages call the weight.

    Raises
    ------
    InputError, ShapeError, DtypeError, NonFiniteError
    """
    made = as_weight(weight, name=name)
    whole = isinstance(bits, int | np.integer) and not isinstance(bits, bool)
    if not whole or not 2 <= bits <= 8:
        raise InputError("bits", "a whole number from 2 to 8", repr(bits))
    if levels is not None and not isinstance(levels, Levels):
        raise DtypeError("levels", "a Levels or None", type(levels).__name__)
    if layout is not None:
        choose("layout", layout, LAYOUTS)
    given = np.atleast_1d(numeric_array(scales, "scales"))
    check_finite("scales", given)
    with np.errstate(over="ignore"):
        each = given.astype(np.float32)
    largest = 2 ** (bits - 1) - 1
    check_scales(each, made.shape, largest)
    pattern = made.pattern()
    form = Int4 if bits <= 4 else Int8
    codes = codes_of(made.entries, scale_of_entries(each, pattern), largest)
    return form.made(
        pattern, codes, each, bits=int(bits), levels=levels, dtype=made.dtype, layout=layout
    )
