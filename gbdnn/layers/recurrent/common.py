"""What recurrent layers have in common: checked matrices, shapes, both parameters' products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy.typing as npt

from gbdnn.errors import InputError, ShapeError
from gbdnn.layers.base import Layer, Run, Tape
from gbdnn.layers.linear import as_bias
from gbdnn.types import Array
from gbdnn.weights import Weight, as_float_dtype, as_weight

__all__ = ["Cell", "matrix"]


def matrix(
    name: str, given: Any, dtype: npt.DTypeLike, *, rows: int | None = None,
    columns: int | None = None, gates: int = 1,
) -> Weight:  # fmt: skip
    """Return a weight of the given shape; rows are a multiple of `gates`.

    Raises
    ------
    ShapeError, DtypeError, SparseFormatError, NonFiniteError
    """
    made = as_weight(given, dtype=as_float_dtype(dtype), name=name)
    out, into = made.shape
    wrong = (rows not in (None, out)) or (columns not in (None, into)) or out % gates
    if wrong or 0 in made.shape:
        high = str(rows) if rows is not None else f"{gates} x units" if gates > 1 else "any"
        expected = f"shape ({high}, {'any' if columns is None else columns})"
        raise ShapeError(name, expected, f"shape {made.shape}")
    return made


class Cell(Layer):
    """A layer of `weight`, `recurrent` and `bias` whose state goes from one time step to the next.

    Subclasses have `scan`, the layer behind the rounding of its input, and `scan_grad`.
    """

    over_time = True
    activation_names = ("input", "hidden")
    weight: Weight
    recurrent: Weight

    @property
    def in_features(self) -> int:
        """Features of a time step."""
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """Features of h."""
        return int(self.recurrent.shape[1])

    @classmethod
    def of(cls, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Self:
        """Return a layer in the dtype of its weight."""
        if "weight" not in parameters or "recurrent" not in parameters:
            got = ", ".join(parameters) or "no parameter"
            raise InputError(cls.kind, "weight and recurrent", got)
        make: Any = cls  # whose own __init__ takes them
        layer: Self = make(**parameters, **settings, dtype=parameters["weight"].dtype)
        return layer

    def scan(self, run: Run, p: Any, X: Array, tape: Tape) -> Array:
        """Return h for all time steps of X."""
        raise NotImplementedError

    def scan_grad(self, run: Run, p: Any, dH: Array, tape: list[Array]) -> Array:
        """Write the gradients of the parameters; return that of W X + b."""
        raise NotImplementedError

    def forward(self, run: Run, p: Any, Y: Array, tape: Tape = None) -> Array:
        """Return h for all time steps."""
        X = run.quantized(p, "input", Y)
        run.keep(tape, Y)
        return self.scan(run, p, X, tape)

    def backward(self, run: Run, p: Any, dH: Array, tape: list[Array]) -> Array:
        """Go back through time; all time steps of a weight's gradient are one product."""
        Y, *kept = tape
        dZ = self.scan_grad(run, p, dH, kept)
        if not (p.passes_back or p.roundings):
            return dZ
        return run.quantized_grad(p, "input", Y, run.input_grad(p.weight, dZ))

    def __repr__(self) -> str:
        nnz = sum(getattr(self, name).nnz for name in self.weight_names)
        name, dtype = type(self).__name__, self.weight.dtype
        return f"{name}({self.in_features} -> {self.out_features}, nnz={nnz}, {dtype})"


def set_fields(layer: Layer, dtype: npt.DTypeLike, **fields: Any) -> None:
    """Write the fields of a frozen layer; arrays are (name, rows) checked as biases."""
    for name, value in fields.items():
        if isinstance(value, tuple):
            given, rows = value
            value = as_bias(given, rows, as_float_dtype(dtype), name)
        object.__setattr__(layer, name, value)
