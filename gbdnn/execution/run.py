"""What layers compute with: a backend's products, memory that is used again, and the tape."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from gbdnn.backends.base import Backend, Bounds, aligned_empty
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
            size = int(np.prod(shape))
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
    """

    def __init__(
        self,
        backend: Backend,
        memory: Memory,
        threads: int = 1,
        *,
        rng: np.random.Generator | None = None,
        observe: Observer | None = None,
    ) -> None:
        self.backend, self.memory, self.threads = backend, memory, threads
        self.rng, self.observe = rng, observe
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
