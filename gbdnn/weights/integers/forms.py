"""Weights of 8 or 4 bits: an entry is its code, a whole number, times a scale.

At rest they take as few bytes as they can, in one of three layouts:

    dense    codes of all places, row by row
    csr      lengths of the rows, gaps between their columns (of 4, 8 or 16 bits), codes
    bitmap   a bit for each place, codes of the entries

and the scales. An entry whose code is 0 keeps its place: patterns do not depend on rounding. Only
the dense layout of a sparse weight has further entries, of code 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError, choose
from gbdnn.types import Array
from gbdnn.weights.base import Weight, as_float_dtype
from gbdnn.weights.csr import CSR, index_dtype
from gbdnn.weights.dense import Dense
from gbdnn.weights.integers import codes as packing
from gbdnn.weights.integers.levels import Levels
from gbdnn.weights.integers.scales import check_scales, row_scales, scale_of_entries
from gbdnn.weights.patterns import every_place, places

__all__ = ["LAYOUTS", "Int4", "Int8", "Integers"]

LAYOUTS = {
    "dense": {"codes", "scales"},
    "csr": {"lengths", "gaps", "codes", "scales"},
    "bitmap": {"bitmap", "codes", "scales"},
}
FLOAT32 = np.dtype(np.float32)
GAPS = (4, 8, 16)  # bits
SETTINGS = {"layout", "gap_bits", "bits", "levels", "dtype"}


@dataclass(frozen=True, eq=False, repr=False)
class Integers(Weight):
    """A weight of whole numbers with scales; `integer_weight` makes one.

    Attributes
    ----------
    parts : dict of str to ndarray
        As a file holds them; read-only.
    shape : tuple of int
    layout : str
        "dense", "csr" or "bitmap".
    gap_bits : int
        4, 8 or 16: of the layout "csr".
    levels : Levels or None
        How the input of a product with this weight is rounded; None: not at all.
    floats : float32 or float64
        `dtype`, that of its values and of the arrays in products; scales are float32 always.
    """

    stored: ClassVar[int]
    known: ClassVar[tuple[int, ...]]
    parts: Mapping[str, Array]
    shape: tuple[int, int]
    layout: str
    bits: int
    levels: Levels | None = None
    floats: np.dtype[Any] = FLOAT32
    gap_bits: int = 8

    def __post_init__(self) -> None:
        for array in self.parts.values():
            array.flags.writeable = False

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"{type(self).__name__}({rows} x {columns}, nnz={self.nnz}, {self.layout})"

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.floats

    @property
    def largest(self) -> int:
        """The largest code, 127 of 8 bits and 7 of 4."""
        return (1 << self.bits - 1) - 1

    @property
    def nnz(self) -> int:
        """Number of codes."""
        if self.layout == "csr":
            return int(self.parts["lengths"].sum(dtype=np.int64))
        if self.layout == "bitmap":
            return int(np.bitwise_count(self.parts["bitmap"]).sum(dtype=np.int64))
        return self.shape[0] * self.shape[1]

    @property
    def codes(self) -> Array:
        """The whole numbers, int8, shape (nnz,), in the order of `pattern`."""
        packed = self.parts["codes"]
        return packing.signed(packing.unpack(packed, 4, self.nnz)) if self.stored == 4 else packed

    @property
    def scales(self) -> Array:
        """float32; shape (parts,), each of as many rows, or (rows, groups of columns)."""
        return self.parts["scales"]

    @property
    def row_scales(self) -> Array:
        """The scales of every row, float32, shape (rows, groups); see `scales`."""
        return row_scales(self.scales, self.shape[0])

    def pattern(self) -> CSR:
        """Return a CSR with an entry for each code, all of the value 1; made anew, O(nnz)."""
        rows, columns = self.shape
        one = np.ones(1, self.dtype)
        if self.layout == "dense":
            return every_place(rows, columns, one)
        indptr = np.zeros(rows + 1, np.int64)
        if self.layout == "csr":
            np.cumsum(self.parts["lengths"], out=indptr[1:])
            gaps = packing.unpack(self.parts["gaps"], self.gap_bits)
            indices = packing.from_gaps(gaps, indptr, self.gap_bits, columns)
        else:
            found = packing.from_bitmap(self.parts["bitmap"], rows * columns)
            which, indices = np.divmod(found, max(columns, 1))
            np.cumsum(np.bincount(which, minlength=rows), out=indptr[1:])
        index = index_dtype(len(indices), self.shape)
        return CSR.unchecked(indptr.astype(index), indices.astype(index), one, self.shape)

    def _values(self, pattern: CSR) -> Array:
        values = self.codes.astype(self.dtype)
        values *= scale_of_entries(self.scales, pattern)
        return values

    def plain(self) -> CSR | Dense:
        """Return codes times scales: of the layout "dense" as a `Dense`, else as a `CSR`."""
        pattern = self.pattern()
        values = self._values(pattern)
        if self.layout == "dense":
            return Dense(values.reshape(self.shape), dtype=self.dtype)
        return pattern.with_entries(values)

    @property
    def entries(self) -> Array:
        """Codes times scales, shape (nnz,)."""
        return self._values(self.pattern())

    def with_entries(self, values: Array, pattern: CSR | None = None) -> Self:
        """Return a weight of the same scales whose codes are the nearest to other entries.

        With another pattern the layout is chosen anew.
        """
        places = self.pattern() if pattern is None else pattern
        codes = codes_of(values, scale_of_entries(self.scales, places), self.largest)
        if pattern is None:
            parts = {**self.parts, "codes": packing.pack(codes, self.stored)}
            return replace(self, parts=parts)
        return self.made(
            places, codes, self.scales, bits=self.bits, levels=self.levels, dtype=self.dtype
        )

    @classmethod
    def made(
        cls, pattern: CSR, codes: Array, scales: Array, *, bits: int, levels: Levels | None,
        dtype: npt.DTypeLike, layout: str | None = None,
    ) -> Self:  # fmt: skip
        """Return a weight of codes, int8, at the places of a pattern; nothing is checked.

        `layout` is by default the one of the fewest bytes.
        """
        rows, columns = pattern.shape
        size, nnz = rows * columns, pattern.nnz
        lengths = np.diff(pattern.indptr)
        width = np.min_scalar_type(int(lengths.max(initial=0)))
        gap_bits = min(GAPS, key=lambda bits: packing.gap_bytes(pattern, bits))
        code_bytes = -(-nnz * cls.stored // 8)
        nbytes = {
            "dense": -(-size * cls.stored // 8),
            "bitmap": -(-size // 8) + code_bytes,
            "csr": rows * width.itemsize + packing.gap_bytes(pattern, gap_bits) + code_bytes,
        }
        layout = layout or min(nbytes, key=nbytes.__getitem__)
        parts = {}
        if layout == "csr":
            parts["lengths"] = lengths.astype(width)
            gaps = packing.to_gaps(pattern.indptr, pattern.indices, gap_bits)
            parts["gaps"] = packing.pack(gaps, gap_bits)
        elif layout == "bitmap":
            parts["bitmap"] = packing.to_bitmap(places(pattern), size)
        elif nnz < size:
            every = np.zeros(size, np.int8)
            every[places(pattern)] = codes
            codes = every
        parts |= {"codes": packing.pack(codes, cls.stored), "scales": scales}
        return cls(parts, pattern.shape, layout, bits, levels, np.dtype(dtype), gap_bits)

    def arrays(self) -> dict[str, Array]:
        """Return `parts`."""
        return dict(self.parts)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Layout, bits, levels and dtype."""
        own = {"gap_bits": self.gap_bits} if self.layout == "csr" else {}
        levels = None if self.levels is None else self.levels.record()
        return {"layout": self.layout, **own, "bits": self.bits, "levels": levels,
                "dtype": str(self.dtype)}  # fmt: skip

    @classmethod
    def of(
        cls, arrays: Mapping[str, Array], shape: tuple[int, int], settings: Mapping[str, Any]
    ) -> Self:
        """Return the checked weight; see `Weight.of`."""
        names = SETTINGS - {"gap_bits"}
        if not names <= settings.keys() <= SETTINGS:
            raise InputError("settings", ", ".join(sorted(names)), ", ".join(sorted(settings)))
        layout = choose("layout", settings["layout"], LAYOUTS)
        bits, gap_bits = settings["bits"], settings.get("gap_bits", 8)
        for name, number, known in (("bits", bits, cls.known), ("gap_bits", gap_bits, GAPS)):
            if type(number) is not int or number not in known:
                raise InputError(name, f"one of {', '.join(map(str, known))}", repr(number)[:60])
        if settings["dtype"] not in ("float32", "float64"):
            raise InputError("dtype", "float32 or float64", repr(settings["dtype"])[:60])
        if arrays.keys() != LAYOUTS[layout]:
            expected = f"the arrays {', '.join(sorted(LAYOUTS[layout]))}"
            raise InputError("weight", expected, ", ".join(sorted(arrays)) or "none")
        types = {"codes": "uint8" if cls.stored == 4 else "int8", "scales": "float32",
                 "bitmap": "uint8", "gaps": "uint16" if gap_bits == 16 else "uint8"}  # fmt: skip
        for name, array in arrays.items():
            unsigned = array.dtype.kind == "u" and array.dtype.itemsize <= 4
            if array.dtype != types.get(name, array.dtype) or (name == "lengths" and not unsigned):
                expected = types.get(name, "uint8, uint16 or uint32")
                raise DtypeError(name, expected, str(array.dtype))
        levels = None if settings["levels"] is None else Levels.of(settings["levels"])
        parts = {name: np.array(array) for name, array in arrays.items()}
        made = cls(parts, shape, layout, bits, levels, np.dtype(settings["dtype"]), gap_bits)
        made._check()
        return made

    def _check(self) -> None:
        """Refuse parts that contradict each other."""
        rows, columns = self.shape
        check_scales(self.scales, self.shape, self.largest)
        if self.layout == "bitmap":
            packing.check_bitmap(self.parts["bitmap"], rows * columns)
        elif self.layout == "csr" and self.parts["lengths"].shape != (rows,):
            got = f"shape {self.parts['lengths'].shape}"
            raise ShapeError("lengths", f"shape ({rows},), one for each row", got)
        packing.check_packed("codes", self.parts["codes"], self.nnz, self.stored)
        if self.layout == "csr":
            self.pattern()  # checks the gaps
        low, high = int(self.codes.min(initial=0)), int(self.codes.max(initial=0))
        if low < -self.largest or high > self.largest:
            expected = f"whole numbers from {-self.largest} to {self.largest}"
            raise InputError("codes", expected, f"{low} to {high}")

    def astype(self, dtype: npt.DTypeLike) -> Self:
        """Return the weight with values of another float dtype; the bytes are shared."""
        return replace(self, floats=as_float_dtype(dtype))


class Int8(Integers):
    """A byte for each code: -127 ... 127, or of 5 to 7 bits fewer."""

    form = "int8"
    stored, known = 8, (5, 6, 7, 8)


class Int4(Integers):
    """Half a byte for each code: -7 ... 7, or of 2 or 3 bits fewer.

    Two's complement, the low half of a byte first; behind an odd number of codes a half is 0.
    """

    form = "int4"
    stored, known = 4, (2, 3, 4)


def codes_of(values: Array, scales: Array, largest: int) -> Array:
    """Return rint(value / scale), half to even, within -largest ... largest; 0 for scale 0.

    Raises
    ------
    NonFiniteError
        For NaN; infinity is clipped.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        codes = np.rint(values / scales.astype(values.dtype, copy=False))
    codes[np.broadcast_to(scales == 0, codes.shape)] = 0
    if np.isnan(codes).any():
        raise NonFiniteError("weight", "finite values", "NaN")
    small: Array = np.clip(codes, -largest, largest).astype(np.int8)
    return small
