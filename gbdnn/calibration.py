"""The cost table of this machine: measured once in a few seconds, kept in the cache directory.

`gbdnn calibrate` does it now; otherwise the first use of ``backend="auto"`` does. The file belongs
to a processor, its vector extensions, its cores and all versions; any other is measured anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gbdnn import machine
from gbdnn.costs import CostTable
from gbdnn.measure import measure

__all__ = ["calibrate", "command", "current", "describe", "on_calibrate", "override", "path"]

on_calibrate: Callable[[str], None] | None = None
"""Called with a message when a calibration begins; by default it goes to the log 'gbdnn'."""

FORMAT = 2
MESSAGE = "measuring this machine for backend='auto' (some seconds, once; kept in {})"

_lock = threading.Lock()
_table: CostTable | None = None
_override: CostTable | None = None


def current() -> CostTable:
    """Return the table in use: the override, the one in memory, in the cache, or a new one.

    Several threads may ask at once; one of them measures.
    """
    global _table
    if _override is not None:
        return _override
    if _table is None:
        with _lock:
            if _table is None:
                _table = _read() or _measured()
    return _table


def calibrate(*, force: bool = False) -> CostTable:
    """Return this machine's table; with `force` measure it anew. An override is not looked at."""
    global _table
    with _lock:
        if force or _table is None:
            _table = (None if force else _read()) or _measured()
        return _table


def override(table: CostTable | None) -> None:
    """Make `auto` in this process decide by `table`; None returns to the measured one.

    Networks that have already run with ``backend="auto"`` keep what they chose. To use one engine
    everywhere name it instead: ``backend="fused"``.
    """
    global _override
    _override = table


def path() -> Path:
    """Return where the table of this machine and these versions is kept."""
    from gbdnn.challenge.mnist import cache_dir

    text = json.dumps(_identity(), sort_keys=True)
    return cache_dir() / f"calibration-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"


def _identity() -> dict[str, Any]:
    here = machine.machine()
    return {
        "format": FORMAT,
        "machine": {key: here[key] for key in ("processor", "vectors", "cores")},
        "versions": machine.versions(),
    }


def _read() -> CostTable | None:
    """Return the cached table, or None if there is none, or a damaged or a foreign one."""
    try:
        table = CostTable.from_json(path().read_bytes())
    except (OSError, ValueError):
        return None
    return table if table.origin.get("identity") == _identity() else None


def _measured() -> CostTable:
    """Measure and keep; a cache that cannot be written is no reason to fail."""
    from gbdnn.files.disk import atomic_write

    place = path()
    log = logging.getLogger("gbdnn")
    (on_calibrate or log.info)(MESSAGE.format(place))
    table = measure(origin={"identity": _identity()})
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(place) as file:
            file.write(table.to_json().encode())
    except OSError as error:
        log.info("the calibration is not kept: %s", error)
    return table


def describe(table: CostTable) -> str:
    """Return what `auto` chooses in square layers of the grid, and how that compares with BLAS."""
    from gbdnn.backends.auto import Layer, choose

    lines = []
    for threads in table.threads:
        head = ["size", "batch", *(f"{density:.1%}" for density in reversed(table.densities))]
        rows = [head]
        for size in table.sizes:
            for batch in table.batches:
                row = [f"{size}", f"{batch}"]
                for density in reversed(table.densities):
                    edges = round(density * size * size)
                    layer = Layer((size, size), edges)
                    engine = choose(table, layer, batch, threads)
                    times = [table.seconds(name, layer.shape, edges, batch, threads=threads)
                             for name in ("dense", engine)]  # fmt: skip
                    row.append(f"{engine} {times[0] / times[1]:.1f}x")
                rows.append(row)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines.append(f"threads={threads}: choice by density, and its speed over dense")
        lines += ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        lines.append("")
    if table.origin.get("load", 0) > table.threads[-1] / 2:
        lines.append(f"The load average was {table.origin['load']}: repeat with --force when idle.")
    return "\n".join(lines).rstrip()


@click.command("calibrate")
@click.option("--force", is_flag=True, help="Measure also if there is a table of this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print the measured costs as JSON.")
def command(force: bool, as_json: bool) -> None:
    """Measure this machine for --backend auto (some seconds), and show what it will choose."""
    global on_calibrate
    before, on_calibrate = on_calibrate, lambda message: click.echo(message, err=True)
    try:
        table = calibrate(force=force)
    finally:
        on_calibrate = before
    click.echo(table.to_json() if as_json else describe(table))


def _after_fork() -> None:
    """In a forked child nobody else holds the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
