"""Rules: what the tensors of a network that match a pattern get, and which tensors there are.

A weight may have several scales. The entries of a part with a scale of its own stand together in
the order of a pattern, row by row: the whole weight, equal blocks of rows (the gates of an LSTM),
rows, or groups of consecutive columns of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gbdnn.errors import DtypeError, InputError
from gbdnn.layers import Layer
from gbdnn.quantization.base import Learned, Quantizer
from gbdnn.quantization.quantizers import quantizer
from gbdnn.types import Array
from gbdnn.weights import CSR, Integers, Levels, integer_weight

__all__ = ["GRANULARITIES", "Rule", "WeightQuantizer", "activations", "shared", "weights"]

GRANULARITIES = ("tensor", "gate", "row")  # or the number of columns in a group
OWN = ("quantizer", "granularity", "why")  # of a rule; other names are the quantizer's settings


@dataclass(frozen=True)
class Rule:
    """What the tensors that match a pattern get.

    Parameters
    ----------
    pattern : str
        Of names as "layers.0.weight", "layers.0.input", "layers.2.hidden", as `fnmatch` has it.
    quantizer : Quantizer
    granularity : str or int
        Of a weight: a scale for the whole "tensor", for each "gate", for each "row", or for so many
        consecutive columns of each row.
    why : str
        `QuantizationPlan.describe` prints it.
    """

    pattern: str
    quantizer: Quantizer
    granularity: str | int = "tensor"
    why: str = ""

    def __post_init__(self) -> None:
        for name in ("pattern", "why"):
            if not isinstance(getattr(self, name), str):
                raise DtypeError(name, "text", type(getattr(self, name)).__name__)
        if not isinstance(self.quantizer, Quantizer):
            raise DtypeError("quantizer", "a Quantizer", type(self.quantizer).__name__)
        _check_granularity(self.granularity)

    @classmethod
    def of(cls, pattern: str, given: Any) -> Rule:
        """Return the rule for a name of a quantizer, a `Quantizer`, a `Rule` or a record."""
        if isinstance(given, Rule):
            return cls(pattern, given.quantizer, given.granularity, given.why)
        if not isinstance(given, Mapping):
            return cls(pattern, quantizer(given))
        if "quantizer" not in given:
            expected = f'"quantizer" for the pattern {pattern!r}'
            raise InputError("plan", expected, ", ".join(map(str, given)) or "nothing")
        own = {str(key): value for key, value in given.items() if key not in OWN}
        made = quantizer(given["quantizer"], own)
        return cls(pattern, made, given.get("granularity", "tensor"), given.get("why", ""))

    def record(self) -> dict[str, Any]:
        """Return what JSON can say."""
        return {
            "quantizer": self.quantizer.kind, **self.quantizer.settings,
            "granularity": self.granularity, "why": self.why,
        }  # fmt: skip


def weights(layers: Mapping[str, Layer]) -> dict[str, tuple[Layer, str]]:
    """Return layer and own name of each weight, by full name."""
    return {
        f"{prefix}.{own}": (layer, own)
        for prefix, layer in layers.items()
        for own in layer.weight_names
    }


def activations(layers: Mapping[str, Layer]) -> dict[str, list[str]]:
    """Return of each named activation the names of the weights that it is multiplied with."""
    return {
        f"{prefix}.{own}": [
            f"{prefix}.{weight}"
            for weight in layer.weight_names
            if layer.activation_of(weight) == own
        ]
        for prefix, layer in layers.items()
        for own in layer.activation_names
    }


def shared(layers: Mapping[str, Layer], rules: Mapping[str, Rule]) -> dict[str, str]:
    """Return the inputs that are another layer's rounded h: "layers.1.input": "layers.0.hidden".

    They have no rule of their own, their weight has one, and h has one.
    """
    found: dict[str, str] = {}
    before: tuple[str, Layer] | None = None
    for prefix, layer in layers.items():
        name, takes = f"{prefix}.input", [w for w in layer.weight_names if
                                          layer.activation_of(w) == "input"]  # fmt: skip
        if before is not None and takes and name not in rules:
            hidden = f"{before[0]}.hidden"
            if hidden in rules and all(f"{prefix}.{weight}" in rules for weight in takes):
                found[name] = hidden
        if not layer.only_trains:
            before = prefix, layer
    return found


def _check_granularity(given: Any) -> str | int:
    """Return one of "tensor", "gate", "row", or a number of columns.

    Raises
    ------
    InputError
    """
    if isinstance(given, str) and given in GRANULARITIES:
        return given
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        return given
    expected = f"one of {', '.join(map(repr, GRANULARITIES))}, or a number of columns from 1 up"
    raise InputError("granularity", expected, repr(given)[:60])


@dataclass(frozen=True)
class WeightQuantizer:
    """A quantizer for each part of a weight.

    Parameters
    ----------
    quantizer : Quantizer
    granularity : str or int
        "tensor", "gate", "row", or so many columns.
    row_blocks : int
        Gates of the layer.
    """

    quantizer: Quantizer
    granularity: str | int = "tensor"
    row_blocks: int = 1

    def parts(self, shape: tuple[int, int]) -> tuple[int, ...]:
        """Return how many parts there are: (parts,) or (rows, groups), as scales have it.

        Raises
        ------
        InputError
            If groups do not divide the columns, or gates the rows.
        """
        rows, columns = shape
        size = self.granularity
        if isinstance(size, int):
            if columns % size:
                expected = f"a number of columns that divides {columns}"
                raise InputError("granularity", expected, str(size))
            return rows, columns // size
        count = {"tensor": 1, "gate": self.row_blocks, "row": rows}[size]
        if rows % count:
            raise InputError("granularity", f"{rows} rows that {count} gates divide", size)
        return (count,)

    def offsets(self, pattern: CSR) -> list[int]:
        """Return where each part's entries begin, and the number of all."""
        parts = self.parts(pattern.shape)
        if len(parts) == 1:
            found: list[int] = pattern.indptr[:: pattern.shape[0] // parts[0]].tolist()
            return found
        groups = parts[1]
        row = np.repeat(np.arange(parts[0]), np.diff(pattern.indptr))
        part = row * groups + pattern.indices // (pattern.shape[1] // groups)
        counts = np.bincount(part, minlength=parts[0] * groups)
        return [0, *np.cumsum(counts).tolist()]

    def initial(self, x: Array, offsets: list[int]) -> dict[str, Array]:
        """Return what is learned: of several parts with one more axis in front."""
        each = [self.quantizer.initial(x[a:b]) for a, b in pairwise(offsets)]
        if len(each) == 1:
            return each[0]
        return {name: np.stack([found[name] for found in each]) for name in each[0]}

    def fake(self, x: Array, learned: Learned, out: Array, offsets: list[int]) -> None:
        """Write the levels of the entries x to `out`."""
        for k, (a, b) in enumerate(pairwise(offsets)):
            self.quantizer.fake(x[a:b], _of_part(learned, k, offsets), out[a:b])

    def backward(
        self, x: Array, learned: Learned, dx: Array, dlearned: Mapping[str, Array],
        offsets: list[int],
    ) -> None:  # fmt: skip
        """See `Quantizer.backward`."""
        for k, (a, b) in enumerate(pairwise(offsets)):
            grads = _of_part(dlearned, k, offsets)
            self.quantizer.backward(x[a:b], _of_part(learned, k, offsets), dx[a:b], grads)

    def frozen(self, weight: CSR, learned: Learned, levels: Levels | None) -> Integers:
        """Return the weight as whole numbers, products with which round their input to `levels`."""
        offsets, x = self.offsets(weight), weight.full_values
        each = [
            self.quantizer.levels(x[a:b], _of_part(learned, k, offsets))
            for k, (a, b) in enumerate(pairwise(offsets))
        ]
        steps = [found.step if x[a:b].any() else 0.0
                 for found, (a, b) in zip(each, pairwise(offsets), strict=True)]  # fmt: skip
        scales = np.array(steps, np.float32).reshape(self.parts(weight.shape))
        bits = each[0].high.bit_length() + 1
        return integer_weight(weight, scales, bits=bits, levels=levels)


def _of_part(learned: Learned, k: int, offsets: list[int]) -> Learned:
    """Return what is learned for part k: views."""
    if len(offsets) == 2 or not learned:
        return learned
    return {name: value[k] for name, value in learned.items()}
