"""A pool of two processes for all tests: to start one takes seconds."""

from __future__ import annotations

import numpy as np
import pytest
from distribution_builders import layers_of

from gbdnn import Network
from gbdnn.distributed import process_pool


@pytest.fixture(scope="package")
def pool():
    with process_pool(2) as executor:
        yield executor


@pytest.fixture
def network(rng):
    return Network([*layers_of(rng, 30, 50, 20), "softmax"])


@pytest.fixture
def X(rng):
    return rng.standard_normal((700, 30), np.float32)
