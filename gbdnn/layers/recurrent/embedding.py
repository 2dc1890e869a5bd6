"""The embedding: column x of W for a number x."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gbdnn.errors import InputError
from gbdnn.layers.base import Layer, Run, Tape
from gbdnn.layers.recurrent.common import matrix, set_fields
from gbdnn.types import Array
from gbdnn.weights import Weight

__all__ = ["Embedding"]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Embedding(Layer):
    """y = W e_x, the column of W with the number x: the first layer of networks for symbols.

    It takes one feature, a whole number from 0 to vocabulary - 1. For a tile the product with the
    different columns e_x of it is computed once, so that every form of W and every backend can do
    it; its gradient is dW = (sums of dy by x) times those columns transposed, at W's pattern.

    Parameters
    ----------
    weight : Weight, scipy sparse, ndarray or torch tensor, shape (out_features, vocabulary)
        torch.nn.Embedding has its transpose.
    dtype : float32 or float64, default float32
    """

    kind = "embedding"
    weight_names = ("weight",)

    weight: Weight

    def __init__(self, weight: Any, *, dtype: npt.DTypeLike = np.float32) -> None:
        set_fields(self, dtype, weight=matrix("weight", weight, dtype))

    @classmethod
    def of(cls, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Self:
        """Return a layer in the dtype of its weight."""
        if "weight" not in parameters:
            raise InputError(cls.kind, "a weight", ", ".join(parameters) or "no parameter")
        return cls(**parameters, **settings, dtype=parameters["weight"].dtype)

    @property
    def in_features(self) -> int:
        """One: the number."""
        return 1

    @property
    def out_features(self) -> int:
        """Rows of W."""
        return int(self.weight.shape[0])

    def forward(self, run: Run, p: Any, Y: Array, tape: Tape = None) -> Array:
        """Return the columns of W."""
        size, ids = self.weight.shape[1], Y[:, 0]
        wrong = ~((ids >= 0) & (ids < size) & (ids == np.floor(ids)))
        if wrong.any():
            raise InputError("X", f"whole numbers from 0 to {size - 1}", f"{ids[wrong][0]}")
        run.keep(tape, Y)
        return run.columns(p.weight, ids.astype(np.int64))

    def backward(self, run: Run, p: Any, dY: Array, tape: list[Array]) -> Array:
        """Write the gradient of W; numbers have none."""
        found, places = np.unique(tape[0][:, 0].astype(np.int64), return_inverse=True)
        units = run.units(p.weight, found)
        ones, shape = np.ones(places.size, dY.dtype), (len(found), places.size)
        sums = sp.csr_array((ones, (places.ravel(), np.arange(places.size))), shape=shape)
        dZ = run.empty(1, self.out_features, units.shape[2])
        dZ[...] = 0
        dZ[0, :, : len(found)] = (sums @ dY.transpose(0, 2, 1).reshape(places.size, -1)).T
        run.weight_grad(p, "weight", dZ, units)
        return dY

    def __repr__(self) -> str:
        return f"Embedding({self.weight.shape[1]} -> {self.out_features}, {self.weight.dtype})"
