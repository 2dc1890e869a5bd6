"""What a result depends on: versions, threads, kernels, the state of GraphBLAS."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gbdnn.memory import available_bytes, available_cores, peak_rss_bytes

__all__ = ["info", "machine", "versions"]

PACKAGES = (
    "gbdnn", "numpy", "scipy", "python-graphblas", "suitesparse-graphblas", "numba", "scikit-learn",
)  # fmt: skip

EXTENSIONS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of installed packages, without importing them."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return the processor, its cores and its vector extensions, and the operating system."""
    model, flags = platform.processor() or platform.machine(), ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, text = line.partition(":")
            if key.strip() == "model name":
                model = text.strip()
            elif key.strip() == "flags":
                flags = text
                break
    except OSError:
        pass
    vectors = [
        name
        for name in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")
        if name in flags.split()
    ]
    return {
        "processor": model,
        "cores": available_cores(),
        "vectors": vectors,
        "system": f"{platform.system()} {platform.release()}",
    }


def info() -> dict[str, Any]:
    """Return all that a bug report needs. Starts GraphBLAS."""
    import numpy as np
    from threadpoolctl import threadpool_info

    from gbdnn.backends import BACKENDS, _init

    gb = _init.graphblas()
    np.ones((2, 2)) @ np.ones((2, 2))  # loads BLAS
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "GBDNN_CACHE_DIR")
    return {
        "versions": versions(),
        "machine": machine(),
        "memory": {"available_bytes": available_bytes(), "peak_rss_bytes": peak_rss_bytes()},
        "backends": sorted(BACKENDS),
        "graphblas": {
            "blocking": _init.is_blocking(),
            "threads": gb.ss.config["nthreads"],
            "jit": gb.ss.config["jit_c_control"],
            "kernels": "factory (compiled in): FP32, FP64, INT32, INT64 with built-in operators",
            "fork_guard": _init.fork_guard_installed(),
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
