"""`load`: what any model file holds."""

from __future__ import annotations

from typing import Any

from gbdnn.files.tensors import read_tensors
from gbdnn.models.transducer import FORMAT, transducer_of
from gbdnn.network import network_of
from gbdnn.types import FilePath

__all__ = ["load"]


def load(path: FilePath) -> Any:
    """Return what `Network.save` or `Transducer.save` wrote, equal bit by bit.

    Parameters
    ----------
    path : path-like
        A file of any name.

    Returns
    -------
    Network or gbdnn.models.Transducer
        What the file holds besides is in its `metadata`.

    Raises
    ------
    DataUnavailableError, FileFormatError, MemoryBudgetError
        Digests, sizes, patterns and values are checked.
    """
    tensors, metadata = read_tensors(path)
    made = transducer_of if metadata.get("format") == FORMAT else network_of
    return made(path, tensors, metadata)
