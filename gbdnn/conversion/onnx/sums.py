"""What one time step of a loop computes, as sums of terms: enough to see a GRU in its nodes.

A value of shape (samples, size) is the sum of atoms times matrices, plus a shift. Atoms are the
step's input x, the state h, sigmoid and tanh of sums, and products of two atoms, place by place. So
it does not matter how nodes cut the gates' matrices, nor in which order they add.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gbdnn.types import Array

__all__ = ["Atom", "Sum"]

MOST = 32  # terms of a sum


@dataclass(frozen=True, eq=False)
class Atom:
    """What is not taken apart: "x", "h", "sigmoid" or "tanh" of a sum, "sum", "product"."""

    kind: str
    inner: Any = None  # the sum, or both atoms


@dataclass(frozen=True, eq=False)
class Sum:
    """Atoms times a number or a matrix (size of the atom, size), plus a shift."""

    size: int
    terms: Mapping[Atom, Any] = field(default_factory=dict)
    shift: Any = 0.0

    @classmethod
    def of(cls, atom: Atom, size: int) -> Sum:
        """Return an atom alone."""
        return cls(size, {atom: 1.0})

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices."""
        return sum(int(np.asarray(factor).nbytes) for factor in self.terms.values())

    @property
    def plain(self) -> bool:
        """Whether atoms are multiplied with numbers only."""
        return all(np.ndim(factor) == 0 for factor in self.terms.values())

    def plus(self, other: Sum | Array) -> Sum:
        """Return the sum of both."""
        if not isinstance(other, Sum):
            return Sum(self.size, self.terms, self.shift + vector(other, self.size))
        if other.size != self.size:
            raise ValueError(f"a sum of {self.size} and {other.size} features")
        if len(self.terms) + len(other.terms) > 2 * MOST:
            raise ValueError(f"a sum of {len(self.terms)} and {len(other.terms)} terms")
        terms = dict(self.terms)
        for atom, factor in other.terms.items():
            terms[atom] = both(terms[atom], factor, self.size) if atom in terms else factor
        return Sum(self.size, terms, self.shift + other.shift)

    def times(self, factor: Any) -> Sum:
        """Return the sum times a number, or a number for each feature."""
        each = vector(factor, self.size)
        if np.ndim(each):
            return self.through(np.diag(each))
        return Sum(self.size, {a: f * each for a, f in self.terms.items()}, self.shift * each)

    def through(self, matrix: Array) -> Sum:
        """Return the product with a matrix (size, other size)."""
        if matrix.ndim != 2 or matrix.shape[0] != self.size:
            raise ValueError(f"a matrix of shape {matrix.shape} for {self.size} features")
        terms = {a: f @ matrix if np.ndim(f) else f * matrix for a, f in self.terms.items()}
        shift = self.shift if np.ndim(self.shift) else np.full(self.size, self.shift)
        return Sum(matrix.shape[1], terms, shift @ matrix if np.any(shift) else 0.0)

    def part(self, begin: int, end: int) -> Sum:
        """Return features from `begin` to before `end`."""
        if (begin, end) == (0, self.size):
            return self
        shift = self.shift[begin:end] if np.ndim(self.shift) else self.shift
        atom, factor = next(iter(self.terms.items())) if len(self.terms) == 1 else (None, 0.0)
        if atom is not None and atom.kind in ("sigmoid", "tanh") and np.ndim(factor) == 0:
            inner = Atom(atom.kind, atom.inner.part(begin, end))
            return Sum(end - begin, {inner: factor}, shift)
        eye = np.eye(self.size, dtype=np.float32)[:, begin:end]
        terms = {a: f[:, begin:end] if np.ndim(f) else f * eye for a, f in self.terms.items()}
        return Sum(end - begin, terms, shift)

    def product(self, other: Sum) -> Sum:
        """Return the product of both, place by place."""
        if other.size != self.size:
            raise ValueError(f"a product of {self.size} and {other.size} features")
        if len(self.terms) * len(other.terms) > MOST:
            raise ValueError(f"a product of {len(self.terms)} and {len(other.terms)} terms")
        first, second = (x if x.plain else Sum.of(Atom("sum", x), x.size) for x in (self, other))
        made = first.times(second.shift).plus(Sum(self.size, second.terms).times(first.shift))
        for a, p in first.terms.items():
            for b, q in second.terms.items():
                made = made.plus(Sum(self.size, {Atom("product", (a, b)): p * q}))
        return made.without_zeros()

    def without_zeros(self) -> Sum:
        """Return it without terms that are 0."""
        return Sum(self.size, {a: f for a, f in self.terms.items() if np.any(f)}, self.shift)

    def applied(self, kind: str) -> Sum:
        """Return sigmoid or tanh of it."""
        return Sum.of(Atom(kind, self), self.size)


def vector(value: Any, size: int) -> Any:
    """Return a constant as one number or one for each feature.

    Raises
    ------
    ValueError
        For another shape.
    """
    array = np.asarray(value)
    if array.size == 1:
        return array.reshape(())[()]
    if array.size != size or array.shape[-1] != size:
        raise ValueError(f"a constant of shape {array.shape} for {size} features")
    return array.reshape(-1)


def both(first: Any, second: Any, size: int) -> Any:
    """Return the sum of two factors, numbers or matrices."""
    if np.ndim(first) == np.ndim(second):
        return first + second
    eye = np.eye(size, dtype=np.float32)
    return (first if np.ndim(first) else first * eye) + (
        second if np.ndim(second) else second * eye
    )
