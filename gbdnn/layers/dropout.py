"""Dropout: random zeros in training, nothing in prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn import checks
from gbdnn.layers.base import Bounds, Layer, Run, Tape
from gbdnn.types import Array
from gbdnn.weights import as_float_dtype

__all__ = ["Dropout"]


@dataclass(frozen=True)
class Dropout(Layer):
    """h(z) = z in `predict`; in training m z, m = 0 with probability `rate`, else 1 / (1 - rate).

    Inverted dropout: the mean of m is 1, so that nothing changes at prediction (Srivastava et al.
    2014, section 10).

    Parameters
    ----------
    rate : float
        From 0 up to, but not including, 1.
    """

    kind = "dropout"
    only_trains = True

    rate: float = 0.5

    def __post_init__(self) -> None:
        checks.fraction("rate", self.rate)

    @property
    def clamp(self) -> Bounds:
        """No bounds."""
        return -np.inf, np.inf

    def apply(self, Z: Array) -> None:
        """Leave Z as it is: prediction drops nothing."""

    def draw(
        self, shape: tuple[int, ...], rng: np.random.Generator, dtype: npt.DTypeLike = np.float32
    ) -> Array:
        """Return a mask, each element of it 0 or 1 / (1 - rate): in training h(Z) = Z * mask."""
        mask: Array = rng.random(shape, dtype=as_float_dtype(dtype).type)
        np.greater_equal(mask, float(self.rate), out=mask)
        mask /= 1 - float(self.rate)
        return mask

    def forward(self, run: Run, p: Any, Y: Array, tape: Tape = None) -> Array:
        """Return Y * mask; Y itself if nothing is random."""
        if run.rng is None:
            return Y
        mask = self.draw(Y.shape, run.rng, Y.dtype)
        run.keep(tape, mask)
        return np.multiply(Y, mask, out=run.empty(*Y.shape))

    def backward(self, run: Run, p: Any, dY: Array, tape: list[Array]) -> Array:
        """Return dY * mask, in place."""
        if tape:
            dY *= tape[0]
        return dY
