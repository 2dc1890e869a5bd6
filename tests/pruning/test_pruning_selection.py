"""Structures and distributions: exact counts, whole units, the best ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
from builders import random_csr
from hypothesis import given
from hypothesis import strategies as st

from gbdnn.errors import DtypeError, InputError, ShapeError, UnknownNameError
from gbdnn.layers import Dropout, Layer, Linear, ReLU, Softmax, Tanh
from gbdnn.pruning import DISTRIBUTIONS, NM, STRUCTURES, Block, Neuron, Unstructured
from gbdnn.pruning.distributions import Share, _adaptive, by_threshold, erk, lamp, uniform
from gbdnn.pruning.selection import followers
from gbdnn.pruning.structures import structure
from gbdnn.topology import erk_densities
from gbdnn.weights import CSR
from gbdnn.weights.patterns import rows_of, subset

SEEDS = st.integers(0, 10**6)


@given(seed=SEEDS, groups=st.integers(1, 4), m=st.integers(2, 6), data=st.data())
def test_nm_keeps_the_best_of_each_group(seed, groups, m, data):
    """At most n in each group of m inputs, and no entry left out beats one that stays."""
    rng = np.random.default_rng(seed)
    n = data.draw(st.integers(1, m - 1))
    weight = random_csr(rng, 5, groups * m, rng.random())
    scores = rng.integers(0, 5, weight.nnz).astype(np.float32)
    mask = NM(n, m).keep(weight, scores, n)
    cell = rows_of(weight) * groups + weight.indices // m
    for group in np.unique(cell):
        inside = cell == group
        kept, lost = scores[inside & mask], scores[inside & ~mask]
        assert len(kept) == min(n, inside.sum())
        assert not len(lost) or lost.max() <= kept.min()


@given(seed=SEEDS, rows=st.integers(1, 4), columns=st.integers(1, 4), part=st.floats(0.05, 1))
def test_blocks_are_whole(seed, rows, columns, part):
    """A block keeps all its entries or none; those of the largest sums stay."""
    rng = np.random.default_rng(seed)
    weight = random_csr(rng, 3 * rows, 4 * columns, 0.7)
    scores = rng.random(weight.nnz)
    block = Block(rows, columns)
    units = max(round(part * 12), 1)
    mask = block.keep(weight, scores, units)
    number = rows_of(weight) // rows * 4 + weight.indices // columns
    kept, lost = set(number[mask]), set(number[~mask])
    assert not kept & lost
    assert len(kept) == min(units, len(set(number)))
    sums = {each: scores[number == each].sum() for each in set(number)}
    if kept and lost:
        assert min(sums[each] for each in kept) >= max(sums[each] for each in lost)
    share = block.share(weight, scores)
    assert (share.units, share.places) == (12, rows * columns)
    np.testing.assert_allclose(
        share.scores, [sums[each] / (rows * columns) for each in sorted(sums)]
    )


def test_neurons_are_rows(rng):
    weight = random_csr(rng, 10, 7, 0.5)
    scores = abs(weight.values)
    fewer = subset(weight, Neuron().keep(weight, scores, 4))
    sums = abs(weight.to_dense()).sum(axis=1)
    expected = np.zeros(10, bool)
    expected[np.argsort(-sums)[:4]] = True
    np.testing.assert_array_equal(np.diff(fewer.indptr) > 0, expected & (sums > 0))


@given(
    seed=SEEDS,
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    part=st.floats(0.01, 1),
)
def test_global_is_one_threshold(seed, sizes, part):
    """The total is exact, each layer keeps one, the others are the best of all."""
    rng = np.random.default_rng(seed)
    scores = [rng.integers(0, 9, n).astype(float) for n in sizes]
    shares = [Share(s, len(s), 1, (1, len(s))) for s in scores]
    counts = by_threshold(shares, part)
    wanted = round(part * sum(sizes))
    if wanted < len(sizes):
        assert counts == [0] * len(sizes)
        return
    assert sum(counts) == wanted
    assert min(counts) >= 1
    ordered = [np.sort(s)[::-1] for s in scores]
    forced = [s[:count] for s, count in zip(ordered, counts, strict=True)]
    lost = [s[count:] for s, count in zip(ordered, counts, strict=True)]
    # beyond the one that a layer always keeps, nothing that stays is below what goes
    chosen = np.concatenate([s[1:] for s in forced])
    gone = np.concatenate(lost)
    assert not len(chosen) or not len(gone) or chosen.min() >= gone.max()


def test_global_counts_places_of_units():
    """Rows of 10 and of 2 places: the best rows are kept until one does not fit."""
    wide = Share(np.array([5.0, 4.0, 1.0]), 3, 10, (3, 10))
    narrow = Share(np.array([3.0, 2.0, 0.5]), 3, 2, (3, 2))
    assert by_threshold([wide, narrow], 24 / 36) == [2, 2]
    assert by_threshold([wide, narrow], 22 / 36) == [2, 1]
    assert by_threshold([wide, narrow], 14 / 36) == [1, 1]  # the next best has 10 places
    assert by_threshold([wide, narrow], 11 / 36) == [0, 0]


def test_uniform_and_erk():
    shapes = [(300, 784), (100, 300), (10, 100)]
    shares = [Share(np.ones(a * b), a * b, 1, (a, b)) for a, b in shapes]
    places = sum(a * b for a, b in shapes)
    assert uniform(shares, 0.1) == [23520, 3000, 100]
    counts = erk(shares, 0.1)
    exact = [
        d * a * b for d, (a, b) in zip(erk_densities(shapes, density=0.1), shapes, strict=True)
    ]
    assert np.abs(np.subtract(counts, exact)).max() < 1
    assert sum(counts) == round(0.1 * places)
    sparse = Share(np.ones(50), 10_000, 1, (100, 100))
    assert uniform([sparse], 0.1) == [50]


SHARES = st.lists(
    st.builds(
        lambda rows, columns, part, least, seed: Share(
            np.random.default_rng(seed).integers(-3, 9, round(part * rows * columns)).astype(float),
            rows * columns,
            1,
            (rows, columns),
            least,
        ),
        st.integers(1, 12),
        st.integers(1, 12),
        st.floats(0, 1),
        st.integers(1, 5),
        SEEDS,
    ),
    min_size=1,
    max_size=5,
)


@given(shares=SHARES, part=st.floats(0, 1), name=st.sampled_from(sorted(DISTRIBUTIONS)))
def test_totals_are_exact(shares, part, name):
    """As many as asked for, if layers have them: none gets more than it has or less than least."""
    limits = [len(share.scores) for share in shares]
    least = [min(share.least, limit) for share, limit in zip(shares, limits, strict=True)]
    places = sum(share.units for share in shares)
    density = part * sum(limits) / places
    counts = DISTRIBUTIONS[name](shares, density)
    wanted = round(density * places)
    if wanted < sum(least):
        assert counts == [0] * len(shares)
        return
    assert sum(counts) == wanted
    assert all(a <= n <= b for a, n, b in zip(least, counts, limits, strict=True))
    if name in ("uniform", "erk"):  # in proportion, where neither bound holds
        parts = [s.units if name == "uniform" else sum(s.shape) for s in shares]
        free = [
            (count / each, 1 / each)
            for count, each, low, limit in zip(counts, parts, least, limits, strict=True)
            if low < count < limit
        ]
        assert all(abs(a - b) < u + v + 1e-9 for (a, u), (b, v) in combinations(free, 2))


@given(shares=SHARES, part=st.floats(0, 1))
def test_lamp_is_its_definition(shares, part):
    """s^2 over the sum of all s^2 that are not smaller; with the other sign for negative s."""
    adapted = []
    for share in shares:
        s = share.scores
        up = [x * x / (s[s >= x] ** 2).sum() if x > 0 else 0.0 for x in s]
        down = [x * x / (s[s <= x] ** 2).sum() if x < 0 else 0.0 for x in s]
        adapted.append(replace(share, scores=np.subtract(up, down)))
        np.testing.assert_allclose(_adaptive(s), adapted[-1].scores, rtol=1e-12)
        assert (np.argsort(s, kind="stable") == np.argsort(_adaptive(s), kind="stable")).all()
    assert lamp(shares, part) == by_threshold(
        [replace(share, scores=_adaptive(share.scores)) for share in shares], part
    )


def test_lamp_does_not_see_the_scale_of_a_layer(rng):
    shares = [Share(rng.random(200), 200, 1, (10, 20)), Share(rng.random(60), 60, 1, (6, 10))]
    counts = lamp(shares, 0.1)
    for scale in (1e-30, 1e-200, 1e150):
        other = replace(shares[1], scores=scale * shares[1].scores)
        assert lamp([shares[0], other], 0.1) == counts
    assert by_threshold([shares[0], replace(shares[1], scores=shares[1].scores / 9)], 0.1) == [
        25,
        1,
    ]


def test_names():
    assert structure(None) == structure("unstructured") == Unstructured()
    assert structure("2:4") == NM(2, 4)
    assert structure("8x1") == Block(8, 1)
    assert structure("neuron") == Neuron()
    assert structure(Neuron(next_columns=True)).next_columns
    for name in ("2:4:8", "x", "", "4 x 4", "-1:4"):
        with pytest.raises(UnknownNameError):
            structure(name)
    with pytest.raises(DtypeError):
        structure(4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NM(4, 4),
        lambda: NM(5, 4),
        lambda: NM(0, 4),
        lambda: NM(2, 4.0),
        lambda: Block(0, 4),
        lambda: Block(True, 4),
    ],
)
def test_impossible_structures(make):
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize(("kind", "shape"), [("2:4", (8, 10)), ("4x4", (8, 10)), ("4x4", (10, 8))])
def test_structures_that_do_not_divide(kind, shape):
    with pytest.raises(ShapeError, match=r"layers\.3\.weight.*exclude="):
        structure(kind).check(shape, "layers.3.weight")


def test_a_structure_is_one_entry(monkeypatch):
    """A name with numbers stands for all numbers."""
    monkeypatch.setitem(STRUCTURES, "first 1 of 2", lambda n, m: NM(n, m))
    assert structure("first 3 of 8") == NM(3, 8)
    with pytest.raises(UnknownNameError, match="'first 1 of 2'"):
        structure("last 3 of 8")


# -- which weight follows which --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cell(Layer):
    """A layer with two weights, of which no row is an output alone."""

    kind = "cell"
    weight_names = ("weight", "recurrent")
    columns_of = "weight"
    weight: CSR
    recurrent: CSR

    @property
    def in_features(self):
        return self.weight.shape[1]

    @property
    def out_features(self):
        return self.weight.shape[0]


def test_followers():
    """Elementwise layers are passed over; a layer without such rows or columns ends a pair."""
    linear = Linear(np.ones((4, 4)))
    layers = [linear, ReLU(), Dropout(0.5), linear, linear, Cell(linear.weight, linear.weight)]
    layers += [Tanh(), linear, Softmax()]
    named = [(f"layers.{k}", layer) for k, layer in enumerate(layers)]
    pairs, outputs = followers(named)
    assert pairs == [
        ("layers.0.weight", "layers.3.weight"),
        ("layers.3.weight", "layers.4.weight"),
        ("layers.4.weight", "layers.5.weight"),
    ]
    assert outputs == {"layers.7.weight"}
    assert followers(named[:7])[1] == {"layers.5.weight", "layers.5.recurrent"}


def test_followers_of_several_chains():
    """The first layer of a chain does not read what another chain gives."""
    linear = Linear(np.ones((4, 4)))
    named = [(f"{chain}.layers.{k}", linear) for chain in ("encoder", "joint") for k in range(2)]
    pairs, outputs = followers(named)
    assert pairs == [
        ("encoder.layers.0.weight", "encoder.layers.1.weight"),
        ("joint.layers.0.weight", "joint.layers.1.weight"),
    ]
    assert outputs == {"encoder.layers.1.weight", "joint.layers.1.weight"}
