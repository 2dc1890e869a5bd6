"""Scores: how much each stored weight matters. Entries of the smallest scores are removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gbdnn.errors import choose
from gbdnn.types import Array

__all__ = ["SCORES", "Score", "gradient", "magnitude", "movement", "random", "score"]


def magnitude(values: Array, gradients: Array, moved: Array, rng: np.random.Generator) -> Array:
    """|w| (Hagiwara 1994; Han et al. 2015, arXiv:1506.02626)."""
    return np.abs(values)


def random(values: Array, gradients: Array, moved: Array, rng: np.random.Generator) -> Array:
    """A uniform random number for each entry, the baseline of every comparison."""
    return rng.random(len(values))


def gradient(values: Array, gradients: Array, moved: Array, rng: np.random.Generator) -> Array:
    """|w dL/dw|, the first-order estimate of what removing w changes in the loss.

    Not |dL/dw| alone: for a weight that is there, that says what moving it would change, not what
    removing it does (Mozer and Smolensky 1989; Molchanov et al. 2017, arXiv:1611.06440; before
    training it is SNIP's score, Lee et al. 2019, arXiv:1810.02340).
    """
    found: Array = np.abs(values * gradients)
    return found


def movement(values: Array, gradients: Array, moved: Array, rng: np.random.Generator) -> Array:
    """-sum_t w_t dL/dw_t over the steps so far: large for weights that move away from zero.

    With its sign: weights that shrink go first (Sanh et al. 2020, arXiv:2005.07683, section 4).
    """
    return moved


@dataclass(frozen=True)
class Score:
    """A score with what it needs.

    Parameters
    ----------
    name : str
    function : callable
        ``function(values, gradients, moved, rng) -> scores``, all of shape (nnz,); `moved` is the
        sum of -w dL/dw. Arguments that `needs` does not name may be anything.
    needs : {"", "gradients", "moved"}
    """

    name: str
    function: Callable[[Array, Array, Array, np.random.Generator], Array] = field(repr=False)
    needs: str = ""


SCORES: dict[str, Score] = {
    found.name: found
    for found in (
        Score("gradient", gradient, "gradients"),
        Score("magnitude", magnitude),
        Score("movement", movement, "moved"),
        Score("random", random),
    )
}


def score(name: str | Score) -> Score:
    """Return the score called `name`; a `Score` is returned as it is."""
    return name if isinstance(name, Score) else SCORES[choose("score", name, SCORES)]
