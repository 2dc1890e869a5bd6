"""Backends by name; each module is imported when its backend is first asked for."""

from __future__ import annotations

import threading
from importlib import import_module

from gbdnn.backends.base import Backend
from gbdnn.errors import choose

__all__ = ["BACKENDS", "get_backend"]

BACKENDS = {
    "auto": ("gbdnn.backends.auto", "AutoBackend"),
    "dense": ("gbdnn.backends.dense", "DenseBackend"),
    "fused": ("gbdnn.backends.fused.backend", "FusedBackend"),
    "graphblas": ("gbdnn.backends.graphblas.backend", "GraphBLASBackend"),
    "graphblas-reference": ("gbdnn.backends.graphblas.reference", "ReferenceBackend"),
}

_loaded: dict[str, Backend] = {}
_lock = threading.Lock()


def get_backend(name: str) -> Backend:
    """Return the one instance of the backend called `name`; raises `UnknownNameError`."""
    if isinstance(name, str) and name in _loaded:
        return _loaded[name]
    choose("backend", name, BACKENDS)
    with _lock:
        if name not in _loaded:
            module, attribute = BACKENDS[name]
            _loaded[name] = getattr(import_module(module), attribute)()
    return _loaded[name]
