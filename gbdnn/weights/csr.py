"""Sparse matrices in and out: one checked CSR record for every weight in gbdnn.

A matrix that comes from outside is never trusted: its indices are addresses for compiled code, and
neither scipy nor GraphBLAS looks at them before using them. `as_csr` is the only door.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gbdnn.errors import (
    DtypeError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
    SparseFormatError,
)
from gbdnn.weights.foreign import (
    Parts,
    check_compressed,
    check_shape,
    from_graphblas,
    from_scipy,
    numeric_array,
)

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = [
    "CSR",
    "as_csr",
    "as_float_dtype",
    "check_finite",
    "full_pattern",
    "numeric_array",
    "places",
    "ranges",
    "realign",
    "transpose",
]

Array = npt.NDArray[Any]
DENSE_LIMIT = 1 << 30  # bytes that may be made dense without being asked


@dataclass(frozen=True, eq=False)
class CSR:
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
        if not _is_canonical(self.indptr, self.indices):
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
    def density(self) -> float:
        """Stored entries over all places."""
        places = self.shape[0] * self.shape[1]
        return self.nnz / places if places else 0.0

    @property
    def iso(self) -> bool:
        """True if one value stands for all entries."""
        return len(self.values) == 1 != self.nnz

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays."""
        return self.indptr.nbytes + self.indices.nbytes + self.values.nbytes

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
        from gbdnn.backends.graphblas.start import graphblas

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
    matrix : CSR, scipy sparse array or matrix (any format), graphblas.Matrix or array_like
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
    parts = None
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
    index = _index_dtype(len(rows), values.shape)
    indptr = np.zeros(values.shape[0] + 1, index)
    np.cumsum(np.bincount(rows, minlength=values.shape[0]), out=indptr[1:])
    return CSR.unchecked(indptr, columns.astype(index), values[rows, columns], values.shape)


def transpose(matrix: CSR) -> tuple[CSR, Array]:
    """Return the transpose and the order of its values: ``T.values == matrix.values[order]``.

    A training step changes `values` only; with `order` the transpose follows without a new sort.
    `order` is an integer array of shape (nnz,). O(nnz + rows + columns).
    """
    import scipy.sparse as sp

    position = np.arange(matrix.nnz, dtype=matrix.indices.dtype)
    rows, columns = matrix.shape
    flipped = sp.csr_array((position, matrix.indices, matrix.indptr), shape=matrix.shape).tocsc()
    order = flipped.data
    values = matrix.values if matrix.iso else matrix.values[order]
    index = matrix.indices.dtype
    indptr, indices = flipped.indptr.astype(index), flipped.indices.astype(index)
    return CSR.unchecked(indptr, indices, values, (columns, rows)), order


def full_pattern(array: Array) -> CSR:
    """Return a matrix, shape (rows, columns), as a CSR that stores every place, zeros too."""
    rows, columns = array.shape
    index = _index_dtype(rows * columns, array.shape)
    indptr = np.arange(rows + 1, dtype=index) * columns
    indices = np.tile(np.arange(columns, dtype=index), rows)
    return CSR.unchecked(indptr, indices, array.reshape(-1).copy(), (rows, columns))


def realign(values: Array, old: CSR, new: CSR, *, fill: float = 0.0) -> Array:
    """Carry a vector that belongs to one pattern over to another.

    Parameters
    ----------
    values : ndarray, shape (old.nnz,)
        One number for each entry of `old`, for example an optimizer's state.
    old, new : CSR
        Patterns of the same shape; their values are not used.
    fill : float
        What entries get that only `new` has.

    Returns
    -------
    ndarray, shape (new.nnz,), of the dtype of `values`

    Raises
    ------
    ShapeError
        If the shapes or lengths do not fit.
    """
    if old.shape != new.shape:
        raise ShapeError("new", f"the shape {old.shape} of the old pattern", f"{new.shape}")
    if values.shape != (old.nnz,):
        raise ShapeError("values", f"shape ({old.nnz},)", f"shape {values.shape}")
    carried = np.full(new.nnz, fill, values.dtype)
    if old.nnz and new.nnz:
        # Both lists of places ascend, row by row: one binary search in the other finds them.
        there, wanted = places(old), places(new)
        at = np.minimum(np.searchsorted(there, wanted), old.nnz - 1)
        same = there[at] == wanted
        carried[same] = values[at[same]]
    return carried


def ranges(begin: Array, lengths: Array) -> Array:
    """Return begin[0], begin[0] + 1, ... (lengths[0] of them), begin[1], ..."""
    before = np.cumsum(lengths) - lengths
    found: Array = np.arange(int(lengths.sum())) + np.repeat(begin - before, lengths)
    return found


def places(matrix: CSR) -> Array:
    """Return row * columns + column of each entry, int64, ascending."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    rows *= matrix.shape[1]
    rows += matrix.indices
    return rows


def as_float_dtype(dtype: npt.DTypeLike, name: str = "dtype") -> np.dtype[Any]:
    """Return float32 or float64 as a numpy dtype, else raise `DtypeError`."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise DtypeError(name, "float32 or float64", repr(dtype)) from None
    if dtype is None or found not in (np.float32, np.float64):
        raise DtypeError(name, "float32 or float64", repr(dtype))
    return found


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


def _canonical(name: str, parts: Parts, dtype: np.dtype[Any], finite: bool) -> CSR:
    """Return checked parts as a CSR of their own memory: cast, and sorted where they are not."""
    raw, columns, values, shape = parts
    cast = _cast(name, values, dtype, finite)
    index = _index_dtype(len(columns), shape)
    indptr, indices = np.array(raw, index), np.array(columns, index)
    if not _is_canonical(indptr, indices):
        rows = np.repeat(np.arange(shape[0]), np.diff(indptr))
        order = np.lexsort((indices, rows))
        indices, cast = indices[order], cast[order]
        if not _is_canonical(indptr, indices):
            raise SparseFormatError(
                name, "each place at most once", "repeated entries",
                "Call .sum_duplicates() on it if adding them is what you mean.",
            )  # fmt: skip
    if np.may_share_memory(cast, values):
        cast = cast.copy()
    return CSR.unchecked(indptr, indices, cast, shape)


def _is_canonical(indptr: Array, indices: Array) -> bool:
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


def _index_dtype(nnz: int, shape: tuple[int, ...]) -> np.dtype[Any]:
    return np.dtype(np.int32 if max(nnz, *shape) < 2**31 else np.int64)
