"""From scores and a density to masks: what `prune` and `Sparsifier` have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from gbdnn.errors import DtypeError, InputError
from gbdnn.layers import Layer
from gbdnn.pruning.distributions import Distribution, Share
from gbdnn.pruning.distributions import distribution as as_distribution
from gbdnn.pruning.structures import Structure
from gbdnn.types import Array
from gbdnn.weights import CSR, Weight
from gbdnn.weights.patterns import rows_of

__all__ = [
    "Selection", "check_exclude", "check_sparsity", "cut_off", "followers", "left_out",
]  # fmt: skip

KEEP_SOME = "Lower the sparsity, or leave the weight out with exclude=."
Pair = tuple[str, str]


@dataclass(frozen=True)
class Selection:
    """Which entries stay, by a structure and a distribution.

    Weights come as dicts from their names to patterns, and to scores of shape (nnz,).

    Attributes
    ----------
    structure : Structure
    distribution : function
    names : tuple of str
        The weights that are pruned, in order.
    pairs : tuple of (str, str)
        The second weight loses the columns of rows that the first one loses.
    outputs : frozenset of str
        Weights whose rows are the network's outputs: those that have entries keep some.
    """

    structure: Structure
    distribution: Distribution
    names: tuple[str, ...]
    pairs: tuple[Pair, ...] = ()
    outputs: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        structure: Structure,
        distribution: Distribution | str,
        exclude: Sequence[int | str],
        names: Iterable[str],
        layers: Mapping[str, Layer],
    ) -> Selection:
        """Choose among the weights `names` of `layers`.

        Raises
        ------
        InputError
            `exclude` has a number out of range or a name that no weight has, or leaves none.
        """
        names = list(names)
        out = left_out(exclude, names)
        pairs, outputs = followers(layers.items())
        spared = outputs if structure.spares_outputs else set()
        chosen = tuple(name for name in names if name not in out | spared)
        if not chosen:
            raise InputError(
                "exclude", "at least one weight to be left", repr(tuple(exclude)),
                "Neurons of the last layer are not removed." if spared else "",
            )  # fmt: skip
        follow = [pair for pair in pairs if structure.next_columns and not out & {*pair}]
        return cls(
            structure, as_distribution(distribution), chosen, tuple(follow), frozenset(outputs)
        )

    @property
    def touched(self) -> list[str]:
        """The weights that may lose entries: `names`, and those that only lose columns."""
        return list(dict.fromkeys((*self.names, *(name for pair in self.pairs for name in pair))))

    def check(self, weights: Mapping[str, CSR]) -> None:
        """Raise `ShapeError` for a weight that cannot have the structure."""
        for name in self.names:
            self.structure.check(weights[name].shape, name)

    def density(self, weights: Mapping[str, CSR]) -> float:
        """Return the part of all places that units with entries cover: without structure, nnz."""
        shares = self._shares(weights, None)
        covered = sum(len(share.scores) * share.places for share in shares)
        return covered / sum(share.units * share.places for share in shares)

    def units(
        self, weights: Mapping[str, CSR], density: float, scores: Mapping[str, Array] | None = None
    ) -> dict[str, int]:
        """Return how many units each weight keeps; without scores all count alike.

        Raises
        ------
        InputError
            If a weight would be left without entries.
        """
        fixed = self.structure.fixed(density)
        if fixed is not None:
            return dict.fromkeys(self.names, fixed)
        shares = self._shares(weights, scores)
        counts = self.distribution(shares, density)
        for name, count, share in zip(self.names, counts, shares, strict=True):
            if count == 0 and len(share.scores):
                got = f"{1 - density:g}, which leaves {name} {share.shape} none"
                expected = "a value that leaves each weight and each output at least one entry"
                raise InputError("sparsity", expected, got, KEEP_SOME)
        return dict(zip(self.names, counts, strict=True))

    def masks(
        self, weights: Mapping[str, CSR], scores: Mapping[str, Array], units: Mapping[str, int]
    ) -> dict[str, Array]:
        """Return the mask of the entries that stay, for each weight of `touched`.

        Raises
        ------
        InputError
            If a weight would be left without entries.
        """
        masks = {
            name: self._mask(name, weights[name], scores[name], units[name])
            if name in units
            else np.ones(weights[name].nnz, bool)
            for name in self.touched
        }
        for before, after in self.pairs:
            weight = weights[after]
            masks[after] &= ~_lost_rows(weights[before], masks[before])[weight.indices]
            if weight.nnz and not masks[after].any():
                got = f"the loss of all entries of {after} with the neurons before it"
                raise InputError("structure", "each weight to keep an entry", got, KEEP_SOME)
        return masks

    def least(self, name: str, weight: CSR) -> int:
        """Return how many units a weight keeps at least."""
        if name not in self.outputs:
            return 1
        return self.structure.spanning(weight, np.zeros(weight.nnz, np.float32))[0]

    def _mask(self, name: str, weight: CSR, scores: Array, units: int) -> Array:
        """Return the mask of the best units; the outputs' rows keep their best."""
        mask = self.structure.keep(weight, scores, units)
        if name in self.outputs and _lost_rows(weight, mask).any():
            count, spanning = self.structure.spanning(weight, scores)
            if count <= units:
                first = np.where(spanning, np.inf, scores)
                mask = self.structure.keep(weight, first, units)
        return mask

    def _shares(
        self, weights: Mapping[str, CSR], scores: Mapping[str, Array] | None
    ) -> list[Share]:
        found = []
        for name in self.names:
            weight = weights[name]
            given = np.zeros(weight.nnz, np.float32) if scores is None else scores[name]
            share = self.structure.share(weight, given)
            found.append(replace(share, least=self.least(name, weight)))
        return found


def _lost_rows(weight: CSR, mask: Array) -> Array:
    """Return which rows lose all the entries they have, shape (out_features,)."""
    kept = np.zeros(weight.nnz + 1, np.int64)
    np.cumsum(mask, out=kept[1:])
    bounds = kept[weight.indptr]
    lost: Array = (bounds[1:] == bounds[:-1]) & (np.diff(weight.indptr) > 0)
    return lost


def followers(layers: Iterable[tuple[str, Layer]]) -> tuple[list[Pair], set[str]]:
    """Return which weight reads what which other one gives, and the weights of the outputs.

    Parameters
    ----------
    layers : iterable of (str, Layer)
        Layers by the prefixes of their parameters' names, in order: "layers.2". Prefixes that are
        equal but for the number are a chain; the last layer of each that has weights gives outputs.

    Returns
    -------
    pairs : list of (str, str)
        Names of a weight whose rows are neurons (`Layer.rows_of`), and of the one whose columns
        they are (`Layer.columns_of`), of layers with at most elementwise ones between them.
    outputs : set of str
    """
    pairs, outputs = [], set()
    for _, chain in groupby(layers, lambda item: item[0].rpartition(".")[0]):
        wide = [(prefix, layer) for prefix, layer in chain if layer.in_features is not None]
        for (before, producer), (after, consumer) in pairwise(wide):
            if producer.rows_of and consumer.columns_of:
                pairs.append((f"{before}.{producer.rows_of}", f"{after}.{consumer.columns_of}"))
        last = next((item for item in reversed(wide) if item[1].weight_names), None)
        outputs |= {f"{last[0]}.{name}" for name in last[1].weight_names} if last else set()
    return pairs, outputs


def cut_off(weights: Mapping[str, Weight], layers: Mapping[str, Layer]) -> int:
    """Return how many rows of the outputs' weights no input reaches through the layers before."""
    pairs, outputs = followers(layers.items())
    sources = {after: before for before, after in pairs}
    reached: dict[str, Array] = {}
    for name, weight in weights.items():
        columns = reached.get(sources.get(name, ""), np.ones(weight.shape[1], bool))
        if weight.density == 1:
            reached[name] = np.full(weight.shape[0], columns.any())
        else:
            pattern = weight.pattern()
            rows = rows_of(pattern)[columns[pattern.indices]]
            reached[name] = np.bincount(rows, minlength=weight.shape[0]) > 0
    return sum(int(np.count_nonzero(~reached[name])) for name in outputs)


def check_sparsity(sparsity: Any, structure: Structure) -> float | None:
    """Return the sparsity as a float from 0 to below 1; a structure may have its own.

    Raises
    ------
    DtypeError, InputError
    """
    expected = "a number from 0 to below 1"
    number = isinstance(sparsity, int | float | np.integer | np.floating)
    if sparsity is not None and (not number or isinstance(sparsity, bool)):
        raise DtypeError("sparsity", expected, repr(sparsity))
    if sparsity is not None and not 0 <= sparsity < 1:
        fix = "Sparsity is the part of the places that is empty: 0.9 for 90 %."
        raise InputError("sparsity", expected, repr(sparsity), fix)
    own = structure.sparsity
    if own is not None and sparsity is not None and not math.isclose(sparsity, own, abs_tol=1e-9):
        expected = f"{own:g}, that of {structure}, or None"
        raise InputError("sparsity", expected, repr(sparsity))
    return own if own is not None or sparsity is None else float(sparsity)


def check_exclude(exclude: Any) -> tuple[int | str, ...]:
    """Return positions, names and patterns as a tuple."""
    if isinstance(exclude, int | np.integer) and not isinstance(exclude, bool):
        exclude = (exclude,)
    fix = 'For example exclude=[-1], ["layers.0.weight"] or ["*.recurrent"].'
    if not isinstance(exclude, Sequence | np.ndarray | set | frozenset) or isinstance(exclude, str):
        expected = "a list of the weights to leave out, by position, name or pattern"
        raise DtypeError("exclude", expected, repr(exclude), fix)
    for entry in exclude:
        if isinstance(entry, bool) or not isinstance(entry, int | np.integer | str):
            raise DtypeError("exclude", "whole numbers, names or patterns", repr(entry), fix)
    if isinstance(exclude, set | frozenset) and any(isinstance(entry, str) for entry in exclude):
        exclude = sorted(exclude, key=str)  # settings print alike in every process
    return tuple(str(entry) if isinstance(entry, str) else int(entry) for entry in exclude)


def left_out(exclude: Sequence[int | str], names: Sequence[str]) -> set[str]:
    """Return the names that positions (negative ones from the end), names and patterns mean.

    Raises
    ------
    InputError
        A position out of range; a name or pattern that fits none.
    """
    found, count = set[str](), len(names)
    for entry in exclude:
        if isinstance(entry, str):
            fitting = [name for name in names if fnmatchcase(name, entry)]
            expected = f"names, or patterns of names, of {', '.join(names)}"
        else:
            fitting = [names[entry]] if -count <= entry < count else []
            expected = f"positions from {-count} to {count - 1}, as there are {count} weights"
        if not fitting:
            raise InputError("exclude", expected, repr(entry))
        found.update(fitting)
    return found
