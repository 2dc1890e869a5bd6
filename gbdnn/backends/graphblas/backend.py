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
from typing import Any

import numpy as np

from gbdnn.backends.arrays import (
    apply_bounds,
    check_affine,
    check_tiles,
    check_values,
    column,
    owned,
)
from gbdnn.backends.base import Backend, Bounds, Prepared
from gbdnn.backends.graphblas.freeing import free_apart
from gbdnn.backends.integers import IntegerForm, by_groups
from gbdnn.errors import BackendError
from gbdnn.types import Array
from gbdnn.weights import CSR, Dense, Integers, as_csr
from gbdnn.weights.graphblas import graphblas, is_blocking, usable_threads
from gbdnn.weights.patterns import transpose

__all__ = [
    "GraphBLASBackend",
    "GraphBLASForm",
    "failure",
    "multiply",
    "pinned_sparse",
    "release",
    "shared_with_graphblas",
    "suitesparse",
]


class GraphBLASForm(Prepared):
    """A weight as a `graphblas.Matrix` by row, FP32 or FP64; in training with its transpose.

    For prediction an iso-valued weight stays so. In training both matrices are filled again when
    `values` changed.

    Attributes
    ----------
    matrix, transposed : graphblas.Matrix
        W and, in training, W^T.
    """

    def __init__(self, weight: CSR, trained: bool) -> None:
        self.shape, self.dtype = weight.shape, weight.dtype
        if trained:
            self.pattern, self.values = owned(weight)
            weight = self.pattern
            self._flipped, self._order = transpose(weight)
            self.transposed = _matrix(self._flipped)
            arrays = weight.nbytes + self._flipped.nbytes + self._order.nbytes
            self._nbytes = arrays + _matrix_bytes(weight) + _matrix_bytes(self._flipped)
        else:
            self._nbytes = _matrix_bytes(weight)
        self.matrix = _matrix(weight)
        free_apart(self, self.matrix, *([self.transposed] if trained else []))

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices, in training with those of the arrays."""
        return self._nbytes

    def refresh(self, threads: int = 1) -> None:
        """Fill both matrices anew from `values`; O(nnz)."""
        _fill(self.matrix, self.pattern, self.values.copy())
        _fill(self.transposed, self._flipped, self.values[self._order])


def _from_dense(weight: Dense, trained: bool) -> GraphBLASForm:
    """Take all places for training, the non-zeros for prediction."""
    return GraphBLASForm(weight.pattern() if trained else as_csr(weight.values), trained)


class GraphBLASIntegers(IntegerForm):
    """Codes as INT32 matrices, one for each group of columns.

    INT8 would overflow without a word, whatever the type of the result, and run generic kernels.

    Attributes
    ----------
    matrices : list of graphblas.Matrix
    """

    def __init__(self, weight: Integers) -> None:
        pattern, codes = weight.pattern(), weight.codes
        super().__init__(weight, pattern, codes)
        parts = by_groups(pattern, codes.astype(self.sum_type), self.scales.shape[1])
        made = [part.with_entries(values) for part, values in parts]
        self.matrices = [_matrix(part) for part in made]
        free_apart(self, *self.matrices)
        self._nbytes = int(sum(map(_matrix_bytes, made)) + self.scales.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices and the scales."""
        return self._nbytes

    def sums(self, group: int, X: Array) -> Array:
        """Return W (+.x) X on plus_times[INT32]."""
        sums = np.zeros((self.shape[0], X.shape[1]), self.sum_type)
        multiply(self.matrices[group], X.astype(self.sum_type)[None], sums[None])
        return sums.astype(self.dtype)


class GraphBLASBackend(Backend):
    """Z = W Y + b: one in-place semiring product for each tile (SuiteSparse: saxpy5)."""

    name = "graphblas"
    forms = {"csr": GraphBLASForm, "dense": _from_dense}  # noqa: RUF012
    integers = GraphBLASIntegers
    calls_in_main_thread = False

    def affine(
        self,
        w: GraphBLASForm | GraphBLASIntegers,
        Y: Array,
        bias: Array | None,
        out: Array,
        *,
        clamp: Bounds | None = None,
        accumulate: bool = False,
        threads: int = 1,
    ) -> None:
        """Compute Z (+)= W (+.x) Y in place, Z = b or b + out before; then the bounds."""
        if isinstance(w, GraphBLASIntegers):
            w.affine(Y, bias, out, clamp=clamp, accumulate=accumulate)
            return
        check_affine(w, Y, bias, out)
        if not accumulate:
            out[...] = 0 if bias is None else column(bias)
        elif bias is not None:
            out += column(bias)
        multiply(w.matrix, Y, out)
        apply_bounds(out, clamp)

    def input_grad(self, w: GraphBLASForm, dZ: Array, out: Array, threads: int = 1) -> None:
        """Compute dY = W^T (+.x) dZ, accumulated in place into zeros (saxpy5)."""
        check_tiles(w, dZ, out, names=("dZ", "out"))
        out[...] = 0
        multiply(w.transposed, dZ, out)

    def weight_grad(
        self, w: GraphBLASForm, dZ: Array, Y: Array, out: Array, threads: int = 1
    ) -> None:
        """Compute dW<W> = dZ (+.x) Y^T, summed over tiles (dot3).

        Both factors are full, so that none of the mask's places stays absent.
        """
        gb = graphblas()
        check_tiles(w, dZ, Y, names=("dZ", "Y"))
        check_values(w, out)
        out[...] = 0
        W = w.matrix
        for dz_tile, y_tile in zip(dZ, Y, strict=True):
            dW = pinned_sparse(gb.Matrix(W.dtype, *W.shape))
            try:
                with shared_with_graphblas(dz_tile) as dz, shared_with_graphblas(y_tile) as y:
                    dW(W.S, replace=True) << gb.semiring.plus_times(dz @ y.T)
            except gb.exceptions.GraphblasException as error:
                raise failure("dW<W> = plus_times(dZ Y^T)", error, W, y_tile) from error
            out += suitesparse(dW).unpack("csr", sort=True)["values"]

    @contextmanager
    def pinned(self, threads: int) -> Iterator[None]:
        """Keep GraphBLAS on `threads` threads for calls from this thread."""
        context = graphblas().ss.Context(nthreads=usable_threads(threads))  # of this thread
        try:
            yield
        finally:
            context.disengage()


def multiply(W: Any, Y: Array, out: Array) -> None:
    """Compute Z (+)= W (+.x) Y for each tile, in the memory of `out`."""
    gb = graphblas()
    for y_tile, z_tile in zip(Y, out, strict=True):
        try:
            with shared_with_graphblas(y_tile) as y, shared_with_graphblas(z_tile) as z:
                z(gb.binary.plus) << gb.semiring.plus_times(W @ y)
        except gb.exceptions.GraphblasException as error:
            raise failure("plus_times", error, W, y_tile) from error


def _matrix(csr: CSR) -> Any:
    """Copy a weight into a GraphBLAS matrix that threads can share."""
    matrix = csr.to_graphblas()
    if not is_blocking():
        matrix.wait("materialize")
    return pinned_sparse(matrix)


def _fill(matrix: Any, pattern: CSR, values: Array) -> None:
    """Replace a matrix' content; it takes the memory of `values`.

    Not by a new matrix: one of python-graphblas refers to itself by way of `.ss`, and stays in
    memory until Python looks for such cycles.
    """
    suitesparse(matrix).pack_csr(
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


_NUMPY = object()  # in place of a matrix that owns the memory


@contextmanager
def shared_with_graphblas(array: Array) -> Iterator[Any]:
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
    matrix._parent = _NUMPY
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
        release(matrix)


def suitesparse(matrix: Any) -> Any:
    """Return what `.ss` is, in which python-graphblas keeps SuiteSparse's own methods."""
    from graphblas.core.ss.matrix import ss

    return ss(matrix)


def pinned_sparse(matrix: Any, **config: str) -> Any:
    """Keep a matrix in sparse storage; further settings, such as "format", as SuiteSparse has them.

    "auto" may turn a matrix near 50 % density into a bitmap, whose kernels are 16 times slower.
    """
    suitesparse(matrix).config.update(sparsity_control="sparse", **config)
    return release(matrix)


def release(matrix: Any) -> Any:
    """Let a matrix or vector be freed with its last name: each refers to itself by `.ss`.

    The garbage collector would free it some time, in some thread, and an interrupt that arrives
    in python-graphblas's `__del__` is lost.
    """
    matrix.ss = None
    return matrix


def failure(operation: str, error: Exception, w: Any, Y: Any) -> BackendError:
    """Wrap an error of GraphBLAS, whose own message is often empty."""
    got = f"{type(error).__name__} for W {w.shape} {w.dtype} and Y {Y.shape} {Y.dtype}: {error}"
    return BackendError("GraphBLAS", f"{operation} to succeed", got)
