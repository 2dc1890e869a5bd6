"""Structures: what is removed as a whole. Entries, blocks, rows, or all but n of m neighbours.

Masks are over the stored entries of a CSR; nothing has the size out x in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.errors import InputError, ShapeError
from gbdnn.pruning.distributions import Share
from gbdnn.types import Array
from gbdnn.weights import CSR
from gbdnn.weights.patterns import rows_of, top

__all__ = ["NM", "STRUCTURES", "Block", "Neuron", "Structure", "Unstructured", "structure"]

FIX = "Leave the layer out with exclude=, or choose another structure."


class Structure:
    """What pruning asks of a structure, with the answers of most.

    Attributes
    ----------
    grows : bool
        Entries are single, so that growth may exchange them.
    spares_outputs : bool
        The weights of the network's last layer are left alone.
    next_columns : bool
        The next layer loses the columns of rows that are removed.
    sparsity : float or None
        The only one that there is.
    """

    grows: bool = False
    spares_outputs: bool = False
    next_columns: bool = False
    sparsity: float | None = None

    def check(self, shape: tuple[int, int], name: str) -> None:
        """Raise `ShapeError` if a weight of this shape and name cannot have the structure."""

    def share(self, weight: CSR, scores: Array) -> Share:
        """Return the scores of the weight's units."""
        raise NotImplementedError

    def fixed(self, density: float) -> int | None:
        """Return the units that every weight keeps, None if a distribution decides."""
        return None

    def keep(self, weight: CSR, scores: Array, units: int) -> Array:
        """Return the mask, shape (nnz,), of the entries of the best `units` units."""
        raise NotImplementedError

    def spanning(self, weight: CSR, scores: Array) -> tuple[int, Array]:
        """Return the best units that keep an entry in all rows that have some, if that is known.

        Returns
        -------
        units : int
            Their number.
        mask : ndarray of bool, shape (nnz,)
            Their entries.
        """
        return 1, np.zeros(weight.nnz, bool)


@dataclass(frozen=True)
class Unstructured(Structure):
    """Single entries, each on its own."""

    grows = True

    def share(self, weight: CSR, scores: Array) -> Share:
        """Return the scores as they are."""
        return Share(scores, weight.shape[0] * weight.shape[1], 1, weight.shape)

    def keep(self, weight: CSR, scores: Array, units: int) -> Array:
        """Return the mask of the `units` largest scores; of equal ones the first."""
        return top(scores, units)

    def spanning(self, weight: CSR, scores: Array) -> tuple[int, Array]:
        """Return the best entry of each row."""
        best = _best(rows_of(weight), scores)
        mask = np.zeros(weight.nnz, bool)
        mask[best] = True
        return len(best), mask


class _Blocks(Structure):
    """Rectangles; a rectangle's score is the sum over its entries, divided by its places."""

    def size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of a block."""
        raise NotImplementedError

    def share(self, weight: CSR, scores: Array) -> Share:
        """Return the mean scores of the blocks that have entries."""
        height, width = self.size(weight.shape)
        places = height * width
        units = weight.shape[0] * weight.shape[1] // places
        return Share(self._sums(weight, scores)[0] / places, units, places, weight.shape)

    def keep(self, weight: CSR, scores: Array, units: int) -> Array:
        """Return the mask of all entries of the best `units` blocks."""
        sums, block, _ = self._sums(weight, scores)
        return top(sums, units)[block]

    def spanning(self, weight: CSR, scores: Array) -> tuple[int, Array]:
        """Return the best block of each row of blocks."""
        sums, block, number = self._sums(weight, scores)
        best = _best(number // (weight.shape[1] // self.size(weight.shape)[1]), sums)
        return len(best), np.isin(block, best)

    def _sums(self, weight: CSR, scores: Array) -> tuple[Array, Array, Array]:
        """Return the sum of each block that has entries, each entry's number among these blocks,
        and their numbers among all."""
        height, width = self.size(weight.shape)
        number = rows_of(weight) // height * (weight.shape[1] // width) + weight.indices // width
        found, block = np.unique(number, return_inverse=True)
        return np.bincount(block, weights=scores, minlength=len(found)), block, found


@dataclass(frozen=True)
class Block(_Blocks):
    """Blocks of `rows` outputs x `columns` inputs, kept or removed as a whole.

    Both must divide the layer's shape (block-sparse layers: Gray et al. 2017; Narang et al. 2017,
    arXiv:1711.02782).
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        checks.count("rows", self.rows)
        checks.count("columns", self.columns)

    def check(self, shape: tuple[int, int], name: str) -> None:
        """Refuse shapes that the blocks do not divide."""
        if shape[0] % self.rows or shape[1] % self.columns:
            expected = f"a shape that blocks of {self.rows} x {self.columns} divide"
            raise ShapeError(name, expected, f"{shape[0]} x {shape[1]}", FIX)

    def size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of a block."""
        return self.rows, self.columns


@dataclass(frozen=True)
class Neuron(_Blocks):
    """Whole rows: the weights into a neuron. The network's outputs, its last layer, are spared.

    Parameters
    ----------
    next_columns : bool
        Also drop what the next layer weighs a removed neuron with. Without it, the neuron gives
        h(bias) to the next layer, whatever the input.

    Notes
    -----
    Shapes stay as they are; removed rows and columns are empty (Li et al. 2017, arXiv:1608.08710).
    """

    next_columns: bool = False
    spares_outputs = True

    def size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return one row."""
        return 1, shape[1]


@dataclass(frozen=True)
class NM(Structure):
    """At most n entries in each group of m consecutive inputs of a row.

    The structure fixes every layer's sparsity, 1 - n/m; distributions have nothing to decide.
    On the way there (`Polynomial`) groups keep m - 1, m - 2, ... n entries. m must divide
    in_features (Mishra et al. 2021, arXiv:2104.08378, for 2:4).
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if checks.count("n", self.n) >= checks.count("m", self.m):
            raise InputError("n", f"a whole number below m = {self.m}", repr(self.n))

    @property
    def sparsity(self) -> float:  # type: ignore[override]
        """1 - n/m."""
        return 1 - self.n / self.m

    def check(self, shape: tuple[int, int], name: str) -> None:
        """Refuse in_features that m does not divide."""
        if shape[1] % self.m:
            expected = f"in_features that are a multiple of m = {self.m}"
            raise ShapeError(name, expected, f"{shape[1]} (shape {shape[0]} x {shape[1]})", FIX)

    def share(self, weight: CSR, scores: Array) -> Share:
        """Return a layer of m units: the places of a group."""
        return Share(
            np.zeros(self.m), self.m, weight.shape[0] * weight.shape[1] // self.m, weight.shape
        )

    def fixed(self, density: float) -> int | None:
        """Return ceil(density * m), at least n."""
        return max(math.ceil(density * self.m - 1e-9), self.n)

    def keep(self, weight: CSR, scores: Array, units: int) -> Array:
        """Return the mask of the best `units` entries of each group; of equal ones the first."""
        group = rows_of(weight) * (weight.shape[1] // self.m) + weight.indices // self.m
        order = np.lexsort((-scores, group))
        ordered = group[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
        mask = np.zeros(len(order), bool)
        mask[order[rank < units]] = True
        return mask


def _best(group: Array, scores: Array) -> Array:
    """Return the first of the largest scores of each group."""
    order = np.lexsort((-scores, group))
    best: Array = order[np.flatnonzero(np.diff(group[order], prepend=-1))]
    return best


STRUCTURES: dict[str, Callable[..., Structure]] = {
    "2:4": NM,
    "4x4": Block,
    "neuron": Neuron,
    "unstructured": Unstructured,
}
"""By names; where a name has numbers any others may stand, which the function gets."""


def structure(name: Any) -> Structure:
    """Return the structure that a name says; None is "unstructured", a `Structure` stays as it is.

    Raises
    ------
    UnknownNameError, DtypeError
    """
    if name is None:
        return Unstructured()
    for example, make in STRUCTURES.items():
        pattern = re.sub(r"\d+", r"(\\d{1,9})", re.escape(example))
        if isinstance(name, str) and (found := re.fullmatch(pattern, name)):
            return make(*map(int, found.groups()))
    members = (member for member in vars(Structure) if not member.startswith("_"))
    made: Structure = checks.entry("structure", name, STRUCTURES, *members)
    return made
