"""Results on disk: one JSON object a line in ``results.jsonl``, never rewritten, only added to."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gbdnn.errors import InputError

__all__ = ["NAME", "Record", "Results", "append", "read", "require_writable"]

NAME = "results.jsonl"

Record = dict[str, Any]


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


def _unwritable(path: Path, error: OSError) -> InputError:
    fix = "What was there before is intact. Choose another folder with --out."
    return InputError("out", "a folder that can be written", _why(path, error), fix)


def _why(path: Path, error: OSError) -> str:
    return f"{path}: {error.strerror or error}"
