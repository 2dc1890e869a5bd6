"""What layers compute with: a backend's products, memory that is used again, and the tape."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from gbdnn.backends.base import LANES, Backend, Bounds, aligned_empty
from gbdnn.errors import ShapeError
from gbdnn.execution import loops
from gbdnn.types import Array

__all__ = ["Memory", "Observer", "Run"]

Observer = Callable[[str, Array, Array], None]


class Memory:
    """Aligned arrays by key; one that is asked for again lies where the last one did."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._buffers: dict[Hashable, Array] = {}
        self._arrays: dict[Hashable, Array] = {}

    def array(self, key: Hashable, shape: tuple[int, ...]) -> Array:
        """Return an uninitialised array of this shape."""
        result = self._arrays.get((key, shape))
        if result is None:
            size = math.prod(shape)
            if key not in self._buffers or len(self._buffers[key]) < size:
                self._buffers[key] = aligned_empty(size, self.dtype)
                self._arrays = {k: v for k, v in self._arrays.items() if k[0] != key}  # type: ignore[index]
            result = self._arrays[key, shape] = self._buffers[key][:size].reshape(shape)
        return result


class Run:
    """One pass of a batch through layers; see `gbdnn.layers.base.Run` for the methods.

    Parameters
    ----------
    backend : Backend
    memory : Memory
    threads : int
    rng : Generator, optional
        For layers that are random in training.
    observe : callable, optional
        Called as ``observe(name, dZ, Y)`` before the gradient of each weight is computed.
    lengths : ndarray of int, shape (width,), optional
        Of sequences whose time steps are the tiles; 0 for columns that only fill up.
    states : dict, optional
        Where recurrent layers begin, and what they leave; None: they begin with zeros.
    goes_on : bool
        Sequences go on behind the tiles: groups of time steps that are not full wait in `states`.
    """

    def __init__(
        self,
        backend: Backend,
        memory: Memory,
        threads: int = 1,
        *,
        rng: np.random.Generator | None = None,
        observe: Observer | None = None,
        lengths: Array | None = None,
        states: dict[tuple[int, str], Array] | None = None,
        goes_on: bool = False,
    ) -> None:
        self.backend, self.memory, self.threads = backend, memory, threads
        self.rng, self.observe = rng, observe
        self.lengths, self.states, self.goes_on = lengths, states, goes_on
        self._place: Hashable = None
        self._number = 0
        self._kept: set[int] = set()

    def at(self, place: Hashable) -> None:
        """Take memory from `place` from now on: what came from there before is overwritten."""
        self._place, self._number = place, 0

    def empty(self, tiles: int, features: int, width: int) -> Array:
        """Return an uninitialised aligned array."""
        self._number += 1
        return self.memory.array((self._place, self._number), (tiles, features, width))

    def affine(
        self,
        w: Any,
        Y: Array,
        bias: Array | None = None,
        *,
        out: Array | None = None,
        clamp: Bounds | None = None,
        accumulate: bool = False,
    ) -> Array:
        """Return clamp(W Y + b), or with `accumulate` clamp(out + W Y + b), in `out`."""
        if out is None:
            out = self.empty(Y.shape[0], w.shape[0], Y.shape[2])
        self.backend.affine(
            w, Y, bias, out, clamp=clamp, accumulate=accumulate, threads=self.threads
        )
        return out

    def over_time(self, w: Any, Y: Array, bias: Array | None = None) -> Array:
        """Return W Y + b for time steps; see `gbdnn.backends.base.Backend.over_time`."""
        out = self.empty(Y.shape[0], w.shape[0], Y.shape[2])
        self.backend.over_time(w, Y, bias, out, self.threads)
        return out

    def quantized(self, p: Any, name: str, Y: Array) -> Array:
        """Return Y as the quantizer of activation `name` rounds it; Y itself if there is none."""
        if name not in p.roundings:
            return Y
        out = self.empty(*Y.shape)
        p.roundings[name].fake(Y, out)
        return out

    def quantized_grad(self, p: Any, name: str, Y: Array, dY: Array) -> Array:
        """Turn dY, the gradient by ``quantized(p, name, Y)``, into that by Y, in place."""
        if name in p.roundings:
            p.roundings[name].backward(Y, dY)
        return dY

    def input_grad(self, w: Any, dZ: Array) -> Array:
        """Return W^T dZ."""
        out = self.empty(dZ.shape[0], w.shape[1], dZ.shape[2])
        self.backend.input_grad(w, dZ, out, self.threads)
        return out

    def weight_grad(self, p: Any, name: str, dZ: Array, Y: Array) -> None:
        """Write dZ Y^T at the pattern of parameter `name`, summed over tiles, to ``p.grad``."""
        if self.observe is not None:
            self.observe(p.names[name], dZ, Y)
        self.backend.weight_grad(getattr(p, name), dZ, Y, p.grad[name], self.threads)

    def row_sums(self, p: Any, name: str, dZ: Array) -> None:
        """Write the row sums of dZ over all tiles to ``p.grad[name]``."""
        from gbdnn.backends import elementwise  # numba, which prediction may not need

        elementwise.row_sums(dZ, p.grad[name], self.threads)

    def begin(self, p: Any, name: str, out: Array) -> None:
        """Write the state `name` before the first time step to `out`: zeros, or what `end` took."""
        given = None if self.states is None else self.states.get((id(p), name))
        if given is not None and given.shape != out.shape:
            expected = f"{out.shape[0]} values of {name!r} for each sequence, as this network has"
            raise ShapeError("state", expected, f"{given.shape[0]}")
        out[...] = 0 if given is None else given

    def end(self, p: Any, name: str, value: Array) -> None:
        """Take the state `name` behind the last time step, for those who go on from it."""
        if self.states is not None:
            self.states[id(p), name] = value.copy()

    def lstm(self, p: Any, Z: Array, H: Array, C: Array, V: Array, M: Array) -> None:
        """Compute the recurrence of an LSTM; see `gbdnn.execution.loops.lstm`."""
        loops.lstm(self.backend, p, Z, H, C, V, M, self.threads)

    def lstm_grad(
        self, p: Any, Z: Array, H: Array, C: Array, V: Array, M: Array, dV: Array
    ) -> None:
        """Go back through the recurrence of an LSTM; see `gbdnn.execution.loops.lstm_grad`."""
        loops.lstm_grad(self, p, Z, H, C, V, M, dV)

    def gru(self, p: Any, Z: Array, B: Array, H: Array, V: Array) -> None:
        """Compute the recurrence of a GRU; see `gbdnn.execution.loops.gru`."""
        loops.gru(self.backend, p, Z, B, H, V, self.threads)

    def gru_grad(self, p: Any, Z: Array, B: Array, H: Array, V: Array, dV: Array) -> None:
        """Go back through the recurrence of a GRU; see `gbdnn.execution.loops.gru_grad`."""
        loops.gru_grad(self, p, Z, B, H, V, dV)

    def columns(self, w: Any, numbers: Array) -> Array:
        """Return columns of W by their numbers, as products with columns of the unit matrix."""
        found, places = np.unique(numbers, return_inverse=True)
        units = self.units(w, found)
        table = self.affine(w, units)[0]
        out = self.empty(len(numbers), w.shape[0], numbers.shape[1])
        for tile, own in zip(out, places.reshape(numbers.shape), strict=True):
            np.take(table, own, axis=1, out=tile, mode="clip")
        return out

    def units(self, w: Any, numbers: Array) -> Array:
        """Return columns of the unit matrix by numbers, filled up with zeros, as one tile."""
        out = self.empty(1, w.shape[1], -(-len(numbers) // LANES) * LANES)
        out[...] = 0
        out[0, numbers, np.arange(len(numbers))] = 1
        return out

    def clamp_grad(self, Y: Array, dY: Array, bounds: Bounds) -> None:
        """Set dY to 0 where not low < Y < high."""
        from gbdnn.backends import elementwise

        elementwise.relu_backward(Y, dY, *bounds, self.threads)

    def keep(self, tape: list[Array] | None, *arrays: Array) -> None:
        """Put arrays on the tape: nobody overwrites them before the backward pass."""
        if tape is not None:
            tape += arrays
            self._kept.update(_address(array) for array in arrays)

    def over(self, Y: Array) -> Array:
        """Return Y to be overwritten, or a copy if it is on a tape."""
        if not self._kept or _address(Y) not in self._kept:
            return Y
        out = self.empty(*Y.shape)
        out[...] = Y
        return out


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
