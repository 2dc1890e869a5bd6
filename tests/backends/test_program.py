"""Small batches in one compiled call: right for every shape, whatever the helpers do."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from builders import random_csr, random_dense, random_network
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import cfunc, float32, int64
from programs import FUSED, batch, program_of, run

from gbdnn import Linear, Network, ReLU, as_csr
from gbdnn.backends import get_backend
from gbdnn.backends.base import Affine
from gbdnn.backends.fused import helpers, program
from gbdnn.backends.fused.instructions import load, store
from gbdnn.errors import InputError, NonFiniteError, ShapeError
from gbdnn.execution import executor

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def helpers_for_the_smallest_job(monkeypatch):
    monkeypatch.setattr(program, "WORTH", 1e-12)
    monkeypatch.setattr(helpers, "LONG", 0.0)


def grouped(rng, rows, columns, density, dtype):
    """Return a matrix in which most rows share their columns with others."""
    pattern = rng.random((-(-rows // 6), columns)) < density
    values = rng.standard_normal((rows, columns)) * np.repeat(pattern, 6, axis=0)[:rows]
    return as_csr(values, dtype=dtype)


def iso(rng, rows, columns, density, dtype):
    """Return a matrix that stores one number for all its entries."""
    full = as_csr((rng.random((rows, columns)) < density) * 0.5, dtype=dtype)
    return full if len(full.values) <= 1 else as_csr(full, dtype=dtype)


MAKE = {
    "random": lambda rng, m, n, d, t: random_csr(rng, m, n, d, t),
    "dense": lambda rng, m, n, d, t: random_dense(rng, m, n, 1.0, t),
    "grouped": grouped,
    "iso": iso,
}


@st.composite
def cases(draw):
    """Return (network, X, threads)."""
    rng = np.random.default_rng(draw(seeds))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    widths = draw(st.lists(st.integers(1, 90), min_size=2, max_size=5))
    layers = []
    for columns, rows in pairwise(widths):
        make = MAKE[draw(st.sampled_from(sorted(MAKE)))]
        weight = make(rng, rows, columns, draw(st.sampled_from([0.0, 0.02, 0.3, 0.9])), dtype)
        bias = rng.standard_normal(rows) if draw(st.booleans()) else draw(st.sampled_from([0, 0.3]))
        layers.append(Linear(weight, bias, dtype=dtype))
        layers += draw(st.sampled_from([["relu"], [], [ReLU(0.7)], ["identity"]]))
    X = batch(rng, draw(st.integers(1, 70)), widths[0], dtype)
    return Network(layers), X, draw(st.sampled_from([1, 2, 3]))


@given(cases())
@settings(deadline=None, max_examples=150)
def test_the_result_is_right(case):
    network, X, threads = case
    result = run(network, X, threads=threads)
    oracle.check(result, network, X)
    if threads > 1:
        np.testing.assert_array_equal(result, run(network, X))  # in every bit


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("density", [0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("samples", [1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 70])
def test_wide_layers(samples, density, dtype, rng):
    """Rows long enough for every loop of the kernels, blocks of columns, many squares."""
    network = random_network(rng, (530, 300, 513, 10), density=density, dtype=dtype)
    X = batch(rng, samples, 530, dtype)
    for threads in (1, 2):
        oracle.check(run(network, X, threads=threads), network, X)


@pytest.mark.parametrize("length", range(20))
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rows_of_every_length(length, dtype, rng):
    """The last values lie at the end of their arrays: nothing beyond them may count."""
    weight = np.zeros((3, 40), dtype)
    for row in weight:
        row[rng.permutation(40)[:length]] = rng.standard_normal(length)
    network = Network([Linear(as_csr(weight), dtype=dtype)])
    X = batch(rng, 1, 40, dtype)
    oracle.check(run(network, X), network, X)


def test_the_check_of_the_result_notices_a_small_fault(rng):
    network = random_network(rng, (60, 40, 20))
    X = batch(rng, 5, 60)
    with pytest.raises(AssertionError, match="off by"):
        oracle.check(run(network, X) * np.float32(1.001), network, X)


# -- where inputs and results lie ------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 7, 20, 65])
@pytest.mark.parametrize("threads", [1, 2])
def test_neuron_major_arrays(samples, threads, rng):
    network = random_network(rng, (70, 50, 33))
    X = batch(rng, samples, 70)
    target = np.full((33, samples), np.nan, np.float32)
    run(network, X, threads=threads, source=np.ascontiguousarray(X.T), target=target)
    oracle.check(np.ascontiguousarray(target.T), network, X)


@pytest.mark.parametrize("samples", [1, 9, 40])
def test_arrays_of_every_layout(samples, rng):
    network = random_network(rng, (48, 30, 5))
    X = batch(rng, samples, 48)
    wide = np.zeros((samples, 100), np.float32)
    wide[:, 1:97:2] = X
    gaps = np.zeros((2 * samples, 50), np.float32)
    gaps[::2, 1:49] = X
    reverse = np.ascontiguousarray(X[::-1, ::-1])
    bytes_off = np.zeros(X.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(X.shape)
    bytes_off[...] = X
    frozen = X.copy()
    frozen.flags.writeable = False
    layouts = {
        "columns apart": wide[:, 1:97:2], "rows apart": gaps[::2, 1:49],
        "reversed": reverse[::-1, ::-1], "fortran": np.asfortranarray(X), "unaligned": bytes_off,
        "read-only": frozen, "swapped": X.astype(">f4"), "float64": X.astype("f8"),
        "broadcast": np.broadcast_to(X[:1], X.shape),
    }  # fmt: skip
    for name, given_X in layouts.items():
        before = given_X.copy()
        result = network.predict(given_X)
        oracle.check(result, network, np.array(given_X, np.float32))
        assert np.array_equal(given_X, before), name


@pytest.mark.parametrize("samples", [1, 6, 32, 33, 70])
@pytest.mark.parametrize("kind", ["csr", "f8", "i4"])
def test_batches_that_are_converted_first(samples, kind, rng):
    network = random_network(rng, (40, 30, 20))
    X = np.rint(batch(rng, samples, 40) * 2)
    given_X = as_csr(X) if kind == "csr" else X.astype(kind)
    np.testing.assert_array_equal(network.predict(given_X), network.predict(X))


def test_wrong_arrays_are_refused(rng):
    network = random_network(rng, (48, 30, 5))
    one = program_of(network)
    form = {"width": 32, "threads": 1, "check": False}
    Y, out = np.zeros((48, 4), np.float32), np.zeros((5, 4), np.float32)
    frozen = np.broadcast_to(out, out.shape)
    assert one.run(Y, out, **form)
    for wrong_Y, wrong_out in [(Y[1:], out), (Y[:, 1:], out), (Y, out[1:]), (Y[:, :0], out[:, :0])]:
        with pytest.raises(ShapeError):
            one.run(wrong_Y, wrong_out, **form)
    for wrong_Y, wrong_out in [
        (Y.astype("f8"), out), (Y, frozen), (np.zeros((96, 8), "f4")[::2, ::2], out),
        (Y, np.zeros((10, 8), "f4")[::2, ::2]), (Y.astype(">f4"), out),
    ]:  # fmt: skip
        with pytest.raises(InputError):
            one.run(wrong_Y, wrong_out, **form)


# -- NaN and infinity ------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("samples", [1, 2, 20, 64])
def test_bad_inputs_are_refused(samples, dtype, wrong, rng):
    network = random_network(rng, (50, 40, 10), dtype=dtype)
    for order in "CF":
        X = np.array(batch(rng, samples, 50, dtype), order=order)
        place = (int(rng.integers(samples)), int(rng.integers(50)))
        X[place] = wrong
        for threads in (1, 2):
            one = program_of(network)
            out = np.empty((samples, 10), dtype)
            assert one.run(X.T, out.T, width=32, threads=threads, check=True) is None
            with pytest.raises(NonFiniteError, match="1 NaN or infinite") as info:
                network.predict(X, threads=threads)
            assert str(place) in str(info.value)


@pytest.mark.parametrize("samples", [1, 5, 40])
def test_nan_spreads_without_the_check(samples, rng):
    network = Network([Linear(np.eye(30, dtype="f4")), "relu", Linear(as_csr(np.eye(30))), "relu"])
    X = abs(batch(rng, samples, 30))
    X[0, 3], X[-1, 4] = np.nan, np.inf
    result = network.predict(X, check_finite=False)
    assert np.isnan(result[0, 3])
    sparse = Network(network.layers[2:])
    np.testing.assert_array_equal(sparse.predict(X, check_finite=False), X)


@pytest.mark.parametrize("samples", [1, 40])
def test_the_largest_numbers_are_finite(samples):
    network = Network([Linear(as_csr(np.eye(20)))])
    X = np.full((samples, 20), np.finfo("f4").max)
    X[:, 1::2] *= -1
    np.testing.assert_array_equal(network.predict(X), X)


# -- networks that have no program -----------------------------------------------------------------


@pytest.mark.parametrize("last", ["softmax", "tanh", "gelu"])
@pytest.mark.parametrize("samples", [1, 3, 64, 200])
def test_the_last_activation_may_be_any(last, samples, rng):
    inner = random_network(rng, (30, 20, 10)).layers[:-1]
    network = Network([*inner, last])
    assert [layer.kind for layer in network.compiled(FUSED).tail] == [last]
    X = batch(rng, samples, 30)
    oracle.check(network.predict(X), network, X)
    oracle.check(network.predict(X, threads=1), network, X)


@pytest.mark.parametrize("activation", ["softmax", "tanh", "gelu"])
@pytest.mark.parametrize("samples", [1, 3, 64])
def test_other_activations_go_layer_by_layer(activation, samples, rng):
    network = random_network(rng, (30, 20, 10), activation=activation)
    assert network.compiled(FUSED) is None
    X = batch(rng, samples, 30)
    oracle.check(network.predict(X), network, X)
    X[-1, 2] = np.nan
    with pytest.raises(NonFiniteError, match="1 NaN"):
        network.predict(X)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_indices_may_differ_from_layer_to_layer(dtype, rng):
    """Each layer has its own kernel: 32-bit indices, then 16-bit ones, then 32-bit ones."""
    wide = np.zeros((6, 70_000))
    wide[:, rng.integers(0, 70_000, 40)] = rng.standard_normal((6, 40))
    wide[0, 69_999] = 1
    layers = [Linear(as_csr(each), 0.1, dtype=dtype) for each in (wide, wide.T, wide)]
    network = Network([layers[0], "relu", layers[1], "relu", layers[2]])
    indices = [affine.weight.rows.indices.dtype for affine in program_of(network)._affines]
    assert indices == [np.int32, np.uint16, np.int32]
    for samples in (1, 2, 35):
        X = batch(rng, samples, 70_000, dtype)
        one = run(network, X)
        oracle.check(one, network, X)
        np.testing.assert_array_equal(run(network, X, threads=2), one)


@cfunc("void(int64, int64, int64, int64, int64)")
def double(record, block, y, out, columns):
    """A kernel: out = 2 Y; its record is its address, the features and the number of blocks."""
    features, blocks = load(record + 8, int64), load(record + 16, int64)
    first, last = block * features // blocks, (block + 1) * features // blocks
    for k in range(first * columns, last * columns):
        store(out + 4 * k, np.float32(2) * load(y + 4 * k, float32))


class Double:
    """A prepared weight of another form, which brings a kernel of its own."""

    shape, dtype, edges = (50, 50), np.dtype(np.float32), 50

    def record(self, affine, wide, blocks):
        return [double.address, 50, blocks]


@pytest.mark.parametrize("samples", [1, 5, 70])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_layer_may_bring_its_own_kernel(samples, threads, rng):
    network = random_network(rng, (40, 50, 30))
    first, last = program_of(network)._affines
    between = Affine(Double(), np.zeros((), np.float32))
    made = FUSED.program([first, between, last])
    X, out = batch(rng, samples, 40), np.empty((samples, 30), np.float32)
    assert made.run(X.T, out.T, width=32, threads=threads, check=True) is not None
    layers = network.layers
    doubled = Linear(2 * np.eye(50, dtype=np.float32))
    oracle.check(out, Network([layers[0], layers[1], doubled, *layers[2:]]), X)


def test_one_wide_layer_has_32_bit_indices(rng):
    weight = np.zeros((6, 70_000), np.float32)
    weight[:, rng.integers(0, 70_000, 40)] = rng.standard_normal((6, 40))
    weight[0, 69_999] = 1
    network = Network([Linear(as_csr(weight), 0.1), "relu"])
    for samples in (1, 2, 35):
        X = batch(rng, samples, 70_000)
        oracle.check(run(network, X), network, X)


def test_other_backends_have_no_program(network, rng):
    for name in ("dense", "graphblas"):
        assert network.compiled(get_backend(name)) is None
    X = batch(rng, 3, network.in_features)
    X[0, 0] = np.nan
    with pytest.raises(NonFiniteError):
        network.predict(X, backend="dense")


@pytest.fixture
def network(rng):
    return random_network(rng, (64, 100, 80, 30))


def test_predict_uses_it_for_small_batches_only(network, monkeypatch, rng):
    used = []
    right = program.FusedProgram.run

    def counted(self, source, target, **options):
        used.append(source.shape[1])
        return right(self, source, target, **options)

    monkeypatch.setattr(program.FusedProgram, "run", counted)
    for samples in (1, 64):
        network.predict(batch(rng, samples, 64), skip=False)
    monkeypatch.setattr(executor, "SHORT", 1000)
    X = batch(rng, 64, 64)
    oracle.check(network.predict(X, skip=False), network, X)
    assert used == [1, 64]


@pytest.mark.parametrize("last", ["relu", "softmax"])
def test_large_sparse_batches_are_not_made_dense(last):
    """The batch would take 80 MB; a tile takes 1."""
    rng = np.random.default_rng(0)
    X = sp.random_array((10_000, 2000), density=1e-3, format="csr", rng=rng, dtype=np.float32)
    network = Network([Linear(random_csr(rng, 8, 2000, 0.01), 0.1), last])
    network.predict(X[:300])
    tracemalloc.start()
    try:
        network.predict(X, skip=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6
