"""Very sparse samples: the first layer as a sparse product."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import scipy.sparse as sp

from gbdnn import Linear, Network
from gbdnn.execution import first
from gbdnn.topology import erdos_renyi

FEATURES = 1 << 12


def samples(count, density=0.004, seed=0):
    rng = np.random.default_rng(seed)
    return sp.random_array((count, FEATURES), density=density, format="csr", rng=rng)


def network_of(*, layers=2, bias=0.1, dtype=np.float32):
    parts = [Linear(erdos_renyi(30, FEATURES, density=0.05, rng=0), bias, dtype=dtype), "relu"]
    for k in range(1, layers):
        parts += [Linear(erdos_renyi(30, 30, density=0.3, rng=k), bias, dtype=dtype), "tanh"]
    return Network(parts)


@pytest.fixture
def used(monkeypatch):
    """Return the shapes of what the first layer was computed for."""
    shapes = []
    load = first.FirstOfSparse.load

    def recorded(self, ids, out):
        shapes.append(out.shape)
        load(self, ids, out)

    monkeypatch.setattr(first.FirstOfSparse, "load", recorded)
    return shapes


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("count", [1, 200, 1200])
@pytest.mark.parametrize("backend", ["fused", "auto"])
def test_results_are_right(layers, count, backend, used):
    network, X = network_of(layers=layers), samples(count)
    before = X.data.copy(), X.indices.copy(), X.indptr.copy()
    oracle.check(network.predict(X, backend=backend), network, X.toarray())
    assert used
    for array, kept in zip((X.data, X.indices, X.indptr), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_float64_a_bias_for_each_neuron_and_no_samples(used, rng):
    network = network_of(bias=rng.standard_normal(30), dtype=np.float64)
    oracle.check(network.predict(samples(70)), network, samples(70).toarray())
    assert network.predict(samples(70)[:0]).shape == (0, 30)


def test_progress_counts_and_release_forgets(used):
    network, seen = network_of(layers=3), []
    network.predict(samples(9), progress=seen.append)
    assert sum(seen) == 9 * 3
    network.release()
    assert network._behind is None


def test_denser_samples_and_other_backends_take_the_tiles(used):
    network = network_of()
    network.predict(samples(5, density=0.2))
    network.predict(samples(5), backend="dense")
    assert not used
