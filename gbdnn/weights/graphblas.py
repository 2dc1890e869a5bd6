"""The one place where GraphBLAS is started: blocking mode, fork guard, quiet imports.

Three facts make this module necessary (docs/decisions.md, "Process safety"):

* in non-blocking mode, threads that share a matrix with pending work crash or sum wrongly;
* after a parallel GraphBLAS call, fork() hangs the child in libgomp's dead thread pool;
* python-graphblas imports its parts on first attribute access, which is not safe in threads.
"""

from __future__ import annotations

import os
from typing import Any

from gbdnn.machine.locks import starting

_module: Any = None
_blocking: bool | None = None
_forked = False


def graphblas() -> Any:
    """Return the started `graphblas` package; the first call takes about half a second."""
    global _module, _blocking
    if _module is not None:
        return _module
    with starting:
        if _module is None:
            _module, _blocking = _start()
    return _module


def is_blocking() -> bool:
    """True if GraphBLAS runs in blocking mode, False if somebody started it before in the other."""
    graphblas()
    return bool(_blocking)


def usable_threads(threads: int) -> int:
    """Return `threads`, or 1 in a forked child, where libgomp would wait for threads that died."""
    return 1 if _forked else threads


def fork_guard_installed() -> bool:
    """True once GraphBLAS has been started by this module, which registers the guard."""
    return _module is not None


def _start() -> tuple[Any, bool]:
    import graphblas as gb

    try:
        gb.init("suitesparse", blocking=True)
        blocking = True
    except gb.exceptions.GraphblasException:
        blocking = False  # started earlier with other arguments: prepare() materialises instead
    # Everything that workers touch is imported here, once, by one thread.
    import graphblas.binary
    import graphblas.core.matrix
    import graphblas.monoid
    import graphblas.select
    import graphblas.semiring
    import graphblas.ss

    os.register_at_fork(after_in_child=_after_fork)
    return gb, blocking


def _after_fork() -> None:
    # The child has no libgomp threads; one thread needs none. A Context overrides the setting.
    global _forked
    _forked = True
    _module.ss.config["nthreads"] = 1
