"""Names of types that every floor uses."""

from __future__ import annotations

import os
from typing import Any

import numpy.typing as npt

__all__ = ["Array", "FilePath"]

Array = npt.NDArray[Any]
FilePath = str | os.PathLike[str]
