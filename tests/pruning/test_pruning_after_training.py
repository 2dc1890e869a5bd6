"""`prune` and `pruning_report`."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from builders import random_csr, random_dense, random_network
from hypothesis import given
from hypothesis import strategies as st
from pruning_builders import SHAPES, classifier

import gbdnn
from gbdnn import CSR, Linear, Network, as_csr, pruning
from gbdnn.errors import (
    DtypeError,
    GbdnnError,
    InputError,
    NonFiniteError,
    ShapeError,
)
from gbdnn.layers import LOSSES
from gbdnn.pruning import DISTRIBUTIONS, Neuron, Score, Structure
from gbdnn.pruning.distributions import Share
from gbdnn.training import gradients, prune
from gbdnn.weights.patterns import places as places_of
from gbdnn.weights.patterns import top


def weights(network):
    return list(network.weights.values())


def quietly(*args, **settings):
    """Prune, whether or not outputs are cut off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return prune(*args, **settings)


def test_it_is_in_the_package(rng):
    """`gbdnn.prune` takes samples too; without them it is `gbdnn.pruning.prune`."""
    assert gbdnn.prune is prune
    network = classifier(rng)
    pairs = zip(weights(prune(network, 0.8)), weights(pruning.prune(network, 0.8)), strict=True)
    assert all(np.array_equal(a.to_dense(), b.to_dense()) for a, b in pairs)


@given(
    seed=st.integers(0, 10**6),
    sparsity=st.floats(0, 0.99),
    distribution=st.sampled_from(sorted(DISTRIBUTIONS)),
    score=st.sampled_from(["magnitude", "random"]),
    sparse=st.booleans(),
)
def test_counts_values_and_input(seed, sparsity, distribution, score, sparse):
    """Exact counts, values carried over, canonical results, an unchanged network."""
    rng = np.random.default_rng(seed)
    if sparse:
        network = random_network(rng, (12, 20, 16, 4), density=0.8)
        sparsity = max(sparsity, 0.35)
    else:
        network = classifier(rng)
    before = [w.to_dense() for w in weights(network)]
    pruned = quietly(network, sparsity, distribution=distribution, score=score, rng=seed)
    places = [a * b for a, b in SHAPES]
    counts = []
    for old, new in zip(before, weights(pruned), strict=True):
        if isinstance(new, CSR):
            CSR(new.indptr, new.indices, new.values, new.shape)
            kept = new.to_dense() != 0
            np.testing.assert_array_equal(new.to_dense()[kept], old[kept])
        counts.append(new.nnz)
    assert sum(counts) == round((1 - sparsity) * sum(places))
    assert (weights(pruned)[-1].to_dense() != 0).any(axis=1).all()  # all outputs
    for old, now in zip(before, weights(network), strict=True):
        np.testing.assert_array_equal(old, now.to_dense())


def test_global_magnitude_is_the_threshold(rng):
    network = classifier(rng)
    pruned = prune(network, 0.8, distribution="global")
    everything = np.sort(np.concatenate([abs(w.entries) for w in weights(network)]))
    threshold = everything[-round(0.2 * len(everything))]
    for old, new in zip(weights(network), weights(pruned), strict=True):
        np.testing.assert_array_equal(new.to_dense() != 0, abs(old.to_dense()) >= threshold)


def test_prediction_is_that_of_masked_weights(rng):
    """The pruned network computes what the dense one does with zeros in it."""
    network = classifier(rng, np.float64)
    pruned = prune(network, 0.7, distribution="erk")
    masked = []
    sparse = iter(weights(pruned))
    for layer in network.layers:
        if isinstance(layer, Linear):
            layer = Linear(next(sparse).to_dense(), layer.bias, dtype=np.float64)
        masked.append(layer)
    X = rng.standard_normal((30, 12))
    expected = Network(masked).predict(X, backend="dense")
    np.testing.assert_allclose(pruned.predict(X), expected, rtol=1e-12)


def test_a_sparse_network_is_pruned_on(rng):
    """Sparsity counts all places: 0.9 of a half empty layer leaves 10 % of them."""
    network = random_network(rng, (40, 50, 30), density=0.5)
    pruned = prune(network, 0.9, distribution="uniform")
    assert [w.nnz for w in weights(pruned)] == [200, 150]
    again = prune(pruned, 0.9, distribution="uniform")
    assert all(a is b for a, b in zip(weights(pruned), weights(again), strict=True))


def test_layers_that_are_sparser_already_keep_all(rng):
    layers = [Linear(random_csr(rng, 50, 40, 0.02)), "relu", Linear(random_dense(rng, 30, 50, 1.0))]
    network = Network(layers)
    pruned = prune(network, 0.8, distribution="uniform")
    assert weights(pruned)[0] is weights(network)[0]
    assert sum(weight.nnz for weight in weights(pruned)) == 700  # the other gets what is left


def test_zero_removes_nothing(rng):
    network = classifier(rng)
    same = prune(network, 0)
    assert all(a is b for a, b in zip(weights(network), weights(same), strict=True))


def test_iso_values_stay_iso(rng):
    network = Network([Linear(CSR(*_iso_parts(rng)))])
    pruned = prune(network, 0.9, score="random")
    (weight,) = weights(pruned)
    assert weight.iso
    assert weight.nnz == 60


def _iso_parts(rng):
    pattern = random_csr(rng, 20, 30, 0.5)
    return pattern.indptr, pattern.indices, np.full(1, 0.5, np.float32), pattern.shape


def test_stored_zeros_of_dense_weights_go_first():
    weight = np.array([[0.0, 1.0, 0.0, 2.0], [3.0, 0.0, 4.0, 0.0]])
    (pruned,) = weights(prune(Network([Linear(weight)]), 0.5))
    np.testing.assert_array_equal(pruned.to_dense(), weight)
    assert pruned.nnz == 4


def test_excluded_layers(rng):
    network = classifier(rng)
    pruned = prune(network, 0.9, exclude=[-1])
    assert weights(pruned)[2] is weights(network)[2]
    assert sum(w.nnz for w in weights(pruned)[:2]) == round(0.1 * (240 + 320))


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ([0], [1, 2]),
        ([-1, 0], [1]),
        (["layers.2.weight"], [0, 2]),
        (["*.2.*", -3], [2]),
        ({"layers.[04].weight"}, [1]),
        (1, [0, 2]),
        (np.array([2]), [0, 1]),
    ],
)
def test_weights_by_position_name_and_pattern(rng, exclude, left):
    network = classifier(rng)
    before, after = weights(network), weights(prune(network, 0.9, exclude=exclude))
    assert [k for k in range(3) if before[k] is not after[k]] == left


@pytest.mark.parametrize("exclude", [["layers.1.weight"], ["layers.0"], ["*.bias"], [""]])
def test_names_that_fit_nothing(rng, exclude):
    with pytest.raises(InputError, match=r"layers\.0\.weight, layers\.2\.weight") as caught:
        prune(classifier(rng), 0.9, exclude=exclude)
    assert caught.value.argument == "exclude"


def test_objects_of_the_user(rng):
    """A distribution is a function, a structure has the methods; no table knows them."""

    class Columns(Structure):
        def share(self, weight, scores):
            sums = np.bincount(weight.indices, scores, weight.shape[1])
            return Share(sums, weight.shape[1], weight.shape[0], weight.shape)

        def keep(self, weight, scores, units):
            return top(self.share(weight, scores).scores, units)[weight.indices]

    network = classifier(rng)
    pruned = prune(network, 0.5, structure=Columns(), distribution=lambda shares, _: [3, 4, 5])
    assert [len(set(weight.indices)) for weight in weights(pruned)] == [3, 4, 5]
    assert [weight.nnz for weight in weights(pruned)] == [3 * 20, 4 * 16, 5 * 4]
    smallest = Score("smallest", lambda values, gradients, moved, rng: -abs(values))
    (weight,) = weights(prune(Network([Linear(np.diag([1.0, 2.0, 3.0]) + 9)]), 0.6, score=smallest))
    assert set(weight.values) <= {9.0, 10.0}
    with pytest.raises(DtypeError, match="an object with"):
        prune(network, 0.5, structure=Columns)


def lopsided(rng):
    """Return a network whose last layer, and one output of it more, has the smallest weights."""
    last = 1e-3 * random_dense(rng, 4, 30, 1.0)
    last[2] *= 1e-3
    layers = [
        Linear(random_dense(rng, 30, 20, 1.0)),
        "relu",
        Linear(random_dense(rng, 30, 30, 1.0)),
    ]
    return Network([*layers, "relu", Linear(last)])


@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS))
@pytest.mark.parametrize("structure", [None, "2x5", "1x5"])
@pytest.mark.parametrize("score", ["magnitude", "random"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.97])
def test_outputs_keep_inputs(rng, distribution, structure, score, sparsity):
    """Whatever is asked for, no output is without weights; a sparse one that was stays so."""
    network = lopsided(rng)
    settings = {"distribution": distribution, "structure": structure, "score": score}
    last = weights(quietly(network, sparsity, **settings))[-1].to_dense()
    assert (last != 0).any(axis=1).all()
    empty = random_csr(rng, 4, 30, 0.5)
    empty = as_csr(empty.to_dense() * np.array([[1], [0], [1], [1]]))
    layers = [*network.layers[:-1], Linear(empty)]
    last = weights(quietly(Network(layers), sparsity, **settings))[-1].to_dense()
    assert (last != 0).any(axis=1).tolist() == [True, False, True, True]


def test_the_best_of_an_output_stays(rng):
    """Where an output would lose all, its best entry takes the place of the layer's worst."""
    network = Network([Linear(np.array([[8.0, 9, 7, 6], [1, 3, 2, 1]]))])
    (weight,) = weights(prune(network, 0.5, distribution="uniform"))
    np.testing.assert_array_equal(weight.to_dense(), [[8, 9, 7, 0], [0, 3, 0, 0]])


def test_outputs_that_no_input_reaches(rng):
    """They are counted in a warning, if they were reached before."""
    first = np.diag([1.0, 0.1, 0.1])
    chain = Network([Linear(first + 0.01), "relu", Linear(np.eye(3) + 0.001), "tanh"])
    with pytest.warns(UserWarning, match="no input reaches 2 of 3 outputs"):
        cut = prune(chain, 14 / 18, distribution=lambda shares, _: [1, 3])
    assert weights(prune(cut, 14 / 18))[0].nnz == 1  # no more are lost


@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS))
def test_structures(rng, distribution):
    network = classifier(rng)
    for pattern in weights(prune(network, None, structure="1:4", distribution=distribution)):
        assert (np.bincount(places_of(pattern) // 4) == 1).all()
    blocks = prune(network, 0.75, structure="4x2", distribution=distribution)
    kept = 0
    for weight in weights(blocks):
        dense = weight.to_dense()
        tiled = dense.reshape(len(dense) // 4, 4, -1, 2).transpose(0, 2, 1, 3).reshape(-1, 8)
        filled = (tiled != 0).sum(axis=1)
        assert set(filled) <= {0, 8}
        kept += (filled == 8).sum()
    assert kept == pytest.approx(0.25 * (30 + 40 + 8), abs=1)


def test_neurons(rng):
    """Rows go, the outputs' rows do not; on demand the next layer's columns go with them."""
    network = classifier(rng)
    first, second, third = weights(prune(network, 0.5, structure="neuron", distribution="uniform"))
    assert (np.diff(first.indptr) > 0).sum() == 10
    assert (np.diff(second.indptr) > 0).sum() == 8
    assert third is weights(network)[2]
    kept = prune(network, 0.5, structure=Neuron(next_columns=True), distribution="uniform")
    first, second, third = weights(kept)
    assert set(second.indices) == set(np.flatnonzero(np.diff(first.indptr)))
    assert set(third.indices) == set(np.flatnonzero(np.diff(second.indptr)))
    # as if the neurons' outputs were zero, in a network without their rows and columns
    alive = [np.flatnonzero(np.diff(w.indptr)) for w in (first, second)]
    a, b, c = (layer for layer in network.layers if isinstance(layer, Linear))
    small = [
        Linear(a.weight.values[alive[0]], a.bias[alive[0]]), "relu",
        Linear(b.weight.values[np.ix_(alive[1], alive[0])], b.bias[alive[1]]), "tanh",
        Linear(c.weight.values[:, alive[1]], c.bias), "softmax",
    ]  # fmt: skip
    X = rng.standard_normal((20, 12))
    np.testing.assert_allclose(kept.predict(X), Network(small).predict(X), rtol=1e-4, atol=1e-6)


def test_rows_that_were_empty_before_keep_their_bias(rng):
    """Only neurons that this call removes lose their columns."""
    first = random_dense(rng, 6, 5, 1.0)
    first[2] = 0
    layers = [Linear(as_csr(first), np.ones(6)), "relu", Linear(random_dense(rng, 3, 6, 1.0))]
    structure = Neuron(next_columns=True)
    pruned = prune(Network(layers), 0.5, structure=structure)
    before, after = weights(pruned)
    assert set(after.indices) == set(np.flatnonzero(np.diff(before.indptr))) | {2}


# -- gradients -------------------------------------------------------------------------------------


def numeric_gradients(network, X, y, epsilon=1e-6):
    """Return dL/dW of the mean cross-entropy by central differences, in float64."""
    found = []
    for number, layer in enumerate(network.layers):
        if not isinstance(layer, Linear):
            continue
        W = layer.weight.to_dense()
        gradient = np.zeros_like(W)
        for place in np.ndindex(W.shape):
            loss = []
            for step in (epsilon, -epsilon):
                moved = W.copy()
                moved[place] += step
                layers = list(network.layers)
                layers[number] = Linear(moved, layer.bias, dtype=np.float64)
                P = Network(layers).predict(X, backend="dense", skip=False)
                loss.append(-np.log(P[np.arange(len(y)), y]).mean())
            gradient[place] = (loss[0] - loss[1]) / (2 * epsilon)
        found.append(gradient)
    return found


@pytest.mark.parametrize("backend", ["dense", "fused", "graphblas"])
@pytest.mark.parametrize("score", ["gradient", "movement"])
def test_gradients_from_samples(rng, score, backend):
    """|w dL/dw|, or -w dL/dw, with gradients by central differences: the same entries stay."""
    layers = [Linear(random_csr(rng, 7, 5, 0.6, np.float64), dtype=np.float64), "tanh"]
    layers += [Linear(random_dense(rng, 3, 7, 1.0, np.float64), dtype=np.float64), "softmax"]
    network = Network(layers)
    X, y = rng.standard_normal((30, 5)), rng.integers(3, size=30)
    dense = numeric_gradients(network, X, y)
    sparse, full = weights(network)
    given = [dense[0].reshape(-1)[places_of(sparse)], dense[1]]
    names = {"score": score, "distribution": "uniform"}
    expected = pruning.prune(network, 0.7, gradients=given, **names)
    computed = prune(network, 0.7, X=X, y=y, backend=backend, threads=1, **names)
    for a, b in zip(weights(expected), weights(computed), strict=True):
        np.testing.assert_array_equal(places_of(a), places_of(b))
    found = gradients(network, X, y, backend=backend, threads=1)
    assert list(found) == list(network.parameters)
    np.testing.assert_allclose(found["layers.0.weight"], given[0], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found["layers.2.weight"], dense[1].reshape(-1), rtol=1e-5, atol=1e-8)
    products = -full.values * dense[1]
    if score == "gradient":
        products = abs(products)
    best = np.sort(np.argsort(-products.reshape(-1))[: round(0.3 * 21)])
    np.testing.assert_array_equal(places_of(weights(computed)[1]), best)


def test_many_samples_in_batches_sparse_too(rng):
    """More samples than a batch, as a sparse matrix: the same as from a dense one."""
    network = classifier(rng)
    X = rng.standard_normal((700, 12)) * (rng.random((700, 12)) < 0.3)
    y = rng.integers(4, size=700)
    a = quietly(network, 0.8, score="gradient", X=X, y=y, threads=1)
    b = quietly(network, 0.8, score="gradient", X=sp.csr_array(X), y=y, threads=1)
    assert "mse" in LOSSES
    c = quietly(network, 0.8, score="gradient", X=X, y=np.eye(4)[y], loss="mse", threads=1)
    for one, two in zip(weights(a), weights(b), strict=True):
        np.testing.assert_array_equal(places_of(one), places_of(two))
    assert sum(w.nnz for w in weights(c)) == sum(w.nnz for w in weights(a))


@pytest.mark.parametrize(
    ("settings", "error", "argument"),
    [
        ({"sparsity": 1}, InputError, "sparsity"),
        ({"sparsity": 1.5}, InputError, "sparsity"),
        ({"sparsity": -0.5}, InputError, "sparsity"),
        ({"sparsity": np.nan}, InputError, "sparsity"),
        ({"sparsity": "0.5"}, DtypeError, "sparsity"),
        ({"sparsity": None}, DtypeError, "sparsity"),
        ({"sparsity": 0.9999}, InputError, "sparsity"),
        ({"sparsity": 0.999, "distribution": "uniform"}, InputError, "sparsity"),
        ({"structure": "3:7"}, InputError, "sparsity"),
        ({"sparsity": None, "structure": "3:7"}, ShapeError, "layers.0.weight"),
        ({"structure": "3x3"}, ShapeError, "layers.0.weight"),
        ({"exclude": [7]}, InputError, "exclude"),
        ({"exclude": [0, 1, 2]}, InputError, "exclude"),
        ({"exclude": 1.5}, DtypeError, "exclude"),
        ({"score": "gradient"}, InputError, "gradients"),
        ({"score": "gradient", "gradients": [1, 2]}, ShapeError, "gradients"),
        ({"score": "gradient", "gradients": "abc"}, DtypeError, "gradients"),
        (
            {"score": "gradient", "gradients": [[1], [2], [3]]},
            ShapeError,
            "gradients['layers.0.weight']",
        ),
        ({"score": "gradient", "X": np.ones((3, 12)), "y": [0, 1]}, ShapeError, "y"),
        ({"score": "gradient", "X": np.ones((3, 11)), "y": [0, 1, 2]}, ShapeError, "X"),
        ({"score": "gradient", "X": np.ones((0, 12)), "y": []}, ShapeError, "X"),
        ({"rng": -1}, DtypeError, "rng"),
        ({"rng": "seed"}, DtypeError, "rng"),
    ],
)
def test_bad_arguments(rng, settings, error, argument):
    with pytest.raises(error) as caught:
        prune(classifier(rng), **({"sparsity": 0.5} | settings))
    assert caught.value.argument == argument


def test_more_bad_arguments(rng):
    network = classifier(rng)
    with pytest.raises(DtypeError, match="Network"):
        prune(weights(network), 0.5)
    given = [np.ones(w.shape) for w in weights(network)]
    given[1][3, 4] = np.nan
    with pytest.raises(NonFiniteError, match=r"gradients\['layers.2.weight'\]"):
        prune(network, 0.5, score="gradient", gradients=given)
    with pytest.raises(InputError, match=r"none for layers\.2\.weight, layers\.4\.weight"):
        prune(network, 0.5, score="gradient", gradients={"layers.0.weight": given[0]})
    sparse = random_network(rng, (12, 20, 4), density=0.1)
    with pytest.raises(InputError, match="which the weights have"):
        prune(sparse, 0.5)
    with pytest.raises(InputError, match="which the weights have"):
        prune(sparse, 0)
    for settings in ({"score": "x"}, {"distribution": "x"}, {"structure": "x"}):
        with pytest.raises(GbdnnError, match="one of"):
            prune(network, 0.5, **settings)


def test_neurons_that_empty_the_next_layer(rng):
    """All that a sparse layer reads is removed: refused, with the weight's name."""
    first = np.diag(np.arange(1.0, 9.0))
    second = np.zeros((3, 8))
    second[:, :2] = 1
    network = Network([Linear(first), "relu", Linear(as_csr(second))])
    with pytest.raises(InputError, match=r"layers\.2\.weight"):
        prune(network, 0.75, structure=Neuron(next_columns=True))
