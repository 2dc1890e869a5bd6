"""What a backend is: a few products on arrays (tiles, features, width).

Everything above (tiles, threads, skipping, streaming, training) is written once against it. A new
backend is a class with `forms`, `affine` and, to train, `input_grad` and `weight_grad`, put into
`gbdnn.backends.BACKENDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gbdnn.backends import columns
from gbdnn.errors import BackendError
from gbdnn.types import Array
from gbdnn.weights import CSR, Weight

__all__ = [
    "UNBOUNDED", "Affine", "Backend", "Bounds", "Prepared", "Program", "aligned_empty",
    "cached_width",
]  # fmt: skip

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-np.inf, np.inf)
ALIGNMENT = 64  # bytes: a cache line and an AVX-512 register; unaligned tiles run at half speed


class Prepared:
    """A weight in the form that one backend computes with.

    For prediction it is read-only and shared by threads. Prepared with ``trained=True`` it has also
    `pattern` and `values`, and belongs to one training loop.

    Attributes
    ----------
    shape : tuple of int
        (out_features, in_features).
    dtype : float32 or float64
    nbytes : int
        Memory that it occupies; in training with `pattern` and `values`.
    pattern : CSR
        The places of the values, whose own values are not used.
    values : ndarray, shape (nnz,)
        The weights in the order of `pattern`: writable, of its own memory.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    pattern: CSR
    values: Array

    @property
    def nbytes(self) -> int:
        """Memory that this form occupies."""
        raise NotImplementedError

    def refresh(self, threads: int = 1) -> None:
        """Bring everything up to date after `values` were changed."""


@dataclass(frozen=True, eq=False)
class Affine:
    """One affine map of a program: out = min(max(W Y + b, low), high)."""

    weight: Any  # a `Prepared` of the backend
    bias: Array
    bounds: Bounds = UNBOUNDED


class Program:
    """Affine maps as one compiled call for small batches. Read-only, shared by threads."""

    def fits(self, view: Array) -> bool:
        """True if `run` can read or write an array of shape (features, samples) as it is."""
        raise NotImplementedError

    def run(
        self, source: Array, target: Array, *, width: int, lanes: int, threads: int, check: bool
    ) -> bool:
        """Compute `target`, (out_features, samples); False if `check` found NaN or infinity.

        Parameters
        ----------
        source : ndarray, shape (in_features, samples)
        target : ndarray, shape (out_features, samples)
            Arrays for which `fits` is true. Undefined if the result is False.
        width, lanes : int
            Columns of a tile, and what their number is rounded up to.
        threads : int
        check : bool
            Look for NaN and infinity in the source.
        """
        raise NotImplementedError


class Backend:
    """What a backend supplies; everything optional has a default here.

    Arrays Y, Z, dZ have the shape (tiles, features, width), are C-contiguous, 64-byte aligned and
    of the weight's dtype. A column is a sample (or one of its time steps); columns never meet.
    Methods that take a weight prepared for prediction may be called from several threads.
    """

    name: str
    forms: ClassVar[dict[str, Callable[[Any, bool], Any]]] = {}
    """How forms of weights are prepared: ``form: make(weight, trained)``."""
    sparse_activations: bool = False
    """Prediction keeps Y in the backend's own sparse form: see `enter`."""
    calls_in_main_thread: bool = True
    """False if a Ctrl-C that arrives inside a call could be lost."""

    def prepare(self, weight: Weight, *, trained: bool = False) -> Any:
        """Return the backend's own form of a weight, a `Prepared`.

        A form of weight that the backend has no kernel for is prepared as what it means.

        Parameters
        ----------
        weight : Weight, shape (out_features, in_features)
        trained : bool
            With writable `values` and what the two backward products need.

        Raises
        ------
        MemoryBudgetError
            If the form does not fit into memory.
        """
        make = self.forms.get(weight.form)
        if make is None:
            weight = weight.plain()
            make = self.forms.get(weight.form)
        if make is None:
            raise BackendError(self.name, f"one of the forms {', '.join(self.forms)}", weight.form)
        return make(weight, trained)

    def affine(
        self,
        w: Any,
        Y: Array,
        bias: Array | None,
        out: Array,
        *,
        clamp: Bounds | None = None,
        accumulate: bool = False,
        threads: int = 1,
    ) -> None:
        """Compute out = clamp(W Y + b), or with `accumulate` out = clamp(out + W Y + b).

        Parameters
        ----------
        w : Prepared
        Y : ndarray, shape (tiles, in_features, width)
        bias : ndarray, shape () or (out_features,), or None for no bias
        out : ndarray, shape (tiles, out_features, width)
            Must not overlap Y.
        clamp : (low, high), optional
            min(max(z, low), high); NaN stays NaN.
        threads : int

        Notes
        -----
        Releases the GIL in its heavy part.
        """
        raise NotImplementedError

    def input_grad(self, w: Any, dZ: Array, out: Array, threads: int = 1) -> None:
        """Compute out = W^T dZ, the gradient with respect to Y of that with respect to W Y + b.

        Parameters
        ----------
        w : Prepared
            With ``trained=True``.
        dZ : ndarray, shape (tiles, out_features, width)
        out : ndarray, shape (tiles, in_features, width)
            Overwritten.
        """
        raise NotImplementedError

    def weight_grad(self, w: Any, dZ: Array, Y: Array, out: Array, threads: int = 1) -> None:
        """Compute out = the entries of dZ Y^T at W's pattern, summed over tiles.

        Parameters
        ----------
        w : Prepared
            With ``trained=True``.
        dZ, Y : ndarray, shapes (tiles, out_features, width) and (tiles, in_features, width)
        out : ndarray, shape (nnz,)
            Overwritten.
        """
        raise NotImplementedError

    def width(self, features: int, dtype: np.dtype[Any], batch: int | None = None) -> int:
        """Return the columns of a tile at which layers of `features` are computed fastest.

        In training, with mini-batches of `batch` samples, the default is a tile for all of them.
        """
        if batch is None:
            return cached_width(features, dtype)
        return max(-(-batch // 16) * 16, 16)

    def pinned(self, threads: int) -> AbstractContextManager[None]:
        """Keep the libraries underneath on `threads` threads for calls from this thread."""
        return nullcontext()

    def program(self, affines: Sequence[Affine]) -> Program | None:
        """Return affine maps as one call for small batches; None if there is no such."""
        return None

    def constant_columns(self, Y: Array) -> Array:
        """Return for each column of Y, shape (features, width), whether all values are equal."""
        return columns.constant(Y)

    def pack_columns(self, Y: Array, chosen: Array, out: Array) -> None:
        """Copy columns `chosen` of Y to the front of `out`, and fill its others with zeros."""
        columns.pack(Y, chosen, out)

    def engine(self, weight: Weight) -> str:
        """Return the name of the backend that computes a layer with this weight."""
        return self.name

    # -- for backends with sparse activations ------------------------------------------------------

    def enter(self, Y: Array) -> Any:
        """Return Y, shape (features, batch), in the backend's sparse form."""
        raise NotImplementedError

    def leave(self, Y: Any) -> Array:
        """Undo `enter`."""
        raise NotImplementedError

    def live(self, Y: Any) -> int:
        """Return the number of columns of a sparse Y that have any entry."""
        raise NotImplementedError

    def forward(self, w: Any, Y: Any, bias: Array, bounds: Bounds | None) -> Any:
        """Return clamp(W Y + b) for a sparse Y."""
        raise NotImplementedError


def cached_width(features: int, dtype: np.dtype[Any], cache: int = 1 << 20) -> int:
    """Return the widest multiple of 64 columns, 64 to 512, of which a tile fills `cache` bytes."""
    return int(min(max(cache // (features * dtype.itemsize) // 64 * 64, 64), 512))


def aligned_empty(size: int, dtype: npt.DTypeLike) -> Array:
    """Return an uninitialised vector of `size` elements that starts at a 64-byte boundary."""
    dtype = np.dtype(dtype)
    raw = np.empty(size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * dtype.itemsize].view(dtype)
