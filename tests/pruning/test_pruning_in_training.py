"""`Sparsifier` step by step in real models, and in a whole training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from builders import random_csr, random_dense, random_network
from pruning_builders import STEPS, Loop, dense_network

from gbdnn import Linear, Network
from gbdnn.layers import Dropout
from gbdnn.pruning import (
    DISTRIBUTIONS,
    PRESETS,
    SET,
    Neuron,
    OneShot,
    Periodic,
    Polynomial,
    RigL,
    Sparsifier,
    sparsifier,
)
from gbdnn.topology import erk_densities
from gbdnn.training import Trainer
from gbdnn.weights.patterns import places as places_of


def test_gradual_pruning_follows_the_schedule(rng):
    """All layers together have Zhu and Gupta's sparsity after each update, to the entry."""
    schedule = Polynomial(5, 35, 5)
    loop = Loop(dense_network(rng), Sparsifier(0.9, schedule=schedule)).run()
    places = 12 * 20 + 20 * 16 + 16 * 4
    assert list(schedule.updates(STEPS)) == [10, 15, 20, 25, 30, 35]
    for t in range(STEPS):
        done = min(max((t // 5 * 5 - 5) / 30, 0), 1)
        sparsity = 0.9 - 0.9 * (1 - done) ** 3
        assert sum(p.nnz for p in loop.patterns[t]) == round((1 - sparsity) * places), t
    assert loop.density(STEPS - 1) == pytest.approx(0.1, abs=1 / places)


def test_magnitude_drops_the_smallest(rng):
    """At an update the entries that go are those of the smallest |w| of all layers."""
    loop = Loop(dense_network(rng), Sparsifier(0.5, schedule=OneShot(7))).run(stop=8)
    kept, gone = [], []
    for before, after, values in zip(
        loop.patterns[6], loop.patterns[7], loop.values[7], strict=True
    ):
        stays = np.isin(places_of(before), places_of(after))
        kept.append(abs(values[stays]))
        gone.append(abs(values[~stays]))
    assert np.concatenate(kept).min() >= np.concatenate(gone).max()


@pytest.mark.parametrize("backend", ["dense", "fused", "graphblas"])
@pytest.mark.parametrize("growth", [SET(0.3), RigL(0.3), RigL(0.3, memory=1)])
def test_growth_adds_what_was_dropped(rng, growth, backend):
    """Each layer keeps its count; the dropped are the smallest, the new are zero and were absent.

    For RigL the new ones have the largest dense gradients among absent entries, as computed here
    from the whole dZ Y^T in float64.
    """
    network = random_network(rng, (12, 20, 16, 4), activation="relu", density=0.25)
    schedule = Periodic(0, 40, 5)
    method = Sparsifier(schedule=schedule, growth=growth)
    loop = Loop(network, method, steps=41, backend=backend).run()
    exchanged = 0
    for t in range(41):
        part = growth.part(t, 40) if t in schedule.updates(41) else 0
        pairs = zip(loop.patterns[t - 1], loop.patterns[t], strict=True)
        for k, (before, after) in enumerate(pairs):
            old, new = places_of(before), places_of(after)
            assert len(old) == len(new)
            dropped, grown = np.setdiff1d(old, new), np.setdiff1d(new, old)
            count = round(part * before.nnz)
            assert len(dropped) == len(grown) == count
            exchanged += count
            if not count:
                continue
            values = abs(loop.values[t][k])
            stays = np.isin(old, new)
            assert values[stays].min() >= values[~stays].max()
            if isinstance(growth, RigL):
                G = abs(loop.gradients[t][k]).reshape(-1)
                others = np.setdiff1d(np.arange(G.size), np.concatenate([old, new]))
                assert G[grown].min() >= G[others].max() - 1e-5
            fresh = loop.values[t + 1][k][np.isin(new, grown)]
            np.testing.assert_array_equal(fresh, 0)
    assert exchanged > 100


def test_values_that_stay_are_not_touched(rng):
    network = random_network(rng, (12, 20, 4), density=0.25)
    loop = Loop(network, Sparsifier(schedule=Periodic(0, 20, 10), growth=SET()))
    loop.run(stop=12)
    for k, (old, new) in enumerate(zip(loop.patterns[9], loop.patterns[10], strict=True)):
        common = np.intersect1d(places_of(old), places_of(new))
        before = loop.values[10][k][np.isin(places_of(old), common)]
        after = loop.values[11][k][np.isin(places_of(new), common)]
        np.testing.assert_array_equal(before, after)


def test_dense_layers_have_nothing_to_grow(rng):
    """A dense layer between sparse ones stays dense."""
    sparse = random_network(rng, (12, 20), density=0.2).layers
    network = Network([*sparse, Linear(random_dense(rng, 5, 20, 1.0))])
    loop = Loop(network, sparsifier("rigl", schedule=Periodic(0, 40, 5))).run()
    assert loop.patterns[STEPS - 1][1].nnz == 100
    assert loop.model.network().layers[2].weight.form == "dense"
    assert not np.array_equal(loop.patterns[STEPS - 1][0].indices, loop.patterns[-1][0].indices)


def test_movement_accumulates(rng):
    """The score is -sum of w dL/dw, and follows the pattern as it changes."""
    method = Sparsifier(0.8, score="movement", schedule=Periodic(0, 30, 10))
    loop = Loop(dense_network(rng, dtype=np.float64), method)
    shapes = [p.shape for p in loop.patterns[-1]]
    moved = [np.zeros(a * b) for a, b in shapes]
    for t in range(STEPS):
        loop.step(t)
        for k in range(3):
            before = places_of(loop.patterns[t - 1][k])
            gradient = loop.gradients[t][k].reshape(-1)[before]
            moved[k][before] -= loop.values[t][k] * gradient
            after = places_of(loop.patterns[t][k])
            np.testing.assert_allclose(
                loop.state[f"moved.layers.{2 * k}.weight"], moved[k][after], rtol=1e-10, atol=1e-12
            )
    kept = [loop.patterns[10][k].nnz for k in range(3)]
    assert sum(kept) < sum(a * b for a, b in shapes)


def test_growth_while_the_target_rises(rng):
    """Schedule and growth combine: counts follow the schedule, a part is exchanged besides."""
    schedule = Polynomial(0, 40, 10)
    method = Sparsifier(0.8, distribution="uniform", schedule=schedule, growth=RigL(0.2))
    network = random_network(rng, (12, 20, 16), density=0.6)
    loop = Loop(network, method, steps=41)
    first = loop.density(-1)
    loop.run()
    for t in schedule.updates(41):
        density = 0.2 + (first - 0.2) * (1 - t / 40) ** 3
        for k, (before, after) in enumerate(
            zip(loop.patterns[t - 1], loop.patterns[t], strict=True)
        ):
            wanted = min(round(density * after.shape[0] * after.shape[1]), before.nnz)
            assert after.nnz == wanted
            grown = np.setdiff1d(places_of(after), places_of(before))
            assert len(grown) == round(method.growth.part(t, 40) * wanted)
            G = abs(loop.gradients[t][k]).reshape(-1)
            others = np.setdiff1d(np.arange(G.size), [*places_of(before), *grown])
            assert not len(grown) or G[grown].min() >= G[others].max() - 1e-5


@pytest.mark.parametrize("score", ["magnitude", "gradient", "random", "movement"])
@pytest.mark.parametrize("distribution", ["global", "uniform", "erk"])
def test_scores_and_distributions_combine(rng, score, distribution):
    """Every pair reaches the target."""
    method = Sparsifier(0.85, score=score, distribution=distribution)
    loop = Loop(dense_network(rng), method).run()
    assert loop.density(STEPS - 1) == pytest.approx(0.15, abs=0.005)


def test_structures_in_training(rng):
    """2:4 gradually by way of 3:4; neurons with what the next layer weighs them with."""
    loop = Loop(dense_network(rng), Sparsifier(structure="2:4", schedule=Periodic(0, 30, 10))).run()
    counts = [loop.patterns[t][0].nnz / (12 * 20) for t in (0, 10, 20, 30)]
    assert counts == [1, 1, 0.75, 0.5]
    for pattern in loop.patterns[STEPS - 1]:
        group = places_of(pattern) // 4
        assert (np.bincount(group) == 2).all()
    method = Sparsifier(0.5, structure=Neuron(next_columns=True), schedule=OneShot(3))
    loop = Loop(dense_network(rng), method).run(stop=5)
    first, second, last = loop.patterns[4]
    rows = [set(np.flatnonzero(np.diff(p.indptr))) for p in (first, second)]
    assert set(second.indices) <= rows[0]
    assert set(last.indices) == rows[1]
    assert (np.diff(last.indptr) > 0).all()


@pytest.mark.parametrize("exclude", [[-1, 0], ["*.0.*", "layers.4.weight"], [0, "layers.4*"]])
def test_excluded_weights_stay(rng, exclude):
    method = Sparsifier(0.9, exclude=exclude, distribution="uniform")
    loop = Loop(dense_network(rng), method).run()
    assert [p.nnz for p in loop.patterns[STEPS - 1]] == [240, 32, 64]


def test_columns_follow_over_elementwise_layers(rng):
    """Names, not neighbours, say what reads a removed neuron; what is left out stays."""
    first, second, third = (Linear(random_dense(rng, *n, 1.0)) for n in ((9, 5), (8, 9), (4, 8)))
    network = Network([first, "relu", Dropout(0.5), second, third])
    method = Sparsifier(0.5, structure=Neuron(next_columns=True), schedule=OneShot(0))
    patterns = Loop(network, method).run(stop=1).patterns[0]
    assert len(rows_left(patterns[0])) < 9
    assert set(patterns[1].indices) == rows_left(patterns[0])
    assert set(patterns[2].indices) == rows_left(patterns[1])
    assert len(rows_left(patterns[2])) == 4
    method = dataclasses.replace(method, exclude=["layers.3.weight"])
    patterns = Loop(network, method).run(stop=1).patterns[0]
    assert len(rows_left(patterns[0])) < 9
    assert [patterns[1].nnz, patterns[2].nnz] == [8 * 9, 4 * 8]


def rows_left(pattern):
    return set(np.flatnonzero(np.diff(pattern.indptr)))


def test_static_changes_nothing(rng):
    network = random_network(rng, (12, 20, 4), density=0.2)
    loop = Loop(network, sparsifier("static")).run()
    assert all(a is b for a, b in zip(loop.patterns[-1], loop.patterns[STEPS - 1], strict=True))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_deterministic(rng, name):
    """The same seed gives the same patterns, bit for bit; the random ones differ for another."""
    sparse = name in ("static", "set", "rigl")
    network = random_network(rng, (12, 20, 4), density=0.3) if sparse else dense_network(rng)
    first, second = (Loop(network, sparsifier(name), backend="fused").run() for _ in range(2))
    for a, b in zip(first.parameters, second.parameters, strict=True):
        np.testing.assert_array_equal(a.pattern.indices, b.pattern.indices)
        np.testing.assert_array_equal(a.value, b.value)
    if name in ("set", "random"):
        other = Loop(network, sparsifier(name), seed=1).run()
        a, b = first.patterns[STEPS - 1][0], other.patterns[STEPS - 1][0]
        assert not np.array_equal(places_of(a), places_of(b))


def test_state_is_plain_and_enough_to_go_on(rng):
    """Numbers and arrays; a run from copies of state and weights in the middle ends the same."""
    method = sparsifier("movement", sparsity=0.8)
    whole = Loop(dense_network(rng), method)
    rng = np.random.default_rng(20170829)
    half = Loop(dense_network(rng), method)
    whole.run()
    half.run(stop=21)
    assert all(v is None or isinstance(v, int | float | np.ndarray) for v in half.state.values())
    half.state = {
        key: value.copy() if isinstance(value, np.ndarray) else value
        for key, value in half.state.items()
    }
    for value in half.state.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False  # as they may come from a file
    half.run(start=21)
    for a, b in zip(whole.parameters, half.parameters, strict=True):
        np.testing.assert_array_equal(a.value, b.value)


@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS))
def test_a_layer_that_is_sparse_already(rng, distribution):
    """All weights together have the schedule's sparsity (Zhu and Gupta) after each update."""
    layers = [Linear(random_csr(rng, 40, 30, 0.04)), "relu", Linear(random_dense(rng, 30, 40, 1.0))]
    schedule = Polynomial(0, 30, 10)
    loop = Loop(
        Network(layers), Sparsifier(0.9, distribution=distribution, schedule=schedule)
    ).run()
    first = loop.density(-1)
    for t in schedule.updates(STEPS):
        density = 0.1 + (first - 0.1) * (1 - t / 30) ** 3
        assert sum(p.nnz for p in loop.patterns[t]) == round(density * 2400)


@pytest.mark.parametrize("name", ["static", "set", "rigl"])
def test_sparse_from_the_start(rng, name):
    """With a sparsity a dense network gets random ERK patterns at step 0, and keeps its counts."""
    method = sparsifier(name, sparsity=0.8)
    loop = Loop(dense_network(rng), method).run()
    shapes = [p.shape for p in loop.patterns[-1]]
    densities = erk_densities(shapes, density=0.2)
    exact = [d * a * b for d, (a, b) in zip(densities, shapes, strict=True)]
    counts = [p.nnz for p in loop.patterns[0]]
    assert sum(counts) == round(sum(exact))
    assert np.abs(np.subtract(counts, exact)).max() < 1
    for t in range(STEPS):
        assert [p.nnz for p in loop.patterns[t]] == counts
    same = [
        np.array_equal(places_of(a), places_of(b))
        for a, b in zip(loop.patterns[0], loop.patterns[STEPS - 1], strict=True)
    ]
    assert all(same) == (name == "static")
    again = Loop(loop.model.network(), method)  # already as sparse: step 0 changes nothing
    again.run(stop=1)
    assert all(a is b for a, b in zip(again.patterns[-1], again.patterns[0], strict=True))


def test_a_step_that_was_given_up(rng):
    """Places found in a step whose update never came are forgotten."""
    network = random_network(rng, (12, 20, 4), density=0.3)
    loop = Loop(network, sparsifier("rigl", schedule=Periodic(0, 20, 10)))
    observe = loop.method.observer(loop.state, loop.model, 10)
    observe("layers.0.weight", np.ones((1, 20, 3), np.float32), np.ones((1, 12, 3), np.float32))
    assert any(key.startswith("grown") for key in loop.state)
    assert loop.method.observer(loop.state, loop.model, 11) is None
    assert not any(key.startswith("grown") for key in loop.state)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_in_a_trainer(rng, name):
    """A whole training learns and ends at the target; fine-tuning keeps the patterns."""
    X = rng.standard_normal((240, 12)).astype(np.float32)
    y = (X[:, :4] @ rng.standard_normal((4, 4))).argmax(axis=1)
    method = sparsifier(name, sparsity=0.6)
    settings = {"batch_size": 24, "learning_rate": 1e-2, "threads": 1}
    network = Network([*dense_network(rng).layers, "softmax"])
    result = Trainer(epochs=8, sparsifier=method, **settings).fit(network, X, y)
    losses = [record["loss"] for record in result.history.records]
    assert losses[-1] < losses[0]
    weights = list(result.network.weights.values())
    places = sum(weight.shape[0] * weight.shape[1] for weight in weights)
    assert sum(weight.nnz for weight in weights) == pytest.approx(0.4 * places, abs=2)

    tuned = Trainer(epochs=2, **settings).fit(result.network, X, y).network
    for before, after in zip(weights, tuned.weights.values(), strict=True):
        np.testing.assert_array_equal(before.indices, after.indices)
        np.testing.assert_array_equal(before.indptr, after.indptr)
        assert not np.array_equal(before.values, after.values)
