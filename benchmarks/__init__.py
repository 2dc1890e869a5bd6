"""The sweep harness: the same matrices through gbdnn's backends and other libraries, timed.

One process per cell (an engine at one size, density and batch), one engine per process; every
result is compared with float64 before it counts. `gbdnn bench sweep` measures, `gbdnn bench plot`
draws, `load` gives the results as a DataFrame.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.cells import Cell as Cell
    from benchmarks.cells import grid as grid
    from benchmarks.figures import plot as plot
    from benchmarks.harness import sweep as sweep
    from benchmarks.store import load as load

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
        return getattr(import_module(f"benchmarks.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'benchmarks' has no attribute {name!r}")
