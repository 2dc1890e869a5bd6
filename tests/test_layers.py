"""Linear layers: what they accept, copy and refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from builders import ALL, random_csr, random_dense
from hypothesis import given
from hypothesis import strategies as st

from gbdnn import CSR, Dense, Linear, Network, as_csr, load
from gbdnn.backends import get_backend
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError
from gbdnn.layers import Dropout, ReLU
from gbdnn.training import Trainer


@pytest.mark.parametrize("kind", [np.asarray, list, sp.csr_array, sp.csc_matrix, as_csr])
def test_weight_kinds(kind, rng):
    dense = random_dense(rng, 4, 6)
    layer = Linear(kind(dense), np.arange(4))
    sparse = kind not in (np.asarray, list)
    assert isinstance(layer.weight, CSR) == sparse
    assert (layer.in_features, layer.out_features) == (6, 4)
    assert layer.edges == (np.count_nonzero(dense) if sparse else 24)
    np.testing.assert_array_equal(layer.weight.to_dense(), dense)
    assert layer.dtype == layer.bias.dtype == np.float32
    assert ("nnz" in repr(layer)) == sparse


@pytest.mark.parametrize("given", [np.float64, np.float32, np.float16, np.int8, np.uint64, bool])
@pytest.mark.parametrize("wanted", [np.float32, np.float64])
def test_dtypes(given, wanted):
    full = 1 - np.eye(3)
    layer = Linear(full.astype(given), np.ones(3, given), dtype=wanted)
    assert layer.dtype == layer.bias.dtype == wanted
    np.testing.assert_array_equal(layer.weight, full)
    assert layer.astype(np.float64).dtype == np.float64


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_arrays_that_were_pruned_are_sparse(seed, rows, columns):
    """At most half full, but not empty: CSR of the same numbers. `Dense` says otherwise."""
    rng = np.random.default_rng(seed)
    array = random_dense(rng, rows, columns, rng.random())
    filled = np.count_nonzero(array)
    for given_as in (array, array.tolist(), np.asfortranarray(array)):
        weight = Linear(given_as).weight
        assert weight.form == ("csr" if 0 < filled <= array.size / 2 else "dense")
        assert weight.nnz == (filled if weight.form == "csr" else array.size)
        np.testing.assert_array_equal(weight.to_dense(), array)
    assert Linear(Dense(array)).weight.form == "dense"


def prune_in_place(weight):
    """Set three quarters to 0 as torch.nn.utils.prune does, and return what it gives."""
    torch = pytest.importorskip("torch")
    import torch.nn.utils.prune as torch_prune

    module = torch.nn.Linear(weight.shape[1], weight.shape[0])
    module.weight.data = torch.tensor(weight)
    torch_prune.l1_unstructured(module, "weight", amount=0.75)
    return module.weight.detach().numpy()


@pytest.mark.parametrize("pruned", [lambda w: np.where(abs(w) > 1.15, w, 0), prune_in_place])
def test_pruned_elsewhere_stays_pruned(pruned, rng):
    """What was pruned in another library has as few weights after training as before."""
    W = pruned(rng.standard_normal((30, 20)).astype(np.float32))
    last = rng.standard_normal((3, 30)).astype(np.float32)
    X, y = rng.standard_normal((90, 20)), rng.integers(3, size=90)
    network = Network([Linear(W), "relu", Linear(last), "softmax"])
    fitted = Trainer(epochs=1, batch_size=10, threads=1).fit(network, X, y).network
    for result in (network, fitted):
        np.testing.assert_array_equal(result.layers[0].weight.to_dense() != 0, W != 0)
        assert result.summary().rows[0]["nnz"] == np.count_nonzero(W)
    oracle = Network([Linear(Dense(W)), "relu", Linear(last), "softmax"])
    expected = oracle.predict(X, backend="dense")
    np.testing.assert_allclose(network.predict(X), expected, rtol=1e-5, atol=1e-6)


def test_dense_weights_in_files_stay_dense(tmp_path):
    """Files say what form a weight has, zeros or not."""
    Network([Linear(Dense(np.eye(4)))]).save(tmp_path / "m")
    assert load(tmp_path / "m").layers[0].weight.form == "dense"


@pytest.mark.parametrize("sparse", [False, True])
def test_caller_keeps_arrays(sparse, rng):
    dense, bias = random_dense(rng, 4, 6), np.ones(4, np.float32)
    weight = sp.csr_array(dense) if sparse else dense
    layer = Linear(weight, bias)
    held = layer.weight.values
    before = held.copy()
    assert not held.flags.writeable
    assert not layer.bias.flags.writeable
    bias[:] = 7
    (weight.data if sparse else weight)[:] = 7
    np.testing.assert_array_equal(held, before)
    np.testing.assert_array_equal(layer.bias, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.bias = bias


def test_fortran_and_strided_weights(rng):
    dense = random_dense(rng, 8, 12)
    for view in (np.asfortranarray(dense), dense[::2, ::3], dense[::-1]):
        layer = Linear(view)
        assert layer.weight.values.flags.c_contiguous
        np.testing.assert_array_equal(layer.weight, view)


def test_negative_zero_bias_is_zero():
    assert not np.signbit(Linear(np.eye(2), -0.0).bias)
    assert not np.signbit(Linear(np.eye(2), [-0.0, 1]).bias).any()


@pytest.mark.parametrize(
    ("weight", "error"),
    [
        (np.ones(3), ShapeError),
        (np.ones((2, 2, 2)), ShapeError),
        (5.0, ShapeError),
        (np.ones((0, 3)), ShapeError),
        (sp.csr_array((3, 0)), ShapeError),
        (np.ones((2, 2), complex), DtypeError),
        (sp.csr_array(np.ones((2, 2), complex)), DtypeError),
        ([["a"]], DtypeError),
        ("relu", DtypeError),
        (None, DtypeError),
        ([[1, 2], [3]], DtypeError),
        (np.array([[None]]), DtypeError),
        (np.array([["2020-01-01"]], "M8"), DtypeError),
        (np.array([[np.nan]]), NonFiniteError),
        (sp.coo_array([[np.inf]]), NonFiniteError),
        (np.array([[1e300]]), NonFiniteError),
        (np.ma.masked_array([[1.0]], [[True]]), InputError),
    ],
)
def test_bad_weight(weight, error):
    with pytest.raises(error, match=r"^weight: expected .*, got "):
        Linear(weight)


@pytest.mark.parametrize(
    ("bias", "error"),
    [
        (np.ones(2), ShapeError),
        (np.ones((3, 1)), ShapeError),
        ([], ShapeError),
        ("one", DtypeError),
        (1j, DtypeError),
        (None, DtypeError),
        (np.nan, NonFiniteError),
        ([0, np.inf, 0], NonFiniteError),
        (1e300, NonFiniteError),
        (np.ma.masked_array([1.0, 2, 3], [True, False, False]), InputError),
    ],
)
def test_bad_bias(bias, error):
    with pytest.raises(error, match=r"^bias: expected .*, got "):
        Linear(np.eye(3), bias)


@pytest.mark.parametrize("dtype", [np.float16, int, "complex64", "nonsense", None, object])
def test_bad_dtype(dtype):
    with pytest.raises(DtypeError, match="float32 or float64"):
        Linear(np.eye(3), dtype=dtype)


def test_nan_cannot_enter_through_an_unchecked_csr():
    damaged = as_csr(sp.csr_array([[np.nan]]), finite=False)
    with pytest.raises(NonFiniteError):
        Linear(damaged)


@pytest.mark.parametrize("backend", ALL)
def test_dropout_changes_no_prediction(backend, rng):
    first, last = Linear(random_csr(rng, 20, 12), 0.1), Linear(random_csr(rng, 5, 20))
    X = rng.random((30, 12))
    plain = Network([first, "relu", last, "tanh"])
    dropping = Network([first, Dropout(0.3), "relu", Dropout(0.9), last, "tanh", Dropout()])
    wanted = plain.predict(X, backend=backend)
    np.testing.assert_array_equal(dropping.predict(X, backend=backend), wanted)


def test_dropout_costs_nothing():
    layers = [Linear(np.eye(3)), ReLU(), Dropout(0.5)]
    (step,) = Network(layers).steps(get_backend("dense"))
    assert step.layers == (*Network(layers).layers[:2],)  # and the bounds go into the product
    assert step.parameters[0].clamp == (0, np.inf)
    assert "Dropout(rate=0.5)" in repr(Network(layers))
    assert "Dropout" in str(Network(layers).summary())
