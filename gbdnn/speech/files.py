"""Model files of recognisers of any kind."""

from __future__ import annotations

from gbdnn.models.files import load
from gbdnn.speech.hybrid.model import Hybrid, hybrid_of, is_hybrid
from gbdnn.speech.recogniser import Recogniser
from gbdnn.types import FilePath

__all__ = ["load_recogniser"]


def load_recogniser(path: FilePath) -> Recogniser | Hybrid:
    """Return the recogniser in a file: what `Recogniser.save` or `Hybrid.save` wrote.

    Raises
    ------
    DataUnavailableError, FileFormatError, MemoryBudgetError
    """
    model = load(path)
    return hybrid_of(path, model) if is_hybrid(model) else Recogniser.of(path, model)
