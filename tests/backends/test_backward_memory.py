"""The backward products: kernels of GraphBLAS, memory that follows the non-zeros, choices."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from builders import random_csr, random_dense, run_script
from products import check_products, tiles

from gbdnn.backends import dense as dense_module
from gbdnn.backends import get_backend
from gbdnn.backends.graphblas.reference import by_column, input_gradient, weight_gradient
from gbdnn.errors import MemoryBudgetError
from gbdnn.weights import as_weight
from gbdnn.weights.graphblas import graphblas

# -- GraphBLAS: kernels and memory -----------------------------------------------------------------

BURBLE = """
import sys
import numpy as np, scipy.sparse as sp
from gbdnn import as_csr
from gbdnn.backends import get_backend
from gbdnn.weights.graphblas import graphblas
dtype, density = np.dtype(sys.argv[1]), float(sys.argv[2])
rng = np.random.default_rng(0)
backend = get_backend("graphblas")
W = as_csr(sp.random_array((64, 80), density=density, rng=rng), dtype=dtype)
w = backend.prepare(W, trained=True)
dZ, Y = np.ones((2, 64, 48), dtype), np.ones((2, 80, 48), dtype)
out = np.empty(len(w.values), dtype)
w.refresh()
with backend.pinned(1):
    graphblas().ss.config["burble"] = True
    backend.input_grad(w, dZ, np.empty_like(Y))
    backend.weight_grad(w, dZ, Y, out)
    graphblas().ss.config["burble"] = False
assert (out == 96).all()
"""


@pytest.mark.parametrize("density", [0.02, 0.3, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_fast_form_samples_the_product(dtype, density):
    text = run_script(BURBLE, dtype, str(density)).stdout
    back, again, *sampled = re.findall(r"GrB_mxm.*", text)  # two tiles each
    for product in (back, again):
        assert "saxpy5" in product
        assert "(C in place)" in product
    assert len(sampled) == 2
    for product in sampled:
        assert "masked_dot_product (dot3)" in product
        assert "C<M>" in product
    for slow in ("generic", "saxpy3", "dot2", "bitmap", "transpose", "wait", "convert"):
        assert slow not in text
    kinds = {line.split()[1] for line in re.findall(r"\[ G.*", text)}
    assert kinds <= {
        "GrB_mxm", "GxB_Matrix_pack_FullR", "GxB_Matrix_unpack_FullR",
        "GxB_set", "GrB_Matrix_nvals", "GxB_Matrix_unpack_CSR",  # the empty dW, its values
    }  # fmt: skip


BIG = """
import resource, sys
import numpy as np, scipy.sparse as sp
from gbdnn import as_csr
from gbdnn.backends import get_backend
from gbdnn.machine import peak_rss_bytes
n, nnz, width = 50_000, 100_000, 16
rng = np.random.default_rng(0)
backend = get_backend(sys.argv[1])
backend.prepare(as_csr(np.eye(3, dtype=np.float32)), trained=True)  # imports, compiles
W = as_csr(sp.coo_array((np.ones(nnz, np.float32), (rng.integers(n, size=nnz),
                         rng.integers(n, size=nnz))), shape=(n, n)).tocsr())
limit = 1 << 30  # more than is used already; out x in float32 are 10 GB, a bit for each 312 MB
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + limit, pages + limit))
before = peak_rss_bytes()
dZ = np.ones((1, n, width), np.float32)
Y, back = np.full((1, n, width), 2, np.float32), np.empty((1, n, width), np.float32)
with backend.pinned(1):
    w = backend.prepare(W, trained=True)
    dW = np.empty(len(w.values), np.float32)
    for _ in range(3):
        backend.affine(w, Y, None, back, clamp=(0, np.inf))
        backend.input_grad(w, dZ, back)
        backend.weight_grad(w, dZ, Y, dW)
        w.refresh()
assert (dW == 2 * width).all()
assert np.array_equal(back[0, :, 0], W.to_scipy().sum(axis=0))
print((peak_rss_bytes() - before) / (3 * dZ.nbytes + 100 * nnz), w.nbytes / nnz)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["graphblas", "graphblas-reference", "fused", "auto"])
def test_nothing_of_out_times_in_is_allocated(name):
    used, per_entry = map(float, run_script(BIG, name).stdout.split())
    assert used < 6  # times three activations and 100 bytes an entry
    assert per_entry < 100


LEAK = """
import sys
import numpy as np, scipy.sparse as sp
from gbdnn import as_csr
from gbdnn.backends import get_backend
from gbdnn.machine import peak_rss_bytes
backend = get_backend(sys.argv[1])
rng = np.random.default_rng(0)
w = backend.prepare(as_csr(sp.random_array((1000, 1000), density=0.2, rng=rng)), trained=True)
dZ, Y, out = np.ones((1, 1000, 16)), np.ones((1, 1000, 16)), np.empty(len(w.values))
def step():
    w.values[:] += 1
    w.refresh()
    backend.weight_grad(w, dZ, Y, out)
for _ in range(3):
    step()
before = peak_rss_bytes()
for _ in range(60):
    step()
print((peak_rss_bytes() - before) / w.nbytes)
"""


@pytest.mark.parametrize("name", ["dense", "graphblas", "graphblas-reference", "fused"])
def test_refresh_does_not_leak(name):
    grown = float(run_script(LEAK, name).stdout)
    assert grown < 3  # a leak of the values alone would be 10 and more


def test_the_reference_equations(rng):
    gb = graphblas()
    W, dZ, Y = random_dense(rng, 9, 7), random_dense(rng, 9, 5), random_dense(rng, 7, 5)
    w, dz, y = (by_column(gb.Matrix.from_dense(part, missing_value=0)) for part in (W, dZ, Y))
    full = get_backend("graphblas-reference").leave
    np.testing.assert_allclose(full(input_gradient(w, dz)), W.T @ dZ, atol=1e-5)
    dW = weight_gradient(w, dz, y)
    np.testing.assert_allclose(full(dW), (dZ @ Y.T) * (W != 0), atol=1e-5)
    assert dW.nvals == np.count_nonzero(W)


# -- dense and auto --------------------------------------------------------------------------------


def test_dense_refuses_what_does_not_fit(rng, monkeypatch):
    weight = random_csr(rng, 20, 30)
    monkeypatch.setattr(dense_module, "available_bytes", lambda: 2 * 20 * 30 * 4)
    get_backend("dense").prepare(weight)
    with pytest.raises(MemoryBudgetError, match="Use a sparse backend"):
        get_backend("dense").prepare(weight, trained=True)


@pytest.mark.parametrize(("density", "engine"), [(0.05, "fused"), (0.9, "dense")])
def test_auto_trains_by_its_rule(density, engine, rng):
    weight = random_csr(rng, 40, 50, density, np.float64)
    w = get_backend("auto").prepare(weight, trained=True)
    assert w.engine == engine
    assert w.nbytes == get_backend(engine).prepare(weight, trained=True).nbytes
    assert w.values is w.form.values
    check_products("auto", weight, tiles(rng, 2, 40, 16), tiles(rng, 2, 50, 16))


def test_auto_falls_back_where_the_choice_does_not_fit(rng, monkeypatch):
    weight = random_csr(rng, 40, 50, 0.9, np.float64)
    monkeypatch.setattr(dense_module, "available_bytes", lambda: 100)
    for given in (weight, as_weight(weight.to_dense())):
        w = get_backend("auto").prepare(given, trained=True)
        assert w.engine == "fused"
        assert w.values.tobytes() == given.entries.tobytes()
