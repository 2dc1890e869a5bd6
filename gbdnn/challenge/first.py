"""The first layer on packed bits, 64 inputs at a time.

Inputs are zeros and ones, and all weights of a layer are equal, so that a sum is a count: z_i = w
n_i + b. The bits of one pixel of 64 inputs are one word. A row's words are added to binary counters
whose digit p, for 64 inputs too, is word p: a half adder a digit. h(w n + b) is read from a table.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numba import types

from gbdnn.backends.fused.compilation import array_type, jit, load
from gbdnn.challenge.images import InputBits
from gbdnn.data.inputs import Ids, Inputs
from gbdnn.types import Array
from gbdnn.weights import CSR

__all__ = ["FirstLayer"]

DIGITS = 6  # of the counters: up to 63 weights a row
BLOCK = 512  # inputs whose bits of a pixel are one cache line


@dataclass(frozen=True, eq=False)
class FirstLayer(Inputs):
    """h(W x + b) of inputs x of zeros and ones, as inputs of the layers behind.

    Parameters
    ----------
    bits : InputBits
    weight : CSR
        Iso-valued, with up to 63 entries in a row: see `suits`.
    bias, cap : float
        h(z) = min(max(z, 0), cap).
    """

    bits: InputBits
    weight: CSR
    bias: float
    cap: float
    table: Array = field(init=False)
    local: threading.local = field(init=False, default_factory=threading.local)

    dtype = np.dtype(np.float32)

    def __post_init__(self) -> None:
        # a kernel adds one weight after the other: the same roundings here
        terms = np.full(1 << DIGITS, self.weight.values[0], np.float32)
        terms[0] = self.bias
        sums = np.add.accumulate(terms, dtype=np.float32)
        object.__setattr__(self, "table", np.clip(sums, 0, np.float32(self.cap)))
        _load(self.weight.indices.dtype)

    @staticmethod
    def suits(weight: CSR) -> bool:
        """Return whether a weight has one value for all entries, and few in each row."""
        lengths = np.diff(weight.indptr)
        return len(weight.values) == 1 and int(lengths.max(initial=0)) < 1 << DIGITS

    @property
    def features(self) -> int:  # type: ignore[override]
        """Neurons of the layer."""
        return self.weight.shape[0]

    @property
    def count(self) -> int:  # type: ignore[override]
        """Number of inputs."""
        return self.bits.count

    def load(self, ids: Ids, out: Array) -> None:
        """Compute the layer for inputs, by number or a slice, into `out`."""
        if not isinstance(ids, slice):
            whole = np.empty((1, self.features, self.count), np.float32)
            self.load(slice(0, self.count), whole)
            out[...] = whole[:, :, ids]
            return
        stop, done = ids.start + out.shape[2], ids.start
        while done < stop:
            block, at = divmod(done, BLOCK)
            words = self._words(block)
            first, last = at // 64, -(-min(at + stop - done, BLOCK) // 64)
            full = np.empty((self.features, 64 * (last - first)), np.float32)
            weight = self.weight
            _counted(words[first:last], weight.indptr, weight.indices, self.table, _spread(), full)
            start, size = at - 64 * first, min(stop - done, BLOCK - at)
            out[0, :, done - ids.start :][:, :size] = full[:, start : start + size]
            done += size

    def _words(self, block: int) -> Array:
        """Return the bits of 512 inputs, shape (8, pixels), kept for this thread's next tile.

        The bits of a pixel are kilobytes away from the next pixel's: each block of 64 bytes is one
        cache line, which is read once.
        """
        if getattr(self.local, "block", None) != block:
            words = np.empty((BLOCK // 64, self.bits.n_features), np.uint64)
            _gathered(self.bits.bits, block * BLOCK // 8, words)
            self.local.block, self.local.words = block, words
        found: Array = self.local.words
        return found


@cache
def _spread() -> Array:
    """Return for each byte a word whose bytes are its bits, the highest first in memory."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return np.ascontiguousarray(bits).view(np.uint64).ravel()


@jit
def _gathered(bits, first, out):
    """Bring the 64 bytes from `first` on of each row of `bits` to a column of `out`."""
    for j in range(bits.shape[0]):
        for w in range(out.shape[0]):
            word = np.uint64(0)
            begin = first + 8 * w
            for b in range(min(8, bits.shape[1] - begin)):
                word |= np.uint64(bits[j, begin + b]) << np.uint64(8 * b)
            out[w, j] = word


@jit
def _counted(words, indptr, indices, table, spread, out):
    """Compute out[i, s] = table[number of ones of input s among the columns of row i]."""
    digits = np.empty(DIGITS, np.uint64)
    counts = np.empty(8, np.uint8)
    count = counts.view(np.uint64)
    for w in range(len(words)):
        word = words[w]
        for i in range(out.shape[0]):
            d0 = d1 = d2 = d3 = d4 = d5 = np.uint64(0)
            for k in range(indptr[i], indptr[i + 1]):
                c = word[indices[k]]
                d0, c = d0 ^ c, d0 & c
                d1, c = d1 ^ c, d1 & c
                d2, c = d2 ^ c, d2 & c
                d3, c = d3 ^ c, d3 & c
                d4, c = d4 ^ c, d4 & c
                d5 ^= c
            for p, d in enumerate((d0, d1, d2, d3, d4, d5)):
                digits[p] = d
            for b in range(8):
                count[0] = 0
                for p in range(DIGITS):
                    byte = digits[p] >> np.uint64(8 * b) & np.uint64(255)
                    count[0] += spread[byte] << np.uint64(p)
                for s in range(8):
                    out[i, 64 * w + 8 * b + s] = table[counts[s]]


@cache
def _load(index: Any) -> None:
    from numba import from_dtype

    kind = from_dtype(index)
    bits = types.Array(types.uint8, 2, "A", readonly=True)
    real = array_type(types.float32, 2, writable=True)
    words = array_type(types.uint64, 2)
    load(_gathered, bits, types.int64, array_type(types.uint64, 2, writable=True))
    load(_counted, words, array_type(kind, 1), array_type(kind, 1), array_type(types.float32, 1),
         array_type(types.uint64, 1), real)  # fmt: skip
