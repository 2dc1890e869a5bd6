"""Samples at the door, and how they become mini-batches."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from trainings import classifier

from gbdnn import Linear, Network
from gbdnn.data.batches import ArrayBatches, StreamBatches
from gbdnn.data.inputs import BitInputs, DenseInputs, Inputs, SparseInputs, as_inputs
from gbdnn.data.samples import as_targets, as_weights, class_factors, samples
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError
from gbdnn.layers import LOSSES, Loss
from gbdnn.training.model import Model

F4 = np.dtype(np.float32)
CLASSES, VALUES = LOSSES["cross_entropy"], LOSSES["mse"]


def model(loss="cross_entropy", outputs=3, dtype=np.float32):
    network = Network([Linear(np.ones((outputs, 4)), dtype=dtype)])
    return Model(network, loss=LOSSES[loss], backend="dense", threads=1)


def batches(count, size, *, weights=None, shuffle=True):
    inputs = DenseInputs(np.arange(4.0 * count, dtype="f4").reshape(count, 4), F4)
    weights = np.ones(count) if weights is None else np.asarray(weights, float)
    return ArrayBatches(inputs, np.arange(count), weights, size, shuffle)


# -- arrays ----------------------------------------------------------------------------------------


@given(count=st.integers(1, 40), size=st.integers(1, 40), seed=st.integers(0, 9))
def test_an_epoch_has_each_sample_once(count, size, seed):
    size = min(size, count)
    found = list(batches(count, size).epoch(3, seed))
    assert len(found) == batches(count, size).steps
    assert sorted(np.concatenate([batch.ids for batch in found])) == list(range(count))
    assert [len(batch.ids) for batch in found[:-1]] == [size] * (len(found) - 1)
    for batch in found:
        targets, weights = batch.tile(batch.ids)
        np.testing.assert_array_equal(targets, batch.ids)
        np.testing.assert_allclose(weights.sum(), 1)
        assert batch.total == len(batch.ids)


def test_epochs_differ_and_repeat():
    def order(epoch, seed):
        return np.concatenate([batch.ids for batch in batches(50, 7).epoch(epoch, seed)]).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*pair)) for pair in [(0, 0), (1, 0), (0, 1), (1, 1)]}) == 4
    assert [b.ids[0] for b in batches(9, 3, shuffle=False).epoch(5, 5)] == [0, 3, 6]


@given(start=st.integers(0, 9))
def test_an_epoch_from_its_middle(start):
    whole = [batch.ids.tolist() for batch in batches(50, 6).epoch(2, 4)]
    assert [batch.ids.tolist() for batch in batches(50, 6).epoch(2, 4, start)] == whole[start:]


@given(st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=1, max_size=30))
def test_samples_of_weight_0_are_as_if_they_were_not_there(weights):
    weights = np.array(weights)
    used = np.flatnonzero(weights)
    found = list(batches(len(weights), 4, weights=weights).epoch(0, 1))
    without = list(batches(len(used), 4, weights=weights[used]).epoch(0, 1))
    assert len(found) == len(without) == -(-len(used) // 4)
    for a, b in zip(found, without, strict=True):
        assert a.ids.tolist() == used[b.ids].tolist()
        np.testing.assert_array_equal(a.tile(a.ids)[1], b.tile(b.ids)[1])


def test_take(rng):
    bits = rng.random((20, 9)) < 0.4
    X = bits.astype("f4")
    packed = np.packbits(bits.T, axis=1)
    kinds = [
        DenseInputs(X, F4), DenseInputs(np.asfortranarray(X), F4), DenseInputs(bits, F4),
        as_inputs(sp.csr_array(X), 9, F4), BitInputs(packed, 20), _Other(X),
    ]  # fmt: skip
    assert isinstance(kinds[3], SparseInputs)
    for ids in ([3, 3, 19, 0, 7], [5], []):
        ids = np.array(ids, np.int64)
        for inputs in kinds:
            out = np.full((9, len(ids)), np.nan, "f4")
            inputs.load(ids, out[None])
            np.testing.assert_array_equal(out, X[ids].T)
    for start, stop in ((0, 20), (8, 16), (3, 11), (5, 5)):
        for inputs in kinds:
            out = np.full((9, stop - start), np.nan, "f4")
            inputs.load(slice(start, stop), out[None])
            np.testing.assert_array_equal(out, X[start:stop].T)


class _Other(Inputs):
    """Inputs of some other kind."""

    def __init__(self, X):
        self.X, self.count, self.features = X, len(X), X.shape[1]

    def load(self, ids, out):
        out[0] = self.X[ids].T


# -- iterables -------------------------------------------------------------------------------------


ITEMS = [(np.full((2, 4), k), [k % 3, 0], [1, 3]) for k in range(5)]


def first(batch):
    out = np.empty((4, len(batch.ids)), "f4")
    batch.inputs.load(batch.ids, out[None])
    return int(out[0, 0])


def test_a_list_starts_anew_each_epoch():
    stream = StreamBatches(ITEMS, model())
    assert (stream.steps, stream.once) == (5, False)
    for epoch in range(2):
        assert [first(batch) for batch in stream.epoch(epoch, 0)] == [0, 1, 2, 3, 4]
    assert [first(batch) for batch in stream.epoch(0, 0, 3)] == [3, 4]
    batch = next(stream.epoch(0, 0))
    np.testing.assert_array_equal(batch.tile(batch.ids)[1], [0.25, 0.75])
    assert batch.total == 4


def test_an_iterator_goes_on():
    stream = StreamBatches(iter(ITEMS), model(), 2)
    assert (stream.steps, stream.once) == (2, True)
    assert [[first(batch) for batch in stream.epoch(k, 0)] for k in range(4)] == [
        [0, 1], [2, 3], [4], [],
    ]  # fmt: skip
    stream = StreamBatches(iter(ITEMS), model(), 4)
    assert [first(batch) for batch in stream.epoch(0, 0, 3)] == [0]


def test_a_generator_has_no_length():
    assert StreamBatches((item for item in ITEMS), model()).steps is None


def test_class_factors_of_a_stream():
    stream = StreamBatches([(np.ones((2, 4)), [0, 2])], model(), factors=np.array([1, 1, 3.0]))
    batch = next(stream.epoch(0, 0))
    np.testing.assert_array_equal(batch.tile(batch.ids)[1], [0.25, 0.75])


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (np.ones((2, 4)), DtypeError),
        ((np.ones((2, 4)),), DtypeError),
        ("ab", DtypeError),
        (None, DtypeError),
        ((np.ones((2, 3)), [0, 1]), ShapeError),
        ((np.ones((0, 4)), []), ShapeError),
        ((np.ones((2, 4)), [0]), ShapeError),
        ((np.ones((2, 4)), None), DtypeError),
        ((np.full((2, 4), np.nan), [0, 1]), NonFiniteError),
        ((np.ones((2, 4)), [0, 1], [1, -1]), InputError),
    ],
)
def test_bad_items(item, error):
    with pytest.raises(error):
        next(StreamBatches([item], model()).epoch(0, 0))


def test_a_mini_batch_without_weight():
    batch = next(StreamBatches([(np.ones((2, 4)), [0, 1], [0, 0])], model()).epoch(0, 0))
    assert batch.total == 0
    np.testing.assert_array_equal(batch.weights, [0, 0])


# -- at the door -----------------------------------------------------------------------------------


def test_targets():
    for given_, expected in [
        ([0, 2, 1], [0, 2, 1]),
        ([0.0, 2.0, 1.0], [0, 2, 1]),
        ([[0], [2], [1]], [0, 2, 1]),
        ([True, False, True], [1, 0, 1]),
        (np.array([0, 2, 1], np.uint64), [0, 2, 1]),
    ]:
        found = as_targets(given_, 3, 3, CLASSES, F4)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, expected)
    one = as_targets([1, 2], 2, 1, VALUES, F4)
    assert (one.shape, one.dtype) == ((2, 1), F4)
    np.testing.assert_array_equal(as_targets([0, 1], 2, 1, LOSSES["hinge"], F4), [0, 1])


@pytest.mark.parametrize("loss", [CLASSES, VALUES])
@pytest.mark.parametrize(
    ("y", "error"),
    [
        (["a", "b", "c"], DtypeError),
        ([None, 1, 2], DtypeError),
        ([[1], [2, 3], [4]], DtypeError),
        ([1j, 1, 2], DtypeError),
        (None, DtypeError),
        (1, ShapeError),
        ([0, 1], ShapeError),
        ([0, 1, np.nan], NonFiniteError),
        ([0, 1, np.inf], NonFiniteError),
        (np.zeros((3, 2, 2)), ShapeError),
        (np.ma.masked_array([0, 1, 2], [0, 0, 1]), InputError),
    ],
)
def test_bad_targets(loss, y, error):
    with pytest.raises(error):
        as_targets(y, 3, 1, loss, F4)


@pytest.mark.parametrize("y", [[0, 1, 3], [0, -1, 1], [0, 0.5, 1], [0, 1e300, 1], [0, 2**63, 1]])
def test_classes_out_of_range(y):
    with pytest.raises(InputError, match="0 to 2") as caught:
        as_targets(y, 3, 3, CLASSES, F4)
    assert "index" in str(caught.value)


def test_values_that_do_not_fit():
    with pytest.raises(NonFiniteError, match="float32"):
        as_targets([1e300], 1, 1, VALUES, F4)
    with pytest.raises(InputError, match="0 to 1"):
        as_targets([1.5], 1, 1, LOSSES["binary_cross_entropy"], F4)
    with pytest.raises(NonFiniteError, match="float32"):
        samples(model(), np.full((1, 4), -1e300), [0], None)
    samples(model(dtype=np.float64), np.full((1, 4), -1e300), [0], None)


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ([1, 2], ShapeError),
        (3.0, ShapeError),
        ([1, 2, np.nan], NonFiniteError),
        ([1, 2, np.inf], NonFiniteError),
        ([1e308, 1e308, 1e308], NonFiniteError),
        ([1, 2, -1], InputError),
        ([0, 0, 0], InputError),
        (["a", "b", "c"], DtypeError),
    ],
)
def test_bad_weights(weights, error):
    with pytest.raises(error):
        as_weights(weights, 3)


def test_nothing_that_is_given_is_changed(rng):
    X, y, weights = rng.random((6, 64)), rng.integers(0, 10, 6), rng.random(6)
    before = [array.copy() for array in (X, y, weights)]
    network = Model(classifier(), loss=CLASSES, backend="dense", threads=1)
    *_, found = samples(network, X, y, weights)
    found[:] = 7
    for array, old in zip((X, y, weights), before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_class_factors():
    y = np.array([0, 0, 0, 1])
    np.testing.assert_allclose(class_factors("balanced", model(), y)[y], [2 / 3] * 3 + [2])
    np.testing.assert_array_equal(class_factors("balanced", model(), np.zeros(3, int))[:1], [1])
    np.testing.assert_array_equal(class_factors({2: 0.5, 0.0: 3}, model()), [3, 1, 0.5])


@pytest.mark.parametrize(
    ("weight", "loss", "error"),
    [
        ({0: 1}, "mse", InputError),
        ("balance", "cross_entropy", InputError),
        ("balanced", "cross_entropy", InputError),  # of an iterable
        ([1, 2, 3], "cross_entropy", DtypeError),
        ({3: 1.0}, "cross_entropy", InputError),
        ({"a": 1.0}, "cross_entropy", InputError),
        ({0.5: 1.0}, "cross_entropy", InputError),
        ({0: -1.0}, "cross_entropy", InputError),
        ({0: np.nan}, "cross_entropy", InputError),
        ({0: "1"}, "cross_entropy", InputError),
    ],
)
def test_bad_class_weights(weight, loss, error):
    with pytest.raises(error):
        class_factors(weight, model(loss))


def test_a_loss_of_ones_own_needs_no_registration():
    """`Takes` is all that the door asks for."""
    own = Loss("own", lambda Z, targets, weights: 0.0, "values", lambda *_: 0.0)
    assert as_targets([[1, 2]], 1, 2, own, F4).shape == (1, 2)
