"""Machines: what the time model needs to know of one, read from TOML files.

A file looks like this; sections and keys marked "optional" may be missing::

    name = "rapid"
    description = "..."            # optional
    [tops]                         # 1e12 operations a second (a multiply-add is two), by format
    fp16 = 12.8
    int4 = 102.4
    [utilisation]                  # optional: the part of them that products reach, (0, 1]
    default = 1.0                  # for formats that are not named
    int4 = 0.7
    [vector]
    gops = 512                     # 1e9 elementwise operations a second
    function = 4                   # optional: simple operations that a function (exp, tanh) takes
    [memory]
    gb_per_s = 200                 # 1e9 bytes a second from outside the chip
    on_chip_mb = 8                 # optional: 1e6 bytes of weights that may stay on the chip
    on_chip_gb_per_s = 2000        # optional, needed with on_chip_mb
    [overhead]                     # optional
    microseconds = 0.5             # of every operation
    [sparse]                       # optional: the machine can leave out absent weights
    utilisation = 0.5              # part of the dense rate, for stored entries
    [energy]                       # optional; a number, or [least, most]
    int4_pj = [0.074, 0.333]       # picojoules of an operation, by format
    byte_pj = 0                    # optional: of a byte from outside

The first format of [tops] is the one that others are compared with.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from gbdnn import checks
from gbdnn.errors import FileFormatError, GbdnnError, InputError, choose
from gbdnn.files.disk import open_regular
from gbdnn.types import FilePath

__all__ = ["FORMATS", "Machine", "load_machine", "machine_names", "parse_machine"]

FORMATS = {"fp32": 32, "fp16": 16, "fp8": 8, "int8": 8, "int4": 4}
"""Bits of weights and of inputs of products, by number format."""
LARGEST = 1 << 20  # bytes of a machine file
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine, in SI units: operations, bytes, seconds, joules.

    Attributes
    ----------
    name, description : str
    peak : dict of str to float
        Multiply-adds a second, by format; the first format is the one to compare with.
    utilisation : dict of str to float
        Of each of these formats, in (0, 1].
    vector : float
        Elementwise operations a second.
    function : float
        Of them for a value of exp, tanh, ...
    bandwidth : float
        Bytes a second from outside the chip.
    on_chip : float
        Bytes of weights that may stay on the chip.
    on_chip_bandwidth : float
    overhead : float
        Seconds of each operation.
    sparse : float or None
        Part of the dense rate that products reach which leave absent weights out; None: they
        cannot.
    joules : dict of str to (float, float)
        Least and most energy of a multiply-add, by format; those that are known.
    joules_of_byte : (float, float)
        Of a byte from outside.
    """

    name: str
    description: str = ""
    peak: Mapping[str, float]
    utilisation: Mapping[str, float]
    vector: float
    function: float = 4.0
    bandwidth: float
    on_chip: float = 0.0
    on_chip_bandwidth: float = math.inf
    overhead: float = 0.0
    sparse: float | None = None
    joules: Mapping[str, Range]
    joules_of_byte: Range = (0.0, 0.0)

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats it has, the one to compare with first."""
        return tuple(self.peak)

    def scaled(self, *, bandwidth: float = 1.0, utilisation: float = 1.0) -> Machine:
        """Return a machine with so many times the bandwidth and utilisation (at most 1 then)."""
        checks.positive("bandwidth", bandwidth)
        checks.positive("utilisation", utilisation)
        used = {name: min(1.0, utilisation * part) for name, part in self.utilisation.items()}
        return replace(self, bandwidth=self.bandwidth * bandwidth, utilisation=used)


def machine_names() -> list[str]:
    """Return the names of the machines that come with the package."""
    folder = resources.files("gbdnn.simulator") / "machines"
    return sorted(
        each.name.removesuffix(".toml") for each in folder.iterdir() if each.name.endswith(".toml")
    )


def load_machine(name: FilePath) -> Machine:
    """Return a machine by its name, or from a TOML file.

    Parameters
    ----------
    name : str or path
        One of `machine_names`, or a file: what ends in .toml or has a folder.

    Raises
    ------
    UnknownNameError, FileFormatError
    """
    text = str(name)
    if not (text.endswith(".toml") or Path(text).name != text):
        chosen = choose("machine", text, machine_names())
        source = resources.files("gbdnn.simulator") / "machines" / f"{chosen}.toml"
        return parse_machine(source.read_text("utf-8"), text)
    with open_regular(Path(text)) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise FileFormatError(text, f"at most {LARGEST:,} bytes of TOML", "more")
    try:
        return parse_machine(content.decode(), text)
    except UnicodeDecodeError as error:
        raise FileFormatError(text, "TOML in UTF-8", str(error)[:100]) from None


def parse_machine(text: str, source: str = "machine") -> Machine:
    """Return the machine that a TOML text describes; `source` is what errors call it.

    Raises
    ------
    FileFormatError
        For what is no TOML, unknown or missing keys, and values out of range.
    """
    try:
        return _machine(tomllib.loads(text))
    except GbdnnError as error:
        what = f"{source}, {error.argument}"
        fix = error.fix or "`pydoc gbdnn.simulator.machine` shows what a machine file holds."
        raise FileFormatError(what, error.expected, error.got[:100], fix) from None
    except (RecursionError, OverflowError, ValueError) as error:  # whole numbers beyond floats
        raise FileFormatError(source, "TOML", str(error)[:100]) from None


SECTIONS = ("tops", "utilisation", "vector", "memory", "overhead", "sparse", "energy")


def _machine(record: dict[str, Any]) -> Machine:
    _known("", record, ("name", "description", *SECTIONS))
    for name in ("name", "description"):
        if not isinstance(record.setdefault(name, "" if name == "description" else None), str):
            raise InputError(name, "a text", repr(record[name]))
    given = {name: record.get(name, {}) for name in SECTIONS}
    for name, section in given.items():
        if not isinstance(section, dict):
            raise InputError(name, f"a section [{name}]", repr(section))
    tops = given["tops"]
    if not tops:
        raise InputError("[tops]", f"at least one of {', '.join(FORMATS)}", "none")
    _known("tops", tops, FORMATS)
    peak = {name: checks.positive(f"[tops] {name}", tops[name]) * 1e12 / 2 for name in tops}
    used = given["utilisation"]
    _known("utilisation", used, ("default", *peak))
    parts = {
        name: checks.within(f"[utilisation] {name}", used.get(name, used.get("default", 1.0)),
                            "(0, 1]")
        for name in peak
    }  # fmt: skip
    vector, memory = given["vector"], given["memory"]
    _known("vector", vector, ("gops", "function"))
    _known("memory", memory, ("gb_per_s", "on_chip_mb", "on_chip_gb_per_s"))
    _known("overhead", given["overhead"], ("microseconds",))
    _known("sparse", given["sparse"], ("utilisation",))
    on_chip = checks.not_negative("[memory] on_chip_mb", memory.get("on_chip_mb", 0.0))
    inner = 1e9 * _positive("memory", memory, "on_chip_gb_per_s") if on_chip else math.inf
    sparse = given["sparse"].get("utilisation", 1.0) if "sparse" in record else None
    wait = given["overhead"].get("microseconds", 0.0)
    return Machine(
        name=record["name"],
        description=record["description"],
        peak=peak,
        utilisation=parts,
        vector=1e9 * _positive("vector", vector, "gops"),
        function=checks.positive("[vector] function", vector.get("function", 4.0)),
        bandwidth=1e9 * _positive("memory", memory, "gb_per_s"),
        on_chip=1e6 * on_chip,
        on_chip_bandwidth=inner,
        overhead=1e-6 * checks.not_negative("[overhead] microseconds", wait),
        sparse=None if sparse is None else checks.within("[sparse] utilisation", sparse, "(0, 1]"),
        **_energy(given["energy"], peak),
    )


def _energy(given: dict[str, Any], formats: Mapping[str, float]) -> dict[str, Any]:
    _known("energy", given, ("byte_pj", *(f"{name}_pj" for name in formats)))
    found = {name: _range(f"[energy] {name}", value) for name, value in given.items()}
    byte = found.pop("byte_pj", (0.0, 0.0))
    return {  # a multiply-add is two operations
        "joules": {name.removesuffix("_pj"): (2e-12 * a, 2e-12 * b)
                   for name, (a, b) in found.items()},
        "joules_of_byte": (1e-12 * byte[0], 1e-12 * byte[1]),
    }  # fmt: skip


def _range(name: str, value: Any) -> Range:
    low, high = value if isinstance(value, list) and len(value) == 2 else (value, value)
    found = checks.not_negative(name, low), checks.not_negative(name, high)
    if found[0] > found[1]:
        raise InputError(name, "[least, most]", repr(value))
    return found


def _positive(section: str, given: Mapping[str, Any], key: str) -> float:
    if key not in given:
        raise InputError(f"[{section}]", f"the key {key}", ", ".join(given) or "no key")
    return checks.positive(f"[{section}] {key}", given[key])


def _known(section: str, given: Mapping[str, Any], known: Any) -> None:
    for key in given:
        if key not in known:
            where = f"[{section}]" if section else "keys"
            raise InputError(where, f"only {', '.join(known)}", repr(key))
