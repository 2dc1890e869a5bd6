r"""Growth: where entries come back for those that are dropped.

At an update at step t of T_end the part

.. math:: f(t) = \frac{\alpha}{2}\left(1 + \cos\frac{\pi t}{T_{end}}\right)

of a layer's entries is dropped and as many grow at places that were absent before, with the value
0. The layer's number of entries stays the same to the last one.

RigL wants the largest entries of G = dZ Y^T outside W's pattern. As GraphBLAS writes it, with a
complemented structural mask,

    G(~W.S) << plus_times(dZ @ Y.T)

that is a matrix of out x in. `largest_absent` has a block of it at a time, and leaves out what
cannot be among the largest: |G_ij| <= |dZ_i| |Y_j| (Cauchy and Schwarz).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gbdnn import checks
from gbdnn.backends import get_backend
from gbdnn.backends.workers import share
from gbdnn.errors import choose
from gbdnn.topology.random import distinct
from gbdnn.types import Array
from gbdnn.weights import CSR
from gbdnn.weights.patterns import places as places_of
from gbdnn.weights.patterns import ranges

__all__ = ["GROWTHS", "SET", "Growth", "RigL", "growth", "largest_absent", "random_absent"]

MEMORY = 64 << 20  # bytes for a block of G and what is derived from it
BYTES = 6  # times the size of a number, bytes that a place of a block takes on the way
PIECE = 1 << 16  # places that are computed at a time: they stay in the second cache
LEAST = 16  # rows of them


@dataclass(frozen=True)
class Growth:
    """How many entries are exchanged at an update.

    Parameters
    ----------
    fraction : float
        Above 0, below 1: the part that is dropped and grown again, alpha.
    decay : {"cosine", "constant"}
        How the part falls over the training: as in Evci et al. 2020, or not.

    Attributes
    ----------
    observes : bool
        `observe` is called in the backward pass of a step that exchanges entries.
    """

    fraction: float = 0.3
    decay: str = "cosine"
    observes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.within("fraction", self.fraction, "(0, 1)")
        choose("decay", self.decay, ("constant", "cosine"))

    def part(self, step: int, last: int) -> float:
        """Return f(step); 0 from step `last` = T_end on if it decays."""
        if self.decay == "constant":
            return self.fraction
        return self.fraction / 2 * (1 + math.cos(math.pi * min(step / max(last, 1), 1)))

    def observe(self, pattern: CSR, dZ: Array, Y: Array, count: int, threads: int) -> Array:
        """Return what `places` must know of a weight's gradient dZ Y^T, an array of int64.

        `count` places will be wanted at most; see `largest_absent`.
        """
        raise NotImplementedError

    def places(self, pattern: CSR, count: int, rng: np.random.Generator, observed: Array) -> Array:
        """Return up to `count` places i * in + j without an entry, ascending.

        `observed` is what `observe` returned, empty if it was not called.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class SET(Growth):
    """Random places (Mocanu et al. 2018, Nature Communications 9, 2383).

    With decay="constant" and fraction=0.3 as there; they drop the smallest weights of each sign,
    here the score decides.
    """

    def places(self, pattern: CSR, count: int, rng: np.random.Generator, observed: Array) -> Array:
        """Return `random_absent`."""
        return random_absent(pattern, count, rng)


@dataclass(frozen=True)
class RigL(Growth):
    """Places where the loss's gradient is largest (Evci et al. 2020, arXiv:1911.11134).

    There an entry that is dropped may grow again in the same update, as 0; here the places are
    others.

    Parameters
    ----------
    memory : int
        Bytes for a block of the dense gradient; at least one row is computed at a time.
    """

    memory: int = MEMORY
    observes = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.count("memory", self.memory)

    def observe(self, pattern: CSR, dZ: Array, Y: Array, count: int, threads: int) -> Array:
        """Return `largest_absent`."""
        return largest_absent(pattern, dZ, Y, count, memory=self.memory, threads=threads)

    def places(self, pattern: CSR, count: int, rng: np.random.Generator, observed: Array) -> Array:
        """Return the first of those that were observed."""
        return np.sort(observed[:count])


GROWTHS: dict[str, Callable[[], Growth]] = {"rigl": RigL, "set": SET}


def growth(name: str | Growth | None) -> Growth | None:
    """Return the growth called `name`, with its default settings; None and a `Growth` as it is."""
    members = ("part", "observes", "observe", "places")
    made: Growth | None = None if name is None else checks.entry("growth", name, GROWTHS, *members)
    return made


def absent(pattern: CSR) -> int:
    """Return the number of places without an entry."""
    return pattern.shape[0] * pattern.shape[1] - pattern.nnz


def random_absent(pattern: CSR, count: int, rng: np.random.Generator) -> Array:
    """Return `count` different places without an entry, each set of them equally likely.

    Places are i * in_features + j, ascending, int64. No place is drawn and rejected: numbers below
    `absent(pattern)` are drawn, and the r-th absent place is r + the entries that precede it.
    O((nnz + count) log nnz) time, O(nnz + count) memory.
    """
    ranks = distinct(absent(pattern), count, rng)
    before = places_of(pattern)
    before -= np.arange(pattern.nnz)  # absent places that precede an entry
    return ranks + np.searchsorted(before, ranks, "right")


def largest_absent(
    pattern: CSR, dZ: Array, Y: Array, count: int, *, memory: int = MEMORY, threads: int = 1
) -> Array:
    """Return the places without an entry where |dZ Y^T| is largest, the largest first.

    Parameters
    ----------
    pattern : CSR, shape (out, in)
    dZ, Y : ndarray, shapes (tiles, out, width) and (tiles, in, width)
    count : int
        How many; fewer come back if fewer are absent.
    memory : int
        Bytes for a block of rows of dZ Y^T; at least one row is taken. Beside that, O(nnz + count)
        and a copy of Y are held.
    threads : int
        The result does not depend on their number.

    Returns
    -------
    ndarray of int64
        Places i * in + j; of equal gradients the smallest places. NaN are never taken.

    Notes
    -----
    Rows and columns are taken in the order of their norms. Once `count` candidates are found, the
    smallest is a bound below which a column's product with the block's rows need not be computed;
    the bound of the norms is widened by the rounding errors of the product, so that the result is
    that of the whole matrix.
    """
    count = min(count, absent(pattern))
    if count <= 0:
        return np.empty(0, np.int64)
    # threads of BLAS and the backend's, which both wait busily, would take turns at the cores
    with np.errstate(all="ignore"), get_backend("dense").pinned(1):  # norms too may overflow
        return _Search(pattern, dZ, Y, count).run(memory, threads)


class _Search:
    """The search of `largest_absent`: the places of the candidates so far, and their values."""

    def __init__(self, pattern: CSR, dZ: Array, Y: Array, count: int) -> None:
        self.pattern, self.count = pattern, count
        self.row_norms, self.rows = _by_norm(dZ)
        self.column_norms, self.columns = _by_norm(Y)
        self.rank = np.empty_like(self.columns)  # of a column among `columns`
        self.rank[self.columns] = np.arange(len(self.columns))
        used = np.flatnonzero(dZ.any(axis=1))  # of the samples: the last tile is filled up
        terms = int(used[-1]) + 1 if len(used) else 0
        self.dZ = dZ.transpose(1, 0, 2)[self.rows].reshape(len(self.rows), -1)[:, :terms]
        # the columns come first that are needed longest
        self.Y = Y.transpose(1, 0, 2)[self.columns].reshape(len(self.columns), -1)[:, :terms]
        # |fl(x . y)| <= |x . y| + n eps |x| |y| for any order of n terms (Higham 2002, eq. 3.5)
        self.widen = 1 + (terms + 8) * float(np.finfo(dZ.dtype).eps)
        self.values, self.places = np.empty(0, dZ.dtype), np.empty(0, np.int64)
        self.floor = 0.0

    def run(self, memory: int, threads: int) -> Array:
        start = 0
        while start < len(self.rows) and (wide := self._columns(start)):
            most = memory // (wide * self.Y.itemsize * BYTES)
            # small blocks first: what they find lets most of the later ones pass
            stop = start + max(min(most, max(start, 2 * self.count // wide)), 1)
            stop = min(stop, len(self.rows))
            height = max(PIECE // wide, LEAST)
            pieces = [(k, min(k + height, stop), wide) for k in range(start, stop, height)]
            self._merge(share(lambda piece: self._block(*piece), pieces, threads))
            start = stop
        return self.places[_largest_first(self.values, self.places)]

    def _columns(self, start: int) -> int:
        """Return how many columns may be needed by row number `start` and those behind it."""
        bounds = self.row_norms[start] * self.column_norms * self.widen
        return int(len(bounds) - np.searchsorted(bounds[::-1], self.floor, "left"))

    def _block(self, start: int, stop: int, wide: int) -> tuple[Array, Array]:
        """Return values and places of what is large enough in rows and the first columns."""
        rows = self.rows[start:stop]
        with np.errstate(all="ignore"):  # which each thread has of its own
            G = self.dZ[start:stop] @ self.Y[:wide].T
            np.abs(G, out=G)
            self._mask(G, rows)
            hits = np.flatnonzero(self.floor <= G)  # false for NaN and for -1, the pattern's
        values = G.reshape(-1).take(hits)
        if len(hits) > self.count:
            large = np.flatnonzero(values >= _at_least(values, self.count))
            hits, values = hits.take(large), values.take(large)
        row = hits // wide
        hits -= row * wide
        places = rows.take(row)
        places *= self.pattern.shape[1]
        places += self.columns.take(hits)
        return values, places

    def _mask(self, G: Array, rows: Array) -> None:
        """Write -1 to the places of G that have an entry: the complement of W's structure."""
        indptr, wide = self.pattern.indptr, G.shape[1]
        begin = indptr[rows].astype(np.int64)
        lengths = indptr[rows + 1] - begin
        place = self.rank.take(self.pattern.indices.take(ranges(begin, lengths)))
        inside = None if wide == len(self.rank) else np.flatnonzero(place < wide)
        place += np.repeat(np.arange(len(rows)) * wide, lengths)
        G.reshape(-1)[place if inside is None else place.take(inside)] = -1

    def _merge(self, found: list[tuple[Array, Array]]) -> None:
        """Keep the `count` largest of the candidates and these; of equal ones the first places."""
        values = np.concatenate([self.values, *(values for values, _ in found)])
        places = np.concatenate([self.places, *(places for _, places in found)])
        if len(values) >= self.count:
            self.floor = float(_at_least(values, self.count))
            keep = values > self.floor
            ties = np.flatnonzero(values == self.floor)
            left = self.count - np.count_nonzero(keep)
            keep[ties[np.argsort(places[ties])[:left]]] = True
            kept = np.flatnonzero(keep)
            values, places = values.take(kept), places.take(kept)
        self.values, self.places = values, places


def _at_least(values: Array, count: int) -> Any:
    """Return the value that `count` of them reach."""
    return np.partition(values, -count)[-count]


def _largest_first(values: Array, places: Array) -> Array:
    """Return the order of descending values, equal ones by their places.

    That is ``np.lexsort((places, -values))``, which takes three times as long where few are equal.
    """
    order = np.argsort(-values)
    ordered = values[order]
    opens = np.append(True, ordered[1:] != ordered[:-1])
    tied = np.flatnonzero(~opens | ~np.append(opens[1:], True))
    group, some = np.cumsum(opens)[tied], order[tied]
    order[tied] = some[np.lexsort((places[some], group))]
    return order


def _by_norm(X: Array) -> tuple[Array, Array]:
    """Return the norms of the rows of (tiles, rows, width), descending, and the rows' order."""
    squares = np.zeros(X.shape[1])
    for tile in X:
        squares += np.einsum("ij,ij->i", tile, tile, dtype=np.float64, casting="safe")
    norms = np.sqrt(squares) + 1e-150  # squares of numbers below that underflow
    norms[np.isnan(norms)] = np.inf  # comes first, and is looked at
    order = np.argsort(-norms, kind="stable")
    return norms[order], order
