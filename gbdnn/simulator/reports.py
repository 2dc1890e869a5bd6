"""Formats beside each other: times, where the time goes, and what bandwidth and utilisation do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gbdnn import checks
from gbdnn.errors import InputError
from gbdnn.simulator.machine import Machine
from gbdnn.simulator.timing import ASSUMPTIONS, SPARSE_ASSUMPTIONS, Simulation, Timed, simulate
from gbdnn.simulator.work import Workload
from gbdnn.summary import text_table

__all__ = ["Comparison", "amdahl", "compare", "fraction_needed"]

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def amdahl(fraction: float, gain: float) -> float:
    """Return 1 / (1 - f + f / g): how much faster all is if a part f of the time gains g."""
    checks.within("fraction", fraction, "[0, 1]")
    return 1 / (1 - fraction + fraction / checks.positive("gain", gain))


def fraction_needed(speedup: float, gain: float) -> float:
    """Return the part of the time that must gain `gain` for `speedup` in all: Amdahl's inverse."""
    checks.positive("speedup", speedup)
    checks.positive("gain", gain)
    if not 1 < speedup <= gain:
        raise InputError("speedup", f"above 1, at most the gain {gain:g}", repr(speedup))
    return (1 - 1 / speedup) / (1 - 1 / gain)


@dataclass(frozen=True)
class Comparison:
    """One work on one machine in several formats; prints as text.

    Attributes
    ----------
    simulations : tuple of Simulation
        The first one is what the others are compared with.
    keep : dict
        As `simulate` takes it.
    """

    simulations: tuple[Simulation, ...]
    keep: Mapping[str, str]

    @property
    def base(self) -> Simulation:
        """The first one."""
        return self.simulations[0]

    def speedup(self, simulation: Simulation) -> float:
        """Return the base's time over that of another one."""
        return self.base.seconds / simulation.seconds

    def split(self, simulation: Simulation) -> list[dict[str, Any]]:
        """Return where the base's time goes, and how many times faster each part of it is.

        Products are divided by what limits them in the base. With shares s and gains g the speedup
        is 1 / sum(s / g) (Amdahl 1967).
        """
        before: dict[str, float] = {}
        after: dict[str, float] = {}
        for old, new in zip(self.base.rows, simulation.rows, strict=True):
            for kind, a, b in _terms(old, new):
                before[kind] = before.get(kind, 0.0) + a
                after[kind] = after.get(kind, 0.0) + b
        total = self.base.seconds
        return [
            {"kind": kind, "share": before[kind] / total, "seconds": after[kind],
             "gain": before[kind] / after[kind] if after[kind] else None}
            for kind in before
            if before[kind] or after[kind]
        ]  # fmt: skip

    def sensitivity(
        self, simulation: Simulation, factors: Sequence[float] = FACTORS
    ) -> list[dict[str, Any]]:
        """Return speedups and real-time factors with other bandwidths and utilisations."""
        found = []
        for what in ("bandwidth", "utilisation"):
            for factor in factors:
                machine = self.base.machine.scaled(**{what: factor})
                one, two = (
                    simulate(self.base.work, machine, each.format, sparse=each.sparse,
                             keep=self.keep)
                    for each in (self.base, simulation)
                )  # fmt: skip
                found.append({"what": what, "factor": factor, "rtf": two.rtf,
                              "seconds": two.seconds,
                              "speedup": one.seconds / two.seconds})  # fmt: skip
        return found

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the times rest on."""
        sparse = any(each.sparse for each in self.simulations)
        return ASSUMPTIONS + (SPARSE_ASSUMPTIONS if sparse else ())

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can say it."""
        work = self.base.work
        return {
            "simulated": True,
            "machine": self.base.machine.name,
            "description": self.base.machine.description,
            "work": work.description,
            "parameters": work.parameters,
            "macs": work.macs,
            "audio_seconds": work.seconds,
            "formats": [
                {**each.to_dict(), "speedup": self.speedup(each), "split": self.split(each),
                 "sensitivity": self.sensitivity(each)}
                for each in self.simulations
            ],
            "keep": dict(self.keep),
            "assumptions": list(self.assumptions),
        }  # fmt: skip

    def __str__(self) -> str:
        work, machine = self.base.work, self.base.machine
        lines = [
            f"simulated, not measured: {machine.name} ({machine.description or 'no description'})",
            f"work: {work.description}",
            f"{work.parameters:,} parameters, {work.macs:,} multiply-adds"
            + (f" for {work.seconds:g} s of audio" if work.seconds else ""),
            "",
            _times(self),
            "",
            *_splits(self),
            "",
            *_sensitivities(self),
            "",
            "Assumptions:",
            *(f"- {text}" for text in self.assumptions),
        ]
        return "\n".join(lines)


def compare(
    work: Workload,
    machine: Machine,
    formats: Iterable[str] | None = None,
    *,
    sparse: bool = False,
    keep: Mapping[str, str] | None = None,
) -> Comparison:
    """Simulate work in several formats.

    Parameters
    ----------
    work : Workload
    machine : Machine
    formats : iterable of str, optional
        Default all of the machine's, the first of which the others are compared with.
    sparse : bool
        Add each format without absent weights.
    keep : dict, optional
        See `simulate`.

    Raises
    ------
    UnknownNameError, InputError
    """
    names = list(machine.formats if formats is None else formats)
    if not names or not work.operations:
        got = "none" if names else "no operations"
        raise InputError("formats" if not names else "work", "at least one", got)
    kept = dict(keep or {})
    ways = [False, True] if sparse else [False]
    found = [simulate(work, machine, name, sparse=way, keep=kept) for way in ways for name in names]
    return Comparison(tuple(found), kept)


def _terms(old: Timed, new: Timed) -> Iterable[tuple[str, float, float]]:
    if old.limit != "vector unit":
        yield f"products, limited by {old.limit}", old.product, new.product
    yield "vector unit", old.vector, new.vector
    yield "overhead of calls", old.overhead, new.overhead


def _label(simulation: Simulation) -> str:
    return simulation.format + " sparse" * simulation.sparse


def _times(found: Comparison) -> str:
    audio = bool(found.base.work.seconds)
    energy = any(each.joules is not None for each in found.simulations)
    head = ["format", "simulated ms", *(["RTF"] * audio), f"times {_label(found.base)}",
            "weights, MB", "times smaller than fp32", *(["mJ"] * energy)]  # fmt: skip
    rows = [head]
    for each in found.simulations:
        joules = "-"
        if each.joules is not None:
            low, high = (f"{1e3 * value:.3g}" for value in each.joules)
            joules = low if low == high else f"{low} to {high}"
        rows.append(
            [_label(each), f"{1e3 * each.seconds:.3f}", *([f"{each.rtf:.4f}"] if audio else []),
             f"{found.speedup(each):.2f}", f"{each.weight_bytes / 1e6:.2f}",
             f"{each.compression:.2f}", *([joules] if energy else [])]
        )  # fmt: skip
    return text_table(rows)


def _splits(found: Comparison) -> list[str]:
    others = found.simulations[1:] or found.simulations
    kinds = [row["kind"] for row in found.split(others[0])]
    head = ["time by kind", f"{_label(found.base)}, share"]
    table = [head + [f"{_label(each)}, times" for each in others]]
    splits = [{row["kind"]: row for row in found.split(each)} for each in others]
    for kind in kinds:
        gains = [split[kind]["gain"] for split in splits]
        share = f"{splits[0][kind]['share']:.1%}"
        table.append([kind, share, *("-" if gain is None else f"{gain:.2f}" for gain in gains)])
    parts = [["time by part", *(f"{_label(each)}, ms" for each in found.simulations)]]
    parts += [
        [part, *(f"{1e3 * each.by_part[part]:.3f}" for each in found.simulations)]
        for part in found.base.work.parts
    ]
    return [text_table(table), "", text_table(parts)]


def _sensitivities(found: Comparison) -> list[str]:
    last = min(found.simulations, key=lambda each: each.seconds)
    rows = found.sensitivity(last)
    factors = sorted({row["factor"] for row in rows})
    table = [[f"{_label(last)} with so many times the", *(f"{factor:g}" for factor in factors)]]
    for what in ("bandwidth", "utilisation"):
        own = {row["factor"]: row for row in rows if row["what"] == what}
        table.append([f"{what}: times {_label(found.base)}",
                      *(f"{own[factor]['speedup']:.2f}" for factor in factors)])  # fmt: skip
        if last.rtf is not None:
            table.append([f"{what}: RTF", *(f"{own[factor]['rtf']:.4f}" for factor in factors)])
    return [text_table(table)]
