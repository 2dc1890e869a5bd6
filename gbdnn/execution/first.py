"""The first layer of very sparse samples: a product of two sparse matrices.

A document of 40 words out of a million makes 40 columns of W matter. A tile that holds it as a full
column would cost the whole width of the layer; scipy's product costs what the non-zeros cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from gbdnn.data.inputs import Ids, Inputs, SparseInputs
from gbdnn.execution.source import Sink
from gbdnn.layers.base import Layer
from gbdnn.types import Array

__all__ = ["FirstOfSparse", "PartOfSparse", "suits"]

BATCH = 1024  # samples whose results are in memory twice
WIDE, WIDEST = 4096, 1 << 27  # features from which it may pay, and for which W^T has room
DENSITY = 1 / 32  # of the samples, below which it does: a multiplication costs about so much more


def suits(groups: Sequence[Sequence[Layer]], inputs: Inputs) -> bool:
    """Return whether to compute the first group of layers, an affine one's, for samples so."""
    layers, rest = groups[0], groups[1:]
    return (
        isinstance(inputs, SparseInputs)
        and WIDE <= inputs.features <= WIDEST
        and _density(inputs) < DENSITY
        and layers[0].is_affine
        and all(layer.is_activation or layer.only_trains for layer in layers[1:])
        and (not rest or any(layer.weight_names for group in rest for layer in group))
    )


def _density(inputs: SparseInputs) -> float:
    if isinstance(inputs, PartOfSparse):
        return inputs.density
    entries = int(inputs.indptr[-1] - inputs.indptr[0])
    return entries / (inputs.features * inputs.count) if inputs.count else 1.0


class PartOfSparse(SparseInputs):
    """Some samples of a batch, which are computed in the way that all of them would be.

    Nothing is copied but pointers.
    """

    def __init__(self, whole: SparseInputs, start: int, stop: int) -> None:
        indptr = whole.indptr[start : stop + 1]
        entries = slice(int(indptr[0]), int(indptr[-1]))
        super().__init__(
            indptr - indptr[0], whole.indices[entries], whole.values[entries], whole.features,
            whole.dtype,
        )  # fmt: skip
        self.density = _density(whole)


@dataclass(frozen=True, eq=False)
class FirstOfSparse(Inputs):
    """h(W x + b) of sparse samples x, as inputs of the layers behind.

    Parameters
    ----------
    inputs : SparseInputs
    layers : sequence of Layer
        An affine one and its activations.
    transposed : scipy.sparse.csr_array
        W^T.
    """

    inputs: SparseInputs
    layers: Sequence[Any]
    transposed: sp.csr_array

    def write_to(self, sink: Sink) -> None:
        """Compute the layer for all samples, where nothing comes behind it."""
        for start in range(0, self.count, BATCH):
            ids = np.arange(start, min(start + BATCH, self.count))
            Y = np.empty((1, self.features, len(ids)), self.dtype)
            self.load(slice(start, start + len(ids)), Y)
            sink.write(ids, Y[0])

    @staticmethod
    def transpose(layer: Any) -> sp.csr_array:
        """Return W^T of an affine layer. O(nnz), a copy."""
        weight = layer.weight
        return sp.csr_array(weight.pattern().with_entries(weight.entries).to_scipy().T.tocsr())

    @property
    def count(self) -> int:  # type: ignore[override]
        """Number of samples."""
        return self.inputs.count

    @property
    def features(self) -> int:  # type: ignore[override]
        """Values behind the layer."""
        return int(self.transposed.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """What the layer computes in."""
        return self.inputs.dtype

    def load(self, ids: Ids, out: Array) -> None:
        """Compute the layer for samples into `out`."""
        given = self.inputs
        values = given.values.astype(self.dtype, copy=False)
        layer = self.layers[0]
        if layer.weight.levels is not None:  # 0 is one of them: what is absent stays so
            rounded = np.empty_like(values)
            layer.weight.levels.fake(values, rounded)
            values = rounded
        shape = (given.count, given.features)
        X = sp.csr_array((values, given.indices, given.indptr), shape=shape)[ids]
        Z = out[0]
        Z[...] = (X @ self.transposed).toarray().T
        Z += layer.bias if layer.bias.ndim == 0 else layer.bias[:, None]
        for activation in self.layers[1:]:
            if not activation.only_trains:
                activation.apply(Z)
