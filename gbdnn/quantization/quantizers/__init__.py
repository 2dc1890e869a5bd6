"""Quantizers, one a file, and their table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gbdnn.errors import DtypeError, InputError, choose
from gbdnn.quantization.base import Quantizer
from gbdnn.quantization.quantizers.fix import Fix
from gbdnn.quantization.quantizers.lsq import Lsq
from gbdnn.quantization.quantizers.max import Max
from gbdnn.quantization.quantizers.octav import Octav
from gbdnn.quantization.quantizers.pact import Pact
from gbdnn.quantization.quantizers.pact_plus import PactPlus
from gbdnn.quantization.quantizers.percentile import Percentile
from gbdnn.quantization.quantizers.sawb import Sawb, SawbPlus

__all__ = [
    "QUANTIZERS", "Fix", "Lsq", "Max", "Octav", "Pact", "PactPlus", "Percentile", "Sawb",
    "SawbPlus", "quantizer",
]  # fmt: skip

QUANTIZERS: dict[str, Callable[..., Quantizer]] = {
    made.kind: made for made in (Max, Fix, Sawb, SawbPlus, Pact, PactPlus, Lsq, Octav, Percentile)
}


def quantizer(name: Any, settings: Mapping[str, Any] | None = None) -> Quantizer:
    """Return the quantizer called `name`, with these settings; a `Quantizer` as it is.

    Raises
    ------
    UnknownNameError, InputError, DtypeError
    """
    if isinstance(name, Quantizer):
        return name
    if not isinstance(name, str):
        raise DtypeError("quantizer", "a name or a Quantizer", type(name).__name__)
    make = QUANTIZERS[choose("quantizer", name, QUANTIZERS)]
    try:
        return make(**(settings or {}))
    except TypeError as error:
        if isinstance(error, DtypeError):
            raise
        raise InputError(f"quantizer {name!r}", "its settings", str(error)[:200]) from None
