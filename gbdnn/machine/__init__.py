"""The machine: memory and cores that there are to use, and versions that results depend on."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gbdnn.machine import cgroups
from gbdnn.machine.threads import available_cores, check_threads, default_threads

__all__ = [
    "PACKAGES", "available_bytes", "available_cores", "check_threads", "default_threads", "machine",
    "peak_rss_bytes", "versions",
]  # fmt: skip

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
    vectors = [name for name in EXTENSIONS if name in flags.split()]
    return {
        "processor": model,
        "cores": available_cores(),
        "vectors": vectors,
        "system": f"{platform.system()} {platform.release()}",
    }


def available_bytes(root: Path = cgroups.ROOT) -> int:
    """Return the bytes that can be allocated: what is free, within cgroup and process limits.

    `root` is where /proc and /sys are.
    """
    candidates: list[int] = []
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        candidates += [int(line.split()[1]) * 1024 for line in lines if "MemAvailable:" in line]
    except OSError:
        candidates.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    if (free := cgroups.free_bytes(root)) is not None:
        candidates.append(free)
    try:
        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            pages = int((root / "proc/self/statm").read_text().split()[0])
            candidates.append(max(soft - pages * os.sysconf("SC_PAGE_SIZE"), 0))
    except OSError:
        pass
    return min(candidates, default=1 << 30)


def peak_rss_bytes() -> int:
    """Return the largest resident size that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
