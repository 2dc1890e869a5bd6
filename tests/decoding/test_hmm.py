"""Viterbi and forward-backward: GraphBLAS, numpy, and all state sequences by name."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbdnn.decoding import forward_backward, hmm, viterbi
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError, UnknownNameError
from gbdnn.weights import CSR

engines = pytest.mark.parametrize("engine", hmm.ENGINES)


def sparse(dense):
    """A CSR of what is above -inf, log 1 = 0 among it."""
    rows, columns = np.nonzero(dense > -np.inf)
    indptr = np.searchsorted(rows, np.arange(len(dense) + 1)).astype(np.int32)
    return CSR(indptr, columns.astype(np.int32), dense[rows, columns], dense.shape)


def problem(seed, T, n, density=0.7, scale=1.0):
    rng = np.random.default_rng(seed)
    A = np.log(rng.dirichlet(np.ones(n), n))
    A[rng.random((n, n)) > density] = -np.inf
    scores = scale * rng.standard_normal((T, n))
    scores[rng.random((T, n)) > 0.9] = -np.inf
    ends = np.log(rng.dirichlet(np.ones(n), 2))
    ends[rng.random((2, n)) > 0.8] = -np.inf
    return A, scores, *ends


def everything(A, scores, begin, end):
    """Log scores of all state sequences."""
    T, n = scores.shape
    found = {}
    for path in product(range(n), repeat=T):
        total = begin[path[0]] + end[path[-1]] + sum(scores[t, s] for t, s in enumerate(path))
        found[path] = total + sum(A[a, b] for a, b in pairwise(path))
    return found


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), T=st.integers(1, 5), n=st.integers(1, 4),
       engine=st.sampled_from(hmm.ENGINES), scale=st.sampled_from([0.1, 3.0, 300.0]))  # fmt: skip
def test_all_state_sequences(seed, T, n, engine, scale):
    A, scores, begin, end = problem(seed, T, n, scale=scale)
    ways = everything(A, scores, begin, end)
    best = max(ways.values())
    if best == -np.inf:
        for function in (viterbi, forward_backward):
            with pytest.raises(InputError, match="a way"):
                function(sparse(A), scores, begin, end, engine=engine)
        return
    path, score = viterbi(sparse(A), scores, begin, end, engine=engine)
    assert score == pytest.approx(best, rel=1e-12, abs=1e-9)
    assert ways[tuple(path)] == pytest.approx(best, rel=1e-12, abs=1e-9)
    total = np.logaddexp.reduce(list(ways.values()))
    posterior, taken = np.zeros((T, n)), np.zeros((n, n))
    for way, value in ways.items():
        part = np.exp(value - total)
        for t, state in enumerate(way):
            posterior[t, state] += part
        for a, b in pairwise(way):
            taken[a, b] += part
    found = forward_backward(sparse(A), scores, begin, end, engine=engine)
    assert found.log_likelihood == pytest.approx(total, rel=1e-12, abs=1e-9)
    np.testing.assert_allclose(found.states, posterior, atol=1e-9)
    np.testing.assert_allclose(found.transitions.to_scipy().toarray(), taken, atol=1e-9)


def left_to_right(n):
    """Stay or go on, n states; log 1/2 each."""
    A = np.full((n, n), -np.inf)
    A[np.arange(n), np.arange(n)] = A[np.arange(n - 1), np.arange(1, n)] = np.log(0.5)
    ends = np.full((2, n), -np.inf)
    ends[0, 0] = ends[1, -1] = 0
    return A, *ends


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_long_alignments_agree(scale):
    """With scale 30 and more the linear domain underflows, which must be noticed."""
    A, begin, end = left_to_right(60)
    scores = scale * np.random.default_rng(1).standard_normal((200, 60))
    one, two = (viterbi(sparse(A), scores, begin, end, engine=e) for e in hmm.ENGINES)
    np.testing.assert_array_equal(one[0], two[0])
    assert one[1] == two[1]
    assert (np.diff(one[0]) >= 0).all()
    assert (one[0][0], one[0][-1]) == (0, 59)
    a, b = (forward_backward(sparse(A), scores, begin, end, engine=e) for e in hmm.ENGINES)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(a.states, b.states, atol=1e-7)
    np.testing.assert_allclose(a.transitions.values, b.transitions.values, atol=1e-6)
    assert a.log_likelihood >= one[1]
    np.testing.assert_allclose(a.states.sum(axis=1), 1)
    assert a.transitions.values.sum() == pytest.approx(199)


def test_graphblas_computes_where_it_can():
    """The way through logarithms is for underflow only."""
    A, scores, begin, end = problem(2, 50, 20)
    assert hmm._scaled(sparse(A), scores, begin, end) is not None
    A, begin, end = left_to_right(40)
    scores = np.zeros((100, 40))
    scores[:, 0] = 400.0  # what stays behind looks best, and cannot end
    scores[80:, 0] = 0
    assert hmm._scaled(sparse(A), scores, begin, end) is None


@pytest.mark.parametrize(("gain", "linear"), [(0.0, True), (100.0, False)])
def test_what_underflows_may_matter_later(gain, linear):
    """A door of exp(-800) = 0 that leads to a large gain, beside an ordinary way to the end."""
    A = np.full((3, 3), -np.inf)
    A[0, 0] = A[0, 1] = A[1, 2] = A[2, 2] = np.log(0.5)
    scores = np.zeros((30, 3))
    scores[:, 1], scores[:, 2] = -800, gain
    begin = np.array([0, -np.inf, -np.inf])
    found = hmm._scaled(sparse(A), scores, begin, np.zeros(3))
    assert (found is not None) == linear
    a, b = (forward_backward(sparse(A), scores, begin, engine=e) for e in hmm.ENGINES)
    np.testing.assert_allclose(a.states, b.states, atol=1e-12)
    assert a.log_likelihood == pytest.approx(b.log_likelihood)
    assert round(a.states[-1, 2]) == (not linear)


def test_posteriors_are_the_gradient():
    """d log P / d scores = P(state | all), by central differences."""
    A, scores, begin, end = problem(3, 6, 5)
    scores = np.maximum(scores, -3)
    found = forward_backward(sparse(A), scores, begin, end)
    direction = np.random.default_rng(0).standard_normal(scores.shape)
    up, down = (
        forward_backward(sparse(A), scores + step * direction, begin, end).log_likelihood
        for step in (1e-5, -1e-5)
    )
    assert (up - down) / 2e-5 == pytest.approx((found.states * direction).sum(), rel=1e-7)


@engines
def test_certain_transitions_and_defaults(engine):
    cycle = np.full((3, 3), -np.inf)
    cycle[[0, 1, 2], [1, 2, 0]] = 0.0  # log 1
    scores = np.zeros((5, 3), np.float32)
    scores[0, 1] = 1
    path, score = viterbi(sparse(cycle), scores, engine=engine)
    assert path.tolist() == [1, 2, 0, 1, 2]
    assert score == 1
    found = forward_backward(sparse(cycle), scores, engine=engine)
    assert found.log_likelihood == pytest.approx(np.log(2 + np.e))


A, SCORES = left_to_right(4)[0], np.zeros((5, 4))


@pytest.mark.parametrize("function", [viterbi, forward_backward])
@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((sparse(A[:, :3]), SCORES), ShapeError, "transitions"),
        ((sparse(A), SCORES[:, :3]), ShapeError, "scores"),
        ((sparse(A), SCORES[:0]), ShapeError, "scores"),
        ((sparse(A), SCORES[0]), ShapeError, "scores"),
        ((sparse(A), SCORES.astype(int)), DtypeError, "scores"),
        ((sparse(A), SCORES * np.nan), NonFiniteError, "scores"),
        ((sparse(A), SCORES + np.inf), NonFiniteError, "scores"),
        ((sparse(A), SCORES, np.zeros(3)), ShapeError, "initial"),
        ((sparse(A), SCORES, None, np.full(4, np.nan)), NonFiniteError, "final"),
        ((sparse(A), SCORES[:2], *left_to_right(4)[1:]), InputError, "Too few frames"),
        ((sparse(A), SCORES - np.inf), InputError, "a way"),
        ((A, SCORES), NonFiniteError, "transitions"),
    ],
)  # fmt: skip
def test_bad_input(function, arguments, error, says):
    for engine in hmm.ENGINES:
        with pytest.raises(error, match=says):
            function(*arguments, engine=engine)
    with pytest.raises(UnknownNameError, match="engine"):
        function(sparse(A), SCORES, engine="cuda")
