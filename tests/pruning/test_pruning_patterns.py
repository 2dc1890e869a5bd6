"""Parts of patterns against dense masks."""

from __future__ import annotations

import numpy as np
import pytest
from builders import random_csr
from hypothesis import given
from hypothesis import strategies as st

from gbdnn import CSR
from gbdnn.weights.patterns import common, exchange, realign, rows_of, subset, top
from gbdnn.weights.patterns import places as places_of


def canonical(weight: CSR) -> CSR:
    """Return the matrix through the constructor, which refuses what is not canonical."""
    return CSR(weight.indptr, weight.indices, weight.values, weight.shape)


@given(
    scores=st.lists(st.integers(-3, 3), max_size=40),
    count=st.integers(-2, 45),
)
def test_top_is_a_stable_sort(scores, count):
    """Exactly `count`, the largest, of equal ones the first: as a stable sort has it."""
    order = sorted(range(len(scores)), key=lambda k: -scores[k])
    mask = top(np.array(scores, np.float32), count)
    assert np.flatnonzero(mask).tolist() == sorted(order[: max(count, 0)])


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_subset_and_exchange(seed, rows, columns):
    """Both are what they are on dense arrays, with canonical results."""
    rng = np.random.default_rng(seed)
    weight = random_csr(rng, rows, columns, rng.random())
    keep = rng.random(weight.nnz) < 0.5
    fewer = canonical(subset(weight, keep))
    dense = weight.to_dense()
    dense[rows_of(weight)[~keep], weight.indices[~keep]] = 0
    np.testing.assert_array_equal(fewer.to_dense(), dense)
    assert fewer.nnz == keep.sum()

    absent = np.setdiff1d(np.arange(rows * columns), places_of(fewer))
    places = absent[rng.random(len(absent)) < 0.5]
    more = canonical(exchange(weight, keep, places))
    assert more.nnz == fewer.nnz + len(places)
    np.testing.assert_array_equal(more.to_dense(), dense)
    np.testing.assert_array_equal(places_of(more), np.union1d(places_of(fewer), places))

    mine, theirs = common(weight, more)
    np.testing.assert_array_equal(mine, np.flatnonzero(np.isin(places_of(weight), places_of(more))))
    np.testing.assert_array_equal(places_of(weight)[mine], places_of(more)[theirs])
    carried = np.full(rows * columns, 7)
    carried[places_of(weight)] = np.arange(weight.nnz)
    moved = realign(np.arange(weight.nnz), weight, more, fill=7)
    np.testing.assert_array_equal(moved, carried[places_of(more)])


@pytest.mark.parametrize("count", [1, 3])
def test_iso_values_stay_iso(count):
    """An iso-valued matrix has one value before and after, unless it is a single entry."""
    iso = CSR(np.array([0, 2, 4]), np.array([0, 1, 0, 2]), np.ones(1, np.float32), (2, 3))
    fewer = canonical(subset(iso, np.arange(4) < count))
    assert fewer.nnz == count
    assert fewer.values.tolist() == [1.0]
    np.testing.assert_array_equal(fewer.full_values, np.ones(count))
