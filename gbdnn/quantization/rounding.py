"""What rounds a named activation inside a pass: in calibration and in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gbdnn.quantization.base import Clipped, Quantizer, Steps
from gbdnn.types import Array

__all__ = ["FACTOR", "OBSERVERS", "Observing", "Pass", "Rounding", "valid_columns"]

FACTOR = 0.1  # of the newest batch in moving averages


@dataclass
class Pass:
    """What all roundings of a network know of the pass that they are in.

    Attributes
    ----------
    trains : bool
        Averages follow the activations.
    valid : ndarray of bool, shape (tiles, width), or None
        Which columns are samples and not padding; None: all.
    """

    trains: bool = False
    valid: Array | None = None

    def __enter__(self) -> None:
        """Begin a pass of training."""
        self.trains = True

    def __exit__(self, *error: object) -> None:
        """End it."""
        self.trains, self.valid = False, None

    def values(self, Y: Array) -> Array:
        """Return the values of an activation without the padding, where it is known."""
        if self.valid is None or self.valid.shape[-1] != Y.shape[-1]:
            return Y
        if len(self.valid) == len(Y):
            return Y.transpose(0, 2, 1)[self.valid]
        return Y[..., self.valid.any(0)]  # one of the time steps


def valid_columns(Y: Array, count: int, lengths: Array | None) -> Array:
    """Return which columns of a tile, or of each time step, are samples."""
    columns = np.arange(Y.shape[2]) < count
    if lengths is None:
        return np.broadcast_to(columns, (len(Y), Y.shape[2]))
    found: Array = np.arange(len(Y))[:, None] < lengths
    return found


def _mean(before: Array, now: Array, count: int) -> Array:
    return before + (now - before) / count


def _widest(before: Array, now: Array, count: int) -> Array:
    return np.where(np.abs(now) > np.abs(before), now, before)


def _moving(before: Array, now: Array, count: int) -> Array:
    return before + FACTOR * (now - before)


OBSERVERS: dict[str, Callable[[Array, Array, int], Array]] = {
    "mean": _mean, "widest": _widest, "moving": _moving,
}  # fmt: skip
"""How what batches say of a clip is put together: the running mean, the widest (with
``percent=100`` the extremes of all), or a moving average."""


class Observing:
    """Rounds nothing: it finds where a quantizer's clips begin."""

    def __init__(self, quantizer: Quantizer, observer: str, state: Pass) -> None:
        self.quantizer, self.observer, self.state = quantizer, OBSERVERS[observer], state
        self.found: dict[str, Array] = {}
        self.count = 0

    def fake(self, Y: Array, out: Array) -> None:
        """Look at Y, and copy it."""
        x = self.state.values(Y)
        if x.size:
            self.count += 1
            now = {**self.quantizer.initial(x), **self.quantizer.observed(x)}
            for name, value in now.items():
                before = self.found.get(name, value)
                self.found[name] = self.observer(before, value, self.count)
        out[...] = Y


class Rounding:
    """Rounds an activation in training, and in prediction with the network that is trained.

    Parameters
    ----------
    quantizer : Quantizer
    learned, grads : dict of str to ndarray
        What is learned or kept, and the gradients, which `backward` adds to.
    state : Pass
    """

    def __init__(
        self, quantizer: Quantizer, learned: Mapping[str, Array], grads: Mapping[str, Array],
        state: Pass,
    ) -> None:  # fmt: skip
        self.quantizer, self.learned, self.grads, self.state = quantizer, learned, grads, state

    def clear(self) -> None:
        """Set the gradients to 0."""
        for grad in self.grads.values():
            grad[...] = 0

    def fake(self, Y: Array, out: Array) -> None:
        """Write the levels of Y to `out`; what is kept of batches follows in training."""
        if self.state.trains and self.quantizer.tracks:
            for name, value in self.quantizer.observed(self.state.values(Y)).items():
                if np.isfinite(value).all():
                    self.learned[name][...] += FACTOR * (value - self.learned[name])
        self.quantizer.fake(Y, self.learned, out)

    def fixed(self) -> Steps | None:
        """Return the levels if they are the same in the whole pass; None if they follow it."""
        quantizer, kept = self.quantizer, self.learned
        if not isinstance(quantizer, Clipped) or type(quantizer).fake is not Clipped.fake:
            return None
        if quantizer.tracks and (self.state.trains or "high" not in kept):
            return None
        return quantizer.steps(np.empty(0), kept)

    def passes(self, Y: Array, out: Array) -> None:
        """Write what `backward` multiplies gradients with to `out`; nothing is learned from it."""
        out[...] = 1
        own = {name: np.zeros_like(grad) for name, grad in self.grads.items()}
        self.quantizer.backward(Y, self.learned, out, own)

    def backward(self, Y: Array, dY: Array) -> None:
        """Turn dY into the gradient by Y, in place; add the gradients of what is learned."""
        own = {name: np.zeros_like(grad) for name, grad in self.grads.items()}
        self.quantizer.backward(Y, self.learned, dY, own)
        for name, grad in own.items():
            self.grads[name][...] += grad
