"""Settings and fixtures of the whole suite."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from builders import random_network
from hypothesis import settings

from gbdnn import Network
from gbdnn.execution import executor

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def _results_begin_as_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sample whose result is forgotten be NaN, not what its memory held before."""
    made = executor.result_array

    def filled(*args: Any) -> Any:
        out = made(*args)
        out.fill(np.nan)
        return out

    monkeypatch.setattr(executor, "result_array", filled)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20170829)


@pytest.fixture
def network(rng: np.random.Generator) -> Network:
    """A small sparse ReLU network, 12 -> 20 -> 9 -> 5."""
    return random_network(rng, (12, 20, 9, 5))
