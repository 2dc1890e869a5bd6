"""The command `gbdnn info`: what a bug report needs."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from gbdnn import __version__
from gbdnn.cli.options import JSON
from gbdnn.cli.output import echo_json, echo_rows
from gbdnn.machine import available_bytes, machine, peak_rss_bytes, versions

__all__ = ["collected", "info"]


@click.command("info")
@JSON
def info(as_json: bool) -> None:
    """Show versions, threads, kernels and memory."""
    found = collected()
    if as_json:
        echo_json(found)
        return
    rows: dict[str, str] = {}
    for key, value in found.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        rows |= {f"{key} {name}".strip(): _plain(part) for name, part in parts}
    echo_rows(f"gbdnn {__version__}", rows)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, dict):
        return " ".join(map(str, value.values()))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def collected() -> dict[str, Any]:
    """Return all that a bug report needs. Starts GraphBLAS."""
    import numpy as np
    from threadpoolctl import threadpool_info

    from gbdnn.backends import BACKENDS
    from gbdnn.weights import graphblas as start

    gb = start.graphblas()
    np.ones((2, 2)) @ np.ones((2, 2))  # loads BLAS
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "GBDNN_CACHE_DIR")
    return {
        "versions": versions(),
        "machine": machine(),
        "memory": {"available_bytes": available_bytes(), "peak_rss_bytes": peak_rss_bytes()},
        "backends": sorted(BACKENDS),
        "graphblas": {
            "blocking": start.is_blocking(),
            "threads": gb.ss.config["nthreads"],
            "jit": gb.ss.config["jit_c_control"],
            "kernels": "factory (compiled in): FP32, FP64, INT32, INT64 with built-in operators",
            "fork_guard": start.fork_guard_installed(),
        },
        "blas": [
            {key: pool[key] for key in ("internal_api", "version", "num_threads", "architecture")
             if key in pool}
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ],
        "environment": {name: os.environ[name] for name in variables if name in os.environ},
        "executable": sys.executable,
    }  # fmt: skip
