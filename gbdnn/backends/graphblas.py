"""The GraphBLAS backend, fast form: Kepner et al. 2017 in place on full neuron-major tiles.

The paper's step is Y_{k+1} = h(W_k Y_k + b_k), two semirings (its section II):

    S1 = (+, x)      Z = W_k (+.x) Y_k            a matrix product
    S2 = (max, +)    Y_{k+1} = Z (x) b_k (+) 0    add the bias, take the maximum with 0

`gbdnn.backends.reference` writes both as GraphBLAS calls. Here S1's product accumulates into a
full matrix that already holds the bias, so S2's (x) costs nothing, and S2's (+) 0 is applied to the
memory in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends._init import graphblas, is_blocking, usable_threads
from gbdnn.backends.base import Activation, cached_width
from gbdnn.errors import BackendError
from gbdnn.sparse import CSR, as_csr

__all__ = ["GraphBLASBackend"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class GraphBLASWeight:
    """A weight as a `graphblas.Matrix` by row, FP32 or FP64; iso-valued weights stay so."""

    matrix: Any
    nbytes: int


class GraphBLASBackend:
    """Y_{k+1} = h(W_k Y_k + b_k): one in-place semiring product a layer (SuiteSparse: saxpy5)."""

    name = "graphblas"

    def prepare(self, weight: CSR | Array) -> GraphBLASWeight:
        """Copy the weight into a GraphBLAS matrix; of a dense one the non-zeros are taken."""
        return prepare(weight)

    def affine(
        self,
        w: GraphBLASWeight,
        Y: Array,
        bias: Array,
        activation: Activation,
        out: Array,
        threads: int = 1,
    ) -> None:
        """Compute out = h(W Y + b)."""
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
    matrix = csr.to_graphblas()
    if not is_blocking():
        matrix.wait("materialize")
    # "auto" may turn a matrix near 50 % density into a bitmap, whose kernels are 16 times slower
    matrix.ss.config["sparsity_control"] = "sparse"
    nbytes = 8 * (len(csr.indptr) + csr.nnz) + csr.values.nbytes
    assert matrix.dtype in (gb.dtypes.FP32, gb.dtypes.FP64)
    return GraphBLASWeight(matrix, nbytes)


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
