r"""Time reduction: successive time steps side by side.

As in the encoder of Chan, Jaitly, Le and Vinyals 2016 ("Listen, attend and spell", ICASSP):

.. math::
    z_s = (y_{sf}, y_{sf+1}, ..., y_{sf+f-1}), \qquad s = 0 ... \lceil T / f \rceil - 1

for a sequence y_0 ... y_{T-1} and the factor f, with y_t = 0 for t >= T: the last group is filled
up with zeros, so that a sequence of any length has a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.errors import InputError
from gbdnn.layers.base import Layer, Run, Tape
from gbdnn.types import Array

__all__ = ["TimeReduction"]

LARGEST = 1000


@dataclass(frozen=True)
class TimeReduction(Layer):
    """Puts `factor` successive time steps into one: T of them become ceil(T / factor).

    Layers behind it compute a factor-th of the time steps. The gradient of a value is that of its
    place in the result.

    Parameters
    ----------
    features : int
        Of a time step before.
    factor : int
        From 2 to 1000. A time step behind it has factor * features features, the earliest first.

    Raises
    ------
    InputError

    Notes
    -----
    Where time steps come one by one (`gbdnn.Network.step`), those of a group that is not full yet
    are its state; `gbdnn.Network.finish` fills the last one up.
    """

    kind = "reduce"
    over_time = True

    features: int
    factor: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", checks.count("features", self.features))
        factor = int(checks.within("factor", self.factor, f"[2, {LARGEST}]", whole=True))
        object.__setattr__(self, "factor", factor)

    @property
    def in_features(self) -> int:
        """Features of a time step before."""
        return self.features

    @property
    def out_features(self) -> int:
        """factor * features."""
        return self.factor * self.features

    @property
    def time_factor(self) -> int:
        """The factor."""
        return self.factor

    def forward(self, run: Run, p: Any, Y: Array, tape: Tape = None) -> Array:
        """Return groups of time steps; `run.lengths` are those of the result from here on."""
        if tape is not None:
            tape += [Y] if run.lengths is None else [Y, run.lengths]  # Y for its shape
        collected, begun = self._begin(run, p, Y.shape[2])
        time = begun + len(Y)
        groups = time // self.factor if run.goes_on else -(-time // self.factor)
        out = run.empty(groups, self.out_features, Y.shape[2])
        steps = self._steps(out)
        taken = min(time, len(steps)) - begun  # of Y; below 0: no group is full yet
        if groups:
            steps[:begun], steps[begun : begun + taken] = collected[:begun], Y[:taken]
            steps[begun + taken :] = 0
            begun = 0
        rest = Y[max(taken, 0) :]
        collected[begun : begun + len(rest)] = rest
        self._end(run, p, collected, begun + len(rest))
        if run.lengths is not None:
            _clear_behind(steps, run.lengths)
            run.lengths = -(-run.lengths // self.factor)
        return out

    def backward(self, run: Run, p: Any, dY: Array, tape: list[Array]) -> Array:
        """Return the gradient of each time step; `run.lengths` are those before the layer again."""
        Y, run.lengths = tape[0], tape[1] if len(tape) > 1 else None
        out = run.empty(*Y.shape)
        out[...] = self._steps(dY)[: len(Y)]
        if run.lengths is not None:
            _clear_behind(out, run.lengths)
        return out

    def _steps(self, Z: Array) -> Array:
        """Return groups as time steps, shape (factor * groups, features, width): a view."""
        return Z.reshape(self.factor * len(Z), self.features, Z.shape[2])

    def _begin(self, run: Run, p: Any, width: int) -> tuple[Array, int]:
        """Return the time steps of the group that is not full yet, and how many there are."""
        collected = run.empty(self.factor - 1, self.features, width)
        run.begin(p, "collected", collected.reshape(-1, width))
        count = run.empty(1, 1, width)[0]
        run.begin(p, "count", count)
        begun = float(count[0, 0])
        if begun not in range(self.factor):
            expected = f"a state with 0 to {self.factor - 1} time steps collected"
            raise InputError("state", expected, f"{begun:g}")
        return collected, int(begun)

    def _end(self, run: Run, p: Any, collected: Array, begun: int) -> None:
        """Hand on the time steps of the group that is not full."""
        collected[begun:] = 0
        width = collected.shape[2]
        run.end(p, "collected", collected.reshape(-1, width))
        count = run.empty(1, 1, width)[0]
        count[...] = begun
        run.end(p, "count", count)


def _clear_behind(Y: Array, lengths: Array) -> None:
    """Set the time steps behind the end of each column to 0, shape (time, features, width)."""
    behind = np.arange(len(Y))[:, None] >= lengths
    if behind.any():
        np.copyto(Y, 0, where=behind[:, None])
