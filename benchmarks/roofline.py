"""The machine's limits for W Y, measured with the fused kernel's own instructions.

One edge and one input are one multiply-add, so 1 GFMA/s = 1 GEdge/s. Three limits bound a kernel
that loads one vector of Y per vector multiply-add: the arithmetic alone, arithmetic fed from the
first cache, and arithmetic fed from the second.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import llvmlite.binding
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gbdnn.backends.base import aligned_empty
from gbdnn.backends.fused.compilation import jit
from gbdnn.backends.fused.kernels import BYTE, VECTOR, element_at, multiply_add, splat, word
from gbdnn.machine import available_cores
from gbdnn.weights import as_float_dtype

__all__ = ["Roofline", "probe_roofline"]

BURST = 8 * VECTOR  # bytes of one step of the loop
L1_BYTES = 16 << 10  # half of a small first cache
L2_BYTES = 192 << 10  # most of the smallest second caches in use (256 KiB)
SECONDS = 0.015  # of one measurement; the best of `ROUNDS` counts
ROUNDS = 5


@dataclass(frozen=True)
class Roofline:
    """Limits in GEdge/s (= 1e9 multiply-adds a second), on one core and on `cores` together.

    `fma`: operands in registers. `l1`, `l2`: one operand of each multiply-add loaded from a buffer
    that fits into the first or second cache, read in order.
    """

    dtype: str
    cores: int
    fma_one: float
    fma_all: float
    l1_one: float
    l1_all: float
    l2_one: float
    l2_all: float


@intrinsic
def _multiply_add_all(typingctx, y, nbytes, repeats, factor):
    """Emit: for each of `repeats` passes, sums += factor * (vectors at y); nbytes = 0: no loads."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        y, nbytes, repeats, factor = args
        vector = ir.VectorType(factor.type, VECTOR * 8 // signature.args[3].bitwidth)
        base, weight = builder.inttoptr(y, BYTE.as_pointer()), splat(builder, factor, vector)
        # Independent chains hide a latency of four at two a cycle: 8 registers, of 64 or 32 bytes.
        wide = llvmlite.binding.get_host_cpu_features().get("avx512f", False)
        sums = [cgutils.alloca_once(builder, vector) for _ in range(8 if wide else 4)]
        for total in sums:
            builder.store(weight, total)
        zero, step = word(0), word(BURST)

        def burst(offset: Any) -> None:
            for k in range(BURST // VECTOR):
                operand, total = weight, sums[k % len(sums)]
                if offset is not None:
                    place = builder.add(offset, word(k * VECTOR))
                    operand = builder.load(element_at(builder, base, place, vector), align=VECTOR)
                grown = multiply_add(builder, operand, weight, builder.load(total))
                builder.store(grown, total)

        with (
            cgutils.for_range(builder, repeats),
            cgutils.for_range_slice(builder, zero, nbytes, step) as (offset, _),
        ):
            burst(offset)
        with (
            builder.if_then(builder.icmp_signed("==", nbytes, zero)),
            cgutils.for_range(builder, repeats),
        ):
            burst(None)
        result = builder.load(sums[0])
        for total in sums[1:]:
            result = builder.fadd(result, builder.load(total))
        return builder.extract_element(result, zero)

    return factor(types.int64, types.int64, types.int64, factor), codegen


@jit
def _probe(y, nbytes, repeats, factor):
    return _multiply_add_all(y, nbytes, repeats, factor)


def probe_roofline(dtype: npt.DTypeLike = np.float32) -> Roofline:
    """Measure the limits of this machine, now; takes less than a second.

    Parameters
    ----------
    dtype : float32 or float64

    Returns
    -------
    Roofline
        Other programs that run meanwhile lower the figures: probe right before and after what is
        compared with them.
    """
    dtype = as_float_dtype(dtype)
    cores = available_cores()
    rates = [_rate(n, threads, dtype) for n in (0, L1_BYTES, L2_BYTES) for threads in (1, cores)]
    return Roofline(dtype.name, cores, *rates)


def _rate(nbytes: int, threads: int, dtype: np.dtype[Any]) -> float:
    """Return the best of `ROUNDS` measurements, in 1e9 multiply-adds a second."""
    buffers = [aligned_empty(max(nbytes, VECTOR) // dtype.itemsize, dtype) for _ in range(threads)]
    for buffer in buffers:
        buffer.fill(0)
    factor = dtype.type(0.5)
    work = max(nbytes, BURST) // dtype.itemsize  # multiply-adds of one pass

    def run(buffer: npt.NDArray[Any], repeats: int) -> None:
        _probe(buffer.ctypes.data, nbytes, repeats, factor)

    run(buffers[0], 1)
    repeats = _passes(lambda n: run(buffers[0], n))
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            list(pool.map(run, buffers, [repeats] * threads))
            seconds.append(time.perf_counter() - start)
    return threads * repeats * work / min(seconds) / 1e9


def _passes(run: Any) -> int:
    """Return how many passes take `SECONDS`; the best of three, as a pause is not work."""
    repeats = 1
    while True:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            run(repeats)
            seconds.append(time.perf_counter() - start)
        if min(seconds) > SECONDS / 8:
            return max(1, int(repeats * SECONDS / min(seconds)))
        repeats *= 4
