"""The interface of a backend: a few primitives on neuron-major arrays.

Everything above (tiles, threads, skipping, streaming, training) is written once against it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gbdnn.weights.csr import CSR

__all__ = ["Activation", "Backend", "Prepared", "Trainable", "aligned_empty", "cached_width"]

Array = npt.NDArray[Any]
ALIGNMENT = 64  # bytes: a cache line and an AVX-512 register; unaligned tiles run at half speed


class Activation(Protocol):
    """h of the equation, elementwise or over the features of each column."""

    @property
    def clamp(self) -> tuple[float, float] | None:
        """(low, high) if h(z) = min(max(z, low), high), else None."""

    def apply(self, Z: Array) -> None:
        """Replace Z, shape (features, batch), by h(Z), in place."""


class Prepared(Protocol):
    """A weight in the form that one backend computes with. Read-only, shared by threads."""

    @property
    def nbytes(self) -> int:
        """Memory that this form occupies."""


class Trainable(Protocol):
    """A weight whose values change: a backend's forms of W and W^T over one vector of values.

    Used by one training loop at a time, unlike what `prepare` makes.
    """

    @property
    def pattern(self) -> CSR:
        """The places of the values, shape (out_features, in_features); its values are not used."""

    @property
    def values(self) -> Array:
        """The weights, shape (nnz,), in the order of `pattern`. Writable, of its own memory."""

    @property
    def nbytes(self) -> int:
        """Memory that all forms occupy, `pattern` and `values` included."""

    def refresh(self, threads: int = 1) -> None:
        """Bring all forms up to date after `values` were changed."""


class Backend(Protocol):
    """What a backend supplies. All but what takes a `Trainable` may be called from any thread.

    Training keeps a batch *tile-major*: arrays of shape (tiles, features, width), each tile
    neuron-major. With a `Trainable`, `affine` takes and fills such arrays.
    """

    name: str

    def prepare(self, weight: CSR | Array) -> Prepared:
        """Build this backend's own form of a weight, shape (out_features, in_features), once."""

    def affine(
        self, w: Any, Y: Array, bias: Array, activation: Activation, out: Array, threads: int = 1
    ) -> None:
        """Compute out = h(W Y + b).

        Y (in_features, batch) and out (out_features, batch) are C-contiguous, 64-byte aligned, of
        the weight's dtype, and do not overlap; `bias` has shape () or (out_features,). Releases
        the GIL in its heavy part.
        """

    def trainable(self, weight: CSR | Array) -> Trainable:
        """Build the form of a weight for training; of a dense one all places are trained."""

    def affine_input_grad(self, w: Any, dZ: Array, out: Array, threads: int = 1) -> None:
        """Compute out = W^T dZ; both are (tiles, features, width)."""

    def affine_weight_grad(self, w: Any, dZ: Array, Y: Array, out: Array, threads: int = 1) -> None:
        """Compute the values of dZ Y^T at W's pattern, summed over tiles: out, shape (nnz,)."""

    def training_width(self, features: int, dtype: np.dtype[Any], batch: int) -> int:
        """Return the columns of a tile when batches of `batch` samples are trained."""

    def tile_width(self, features: int, dtype: np.dtype[Any]) -> int:
        """Return the tile width at which this backend is fastest for layers of `features`."""

    def pinned(self, threads: int) -> AbstractContextManager[None]:
        """Keep the libraries underneath on `threads` threads for calls from this thread."""


def cached_width(features: int, dtype: np.dtype[Any], cache: int = 1 << 20) -> int:
    """Return the widest multiple of 64 columns, 64 to 512, of which a tile fills `cache` bytes."""
    return int(min(max(cache // (features * dtype.itemsize) // 64 * 64, 64), 512))


def aligned_empty(size: int, dtype: npt.DTypeLike) -> Array:
    """Return an uninitialised vector of `size` elements that starts at a 64-byte boundary."""
    dtype = np.dtype(dtype)
    raw = np.empty(size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * dtype.itemsize].view(dtype)
