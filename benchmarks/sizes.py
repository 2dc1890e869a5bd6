"""Bytes of sparse networks of whole numbers beside dense float32, in memory and on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gbdnn import Levels, Linear, Network, integer_weight
from gbdnn.summary import text_table
from gbdnn.topology import erdos_renyi

__all__ = ["compare", "report"]

LEVELS = Levels(0.05, 0, 0, 15)


def compare(width: int, layers: int, densities: Sequence[float]) -> list[dict[str, Any]]:
    """Return a record for each density and form of weights; scales stand for rows."""
    records = []
    dense = width * width * 4 * layers + 4 * width * layers
    for density in densities:
        made: dict[str, list[Linear]] = {"float32": [], "int8": [], "int4": []}
        for number in range(layers):
            weight = erdos_renyi(width, width, density=density, rng=number)
            bias = np.zeros(width, np.float32)
            scales = np.full(width, np.abs(weight.values).max() / 7)
            made["float32"].append(Linear(weight, bias))
            for bits in (8, 4):
                part = integer_weight(weight, scales, bits=bits, levels=LEVELS)
                made[f"int{bits}"].append(Linear(part, bias))
        for name, parts in made.items():
            network = Network(parts)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model"
                network.save(path)
                size = path.stat().st_size
            layout = getattr(parts[0].weight, "layout", "csr")
            records.append({
                "density": density, "form": name, "layout": layout, "memory": network.nbytes,
                "disk": size, "memory_ratio": dense / network.nbytes, "disk_ratio": dense / size,
            })  # fmt: skip
    return records


def report(records: Sequence[dict[str, Any]]) -> str:
    """Return the records as a table."""
    head = ["density", "form", "layout", "in memory", "on disk", "dense / memory", "dense / disk"]
    rows = [
        [
            f"{r['density']:.4g}", r["form"], r["layout"], f"{r['memory']:,}", f"{r['disk']:,}",
            f"{r['memory_ratio']:.1f}", f"{r['disk_ratio']:.1f}",
        ]
        for r in records
    ]  # fmt: skip
    return text_table([head, *rows], left=3)
