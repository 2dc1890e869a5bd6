"""Builders of networks, and the scaling that becomes part of one."""

from __future__ import annotations

import doctest
import sys
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from gbdnn import Dropout, Linear, Network, ReLU
from gbdnn.errors import InputError, MemoryBudgetError, UnknownNameError
from gbdnn.models import TOPOLOGIES, Scaling, fold, hidden_activations, mlp, scaling

SIZES = (500, 400, 300, 5)
PLACES = 500 * 400 + 400 * 300 + 300 * 5


@pytest.mark.parametrize("density", [0.05, 0.4, 1.0])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_layers_of_an_mlp(topology, density):
    network = mlp(SIZES, density=density, topology=topology, dropout=0.5, head="softmax", rng=1)
    kinds = [layer.kind for layer in network.layers]
    assert kinds == ["linear", "relu", "dropout"] * 2 + ["linear", "softmax"]
    for k in (0, 3, 6):
        layer = network.layers[k]
        full = layer.edges == layer.in_features * layer.out_features
        assert layer.weight.form == ("dense" if full else "csr")
        own = np.diff(layer.weight.pattern().indptr)
        assert (abs(layer.bias) <= 1 / np.sqrt(np.maximum(own, 1)) * (1 + 1e-6)).all()
        assert (layer.bias == 0).all() == (k == 6)
    if topology == "erk":
        assert network.edges == pytest.approx(density * PLACES, abs=3)
    else:  # hidden layers alike, the output layer dense
        edges = [layer.edges for layer in network.layers]
        assert edges[::3] == [round(density * 200_000), round(density * 120_000), 1500]


def test_no_layer_starves():
    """At least one weight for each neuron on either side, 8 a neuron of up to 32 inputs.

    Unless each layer's density is given.
    """
    for sizes, least in [((80, 90, 30), 80 + 90), ((32, 90, 30), 8 * 90), ((4, 90, 30), 4 * 90)]:
        for topology in TOPOLOGIES:
            network = mlp(sizes, density=1e-9, topology=topology)
            edges = [weight.nnz for weight in network.weights.values()]
            assert edges == [least, 90 + 30 if topology == "erk" else 90 * 30]
    network = mlp((50, 40, 30), density=(0.001, 0.5))
    assert [weight.nnz for weight in network.weights.values()] == [2, 600]


@pytest.mark.parametrize("name", hidden_activations())
def test_every_activation(name):
    network = mlp((20, 300, 10), density=0.5, activation=name, dtype=np.float64, rng=3)
    assert network.layers[1].kind == name
    assert network.dtype == np.float64
    X = np.random.default_rng(0).standard_normal((500, 20))
    assert 0.05 < network.predict(X, backend="dense").std() < 5


def test_equal_seeds_give_equal_networks():
    one, same, other = (mlp((9, 8, 7), density=0.5, rng=rng) for rng in (1, 1, 2))
    for name, weight in one.weights.items():
        np.testing.assert_array_equal(weight.to_dense(), same.weights[name].to_dense())
    assert (one.weights["layers.0.weight"].to_dense()
            != other.weights["layers.0.weight"].to_dense()).any()  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "argument"),
    [
        ({"sizes": (4,)}, InputError, "sizes"),
        ({"sizes": (4, 0)}, InputError, "sizes"),
        ({"sizes": (10**7, 10**7)}, MemoryBudgetError, "sizes"),
        ({"density": 0}, InputError, "density"),
        ({"density": (0.5, 0.5, 0.5)}, InputError, "density"),
        ({"topology": "star"}, UnknownNameError, "topology"),
        ({"activation": "softmax"}, UnknownNameError, "activation"),
        ({"head": "sum"}, UnknownNameError, "activation"),
        ({"dropout": 1.0}, InputError, "rate"),
    ],
)
def test_bad_arguments(options, error, argument):
    with pytest.raises(error) as caught:
        mlp(**{"sizes": (4, 3, 2), **options})
    assert caught.value.argument == argument


def test_a_topology_is_one_table_entry(monkeypatch):
    monkeypatch.setitem(TOPOLOGIES, "half", lambda shapes, density: [0.5] * len(shapes))
    network = mlp((20, 16, 10), topology="half")
    assert [weight.nnz for weight in network.weights.values()] == [160, 80]


def test_example():
    assert doctest.testmod(sys.modules[mlp.__module__]).attempted > 1
    assert not doctest.testmod(sys.modules[mlp.__module__]).failed


# -- scaling ---------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_folding_changes_no_function(data):
    """Samples as they are through the folded network: the scaled ones through the other."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    depth = data.draw(st.integers(1, 4))
    widths = rng.integers(1, 9, depth + 1)
    layers = []
    h = data.draw(st.sampled_from(["relu", "leaky_relu", "identity", "tanh", "gelu", ReLU(2.0)]))
    for columns, rows in pairwise(widths):
        weight = rng.standard_normal((rows, columns))
        if data.draw(st.booleans()):
            weight = sp.csr_array(weight * (rng.random((rows, columns)) < 0.6))
        layers += [Linear(weight, rng.standard_normal(rows), dtype=np.float64), h, Dropout(0.3)]
    regression = data.draw(st.booleans())
    last = [] if regression else ["softmax"]
    network = Network([*layers[:-2], *last], metadata={"a": 1})
    X = rng.standard_normal((7, widths[0])) * 10.0 ** data.draw(st.integers(-3, 3)) + 5
    scale = scaling(X, data.draw(st.sampled_from(["max", "standard", "none"])))
    undo = Scaling(rng.random(widths[-1]), rng.random(widths[-1]) + 0.1)
    folded = fold(network, scale, undo if regression else None)
    assert folded.metadata == {"a": 1}
    found = folded.predict(X, backend="dense")
    wanted = network.predict((X - scale.shift) * scale.factor, backend="dense")
    if regression:
        wanted = wanted / undo.factor + undo.shift
    size = abs(wanted).max(initial=1) * max(1, abs(scale.shift * scale.factor).max())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-11 * size)
    for name, weight in folded.weights.items():
        assert weight.form == network.weights[name].form
        np.testing.assert_array_equal(
            weight.pattern().indices, network.weights[name].pattern().indices
        )


def test_folding_leaves_the_layers_comparable():
    """Pruning by one threshold must not empty the layer that the pixels' scale is folded into."""
    rng = np.random.default_rng(0)
    network = mlp((64, 64, 64, 10), density=0.5, rng=rng)
    X = rng.integers(0, 256, (50, 64)).astype(np.uint8)
    folded = fold(network, scaling(X, "max"))
    sizes = [
        [np.abs(weight.entries).mean() for weight in each.weights.values()]
        for each in (network, folded)
    ]
    ratio = np.divide(*sizes)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_scaling_keeps_sparse_samples_sparse():
    X = sp.random_array((50, 20), density=0.1, rng=np.random.default_rng(1), format="csr")
    for kind in ("max", "standard", "none"):
        scale = scaling(X, kind)
        scaled = scale.apply(X)
        assert sp.issparse(scaled)
        assert scaled.nnz == X.nnz
        assert (scale.shift == 0).all()
        assert abs(scaled).max() <= 1 + 1e-6


def test_scaling_of_constant_features():
    X = np.zeros((5, 3))
    for kind in ("max", "standard"):
        scale = scaling(X, kind)
        assert np.isfinite(scale.factor).all()
        np.testing.assert_array_equal(scale.apply(X), 0)
    scaled = scaling(X + 7, "standard").apply(X + 7)
    np.testing.assert_array_equal(scaled, 0)
