"""Structures: what is removed as a whole. Entries, blocks, rows, or all but n of m neighbours.

Masks are over the stored entries of a CSR; nothing has the size out x in.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from gbdnn.errors import DtypeError, InputError, ShapeError, UnknownNameError
from gbdnn.pruning._patterns import rows_of, top
from gbdnn.pruning.distributions import Share
from gbdnn.weights.csr import CSR

__all__ = ["NM", "Block", "Neuron", "Structure", "Unstructured", "structure"]

Array = npt.NDArray[Any]
FIX = "Leave the layer out with exclude=, or choose another structure."


class Structure(Protocol):
    """What pruning asks of a structure."""

    spares_outputs: ClassVar[bool]  # the last layer is left alone

    @property
    def next_columns(self) -> bool:
        """Whether the next layer loses the columns of rows that are removed."""

    def check(self, shape: tuple[int, int], name: str) -> None:
        """Raise `ShapeError` if a layer of this shape cannot have the structure."""

    def share(self, weight: CSR, scores: Array) -> Share:
        """Return the scores of the layer's units."""

    def fixed(self, density: float) -> int | None:
        """Return the units that every layer keeps, None if a distribution decides."""

    def keep(self, weight: CSR, scores: Array, units: int) -> Array:
        """Return the mask, shape (nnz,), of the entries of the best `units` units."""


class _Plain:
    spares_outputs: ClassVar[bool] = False

    def check(self, shape: tuple[int, int], name: str) -> None:
        """All shapes will do."""

    def fixed(self, density: float) -> int | None:
        """A distribution decides."""
        return None

    next_columns = False


@dataclass(frozen=True)
class Unstructured(_Plain):
    """Single entries, each on its own."""

    def share(self, weight: CSR, scores: Array) -> Share:
        """Return the scores as they are."""
        return Share(scores, weight.shape[0] * weight.shape[1], 1, weight.shape)

    def keep(self, weight: CSR, scores: Array, units: int) -> Array:
        """Return the mask of the `units` largest scores; of equal ones the first."""
        return top(scores, units)


class _Blocks(_Plain):
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
        sums, block = self._sums(weight, scores)
        return top(sums, units)[block]

    def _sums(self, weight: CSR, scores: Array) -> tuple[Array, Array]:
        """Return the sum of each block that has entries, and each entry's number among these."""
        height, width = self.size(weight.shape)
        number = rows_of(weight) // height * (weight.shape[1] // width) + weight.indices // width
        found, block = np.unique(number, return_inverse=True)
        return np.bincount(block, weights=scores, minlength=len(found)), block


@dataclass(frozen=True)
class Block(_Blocks):
    """Blocks of `rows` outputs x `columns` inputs, kept or removed as a whole.

    Both must divide the layer's shape (block-sparse layers: Gray et al. 2017; Narang et al. 2017,
    arXiv:1711.02782).
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        _check_counts(rows=self.rows, columns=self.columns)

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
    spares_outputs: ClassVar[bool] = True

    def size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return one row."""
        return 1, shape[1]


@dataclass(frozen=True)
class NM(_Plain):
    """At most n entries in each group of m consecutive inputs of a row.

    The structure fixes every layer's sparsity, 1 - n/m; distributions have nothing to decide.
    On the way there (`Polynomial`) groups keep m - 1, m - 2, ... n entries. m must divide
    in_features (Mishra et al. 2021, arXiv:2104.08378, for 2:4).
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        _check_counts(n=self.n, m=self.m)
        if self.n >= self.m:
            raise InputError("n", f"a whole number below m = {self.m}", repr(self.n))

    @property
    def sparsity(self) -> float:
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


def structure(name: Any) -> Structure:
    """Return the structure that `name` says.

    Parameters
    ----------
    name : str, Structure or None
        "unstructured" (also None), "neuron", "2:4" (`NM`), "4x4" (`Block`, rows x columns).

    Raises
    ------
    UnknownNameError, DtypeError
    """
    if name is None or name == "unstructured":
        return Unstructured()
    if name == "neuron":
        return Neuron()
    if isinstance(name, Unstructured | Block | Neuron | NM):
        return name
    known = "'unstructured', 'neuron', n:m as in '2:4', or rows x columns as in '4x4'"
    if not isinstance(name, str):
        raise DtypeError("structure", f"a structure or {known}", type(name).__name__)
    parts = re.fullmatch(r"(\d{1,9})(:|x)(\d{1,9})", name)
    if parts is None:
        raise UnknownNameError("structure", f"one of {known}", repr(name))
    first, second = int(parts[1]), int(parts[3])
    return NM(first, second) if parts[2] == ":" else Block(first, second)


def _check_counts(**counts: Any) -> None:
    for argument, count in counts.items():
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if not whole or count < 1:
            raise InputError(argument, "a whole number from 1 up", repr(count))
