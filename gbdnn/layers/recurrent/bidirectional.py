"""Two LSTMs or GRUs, one forwards and one backwards in time (Schuster and Paliwal 1997).

h_t = (h of the first at t, h of the second at t): the second one reads each sequence from its own
end, the row of time step t then stands at t again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np

from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.layers.base import Layer, Run, Tape
from gbdnn.layers.recurrent.common import Cell
from gbdnn.layers.recurrent.gru import GRU
from gbdnn.layers.recurrent.lstm import LSTM
from gbdnn.types import Array
from gbdnn.weights import Weight

__all__ = ["BGRU", "BLSTM", "Bidirectional", "reversed_time"]

PREFIXES = ("forward_", "backward_")


def reversed_time(X: Array, lengths: Array | None, out: Array) -> Array:
    """Write each sequence from its end to its beginning to `out`; what is behind ends stays there.

    Parameters
    ----------
    X, out : ndarray, shape (time, features, width)
    lengths : ndarray of int, shape (width,), or None: all are of length time
    """
    if lengths is None or (lengths == len(X)).all():
        out[...] = X[::-1]
        return out
    out[...] = X
    for length in np.unique(lengths):
        columns = np.flatnonzero(lengths == length)
        out[:length, :, columns] = X[:length][::-1][:, :, columns]
    return out


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Bidirectional(Layer):
    """h of a cell forwards and of one backwards in time, one above the other.

    Parameters
    ----------
    forward, backward : LSTM or GRU, as the class says
        Of equal in_features and dtype. Their parameters have the names "forward_weight", ...

    Raises
    ------
    DtypeError, ShapeError
    """

    over_time = needs_all_steps = True
    activation_names = ("input", "hidden")
    cell: ClassVar[type[Cell]]

    sides: tuple[Cell, Cell]

    def __init__(self, forward: Cell, backward: Cell) -> None:
        for name, side in (("forward", forward), ("backward", backward)):
            if not isinstance(side, self.cell):
                raise DtypeError(name, f"a gbdnn.{self.cell.__name__}", type(side).__name__)
        if forward.in_features != backward.in_features:
            expected = f"{forward.in_features} in_features, as of forward"
            raise ShapeError("backward", expected, f"{backward.in_features}")
        if forward.dtype != backward.dtype:
            raise DtypeError("backward", f"{forward.dtype}, as forward", f"{backward.dtype}")
        object.__setattr__(self, "sides", (forward, backward))
        for name, value in self.parameters.items():
            object.__setattr__(self, name, value)

    @property
    def weight_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of both sides."""
        return tuple(prefix + name for prefix, side in self._both for name in side.weight_names)

    @property
    def array_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of both sides."""
        return tuple(prefix + name for prefix, side in self._both for name in side.array_names)

    @property
    def _both(self) -> tuple[tuple[str, Cell], ...]:
        return tuple(zip(PREFIXES, self.sides, strict=True))

    @property
    def in_features(self) -> int:
        """Features of a time step."""
        return self.sides[0].in_features

    @property
    def out_features(self) -> int:
        """Those of both sides together."""
        return sum(side.out_features for side in self.sides)

    @property
    def parameters(self) -> Mapping[str, Weight | Array]:
        """Those of both sides, with prefixes."""
        return {prefix + n: v for prefix, side in self._both for n, v in side.parameters.items()}

    def trained_parameters(self) -> Mapping[str, Weight | Array]:
        """Return those of both sides."""
        sides = ((prefix, side.trained_parameters()) for prefix, side in self._both)
        return {prefix + name: value for prefix, own in sides for name, value in own.items()}

    @property
    def settings(self) -> Mapping[str, Any]:
        """None."""
        return {}

    @classmethod
    def of(cls, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Self:
        """Return a layer from the parameters of both sides."""
        own: dict[str, dict[str, Any]] = {prefix: {} for prefix in PREFIXES}
        for name, value in {**parameters, **settings}.items():
            prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
            if prefix is None:
                raise InputError(cls.kind, "parameters of forward_ and backward_", name)
            own[prefix][name.removeprefix(prefix)] = value
        return cls(*(cls.cell.of(given, {}) for given in own.values()))

    def activation_of(self, weight: str) -> str | None:
        """Return the activation that a weight is multiplied with."""
        return self.sides[0].activation_of(weight.split("_", 1)[1])

    def _side(self, p: Any, prefix: str, side: Cell) -> Any:
        """Return what a side's equation gets as `p`."""
        made = SimpleNamespace(
            roundings=p.roundings,
            returns_rounded=p.returns_rounded,
            **{name: getattr(p, prefix + name) for name in side.parameters},
        )
        if hasattr(p, "grad"):  # in training
            made.grad = {name: p.grad[prefix + name] for name in side.parameters}
            made.names = {name: p.names[prefix + name] for name in side.parameters}
        return made

    def forward(self, run: Run, p: Any, Y: Array, tape: Tape = None) -> Array:
        """Return h of both sides."""
        X = run.quantized(p, "input", Y)
        run.keep(tape, Y)
        time, _, width = Y.shape
        out, row = run.empty(time, self.out_features, width), 0
        for prefix, side in self._both:
            kept: Tape = None if tape is None else []
            given = X if row == 0 else reversed_time(X, run.lengths, run.empty(*X.shape))
            H = side.scan(run, self._side(p, prefix, side), given, kept)
            part = out[:, row : row + side.out_features]
            if row == 0:
                part[...] = H
            else:
                reversed_time(H, run.lengths, part)
            if tape is not None:
                tape += kept or []
            row += side.out_features
        return out

    def backward(self, run: Run, p: Any, dY: Array, tape: list[Array]) -> Array:
        """Go back through both sides, and add what they say of the input."""
        Y, kept, size = tape[0], tape[1:], (len(tape) - 1) // 2
        total, row = dY, 0
        for number, (prefix, side) in enumerate(self._both):
            own, part = self._side(p, prefix, side), dY[:, row : row + side.out_features]
            dH = run.empty(*part.shape)
            if number:
                reversed_time(part, run.lengths, dH)
            else:
                dH[...] = part
            dZ = side.scan_grad(run, own, dH, kept[number * size : (number + 1) * size])
            row += side.out_features
            if not (p.passes_back or p.roundings):
                continue
            dX = run.input_grad(own.weight, dZ)
            if number:
                total += reversed_time(dX, run.lengths, run.empty(*dX.shape))
            else:
                total = dX
        return run.quantized_grad(p, "input", Y, total) if total is not dY else dY

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.sides[0]!r}, {self.sides[1]!r})"


class BLSTM(Bidirectional):
    """An LSTM forwards and one backwards in time; see `Bidirectional`."""

    kind, cell, row_blocks = "blstm", LSTM, LSTM.row_blocks


class BGRU(Bidirectional):
    """A GRU forwards and one backwards in time; see `Bidirectional`."""

    kind, cell, row_blocks = "bgru", GRU, GRU.row_blocks
