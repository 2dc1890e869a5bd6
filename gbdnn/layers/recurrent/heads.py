"""What makes one row of a sequence: its last time step, or the mean of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn.layers.base import Layer, Run, Tape
from gbdnn.types import Array

__all__ = ["LastStep", "MeanOverTime"]


def _lengths(run: Run, Y: Array) -> Array:
    """Return the length of each column; those that only fill up have one of 1."""
    given = np.full(Y.shape[2], len(Y)) if run.lengths is None else run.lengths
    return np.maximum(given, 1)


@dataclass(frozen=True)
class LastStep(Layer):
    """y = y_T of each sequence of T time steps."""

    kind = "last"
    over_time = needs_all_steps = one_row = True

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
class MeanOverTime(Layer):
    """y = (y_1 + ... + y_T) / T of each sequence of T time steps."""

    kind = "mean"
    over_time = needs_all_steps = one_row = True

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
