"""Exact compaction: what goes, what stays, and that nothing changes."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import gbdnn
from gbdnn import Linear, Network, as_csr
from gbdnn.compaction import twins_merged
from gbdnn.weights.equal import equal_rows

seeds = st.integers(0, 2**32 - 1)
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sigmoid", "gelu", "identity")


def planted(rng, *, whole, activation, dense=False, depth=3, dtype=np.float32):
    """Return a network with dead, constant and twin neurons, and how many there are at least.

    With `whole` numbers all sums are exact: weights and biases are small whole numbers.
    """
    sizes = rng.integers(6, 14, depth + 1)
    weights, biases = [], []
    for rows, columns in zip(sizes[1:], sizes[:-1], strict=True):
        W = rng.integers(-2, 3, (rows, columns)) * (rng.random((rows, columns)) < 0.6)
        b = rng.integers(-2, 3, rows)
        weights.append(W if whole else W * rng.standard_normal(W.shape))
        biases.append(b if whole else b * rng.standard_normal(rows))
    for k in range(depth - 1):
        W, b, V = weights[k], biases[k], weights[k + 1]
        rows = rng.permutation(len(W))
        V[:, rows[0]] = 0  # dead
        W[rows[1]] = 0  # constant
        W[rows[2]], b[rows[2]] = W[rows[3]], b[rows[3]]  # twins
    as_weight = np.asarray if dense else sp.csr_array
    layers = []
    for W, b in zip(weights, biases, strict=True):
        layers += [Linear(as_weight(W), b, dtype=dtype), activation]
    return Network(layers[:-1]), 3 * (depth - 1)


@settings(deadline=None, max_examples=60)
@given(seeds, st.sampled_from(ACTIVATIONS), st.booleans())
def test_planted_neurons_go_and_nothing_changes(seed, activation, dense):
    rng = np.random.default_rng(seed)
    network, planted_count = planted(rng, whole=False, activation=activation, dense=dense)
    before = [layer.weight.to_dense() for layer in network.layers[::2]]
    smaller, report = gbdnn.compact(network)
    assert report.neurons >= planted_count
    X = rng.standard_normal((9, network.in_features)).astype(np.float32)
    expected, bound = oracle.forward(network, X)
    bound = 2 * (bound + oracle.forward(smaller, X)[1]) + 1e-30
    for backend in ("fused", "graphblas", "dense"):
        assert (np.abs(smaller.predict(X, backend=backend) - expected) <= bound).all()
    assert gbdnn.compact(smaller)[1].neurons == 0  # a fixed point
    for layer, W in zip(network.layers[::2], before, strict=True):
        np.testing.assert_array_equal(layer.weight.to_dense(), W)


@settings(deadline=None, max_examples=40)
@given(seeds, st.sampled_from(("relu", "identity")))
def test_whole_numbers_give_equal_bits(seed, activation):
    rng = np.random.default_rng(seed)
    network, _ = planted(rng, whole=True, activation=activation)
    smaller, _ = gbdnn.compact(network)
    X = rng.integers(-3, 4, (9, network.in_features)).astype(np.float32)
    np.testing.assert_array_equal(smaller.predict(X), network.predict(X))


def test_the_report_counts_each_kind_and_prints_a_table():
    W = [[1, 2], [0, 0], [1, 2], [3, 1], [4, 4]]
    network = Network([Linear(sp.csr_array(W), [0, 3, 0, 1, 1]), "relu",
                       Linear(sp.csr_array([[1, 1, 1, 1, 0.0]]))])  # fmt: skip
    smaller, report = gbdnn.compact(network)
    first, last = report.layers
    assert (first.dead, first.constant, first.twins) == (1, 1, 1)
    assert (first.neurons, first.edges, last.edges) == ((5, 2), (8, 4), (4, 2))
    assert report.edges == (network.edges, smaller.edges)
    assert report.bytes == (network.nbytes, smaller.nbytes)
    np.testing.assert_array_equal(smaller.layers[2].bias, [3])
    assert "layers.0" in str(report)
    assert "5 -> 2" in str(report)


def test_a_relu_that_never_opens_is_constant():
    first = Linear(sp.csr_array(np.eye(3)))
    shut = Linear(sp.csr_array([[-1, 0, -2], [0, 1, 0.0]]), [-0.5, 0])
    network = Network([first, "relu", shut, "relu", Linear(sp.csr_array([[5.0, 1.0]]))])
    smaller, report = gbdnn.compact(network)
    assert report.layers[1].constant == 1
    assert report.layers[0].dead == 2  # read by nobody any more
    X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_array_equal(smaller.predict(X), network.predict(X))


@pytest.mark.parametrize("between", [["softmax"], ["relu", "softmax"]])
def test_what_a_softmax_reads_stays(between, rng):
    W = np.zeros((4, 3))
    network = Network([Linear(W), *between, Linear(np.ones((2, 4)))])
    assert gbdnn.compact(network)[1].neurons == 0


def test_outputs_inputs_and_one_neuron_of_each_layer_stay():
    network = Network([Linear(np.zeros((4, 3))), "relu", Linear(np.zeros((2, 4)))])
    smaller, _ = gbdnn.compact(network)
    assert (smaller.in_features, smaller.out_features) == (3, 2)
    assert smaller.layers[0].weight.shape == (1, 3)
    assert not smaller.predict(np.ones((2, 3), np.float32)).any()


def test_layers_that_lose_nothing_are_shared(rng):
    network = Network([Linear(rng.random((4, 3))), "tanh", Linear(rng.random((2, 4)))])
    smaller, report = gbdnn.compact(network)
    assert report.neurons == 0
    assert all(a is b for a, b in zip(network.layers, smaller.layers, strict=True))


def test_metadata_stay_and_other_things_are_refused():
    network = Network([Linear(np.eye(2))], metadata={"classes": ["a", "b"]})
    assert gbdnn.compact(network)[0].metadata == network.metadata
    with pytest.raises(gbdnn.errors.DtypeError, match="network"):
        gbdnn.compact([Linear(np.eye(2))])


@settings(deadline=None)
@given(seeds, st.booleans())
def test_equal_rows_are_the_equal_rows(seed, labelled):
    rng = np.random.default_rng(seed)
    W = rng.integers(-1, 2, (rng.integers(1, 9), rng.integers(1, 4))).astype(np.float32)
    labels = rng.integers(0, 2, len(W)).astype(np.float64) if labelled else None
    seen = W if labelled else W != 0
    keys = [(*row, 0 if labels is None else label)
            for row, label in zip(seen, labels if labelled else W[:, 0], strict=True)]  # fmt: skip
    expected = [keys.index(key) for key in keys]
    np.testing.assert_array_equal(equal_rows(as_csr(sp.csr_array(W)), labels), expected)


def test_a_stream_of_layers_is_merged_as_the_network_is(rng):
    layers = []
    for _ in range(4):
        small = rng.integers(0, 2, (8, 8)) / 4
        rows, columns = rng.permutation(16), rng.permutation(16)
        layers.append(as_csr(sp.csr_array(np.tile(small, (2, 2))[rows][:, columns])))
    place, merged = None, []
    for k, weight in enumerate(layers):
        made, place = twins_merged(weight, place, rows=k < 3)
        merged.append(made)
    chained = [part for weight in layers for part in (Linear(weight, -0.25), "relu")]
    smaller = gbdnn.compact(Network(chained))[0]
    X = rng.integers(0, 2, (7, 16)).astype(np.float32)
    streamed = Network([part for w in merged for part in (Linear(w, -0.25), "relu")])
    np.testing.assert_array_equal(streamed.predict(X), Network(chained).predict(X))
    assert smaller.edges <= streamed.edges < Network(chained).edges
