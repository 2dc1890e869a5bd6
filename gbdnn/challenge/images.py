"""The official inputs: images made larger by Fourier interpolation, then cut to zeros and ones."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gbdnn import checks
from gbdnn.challenge.mnist import fetch, load_images, official_images
from gbdnn.data.inputs import BitInputs
from gbdnn.errors import DtypeError, GbdnnError, InputError, ShapeError
from gbdnn.files.disk import cache_dir
from gbdnn.files.tensors import read_tensors, write_tensors
from gbdnn.types import Array

__all__ = [
    "InputBits",
    "cached_resize",
    "embedded_images",
    "fetch",
    "load_images",
    "official_images",
    "resize",
]

Reals = npt.NDArray[np.float64]
BLOCK_BYTES = 1 << 21  # of each temporary in `resize`: a few of them fit the cache


@dataclass(frozen=True, eq=False)
class InputBits(BitInputs):
    """Inputs of zeros and ones, packed: 60,000 of 65,536 features take 0.5 GB.

    Parameters
    ----------
    bits : ndarray of uint8, shape (n_features, ceil(count / 8))
        Neuron-major; packed along the inputs as `numpy.packbits(dense, axis=1)` does. The bits
        behind the last input are zero.
    count : int
        Number of inputs.

    Raises
    ------
    DtypeError, ShapeError, InputError
        If `bits` is not such an array.
    """

    def __post_init__(self) -> None:
        bits = self.bits
        if not isinstance(bits, np.ndarray) or bits.dtype != np.uint8:
            got = f"dtype {bits.dtype}" if isinstance(bits, np.ndarray) else type(bits).__name__
            raise DtypeError("bits", "an ndarray of uint8", got)
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 0:
            raise InputError("count", "a whole number of inputs", repr(self.count))
        if bits.ndim != 2 or bits.shape[1] != -(-self.count // 8):
            expected = f"(n_features, {-(-self.count // 8)}) for {self.count} inputs"
            raise ShapeError("bits", expected, f"shape {bits.shape}")
        unused = -self.count % 8
        if unused and (bits[:, -1] & ((1 << unused) - 1)).any():
            raise InputError("bits", "zero bits behind the last input", "ones")

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(self.bits)

    @property
    def nnz(self) -> int:
        """Number of ones."""
        return int(sum(np.bitwise_count(row).sum(dtype=np.int64) for row in self.bits))

    def take(self, limit: int) -> InputBits:
        """Return the first `limit` inputs (all, if there are fewer); a copy of their bits."""
        count = min(checks.count("limit", limit, 0), self.count)
        bits = self.bits[:, : -(-count // 8)].copy()
        if count % 8:
            bits[:, -1] &= 0xFF << (-count % 8) & 0xFF
        return InputBits(bits, count)

    def part(self, start: int, stop: int) -> InputBits:
        """Return inputs start ... stop - 1 without a copy; `start` is a multiple of 8."""
        if start % 8 or not 0 <= start <= stop:
            raise InputError("start", "a multiple of 8, not above stop", f"{start} and {stop}")
        stop = min(stop, self.count)
        if stop % 8 and stop < self.count:
            raise InputError("stop", "a multiple of 8 or the end", str(stop))
        return InputBits(self.bits[:, start // 8 : -(-stop // 8)], stop - start)

    def select(self, indices: npt.ArrayLike) -> InputBits:
        """Return the inputs with the given numbers (from 0), in that order; a copy."""
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            got = f"{chosen.dtype} of shape {chosen.shape}"
            raise InputError("indices", "a vector of whole numbers", got)
        chosen = chosen.astype(np.int64)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < self.count:
            got = f"{chosen.min()} to {chosen.max()}"
            raise InputError("indices", f"numbers from 0 to {self.count - 1}", got)
        out = np.empty((self.n_features, -(-len(chosen) // 8)), np.uint8)
        rows = max(1, (1 << 26) // max(self.count, 1))  # unpacked in pieces of 64 MB
        for first in range(0, self.n_features, rows):
            dense = np.unpackbits(self.bits[first : first + rows], axis=1)
            out[first : first + rows] = np.packbits(dense[:, chosen], axis=1)
        return InputBits(out, len(chosen))


def embedded_images() -> npt.NDArray[np.uint8]:
    """Return the 1,797 handwritten digits of scikit-learn, shape (1797, 8, 8), 0 to 16.

    They need no download; the counts of the challenge are known for MNIST only.
    """
    from sklearn.datasets import load_digits

    return np.asarray(load_digits().images, np.uint8)


def resize(images: npt.ArrayLike, side: int) -> InputBits:
    r"""Make images larger by the challenge's Fourier interpolation and cut at half the maximum.

    The n images stand side by side as one real signal A of h rows and w n columns. With F the
    discrete Fourier transform of length h and :math:`\tilde F^{-1}` the inverse one of length
    `side` after filling up with zeros, the highest frequency h/2 whole on the positive side,

    .. math:: V = B A C, \quad B = \tilde F^{-1} F \text{ on columns, C likewise on rows,}

    and bit (column side + row) of an image is :math:`|V| > \max |V| / 2`.

    Parameters
    ----------
    images : array_like, shape (n, h, w)
        Real. All images are transformed together and leak into their neighbours: cut a subset off
        the result (`InputBits.take`), not off the images.
    side : int
        Rows and columns of an enlarged image, at least h and w.

    Returns
    -------
    InputBits
        side * side features, n inputs.

    Notes
    -----
    Works in float64. Peak memory is about 8 n h side bytes (3.4 GB for 60,000 images of 28 rows at
    side 256) plus the result: the long transform is real but for the highest frequency, a known
    sine; the short one is a product with B, a few columns at a time, once for the maximum and once
    for the bits. The source is the interpolation in the data generator of arXiv:1909.05631.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, InputError
    """
    from gbdnn.weights.csr import check_finite
    from gbdnn.weights.foreign import numeric_array

    array = numeric_array(images, "images")
    if array.ndim != 3 or 0 in array.shape:
        raise ShapeError("images", "shape (n, height, width), none of them 0", f"{array.shape}")
    check_finite("images", array)
    side = checks.count("side", side)
    if side < max(array.shape[1:]):
        expected = f"at least {max(array.shape[1:])}, the size of the images"
        raise InputError("side", expected, str(side), "Images can only be made larger.")
    plan = _Interpolation(array, side)
    largest = max((float(power.max()) for _, _, power in plan.blocks()), default=0.0)
    bits = np.empty((side * side, -(-len(array) // 8)), np.uint8)
    for column, first, power in plan.blocks():
        part = np.packbits(power > largest / 4, axis=1)  # squares: half the maximum is a quarter
        rows = slice(column * side, (column + 1) * side)
        bits[rows, first // 8 : first // 8 + part.shape[1]] = part
    return InputBits(bits, len(array))


class _Interpolation:
    """The squares |V|^2, a block at a time.

    Along the rows C = R + i S: R is real interpolation, S the sine of the highest frequency, an
    outer product f s^T sign^T that is alike in all images. Along the columns B is such a sum too.
    """

    def __init__(self, images: Array, side: int) -> None:
        from scipy import fft

        n, height, width = images.shape
        length = n * width
        self.side, self.count = side, n
        self.real = np.empty((side, height, n))  # R, by column of the large image
        self.sine = np.zeros(height)  # f: the highest frequency of each row
        for i in range(height):
            line = images[:, i, :].reshape(length).astype(np.float64)
            spectrum = fft.rfft(line, overwrite_x=True)
            if length % 2 == 0:
                self.sine[i] = spectrum[-1].real / length
                if side > width:  # irfft mirrors it: half on either side. Else it stays the last.
                    spectrum[-1] /= 2
            spectrum *= side / width
            self.real[:, i, :] = fft.irfft(spectrum, side * n).reshape(n, side).T
            del line, spectrum
        # sin(pi width (image + column / side)); for an odd width the sign changes by image
        self.column_sine = np.sin(np.pi * width * np.arange(side) / side)
        self.image_sign = 1.0 - 2.0 * (np.arange(n) * width % 2)
        self.matrix = _upsampling(height, side)

    def blocks(self) -> Iterator[tuple[int, int, Reals]]:
        """Yield (column of the large images, first image, squares of shape (side, images))."""
        step = max(8, BLOCK_BYTES // (8 * self.side) // 8 * 8)  # whole bytes of bits
        b_real, b_imag = self.matrix.real.copy(), self.matrix.imag.copy()
        # Re V = [Re B, -Im B f s] [R; sign] and Im V = [Im B, Re B f s] [R; sign], where Im B has
        # rank one: row_sine outer weights
        row_sine, weights = _rank_one(b_imag)
        for column in range(self.side):
            wave = self.sine * self.column_sine[column]
            lift_real, lift_imag = b_imag @ wave, b_real @ wave
            for first in range(0, self.count, step):
                part = self.real[column, :, first : first + step]
                sign = self.image_sign[first : first + step]
                power = b_real @ part
                power -= np.outer(lift_real, sign)
                imaginary = np.outer(row_sine, weights @ part)
                imaginary += np.outer(lift_imag, sign)
                power *= power
                imaginary *= imaginary
                power += imaginary
                yield column, first, power


def _upsampling(size: int, side: int) -> npt.NDArray[np.complex128]:
    """Return B of shape (side, size): transform, fill up with zeros, transform back.

    B[r, i] = 1/size sum_k exp(2 pi i k (r/side - i/size)), k from -(size-1)//2 to size//2.
    """
    k = np.arange(-((size - 1) // 2), size // 2 + 1)
    distance = np.arange(side)[:, None] / side - np.arange(size) / size
    waves = np.exp(2j * np.pi * distance[:, :, None] * k)
    return np.asarray(waves.sum(axis=2) / size)


def _rank_one(matrix: Reals) -> tuple[Reals, Reals]:
    """Return u, v with matrix = outer(u, v) for a matrix of rank one or zero."""
    row, column = np.unravel_index(np.abs(matrix).argmax(), matrix.shape)
    pivot = matrix[row, column]
    if pivot == 0:
        return np.zeros(len(matrix)), np.zeros(matrix.shape[1])
    return matrix[:, column].copy(), matrix[row] / pivot


def cached_resize(images: npt.ArrayLike, side: int, *, folder: Path | None = None) -> InputBits:
    """Return `resize(images, side)`, kept in a file for the next time.

    Parameters
    ----------
    images, side
        As for `resize`; `images` of dtype uint8.
    folder : Path, optional
        Default `cache_dir()`.

    Returns
    -------
    InputBits
        From the file if its digest is right. A missing or damaged file is made again; a folder that
        cannot be written is no error.
    """
    pixels = np.ascontiguousarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        got = f"{pixels.dtype} of shape {pixels.shape}"
        raise DtypeError("images", "uint8 of shape (n, height, width)", got)
    folder = cache_dir() if folder is None else folder
    key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    path = folder / f"bits-{key[:32]}-{side}.safetensors"
    enlarged = _read_bits(path, len(pixels), side)
    if enlarged is None:
        enlarged = resize(pixels, side)
        # a cache saves time, nothing else depends on it
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_tensors(path, {"bits": enlarged.bits}, {})
    return enlarged


def _read_bits(path: Path, count: int, side: int) -> InputBits | None:
    """Return the bits in a cache file; None if it is missing or not what was written."""
    try:
        bits = read_tensors(path)[0]["bits"]
        return InputBits(bits, count) if bits.shape[:1] == (side**2,) else None
    except (GbdnnError, KeyError):
        return None
