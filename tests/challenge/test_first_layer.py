"""The first layer on the bits, and merging of equal neurons on the way."""

from __future__ import annotations

import numpy as np
import pytest

from gbdnn import Linear, Network, ReLU
from gbdnn.challenge import runner
from gbdnn.challenge.first import FirstLayer
from gbdnn.challenge.generate import Spec, layers
from gbdnn.challenge.images import InputBits
from gbdnn.compaction import twins_merged
from gbdnn.weights.csr import CSR


def bits_of(rng, pixels, count):
    return InputBits(np.packbits(rng.random((pixels, count)) < 0.2, axis=1), count)


@pytest.mark.parametrize("count", [1, 8, 64, 100, 520, 1100])
def test_sums_are_rounded_as_the_kernel_rounds_them(count, rng):
    weight, _ = twins_merged(next(layers(Spec(1024, 2))), None, rows=True)
    bits = bits_of(rng, 1024, count)
    first = FirstLayer(bits, weight, -0.3, 1.5)
    X = np.unpackbits(bits.bits, axis=1)[:, :count].T.astype(np.float32)
    padded = np.zeros((64 * (count // 64 + 1), 1024), np.float32)
    padded[:count] = X  # whole strips: the kernel adds one term after the other
    expected = Network([Linear(weight, -0.3), ReLU(1.5)]).predict(padded)[:count].T
    out = np.empty((1, len(expected), count), np.float32)
    first.load(slice(0, count), out)
    np.testing.assert_array_equal(out[0], expected)
    start = count // 16 * 8
    part = np.empty((1, len(expected), count - start), np.float32)
    first.load(slice(start, count), part)
    np.testing.assert_array_equal(part[0], expected[:, start:])
    ids = rng.permutation(count)
    first.load(ids, out)
    np.testing.assert_array_equal(out[0], expected[:, ids])


def test_it_suits_one_value_and_few_entries_a_row():
    weight = next(layers(Spec(1024, 1)))
    assert FirstLayer.suits(weight)
    assert not FirstLayer.suits(weight.with_entries(weight.full_values))
    pattern = np.arange(65, dtype=np.int32)
    many = CSR(np.array([0, 65], np.int32), pattern, np.ones(1, np.float32), (1, 65))
    assert not FirstLayer.suits(many)


@pytest.mark.parametrize("backend", ["fused", "graphblas"])
@pytest.mark.parametrize("skip", [True, False])
def test_merging_changes_no_category(backend, skip):
    inputs = runner.load_inputs(1024, limit=300)
    spec = Spec(1024, 30)
    runs = [
        runner.run(spec, inputs, backend=backend, skip=skip, compact=compact)
        for compact in (True, False)
    ]
    assert np.array_equal(runs[0].categories, runs[1].categories)
    merged, plain = (run.record for run in runs)
    assert merged["oracle"]["agree"] == merged["oracle"]["samples"]
    assert merged["edges"] == plain["edges"] == spec.edges
    assert merged["compact_edges"] < spec.edges / 10
    assert plain["compact_edges"] is None
    assert merged["effective_edges"] < plain["effective_edges"] / 5
    assert merged["nominal_edges"] == plain["nominal_edges"]


def test_one_layer_is_not_merged_away():
    inputs = runner.load_inputs(1024, limit=50)
    one = [runner.run(Spec(1024, 1), inputs, compact=compact) for compact in (True, False)]
    assert np.array_equal(one[0].categories, one[1].categories)
