"""From scores and a density to masks: what `prune` and `Sparsifier` have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.errors import DtypeError, InputError, choose
from gbdnn.pruning.distributions import DISTRIBUTIONS, Share
from gbdnn.pruning.structures import NM, Structure
from gbdnn.weights.csr import CSR

__all__ = ["Selection", "check_exclude", "check_sparsity", "included"]

Array = npt.NDArray[Any]
KEEP_SOME = "Lower the sparsity, or leave the layer out with exclude=."


@dataclass(frozen=True)
class Selection:
    """Which entries stay, by a structure and a distribution.

    Layers come as a dict from the number of the Linear to its weight, of which only the pattern is
    used, and to its scores, shape (nnz,).
    """

    structure: Structure
    distribution: str

    def check(self, weights: dict[int, CSR]) -> None:
        """Raise `ShapeError` for a layer that cannot have the structure."""
        for k, weight in weights.items():
            self.structure.check(weight.shape, f"Linear number {k}")

    def density(self, weights: dict[int, CSR]) -> float:
        """Return the part of all places that units with entries cover: without structure, nnz."""
        shares = [self.structure.share(w, np.zeros(w.nnz, np.float32)) for w in weights.values()]
        covered = sum(len(share.scores) * share.places for share in shares)
        return covered / sum(share.units * share.places for share in shares)

    def units(
        self, weights: dict[int, CSR], scores: dict[int, Array], density: float
    ) -> dict[int, int]:
        """Return how many units each layer keeps.

        Raises
        ------
        InputError
            If a layer would be left without entries.
        """
        fixed = self.structure.fixed(density)
        if fixed is not None:
            return dict.fromkeys(weights, fixed)
        shares: list[Share] = [self.structure.share(w, scores[k]) for k, w in weights.items()]
        counts = DISTRIBUTIONS[self.distribution](shares, density)
        for k, count, share in zip(weights, counts, shares, strict=True):
            if count == 0 and len(share.scores):
                got = f"{1 - density:g}, which leaves Linear number {k} {weights[k].shape} none"
                expected = "a value that leaves each layer at least one entry"
                raise InputError("sparsity", expected, got, KEEP_SOME)
        return dict(zip(weights, counts, strict=True))

    def masks(
        self, weights: dict[int, CSR], scores: dict[int, Array], units: dict[int, int]
    ) -> dict[int, Array]:
        """Return for each layer the mask of the entries that stay.

        Of layers that are not in `units` all do, but for the columns of removed neurons
        (`Neuron.next_columns`).

        Raises
        ------
        InputError
            If a layer would be left without entries.
        """
        masks = {
            k: self.structure.keep(weight, scores[k], units[k])
            if k in units
            else np.ones(weight.nnz, bool)
            for k, weight in weights.items()
        }
        if not self.structure.next_columns:
            return masks
        for k, weight in sorted(weights.items()):
            if k - 1 in masks:
                masks[k] &= ~_lost_rows(weights[k - 1], masks[k - 1])[weight.indices]
                if weight.nnz and not masks[k].any():
                    got = f"the loss of all entries of Linear number {k} with the neurons before it"
                    raise InputError("structure", "each layer to keep an entry", got, KEEP_SOME)
        return masks


def _lost_rows(weight: CSR, mask: Array) -> Array:
    """Return which rows lose all the entries they have, shape (out_features,)."""
    kept = np.zeros(weight.nnz + 1, np.int64)
    np.cumsum(mask, out=kept[1:])
    bounds = kept[weight.indptr]
    lost: Array = (bounds[1:] == bounds[:-1]) & (np.diff(weight.indptr) > 0)
    return lost


def check_sparsity(sparsity: Any, structure: Structure) -> float | None:
    """Return the sparsity as a float from 0 to below 1; N:M has its own.

    Raises
    ------
    DtypeError, InputError
    """
    number = isinstance(sparsity, int | float | np.integer | np.floating)
    if sparsity is not None:
        if not number or isinstance(sparsity, bool):
            raise DtypeError("sparsity", "a number from 0 to below 1", repr(sparsity))
        if sparsity == 1:
            fix = "Everything would go; sparsity is the part of the places that is empty."
            raise InputError("sparsity", "a number from 0 to below 1", repr(sparsity), fix)
        if not 0 <= sparsity < 1:
            fix = "Sparsity is the part of the places that is empty: 0.9 for 90 %."
            raise InputError("sparsity", "a number from 0 to below 1", repr(sparsity), fix)
    if isinstance(structure, NM):
        if sparsity is not None and not math.isclose(sparsity, structure.sparsity, abs_tol=1e-9):
            expected = f"{structure.sparsity:g}, that of {structure.n}:{structure.m}, or None"
            raise InputError("sparsity", expected, repr(sparsity))
        return structure.sparsity
    return None if sparsity is None else float(sparsity)


def check_exclude(exclude: Any) -> tuple[int, ...]:
    """Return the numbers of layers as a tuple of int."""
    if isinstance(exclude, int | np.integer) and not isinstance(exclude, bool):
        exclude = (exclude,)
    if not isinstance(exclude, Sequence | np.ndarray | set | frozenset) or isinstance(exclude, str):
        expected = "the numbers of the Linears to leave out"
        raise DtypeError("exclude", expected, repr(exclude), "For example exclude=[-1].")
    for number in exclude:
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise DtypeError("exclude", "whole numbers", repr(number))
    return tuple(int(number) for number in exclude)


def included(depth: int, exclude: Sequence[int], structure: Structure) -> list[int]:
    """Return the numbers of the Linears that are pruned; negative ones count from the end.

    Raises
    ------
    InputError
        A number out of range, or no layer is left.
    """
    for number in exclude:
        if not -depth <= number < depth:
            expected = f"numbers from {-depth} to {depth - 1}, as there are {depth} Linears"
            raise InputError("exclude", expected, repr(number))
    left_out = {number % depth for number in exclude}
    if structure.spares_outputs:
        left_out.add(depth - 1)
    found = [k for k in range(depth) if k not in left_out]
    if not found:
        raise InputError(
            "exclude", "at least one layer to be left", repr(tuple(exclude)),
            "Neurons of the last layer are not removed." if structure.spares_outputs else "",
        )  # fmt: skip
    return found


def spared(depth: int, exclude: Sequence[int], structure: Structure) -> list[int]:
    """Return the last layer's number if only its columns may go, with the neurons before it."""
    left_out = {number % depth for number in exclude}
    only_columns = structure.next_columns and structure.spares_outputs
    return [depth - 1] if only_columns and depth - 1 not in left_out else []


def check_distribution(distribution: Any) -> str:
    """Return the name of a distribution."""
    return choose("distribution", distribution, DISTRIBUTIONS)
