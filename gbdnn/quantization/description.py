"""The table of a plan: who gets what, why, and the bits of the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn.layers import Layer
from gbdnn.quantization.rules import Rule, WeightQuantizer, activations, shared, weights
from gbdnn.summary import text_table
from gbdnn.weights import Weight, integer_weight

__all__ = ["Description", "described"]


@dataclass(frozen=True)
class Description:
    """Rows, one for each tensor, and sums; prints as a table.

    Attributes
    ----------
    rows : tuple of dict
        tensor, shape, quantizer, granularity, bits, entries, bytes, why.
    bits, bytes : int
        Of all parameters: values and scales, without and with the places of entries.
    dense_bytes : int
        Of the same network dense and in float32.
    """

    rows: tuple[dict[str, Any], ...]
    name: str
    bits: int
    bytes: int
    dense_bytes: int

    def __str__(self) -> str:
        head = ("tensor", "shape", "quantizer", "scales", "bits", "entries", "bytes", "why")
        table = [head] + [
            (row["tensor"], row["shape"], row["quantizer"], row["granularity"],
             str(row["bits"] or ""), _count(row["entries"]), _count(row["bytes"]), row["why"])
            for row in self.rows
        ]  # fmt: skip
        lines = text_table([row[:-1] for row in table], left=4).splitlines()
        size = max(map(len, lines))
        text = [
            f"{line:<{size}}  {row[-1]}".rstrip() for line, row in zip(lines, table, strict=True)
        ]
        factor = self.dense_bytes / self.bytes if self.bytes else 0.0
        text.append(
            f"{self.name or 'plan'}: {self.bits:,} bits of values, {self.bytes:,} bytes with"
            f" places; dense float32: {self.dense_bytes:,} bytes, {factor:.1f} times as many"
        )
        return "\n".join(text)

    __repr__ = __str__


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def described(name: str, network: Any, rules: Mapping[str, Rule]) -> Description:
    """Return the table of a plan; O(nnz)."""
    layers: Mapping[str, Layer] = network.named_layers
    rows = [_weight(own, *found, rules.get(own)) for own, found in weights(layers).items()]
    taken = shared(layers, rules)
    for own in activations(layers):
        rule = rules.get(own)
        row: dict[str, Any] = {
            "tensor": own,
            "shape": "",
            "entries": None,
            "bytes": None,
            "granularity": "",
        }
        if rule is not None:
            row |= _rule(rule)
        elif own in taken:
            text = f"as {taken[own]}"
            row |= {"quantizer": text, "bits": _bits(rules[taken[own]]), "why": "rounded once"}
        else:
            row |= {"quantizer": "none", "bits": None, "why": ""}
        rows.append(row)
    arrays = [p for p in network.parameters.values() if not isinstance(p, Weight)]
    bits = sum(row.pop("value_bits", 0) for row in rows) + 8 * sum(a.nbytes for a in arrays)
    dense = 4 * sum(math.prod(p.shape) for p in network.parameters.values())
    whole = sum(row["bytes"] or 0 for row in rows) + sum(a.nbytes for a in arrays)
    return Description(tuple(rows), name, bits, whole, dense)


def _bits(rule: Rule) -> int | None:
    return getattr(rule.quantizer, "bits", None)


def _rule(rule: Rule) -> dict[str, Any]:
    sides = getattr(rule.quantizer, "sides", "symmetric")
    text = rule.quantizer.kind + ("" if sides == "symmetric" else f", {sides}-sided")
    return {"quantizer": text, "bits": _bits(rule), "why": rule.why}


def _weight(name: str, layer: Layer, own: str, rule: Rule | None) -> dict[str, Any]:
    weight: Weight = getattr(layer, own)
    shape = " x ".join(map(str, weight.shape))
    row = {"tensor": name, "shape": shape, "entries": weight.nnz}
    if rule is None or not (bits := _bits(rule)):
        each = 8 * weight.dtype.itemsize
        own_row = {"quantizer": "none", "granularity": "", "bits": each, "why": ""}
        own_row |= {} if rule is None else _rule(rule)
        return row | own_row | {"bytes": weight.nbytes, "value_bits": each * weight.nnz}
    parts = WeightQuantizer(rule.quantizer, rule.granularity, layer.row_blocks)
    scales = math.prod(parts.parts(weight.shape))
    text = f"{rule.granularity} columns" if isinstance(rule.granularity, int) else rule.granularity
    zeros = np.zeros(parts.parts(weight.shape), np.float32)
    nbytes = integer_weight(weight.pattern(), zeros, bits=bits).nbytes
    return row | _rule(rule) | {
        "granularity": f"{text} ({scales:,})", "bytes": nbytes,
        "value_bits": bits * weight.nnz + 32 * scales,
    }  # fmt: skip
