"""Work: the products and the elementwise operations of a run, without their values.

A product is W Y with W of shape (rows, columns) and Y of shape (columns, width). It is the same
for all machines and number formats; `gbdnn.simulator.timing` says how long it takes on one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gbdnn import checks
from gbdnn.errors import DtypeError, InputError

__all__ = ["Elementwise", "Product", "Workload"]


@dataclass(frozen=True)
class Product:
    """W Y, computed `calls` times.

    Attributes
    ----------
    name : str
        Of the weight; products of equal names share it.
    part : str
        Of the recogniser: "encoder", "predictor", ...
    rows, columns : int
        Shape of W.
    entries : int
        Stored entries of W.
    width : int
        Columns of Y in a call.
    calls : int
    lookup : bool
        Y are columns of the unit matrix: columns of W are read, nothing is multiplied.
    """

    name: str
    part: str
    rows: int
    columns: int
    entries: int
    width: int = 1
    calls: int = 1
    lookup: bool = False

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "width", "calls"):
            checks.count(f"{self.name}: {name}", getattr(self, name))
        if checks.count(f"{self.name}: entries", self.entries, 0) > self.places:
            expected = f"at most {self.places}, the places of {self.rows} x {self.columns}"
            raise InputError(f"{self.name}: entries", expected, repr(self.entries))

    @property
    def places(self) -> int:
        """rows x columns."""
        return self.rows * self.columns

    @property
    def macs(self) -> int:
        """Multiply-adds of all calls with stored entries."""
        return 0 if self.lookup else self.entries * self.width * self.calls

    @property
    def dense_macs(self) -> int:
        """Multiply-adds of all calls with every place."""
        return 0 if self.lookup else self.places * self.width * self.calls


@dataclass(frozen=True)
class Elementwise:
    """Operations on single values, `calls` times; both counts are those of one call.

    Attributes
    ----------
    name, part : str
    simple : int
        Additions, products, comparisons.
    functions : int
        Values of exp, tanh, the logistic function, a division.
    calls : int
    """

    name: str
    part: str
    simple: int = 0
    functions: int = 0
    calls: int = 1

    def __post_init__(self) -> None:
        for name in ("simple", "functions"):
            checks.count(f"{self.name}: {name}", getattr(self, name), 0)
        checks.count(f"{self.name}: calls", self.calls)


Operation = Product | Elementwise


@dataclass(frozen=True)
class Workload:
    """What a run computes.

    Attributes
    ----------
    operations : tuple of Product and Elementwise
    seconds : float
        Of audio that the run is for; 0: of none.
    others : int
        Parameters that are in no product, biases above all.
    description : str
    """

    operations: tuple[Operation, ...]
    seconds: float = 0.0
    others: int = 0
    description: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        if not all(isinstance(each, Product | Elementwise) for each in self.operations):
            raise DtypeError("operations", "products and elementwise ones", repr(self.operations))
        checks.not_negative("seconds", self.seconds)
        checks.count("others", self.others, 0)
        shapes: dict[str, tuple[int, int, int]] = {}
        for product in self.products:
            own = (product.rows, product.columns, product.entries)
            if shapes.setdefault(product.name, own) != own:
                expected = f"{product.name} with rows, columns, entries {shapes[product.name]}"
                raise InputError("operations", expected, f"{own}", "Weights have different names.")

    def __add__(self, other: Workload) -> Workload:
        """Return both one after the other; seconds are of the same audio, and the larger count."""
        text = " + ".join(filter(None, dict.fromkeys((self.description, other.description))))
        return Workload(
            self.operations + other.operations, max(self.seconds, other.seconds),
            self.others + other.others, text,
        )  # fmt: skip

    @property
    def products(self) -> tuple[Product, ...]:
        """The products."""
        return tuple(each for each in self.operations if isinstance(each, Product))

    @property
    def elementwise(self) -> tuple[Elementwise, ...]:
        """The others."""
        return tuple(each for each in self.operations if isinstance(each, Elementwise))

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts, in order."""
        return tuple(dict.fromkeys(each.part for each in self.operations))

    @property
    def weights(self) -> Mapping[str, Product]:
        """One product for each weight, by name."""
        return {product.name: product for product in self.products}

    @property
    def parameters(self) -> int:
        """Entries of the weights, and the others."""
        return sum(each.entries for each in self.weights.values()) + self.others

    @property
    def macs(self) -> int:
        """Multiply-adds with stored entries."""
        return sum(product.macs for product in self.products)

    def of(self, *parts: str) -> Workload:
        """Return the operations of some parts; `others` go with the first part."""
        chosen = tuple(each for each in self.operations if each.part in parts)
        return replace(self, operations=chosen, others=self.others if parts else 0)

    def repeated(self, widths: Mapping[int, int] | Iterable[int], part: str = "") -> Workload:
        """Return the work of calls with other widths.

        Parameters
        ----------
        widths : dict of width to number of calls, or widths
            Each call does what this workload does, for so many columns at once.
        part : str, optional
            Another name of the part.
        """
        if not isinstance(widths, Mapping):
            found: dict[int, int] = {}
            for width in widths:
                found[width] = found.get(width, 0) + 1
            widths = found
        made: list[Operation] = []
        for each in self.operations:
            for width, calls in sorted(widths.items()):
                own: dict[str, Any] = {"calls": each.calls * calls, "part": part or each.part}
                if isinstance(each, Product):
                    made.append(replace(each, width=each.width * width, **own))
                else:
                    sums = {"simple": each.simple * width, "functions": each.functions * width}
                    made.append(replace(each, **sums, **own))
        return replace(self, operations=tuple(made))

    def at_density(self, density: float) -> Workload:
        """Return the work with weights of a density in (0, 1], embeddings as they are."""
        checks.within("density", density, "(0, 1]")
        made = [
            replace(each, entries=max(1, round(density * each.places)))
            if isinstance(each, Product) and not each.lookup
            else each
            for each in self.operations
        ]
        return replace(self, operations=tuple(made))
