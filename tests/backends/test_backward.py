"""The backward products of every backend: values, properties, forms, bad arguments."""

from __future__ import annotations

import threading

import numpy as np
import oracle
import pytest
from builders import ALL, THREADS, random_csr, random_dense
from hypothesis import given
from hypothesis import strategies as st
from products import check_products, full, gradients_of, places, tiles, trained

from gbdnn import CSR
from gbdnn.backends import get_backend
from gbdnn.errors import DtypeError, GbdnnError, InputError, ShapeError

TYPES = [np.float32, np.float64]

# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_products(name, count, density, dtype, rng):
    weight = random_csr(rng, 37, 50, density, dtype)
    dZ, Y = tiles(rng, count, 37, 32, dtype), tiles(rng, count, 50, 32, dtype)
    check_products(name, weight, dZ, Y)


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (3, 300), (300, 3)])
@pytest.mark.parametrize("width", [16, 48, 64])
@pytest.mark.parametrize("name", ALL)
def test_products_of_odd_shapes(name, width, shape, rng):
    weight = random_csr(rng, *shape, 0.4, np.float64)
    check_products(name, weight, tiles(rng, 2, shape[0], width), tiles(rng, 2, shape[1], width))


@pytest.mark.parametrize("name", ALL)
def test_products_on_two_threads(name, rng):
    weight = random_csr(rng, 300, 400, 0.1)
    dZ, Y = tiles(rng, 4, 300, 128, np.float32), tiles(rng, 4, 400, 128, np.float32)
    check_products(name, weight, dZ, Y, THREADS)


@pytest.mark.parametrize("name", ALL)
def test_a_wrong_product_is_noticed(name, rng, monkeypatch):
    weight, dZ, Y = random_csr(rng, 37, 50), tiles(rng, 1, 37, 32), tiles(rng, 1, 50, 32)
    weight = weight.astype(np.float64)
    for part in (0, 1):
        exact = oracle.products

        def wrong(*args, part=part, exact=exact):
            return tuple(
                (1.001 * value if k == part else value, bound)
                for k, (value, bound) in enumerate(exact(*args))
            )

        monkeypatch.setattr(oracle, "products", wrong)
        with pytest.raises(AssertionError):
            check_products(name, weight, dZ, Y)
        monkeypatch.undo()


@pytest.mark.parametrize("name", ALL)
def test_dense_weights_train_all_places(name, rng):
    weight = random_dense(rng, 20, 30, 0.5, np.float64)  # zeros too
    w = trained(name, weight)
    assert w.pattern.nnz == len(w.values) == 600
    np.testing.assert_array_equal(w.values.reshape(20, 30), weight)
    check_products(name, weight, tiles(rng, 2, 20, 16), tiles(rng, 2, 30, 16))


@pytest.mark.parametrize("name", ALL)
def test_iso_weights_get_a_value_for_each_entry(name, rng):
    csr = random_csr(rng, 20, 30)
    iso = CSR(csr.indptr, csr.indices, np.full(1, 0.5, np.float32), csr.shape)
    w = trained(name, iso)
    np.testing.assert_array_equal(w.values, np.full(csr.nnz, 0.5))
    check_products(name, iso, tiles(rng, 1, 20, 16, np.float32), tiles(rng, 1, 30, 16, np.float32))


@pytest.mark.parametrize("name", ALL)
def test_stored_zeros_are_trained(name, rng):
    csr = random_csr(rng, 20, 30, dtype=np.float64)
    zeros = CSR(csr.indptr, csr.indices, np.zeros(csr.nnz), csr.shape)
    backend = get_backend(name)
    w = trained(name, zeros)
    dZ, Y = tiles(rng, 1, 20, 16), tiles(rng, 1, 30, 16)
    back, dW = gradients_of(backend, w, dZ, Y)
    np.testing.assert_array_equal(back, 0)
    np.testing.assert_allclose(dW, (dZ[0] @ Y[0].T)[places(w)], rtol=1e-12, atol=1e-14)
    assert np.count_nonzero(dW) == csr.nnz


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_nothing_are_zeros(name, rng):
    backend = get_backend(name)
    w = trained(name, random_csr(rng, 20, 30, dtype=np.float64))
    dZ, Y = tiles(rng, 2, 20, 16), tiles(rng, 2, 30, 16)
    back, dW = gradients_of(backend, w, 0 * dZ, Y)
    np.testing.assert_array_equal(back, 0)
    np.testing.assert_array_equal(dW, 0)
    np.testing.assert_array_equal(gradients_of(backend, w, dZ, 0 * Y)[1], 0)


# -- properties ------------------------------------------------------------------------------------

shapes = st.tuples(
    st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), st.sampled_from((16, 32))
)


@pytest.mark.parametrize("name", ALL)
@given(shape=shapes, density=st.sampled_from((0.1, 0.5, 1.0)), seed=st.integers(0, 2**32 - 1))
def test_the_products_are_adjoint(name, shape, density, seed):
    rng = np.random.default_rng(seed)
    rows, columns, count, width = shape
    backend = get_backend(name)
    weight = random_csr(rng, rows, columns, density, np.float64)
    w = trained(name, weight)
    dZ, Y = tiles(rng, count, rows, width), tiles(rng, count, columns, width)
    back, dW = gradients_of(backend, w, dZ, Y)
    Z = np.full_like(dZ, np.nan)
    backend.affine(w, Y, None, Z)
    # <dZ, W Y> = <W^T dZ, Y> = <dW, W>: sums of the same products, one for each edge and column
    size = np.sum(abs(dZ) * (abs(full(weight)) @ abs(Y)))
    terms = rows + columns + count * width + len(w.values)
    bound = 3 * (terms + 2) * np.finfo(float).eps * size
    assert abs(np.sum(dZ * Z) - np.sum(back * Y)) <= bound
    assert abs(np.sum(dZ * Z) - np.sum(dW * w.values)) <= bound


@pytest.mark.parametrize("name", ALL)
@given(shape=shapes, seed=st.integers(0, 2**32 - 1))
def test_of_a_dense_pattern_the_whole_product_is_taken(name, shape, seed):
    rng = np.random.default_rng(seed)
    rows, columns, count, width = shape
    dZ, Y = tiles(rng, count, rows, width), tiles(rng, count, columns, width)
    backend = get_backend(name)
    w = trained(name, rng.standard_normal((rows, columns)))
    _, dW = gradients_of(backend, w, dZ, Y)
    product, bound = oracle.products(np.ones((rows, columns)), dZ, Y, np.float64)[1]
    assert (abs(dW.reshape(rows, columns) - product) <= bound).all()


# -- the form --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("name", ALL)
def test_values_are_the_forms_own_and_refresh_takes_them_over(name, kind, rng):
    csr = random_csr(rng, 20, 30, dtype=np.float64)
    weight = csr if kind == "sparse" else csr.to_dense()
    before = full(weight).copy()
    backend = get_backend(name)
    w = trained(name, weight)
    assert w.pattern.shape == (20, 30)
    assert w.values.shape == (w.pattern.nnz,)
    assert w.values.dtype == np.float64
    assert w.values.flags.writeable
    assert w.nbytes >= w.pattern.indptr.nbytes + w.pattern.indices.nbytes + w.values.nbytes
    dZ, Y = tiles(rng, 1, 20, 16), tiles(rng, 1, 30, 16)
    for _ in range(3):
        w.values[...] = rng.standard_normal(len(w.values))
        w.refresh()
        W = np.zeros((20, 30))
        W[places(w)] = w.values
        out = np.empty_like(dZ)
        backend.affine(w, Y, np.ones(20), out)
        np.testing.assert_allclose(out[0], W @ Y[0] + 1, rtol=1e-12, atol=1e-13)
        back, _ = gradients_of(backend, w, dZ, Y)
        np.testing.assert_allclose(back[0], W.T @ dZ[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(full(weight), before)


@pytest.mark.parametrize("name", ALL)
def test_arguments_may_be_read_only(name, rng):
    backend, weight = get_backend(name), random_csr(rng, 20, 30, dtype=np.float64)
    w, dZ, Y = trained(name, weight), tiles(rng, 2, 20, 16), tiles(rng, 2, 30, 16)
    copies = dZ.copy(), Y.copy()
    dZ.flags.writeable = Y.flags.writeable = False
    gradients_of(backend, w, dZ, Y)
    backend.affine(w, Y, np.zeros(20), np.empty_like(dZ), clamp=(0, np.inf))
    np.testing.assert_array_equal(dZ, copies[0])
    np.testing.assert_array_equal(Y, copies[1])


BAD = {
    "rows": lambda dZ, Y, out: (dZ[:, :-1].copy(), Y, out),
    "columns": lambda dZ, Y, out: (dZ, Y[:, :-1].copy(), out),
    "tiles": lambda dZ, Y, out: (dZ[:1], Y, out),
    "width": lambda dZ, Y, out: (dZ, np.zeros((2, 30, 32)), out),
    "two dimensions": lambda dZ, Y, out: (dZ[0], Y[0], out),
    "dtype": lambda dZ, Y, out: (dZ.astype(np.float32), Y, out),
    "order": lambda dZ, Y, out: (np.asfortranarray(dZ), Y, out),
    "length": lambda dZ, Y, out: (dZ, Y, out[:-1]),
    "out dtype": lambda dZ, Y, out: (dZ, Y, out.astype(np.float32)),
    "out order": lambda dZ, Y, out: (dZ, Y, np.zeros((len(out), 2))[:, 0]),
    "out frozen": lambda dZ, Y, out: (dZ, Y, np.broadcast_to(np.zeros(()), out.shape)),
}


@pytest.mark.parametrize("change", BAD)
@pytest.mark.parametrize("name", ALL)
def test_unusable_arrays_are_refused(name, change, rng):
    backend, weight = get_backend(name), random_csr(rng, 20, 30, dtype=np.float64)
    w = trained(name, weight)
    good = tiles(rng, 2, 20, 16), tiles(rng, 2, 30, 16), np.zeros(weight.nnz)
    dZ, Y, out = BAD[change](*good)
    with pytest.raises((ShapeError, DtypeError, InputError), match=r"^(dZ|Y|out): expected "):
        backend.weight_grad(w, dZ, Y, out)
    if change not in ("length", "out dtype", "out order", "out frozen"):
        with pytest.raises((ShapeError, DtypeError, InputError), match=r"^(dZ|out): expected "):
            backend.input_grad(w, dZ, np.zeros_like(Y))
        with pytest.raises(GbdnnError, match=r"^(Y|out): expected "):
            backend.affine(w, Y, np.zeros(20), np.array(dZ, order="K"))
    backend.weight_grad(w, *good)
    np.testing.assert_allclose(good[2], np.einsum("toc,tic->oi", *good[:2])[places(w)], atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_training_width(name):
    backend = get_backend(name)
    for batch in (1, 7, 16, 100, 256, 1000):
        width = backend.width(1024, np.dtype(np.float32), batch)
        assert width % 16 == 0 < width
        if name not in ("fused", "auto"):
            assert batch <= width < batch + 16


@pytest.mark.parametrize("name", ALL)
def test_two_weights_train_in_two_threads(name, rng):
    errors = []

    def work(seed):
        try:
            own = np.random.default_rng(seed)
            weight = random_csr(own, 40, 50, dtype=np.float64)
            for _ in range(10):
                check_products(name, weight, tiles(own, 1, 40, 32), tiles(own, 1, 50, 32))
        except BaseException as error:
            errors.append(error)

    trained(name, random_csr(rng, 3, 4))  # compiled or imported before
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
