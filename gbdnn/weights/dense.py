"""The dense form: every place is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gbdnn.errors import InputError, ShapeError
from gbdnn.types import Array
from gbdnn.weights.base import Weight, as_float_dtype
from gbdnn.weights.csr import CSR, frozen
from gbdnn.weights.foreign import numeric_array
from gbdnn.weights.patterns import full_pattern

__all__ = ["Dense"]


@dataclass(frozen=True, eq=False, init=False)
class Dense(Weight):
    """A weight as a full (out_features, in_features) array, read-only and C-contiguous.

    Parameters
    ----------
    values : array_like, shape (out_features, in_features)
        Copied.
    dtype : float32 or float64, optional
        Default float32, but float64 stays float64.

    Raises
    ------
    DtypeError, ShapeError, NonFiniteError
    """

    form = "dense"
    values: Array

    def __init__(
        self, values: Any, *, dtype: npt.DTypeLike | None = None, name: str = "weight"
    ) -> None:
        array = numeric_array(values, name)
        if array.ndim != 2:
            raise ShapeError(name, "2 dimensions (out_features, in_features)", f"{array.shape}")
        kind = np.float64 if array.dtype == np.float64 else np.float32
        wanted = kind if dtype is None else as_float_dtype(dtype)
        object.__setattr__(self, "values", frozen(name, array, np.dtype(wanted)))

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """(out_features, in_features)."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.values.dtype

    @property
    def nnz(self) -> int:
        """Number of places."""
        return int(self.values.size)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the values; a view unless `dtype` or `copy` ask for more."""
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"Dense({self.shape[0]} x {self.shape[1]}, {self.dtype})"

    def pattern(self) -> CSR:
        """Return a CSR that stores every place; O(out x in)."""
        return full_pattern(self.values)

    def plain(self) -> Dense:
        """Return the weight itself."""
        return self

    @property
    def entries(self) -> Array:
        """All values, row by row; a view."""
        return self.values.reshape(-1)

    def with_entries(self, values: Array, pattern: CSR | None = None) -> Dense | CSR:
        """Return a Dense, or where `pattern` leaves places out a CSR."""
        if pattern is not None and pattern.nnz != self.nnz:
            return pattern.with_entries(values)
        made = object.__new__(Dense)
        view = values.reshape(self.shape).view()
        view.flags.writeable = False
        object.__setattr__(made, "values", view)
        return made

    def arrays(self) -> dict[str, Array]:
        """Return one array without a name of its own."""
        return {"": self.values}

    @classmethod
    def of(
        cls, arrays: Mapping[str, Array], shape: tuple[int, int], settings: Mapping[str, Any]
    ) -> Self:
        """Return the checked weight; see `Weight.of`."""
        if arrays.keys() != {""}:
            raise InputError("weight", "one array", ", ".join(sorted(arrays)) or "none")
        values = arrays[""]
        if values.shape != shape:
            raise ShapeError("weight", f"shape {shape}, all places stored", f"{values.shape}")
        return cls(values, dtype=values.dtype)

    def astype(self, dtype: npt.DTypeLike) -> Dense:
        """Return the weight in another float dtype; itself if it is that already."""
        return self if as_float_dtype(dtype) == self.dtype else Dense(self.values, dtype=dtype)

    def to_dense(self, *, allow_dense: bool = False) -> Array:
        """Return a copy of the values."""
        return self.values.copy()
