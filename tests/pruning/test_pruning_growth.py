"""Growth: exact and distinct places; RigL's choice is that of the whole matrix."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from builders import random_csr, run_script
from hypothesis import given
from hypothesis import strategies as st

from gbdnn import as_csr
from gbdnn.pruning import growth
from gbdnn.pruning.growth import absent, largest_absent, random_absent
from gbdnn.topology import erdos_renyi
from gbdnn.weights.graphblas import graphblas
from gbdnn.weights.patterns import places as places_of

SEEDS = st.integers(0, 10**6)


@given(seed=SEEDS, rows=st.integers(1, 9), columns=st.integers(1, 9), part=st.floats(0, 1))
def test_random_places(seed, rows, columns, part):
    """As many as asked for, ascending, different, absent: also all of them."""
    rng = np.random.default_rng(seed)
    weight = random_csr(rng, rows, columns, rng.random())
    count = round(part * absent(weight))
    places = random_absent(weight, count, rng)
    assert len(places) == count
    assert (np.diff(places) > 0).all()
    assert not np.isin(places, places_of(weight)).any()
    assert not count or (places.min() >= 0 and places.max() < rows * columns)


def test_random_places_are_uniform():
    """Each of the absent places comes up equally often, within 5 standard deviations."""
    rng = np.random.default_rng(5)
    weight = random_csr(rng, 4, 6, 0.5)
    free, count, draws = absent(weight), 5, 4000
    seen = np.zeros(24)
    for _ in range(draws):
        seen[random_absent(weight, count, rng)] += 1
    chance = count / free
    deviation = np.sqrt(draws * chance * (1 - chance))
    missing = np.setdiff1d(np.arange(24), places_of(weight))
    assert abs(seen[missing] - draws * chance).max() < 5 * deviation
    assert seen.sum() == draws * count


def brute_force(weight, dZ, Y, count):
    """Return the places by sorting the whole |dZ Y^T|."""
    G = sum(z @ y.T for z, y in zip(dZ, Y, strict=True))
    free = np.setdiff1d(np.arange(G.size), places_of(weight))
    values = abs(G).reshape(-1)[free]
    return free[np.lexsort((free, -values))][:count]


@given(
    seed=SEEDS,
    tiles=st.integers(1, 3),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    memory=st.sampled_from([1, 300, 1000, 1 << 20]),
    part=st.floats(0, 1.1),
    width=st.sampled_from([1, 5]),
    dtype=st.sampled_from([np.float32, np.float64]),
    threads=st.sampled_from([1, 2]),
    piece=st.sampled_from([1, 1 << 17]),
)
def test_rigl_is_the_best_of_the_whole_matrix(
    seed, tiles, rows, columns, memory, part, width, dtype, threads, piece
):
    """Whole numbers, so that ties are many and sums exact, with dead rows and columns.

    With a width of 1 the bound by norms is tight.
    """
    rng = np.random.default_rng(seed)
    weight = random_csr(rng, rows, columns, rng.random())
    scale = rng.integers(0, 4, (1, rows, 1)) * rng.integers(0, 2, (tiles, rows, width))
    dZ = (rng.integers(-3, 4, (tiles, rows, width)) * scale).astype(dtype)
    Y = rng.integers(-2, 3, (tiles, columns, width)) * rng.integers(0, 3, (1, columns, 1))
    Y = Y.astype(dtype)
    count = round(part * absent(weight))
    with patch.multiple(growth, PIECE=piece, LEAST=1):
        found = largest_absent(weight, dZ, Y, count, memory=memory, threads=threads)
    np.testing.assert_array_equal(found, brute_force(weight, dZ, Y, count))


def test_rigl_leaves_out_what_cannot_be_largest(rng):
    """With norms that differ much, most of the product is never formed; the choice is the same."""
    weight = random_csr(rng, 200, 300, 0.05)
    dZ = rng.standard_normal((2, 200, 8)) * np.exp(2 * rng.standard_normal((1, 200, 1)))
    Y = rng.standard_normal((2, 300, 8)) * np.exp(2 * rng.standard_normal((1, 300, 1)))
    search = growth._Search(weight, dZ, Y, 50)
    formed, block = [], search._block
    search._block = lambda a, b, wide: formed.append((b - a) * wide) or block(a, b, wide)
    np.testing.assert_array_equal(search.run(1 << 14, 1), brute_force(weight, dZ, Y, 50))
    assert sum(formed) < 0.25 * 200 * 300


def test_rigl_is_the_graphblas_equation(rng):
    """G(~W.S) << plus_times(dZ @ Y.T): its largest entries."""
    gb = graphblas()
    weight = random_csr(rng, 30, 40, 0.2, dtype=np.float64)
    dZ, Y = rng.standard_normal((1, 30, 16)), rng.standard_normal((1, 40, 16))
    W, G = weight.to_graphblas(), gb.Matrix(float, 30, 40)
    dz, y = gb.Matrix.from_dense(dZ[0]), gb.Matrix.from_dense(Y[0])
    G(~W.S) << gb.semiring.plus_times(dz @ y.T)
    rows, columns, values = G.to_coo()
    best = np.argsort(-abs(values))[:100]
    expected = rows[best].astype(np.int64) * 40 + columns[best].astype(np.int64)
    np.testing.assert_array_equal(largest_absent(weight, dZ, Y, 100, memory=2000), expected)


def test_rigl_survives_damaged_gradients(rng):
    """NaN are not taken and infinities come first: the trainer stops such a step itself."""
    weight = random_csr(rng, 6, 8, 0.3)
    dZ, Y = rng.standard_normal((1, 6, 4)), rng.standard_normal((1, 8, 4))
    dZ[0, 2, 1], Y[0, 3, 0] = np.nan, np.inf
    places = largest_absent(weight, dZ, Y, 20)
    assert not (places // 8 == 2).any()
    assert (places[: absent_in(weight, 3) - absent_at(weight, 2, 3)] % 8 == 3).all()
    dZ[:] = np.nan
    assert len(largest_absent(weight, dZ, Y, 20)) == 0


def absent_in(weight, column):
    """Return the number of rows without an entry in a column."""
    return weight.shape[0] - int((weight.indices == column).sum())


def absent_at(weight, row, column):
    """Return 1 if there is no entry, else 0."""
    return int(row * weight.shape[1] + column not in places_of(weight))


def test_nothing_to_grow():
    full = as_csr(np.ones((3, 4)))
    dZ, Y = np.ones((1, 3, 2), np.float32), np.ones((1, 4, 2), np.float32)
    assert len(largest_absent(full, dZ, Y, 5)) == 0
    assert len(random_absent(full, 0, np.random.default_rng(0))) == 0


def test_a_million_by_a_million():
    """10^12 places, 100,000 entries: SET costs what its entries cost."""
    rng = np.random.default_rng(0)
    weight = erdos_renyi(10**6, 10**6, density=1e-7, rng=rng)
    places = random_absent(weight, 30_000, rng)
    assert len(np.unique(places)) == 30_000
    assert not np.isin(places, places_of(weight)).any()
    assert np.bincount(places // (10**11), minlength=10) == pytest.approx(3000, abs=300)


BIG = """
import resource, sys
import numpy as np
from types import SimpleNamespace
from gbdnn.machine import peak_rss_bytes
from gbdnn.pruning import sparsifier, Periodic, RigL
from gbdnn.weights.csr import CSR
from gbdnn.topology import erdos_renyi

n, entries, width = 200_000, 1_000_000, int(sys.argv[2])
weight = erdos_renyi(n, n, density=entries / n / n, rng=0)
parameter = SimpleNamespace(decays=True, weight=weight, grad=np.zeros(entries, np.float32))
model = SimpleNamespace(parameters={"layers.0.weight": parameter}, named_layers={}, threads=1)
rng = np.random.default_rng(0)
Y = np.maximum(rng.standard_normal((1, n, width), dtype=np.float32), 0)
dZ = rng.standard_normal((1, n, width), dtype=np.float32)
method = sparsifier(sys.argv[1], schedule=Periodic(0, 100, 10))
state = method.start(model, 1000, rng)
before = peak_rss_bytes()
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))   # the dense matrix would take 149 GiB
observe = method.observer(state, model, 10)
if observe is not None:
    observe("layers.0.weight", dZ, Y)
(new,) = method.update(state, model, 10, rng).values()
assert new.nnz == entries, new
CSR(new.indptr, new.indices, new.values, new.shape)
fresh = np.count_nonzero(new.values == 0)
expected = round(0.15 * (1 + np.cos(np.pi / 10)) * entries)
assert abs(fresh - expected) <= 5, (fresh, expected)
used = peak_rss_bytes() - before
assert used < 300 << 20, used
"""


@pytest.mark.parametrize(("name", "width"), [("set", 16), ("rigl", 8)])
def test_large_layers_in_little_memory(name, width):
    """200,000 x 200,000 with a million entries: a step takes less than 300 MiB."""
    run_script(BIG, name, str(width), timeout=240)
