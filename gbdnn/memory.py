"""How much memory and how many cores there are to use."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from gbdnn.errors import InputError

__all__ = ["available_bytes", "available_cores", "check_threads", "peak_rss_bytes"]


def available_bytes() -> int:
    """Return the bytes that can be allocated: what is free, within cgroup and process limits."""
    candidates: list[int] = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        candidates += [int(line.split()[1]) * 1024 for line in lines if "MemAvailable:" in line]
    except OSError:
        candidates.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        if limit != "max":
            candidates.append(max(int(limit) - int(used), 0))
    except (OSError, ValueError):
        pass
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            candidates.append(max(soft - pages * os.sysconf("SC_PAGE_SIZE"), 0))
    except (ImportError, OSError):
        pass
    return min(candidates, default=1 << 30)


def available_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(threads: Any) -> int:
    """Return a usable thread count; None means all cores, above them it is cut with a warning."""
    cores = available_cores()
    if threads is None:
        return cores
    if isinstance(threads, bool) or not hasattr(threads, "__index__") or int(threads) < 1:
        raise InputError("threads", f"a whole number from 1 to {cores}, or None", repr(threads))
    if int(threads) > cores:
        message = f"threads: {threads} asked for, but this process has {cores} cores; using {cores}"
        warnings.warn(message, stacklevel=3)
    return min(int(threads), cores)


def peak_rss_bytes() -> int:
    """Return the largest resident size that this process has had."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
