"""Backends by name; each module is imported when its backend is first asked for.

`BACKENDS` is the table: a name, and the module and name of a `Backend`, or the class, or an object.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gbdnn.backends.workers import apart
from gbdnn.errors import choose
from gbdnn.machine.locks import starting

if TYPE_CHECKING:
    from gbdnn.backends.base import Backend

__all__ = ["BACKENDS", "get_backend"]

BACKENDS: dict[str, Any] = {
    "auto": ("gbdnn.backends.auto", "AutoBackend"),
    "dense": ("gbdnn.backends.dense", "DenseBackend"),
    "fused": ("gbdnn.backends.fused.backend", "FusedBackend"),
    "graphblas": ("gbdnn.backends.graphblas.backend", "GraphBLASBackend"),
    "graphblas-reference": ("gbdnn.backends.graphblas.reference", "ReferenceBackend"),
}

_loaded: dict[str, tuple[Any, Backend]] = {}


def get_backend(name: str) -> Backend:
    """Return the one instance of the backend called `name`; raises `UnknownNameError`."""
    known = _loaded.get(name) if isinstance(name, str) else None
    if known is not None and known[0] is BACKENDS.get(name):  # the usual case: counts for one row
        return known[1]
    choose("backend", name, BACKENDS)
    entry = BACKENDS[name]

    def load() -> Backend:
        with starting:
            if name not in _loaded or _loaded[name][0] is not entry:
                import_module("scipy.sparse")  # which prediction imports where it needs it
                whole = not isinstance(entry, tuple)
                made = entry if whole else getattr(import_module(entry[0]), entry[1])
                _loaded[name] = entry, made() if isinstance(made, type) else made
            return _loaded[name][1]

    return apart(load)  # an interrupted import of numba could not be repeated
