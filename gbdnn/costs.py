"""The cost table that `backend="auto"` decides by: what one edge costs in each engine.

The time of a layer is predicted as

    seconds = call + edges x batch x cost(threads, in_features, density, batch)

where edges are the stored weights (of the dense engine all places), `call` is what a call costs
without work, and `cost` is interpolated between measured points, linearly in the logarithms of all
four quantities; outside of the grid the nearest point holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ENGINES", "SHARED", "CostTable"]

Array = npt.NDArray[Any]
ENGINES = ("dense", "fused", "graphblas")
SHARED = "fused-shared"  # the fused kernel on rows that share their pattern four by four
COSTS = (*ENGINES, SHARED)


@dataclass(frozen=True, eq=False)
class CostTable:
    """Measured costs of float32 layers.

    Parameters
    ----------
    threads : tuple of int
        1 and, if there are more, all cores.
    sizes, densities, batches : tuple of numbers, ascending
        The grid.
    calls : dict of str to ndarray, shape (threads,)
        Seconds of a call, for each of dense, fused, graphblas and fused-shared.
    costs : dict of str to ndarray, shape (threads, sizes, densities, batches)
        Seconds per edge and column of Y, for the same.
    origin : dict
        Where the numbers come from: `machine`, `versions`, ...

    Raises
    ------
    ValueError
        If the parts do not fit together or a number is not positive and finite.
    """

    threads: tuple[int, ...]
    sizes: tuple[int, ...]
    densities: tuple[float, ...]
    batches: tuple[int, ...]
    calls: dict[str, Array]
    costs: dict[str, Array]
    origin: dict[str, Any]

    def __post_init__(self) -> None:
        axes = (self.threads, self.sizes, self.densities, self.batches)
        for axis in axes:
            if not axis or list(axis) != sorted(set(axis)) or not 0 < axis[0] <= axis[-1] < 1e9:
                raise ValueError(f"an axis of the cost table is {axis}")
        shape = tuple(map(len, axes))
        for engine in COSTS:
            calls, costs = self.calls[engine], self.costs[engine]
            if calls.shape != shape[:1] or costs.shape != shape:
                raise ValueError(f"{engine}: shapes {calls.shape} and {costs.shape}")
            for values in (calls, costs):
                if not (np.isfinite(values).all() and (values > 0).all()):
                    raise ValueError(f"{engine}: costs must be positive and finite")

    def seconds(
        self,
        engine: str,
        shape: tuple[int, int],
        edges: int,
        batch: int,
        *,
        threads: int = 1,
        itemsize: int = 4,
        shared: float = 0.0,
    ) -> float:
        """Predict the time of h(W Y + b).

        Parameters
        ----------
        engine : {"dense", "fused", "graphblas"}
        shape : tuple of int
            (out_features, in_features) of W.
        edges : int
            Stored weights.
        batch : int
            Columns of Y.
        threads : int
            1, or any other number for all cores.
        itemsize : int
            Bytes of a value. Twice the bytes are twice the vectors: a batch of float64 costs what
            twice the batch of float32 does.
        shared : float
            Share of the edges in rows that share their pattern (the fused engine groups them).
        """
        at = 0 if threads == 1 else len(self.threads) - 1
        batch = batch * itemsize // 4
        density = edges / (shape[0] * shape[1])
        work = shape[0] * shape[1] if engine == "dense" else edges
        cost = self._cost(engine, at, shape[1], density, batch)
        if engine == "fused" and shared:
            grouped = self._cost(SHARED, at, shape[1], density, batch)
            cost += shared * (grouped - cost)
        return float(self.calls[engine][at]) + work * batch * cost

    def _cost(self, engine: str, at: int, size: int, density: float, batch: int) -> float:
        """Interpolate between the 8 nearest points."""
        near = [
            _between(axis, value)
            for axis, value in zip(self._logarithms, (size, density, batch), strict=True)
        ]
        logs = self._costs[engine][at]
        total = 0.0
        for corner in product(*near):
            weight = math.prod(share for _, share in corner)
            if weight:
                (i, _), (j, _), (k, _) = corner
                total += weight * logs[i][j][k]
        return math.exp(total)

    @cached_property
    def _logarithms(self) -> list[list[float]]:
        return [np.log(axis).tolist() for axis in (self.sizes, self.densities, self.batches)]

    @cached_property
    def _costs(self) -> dict[str, Any]:
        return {engine: np.log(costs).tolist() for engine, costs in self.costs.items()}

    def to_json(self) -> str:
        """Return the table as text."""
        fields = {
            "origin": self.origin,
            "threads": self.threads,
            "sizes": self.sizes,
            "densities": self.densities,
            "batches": self.batches,
            "calls": {engine: _rounded(values) for engine, values in self.calls.items()},
            "costs": {engine: _rounded(values) for engine, values in self.costs.items()},
        }
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str | bytes) -> CostTable:
        """Read what `to_json` wrote; raises ValueError if it is anything else."""
        try:
            fields = json.loads(text)
            axes: dict[str, Any] = {name: tuple(fields[name]) for name in AXES}
            parts: dict[str, Any] = {
                name: {engine: np.array(fields[name][engine], float) for engine in COSTS}
                for name in ("calls", "costs")
            }
            return cls(**axes, **parts, origin=dict(fields["origin"]))
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a cost table: {error!r}") from None


AXES = ("threads", "sizes", "densities", "batches")


def _between(axis: Sequence[float], value: float) -> tuple[tuple[int, float], tuple[int, float]]:
    """Return the two points around log(value) and their shares."""
    place = math.log(max(value, 1e-12))
    last = len(axis) - 1
    above = next((k for k, point in enumerate(axis) if place < point), last)
    below = max(above - 1, 0)
    if place <= axis[0] or place >= axis[last]:
        end = 0 if place <= axis[0] else last
        return (end, 1.0), (end, 0.0)
    share = (place - axis[below]) / (axis[above] - axis[below])
    return (below, 1 - share), (above, share)


def _rounded(values: Array) -> Any:
    """Four digits of each."""
    return np.vectorize(lambda value: float(f"{value:.3e}"), otypes=[float])(values).tolist()
