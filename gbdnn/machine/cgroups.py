"""Control groups: the limits that containers, batch systems and services put on a process.

A process is in a group of each hierarchy, and the limits of all groups above hold too. Linux has
them in two versions; which one, and where, is in /proc/self/mountinfo and /proc/self/cgroup
(man 7 cgroups).
"""

from __future__ import annotations

import encodings.unicode_escape  # noqa: F401  # at first use an import that a fork may interrupt
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ["ROOT", "cpus", "free_bytes"]

ROOT = Path("/")
UNLIMITED = 1 << 62  # bytes: version 1 says "none" by a number near 2^63


class _Mount(NamedTuple):
    """Where a hierarchy, or the part of it below the group `top`, can be seen."""

    version: int
    controllers: frozenset[str]
    top: PurePosixPath
    place: Path


def free_bytes(root: Path = ROOT) -> int | None:
    """Return the bytes that can be allocated within all limits; None where there are none.

    Pages of files that were not used lately count as used, but are given up when memory is needed.
    """
    found = []
    for version, folder in _groups("memory", root):
        names = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
        limit, used = (_number(folder / f"memory.{name}") for name in names)
        if limit is not None and used is not None and limit < UNLIMITED:
            name = "inactive_file" if version == 2 else "total_inactive_file"
            inactive = _statistics(folder, name)
            found.append(max(limit - max(used - inactive, 0), 0))
    return min(found, default=None)


def cpus(root: Path = ROOT) -> int | None:
    """Return the cores whose time all quotas allow, rounded up; None where there are none."""
    found = []
    for version, folder in _groups("cpu", root):
        if version == 2:
            quota, period, *_ = [*_text(folder / "cpu.max").split(), "", ""]
        else:
            quota, period = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(period):  # "max" or -1: no limit
            found.append(max(math.ceil(int(quota) / int(period)), 1))
    return min(found, default=None)


def _groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """Yield the version and the folder of the process's own group and of each above it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        version = 1 if controllers else 2
        if not path or (controllers and controller not in controllers.split(",")):
            continue
        for mount in _mounts(root):
            if mount.version == version and (version == 2 or controller in mount.controllers):
                group, folder = PurePosixPath(path), mount.place
                inside = group.is_relative_to(mount.top) and ".." not in group.parts
                parts = group.relative_to(mount.top).parts if inside else ()
                for depth in range(len(parts), -1, -1):
                    yield version, folder.joinpath(*parts[:depth])
                break


@cache
def _mounts(root: Path) -> list[_Mount]:
    """Return where control groups are mounted; it takes long where there are many mounts."""
    found = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        places, (kind, _, options, *_) = left.split(), [*right.split(), "", "", ""]
        if kind in ("cgroup", "cgroup2") and len(places) > 4:
            top, place = (text.encode().decode("unicode_escape") for text in places[3:5])
            controllers = frozenset(options.split(","))
            version = 2 if kind == "cgroup2" else 1
            found.append(_Mount(version, controllers, PurePosixPath(top), root / place.lstrip("/")))
    return found


def _statistics(folder: Path, name: str) -> int:
    """Return a number of memory.stat; 0 if it is not there."""
    for line in _text(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    """Return a file's text without the newline at its end; "" if it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
