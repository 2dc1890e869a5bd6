"""Results on disk: one JSON object a line in ``results.jsonl``, never rewritten, only added to."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import Record
from gbdnn.errors import DataUnavailableError, InputError, MissingDependencyError

__all__ = ["NAME", "Results", "append", "load", "read", "require_writable"]

NAME = "results.jsonl"


@dataclass(frozen=True)
class Results:
    """The records of a folder, and a message for each line that could not be read."""

    records: list[Record]
    damaged: list[str]


def read(folder: Path | str) -> Results:
    """Return the records in a folder; lines that are damaged are named and left out.

    A line is damaged when a measurement was killed, or the disk was full, while it was written.
    """
    path = Path(folder) / NAME
    records, damaged = [], []
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Results([], [])
    except OSError as error:
        raise InputError("out", f"a folder with a readable {NAME}", _why(path, error)) from error
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line or b"{}")
        except ValueError:
            record = None
        if not isinstance(record, dict):
            last = ", the last" if number == len(lines) else ""
            damaged.append(f"{path}: line {number}{last} is damaged and left out")
        elif record:
            records.append(record)
    return Results(records, damaged)


def append(folder: Path | str, record: Record) -> None:
    """Add one record and wait until it is on the disk; on failure the file is as it was.

    Raises
    ------
    InputError
        If the file cannot be written, for example as the disk is full.
    """
    path = Path(folder) / NAME
    line = json.dumps(record).encode() + b"\n"
    try:
        with path.open("ab+", buffering=0) as stream:
            size = stream.seek(0, os.SEEK_END)
            if size:
                stream.seek(size - 1)
                line = line if stream.read(1) == b"\n" else b"\n" + line
            try:
                while line:
                    line = line[stream.write(line) :]
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(size)
                raise
    except OSError as error:
        raise _unwritable(path, error) from error


def require_writable(folder: Path | str) -> None:
    """Make the folder and its file, so that an hour of measuring does not end in an error."""
    path = Path(folder) / NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def load(folder: Path | str) -> Any:
    """Return the results as a tidy DataFrame: one row per job and round, the last record of each.

    Parameters
    ----------
    folder : path
        What ``gbdnn bench ... --out`` wrote.

    Returns
    -------
    pandas.DataFrame
        Columns as in the records; a list is one text, and of machine, versions and roofline each
        entry has a column, such as ``machine.processor``.

    Raises
    ------
    MissingDependencyError
        Without pandas.
    DataUnavailableError
        If there are no results.
    """
    try:
        import pandas as pd
    except ImportError:
        raise MissingDependencyError(
            "benchmarks.store.load", "pandas", "no such package", "Run: pip install 'gbdnn[bench]'"
        ) from None
    found = read(folder)
    if not found.records:
        raise DataUnavailableError(
            "folder", f"results in {Path(folder) / NAME}", "none",
            "Measure first: gbdnn bench sweep --out FOLDER",
        )  # fmt: skip
    latest = {(r.get("key", k), r.get("round")): r for k, r in enumerate(found.records)}
    frame = pd.json_normalize(list(latest.values()))
    return frame.map(lambda v: "; ".join(map(str, v)) if isinstance(v, list) else v)


def _unwritable(path: Path, error: OSError) -> InputError:
    fix = "What was there before is intact. Choose another folder with --out."
    return InputError("out", "a folder that can be written", _why(path, error), fix)


def _why(path: Path, error: OSError) -> str:
    return f"{path}: {error.strerror or error}"
