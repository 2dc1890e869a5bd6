"""The loss of the recurrent neural network transducer (Graves 2012, arXiv:1211.3711)."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from gbdnn.backends.workers import share
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError
from gbdnn.machine import check_threads
from gbdnn.types import Array

__all__ = ["transducer_loss"]

MEANING = "samples, frames, labels + 1, vocabulary"


def transducer_loss(
    logits: Array, labels: Array, frame_lengths: Array | None = None,
    label_lengths: Array | None = None, blank: int = 0, *, threads: int | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Return -log P(labels | logits) of each sample, and its gradient.

    Node (t, u) of the lattice has seen t frames and emitted u labels; p(k | t, u) is the softmax of
    its logits. A blank leads to (t + 1, u), label u + 1 to (t, u + 1); P is the sum over all ways
    from (0, 0) through (T - 1, U) and a last blank. In logarithms (Graves 2012, eqs. 16 to 18):

        alpha(t, u) = logadd(alpha(t-1, u) + log p(blank | t-1, u),
                             alpha(t, u-1) + log p(label u | t, u-1))
        cost        = -(alpha(T-1, U) + log p(blank | T-1, U))

    and beta the same from the end. With b(t, u) and l(t, u) the parts of P whose ways take the
    blank and the label of node (t, u), the gradient with the softmax in it is

        d cost / d z_k(t, u) = (b + l) softmax(z)_k - [k = blank] b - [k = label u + 1] l

    Parameters
    ----------
    logits : ndarray of float32 or float64, shape (n, T, U + 1, V)
        Scores before the softmax; natural logarithms. What lies outside a sample's lengths is not
        looked at.
    labels : ndarray of int, shape (n, U)
        From 0 to V - 1, without the blank.
    frame_lengths : ndarray of int, shape (n,), optional
        Frames of each sample, 1 to T; None: all have T.
    label_lengths : ndarray of int, shape (n,), optional
        Labels of each sample, 0 to U; None: all have U.
    blank : int
    threads : int, optional
        Samples are shared among them; None: `gbdnn.machine.default_threads`.

    Returns
    -------
    costs : ndarray of float64, shape (n,)
        In nats; summed in float64.
    gradient : ndarray, shape and dtype of the logits
        Of each sample's own cost; zero outside its lengths. Besides it a thread needs
        40 T (U + 1) bytes.

    Raises
    ------
    ShapeError, DtypeError, InputError
        If the arguments do not fit together.
    NonFiniteError
        If a logit within the lengths is NaN or infinite, or a cost is.

    Examples
    --------
    >>> costs, gradient = transducer_loss(np.zeros((1, 2, 2, 3)), [[1]])
    >>> float(np.exp(-costs[0]))  # two ways of three steps, each of probability 1/3
    0.07407407407407407
    """
    z = _checked_logits(logits)
    n, T, nodes, V = z.shape
    blank = _checked_blank(blank, V)
    frames = _lengths("frame_lengths", frame_lengths, n, 1, T)
    counts = _lengths("label_lengths", label_lengths, n, 0, nodes - 1)
    targets = _checked_labels(labels, counts, n, nodes - 1, V, blank)
    threads = check_threads(threads)
    costs, gradient = np.empty(n), np.empty_like(z)
    if not n:
        return costs, gradient

    from gbdnn.losses import lattice  # numba takes half a second

    lattice.load_for(z.dtype)

    def one(i: int) -> None:
        size, out = (frames[i], counts[i]), gradient[i]
        largest = np.empty((size[0], size[1] + 1))
        lattice.subtract_largest(z[i], *size, largest, out)
        with np.errstate(all="ignore"):
            np.exp(out[: size[0]], out=out[: size[0]])
        lattice.cost_and_gradient(z[i], targets[i], *size, blank, largest, out, costs[i : i + 1])

    share(one, range(n), threads)
    _check_costs(costs, z, frames, counts)
    return costs, gradient


def _checked_logits(logits: Any) -> Array:
    z = np.asarray(logits)
    if z.dtype not in (np.float32, np.float64):
        raise DtypeError("logits", "float32 or float64", str(z.dtype))
    if z.ndim != 4:
        raise ShapeError("logits", f"four dimensions ({MEANING})", f"shape {z.shape}")
    if len(z) and not z.size:
        raise ShapeError("logits", f"at least 1 in each dimension ({MEANING})", f"shape {z.shape}")
    return np.ascontiguousarray(z)


def _checked_blank(blank: Any, V: int) -> int:
    expected = f"a whole number from 0 to {V - 1}, the vocabulary of logits"
    try:
        number = operator.index(blank)
    except TypeError:
        raise DtypeError("blank", expected, repr(blank)) from None
    if isinstance(blank, bool) or not 0 <= number < max(V, 1):
        raise InputError("blank", expected, repr(blank))
    return number


def _whole(name: str, value: Any, shape: tuple[int, ...], meaning: str) -> Array:
    """Return whole numbers as int64 of a shape."""
    found = np.asarray(value)
    if found.shape != shape:
        raise ShapeError(name, f"shape {shape}, {meaning}", f"shape {found.shape}")
    if found.dtype.kind not in "iu" and found.size:
        raise DtypeError(name, "whole numbers", str(found.dtype))
    if found.dtype == np.uint64 and found.size:
        found = np.minimum(found, np.uint64(np.iinfo(np.int64).max))  # large stays too large
    return np.ascontiguousarray(found, np.int64)


def _lengths(name: str, value: Any, n: int, least: int, most: int) -> list[int]:
    if value is None:
        return [most] * n
    found = _whole(name, value, (n,), "one for each sample of logits")
    wrong = (found < least) | (found > most)
    if wrong.any():
        i = int(wrong.argmax())
        raise InputError(name, f"{least} to {most} by the shape of logits", f"{found[i]} at {i}")
    return [int(value) for value in found]


def _checked_labels(
    labels: Any, counts: list[int], n: int, U: int, V: int, blank: int
) -> Array:  # fmt: skip
    found = _whole("labels", labels, (n, U), "(samples, labels) by the shape of logits")
    used = np.arange(U) < np.array(counts, np.int64).reshape(n, 1)
    wrong = used & ((found < 0) | (found >= V) | (found == blank))
    if wrong.any():
        i, u = map(int, np.unravel_index(wrong.argmax(), wrong.shape))
        expected = f"0 to {V - 1} without the blank {blank}"
        fix = "Shorter samples: fill them up with anything, and give label_lengths."
        raise InputError("labels", expected, f"{found[i, u]} at ({i}, {u})", fix)
    return found


def _check_costs(costs: Array, z: Array, frames: list[int], counts: list[int]) -> None:
    wrong = ~np.isfinite(costs)
    if not wrong.any():
        return
    i = int(wrong.argmax())
    part = z[i, : frames[i], : counts[i] + 1]
    bad = ~np.isfinite(part)
    if bad.any():
        at = tuple(map(int, np.unravel_index(bad.argmax(), bad.shape)))
        raise NonFiniteError("logits", "finite numbers", f"{part[at]} at {(i, *at)}")
    got = f"a cost of {costs[i]} for sample {i}, whose logits reach {abs(part).max():g}"
    raise NonFiniteError("logits", "numbers whose costs are finite", got)
