"""The sweep harness: the same matrices through gbdnn's backends and other libraries, timed.

One process per cell (an engine at one size, density and batch), one engine per process; every
result is compared with float64 before it counts. `gbdnn bench sweep` measures, `gbdnn bench plot`
draws, `load` gives the results as a DataFrame.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gbdnn.bench.cells import Cell as Cell
    from gbdnn.bench.cells import grid as grid
    from gbdnn.bench.figures import plot as plot
    from gbdnn.bench.harness import sweep as sweep
    from gbdnn.bench.store import load as load

_HOME_OF = {
    "Cell": "cells",
    "grid": "cells",
    "load": "store",
    "plot": "figures",
    "sweep": "harness",
}

__all__ = ["Cell", "grid", "load", "plot", "sweep"]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"gbdnn.bench.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'gbdnn.bench' has no attribute {name!r}")
