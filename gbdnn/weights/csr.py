"""Sparse matrices in and out: one checked CSR record for every weight in gbdnn.

A matrix that comes from outside is never trusted: its indices are addresses for compiled code, and
neither scipy nor GraphBLAS looks at them before using them. `as_csr` is the only door.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from gbdnn.errors import (
    DtypeError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
    SparseFormatError,
)
from gbdnn.types import Array
from gbdnn.weights.base import Weight, as_float_dtype
from gbdnn.weights.foreign import (
    Parts,
    check_compressed,
    check_shape,
    from_graphblas,
    from_scipy,
    from_torch,
    numeric_array,
)

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["CSR", "as_csr", "check_finite", "frozen", "index_dtype"]

DENSE_LIMIT = 1 << 30  # bytes that may be made dense without being asked


@dataclass(frozen=True, eq=False)
class CSR(Weight):
    """A sparse matrix by rows: row i has entries k = indptr[i] ... indptr[i+1] - 1.

    Entry k has the value `values[k]` and stands in column `indices[k]`.

    Parameters
    ----------
    indptr : ndarray of int32 or int64, shape (rows + 1,)
    indices : ndarray of the same dtype, shape (nnz,)
        Ascending and without repetition in each row.
    values : ndarray of float32 or float64, shape (nnz,) or (1,)
        One value alone stands for all entries (an *iso-valued* matrix, stored once).
    shape : tuple of int
        (rows, columns); for weights (out_features, in_features).

    Raises
    ------
    SparseFormatError, ShapeError, DtypeError, NonFiniteError
        If the parts contradict each other. Use `as_csr` to convert what is legal but not canonical.

    Notes
    -----
    The arrays are copied and the copies are read-only: compiled code uses the indices as addresses,
    so nobody may change them after the check.
    """

    form = "csr"
    indptr: Array
    indices: Array
    values: Array
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", check_shape("CSR.shape", self.shape))
        check_compressed("CSR", self.indptr, self.indices, self.values, self.shape, iso=True)
        nnz, kind = int(self.indptr[-1]), self.indptr.dtype
        if len(self.indices) != nnz or self.values.shape not in ((nnz,), (1,)):
            got = f"{self.indices.shape} and {self.values.shape}"
            raise SparseFormatError("CSR", f"indices and values of shape ({nnz},)", got)
        if kind != self.indices.dtype or kind not in (np.int32, np.int64):
            got = f"{kind} and {self.indices.dtype}"
            raise DtypeError("CSR.indptr, CSR.indices", "int32 or int64, both the same", got)
        if not is_canonical(self.indptr, self.indices):
            raise SparseFormatError(
                "CSR", "ascending, distinct indices in each row", "unsorted or repeated ones",
                "Pass the matrix through gbdnn.as_csr.",
            )  # fmt: skip
        if self.values.dtype not in (np.float32, np.float64):
            raise DtypeError("CSR.values", "float32 or float64", str(self.values.dtype))
        check_finite("CSR.values", self.values)
        for field in ("indptr", "indices", "values"):
            object.__setattr__(self, field, getattr(self, field).copy())
        self._freeze()

    def _freeze(self) -> None:
        for field in ("indptr", "indices", "values"):
            view = getattr(self, field).view()
            view.flags.writeable = False
            object.__setattr__(self, field, view)

    @classmethod
    def unchecked(cls, indptr: Array, indices: Array, values: Array, shape: tuple[int, int]) -> CSR:
        """Make a CSR of parts that gbdnn itself built right, without the O(nnz) checks."""
        self = object.__new__(cls)
        for field, part in zip(
            ("indptr", "indices", "values", "shape"), (indptr, indices, values, shape), strict=True
        ):
            object.__setattr__(self, field, part)
        self._freeze()
        return self

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return int(self.indptr[-1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.values.dtype

    @property
    def iso(self) -> bool:
        """True if one value stands for all entries."""
        return len(self.values) == 1 != self.nnz

    @cached_property
    def full_values(self) -> Array:
        """`values` with shape (nnz,); a stride-0 view where the matrix is iso-valued."""
        return np.broadcast_to(self.values, (self.nnz,)) if self.iso else self.values

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.indptr, self.indices, self.values, self.shape)
        return CSR.unchecked, parts  # which makes the arrays read-only again

    def __repr__(self) -> str:
        iso = ", iso" if self.iso else ""
        return f"CSR({self.shape[0]} x {self.shape[1]}, nnz={self.nnz}, {self.dtype}{iso})"

    def pattern(self) -> CSR:
        """Return the matrix itself."""
        return self

    def plain(self) -> CSR:
        """Return the matrix itself."""
        return self

    @property
    def entries(self) -> Array:
        """`full_values`."""
        return self.full_values

    def with_entries(self, values: Array, pattern: CSR | None = None) -> CSR:
        """Return the matrix with other values, and with the places of `pattern` if it is given."""
        places = self if pattern is None else pattern
        return CSR.unchecked(places.indptr, places.indices, values, places.shape)

    def arrays(self) -> dict[str, Array]:
        """Return rows, columns and values by their names in the Binsparse specification 0.1."""
        indices = self.indices[: self.nnz]
        return {"pointers_to_1": self.indptr, "indices_1": indices, "values": self.values}

    @classmethod
    def of(
        cls, arrays: Mapping[str, Array], shape: tuple[int, int], settings: Mapping[str, Any]
    ) -> Self:
        """Return the checked matrix; indices of any integer type. See `Weight.of`."""
        names = ("pointers_to_1", "indices_1", "values")
        if arrays.keys() != set(names):
            got = ", ".join(sorted(arrays)) or "none"
            raise SparseFormatError("weight", f"the arrays {', '.join(names)}", got)
        indptr, indices, values = (arrays[name] for name in names)
        check_compressed("weight", indptr, indices, values, shape, iso=True)  # before the cast
        kind = index_dtype(len(indices), shape)
        return cls(indptr.astype(kind), indices.astype(kind), values, shape)

    def astype(self, dtype: npt.DTypeLike) -> CSR:
        """Return the matrix with values of another float dtype; indices are shared."""
        return self._converted("values", as_float_dtype(dtype), finite=True)

    def _converted(self, name: str, dtype: np.dtype[Any], finite: bool) -> CSR:
        values = _cast(name, self.values, dtype, finite)
        return CSR.unchecked(self.indptr, self.indices, values, self.shape)

    def to_scipy(self) -> sp.csr_array:
        """Return a `scipy.sparse.csr_array` with arrays of its own (copies)."""
        import scipy.sparse as sp

        parts = (self.full_values.copy(), self.indices.copy(), self.indptr.copy())
        return sp.csr_array(parts, shape=self.shape)

    def to_graphblas(self) -> Any:
        """Return a `graphblas.Matrix`, FP32 or FP64, by row, with arrays of its own (copies)."""
        from gbdnn.weights.graphblas import graphblas

        return graphblas().Matrix.ss.import_csr(
            nrows=self.shape[0],
            ncols=self.shape[1],
            indptr=self.indptr.astype(np.uint64),
            col_indices=self.indices.astype(np.uint64),
            values=self.values,
            is_iso=self.iso,
            sorted_cols=True,
        )

    def to_dense(self, *, allow_dense: bool = False) -> Array:
        """Return the matrix as an ndarray of shape `shape` (a copy).

        Raises
        ------
        MemoryBudgetError
            Above 1 GiB, unless `allow_dense` is true.
        """
        nbytes = self.shape[0] * self.shape[1] * self.dtype.itemsize
        if nbytes > DENSE_LIMIT and not allow_dense:
            raise MemoryBudgetError(
                "allow_dense",
                f"True to make a dense {self.shape[0]} x {self.shape[1]} matrix",
                f"False, and the matrix takes {nbytes:,} bytes",
                "Pass allow_dense=True, or stay with a sparse backend.",
            )
        dense = np.zeros(self.shape, self.dtype)
        rows = np.repeat(np.arange(self.shape[0]), np.diff(self.indptr))
        dense[rows, self.indices] = self.full_values
        return dense


def as_csr(
    matrix: Any,
    *,
    dtype: npt.DTypeLike | None = None,
    name: str = "weight",
    finite: bool = True,
) -> CSR:  # fmt: skip
    """Check any matrix and return it as a canonical `CSR` with arrays of its own.

    Parameters
    ----------
    matrix : CSR, scipy sparse of any format, graphblas.Matrix, torch tensor or array_like
        Two dimensions. Entries that are stored stay stored, zeros among them; of dense arrays the
        non-zeros are taken. Unsorted indices are sorted. Repeated entries are refused in compressed
        formats and added in COO and DOK, as scipy defines those.
    dtype : float32 or float64, optional
        Default float32, but float64 stays float64. Other real types are converted.
    name : str
        What error messages call the matrix.
    finite : bool
        Refuse NaN and infinite values.

    Returns
    -------
    CSR
        Copies (a `CSR` of the right dtype is returned as it is).

    Raises
    ------
    DtypeError
        Complex, object or text values, or not a matrix at all.
    ShapeError
        Not two dimensions.
    SparseFormatError
        Indices out of range, repeated, or arrays that are too short.
    NonFiniteError
        NaN or infinite values.
    MemoryBudgetError
        More (empty) rows than fit into memory.
    """
    import scipy.sparse as sp

    if isinstance(matrix, CSR):
        if finite:
            check_finite(name, matrix.values)
        wanted = matrix.dtype if dtype is None else as_float_dtype(dtype)
        return matrix if wanted == matrix.dtype else matrix._converted(name, wanted, finite)
    parts, matrix = None, from_torch(matrix, name)
    if type(matrix).__module__.partition(".")[0] == "graphblas":
        parts = from_graphblas(matrix, name)
    elif sp.issparse(matrix):
        parts = from_scipy(matrix, name)
    if parts is not None:
        return _canonical(name, parts, _float_dtype_of(parts[2], dtype), finite)
    dense = numeric_array(matrix, name)
    if dense.ndim != 2:
        raise ShapeError(name, "2 dimensions", f"shape {dense.shape}")
    values = _cast(name, dense, _float_dtype_of(dense, dtype), finite)
    rows, columns = np.nonzero(values)
    index = index_dtype(len(rows), values.shape)
    indptr = np.zeros(values.shape[0] + 1, index)
    np.cumsum(np.bincount(rows, minlength=values.shape[0]), out=indptr[1:])
    return CSR.unchecked(indptr, columns.astype(index), values[rows, columns], values.shape)


def check_finite(name: str, values: Array, fix: str = "") -> None:
    """Raise `NonFiniteError` with count and first place if any value is NaN or infinite."""
    # A finite sum proves finite values without a temporary; overflow only costs a second look.
    with np.errstate(over="ignore", invalid="ignore"):
        if values.dtype.kind != "f" or np.isfinite(values.sum()):
            return
    bad = ~np.isfinite(values)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        got = f"{int(bad.sum()):,} NaN or infinite, the first at index {first}"
        raise NonFiniteError(name, "finite values", got, fix)


def frozen(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Return a read-only, C-contiguous, finite copy in `dtype`."""
    check_finite(name, array)
    with np.errstate(over="ignore"):
        copy = np.array(array, dtype=dtype, order="C")
    check_finite(name, copy, f"The values do not fit into {dtype}.")
    copy.flags.writeable = False
    return copy


def _canonical(name: str, parts: Parts, dtype: np.dtype[Any], finite: bool) -> CSR:
    """Return checked parts as a CSR of their own memory: cast, and sorted where they are not."""
    raw, columns, values, shape = parts
    cast = _cast(name, values, dtype, finite)
    index = index_dtype(len(columns), shape)
    indptr, indices = np.array(raw, index), np.array(columns, index)
    if not is_canonical(indptr, indices):
        rows = np.repeat(np.arange(shape[0]), np.diff(indptr))
        order = np.lexsort((indices, rows))
        indices, cast = indices[order], cast[order]
        if not is_canonical(indptr, indices):
            raise SparseFormatError(
                name, "each place at most once", "repeated entries",
                "Call .sum_duplicates() on it if adding them is what you mean.",
            )  # fmt: skip
    if np.may_share_memory(cast, values):
        cast = cast.copy()
    return CSR.unchecked(indptr, indices, cast, shape)


def is_canonical(indptr: Array, indices: Array) -> bool:
    """True if the indices ascend without repetition in every row."""
    nnz = int(indptr[-1])
    falls = indices[1:nnz] <= indices[: max(nnz - 1, 0)]
    starts = indptr[1:-1]
    falls[starts[(starts > 0) & (starts < nnz)] - 1] = False
    return not falls.any()


def _float_dtype_of(array: Array, dtype: npt.DTypeLike | None) -> np.dtype[Any]:
    if dtype is not None:
        return as_float_dtype(dtype)
    wide = array.dtype.kind == "f" and array.dtype.itemsize >= 8
    return np.dtype(np.float64 if wide else np.float32)


def _cast(name: str, values: Array, dtype: np.dtype[Any], finite: bool = True) -> Array:
    """Return `values` as `dtype`, if `finite` refusing what is not so before or after."""
    if not finite:
        with np.errstate(over="ignore"):
            return values.astype(dtype, copy=False)
    check_finite(name, values)
    with np.errstate(over="ignore"):
        cast = values.astype(dtype, copy=False)
    if cast is not values:
        check_finite(name, cast, f"The values do not fit into {dtype}.")
    return cast


def index_dtype(nnz: int, shape: tuple[int, ...]) -> np.dtype[Any]:
    return np.dtype(np.int32 if max(nnz, *shape) < 2**31 else np.int64)
