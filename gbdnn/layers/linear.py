"""The linear layer: Z = W Y + b."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gbdnn.errors import InputError, ShapeError
from gbdnn.layers.base import Layer, Run, Tape
from gbdnn.types import Array
from gbdnn.weights import Weight, as_float_dtype, as_weight
from gbdnn.weights.csr import frozen
from gbdnn.weights.foreign import numeric_array
from gbdnn.weights.patterns import row_sums

__all__ = ["Linear", "as_bias"]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Linear(Layer):
    """Z = W Y + b.

    Parameters
    ----------
    weight : Weight, scipy sparse, graphblas.Matrix, ndarray or torch tensor
        Shape (out_features, in_features), as torch.nn.Linear has it. A sparse weight stays sparse,
        an ndarray becomes a `gbdnn.Dense`, unless half or more of it is zeros: then its non-zeros
        become a `gbdnn.CSR`, whose zeros stay zeros in training. A ``gbdnn.Dense(array)`` stays
        dense. Copied.
    bias : float or array_like of shape (out_features,), default 0
    dtype : float32 or float64, default float32
        What the layer computes in; weights and bias are converted to it.

    Raises
    ------
    DtypeError, ShapeError, SparseFormatError, NonFiniteError
        See `gbdnn.as_csr`; also for a bias of the wrong length and a weight of no rows or columns.
    """

    kind = "linear"
    is_affine = fuses_clamp = True
    activation_names = ("input",)
    weight_names = ("weight",)
    array_names = ("bias",)
    rows_of = columns_of = "weight"

    weight: Weight
    bias: Array

    def __init__(self, weight: Any, bias: Any = 0.0, *, dtype: npt.DTypeLike = np.float32) -> None:
        made = as_weight(weight, dtype=as_float_dtype(dtype))
        if 0 in made.shape:
            raise ShapeError("weight", "at least one row and one column", f"shape {made.shape}")
        object.__setattr__(self, "weight", made)
        object.__setattr__(self, "bias", as_bias(bias, made.shape[0], made.dtype))

    @property
    def in_features(self) -> int:
        """Length of a column of Y."""
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """Length of a column of Z."""
        return int(self.weight.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.weight.dtype

    def trained_parameters(self) -> Mapping[str, Weight | Array]:
        """Return weight and bias, shape (out_features,)."""
        bias = np.broadcast_to(self.bias, self.out_features)
        return {"weight": self.weight, "bias": bias}

    @classmethod
    def of(cls, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Self:
        """Return a layer in the dtype of its weight."""
        if "weight" not in parameters:
            raise InputError("linear", "a weight", ", ".join(parameters) or "no parameter")
        return cls(**parameters, dtype=parameters["weight"].dtype)

    def forward(self, run: Run, p: Any, Y: Array, tape: Tape = None) -> Array:
        """Z = W Y + b."""
        X = run.quantized(p, "input", Y)
        run.keep(tape, Y, X)
        return run.affine(p.weight, X, p.bias, clamp=p.clamp)

    def backward(self, run: Run, p: Any, dZ: Array, tape: list[Array]) -> Array:
        """dW = dZ Y^T at W's pattern, db = row sums of dZ, dY = W^T dZ."""
        Y, X = tape
        run.weight_grad(p, "weight", dZ, X)
        run.row_sums(p, "bias", dZ)
        if not (p.passes_back or p.roundings):
            return dZ
        return run.quantized_grad(p, "input", Y, run.input_grad(p.weight, dZ))

    def affines(self, p: Any) -> tuple[tuple[Any, Array], ...]:
        """The layer is one affine map."""
        return ((p.weight, p.bias),)

    def keeps(self, after: Sequence[Layer]) -> frozenset[float]:
        """Return which of 0 and the cap the layer h(W y + b) maps to themselves. O(nnz).

        c = 0: W 0 + b = b exactly, so 0 is kept if h(b) = 0, a test on b alone.

        c = cap of a capped ReLU: with weights >= 0 all terms of row i of W (cap 1) are >= 0; their
        sum together with b_i, in floating point and in any order, differs from the exact one by
        less than (k + 2) eps ((row sum of W) cap + |b_i|) for k terms (Higham 2002, section 4.2).
        If the exact sum exceeds the cap by that much in every row, h gives the cap exactly.
        Products below the normal numbers lose more; each adds the smallest of them to the bound.

        Where the weight's levels round the input, 0 is one of them, and W gets what they make of
        the cap; the sums are exact then, and scaling them rounds less often than the bound allows.
        """
        if not all(layer.is_activation for layer in after):  # others look at all time steps
            return frozenset()
        kept = []
        of_zero = np.array(np.broadcast_to(self.bias, self.out_features))[:, None]
        for layer in after:
            layer.apply(of_zero)  # type: ignore[attr-defined]  # activations have it
        if not of_zero.any():
            kept.append(0.0)
        low, high = (after[0].clamp if len(after) == 1 else None) or (0.0, np.inf)
        if low == 0 and np.isfinite(high):
            cap = float(self.dtype.type(high))
            with np.errstate(over="ignore", invalid="ignore"):  # too large to tell is not kept
                if _reaches(self.weight, self.bias, cap):
                    kept.append(cap)
        return frozenset(kept)

    def __repr__(self) -> str:
        stored = f"nnz={self.edges}" if self.weight.form == "csr" else self.weight.form
        return f"Linear({self.in_features} -> {self.out_features}, {stored}, {self.dtype})"


def _reaches(weight: Weight, bias: Array, cap: float) -> bool:
    """True if W (cap 1) + bias, computed in any order, is at least the cap in every row."""
    given = np.array([cap], weight.dtype)
    if weight.levels is not None:
        weight.levels.fake(given, given)
    entries = weight.entries
    if not entries.size or entries.min() < 0:
        return False
    sums, longest = row_sums(weight.pattern(), entries)
    kind = np.finfo(weight.dtype)
    products = sums * float(given[0])
    slack = 2 * (longest + 2) * (float(kind.eps) * (products + np.abs(bias)) + float(kind.tiny))
    return bool((products + bias - slack >= cap).all())


def as_bias(bias: Any, out_features: int, dtype: np.dtype[Any], name: str = "bias") -> Array:
    """Return a bias, a number or shape (out_features,), as a read-only copy in `dtype`."""
    array = numeric_array(bias, name)
    if array.shape not in ((), (out_features,)):
        expected = f"a number or a vector of length {out_features} (out_features)"
        raise ShapeError(name, expected, f"shape {array.shape}")
    return frozen(name, array + 0, dtype)  # -0.0 becomes 0.0: skipping would show the difference
