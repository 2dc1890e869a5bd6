"""The GraphBLAS backends: which kernels run, and that numpy's memory stays numpy's."""

from __future__ import annotations

import gc
import re

import numpy as np
import pytest
from builders import random_csr, random_dense, run_script

from gbdnn import CSR, as_csr
from gbdnn.backends import get_backend
from gbdnn.backends.base import aligned_empty
from gbdnn.backends.graphblas.backend import multiply, shared_with_graphblas, suitesparse
from gbdnn.backends.graphblas.reference import by_column, step
from gbdnn.errors import BackendError
from gbdnn.weights.graphblas import graphblas

BURBLE = """
import sys
import numpy as np, scipy.sparse as sp
from gbdnn import CSR, Linear, Network, ReLU, as_csr
from gbdnn.weights.graphblas import graphblas
backend, dtype, iso = sys.argv[1], np.dtype(sys.argv[2]), sys.argv[3] == "iso"
rng = np.random.default_rng(0)
W = as_csr(sp.random_array((64, 64), density=0.2, rng=rng), dtype=dtype)
if iso:
    W = CSR(W.indptr, W.indices, np.full(1, 0.5, dtype), W.shape)
network = Network([Linear(W, -0.1, dtype=dtype), ReLU(32.0), Linear(W, dtype=dtype), "tanh"])
X = rng.random((40, 64))
network.predict(X[:20], backend=backend, threads=1)
graphblas().ss.config["burble"] = True
network.predict(X, backend=backend, threads=1)
graphblas().ss.config["burble"] = False
"""


@pytest.mark.parametrize("iso", ["iso", "many"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_fast_form_works_in_place(dtype, iso):
    text = run_script(BURBLE, "graphblas", dtype, iso).stdout
    products = re.findall(r"GrB_mxm.*", text)
    assert len(products) == 2
    for product in products:
        assert "saxpy5" in product
        assert "(C in place)" in product
    for slow in ("generic", "saxpy3", "dot", "bitmap", "transpose", "wait", "convert"):
        assert slow not in text
    kinds = {line.split()[1] for line in re.findall(r"\[ G.*", text)}
    assert kinds <= {"GrB_mxm", "GxB_Matrix_pack_FullR", "GxB_Matrix_unpack_FullR"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_reference_multiplies_sparse_by_sparse(dtype):
    products = re.findall(
        r"GrB_mxm.*", run_script(BURBLE, "graphblas-reference", dtype, "no").stdout
    )
    assert len(products) == 3  # S1 and S2 of the first layer, S1 of the second
    assert "sparse saxpy" in products[0]
    assert "Gustavson" in products[0] or "hash" in products[0].lower()
    assert "rowscale" in products[1]  # the product with diag(b)
    assert not any("generic" in product for product in products)


def test_step_is_the_equation(rng):
    gb = graphblas()
    W, Y = random_dense(rng, 9, 7), abs(random_dense(rng, 7, 5))
    b = -abs(random_dense(rng, 9, 1, 1.0)[:, 0])
    matrices = [by_column(gb.Matrix.from_dense(part, missing_value=0)) for part in (W, Y)]
    diagonal = by_column(gb.Vector.from_dense(b).diag())
    result = step(*matrices, diagonal, cap=0.5)
    wanted = np.clip(W.astype(float) @ Y + b[:, None], 0, 0.5)
    np.testing.assert_allclose(get_backend("graphblas-reference").leave(result), wanted, atol=1e-6)
    assert result.nvals == np.count_nonzero(wanted)


@pytest.mark.parametrize("density", [0.0, 0.3, 0.5, 0.55, 1.0])
def test_weights_stay_sparse_by_row(density, rng):
    prepared = get_backend("graphblas").prepare(random_csr(rng, 40, 40, density))
    assert suitesparse(prepared.matrix).format == "csr"
    assert suitesparse(prepared.matrix).config["sparsity_control"] == {"sparse"}
    assert prepared.nbytes > 0
    by_columns = get_backend("graphblas-reference").prepare(random_csr(rng, 40, 40, density))
    assert suitesparse(by_columns.matrix).format == "csc"


def test_iso_weights_stay_iso(rng):
    csr = random_csr(rng, 40, 40)
    iso = CSR(csr.indptr, csr.indices, np.full(1, 0.5, np.float32), csr.shape)
    for name in ("graphblas", "graphblas-reference"):
        prepared = get_backend(name).prepare(iso)
        assert suitesparse(prepared.matrix).is_iso
        assert prepared.nbytes < get_backend(name).prepare(csr).nbytes


# -- memory that is shared -------------------------------------------------------------------------


def owned(rng, rows, columns, dtype=np.float32):
    """Return an aligned matrix and the address of its memory."""
    array = aligned_empty(rows * columns, dtype).reshape(rows, columns)
    array[...] = rng.standard_normal(array.shape)
    return array, array.ctypes.data


def usable(array, address):
    """Assert that numpy can still read, write and free its memory."""
    assert array.ctypes.data == address
    array += 1
    gc.collect()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (30, 50)])
def test_shared_memory_is_read_and_written_in_place(shape, dtype, rng):
    gb = graphblas()
    array, address = owned(rng, *shape, dtype)
    before = array.copy()
    other = array.copy()
    eye = get_backend("graphblas").prepare(as_csr(np.eye(shape[0], dtype=dtype))).matrix
    with shared_with_graphblas(array) as matrix, shared_with_graphblas(other) as source:
        assert matrix.shape == shape
        assert matrix.dtype == dtype
        np.testing.assert_array_equal(matrix.to_dense(), before)
        matrix(gb.binary.plus) << gb.semiring.plus_times(eye @ source)  # as affine does
    np.testing.assert_array_equal(array, 2 * before)
    assert matrix.nvals == 0  # nothing is left with GraphBLAS
    usable(array, address)


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_shared_memory_comes_back_when_the_body_raises(kind, rng):
    array, address = owned(rng, 20, 30)
    before = array.copy()
    with pytest.raises(kind, match="inside"), shared_with_graphblas(array):
        raise kind("inside")
    np.testing.assert_array_equal(array, before)
    usable(array, address)


def test_sharing_many_times_does_not_leak_or_free(rng):
    array, address = owned(rng, 20, 30)
    before = array.copy()
    for _ in range(2000):
        with shared_with_graphblas(array):
            pass
    np.testing.assert_array_equal(array, before)
    usable(array, address)


def test_read_only_memory_can_be_read(rng):
    array, _ = owned(rng, 5, 6)
    array.flags.writeable = False
    with shared_with_graphblas(array) as matrix:
        np.testing.assert_array_equal(matrix.to_dense(), array)


@pytest.mark.parametrize(
    ("Y_shape", "out_shape"),
    [
        ((13, 8), (10, 8)),
        ((12, 8), (11, 8)),
        ((12, 8), (10, 7)),
        ((12, 7), (10, 8)),
        ((1, 8), (10, 8)),
    ],
)
def test_wrong_shapes_raise_and_give_memory_back(Y_shape, out_shape, rng):
    backend = get_backend("graphblas")
    w = backend.prepare(random_csr(rng, 10, 12))
    Y, Y_address = owned(rng, *Y_shape)
    out, out_address = owned(rng, *out_shape)
    with pytest.raises(BackendError, match=r"W \(10, 12\) FP32 and Y .*float32"):
        multiply(w.matrix, Y[None], out[None])  # `affine` refuses them before
    usable(Y, Y_address)
    usable(out, out_address)
    right, right_address = owned(rng, 12, 16)
    result, result_address = owned(rng, 10, 16)
    backend.affine(w, right[None], np.zeros(10, np.float32), result[None], clamp=(0, np.inf))
    np.testing.assert_allclose(result, np.maximum(w.matrix.to_dense(0) @ right, 0), atol=1e-5)
    usable(right, right_address)
    usable(result, result_address)


def test_errors_of_the_reference_are_wrapped(rng):
    backend = get_backend("graphblas-reference")
    w = backend.prepare(random_csr(rng, 10, 12))
    Y = backend.enter(np.ones((13, 4), np.float32))
    with pytest.raises(BackendError, match="the reference step"):
        backend.forward(w, Y, np.zeros((), np.float32), (0.0, np.inf))


def test_reference_enter_and_leave(rng):
    backend = get_backend("graphblas-reference")
    Y = random_dense(rng, 9, 14)
    Y[:, 3] = 0
    matrix = backend.enter(Y)
    assert matrix.nvals == np.count_nonzero(Y)
    assert backend.live(matrix) == np.count_nonzero(Y.any(axis=0))
    np.testing.assert_array_equal(backend.leave(matrix), Y)
