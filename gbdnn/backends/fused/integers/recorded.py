"""Integer weights whose layers are records: what their forms have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

from gbdnn.backends.arrays import check_affine
from gbdnn.backends.base import UNBOUNDED, Affine, Bounds
from gbdnn.backends.fused.helpers import address_of
from gbdnn.backends.fused.integers import records
from gbdnn.backends.integers import IntegerForm
from gbdnn.backends.workers import share
from gbdnn.types import Array
from gbdnn.weights import CSR, Integers

__all__ = ["RecordedIntegers", "good_step"]

SMALL = 1 << 22  # edges x columns below which a second thread costs more than it gives
LATENCY = 16  # columns that one column costs as much as
SAFE = 2.0**100  # steps beyond it or its inverse have no good inverse


class RecordedIntegers(IntegerForm):
    """A weight with one scale for each row, as the kernels of records compute with it.

    Subclasses have `template`.

    Attributes
    ----------
    edges : int
        Entries that are not 0.
    entries : tuple of ndarray
        These entries: indptr, columns as the narrowest of uint16 and uint32 that holds them
        `place` times, codes.
    """

    def __init__(self, weight: Integers, pattern: CSR, codes: Array, place: int) -> None:
        super().__init__(weight, pattern, codes)
        filled = np.flatnonzero(codes)  # an entry of code 0 adds nothing
        codes, columns = codes[filled], pattern.indices[filled]
        indptr = np.searchsorted(filled, pattern.indptr)
        self.edges = len(codes)
        narrow = self.shape[1] * place <= 1 << 16
        self.entries = indptr, columns.astype(np.uint16 if narrow else np.uint32), codes
        sums = np.bincount(np.repeat(np.arange(self.shape[0]), np.diff(indptr)), codes,
                           self.shape[0])  # fmt: skip
        constants = (sums * (self.levels.low - self.levels.zero)).astype(np.int32)
        self.factors = [constants, np.ascontiguousarray(self.scales[:, 0])]
        self._templates: dict[int, Array] = {}

    def grouped_factors(self, targets: Array) -> list[Array]:
        """Return constants and scales in the order of `targets`, 0 for rows of number -1."""
        return [np.where(targets < 0, 0, each[targets]).astype(each.dtype) for each in self.factors]

    def affine(
        self,
        Y: Array,
        bias: Array | None,
        out: Array,
        *,
        clamp: Bounds | None = None,
        accumulate: bool = False,
        threads: int = 1,
    ) -> None:
        """Compute out = clamp(W Y + b), Y rounded to its levels; see `Backend.affine`."""
        check_affine(self, Y, bias, out)
        bias = np.zeros(1, self.dtype) if bias is None else bias.reshape(-1)
        work = self.edges * max(Y.shape[0] * Y.shape[2], LATENCY)
        # each block rounds the whole input, so there are no more of them than threads
        blocks = threads if work >= SMALL else 1
        words = self._words(bias, clamp or UNBOUNDED, accumulate, blocks)
        address = address_of(words)
        share(lambda block: records.run_layer(address, block, Y, out), range(blocks), blocks)

    def record(self, affine: Affine, columns: int, blocks: int) -> list[int]:
        """Return the layer's words in a program; see `FusedWeight.record`."""
        words: list[int] = self._words(affine.bias, affine.bounds, False, blocks).tolist()
        return words

    def _words(self, bias: Array, bounds: Bounds, accumulate: bool, blocks: int) -> Array:
        template = self._templates.get(blocks)
        if template is None:
            template = self._templates[blocks] = self._whole_template(blocks)
        words = template.copy()
        words[records.BIAS], words[records.BIAS_LENGTH] = address_of(bias), bias.size
        words[records.GROW] = accumulate
        words[records.LOWER : records.UPPER + 1] = np.array(bounds, np.float64).view(np.int64)
        return words

    def _whole_template(self, blocks: int) -> Array:
        levels = self.levels
        inverse = 1 / levels.step if good_step(levels.step) else np.nan
        template = self.template(blocks)
        numbers: dict[int, Any] = {
            records.LEVEL_STEP: levels.step, records.INVERSE: inverse,
            records.LEAST: levels.low - levels.zero, records.MOST: levels.high - levels.zero,
        }  # fmt: skip
        for word, number in numbers.items():
            template[word] = np.float64(number).view(np.int64)
        template[records.OUT_FEATURES], template[records.IN_FEATURES] = self.shape
        template[records.CONSTANTS] = address_of(self.factors[0])
        template[records.SCALES] = address_of(self.factors[1])
        return template

    def template(self, blocks: int) -> Array:
        """Return the words of a record, with its cuts, where they are not the same for all."""
        raise NotImplementedError


def good_step(step: float) -> bool:
    """Return whether a step of levels has an inverse to compute with."""
    return 1 / SAFE < step < SAFE
