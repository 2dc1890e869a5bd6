"""Weights: matrices in several forms, checked at the door.

`FORMS` is the table: a form that is put into it can be computed with, trained, pruned and saved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.weights.base import Weight, as_float_dtype
from gbdnn.weights.csr import CSR, as_csr
from gbdnn.weights.dense import Dense

__all__ = ["CSR", "FORMS", "Dense", "Weight", "as_csr", "as_float_dtype", "as_weight"]

FORMS: dict[str, type[Weight]] = {"csr": CSR, "dense": Dense}


def as_weight(matrix: Any, *, dtype: npt.DTypeLike | None = None, name: str = "weight") -> Weight:
    """Return any matrix as a weight: a sparse one as `CSR`, an ndarray or list as `Dense`.

    Parameters
    ----------
    matrix : Weight, scipy sparse, graphblas.Matrix, ndarray, list or tuple
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
    if isinstance(matrix, CSR):
        return as_csr(matrix, dtype=dtype, name=name)
    if isinstance(matrix, Weight):
        return matrix if dtype is None else matrix.astype(dtype)
    if isinstance(matrix, np.ndarray | list | tuple):
        return Dense(matrix, dtype=dtype, name=name)
    return as_csr(matrix, dtype=dtype, name=name)
