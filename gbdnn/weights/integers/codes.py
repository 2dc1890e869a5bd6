"""Codes and places as bytes: nibbles, bitmaps, gaps between columns.

Nibbles are two's complement, the low one of a byte first, as in ONNX; an odd number of them leaves
the last high one 0.
"""

from __future__ import annotations

import numpy as np

from gbdnn.errors import InputError, SparseFormatError
from gbdnn.types import Array
from gbdnn.weights.csr import CSR

__all__ = [
    "check_bitmap", "check_packed", "from_bitmap", "from_gaps", "gap_bytes", "pack", "signed",
    "to_bitmap", "to_gaps", "unpack",
]  # fmt: skip


def pack(numbers: Array, bits: int) -> Array:
    """Return whole numbers of 4 bits two to a byte, of 8 or 16 bits as they are."""
    if bits != 4:
        return numbers
    halves = np.zeros(-(-len(numbers) // 2) * 2, np.uint8)
    halves[: len(numbers)] = numbers.view(np.uint8) & 15
    return halves[::2] | (halves[1::2] << 4)


def unpack(packed: Array, bits: int, count: int | None = None) -> Array:
    """Return numbers of 4 bits, not negative, as uint8: all, or `count` of them; others as is."""
    if bits != 4:
        return packed
    halves = np.empty((len(packed), 2), np.uint8)
    np.bitwise_and(packed, 15, out=halves[:, 0])
    np.right_shift(packed, 4, out=halves[:, 1])
    return halves.reshape(-1)[:count]


def signed(nibbles: Array) -> Array:
    """Return what nibbles in two's complement mean, int8: 8 ... 15 are -8 ... -1."""
    return ((nibbles ^ 8) - np.uint8(8)).view(np.int8)


def to_bitmap(places: Array, size: int) -> Array:
    """Return `size` places as bits, the lowest of a byte first: 1 at `places`."""
    flags = np.zeros(size, bool)
    flags[places] = True
    return np.packbits(flags, bitorder="little")


def from_bitmap(bitmap: Array, size: int) -> Array:
    """Undo `to_bitmap`: the places, ascending, int64."""
    return np.flatnonzero(np.unpackbits(bitmap, count=size, bitorder="little"))


def gap_bytes(pattern: CSR, bits: int) -> int:
    """Return the bytes of `to_gaps`, packed."""
    length = pattern.nnz + int((_gaps(pattern.indptr, pattern.indices) // (2**bits - 1)).sum())
    return -(-length * bits // 8)


def _gaps(indptr: Array, indices: Array) -> Array:
    """Return how many places are left out before each entry of a row."""
    before = np.empty(len(indices), np.int64)
    before[1:] = indices[:-1]
    before[indptr[:-1][np.diff(indptr) > 0]] = -1
    return indices - before - 1


def to_gaps(indptr: Array, indices: Array, bits: int) -> Array:
    """Return columns as gaps: how many places are left out before each entry of a row.

    The largest number of so many bits, S, stands for S places without an entry: a gap g is written
    as g // S times S, then g % S.
    """
    skip = 2**bits - 1
    gaps = _gaps(indptr, indices)
    times = gaps // skip
    length = len(gaps) + int(times.sum())
    length += length % 2 if bits == 4 else 0
    stream = np.full(length, skip, np.uint16 if bits == 16 else np.uint8)
    stream[np.cumsum(times + 1) - 1] = gaps % skip
    return stream


def from_gaps(stream: Array, indptr: Array, bits: int, columns: int) -> Array:
    """Undo `to_gaps`: the column of each entry, int64. `stream` is unpacked.

    Raises
    ------
    SparseFormatError
        If the stream has another number of entries, or a column is out of range.
    """
    skip, nnz = 2**bits - 1, int(indptr[-1])
    entry = stream != skip
    found = int(np.count_nonzero(entry))
    if found != nnz:
        raise SparseFormatError("gaps", f"{nnz} entries, as the lengths say", f"{found}")
    steps = stream.astype(np.int64)
    steps += entry  # an entry takes one place, a skip none
    reached = steps.cumsum()[entry]
    lengths = np.diff(indptr)
    filled = lengths > 0
    starts = indptr[:-1][filled]
    before = np.zeros(len(starts), np.int64)
    before[1:] = reached[starts[1:] - 1]
    indices: Array = reached - np.repeat(before, lengths[filled]) - 1
    if nnz and int(indices.max()) >= columns:
        got = f"one of {int(indices.max())}"
        raise SparseFormatError("gaps", f"columns from 0 to {columns - 1}", got)
    return indices


def check_packed(name: str, packed: Array, count: int, bits: int) -> None:
    """Refuse another number of bytes than `count` numbers take, or a half byte over that is not 0.

    Raises
    ------
    InputError
    """
    length = -(-count // 2) if bits == 4 else count
    if packed.shape != (length,):
        raise InputError(name, f"{length} bytes for {count} numbers", f"shape {packed.shape}")
    if bits == 4 and count % 2 and packed[-1] >> 4:
        raise InputError(name, "0 in the half byte behind the last number", f"{packed[-1] >> 4}")


def check_bitmap(bitmap: Array, size: int) -> None:
    """Refuse another number of bytes than `size` bits take, and bits behind the last one.

    Raises
    ------
    InputError
    """
    if bitmap.shape != (-(-size // 8),):
        raise InputError("bitmap", f"{-(-size // 8)} bytes for {size} places", f"{bitmap.shape}")
    if size % 8 and bitmap[-1] >> size % 8:
        raise InputError("bitmap", "0 in the bits behind the last place", f"{bitmap[-1]:08b}")
