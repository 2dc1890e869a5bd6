"""Integer weights in the two orders of `vnni.packing`, for the kernels of `vnni.layer`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gbdnn.backends.base import Affine, Bounds
from gbdnn.backends.fused.helpers import address_of
from gbdnn.backends.fused.integers import records
from gbdnn.backends.fused.integers.recorded import RecordedIntegers, good_step
from gbdnn.backends.fused.integers.vnni import layer
from gbdnn.backends.fused.integers.vnni.packing import PLACE, ROWS, as_quads, as_windows
from gbdnn.backends.fused.integers.vnni.vectors import SAMPLES
from gbdnn.backends.fused.windows import cuts
from gbdnn.types import Array
from gbdnn.weights import CSR, Integers

__all__ = ["VnniIntegers", "computes_here", "few_of", "link"]

MOST_NIBBLE, INT32 = 7, 2**31 - 1
LEAST_FEW = 3  # of layers that hand codes over: quads write 16 bytes where fewer numbers stand
# About the nanoseconds of a step of a window, for all samples that share it and for each of them,
# and of a quad for up to 16, 32 and 64 samples. Their ratios decide which is used.
STEP, SAMPLE, QUADS = 1.0, 0.52, {16: 1.2, 32: 2.1, 64: 2.4}


class VnniIntegers(RecordedIntegers):
    """A weight as quads for batches, and as windows for few samples.

    Attributes
    ----------
    quads : Quads
    windows : Windows
    few : int
        Samples up to which windows are faster.
    """

    def __init__(self, weight: Integers, pattern: CSR, codes: Array) -> None:
        super().__init__(weight, pattern, codes, PLACE)
        indptr, columns, codes = self.entries
        self.quads = as_quads(indptr, columns, codes)
        self.nibbles = self._fits(codes)
        self.windows = as_windows(indptr, columns, codes, self.shape[1], nibbles=self.nibbles)
        self.few = _few(len(self.quads.weights) // 4, self.windows.count)
        self.factors += self.grouped_factors(self.windows.targets)
        self._kernel = layer.layer_kernel(self.dtype, columns.dtype)

    def _fits(self, codes: Array) -> bool:
        """Return whether codes are nibbles, and 16 times their sums fit into 32 bits."""
        indptr = self.entries[0]
        span = max(self.levels.largest, self.levels.high - self.levels.low)
        longest = int(np.diff(indptr).max(initial=0))
        small = np.abs(codes.astype(np.int16)).max(initial=0) <= MOST_NIBBLE
        return bool(small) and 16 * MOST_NIBBLE * span * longest <= INT32

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.quads.nbytes + self.windows.nbytes + sum(each.nbytes for each in self.factors)

    def affine(
        self, Y: Array, bias: Array | None, out: Array, *, clamp: Bounds | None = None,
        accumulate: bool = False, threads: int = 1,
    ) -> None:  # fmt: skip
        """Compute out = clamp([out +] W Y + b); see `RecordedIntegers.affine`.

        Windows add to nothing: compiled in one piece with all that it calls, as numba's cache keeps
        it, LLVM left the sum with `out` away (a process of its own got it right).
        """
        if not accumulate or Y.shape[2] > self.few:
            super().affine(Y, bias, out, clamp=clamp, accumulate=accumulate, threads=threads)
            return
        found = np.empty_like(out)
        super().affine(Y, bias, found, threads=threads)
        np.add(out, found, out=out)
        if clamp is not None:
            np.clip(out, *clamp, out=out)

    def template(self, blocks: int) -> Array:
        """Return the words of `layer`."""
        quads, windows = self.quads, self.windows
        words = {
            records.KERNEL: self._kernel, layer.FEW: self.few, layer.BLOCKS: blocks,
            layer.NIBBLES: self.nibbles, layer.IN_ORDER: windows.in_order,
        }  # fmt: skip
        arrays = {
            layer.QUAD_TABLE: quads.table, layer.QUAD_COLUMNS: quads.columns,
            layer.QUAD_WEIGHTS: quads.weights, layer.GROUP_TABLE: windows.table,
            layer.GROUP_CONSTANTS: self.factors[2], layer.GROUP_SCALES: self.factors[3],
            layer.TARGETS: windows.targets, layer.STARTS: windows.starts,
            layer.PLACES: windows.places, layer.WINDOW_WEIGHTS: windows.weights,
        }  # fmt: skip
        ranges = np.concatenate([cuts(quads.table, blocks), cuts(windows.table, blocks)])
        template = np.zeros(layer.RECORD_WORDS + len(ranges), np.int64)
        for word, number in words.items():
            template[word] = number
        for word, array in arrays.items():
            template[word] = address_of(array)
        template[layer.RECORD_WORDS :] = ranges
        return template


def few_of(affines: Sequence[Affine]) -> int:
    """Return up to how many samples linked layers go by windows."""
    fews = [affine.weight.few for affine in affines if isinstance(affine.weight, VnniIntegers)]
    return max(min(fews, default=0), LEAST_FEW)


def link(
    affines: Sequence[Affine], records_: list[list[int]], *, entered: bool, pitch: int = 0
) -> None:
    """Let layers that follow each other hand codes over, where both compute in this way.

    A layer then writes the levels that the next one would round its numbers to: the same bits,
    without writing and reading four times the bytes, and without rounding once for each block.

    Parameters
    ----------
    affines : sequence of Affine
    records_ : list of list of int
        Their records, which are changed.
    entered : bool
        The first layer gets codes, from `layer.entry_kernel`: see `computes_here`.
    pitch : int
        Of a batch of few samples the last layer leaves numbers sample after sample, so many bytes
        apart; 0: as other layers do.
    """
    mine = [k for k, affine in enumerate(affines) if isinstance(affine.weight, VnniIntegers)]
    few = few_of(affines)
    for k in mine:
        records_[k][layer.FEW] = few
        if k == 0 and entered:
            records_[k][layer.TAKES] = 1
        if k == len(affines) - 1:
            records_[k][layer.PITCH] = pitch
        if k + 1 in mine and _gives(affines[k], affines[k + 1].weight):
            records_[k + 1][layer.TAKES] = records_[k][layer.GIVES] = 1
            words = np.array(_next_numbers(affines[k], affines[k + 1].weight)).view(np.int64)
            records_[k][layer.NEXT_STEP : layer.NEXT_BASE + 1] = words.tolist()


def computes_here(affine: Affine) -> bool:
    """Return whether a first layer can take codes, and a last one leave samples: see `link`."""
    return isinstance(affine.weight, VnniIntegers) and affine.weight.shape[1] >= ROWS


def _gives(affine: Affine, following: VnniIntegers) -> bool:
    """Return whether a layer can write the codes of the next one."""
    bounds = np.array(affine.bounds)
    return (
        good_step(following.levels.step)
        and affine.weight.shape[0] >= ROWS  # there is room for whole windows
        and bool(np.isfinite(affine.bias).all())  # there is no NaN
        and not np.isnan(bounds).any()
    )


def _next_numbers(affine: Affine, following: VnniIntegers) -> list[float]:
    """Return NEXT_STEP, NEXT_INVERSE, NEXT_LEAST, NEXT_MOST, NEXT_BASE of a record.

    Codes ascend with the numbers, so that bounds of the numbers are bounds of the codes.
    """
    levels, real = following.levels, following.dtype.type
    low, high = levels.low - levels.zero, levels.high - levels.zero
    with np.errstate(over="ignore"):
        codes = np.rint(np.array(affine.bounds).astype(real) / real(levels.step))
    least, most = np.clip(codes, low, high).tolist()
    return [levels.step, 1 / levels.step, least, most, float(low)]


def _few(quads: int, steps: int) -> int:
    """Return up to how many samples windows are faster than quads."""
    count = 0
    for most, quad in QUADS.items():
        while count < most:
            samples = count + 1
            if steps * (STEP * -(-samples // SAMPLES[0]) + SAMPLE * samples) > quads * quad:
                return count
            count = samples
    return count
