"""Which kernels GraphBLAS ran: its own report ("burble"), caught and read."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from collections.abc import Callable
from typing import Any

__all__ = ["kernels_of", "read_burble"]

CALL = re.compile(r"\[ (G[xr]B_\w+)(.*?)\]", re.S)
KERNEL = re.compile(
    r"saxpy\d|sparse saxpy|saxbit|dot\d|rowscale|colscale|Gustavson|hash|generic|JIT|full to bitmap"
)
QUIET = re.compile(r"_(nvals|dup|diag|build|set|wait)$|pack_|_Matrix_new")


def kernels_of(call: Callable[[], Any]) -> list[str]:
    """Run `call` with the report switched on; return names such as ``"GrB_mxm: saxpy5"``.

    Not to be timed: the report is written by every call of GraphBLAS. It goes to the process'
    standard output, which is pointed elsewhere meanwhile.
    """
    from gbdnn.weights.graphblas import graphblas

    config = graphblas().ss.config
    libc = ctypes.CDLL(None)
    with tempfile.TemporaryFile() as report:
        libc.fflush(None)
        saved = os.dup(1)
        os.dup2(report.fileno(), 1)
        try:
            config["burble"] = True
            call()
        finally:
            config["burble"] = False
            libc.fflush(None)
            os.dup2(saved, 1)
            os.close(saved)
        report.seek(0)
        return read_burble(report.read().decode(errors="replace"))


def read_burble(report: str) -> list[str]:
    """Return the calls in a report with the kernels that they name, each once."""
    found: dict[str, None] = {}
    for name, text in CALL.findall(_without_names(report)):
        if QUIET.search(name):
            continue
        kernels = dict.fromkeys(KERNEL.findall(text))
        found[f"{name}: {', '.join(kernels)}" if kernels else name] = None
    return list(found)


def _without_names(report: str) -> str:
    """Drop what an operator's description puts into square brackets."""
    return re.sub(r"\[(?!\s*G[xr]B_\w+ )[^\[\]]*\]|\[G[xr]B_\w+\]", "", report)
