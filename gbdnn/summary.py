"""The table of a network's layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn.layers import Activation, Linear
from gbdnn.weights.csr import CSR

__all__ = ["Summary", "summary_row"]


@dataclass(frozen=True)
class Summary:
    """A network's layers as rows; prints as a table."""

    rows: tuple[dict[str, Any], ...]

    @property
    def total(self) -> dict[str, Any]:
        """Sums over the layers."""
        linear = [row for row in self.rows if row["edges"]]
        places = sum(row["out_features"] * row["in_features"] for row in linear)
        edges = sum(row["edges"] for row in self.rows)
        nnz = sum(row["nnz"] for row in self.rows)
        nbytes = sum(row["bytes"] for row in self.rows)
        density = nnz / places if places else 0.0
        return {"nnz": nnz, "density": density, "bytes": nbytes, "edges": edges}

    def __str__(self) -> str:
        head = ("layer", "kind", "shape (out x in)", "nnz", "density", "bytes", "edges")
        lines = [(str(row["layer"]), row["kind"], _shape(row), *_numbers(row)) for row in self.rows]
        table: list[tuple[str, ...]] = [head, *lines, ("total", "", "", *_numbers(self.total))]
        if "backend" in self.rows[0]:
            column = ["backend", *(row["backend"] for row in self.rows), ""]
            table = [(*line, cell) for line, cell in zip(table, column, strict=True)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if k < 3 else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in table
        )

    __repr__ = __str__


def _shape(row: dict[str, Any]) -> str:
    return f"{row['out_features']} x {row['in_features']}" if row["edges"] else ""


def _numbers(row: dict[str, Any]) -> tuple[str, str, str, str]:
    if not row["edges"]:
        return "", "", "", ""
    return f"{row['nnz']:,}", f"{row['density']:.4%}", f"{row['bytes']:,}", f"{row['edges']:,}"


def summary_row(number: int, layer: Linear | Activation) -> dict[str, Any]:
    """Return what the table says of a layer."""
    row: dict[str, Any] = {"layer": number, "kind": type(layer).__name__}
    if not isinstance(layer, Linear):
        return row | {"in_features": 0, "out_features": 0, "nnz": 0, "density": 0.0} | {
            "bytes": 0, "edges": 0,
        }  # fmt: skip
    weight = layer.weight
    nnz = weight.nnz if isinstance(weight, CSR) else int(np.count_nonzero(weight))
    return row | {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "nnz": nnz,
        "density": nnz / (layer.in_features * layer.out_features),
        "bytes": weight.nbytes + layer.bias.nbytes,
        "edges": layer.edges,
    }
