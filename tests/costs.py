"""Invented cost tables: decisions that can be worked out by hand, no time spent measuring."""

from __future__ import annotations

from typing import Any

import numpy as np

from gbdnn.costs import COSTS, CostTable


def flat_table(threads: tuple[int, ...] = (1, 2), **costs: float) -> CostTable:
    """Return a table where an edge costs the same everywhere; calls are free.

    Without arguments dense costs 1 per place, fused 4 per edge and graphblas 9: fused is faster
    than dense below a density of 25 %.
    """
    chosen = {"dense": 1.0, "fused": 4.0, "graphblas": 9.0, "fused-shared": 2.0} | {
        name.replace("_", "-"): cost for name, cost in costs.items()
    }
    return make_table({name: np.full((len(threads), 2, 2, 3), chosen[name]) for name in COSTS})


def make_table(costs: dict[str, Any], **origin: Any) -> CostTable:
    """Return a table on a fixed small grid."""
    threads = tuple(range(1, 1 + len(costs["dense"])))
    calls = {name: np.full(len(threads), 1e-15) for name in COSTS}
    nano = {name: 1e-9 * values for name, values in costs.items()}
    return CostTable(threads, (16, 1024), (0.01, 0.5), (1, 4, 256), calls, nano, origin)
