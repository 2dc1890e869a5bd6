"""What makes one row of a sequence: its last time step, both ends of it, or the mean of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gbdnn import checks
from gbdnn.errors import InputError
from gbdnn.layers.base import Layer, Run, Tape
from gbdnn.layers.recurrent.bidirectional import Bidirectional
from gbdnn.types import Array

__all__ = ["HEADS", "FinalStates", "Head", "LastStep", "MeanOverTime"]


def _lengths(run: Run, Y: Array) -> Array:
    """Return the length of each column; those that only fill up have one of 1."""
    given = np.full(Y.shape[2], len(Y)) if run.lengths is None else run.lengths
    return np.maximum(given, 1)


class Head(Layer):
    """A layer that makes one row of each sequence."""

    over_time = needs_all_steps = one_row = True

    @classmethod
    def behind(cls, layers: Sequence[Any]) -> Self:
        """Return the head for what stands before it.

        Raises
        ------
        InputError
            For layers whose features say nothing about the two directions.
        """
        return cls()


@dataclass(frozen=True)
class LastStep(Head):
    """y = y_T of each sequence of T time steps."""

    kind = "last"

    def forward(self, run: Run, p: Any, Y: Array, tape: Tape = None) -> Array:
        """Return the last time step of each column."""
        out = run.empty(1, *Y.shape[1:])
        columns = np.arange(Y.shape[2])
        out[0] = Y[_lengths(run, Y) - 1, :, columns].T
        if tape is not None:
            tape.append(Y)  # for its shape
        return out

    def backward(self, run: Run, p: Any, dY: Array, tape: list[Array]) -> Array:
        """Return the gradient in the last time steps, 0 elsewhere."""
        out = run.empty(*tape[0].shape)
        out[...] = 0
        out[_lengths(run, out) - 1, :, np.arange(out.shape[2])] = dY[0].T
        return out


@dataclass(frozen=True)
class FinalStates(Head):
    """y = (the first n features of y_T, the others of y_1) of each sequence of T time steps.

    Behind a `BLSTM` or `BGRU` whose forward side has n features these are the states behind the
    last step that each side takes, as torch's ``torch.cat([h[-2], h[-1]], 1)`` and Keras'
    ``Bidirectional(..., return_sequences=False)`` give them.

    Parameters
    ----------
    forward_features : int
        n, from 0 up; less than there are.

    Raises
    ------
    InputError
    """

    forward_features: int

    kind = "final"

    def __post_init__(self) -> None:
        known = checks.count("forward_features", self.forward_features, 0)
        object.__setattr__(self, "forward_features", known)

    @classmethod
    def behind(cls, layers: Sequence[Any]) -> Self:
        """Return the head for the two directions of the last layer before it that has features."""
        below = next((one for one in reversed(layers) if not _keeps_features(one)), None)
        if not isinstance(below, Bidirectional):
            expected = "a BLSTM or BGRU before 'final', the state of each of its two directions"
            got = "nothing" if below is None else getattr(below, "kind", "linear")
            raise InputError("layers", expected, got)
        return cls(below.sides[0].out_features)

    @property
    def least_features(self) -> int:
        """One of each side."""
        return self.forward_features + 1

    def forward(self, run: Run, p: Any, Y: Array, tape: Tape = None) -> Array:
        """Return the last time step of the first features, the first one of the others."""
        n, out = self.forward_features, run.empty(1, *Y.shape[1:])
        out[0, :n] = Y[_lengths(run, Y) - 1, :n, np.arange(Y.shape[2])].T
        out[0, n:] = Y[0, n:]
        if tape is not None:
            tape.append(Y)  # for its shape
        return out

    def backward(self, run: Run, p: Any, dY: Array, tape: list[Array]) -> Array:
        """Return the gradient in the last and the first time steps, 0 elsewhere."""
        n, out = self.forward_features, run.empty(*tape[0].shape)
        out[...] = 0
        out[_lengths(run, out) - 1, :n, np.arange(out.shape[2])] = dY[0, :n].T
        out[0, n:] = dY[0, n:]
        return out


def _keeps_features(layer: Any) -> bool:
    """Whether each feature stays what it was: activations and dropout."""
    return isinstance(layer, Layer) and layer.in_features is None


@dataclass(frozen=True)
class MeanOverTime(Head):
    """y = (y_1 + ... + y_T) / T of each sequence of T time steps."""

    kind = "mean"

    def forward(self, run: Run, p: Any, Y: Array, tape: Tape = None) -> Array:
        """Return the mean of each column, summed from the first time step to the last."""
        lengths, out = _lengths(run, Y), run.empty(1, *Y.shape[1:])
        out[0] = Y[0]
        for t in range(1, len(Y)):
            np.add(out[0], Y[t], out=out[0], where=t < lengths)
        out /= lengths.astype(Y.dtype)
        if tape is not None:
            tape.append(Y)  # for its shape
        return out

    def backward(self, run: Run, p: Any, dY: Array, tape: list[Array]) -> Array:
        """Return an equal part of the gradient for each time step."""
        lengths, out = _lengths(run, tape[0]), run.empty(*tape[0].shape)
        out[...] = dY / lengths.astype(dY.dtype)
        out *= (np.arange(len(out))[:, None] < lengths)[:, None]
        return out


HEADS: dict[str, type[Head]] = {head.kind: head for head in (FinalStates, LastStep, MeanOverTime)}
"""Those that are asked for by name, see `Head.behind`."""
