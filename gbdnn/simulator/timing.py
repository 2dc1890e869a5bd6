r"""How long work takes on a machine: simulated, from peak rates and bandwidth.

.. math::
    t = \max\Bigl(\frac{\text{multiply-adds}}{\text{peak} \cdot \text{utilisation}},
        \frac{\text{bytes}}{\text{bandwidth}}\Bigr)
        + \frac{\text{elementwise operations}}{\text{vector rate}} + \text{overhead}

for a call of an operation (Williams, Waterman and Patterson 2009, CACM 52(4), for the maximum).
`ASSUMPTIONS` says what else is taken for granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from gbdnn.errors import InputError, choose
from gbdnn.simulator.machine import FORMATS, Machine
from gbdnn.simulator.work import Elementwise, Operation, Product, Workload

__all__ = ["ASSUMPTIONS", "SPARSE_ASSUMPTIONS", "Simulation", "Timed", "simulate", "stored_bytes"]

ASSUMPTIONS = (
    "operations run one after the other; a call reads each weight once, whatever its width",
    "weights that are used in the most calls stay on the chip as far as they fit, whole matrices; "
    "the others come from outside in every call",
    "inputs of products have the bits of the format and results 16, both from outside",
    "elementwise work is done at FP16 in the vector unit, its values stay on the chip; in integer "
    "formats every input and result of a product takes one operation more, to round and scale",
    "one level of precision for all products but those that --keep names; biases are float32",
)
SPARSE_ASSUMPTIONS = (
    "a sparse weight is stored as all codes, as a bitmap and codes, or as 8-bit gaps and codes, "
    "whichever takes the fewest bytes",
    "absent weights are left out where that is faster, at the machine's [sparse] part of the dense "
    "rate for stored entries",
)
RESULT_BITS, FLOAT_BYTES = 16, 4


@dataclass(frozen=True)
class Timed:
    """An operation on a machine, all of its calls; times in seconds.

    Attributes
    ----------
    operation : Product or Elementwise
    format : str
    arithmetic, traffic : float
        The two terms of the maximum.
    vector, overhead : float
    macs : int
        Multiply-adds that are computed.
    nbytes : float
        From and to outside.
    on_chip : bool
        The weight stays on the chip.
    """

    operation: Operation
    format: str
    arithmetic: float
    traffic: float
    vector: float
    overhead: float
    macs: int = 0
    nbytes: float = 0.0
    on_chip: bool = False

    @property
    def product(self) -> float:
        """The maximum of both terms."""
        return max(self.arithmetic, self.traffic)

    @property
    def seconds(self) -> float:
        """The whole time."""
        return self.product + self.vector + self.overhead

    @property
    def limit(self) -> str:
        """What the time of a product is: "arithmetic" or "memory"; else "vector unit"."""
        if isinstance(self.operation, Elementwise):
            return "vector unit"
        return "arithmetic" if self.arithmetic >= self.traffic else "memory"


@dataclass(frozen=True)
class Simulation:
    """What `simulate` returns.

    Attributes
    ----------
    machine : Machine
    work : Workload
    format : str
    sparse : bool
    rows : tuple of Timed
        One for each operation of the work.
    weight_bytes : float
        Of all parameters as they are stored: weights in their formats, others float32.
    """

    machine: Machine
    work: Workload
    format: str
    sparse: bool
    rows: tuple[Timed, ...]
    weight_bytes: float

    @property
    def seconds(self) -> float:
        """Simulated time."""
        return sum(row.seconds for row in self.rows)

    @property
    def rtf(self) -> float | None:
        """Simulated seconds for a second of audio; None for work without audio."""
        return self.seconds / self.work.seconds if self.work.seconds else None

    @property
    def by_part(self) -> dict[str, float]:
        """Seconds of each part."""
        found = dict.fromkeys(self.work.parts, 0.0)
        for row in self.rows:
            found[row.operation.part] += row.seconds
        return found

    @property
    def joules(self) -> tuple[float, float] | None:
        """Least and most energy; None where the machine file does not say it for all formats."""
        known, (low, high) = self.machine.joules, self.machine.joules_of_byte
        products = [row for row in self.rows if isinstance(row.operation, Product)]
        if not all(row.format in known for row in products):
            return None
        return (
            sum(row.macs * known[row.format][0] + row.nbytes * low for row in products),
            sum(row.macs * known[row.format][1] + row.nbytes * high for row in products),
        )

    @property
    def compression(self) -> float:
        """Bytes of all parameters as dense float32 over those of this format."""
        weights = sum(each.places for each in self.work.weights.values())
        return FLOAT_BYTES * (weights + self.work.others) / self.weight_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON can say it."""
        return {
            "simulated": True,
            "machine": self.machine.name,
            "format": self.format,
            "sparse": self.sparse,
            "seconds": self.seconds,
            "audio_seconds": self.work.seconds,
            "rtf": self.rtf,
            "by_part": self.by_part,
            "weight_bytes": self.weight_bytes,
            "compression": self.compression,
            "joules": self.joules,
            "macs": sum(row.macs for row in self.rows),
        }


def simulate(
    work: Workload,
    machine: Machine,
    format: str,
    *,
    sparse: bool = False,
    keep: Mapping[str, str] | None = None,
) -> Simulation:
    """Return the simulated time of work on a machine in a number format.

    Parameters
    ----------
    work : Workload
    machine : Machine
    format : str
        One of the machine's.
    sparse : bool
        Leave absent weights out; False: every place is stored and computed.
    keep : dict of str to str, optional
        Formats of products whose names match a pattern: ``{"joint.*": "fp16"}``.

    Raises
    ------
    UnknownNameError, InputError
        For formats that the machine has not, a pattern that matches nothing, and `sparse` on a
        machine that cannot.
    """
    choose("format", format, machine.formats)
    if sparse and machine.sparse is None:
        fix = "Add a section [sparse] to its file, or leave sparse out."
        raise InputError("sparse", "a machine that can leave weights out", machine.name, fix)
    formats = _formats(work, machine, format, keep or {})
    sizes = {
        name: stored_bytes(product, FORMATS[formats[name]], sparse=sparse)
        for name, product in work.weights.items()
    }
    staying = _staying(work, sizes, machine.on_chip)
    rows = tuple(
        _elementwise(each, machine, format)
        if isinstance(each, Elementwise)
        else _product(each, machine, formats[each.name], sizes[each.name],
                      each.name in staying, sparse)
        for each in work.operations
    )  # fmt: skip
    nbytes = sum(sizes.values()) + FLOAT_BYTES * work.others
    return Simulation(machine, work, format, sparse, rows, nbytes)


def stored_bytes(product: Product, bits: int, *, sparse: bool) -> float:
    """Return the bytes of a weight: dense, or the smallest of dense, bitmap and gaps."""
    dense = product.places * bits / 8
    if not sparse or product.lookup:
        return dense
    bitmap = (product.places + product.entries * bits) / 8
    gaps = product.entries * (bits + 8) / 8 + 2 * product.rows
    return min(dense, bitmap, gaps)


def _formats(
    work: Workload, machine: Machine, format: str, keep: Mapping[str, str]
) -> dict[str, str]:
    names = list(work.weights)
    for pattern, kept in keep.items():
        choose(f"keep[{pattern!r}]", kept, machine.formats)
        if not any(fnmatchcase(name, pattern) for name in names):
            expected = f"patterns of some of {', '.join(names[:12])}"
            raise InputError("keep", expected, repr(pattern))
    return {
        name: next((kept for pattern, kept in keep.items() if fnmatchcase(name, pattern)), format)
        for name in names
    }


def _staying(work: Workload, sizes: Mapping[str, float], room: float) -> set[str]:
    """Return which weights stay on the chip: those of the most calls first, while they fit."""
    calls = dict.fromkeys(sizes, 0)
    for product in work.products:
        calls[product.name] += 0 if product.lookup else product.calls
    found = set()
    for name in sorted(sizes, key=lambda name: (-calls[name], sizes[name])):
        if calls[name] > 1 and sizes[name] <= room:
            room -= sizes[name]
            found.add(name)
    return found


def _product(
    product: Product, machine: Machine, format: str, size: float, stays: bool, sparse: bool
) -> Timed:
    bits, values = FORMATS[format], product.calls * product.width
    rate = machine.peak[format] * machine.utilisation[format]
    macs, arithmetic = product.dense_macs, product.dense_macs / rate
    if sparse and machine.sparse is not None:
        without = product.macs / (rate * machine.sparse)
        if without < arithmetic:
            macs, arithmetic = product.macs, without
    moved = values * (0 if product.lookup else product.columns) * bits / 8
    moved += values * product.rows * RESULT_BITS / 8
    inner = 0.0
    if product.lookup:
        moved += values * product.rows * bits / 8
    elif stays:
        inner = product.calls * size
        moved += size  # once; products that share it count it each
    else:
        moved += product.calls * size
    traffic = max(moved / machine.bandwidth, inner / machine.on_chip_bandwidth)
    extra = 0
    if format.startswith("int") and not product.lookup:
        extra = values * (product.columns + product.rows)
    return Timed(product, format, arithmetic, traffic, extra / machine.vector,
                 product.calls * machine.overhead, macs, moved, stays)  # fmt: skip


def _elementwise(each: Elementwise, machine: Machine, format: str) -> Timed:
    operations = each.calls * (each.simple + machine.function * each.functions)
    vector, wait = operations / machine.vector, each.calls * machine.overhead
    return Timed(each, format, 0.0, 0.0, vector, wait)
