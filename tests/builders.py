"""Random matrices and networks, and scripts that run in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn import CSR, Linear, Network, ReLU, as_csr
from gbdnn.backends import BACKENDS
from gbdnn.machine import available_cores

Array = npt.NDArray[Any]
TILED = sorted(set(BACKENDS) - {"graphblas-reference"})  # those that run tile by tile
ALL = sorted(BACKENDS)
THREADS = min(2, available_cores())


def random_dense(
    rng: np.random.Generator, rows: int, columns: int, density: float = 0.7, dtype: Any = np.float32
) -> Array:
    """Return a (rows, columns) array of normal numbers, of which `density` are not zero.

    As a weight it is sparse where that is at most a half.
    """
    values = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < density)
    return values.astype(dtype)


def random_csr(
    rng: np.random.Generator, rows: int, columns: int, density: float = 0.3, dtype: Any = np.float32
) -> CSR:
    """Return `random_dense` as a CSR."""
    return as_csr(random_dense(rng, rows, columns, density, dtype))


def random_network(
    rng: np.random.Generator,
    widths: Sequence[int],
    *,
    activation: Any = "relu",
    density: float = 0.3,
    dtype: Any = np.float32,
    scalar_bias: bool = False,
) -> Network:
    """Return a network with layers of `widths`; biases are normal numbers times 0.3."""
    layers: list[Any] = []
    for columns, rows in pairwise(widths):
        bias = 0.3 * rng.standard_normal(None if scalar_bias else rows)
        layers += [Linear(random_csr(rng, rows, columns, density), bias, dtype=dtype), activation]
    return Network(layers)


def settling_network(
    rng: np.random.Generator, depth: int, width: int = 24, *, cap: float = 4.0, wake: Any = ()
) -> Network:
    """Return a network of whole numbers, exact in float32, that most columns settle in.

    Columns die (bias -2) or reach the cap everywhere (row sums far above it); layers whose number
    is in `wake` have a positive bias in places and end both.
    """
    layers: list[Any] = []
    for k in range(depth):
        weight = (rng.random((width, width)) < 4 / width).astype(np.float32)
        weight[np.arange(width), rng.permutation(width)] = 2.0
        weight[np.arange(width), rng.permutation(width)] += 1.0
        bias = np.full(width, -2.0)
        if k in wake:
            bias[rng.integers(width, size=3)] = 1.0
        layers += [Linear(as_csr(weight), bias), ReLU(cap)]
    return Network(layers)


def run_script(script: str, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh interpreter; fails if it fails or hangs."""
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
