"""What several tests share: where optional reference data may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _find_shared() -> Path | None:
    """Return GBDNN_SHARED, or the folder `shared` beside the checkout; None if it is absent."""
    named = os.environ.get("GBDNN_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    return folder if (folder / "data" / "graph_challenge").is_dir() else None


SHARED = _find_shared()
needs_shared = pytest.mark.skipif(
    SHARED is None, reason="official reference files not found; set GBDNN_SHARED"
)
