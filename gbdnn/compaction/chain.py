r"""Neurons that make no difference, and layers without them.

Between two affine layers with an elementwise h, Z = V h(W Y + b) + c, a row i of W is a neuron. It

- is *dead* if nobody reads it: column i of V is 0. Row i of W and column i of V go;
- is *constant* at k if row i of W is 0, k = h(b_i), or if its sum cannot leave a bound of h: with
  y >= 0, W_i <= 0 and b_i <= 0 a ReLU gives 0. Then V_i k is added to c;
- has a *twin* i' if rows and biases are equal. Then V_i' is added to V_i.

Stored zeros go too. Each of these may make others possible, so all are repeated until nothing
changes. Sums are taken in float64 and rounded once: where all values are multiples of one power of
two, and sums are exact, so is the result; else it differs by the rounding of the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from gbdnn.layers.base import Layer
from gbdnn.summary import text_table
from gbdnn.types import Array
from gbdnn.weights import CSR, Integers, Weight
from gbdnn.weights.csr import index_dtype
from gbdnn.weights.equal import equal_rows
from gbdnn.weights.patterns import ranges

__all__ = ["Compaction", "LayerCompaction", "compacted", "twins_merged"]


@dataclass(frozen=True)
class LayerCompaction:
    """What went from a layer with a weight: pairs are (before, after).

    Attributes
    ----------
    name : str
        "layers.0".
    neurons : tuple of int
        Rows of its weight.
    dead, constant, twins : int
        Neurons that went as nobody reads them, as they are constant, as others equal them.
    edges, bytes : tuple of int
        Stored weights, bytes of weight and bias.
    """

    name: str
    neurons: tuple[int, int]
    dead: int
    constant: int
    twins: int
    edges: tuple[int, int]
    bytes: tuple[int, int]


@dataclass(frozen=True)
class Compaction:
    """What went from a network. Prints as a table.

    Attributes
    ----------
    layers : tuple of LayerCompaction
        The layers with weights.
    """

    layers: tuple[LayerCompaction, ...]

    @property
    def neurons(self) -> int:
        """Neurons that went."""
        return sum(layer.neurons[0] - layer.neurons[1] for layer in self.layers)

    @property
    def edges(self) -> tuple[int, int]:
        """Stored weights before and after."""
        before, after = (sum(layer.edges[k] for layer in self.layers) for k in (0, 1))
        return before, after

    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes of weights and biases before and after."""
        before, after = (sum(layer.bytes[k] for layer in self.layers) for k in (0, 1))
        return before, after

    @property
    def note(self) -> str:
        """What a summary says of it: nothing, if nothing went."""
        weights = self.edges[0] - self.edges[1]
        if not self.neurons and weights <= 0:
            return ""
        what = f"{self.neurons:,} neurons and {weights:,} weights make no difference"
        return f"{what}: gbdnn.compact removes them"

    def __str__(self) -> str:
        head = ["layer", "neurons", "dead", "constant", "twins", "edges", "bytes"]
        rows = [
            [each.name, _pair(each.neurons), *(str(getattr(each, name)) for name in head[2:5]),
             _pair(each.edges), _pair(each.bytes)]
            for each in self.layers
        ]  # fmt: skip
        sums = [f"{sum(getattr(each, name) for each in self.layers)}" for name in head[2:5]]
        total = ["total", "", *sums, _pair(self.edges), _pair(self.bytes)]
        return text_table([head, *rows, total])


def _pair(pair: tuple[int, int]) -> str:
    return f"{pair[0]:,}" if pair[0] == pair[1] else f"{pair[0]:,} -> {pair[1]:,}"


@dataclass(eq=False)
class _Map:
    """An affine layer while its neurons are counted and removed; `matrix` has float64 values."""

    number: int
    layer: Layer
    matrix: sp.csr_array
    bias: Array
    hidden: bool  # its outputs may go: an affine layer behind it reads them through `after`
    after: list[Any]
    low: float  # what its inputs are not below
    dead: int = 0
    constant: int = 0
    twins: int = 0
    changed: bool = False

    def keep_rows(self, keep: Array) -> None:
        self.matrix, self.bias = sp.csr_array(self.matrix[keep]), self.bias[keep]
        self.changed = True

    def read_by(self, reader: _Map, columns: Any) -> None:
        reader.matrix = sp.csr_array(reader.matrix @ columns)
        reader.matrix.eliminate_zeros()
        reader.matrix.sort_indices()
        reader.changed = True


def compacted(layers: Sequence[Layer]) -> tuple[tuple[Layer, ...], Compaction]:
    """Return layers that compute the same with fewer neurons and stored weights.

    Only neurons between two affine layers (`Layer.is_affine`) with nothing but elementwise
    activations in between go: inputs and outputs stay, and so does what a softmax, a recurrent
    layer or one of an unknown kind gives or reads. A layer keeps one neuron at least.

    Parameters
    ----------
    layers : sequence of Layer
        Not changed; those that lose nothing are shared with the result.

    Returns
    -------
    layers : tuple of Layer
        Weights have their forms as before, as far as these can say the sums; else they are CSR.
    Compaction
        What went.

    Notes
    -----
    O(nnz + neurons log neurons) for each repetition; float64 copies of all weights in memory.
    """
    maps = _maps(layers)
    while sum([_removed(maps, k) for k in range(len(maps))]):
        pass
    made = list(layers)
    report = []
    for each in maps:
        old, given = each.layer, dict[str, Any](each.layer.parameters)
        if each.changed:
            weight = _weight(given["weight"], each.matrix)
            bias = each.bias.astype(weight.dtype)
            if given["bias"].ndim == 0 and (bias == bias[0]).all():
                bias = bias[0]
            made[each.number] = old.replaced(weight=weight, bias=bias)
        new = made[each.number]
        report.append(LayerCompaction(
            f"layers.{each.number}", (old.out_features or 0, new.out_features or 0), each.dead,
            each.constant, each.twins, (old.edges, new.edges), (old.nbytes, new.nbytes),
        ))  # fmt: skip
    taken = {each.number for each in maps}
    others = [k for k, layer in enumerate(layers) if layer.weight_names and k not in taken]
    for k in others:
        layer = layers[k]
        rows = layer.out_features or 0
        pairs = (rows, rows), 0, 0, 0, (layer.edges,) * 2, (layer.nbytes,) * 2
        report.append(LayerCompaction(f"layers.{k}", *pairs))
    report.sort(key=lambda each: int(each.name.split(".")[1]))
    return tuple(made), Compaction(tuple(report))


def _maps(layers: Sequence[Layer]) -> list[_Map]:
    """Return the affine layers, with what is between each and the next.

    Integer weights stay as they are: their scales belong to rows and groups of columns.
    """
    maps: list[_Map] = []
    low = -np.inf  # of what comes in
    after: list[Any] | None = None  # the elementwise layers since the last map
    for k, layer in enumerate(layers):
        if layer.is_affine and not isinstance(layer.parameters["weight"], Integers):
            if after is not None:
                maps[-1].hidden = True
            given: Any = layer.parameters
            weight, bias = given["weight"], given["bias"]
            matrix = weight.pattern().with_entries(np.array(weight.entries, np.float64)).to_scipy()
            stored = matrix.nnz
            matrix.eliminate_zeros()
            bias = np.array(np.broadcast_to(bias, weight.shape[0]), np.float64)
            changed = weight.form != "dense" and matrix.nnz < stored
            after = []
            maps.append(_Map(k, layer, matrix, bias, False, after, low, changed=changed))
            low = -np.inf
        elif layer.only_trains:
            continue
        elif layer.is_elementwise and after is not None:
            after.append(layer)
            low = layer.clamp[0] if layer.clamp else -np.inf
        else:
            low, after = -np.inf, None
    return maps


def _removed(maps: list[_Map], k: int) -> int:
    """Remove neurons of map k once; return how many."""
    one = maps[k]
    if not one.hidden:
        return 0
    reader, count = maps[k + 1], len(one.bias)
    value = _constants(one)
    constant = np.isfinite(value)
    constant[np.flatnonzero(constant)[:1]] &= not constant.all()  # one stays
    if constant.any():
        reader.bias = reader.bias + reader.matrix[:, constant] @ value[constant]
        one.keep_rows(~constant)
        one.read_by(reader, _selection(~constant))
        one.constant += int(constant.sum())
    dead = np.bincount(reader.matrix.indices, minlength=len(one.bias)) == 0
    dead[np.flatnonzero(dead)[:1]] &= not dead.all()
    if dead.any():
        one.keep_rows(~dead)
        one.read_by(reader, _selection(~dead))
        one.dead += int(dead.sum())
    leader = equal_rows(_csr(one.matrix), one.bias)
    kept, place = _numbered(leader)
    if len(kept) < len(leader):
        columns = sp.csr_array((np.ones(len(place)), (np.arange(len(place)), place)))
        one.keep_rows(kept)
        one.read_by(reader, columns)
        one.twins += len(leader) - len(kept)
    return count - len(one.bias)


def _constants(one: _Map) -> Array:
    """Return for each neuron of a map what it gives always; NaN if that is not one number."""
    matrix, dtype = one.matrix, one.layer.dtype
    value = np.full(len(one.bias), np.nan)
    bounds = one.after[0].clamp if one.after else None
    if bounds and np.isfinite(bounds[0]) and one.low >= 0:  # cannot leave the lower bound
        positive = np.zeros(len(value), bool)
        positive[np.repeat(np.arange(len(value)), np.diff(matrix.indptr))[matrix.data > 0]] = True
        value[~positive & (one.bias <= bounds[0])] = bounds[0]
    empty = np.diff(matrix.indptr) == 0
    value[empty] = one.bias[empty]
    known = np.isfinite(value)
    column = value[known].astype(dtype)[:, None]
    for layer in one.after:
        layer.apply(column)
    value[known] = column[:, 0]
    return value


def _selection(keep: Array) -> sp.csr_array:
    """Return the matrix whose product from the right keeps columns."""
    rows = np.flatnonzero(keep)
    count = len(rows)
    return sp.csr_array((np.ones(count), (rows, np.arange(count))), shape=(len(keep), count))


def _csr(matrix: sp.csr_array) -> CSR:
    """Return a scipy matrix as a CSR."""
    rows, columns = matrix.shape
    index = index_dtype(matrix.nnz, (rows, columns))
    indptr, indices = matrix.indptr.astype(index), matrix.indices.astype(index)
    return CSR.unchecked(indptr, indices, matrix.data, (int(rows), int(columns)))


def _weight(old: Any, matrix: sp.csr_array) -> Weight:
    """Return a matrix as a weight of the old one's form."""
    values = matrix.data.astype(old.dtype)
    if old.form == "dense":
        dense = matrix.toarray().astype(old.dtype)
        return type(old)(dense)  # type: ignore[no-any-return]
    pattern = _csr(matrix)
    if len(values) > 1 and (values == values[0]).all():
        values = values[:1]
    plain = pattern.with_entries(values)
    if old.form == "csr":
        return plain
    made: Weight = old.with_entries(plain.full_values, pattern)
    return made if np.array_equal(made.entries, plain.full_values) else plain


def twins_merged(weight: CSR, place: Array | None, *, rows: bool) -> tuple[CSR, Array | None]:
    """Return a layer on merged inputs, and where its own neurons are found: for layers of a stream.

    Parameters
    ----------
    weight : CSR
        One of a chain of layers with elementwise activations and equal biases in a layer.
    place : ndarray of int, shape (in_features,), or None
        Where the neurons before are found; None if they are all there.
    rows : bool
        Merge equal rows too; not those of the last layer.

    Returns
    -------
    CSR
        Values are added in float64.
    place : ndarray or None
        For the next layer.
    """
    none = np.zeros(())
    found = equal_rows(weight, none) if rows else np.arange(weight.shape[0])
    kept, found = _numbered(found)
    matrix = _rows(weight, kept)
    if place is not None:
        columns = int(place.max()) + 1
        parts = matrix.full_values.astype(np.float64), place[matrix.indices], matrix.indptr
        merged = sp.csr_array(parts, shape=(len(kept), columns))
        merged.sum_duplicates()
        merged.eliminate_zeros()
        matrix = _csr(merged)
        if rows:  # some may be equal only now
            kept, again = _numbered(equal_rows(matrix, none))
            matrix, found = _rows(matrix, kept), again[found]
    values = matrix.values.astype(weight.dtype)
    if len(values) > 1 and (values == values[0]).all():
        values = values[:1]
    made = matrix.with_entries(values)
    return made, found if rows and made.shape[0] < weight.shape[0] else None


def _numbered(leader: Array) -> tuple[Array, Array]:
    """Return the rows that lead, and for each row the number of its leader among them."""
    leads = leader == np.arange(len(leader))
    return np.flatnonzero(leads), (np.cumsum(leads) - 1)[leader]


def _rows(weight: CSR, rows: Array) -> CSR:
    """Return some rows of a matrix."""
    if len(rows) == weight.shape[0]:
        return weight
    begin, lengths = weight.indptr[rows], np.diff(weight.indptr)[rows]
    at = ranges(begin, lengths)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(weight.indptr.dtype)
    values = weight.values if weight.iso else weight.values[at]
    return CSR.unchecked(indptr, weight.indices[at], values, (len(rows), weight.shape[1]))
