"""This machine, measured: a machine file whose rates are what gbdnn reaches here.

The rates are those of one dense layer of 1024 x 1024 for many samples: BLAS in fp32, the integer
kernels of `fused` for int8 and int4 with rounded activations. As they are reached and not peaks,
utilisation is 1. Other programs that run meanwhile lower all figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gbdnn.backends import get_backend
from gbdnn.backends.base import aligned_empty
from gbdnn.layers import Linear
from gbdnn.machine import check_threads, machine
from gbdnn.network import Network
from gbdnn.topology import erdos_renyi
from gbdnn.types import Array
from gbdnn.weights import Dense, Levels, integer_weight

__all__ = ["measured_toml"]

SIZE, SAMPLES, DENSITY = 1024, 1024, 0.1
ROUNDS, SECONDS = 5, 0.02  # the best of so many rounds of at least so long
LARGE, SMALL = 1 << 28, 1 << 18  # bytes: beyond the caches, within the second one
GUESSED_CACHE = 1 << 20  # where the system does not say
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def measured_toml(threads: int | None = None) -> str:
    """Measure this machine; return a machine file. Takes some seconds, more when kernels compile.

    Parameters
    ----------
    threads : int, optional
        Default all cores.
    """
    threads = check_threads(threads)
    rng = np.random.default_rng(0)
    W = rng.standard_normal((SIZE, SIZE)).astype(np.float32)
    X = rng.standard_normal((SAMPLES, SIZE)).astype(np.float32)
    scale = float(np.abs(W).max())

    def integers(bits: int) -> Any:
        largest = 2 ** (bits - 1) - 1
        levels = Levels(4 / largest, 0, -largest, largest)
        return integer_weight(Dense(W), scale / largest, bits=bits, levels=levels)

    dense = SIZE * SIZE * SAMPLES
    sparse = erdos_renyi(SIZE, SIZE, density=DENSITY, rng=rng)
    rates = {
        "fp32": dense / _network(Dense(W), X, "dense", threads),
        "int8": dense / _network(integers(8), X, "fused", threads),
        "int4": dense / _network(integers(4), X, "fused", threads),
    }
    stored = sparse.nnz * SAMPLES / _network(sparse, X, "fused", threads)
    cache = _cache_bytes()
    outside, inside = (_reading(nbytes, threads) for nbytes in (LARGE, cache // 2))
    simple, function = _elementwise(threads)
    processor = machine()["processor"]
    kept = "".join(c for c in processor if c.isprintable() and c not in '"\\')
    lines = [
        "# Written by `gbdnn simulate --machine this --save-machine FILE`: measured, not peaks.",
        'name = "this"',
        f'description = "{kept}, {threads} threads"',
        "[tops]",
        *(f"{name} = {2e-12 * rate:.4g}" for name, rate in rates.items()),
        "[vector]  # at float32",
        f"gops = {1e-9 * simple:.4g}",
        f"function = {max(1.0, simple / function):.4g}",
        "[memory]",
        f"gb_per_s = {1e-9 * outside:.4g}",
        f"on_chip_mb = {1e-6 * cache:.4g}  # the last cache",
        f"on_chip_gb_per_s = {1e-9 * max(inside, outside):.4g}",
        "[overhead]",
        f"microseconds = {1e6 * _overhead():.4g}  # of a product of one number",
        "[sparse]  # float32 weights of which 10 % are stored",
        f"utilisation = {min(1.0, stored / rates['fp32']):.4g}",
    ]
    return "\n".join(lines) + "\n"


def _best(function: Callable[[], Any]) -> float:
    """Return the seconds of a call, the best of `ROUNDS`."""
    function()
    found = []
    for _ in range(ROUNDS):
        calls, begin = 0, time.perf_counter()
        while (spent := time.perf_counter() - begin) < SECONDS or not calls:
            function()
            calls += 1
        found.append(spent / calls)
    return min(found)


def _network(weight: Any, X: Array, backend: str, threads: int) -> float:
    network = Network([Linear(weight)])
    options: dict[str, Any] = {"backend": backend, "threads": threads, "check_finite": False}
    return _best(lambda: network.predict(X, **options))


def _together(function: Callable[[Array], Any], nbytes: int, threads: int) -> float:
    """Return bytes a second of a function of an array, one array a thread."""
    arrays = [np.ones(max(1, nbytes // threads // 4), np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(function, arrays)))
    return sum(array.nbytes for array in arrays) / seconds


def _reading(nbytes: int, threads: int) -> float:
    return _together(np.max, nbytes, threads)


def _elementwise(threads: int) -> tuple[float, float]:
    """Return values a second of a product in place, and of tanh."""

    def twice(array: Array) -> None:
        for _ in range(8):
            np.multiply(array, 1.0, out=array)

    def tanh(array: Array) -> None:
        np.tanh(array, out=array)

    simple = 8 * _together(twice, SMALL * threads, threads) / 4
    return simple, _together(tanh, SMALL * threads, threads) / 4


def _cache_bytes() -> int:
    """Return the size of the last cache, as Linux says it."""
    sizes = [GUESSED_CACHE]
    for path in CACHES.glob("index*/size"):
        with suppress(OSError, ValueError):
            text = path.read_text().strip()
            sizes.append(int(text.removesuffix("K")) * (1024 if text.endswith("K") else 1))
    return max(sizes)


def _overhead() -> float:
    """Return the seconds of a product of one number."""
    backend = get_backend("fused")
    weight = backend.prepare(Linear(np.ones((1, 1), np.float32)).weight)
    Y, out = aligned_empty(16, np.dtype(np.float32)), aligned_empty(16, np.dtype(np.float32))
    Y[...] = 1
    bias = np.zeros(1, np.float32)
    shape = (1, 1, 16)
    return _best(
        lambda: backend.affine(weight, Y.reshape(shape), bias, out.reshape(shape), threads=1)
    )
