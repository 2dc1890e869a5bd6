"""Quantizers, one a file.

`QUANTIZERS` is the table: ``Trainer(quantizers={"*.weight": "max"})`` looks names up in it.
"""

from __future__ import annotations

from collections.abc import Callable

from gbdnn.errors import choose
from gbdnn.quantization.base import Quantizer
from gbdnn.quantization.max import Max

__all__ = ["QUANTIZERS", "Max", "Quantizer", "quantizer"]

QUANTIZERS: dict[str, Callable[[], Quantizer]] = {"max": Max}


def quantizer(name: str | Quantizer) -> Quantizer:
    """Return the quantizer called `name`, with its default settings; a `Quantizer` as it is."""
    if isinstance(name, Quantizer):
        return name
    return QUANTIZERS[choose("quantizer", name, QUANTIZERS)]()
