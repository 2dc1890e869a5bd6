"""What compiled code knows by its address is made once, however many threads ask for it first."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from builders import random_csr, random_network
from programs import program_of

from gbdnn.backends.fused.helpers import address_of
from gbdnn.backends.fused.weight import FusedWeight
from gbdnn.weights import as_weight

THREADS = 8


@pytest.fixture(autouse=True)
def threads_that_come_in_between():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(ask):
    """Return what all threads get."""
    start = Barrier(THREADS)

    def wait_and_ask(_):
        start.wait()
        return ask()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(wait_and_ask, range(THREADS)))


@pytest.mark.parametrize("width", [1, 5])
def test_matrices_of_recurrences(width, rng):
    weight = FusedWeight(as_weight(random_csr(rng, 400, 100, 0.3), dtype=np.float32), trained=False)
    matrix = weight.matrix(4)
    assert len(set(at_once(lambda: matrix.address(width)))) == 1


def test_tables_of_programs(rng):
    program = program_of(random_network(rng, (20, 30, 10)))
    values = tuple(frozenset(rng.standard_normal(500).tolist()) for _ in range(200))
    assert len(set(at_once(lambda: address_of(program._constants(values))))) == 1
    assert len(set(at_once(lambda: address_of(program._table(False, 3, False, False, 0))))) == 1
