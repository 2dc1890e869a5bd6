"""The table of a network's layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gbdnn.layers import Layer

__all__ = ["Summary", "summarised", "text_table"]


def text_table(rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return rows of text as columns, of which the first `left` stand on the left."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<" if k < left else ">" for k in range(len(widths))]
    return "\n".join(
        "  ".join(map("{:{}{}}".format, row, sides, widths)).rstrip() for row in rows
    )  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """A network's layers as rows; prints as a table."""

    rows: tuple[dict[str, Any], ...]

    @property
    def total(self) -> dict[str, Any]:
        """Sums over the layers."""
        sums = {name: sum(row[name] for row in self.rows) for name in ("nnz", "bytes", "edges")}
        places = sum(row["places"] for row in self.rows)
        return sums | {"places": places, "density": sums["nnz"] / places if places else 0.0}

    def __str__(self) -> str:
        engines = "backend" in self.rows[0]
        head = ["layer", "kind", "shape (out x in)", "nnz", "density", "bytes", "edges"]
        table = [head + ["backend"] * engines]
        for row in (*self.rows, self.total):
            wide = row.get("in_features")
            shape = f"{row['out_features']} x {row['in_features']}" if wide else ""
            numbers = [
                f"{row['nnz']:,}", f"{row['density']:.4%}", f"{row['bytes']:,}",
                f"{row['edges']:,}",
            ] if row["bytes"] else [""] * 4  # fmt: skip
            names = [str(row.get("layer", "total")), row.get("kind", ""), shape]
            table.append(names + numbers + [row.get("backend", "")] * engines)
        return text_table(table, left=3)

    __repr__ = __str__


def summarised(layers: Sequence[Layer], engines: Sequence[str] | None = None) -> Summary:
    """Return the table of layers; `engines` adds a column with the backend of each."""
    rows = []
    for k, layer in enumerate(layers):
        weights = [getattr(layer, name) for name in layer.weight_names]
        places = sum(weight.shape[0] * weight.shape[1] for weight in weights)
        nnz = sum(weight.nnz for weight in weights)
        row = {
            "layer": k,
            "kind": type(layer).__name__,
            "in_features": layer.in_features or 0,
            "out_features": layer.out_features or 0,
            "nnz": nnz,
            "places": places,
            "density": nnz / places if places else 0.0,
            "bytes": layer.nbytes,
            "edges": layer.edges,
        }
        rows.append(row | ({} if engines is None else {"backend": engines[k]}))
    return Summary(tuple(rows))
