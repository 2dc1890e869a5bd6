"""What the races share: one run in a process of its own, and the line that says where it ran."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from gbdnn.errors import BackendError

__all__ = ["made_on", "record_of"]

Record = dict[str, Any]


def record_of(name: str, module: str, *words: str) -> Record:
    """Return the JSON record that ``python -m module words`` prints.

    Raises
    ------
    BackendError
        If it prints no record; with the last line of its messages, under `name`.
    """
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        record: Record = json.loads(done.stdout)
    except ValueError:
        got = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BackendError(name, "a result", got) from None
    return record


def made_on(record: Record) -> str:
    """Return machine and versions of a record, as the end of a sentence."""
    here = record["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return f"{here['processor']}, {here['cores']} cores, {', '.join(here['vectors'])}; {packages}."
