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

from gbdnn.backends.recurrences import Scan, ScanGrad
from gbdnn.errors import BackendError
from gbdnn.types import Array
from gbdnn.weights import CSR, Weight

__all__ = [
    "LANES", "STRIP", "UNBOUNDED", "Affine", "Backend", "Bounds", "Passed", "Prepared", "Program",
    "aligned_empty", "cached_width", "whole_strip",
]  # fmt: skip

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-np.inf, np.inf)
LANES = 16  # float32 in the widest register: narrower strips are computed in another way
STRIP = 64  # columns that a kernel takes through a row at a time, at the most
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


@dataclass(frozen=True, eq=False)
class Passed:
    """What is left of a tile behind the maps of a program.

    Attributes
    ----------
    ids : ndarray of int64
        The samples that are left.
    Y : ndarray, shape (out_features, padded columns)
        Their columns, in one of the buffers.
    final : dict of float to ndarray
        The samples whose columns are that constant everywhere and stay so.
    edges : int
        Stored weights times columns, over all maps.
    """

    ids: Array
    Y: Array
    final: dict[float, Array]
    edges: int


class Program:
    """Affine maps as one compiled call. Read-only, shared by threads."""

    def fits(self, view: Array) -> bool:
        """True if `run` can read or write an array of shape (features, samples) as it is."""
        raise NotImplementedError

    def rounds_as_tiles(self, count: int) -> bool:
        """True if `run` rounds `count` columns as `through` does, in tiles of whole strips."""
        return True

    def run(
        self,
        source: Array,
        target: Array,
        *,
        width: int,
        threads: int,
        check: bool,
        constants: Sequence[frozenset[float]] | None = None,
    ) -> tuple[int, int] | None:
        """Compute `target`, (out_features, samples), with exact skipping.

        Parameters
        ----------
        source : ndarray, shape (in_features, samples)
        target : ndarray, shape (out_features, samples)
            Arrays for which `fits` is true. Undefined if the result is None.
        width : int
            Columns that are computed together.
        threads : int
        check : bool
            Look for NaN and infinity in the source.
        constants : sequence of frozenset of float, optional
            For each map, at which constants a column behind it is final; default nowhere.

        Returns
        -------
        tuple of int, or None
            Stored weights times columns that were computed, and about how many of them were for
            final columns that could not be left out; None if `check` found something.
        """
        raise NotImplementedError

    def through(
        self,
        buffers: tuple[Array, Array],
        ids: Array,
        *,
        lanes: int,
        first: int,
        constants: Sequence[frozenset[float]],
        cancelled: Callable[[], bool],
    ) -> Passed | None:
        """Take one tile through some maps in this thread, without the columns that are final.

        Parameters
        ----------
        buffers : two ndarrays, C-contiguous vectors
            The first begins with the tile, (features, columns); each has room for as many columns
            of the widest of these maps. Both are overwritten.
        ids : ndarray of int64
            The numbers of the samples in the tile; the columns are as many, rounded up to `lanes`.
        lanes : int
        first : int
            Number of the first map.
        constants : sequence of frozenset of float
            For it and the maps behind it, as many as there are sets, at which constants a column
            behind each is final.
        cancelled : callable
            Asked now and then; if it is true, the result is None.
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
    integers: ClassVar[Any] = None
    """How integer weights with `levels` are prepared for prediction: ``make(weight)``."""
    sparse_activations: bool = False
    """Prediction keeps Y in the backend's own sparse form: see `enter`."""
    computes_sparse_first: bool = False
    """Very sparse samples may go through the first layer as a sparse product beforehand."""
    calls_in_main_thread: bool = True
    """False if a Ctrl-C that arrives inside a call could be lost."""

    def prepare(self, weight: Weight, *, trained: bool = False) -> Any:
        """Return the backend's own form of a weight, a `Prepared`.

        A form of weight that the backend has no kernel for is prepared as what it means. One with
        `levels` is computed with in whole numbers, but in training, where layers round by
        themselves.

        Parameters
        ----------
        weight : Weight, shape (out_features, in_features)
        trained : bool
            With writable `values` and what the two backward products need.

        Raises
        ------
        MemoryBudgetError
            If the form does not fit into memory.
        BackendError
            If the backend has no products of whole numbers, which a weight with `levels` needs.
        """
        if weight.levels is not None and not trained:
            if self.integers is None:
                raise BackendError(
                    self.name, "weights whose input stays as it is", f"{weight!r} with levels",
                    "Take another backend, or weights as floats: weight.plain().",
                )  # fmt: skip
            return self.integers(weight)
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

    def over_time(self, w: Any, Y: Array, bias: Array | None, out: Array, threads: int = 1) -> None:
        """Compute out = W Y + b for tiles that are time steps.

        A column has the same bits whatever the number of tiles: a sequence may be cut anywhere.
        """
        self.affine(w, Y, bias, out, threads=threads)

    def scan(self, given: Scan, threads: int = 1) -> bool:
        """Compute all time steps of a recurrence, or return False: they are taken one by one."""
        return False

    def scan_grad(self, given: ScanGrad, threads: int = 1) -> bool:
        """Go back through all time steps of a recurrence, or return False."""
        return False

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

    def warm_up(self, dtype: np.dtype[Any]) -> None:
        """Load or compile what may be needed beside the kernels of weights."""

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


def whole_strip(width: int) -> int:
    """Return the columns of the equal strips that a tile of `width` columns is made of.

    Kernels may sum in another order for narrow strips of columns than for wide ones. So that a
    column rounds alike in whatever tile it ends up, all tiles of a run consist of equal strips.
    """
    return LANES if width <= LANES else 2 * LANES if width <= 2 * LANES else STRIP


def aligned_empty(size: int, dtype: npt.DTypeLike) -> Array:
    """Return an uninitialised vector of `size` elements that starts at a 64-byte boundary."""
    dtype = np.dtype(dtype)
    raw = np.empty(size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * dtype.itemsize].view(dtype)
