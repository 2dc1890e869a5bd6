"""The fused backend: out = h(W Y + b) in one pass over `out`, at the speed of the first caches.

The machine code is in `kernels` and `gradients`, the form of the weights in `weight` and `groups`,
whole networks for small batches in `program`. Here are the checks and the threads: they split the
rows of the left matrix and take each tile in turn, so that no two write to the same place and no
bit depends on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from gbdnn.backends.arrays import check_affine, check_tiles, check_values
from gbdnn.backends.base import UNBOUNDED, Affine, Backend, Bounds
from gbdnn.backends.fused import gradients, interpreter, kernels, through
from gbdnn.backends.fused.cells import recurrence, together
from gbdnn.backends.fused.groups import Grouped, Piece, is_wide
from gbdnn.backends.fused.integers.packed import prepared
from gbdnn.backends.fused.program import FusedProgram
from gbdnn.backends.fused.weight import FusedWeight
from gbdnn.backends.integers import IntegerForm
from gbdnn.backends.recurrences import Scan, ScanGrad
from gbdnn.backends.workers import share
from gbdnn.types import Array

__all__ = ["FusedBackend", "FusedWeight"]

SMALL = 1 << 22  # edges x columns below which a second thread costs more than it gives (150 us)
LATENCY = 16  # columns that one column costs as much as: indices and values are read for each
FEW = 16  # columns of time steps up to which a strip of 64 would be mostly zeros
PIECES = 3  # ranges of rows for each thread: who is disturbed takes fewer
TILE = 1 << 19  # bytes of Y that stay in the second cache while W streams by


class FusedBackend(Backend):
    """Y_{k+1} = h(W_k Y_k + b_k), register-blocked, bias and bounds applied before the one store.

    Sums are taken with fused multiply-adds in an order that depends on the width of the batch:
    results of the same column in batches of different width may differ in the last bits.
    Dense weights run in the same kernel, as one pattern shared by all rows.
    """

    name = "fused"
    computes_sparse_first = True
    forms = {"csr": FusedWeight, "dense": FusedWeight}  # noqa: RUF012
    integers = staticmethod(prepared)

    def affine(
        self,
        w: FusedWeight | IntegerForm,
        Y: Array,
        bias: Array | None,
        out: Array,
        *,
        clamp: Bounds | None = None,
        accumulate: bool = False,
        threads: int = 1,
    ) -> None:
        """Compute out = clamp(W Y + b), or clamp(out + W Y + b); see `Backend.affine`.

        Bounds cost nothing. Any width is right; a 64-byte aligned Y is twice as fast. Threads are
        used where there is enough work.
        """
        if isinstance(w, IntegerForm):
            w.affine(Y, bias, out, clamp=clamp, accumulate=accumulate, threads=threads)
            return
        check_affine(w, Y, bias, out)
        form = w.rows
        if form.blocks is not None:
            form = form.suited(is_wide(Y.shape[2] * Y.itemsize))
        _product(form, w.edges, Y, bias, out, threads, clamp or UNBOUNDED, accumulate)

    def input_grad(self, w: FusedWeight, dZ: Array, out: Array, threads: int = 1) -> None:
        """Compute out = W^T dZ; see `Backend.input_grad`."""
        check_tiles(w, dZ, out, names=("dZ", "out"))
        _product(w.transposed, w.edges, dZ, None, out, threads)

    def weight_grad(
        self, w: FusedWeight, dZ: Array, Y: Array, out: Array, threads: int = 1
    ) -> None:
        """Compute out[k] = sum over tiles and columns of dZ[:, i] Y[:, j], (i, j) of entry k.

        That is dZ Y^T where W stores an entry, O(nnz x batch): nothing else of it is computed. See
        `Backend.weight_grad`.
        """
        check_tiles(w, dZ, Y, names=("dZ", "Y"))
        check_values(w, out)
        if Y.size == 0:
            out.fill(0)
            return
        _over_rows(w.rows, w.edges, Y, threads, _weight_grad, dZ, Y, out)

    def over_time(
        self, w: FusedWeight | IntegerForm, Y: Array, bias: Array | None, out: Array,
        threads: int = 1,
    ) -> None:  # fmt: skip
        """Compute out = W Y + b with time steps side by side; see `Backend.over_time`."""
        check_affine(w, Y, bias, out)
        columns, matrix = Y.shape[0] * Y.shape[2], None
        if isinstance(w, FusedWeight):
            as_it_is = not w.has_short_numbers
            matrix = w.matrix(1, full=True) if columns <= FEW else None
        else:
            as_it_is = Y.shape[0] == 1
        if columns == 0 or as_it_is or together.whole_strips(Y):
            self.affine(w, Y, bias, out, threads=threads)
        elif matrix is not None:
            together.few_columns(matrix, Y, bias, out)
        else:
            compute = lambda y, z, threads: self.affine(w, y, bias, z, threads=threads)  # noqa: E731
            together.by_strips(Y, out, compute, threads)

    def scan(self, given: Scan, threads: int = 1) -> bool:
        """Compute all time steps in one compiled call; see `recurrence.scan`."""
        return recurrence.scan(given, threads)

    def scan_grad(self, given: ScanGrad, threads: int = 1) -> bool:
        """Go back in one compiled call where weights are sparse; see `recurrence.scan_grad`."""
        return recurrence.scan_grad(given, threads)

    def width(self, features: int, dtype: np.dtype[Any], batch: int | None = None) -> int:
        """Return the fastest number of columns of a tile.

        For prediction: a call costs 3 us and the GIL, so narrow layers get wide tiles, 512 KiB of
        Y; at least one strip, 64 float32 or 32 float64 columns, as long as that does not exceed
        1 MiB, the second cache; then half a strip.

        In training: one strip, half a strip where that exceeds 512 KiB, fewer for smaller batches.
        A tile of Y then stays in the second cache while the weights stream by.
        """
        return _width(features, dtype.itemsize, batch)

    def program(self, affines: Sequence[Affine]) -> FusedProgram | None:
        """Return affine maps of one dtype as one call for small batches."""
        if not all(hasattr(affine.weight, "record") for affine in affines):
            return None
        same = len({affine.weight.dtype for affine in affines}) == 1
        return FusedProgram(affines) if same else None

    def warm_up(self, dtype: np.dtype[Any]) -> None:
        """Load or compile what takes tiles through programs and drops columns."""
        interpreter.layer_kernel(dtype, np.dtype(np.uint16))  # of layers up to 65,536 wide
        through.loaded()
        through.dropping(dtype)


def _product(
    form: Grouped, edges: int, Y: Array, bias: Array | None, out: Array, threads: int,
    bounds: Bounds = UNBOUNDED, accumulate: bool = False,
) -> None:  # fmt: skip
    """Compute out = clamp([out +] W Y + b) for all tiles; `form` is W."""
    vector = np.zeros(1, Y.dtype) if bias is None else bias.reshape(-1)
    origin = kernels.FROM_BIAS
    if accumulate:
        origin = kernels.FROM_OUT if bias is None else kernels.FROM_BOTH
    _over_rows(form, edges, Y, threads, _rows, origin, vector, Y, out, bounds)


def _rows(
    pieces: list[Piece], origin: int, bias: Array, Y: Array, out: Array, bounds: Bounds
) -> None:
    """Compute rows of a product."""
    for piece in pieces:
        limits = bounds if piece.final else UNBOUNDED
        kernels.product(*piece[:8], piece.origin or origin, bias, Y, out, *limits)


def _weight_grad(pieces: list[Piece], dZ: Array, Y: Array, out: Array) -> None:
    """Compute the gradients of rows."""
    for piece in pieces:
        gradients.weight_grad(piece.table, piece.indices, dZ, Y, piece.first, piece.last, out)


def _over_rows(
    form: Grouped, edges: int, Y: Array, threads: int, task: Callable[..., None], *arguments: Any
) -> None:
    """Call `task` for ranges of rows, on several threads where there is enough work."""
    if threads > 1 and edges * max(Y.shape[0] * Y.shape[2], LATENCY) >= SMALL:
        pieces = form.shares(threads * PIECES)
        share(lambda piece: task(piece, *arguments), pieces, threads)
    else:
        task(form.whole, *arguments)


@cache
def _width(features: int, itemsize: int, batch: int | None) -> int:
    """Compute `FusedBackend.width`."""
    lanes, strip = kernels.VECTOR // itemsize, kernels.STRIP // itemsize
    if batch is not None:
        if features * kernels.STRIP > TILE:
            strip //= 2
        return min(strip, -(-max(batch, 1) // lanes) * lanes)
    if features * kernels.STRIP > 2 * TILE:
        return strip // 2
    return min(max(TILE // (features * itemsize) // strip * strip, strip), 8 * strip)
