"""Results of benchmarks as a table; on disk they are as `gbdnn.files.rows` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gbdnn.errors import DataUnavailableError, MissingDependencyError
from gbdnn.files.rows import NAME, Results, append, read, require_writable

__all__ = ["NAME", "Results", "append", "load", "read", "require_writable"]


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
