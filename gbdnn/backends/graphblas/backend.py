"""The GraphBLAS backend, fast form: Kepner et al. 2017 in place on full neuron-major tiles.

The paper's step is Y_{k+1} = h(W_k Y_k + b_k), two semirings (its section II):

    S1 = (+, x)      Z = W_k (+.x) Y_k            a matrix product
    S2 = (max, +)    Y_{k+1} = Z (x) b_k (+) 0    add the bias, take the maximum with 0

`reference.py` writes both as GraphBLAS calls. Here S1's product accumulates into a full matrix
that already holds the bias, so S2's (x) costs nothing, and S2's (+) 0 is applied to the
memory in place.

The way back is three more semiring operations, for a loss L with dA short for dL/dA (Rumelhart,
Hinton and Williams 1986), on the same S1 = (+, x):

    h                dZ_k = h'(Z_k) x dY_{k+1}            elementwise, in the memory of dY_{k+1}
    S1               dY_k = W_k^T (+.x) dZ_k              a product like the forward one
    S1, masked       dW_k<W_k> = dZ_k (+.x) Y_k^T         dot products where W_k has entries

and db_k = the row sums of dZ_k. The mask <W_k> is structural: only nnz(W_k) dot products are taken
(SuiteSparse: dot3) and the full out x in product never exists. W_k^T is stored as a matrix of its
own, as a transposing descriptor would transpose again in each call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends.arrays import check_tiles, check_values, owned, whole_batch
from gbdnn.backends.base import Activation, cached_width
from gbdnn.backends.graphblas.start import graphblas, is_blocking, usable_threads
from gbdnn.errors import BackendError
from gbdnn.weights.csr import CSR, as_csr, transpose

__all__ = ["GraphBLASBackend"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class GraphBLASWeight:
    """A weight as a `graphblas.Matrix` by row, FP32 or FP64; iso-valued weights stay so."""

    matrix: Any
    nbytes: int


class GraphBLASTrainable:
    """A weight that changes: W and W^T as matrices by row, filled again when `values` changed.

    Attributes
    ----------
    pattern : CSR, shape (out_features, in_features)
    values : ndarray, shape (nnz,)
    matrix, transposed : graphblas.Matrix
        W and W^T, FP32 or FP64.
    """

    def __init__(self, weight: CSR | Array) -> None:
        self.pattern, self.values = owned(weight)
        self._flipped, self._order = transpose(self.pattern)
        self.matrix, self.transposed = _matrix(self.pattern), _matrix(self._flipped)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays and of both matrices."""
        arrays = self.pattern.nbytes + self._flipped.nbytes + self._order.nbytes
        return arrays + _matrix_bytes(self.pattern) + _matrix_bytes(self._flipped)

    def refresh(self, threads: int = 1) -> None:
        """Fill both matrices anew from `values`; O(nnz)."""
        _fill(self.matrix, self.pattern, self.values.copy())
        _fill(self.transposed, self._flipped, self.values[self._order])


class GraphBLASBackend:
    """Y_{k+1} = h(W_k Y_k + b_k): one in-place semiring product a layer (SuiteSparse: saxpy5)."""

    name = "graphblas"

    def prepare(self, weight: CSR | Array) -> GraphBLASWeight:
        """Copy the weight into a GraphBLAS matrix; of a dense one the non-zeros are taken."""
        return prepare(weight)

    def affine(
        self,
        w: GraphBLASWeight | GraphBLASTrainable,
        Y: Array,
        bias: Array,
        activation: Activation,
        out: Array,
        threads: int = 1,
    ) -> None:
        """Compute out = h(W Y + b), in training for each tile."""
        if isinstance(w, GraphBLASTrainable):
            check_tiles(w.pattern, out, Y, names=("out", "Y"))
            out[...] = bias if bias.ndim == 0 else bias[:, None]
            _multiply(w.matrix, Y, out)
            activation.apply(out)
            return
        gb = graphblas()
        _check(w, Y, out)
        out[...] = bias if bias.ndim == 0 else bias[:, None]
        try:
            with lent(Y) as y, lent(out) as z:
                z(gb.binary.plus) << gb.semiring.plus_times(w.matrix @ y)
        except gb.exceptions.GraphblasException as error:
            raise failure("plus_times", error, w.matrix, Y) from error
        activation.apply(out)

    def tile_width(self, features: int, dtype: np.dtype[Any]) -> int:
        """A tile of about 1 MiB."""
        return cached_width(features, dtype)

    @contextmanager
    def pinned(self, threads: int) -> Iterator[None]:
        """Keep GraphBLAS on `threads` threads for calls from this thread."""
        context = graphblas().ss.Context(nthreads=usable_threads(threads))  # of this thread
        try:
            yield
        finally:
            context.disengage()

    # -- training ----------------------------------------------------------------------------------

    def trainable(self, weight: CSR | Array) -> GraphBLASTrainable:
        """Copy the weight and its transpose; of a dense one all places are stored."""
        return GraphBLASTrainable(weight)

    def affine_input_grad(
        self, w: GraphBLASTrainable, dZ: Array, out: Array, threads: int = 1
    ) -> None:
        """Compute out = dY = W^T (+.x) dZ, accumulated in place into zeros (saxpy5).

        dZ has the shape (tiles, out_features, width), out (tiles, in_features, width).
        """
        check_tiles(w.pattern, dZ, out, names=("dZ", "out"))
        out[...] = 0
        _multiply(w.transposed, dZ, out)

    def affine_weight_grad(
        self, w: GraphBLASTrainable, dZ: Array, Y: Array, out: Array, threads: int = 1
    ) -> None:
        """Compute out = the values of dW<W> = dZ (+.x) Y^T, summed over tiles (dot3).

        Parameters
        ----------
        w : GraphBLASTrainable
        dZ : ndarray, shape (tiles, out_features, width)
        Y : ndarray, shape (tiles, in_features, width)
        out : ndarray, shape (nnz,)
            In the order of W's pattern. Both factors are full, so none of its places stays absent.
        """
        gb = graphblas()
        check_tiles(w.pattern, dZ, Y, names=("dZ", "Y"))
        check_values(w.pattern, out)
        out[...] = 0
        W = w.matrix
        for dz_tile, y_tile in zip(dZ, Y, strict=True):
            dW = gb.Matrix(W.dtype, *W.shape)
            dW.ss.config["sparsity_control"] = "sparse"
            try:
                with lent(dz_tile) as dz, lent(y_tile) as y:
                    dW(W.S, replace=True) << gb.semiring.plus_times(dz @ y.T)
            except gb.exceptions.GraphblasException as error:
                raise failure("dW<W> = plus_times(dZ Y^T)", error, W, y_tile) from error
            out += dW.ss.unpack("csr", sort=True)["values"]

    def training_width(self, features: int, dtype: np.dtype[Any], batch: int) -> int:
        """The whole batch: GraphBLAS cuts it by itself."""
        return whole_batch(batch)


def _multiply(W: Any, Y: Array, out: Array) -> None:
    """Add W (+.x) Y to each tile of `out`, in place."""
    gb = graphblas()
    for y_tile, z_tile in zip(Y, out, strict=True):
        try:
            with lent(y_tile) as y, lent(z_tile) as z:
                z(gb.binary.plus) << gb.semiring.plus_times(W @ y)
        except gb.exceptions.GraphblasException as error:
            raise failure("plus_times", error, W, y_tile) from error


def _check(w: GraphBLASWeight, Y: Array, out: Array) -> None:
    """Refuse what GraphBLAS could not compute in place: it would free numpy's memory."""
    dtype = w.matrix.dtype.np_type
    for name, array in (("Y", Y), ("out", out)):
        if array.dtype != dtype or not array.flags.c_contiguous:
            raise BackendError(name, f"C-contiguous {dtype}", f"{array.dtype}, {array.strides}")
    if not out.flags.writeable:
        raise BackendError("out", f"C-contiguous {dtype} that can be written", "a read-only array")


def prepare(weight: CSR | Array) -> GraphBLASWeight:
    """Copy a weight into a GraphBLAS matrix that threads can share."""
    gb = graphblas()
    csr = as_csr(weight)
    matrix = _matrix(csr)
    assert matrix.dtype in (gb.dtypes.FP32, gb.dtypes.FP64)
    return GraphBLASWeight(matrix, _matrix_bytes(csr))


def _matrix(csr: CSR) -> Any:
    matrix = csr.to_graphblas()
    if not is_blocking():
        matrix.wait("materialize")
    # "auto" may turn a matrix near 50 % density into a bitmap, whose kernels are 16 times slower
    matrix.ss.config["sparsity_control"] = "sparse"
    return matrix


def _fill(matrix: Any, pattern: CSR, values: Array) -> None:
    """Replace a matrix' content; it takes the memory of `values`.

    Not by a new matrix: one of python-graphblas refers to itself by way of `.ss`, and stays in
    memory until Python looks for such cycles.
    """
    matrix.ss.pack_csr(
        indptr=pattern.indptr.astype(np.uint64),
        col_indices=pattern.indices.astype(np.uint64),
        values=values,
        sorted_cols=True,
        take_ownership=True,
    )
    if not is_blocking():
        matrix.wait("materialize")


def _matrix_bytes(csr: CSR) -> int:
    """Return the bytes of a matrix in GraphBLAS, whose indices take 8 each."""
    return 8 * (len(csr.indptr) + csr.nnz) + csr.values.nbytes


_LENT = object()  # in place of a matrix that owns the memory


@contextmanager
def lent(array: Array) -> Iterator[Any]:
    """A full `graphblas.Matrix` over an ndarray's own memory, for the length of a `with`.

    `array` is two-dimensional and C-contiguous. GraphBLAS is handed the pointer and gives the
    same pointer back, whatever happens inside, so that it never frees what numpy owns. Ctrl-C may
    arrive between any two lines: until the pointer is back, the matrix counts as part of another
    (`_parent`), which python-graphblas does not free; an interrupted one leaks its header only.
    """
    from graphblas.core import NULL, ffi, lib

    gb = graphblas()
    matrix = gb.Matrix(array.dtype, *array.shape)
    handle = matrix.gb_obj[0]
    pointer = ffi.new("void**", ffi.cast("void*", array.ctypes.data))
    nbytes, iso = ffi.new("GrB_Index*"), ffi.new("bool*")
    matrix._parent = _LENT
    status = lib.GxB_Matrix_pack_FullR(handle, pointer, array.nbytes, False, NULL)
    if status:
        raise BackendError("GraphBLAS", "to take a full matrix", f"status {status}")
    try:
        yield matrix
    finally:
        status = lib.GxB_Matrix_unpack_FullR(handle, pointer, nbytes, iso, NULL)
        moved = int(ffi.cast("uintptr_t", pointer[0])) != array.ctypes.data
        if status or moved or iso[0]:
            raise BackendError(
                "GraphBLAS", "to work in place", f"status {status}, moved={moved}, iso={iso[0]}"
            )
        matrix._parent = None


def failure(operation: str, error: Exception, w: Any, Y: Any) -> BackendError:
    """Wrap an error of GraphBLAS, whose own message is often empty."""
    got = f"{type(error).__name__} for W {w.shape} {w.dtype} and Y {Y.shape} {Y.dtype}: {error}"
    return BackendError("GraphBLAS", f"{operation} to succeed", got)
