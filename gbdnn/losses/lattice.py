"""Compiled kernels of `transducer_loss`, for one sample each.

The cost is symmetric in the two directions of the lattice; nodes with equal t + u do not depend on
each other. Going by these anti-diagonals the processor works on several exponentials at a time,
where along a row each would wait for the one before.

The caller (transducer.py) has checked every shape and index.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import from_dtype, types

from gbdnn.backends.fused.compilation import array_type, jit, load

__all__ = ["cost_and_gradient", "load_for", "load_ways", "subtract_largest", "ways"]

NO_NAN = {"nnan", "nsz", "reassoc", "contract"}  # of what LLVM may assume about floats


def plain(function: Any) -> Any:
    """Compile without checks for a division by zero, which keep loops from becoming vectors."""
    return jit(function, error_model="numpy")


def _largest(row):
    found = row[0]
    for k in range(1, len(row)):
        found = max(found, row[k])
    return found


_largest = jit(_largest, fastmath=NO_NAN)  # what a NaN gives does not matter: sums show it


def _total(row):
    found = 0.0
    for k in range(len(row)):
        found += np.float64(row[k])
    return found


_total = jit(_total, fastmath={"nsz", "reassoc", "contract"})  # any order, but NaN stays NaN


@plain
def subtract_largest(z, T, U, largest, out):
    """Write z - its largest of each node to `out`, and that number to `largest`.

    Where not all are finite the number is NaN, which makes the cost NaN.

    Parameters
    ----------
    z, out : ndarray, shape (at least T, at least U + 1, V)
        Of `out` the nodes beside the lattice get 0.
    largest : ndarray of float64, shape (T, U + 1)
    """
    for t in range(T):
        for u in range(U + 1):
            top = _largest(z[t, u])
            for k in range(z.shape[2]):
                out[t, u, k] = z[t, u, k] - top
            largest[t, u] = top if math.isfinite(_total(out[t, u])) else math.nan
        out[t, U + 1 :] = 0


@plain
def _logadd(a, b):
    if a < b:
        a, b = b, a
    return a + math.log(1.0 + math.exp(b - a))  # the error is absolute, below one of `a`'s


@plain
def ways(blanks, steps, cost):
    """Turn the log-probabilities of a lattice into the parts of P that each step is taken in.

    Parameters
    ----------
    blanks, steps : ndarray of float64, shape (T, U + 1)
        log p(blank | t, u) and log p(label u + 1 | t, u), whose last column is not looked at;
        become b(t, u) and l(t, u) of `gbdnn.losses.transducer_loss`.
    cost : ndarray of float64, shape (1,)
        Takes -log P.
    """
    T, U = blanks.shape[0], blanks.shape[1] - 1
    alpha = np.empty((T, U + 1))
    alpha[0, 0] = 0.0
    for d in range(1, T + U):
        for u in range(max(0, d - T + 1), min(d, U) + 1):
            t = d - u
            if t == 0:
                alpha[t, u] = alpha[t, u - 1] + steps[t, u - 1]
            elif u == 0:
                alpha[t, u] = alpha[t - 1, u] + blanks[t - 1, u]
            else:
                alpha[t, u] = _logadd(
                    alpha[t - 1, u] + blanks[t - 1, u], alpha[t, u - 1] + steps[t, u - 1]
                )
    whole = alpha[T - 1, U] + blanks[T - 1, U]
    cost[0] = -whole
    beta = np.empty((T, U + 1))
    for d in range(T + U - 1, -1, -1):
        for u in range(max(0, d - T + 1), min(d, U) + 1):
            t = d - u
            if t == T - 1 and u == U:
                beta[t, u] = blanks[t, u]
            elif t == T - 1:
                beta[t, u] = beta[t, u + 1] + steps[t, u]
            elif u == U:
                beta[t, u] = beta[t + 1, u] + blanks[t, u]
            else:
                beta[t, u] = _logadd(beta[t + 1, u] + blanks[t, u], beta[t, u + 1] + steps[t, u])
    for t in range(T):
        for u in range(U + 1):
            before = alpha[t, u] - whole
            by_blank = by_label = 0.0
            if t < T - 1:
                by_blank = math.exp(min(0.0, before + blanks[t, u] + beta[t + 1, u]))
            elif u == U:
                by_blank = 1.0
            if u < U:
                by_label = math.exp(min(0.0, before + steps[t, u] + beta[t, u + 1]))
            blanks[t, u], steps[t, u] = by_blank, by_label


@plain
def cost_and_gradient(z, labels, T, U, blank, largest, out, cost):
    """Turn exp(z - largest) in `out` into the gradient; write the cost, NaN if `largest` has one.

    Parameters
    ----------
    z : ndarray, shape (at least T, at least U + 1, V)
    labels : ndarray of int64, shape (at least U,)
    largest : ndarray of float64, shape (T, U + 1)
        Is written over.
    out : ndarray, shape of z
    cost : ndarray of float64, shape (1,)
    """
    blanks, steps = np.empty((T, U + 1)), np.empty((T, U + 1))  # log p(blank), log p(label)
    factors = largest  # 1 / sum of a node's exponentials
    for t in range(T):
        for u in range(U + 1):
            total = _total(out[t, u])
            shift = largest[t, u] + math.log(total)
            blanks[t, u] = z[t, u, blank] - shift
            if u < U:
                steps[t, u] = z[t, u, labels[u]] - shift
            factors[t, u] = 1.0 / total
    ways(blanks, steps, cost)
    for t in range(T):
        for u in range(U + 1):
            factor = out.dtype.type((blanks[t, u] + steps[t, u]) * factors[t, u])
            for k in range(out.shape[2]):
                out[t, u, k] *= factor
            out[t, u, blank] -= blanks[t, u]
            if u < U:
                out[t, u, labels[u]] -= steps[t, u]
        out[t, U + 1 :] = 0
    out[T:] = 0


@cache
def load_for(dtype: np.dtype[Any]) -> None:
    """Compile the kernels for logits of a dtype, or load them from the disk cache."""
    kind, whole = from_dtype(dtype), types.int64
    z, out = array_type(kind, 3), array_type(kind, 3, writable=True)
    largest = array_type(types.float64, 2, writable=True)
    cost = array_type(types.float64, 1, writable=True)
    load_ways()
    load(subtract_largest, z, whole, whole, largest, out)
    load(cost_and_gradient, z, array_type(whole, 1), whole, whole, whole, largest, out, cost)


@cache
def load_ways() -> None:
    """Compile `ways`, or load it from the disk cache."""
    whole = array_type(types.float64, 2, writable=True)
    load(ways, whole, whole, array_type(types.float64, 1, writable=True))
