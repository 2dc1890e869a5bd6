"""Integer weights in the two orders of `packing`, for the kernels of `layer`."""

from __future__ import annotations

import numpy as np

from gbdnn.backends.fused.helpers import address_of
from gbdnn.backends.fused.integers import layer, records
from gbdnn.backends.fused.integers.packing import as_units, as_windows, limit_of
from gbdnn.backends.fused.integers.prepared import FusedIntegers
from gbdnn.backends.fused.integers.recorded import RecordedIntegers
from gbdnn.backends.fused.integers.vectors import PLACE
from gbdnn.backends.fused.integers.vnni.form import VnniIntegers
from gbdnn.backends.fused.windows import Windows, cuts
from gbdnn.backends.integers import IntegerForm
from gbdnn.types import Array
from gbdnn.weights import CSR, Integers

__all__ = ["PackedIntegers", "prepared"]

# About the nanoseconds of a step of a window, for all samples and for each of up to four that share
# it, and of a pair of a unit for up to 8, 16, 32 samples. Their ratios decide which is used.
STEP, SAMPLE, PAIR = 0.55, 0.5, {8: 1.0, 16: 1.3, 32: 1.6}


def prepared(weight: Integers) -> IntegerForm:
    """Return the fastest form: packed, where each row has one scale and sums fit into 32 bits."""
    if weight.row_scales.shape[1] == 1 and weight.shape[1] * PLACE < 1 << 32:
        form = VnniIntegers if records.instructions() == "vnni" else PackedIntegers
        packed = form(weight, weight.pattern(), weight.codes)
        if packed.sum_type == np.int32:
            return packed
    return FusedIntegers(weight)


class PackedIntegers(RecordedIntegers):
    """A weight as units for batches, and as windows for few samples.

    Attributes
    ----------
    units : Units
    windows : Windows or None
        None where the processor has no instruction for them.
    few : int
        Samples up to which windows are faster.
    """

    def __init__(self, weight: Integers, pattern: CSR, codes: Array) -> None:
        super().__init__(weight, pattern, codes, PLACE)
        named = records.instructions() != "none"
        limit = limit_of(self.levels.high - self.levels.low)
        self.units = as_units(*self.entries, limit)
        self.windows = as_windows(*self.entries, limit) if named else None
        self.few = _few(self.units.count, self.windows)
        if self.windows is not None:
            self.factors += self.grouped_factors(self.windows.targets)
        self._kernel = layer.layer_kernel(self.dtype, self.entries[1].dtype, named)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        windows = self.windows.nbytes if self.windows else 0
        return self.units.nbytes + windows + sum(each.nbytes for each in self.factors)

    def template(self, blocks: int) -> Array:
        """Return the words of `layer`."""
        units, windows = self.units, self.windows
        words = {
            records.KERNEL: self._kernel, layer.PAIRS: units.pairs, layer.FEW: self.few,
            layer.BLOCKS: blocks,
        }  # fmt: skip
        arrays = {
            layer.UNIT_TABLE: units.table, layer.UNIT_COLUMNS: units.columns,
            layer.UNIT_WEIGHTS: units.weights,
        }  # fmt: skip
        ranges = [cuts(units.table, blocks)]
        if windows is not None:
            words[layer.STEPS] = windows.together
            arrays |= {
                layer.GROUP_CONSTANTS: self.factors[2], layer.GROUP_SCALES: self.factors[3],
                layer.GROUP_TABLE: windows.table, layer.TARGETS: windows.targets,
                layer.STARTS: windows.starts, layer.PLACES: windows.places,
                layer.WINDOW_WEIGHTS: windows.weights,
            }  # fmt: skip
            ranges.append(cuts(windows.table, blocks))
        template = np.zeros(layer.RECORD_WORDS + sum(map(len, ranges)), np.int64)
        for word, number in words.items():
            template[word] = number
        for word, array in arrays.items():
            template[word] = address_of(array)
        template[layer.RECORD_WORDS :] = np.concatenate(ranges)
        return template


def _few(pairs: int, windows: Windows | None) -> int:
    """Return up to how many samples windows are faster than units."""
    count = 0
    if windows is not None:
        for most, pair in PAIR.items():
            while count < most:
                samples = count + 1
                if windows.count * (STEP * -(-samples // 4) + SAMPLE * samples) > pairs * pair:
                    return count
                count = samples
    return count
