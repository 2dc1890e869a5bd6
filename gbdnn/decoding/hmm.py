"""Hidden Markov models on sparse transitions: two semirings of GraphBLAS, and numpy beside them.

With A the matrix of log transition probabilities (from, to) and s_t the states' log scores at time
t, all shapes (states,) but A's:

    Viterbi    v_t = (v_{t-1} (max.+) A) + s_t                        best way to each state
    forward    a_t = (a_{t-1} (+.x) exp A) exp(s_t) / c_t             sum over ways, scaled
    backward   b_{t-1} = exp A (+.x) (exp(s_t) b_t / c_t)

(Rabiner 1989, Proc. IEEE 77(2), eqs. 19 to 25, 30 to 37 and 91 to 93.) A step costs the entries of
A. `engine` says what multiplies; "numpy" is written in logarithms throughout and never underflows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError, choose
from gbdnn.types import Array
from gbdnn.weights import CSR, as_csr
from gbdnn.weights.graphblas import graphblas
from gbdnn.weights.patterns import transpose

__all__ = ["ENGINES", "Posteriors", "forward_backward", "viterbi"]

ENGINES = ("graphblas", "numpy")
LARGEST = 1e200  # of what may follow where something underflowed


@dataclass(frozen=True, eq=False)
class Posteriors:
    """What `forward_backward` finds.

    Attributes
    ----------
    log_likelihood : float
        Of the scores, summed over all ways, in nats.
    states : ndarray of float64, shape (T, states)
        P(state at t | all scores); each row sums to 1.
    transitions : CSR of float64, pattern of A
        Expected number of times that each transition is taken; the sum is T - 1.
    """

    log_likelihood: float
    states: Array
    transitions: CSR


def viterbi(
    transitions: Any, scores: Array, initial: Array | None = None, final: Array | None = None,
    *, engine: str = "graphblas",
) -> tuple[Array, float]:  # fmt: skip
    """Return the best state sequence, and its log score.

    Parameters
    ----------
    transitions : CSR, or what `gbdnn.as_csr` takes; shape (states, states)
        Natural log-probabilities of going from the row's state to the column's; places without an
        entry are impossible. An entry 0 is log 1: of formats that drop zeros make a CSR yourself.
    scores : ndarray of float, shape (T, states)
        Log-likelihoods log p(x_t | state), or those of a network minus the log priors; -inf where a
        state is impossible.
    initial, final : ndarray of float, shape (states,), optional
        Log-probabilities of beginning and ending in each state, -inf where that is impossible;
        None: anywhere, with 0.
    engine : {"graphblas", "numpy"}
        A max-plus product on GraphBLAS, or the same by numpy.

    Returns
    -------
    path : ndarray of int64, shape (T,)
        Of equally good predecessors the one with the smallest number.
    score : float

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
        If the arguments do not fit together, or a score is NaN or +inf.
    InputError
        If no way leads from the beginning to the end.
    """
    A, s, begin, end = _checked(transitions, scores, initial, final)
    step = _max_plus(A, engine)
    best = np.empty(s.shape)
    best[0] = begin + s[0]
    for t in range(1, len(s)):
        best[t] = step(best[t - 1]) + s[t]
    last = best[-1] + end
    path = np.empty(len(s), np.int64)
    path[-1] = state = int(last.argmax())
    if last[state] == -np.inf:
        raise _no_way()
    columns = _Columns(A)
    for t in range(len(s) - 1, 0, -1):  # the way back: what the maximum came from
        before, values = columns[state]
        path[t - 1] = state = int(before[(best[t - 1][before] + values).argmax()])
    return path, float(last[path[-1]])


def forward_backward(
    transitions: Any, scores: Array, initial: Array | None = None, final: Array | None = None,
    *, engine: str = "graphblas",
) -> Posteriors:  # fmt: skip
    """Return the posterior probabilities of states and transitions.

    With "graphblas" plus-times products in the linear domain, scaled at each time by their sum.
    Where scores differ so much that something underflows that matters, the result is computed in
    logarithms by numpy.

    Parameters
    ----------
    transitions, scores, initial, final, engine
        See `viterbi`.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, InputError
        See `viterbi`.
    """
    A, s, begin, end = _checked(transitions, scores, initial, final)
    if choose("engine", engine, ENGINES) == "graphblas":
        found = _scaled(A, s, begin, end)
        if found is not None:
            return found
    return _in_logarithms(A, s, begin, end)


def _scaled(A: CSR, s: Array, begin: Array, end: Array) -> Posteriors | None:
    """Return the posteriors by plus-times products; None where numbers underflow that matter.

    What underflows is below 1e-307 where alpha sums to 1. Its share of the posteriors is that times
    what follows, so it may be left out if nothing that follows is above `LARGEST`. States that no
    way leads to have no entry in the sparse vectors, and do not count.
    """
    gb = graphblas()
    plus_times = gb.semiring.plus_times
    P = A.with_entries(np.exp(A.full_values)).to_graphblas()
    Q = gb.Matrix(P.dtype, *P.shape)
    Q << P.T  # kept: a transposing product would transpose each time
    T, n = s.shape
    alpha, onward, likely = np.zeros((T, n)), np.zeros((T, n)), np.zeros((T, n))
    opened = np.zeros((T, n), bool)
    value = 0.0
    with np.errstate(all="ignore"):
        top = begin.max()
        ahead, places = np.exp(begin - top), np.flatnonzero(begin > -np.inf)
        for t in range(T):
            if t:
                reached = gb.Vector.from_coo(places, alpha[t - 1, places], size=n)
                places, ahead = plus_times(reached @ P).new().to_coo()
                open_ = s[t, places] > -np.inf
            else:
                open_, ahead = s[0, places] > -np.inf, ahead[places]
            places, ahead = places[open_], ahead[open_]
            opened[t, places] = True
            value += top
            top = (np.log(ahead) + s[t, places]).max(initial=-np.inf)
            likely[t, places] = np.exp(s[t, places] - top)
            alpha[t, places] = ahead * likely[t, places]
            total = alpha[t].sum()
            if not 0 < total < np.inf:
                return None
            alpha[t] /= total
            likely[t] /= total
            value += np.log(total)
        value += top
        top = end[alpha[-1] > 0].max()
        beta = np.exp(np.minimum(end - top, 0))
        last = alpha[-1] @ beta
        if not last > 1 / LARGEST:
            return None
        value += np.log(last) + top
        beta /= last
        states = alpha * beta
        for t in range(T - 1, -1, -1):
            onward[t] = likely[t] * beta
            if not (beta[opened[t]].max() < LARGEST and onward[t].max() < LARGEST):
                return None
            if t:
                beta = plus_times(gb.Vector.from_dense(onward[t]) @ Q).new().to_dense(0.0)
                states[t - 1] = alpha[t - 1] * beta
    taken = gb.Matrix(P.dtype, *P.shape)
    if T > 1:  # dot products where A has entries, and nowhere else
        before, after = (np.ascontiguousarray(part.T) for part in (alpha[:-1], onward[1:]))
        taken(P.S) << plus_times(gb.Matrix.from_dense(before) @ gb.Matrix.from_dense(after).T)
        taken << gb.binary.times(taken & P)
    counts = taken.to_coo()[2] if taken.nvals else np.zeros(A.nnz)
    states /= states.sum(axis=1, keepdims=True)
    return Posteriors(float(value), states, A.with_entries(counts))


def _in_logarithms(A: CSR, s: Array, begin: Array, end: Array) -> Posteriors:
    """Return the posteriors by log-sums over the entries of A."""
    columns, values = A.indices[: A.nnz], A.full_values
    rows = np.repeat(np.arange(len(begin)), np.diff(A.indptr))
    T, n = s.shape

    def gathered(terms: Array, where: Array) -> Array:
        """Return the log-sums of terms that go to the same place."""
        top = np.full(n, -np.inf)
        np.maximum.at(top, where, terms)
        base = np.where(top > -np.inf, top, 0)
        with np.errstate(divide="ignore", under="ignore"):
            total = np.bincount(where, np.exp(terms - base[where]), n)
            found: Array = np.log(total) + base
        return found

    alpha, beta = np.empty((T, n)), np.empty((T, n))
    alpha[0], beta[-1] = begin + s[0], end
    for t in range(1, T):
        alpha[t] = gathered(alpha[t - 1][rows] + values, columns) + s[t]
    for t in range(T - 1, 0, -1):
        beta[t - 1] = gathered((s[t] + beta[t])[columns] + values, rows)
    value = float(np.logaddexp.reduce(alpha[-1] + end))
    if value == -np.inf:
        raise _no_way()
    counts = np.zeros(A.nnz)
    with np.errstate(under="ignore"):
        states = np.exp(alpha + beta - value)
        for t in range(1, T):
            onward = (s[t] + beta[t])[columns]
            counts += np.exp(alpha[t - 1][rows] + values + onward - value)
    return Posteriors(value, states / states.sum(axis=1, keepdims=True), A.with_entries(counts))


def _max_plus(A: CSR, engine: str) -> Callable[[Array], Array]:
    """Return the product v (max.+) A; -inf is what max adds nothing to.

    On GraphBLAS as -(-A^T (min.+) -v), the same numbers: its library has a compiled kernel of
    min-plus, but of max-plus only the generic one, three times slower.
    """
    if choose("engine", engine, ENGINES) == "numpy":
        columns, values = A.indices[: A.nnz], A.full_values
        rows = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))

        def product(v: Array) -> Array:
            out = np.full(A.shape[1], -np.inf)
            np.maximum.at(out, columns, v[rows] + values)
            return out

        return product
    gb = graphblas()
    flipped = transpose(A)[0]
    costs, min_plus = (
        flipped.with_entries(-flipped.full_values).to_graphblas(),
        gb.semiring.min_plus,
    )
    return lambda v: -min_plus(costs @ gb.Vector.from_dense(-v)).new().to_dense(np.inf)


class _Columns:
    """The entries of A by columns: who leads to a state."""

    def __init__(self, A: CSR) -> None:
        self.flipped, order = transpose(A)
        self.values = A.full_values[order]

    def __getitem__(self, state: int) -> tuple[Array, Array]:
        part = slice(self.flipped.indptr[state], self.flipped.indptr[state + 1])
        return self.flipped.indices[part], self.values[part]


def _checked(
    transitions: Any, scores: Any, initial: Any, final: Any
) -> tuple[CSR, Array, Array, Array]:  # fmt: skip
    A = as_csr(transitions, name="transitions").astype(np.float64)
    if A.shape[0] != A.shape[1]:
        raise ShapeError("transitions", "a square matrix (from, to)", f"shape {A.shape}")
    n = A.shape[0]
    s = _log_scores("scores", scores, 2)
    if not s.size or s.shape[1] != n:
        raise ShapeError("scores", f"shape (T, {n}), T at least 1", f"shape {s.shape}")
    return A, s, _ends("initial", initial, n), _ends("final", final, n)


def _ends(name: str, value: Any, n: int) -> Array:
    found = np.zeros(n) if value is None else _log_scores(name, value, 1)
    if found.shape != (n,):
        raise ShapeError(name, f"shape ({n},)", f"shape {found.shape}")
    return found


def _log_scores(name: str, value: Any, ndim: int) -> Array:
    found = np.asarray(value)
    if found.dtype.kind != "f":
        raise DtypeError(name, "floats", str(found.dtype))
    if found.ndim != ndim:
        raise ShapeError(name, f"{ndim} dimensions", f"shape {found.shape}")
    found = found.astype(np.float64)
    if not (found < np.inf).all():
        raise NonFiniteError(name, "log-probabilities, finite or -inf", "NaN or infinity")
    return found


def _no_way() -> InputError:
    return InputError(
        "transitions, scores", "a way from beginning to end with probability above 0", "none",
        "Too few frames for the states that must be passed, or a state that none leads to?",
    )  # fmt: skip
