"""The transducer loss: golden values, all alignments, central differences, lengths, bad input."""

import threading
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gbdnn
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError
from gbdnn.losses import transducer_loss

SMALL = np.array([
    [[.1, .6, .1, .1, .1], [.1, .1, .6, .1, .1], [.1, .1, .2, .8, .1]],
    [[.1, .6, .1, .1, .1], [.1, .1, .2, .1, .1], [.7, .1, .2, .1, .1]],
])[None]  # fmt: skip
PAIR = np.array([
    .06535690, .78753014, .08159177, .52971554, .75067496, .75413484, .60976411, .86814050,
    .62253182, .66852229, .85803928, .16453892, .98977952, .94429846, .60316786, .94678335,
    .66620251, .28688180, .09418426, .36667360, .73616805, .16668044, .71415422, .39939973,
    .53598235, .29182076, .61264226, .32424055, .80076444, .52410577, .77919462, .18331417,
    .11374518, .24022162, .33946956, .13415951, .50556156, .05159728, .64029039, .43073312,
    .82947318, .17746688, .32070020, .04288309, .30280283, .67517771, .56953737, .55847383,
    .08313242, .06016544, .10795753, .74861536, .94391804, .48635581, .41819863, .65240785,
    .02424298, .13458172, .36634181, .29582974, .92366958, .68992915, .74189817, .25000548,
    .60342955, .98728879, .59260573, .88467240, .54344954, .66076989, .37712771, .35802090,
]).reshape(2, 4, 3, 3)  # fmt: skip
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-10}
both = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def all_ways(logits, labels, blank=0):
    """-log of the sum over all alignments, each a choice of the steps that emit labels."""
    T, U = len(logits), len(labels)
    p = np.exp(logits.astype(np.float64) - logits.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    total = 0.0
    for places in combinations(range(T + U - 1), U):  # the last step is a blank
        t = u = 0
        way = 1.0
        for step in range(T + U):
            if step in places:
                way *= p[t, u, labels[u]]
                u += 1
            else:
                way *= p[t, u, blank]
                t += 1
        total += way
    return -np.log(total)


@both
def test_published_values(dtype):
    costs, gradient = transducer_loss(SMALL.astype(dtype), np.array([[1, 2]]))
    assert costs[0] == pytest.approx(4.495666, abs=2e-6)
    first = [-0.131167, -0.399927, 0.177031, 0.177031, 0.177031]
    np.testing.assert_allclose(gradient[0, 0, 0], first, atol=1e-6)
    assert gradient.dtype == dtype
    assert costs.dtype == np.float64
    pair, _ = transducer_loss(PAIR.astype(dtype), np.array([[1, 2], [1, 1]]))
    np.testing.assert_allclose(pair, [4.280653, 3.938437], atol=2e-6)


@settings(deadline=None, max_examples=60)
@given(T=st.integers(1, 4), U=st.integers(0, 4), V=st.integers(2, 6), seed=st.integers(0, 1 << 20),
       scale=st.sampled_from([0.1, 1.0, 10.0]), dtype=st.sampled_from(list(TOLERANCE)))  # fmt: skip
def test_the_sum_over_all_alignments(T, U, V, seed, scale, dtype):
    rng = np.random.default_rng(seed)
    blank = int(rng.integers(V))
    logits = (scale * rng.standard_normal((2, T, U + 1, V))).astype(dtype)
    labels = (blank + rng.integers(1, V, (2, U))) % V
    costs, gradient = transducer_loss(logits, labels, blank=blank)
    expected = [all_ways(*pair, blank) for pair in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(costs, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(gradient.sum(axis=3), 0, atol=1e-6)  # softmax sees differences only


@pytest.mark.parametrize(("T", "U", "V"), [(1, 0, 2), (1, 3, 4), (5, 0, 3), (4, 3, 5), (3, 6, 4)])
def test_central_differences(T, U, V):
    rng = np.random.default_rng(T * 100 + U)
    logits = rng.standard_normal((1, T, U + 1, V))
    labels = rng.integers(1, V, (1, U))
    _, gradient = transducer_loss(logits, labels)
    for _ in range(5):
        direction = rng.standard_normal(logits.shape)
        step = 1e-5
        up, _ = transducer_loss(logits + step * direction, labels)
        down, _ = transducer_loss(logits - step * direction, labels)
        slope = (up[0] - down[0]) / (2 * step)
        assert slope == pytest.approx((gradient * direction).sum(), rel=1e-7, abs=1e-8)
        assert slope != pytest.approx((1.001 * gradient * direction).sum(), rel=1e-7, abs=1e-8)


@both
def test_lengths_are_the_same_as_cutting(dtype):
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((4, 7, 6, 5)).astype(dtype)
    labels = rng.integers(1, 5, (4, 5))
    frames, counts = np.array([7, 1, 4, 5]), np.array([5, 2, 0, 3])
    for i, (T, U) in enumerate(zip(frames, counts, strict=True)):  # what is outside: anything
        logits[i, T:], logits[i, :, U + 1 :], labels[i, U:] = np.nan, np.inf, -7
    kept = logits.copy()
    costs, gradient = transducer_loss(logits, labels, frames, counts)
    np.testing.assert_array_equal(logits, kept)
    for i, (T, U) in enumerate(zip(frames, counts, strict=True)):
        cost, part = transducer_loss(logits[i : i + 1, :T, : U + 1], labels[i : i + 1, :U])
        assert cost[0] == costs[i]
        np.testing.assert_array_equal(part[0], gradient[i, :T, : U + 1])
        assert not gradient[i, T:].any()
        assert not gradient[i, :, U + 1 :].any()


@both
@pytest.mark.parametrize("scale", [1e4, 1e6, 1e30])
def test_huge_logits(dtype, scale):
    rng = np.random.default_rng(5)
    logits = (scale * rng.standard_normal((3, 6, 4, 5))).astype(dtype)
    with np.errstate(all="raise"):  # the caller's settings do not matter
        costs, gradient = transducer_loss(logits, rng.integers(1, 5, (3, 3)))
    assert np.isfinite(costs).all()
    assert np.isfinite(gradient).all()
    assert abs(gradient).max() <= 1 + 1e-6
    logits = np.full((1, 3, 2, 3), -scale, dtype)
    logits[0, :, :, 0], logits[0, 1, 0, 1] = scale, 3 * scale  # one way is certain
    assert transducer_loss(logits, [[1]])[0][0] == pytest.approx(0, abs=1e-6)


def test_long_sequences_in_float32():
    """Sums are in float64: hundreds of steps leave the error of the logits only."""
    rng = np.random.default_rng(6)
    logits = rng.standard_normal((1, 400, 80, 30))
    labels = rng.integers(1, 30, (1, 79))
    costs, gradient = transducer_loss(logits, labels)
    other, rounded = transducer_loss(logits.astype(np.float32), labels)
    np.testing.assert_allclose(other, costs, rtol=1e-6)
    np.testing.assert_allclose(rounded, gradient, atol=1e-6)


def test_threads_order_and_empty_batches():
    rng = np.random.default_rng(7)
    logits = np.asfortranarray(rng.standard_normal((5, 4, 3, 6)))
    labels = rng.integers(1, 6, (5, 2)).astype(np.uint8)
    one, two = (transducer_loss(logits, labels, threads=threads) for threads in (1, None))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    results = []
    together = [
        threading.Thread(target=lambda: results.append(transducer_loss(logits, labels)[0]))
        for _ in range(4)
    ]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    np.testing.assert_array_equal(results, [one[0]] * 4)
    costs, gradient = transducer_loss(np.empty((0, 4, 3, 6)), np.empty((0, 2), int))
    assert costs.shape == (0,)
    assert gradient.shape == (0, 4, 3, 6)
    assert gbdnn.losses.transducer_loss is transducer_loss


OK = np.zeros((2, 3, 3, 4))
LABELS = np.array([[1, 2], [3, 1]])
INF = OK.copy()
INF[1, 2, 0, 3] = -np.inf


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((OK[0], LABELS), ShapeError, "four dimensions"),
        ((OK[:, :0], LABELS), ShapeError, "at least 1"),
        ((OK[..., :0], LABELS), ShapeError, "at least 1"),
        ((OK.astype(int), LABELS), DtypeError, "float32 or float64"),
        ((OK.astype(np.float16), LABELS), DtypeError, "float32 or float64"),
        ((OK, LABELS[:, :1]), ShapeError, r"labels: expected shape \(2, 2\)"),
        ((OK, LABELS.ravel()), ShapeError, "labels"),
        ((OK, LABELS.astype(float)), DtypeError, "whole numbers"),
        ((OK, LABELS * [[1], [0]]), InputError, r"blank 0, got 0 at \(1, 0\)"),
        ((OK, LABELS + 1), InputError, r"got 4 at \(1, 0\)"),
        ((OK, LABELS - 3), InputError, r"got -2 at \(0, 0\)"),
        ((OK, LABELS, None, None, 3), InputError, r"blank 3, got 3 at \(1, 0\)"),
        ((OK, LABELS, None, None, 4), InputError, "blank"),
        ((OK, LABELS, None, None, -1), InputError, "blank"),
        ((OK, LABELS, None, None, 0.0), DtypeError, "blank"),
        ((OK, LABELS, [3, 4]), InputError, "frame_lengths: expected 1 to 3 .* got 4 at 1"),
        ((OK, LABELS, [0, 3]), InputError, "frame_lengths"),
        ((OK, LABELS, [3]), ShapeError, "frame_lengths"),
        ((OK, LABELS, [1.5, 2]), DtypeError, "frame_lengths"),
        ((OK, LABELS, None, [2, 3]), InputError, "label_lengths: expected 0 to 2 .* got 3 at 1"),
        ((OK, LABELS, None, [-1, 2]), InputError, "label_lengths"),
        ((OK, LABELS, np.array([1 << 63] * 2, np.uint64)), InputError, "frame_lengths"),
        ((OK * np.nan, LABELS), NonFiniteError, r"nan at \(0, 0, 0, 0\)"),
        ((INF, LABELS), NonFiniteError, r"-inf at \(1, 2, 0, 3\)"),
        ((-INF, LABELS), NonFiniteError, r"inf at \(1, 2, 0, 3\)"),
        ((INF.astype(np.float32), LABELS), NonFiniteError, r"-inf at \(1, 2, 0, 3\)"),
        ((np.where(INF < 0, np.nan, 0), LABELS), NonFiniteError, r"nan at \(1, 2, 0, 3\)"),
        ((np.where(INF < 0, 1.7e308, -1.7e308), LABELS), NonFiniteError, "costs are finite"),
    ],
)  # fmt: skip
def test_bad_input(arguments, error, says):
    with pytest.raises(error, match=says):
        transducer_loss(*arguments)
