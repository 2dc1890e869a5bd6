"""Distributions: how the sparsity of a network becomes one for each layer.

A distribution sees of each layer a `Share`: the scores of its units (an entry, a block, a row: what
the structure removes as a whole), and says how many units the layer keeps. Sparsity counts all
places of a layer: one that has 5 % of its places and is to have a sparsity of 0.9 keeps all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gbdnn.errors import choose
from gbdnn.topology import erk_densities
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
    """

    scores: Array
    units: int
    places: int
    shape: tuple[int, int]


Distribution = Callable[[Sequence[Share], float], list[int]]


def uniform(shares: Sequence[Share], density: float) -> list[int]:
    """Return round(density * units) for each layer, or what a sparser layer has."""
    return [min(round(density * share.units), len(share.scores)) for share in shares]


def erk(shares: Sequence[Share], density: float) -> list[int]:
    """Return counts by the Erdos-Renyi-Kernel rule: small layers stay denser.

    See `gbdnn.topology.erk_densities` (Evci et al. 2020, arXiv:1911.11134).
    """
    densities = erk_densities([share.shape for share in shares], density=density)
    return [
        min(round(each * share.units), len(share.scores))
        for each, share in zip(densities, shares, strict=True)
    ]


def by_threshold(shares: Sequence[Share], density: float) -> list[int]:
    """Return how many units of each layer are among the best of all layers: one threshold.

    Units of the highest scores are kept up to round(density * places of all layers) places; of
    equal scores those of the first layer. Each layer keeps its best unit, whatever its score.
    """
    wanted = round(density * sum(share.units * share.places for share in shares))
    parts = [_best_first(share.scores) for share in shares]
    lengths = [len(part) for part in parts]
    best = np.concatenate([np.arange(length) == 0 for length in lengths])
    places = np.repeat([share.places for share in shares], lengths)
    left = wanted - int(places[best].sum())
    if left < 0:
        return [0] * len(shares)
    rest = np.flatnonzero(~best)
    scores = np.concatenate(parts)[rest]
    if len({share.places for share in shares}) == 1:
        kept = rest[top(scores, left // shares[0].places)]
    else:
        order = rest[np.argsort(-scores, kind="stable")]
        kept = order[np.cumsum(places[order]) <= left]
    layer = np.repeat(np.arange(len(shares)), lengths)
    counts = np.bincount(layer[kept], minlength=len(shares))
    return [int(count) + (length > 0) for count, length in zip(counts, lengths, strict=True)]


def _best_first(scores: Array) -> Array:
    """Return the scores with the largest exchanged to the front."""
    found = scores.copy()
    if len(found):
        best = int(np.argmax(found))
        found[[0, best]] = found[[best, 0]]
    return found


DISTRIBUTIONS: dict[str, Distribution] = {
    "erk": erk,
    "global": by_threshold,
    "per_layer": uniform,
    "uniform": uniform,
}


def distribution(name: str | Distribution) -> Distribution:
    """Return the distribution called `name`; a function is returned as it is."""
    return name if callable(name) else DISTRIBUTIONS[choose("distribution", name, DISTRIBUTIONS)]
