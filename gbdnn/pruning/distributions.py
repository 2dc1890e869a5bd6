"""Distributions: how the sparsity of a network becomes one for each layer.

A distribution sees of each layer a `Share`: the scores of its units (an entry, a block, a row: what
the structure removes as a whole), and says how many units the layer keeps. Sparsity counts all
places of a layer: one that has 5 % of its places and is to have a sparsity of 0.9 keeps all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gbdnn.errors import choose
from gbdnn.types import Array
from gbdnn.weights.patterns import top

__all__ = ["DISTRIBUTIONS", "Distribution", "Share", "distribution"]


@dataclass(frozen=True, eq=False)
class Share:
    """What a distribution knows of a layer.

    Attributes
    ----------
    scores : ndarray
        One for each unit that has entries.
    units : int
        Units of the layer, without entries or not.
    places : int
        Places that a unit has.
    shape : tuple of int
        (out_features, in_features).
    least : int
        Units that the layer should keep, of those that have entries.
    """

    scores: Array
    units: int
    places: int
    shape: tuple[int, int]
    least: int = 1


Distribution = Callable[[Sequence[Share], float], list[int]]


def uniform(shares: Sequence[Share], density: float) -> list[int]:
    """Return counts of equal densities; what a sparser layer leaves over goes to the others."""
    return _spread(shares, density, [share.units * share.places for share in shares])


def erk(shares: Sequence[Share], density: float) -> list[int]:
    """Return counts by the Erdos-Renyi-Kernel rule: small layers stay denser.

    Entries of a layer are in proportion to out_features + in_features, as far as it has so many
    (`gbdnn.topology.erk_densities`; Evci et al. 2020, arXiv:1911.11134).
    """
    return _spread(shares, density, [sum(share.shape) for share in shares])


def by_threshold(shares: Sequence[Share], density: float) -> list[int]:
    """Return how many units of each layer are among the best of all layers: one threshold.

    Units of the highest scores are kept up to round(density * places of all layers) places; of
    equal scores those of the first layer. Each layer keeps its best units, whatever their scores.
    """
    left = _wanted(shares, density)
    least = [min(share.least, len(share.scores)) for share in shares]
    left -= sum(count * share.places for count, share in zip(least, shares, strict=True))
    if left < 0:
        return [0] * len(shares)
    parts = [
        np.partition(share.scores, len(share.scores) - count)[: len(share.scores) - count]
        if 0 < count < len(share.scores)
        else share.scores[count:]
        for count, share in zip(least, shares, strict=True)
    ]
    scores, lengths = np.concatenate(parts), [len(part) for part in parts]
    places = np.repeat([share.places for share in shares], lengths)
    if len({share.places for share in shares}) == 1:
        kept = np.flatnonzero(top(scores, left // shares[0].places))
    else:
        order = np.argsort(-scores, kind="stable")
        kept = order[np.cumsum(places[order]) <= left]
    counts = np.bincount(np.repeat(np.arange(len(shares)), lengths)[kept], minlength=len(shares))
    return [int(count) + always for count, always in zip(counts, least, strict=True)]


def lamp(shares: Sequence[Share], density: float) -> list[int]:
    r"""Return how many units of each layer are among the best of all, by layer-adaptive scores.

    Of the scores s of a layer those are

    .. math:: s_u^2 / \sum_{v: s_v \ge s_u} s_v^2

    (Lee et al. 2021, arXiv:2010.07611). Within a layer their order is that of s; the scale of a
    layer does not count, and the best unit of each has the score 1. Where scores are negative, as
    in movement pruning, -s gives the score with the other sign.
    """
    adapted = [replace(share, scores=_adaptive(share.scores)) for share in shares]
    return by_threshold(adapted, density)


def _adaptive(scores: Array) -> Array:
    """Return layer-adaptive scores, from -1 to 1."""
    found = np.zeros(len(scores))
    for sign in (1, -1):
        chosen = np.flatnonzero(sign * scores > 0)
        sizes = np.abs(scores[chosen]).astype(np.float64)
        order = np.argsort(-sizes)
        ordered = sizes[order] / sizes.max(initial=1e-300)  # squares neither overflow nor vanish
        sums = np.cumsum(np.square(ordered))
        last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)[: len(ordered)]
        found[chosen[order]] = sign * np.square(ordered)
        found[chosen[order]] /= np.repeat(sums[last], np.diff(last, prepend=-1))  # equal ones alike
    return found


def _wanted(shares: Sequence[Share], density: float) -> int:
    """Return how many places all layers together keep."""
    return round(density * sum(share.units * share.places for share in shares))


def _spread(shares: Sequence[Share], density: float, parts: Sequence[float]) -> list[int]:
    """Return counts in proportion to `parts`, of which no layer gets more than it has.

    The places are round(density * places of all layers) together if all are single, else at most
    that: what is left over by rounding goes to the layers that miss most of a unit.
    """
    limits = np.array([len(share.scores) for share in shares])
    places = np.array([share.places for share in shares])
    weights = np.array(parts) / places
    least = np.minimum([share.least for share in shares], limits)
    wanted = _wanted(shares, density)
    if wanted < least @ places:
        return [0] * len(shares)
    # sum of min(max(level * weights, least), limits) * places = wanted; it is linear between bends
    bends = np.unique(np.concatenate([least / weights, limits / weights]))
    reached = np.clip(bends[:, None] * weights, least, limits) @ places
    level = np.interp(wanted, reached, bends)
    exact = np.clip(level * weights, least, limits)
    counts = np.floor(exact + 1e-9).astype(np.int64)
    left = wanted - int(counts @ places)
    for k in np.argsort(counts - exact, kind="stable"):
        more = counts[k] < limits[k] and places[k] <= left
        counts[k] += more
        left -= more * int(places[k])
    return [int(count) for count in counts]


DISTRIBUTIONS: dict[str, Distribution] = {
    "erk": erk,
    "global": by_threshold,
    "lamp": lamp,
    "per_layer": uniform,
    "uniform": uniform,
}


def distribution(name: str | Distribution) -> Distribution:
    """Return the distribution called `name`; a function is returned as it is."""
    return name if callable(name) else DISTRIBUTIONS[choose("distribution", name, DISTRIBUTIONS)]
