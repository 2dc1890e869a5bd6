"""`gbdnn bench kernels`: kernels of the fused backend beside the same ones written in C++.

Both compute one layer with ReLU from the same packed weights, floats in and floats out, in turn in
one process on one thread. The C++ is compiled here, by the system's g++.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.process import Job, Record
from benchmarks.rounds import grouped, measured, spread
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.errors import InputError
from gbdnn.types import Array

__all__ = ["KERNELS", "KernelJob", "Layer", "compare", "jobs", "library", "report"]

compare = partial(measured, strict=False)
KERNELS = {"float32 windows": (0, 1), "int8 windows": (8, 1), "int8 batch": (8, 64)}
"""Name: bits of the weights, 0 for float32, and samples."""
ASKED = 0.85  # of the speed of C++
SOURCE = Path(__file__).with_name("kernels.cpp")
SECONDS, LEAST = 1.0, 30  # that both are timed, and pairs of calls at least
INTEGERS = ("in", "out", "groups", "together", "nibbles")
ARRAYS = ("table", "targets", "columns", "places", "weights", "constants", "scales", "bias")
REALS = ("inverse", "least", "most")


class Layer(ctypes.Structure):
    """What the C++ reads; see its `Layer`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in INTEGERS),
        *((name, ctypes.c_void_p) for name in ARRAYS), *((name, ctypes.c_float) for name in REALS),
    ]  # fmt: skip

    @classmethod
    def of(cls, **values: Any) -> Layer:
        """Return a layer, and keep its arrays."""
        given = {name: value.ctypes.data if isinstance(value, np.ndarray) else value
                 for name, value in values.items()}  # fmt: skip
        made = cls(**given)
        made.kept = values
        return made


@cache
def library(*, plain: bool = False) -> Any:
    """Compile and load the C++; `plain`: loops instead of VNNI's instructions."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise InputError("kernels", "g++ on the PATH", "none", "Install a C++ compiler.")
    with TemporaryDirectory() as folder:
        target = str(Path(folder) / "kernels.so")
        command = [compiler, "-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", str(SOURCE)]
        subprocess.run([*command, *["-DPLAIN"] * plain, "-o", target], check=True)
        return ctypes.CDLL(target)


@dataclass(frozen=True, kw_only=True)
class KernelJob(Job):
    """One kernel on one random layer."""

    kernel: str
    density: float
    size: int
    seed: int

    def measure(self) -> Record:
        """Make the layer, compare the results, time both in turn."""
        from gbdnn.topology import erdos_renyi

        bits, batch = KERNELS[self.kernel]
        rng = np.random.default_rng(self.seed)
        weight = erdos_renyi(self.size, self.size, density=self.density, rng=rng, dtype=np.float32)
        bias = rng.uniform(-0.1, 0.1, self.size).astype(np.float32)
        Y = rng.random((1, self.size, batch), np.float32)
        make = _integers if bits else _floats
        ours, name, layer = make(weight, bias, batch)
        function = getattr(library(), name, None) if name else None
        if function is None:
            return {"status": "skipped", "reason": "this processor has not the instructions"}
        found, other = np.empty_like(Y), np.empty_like(Y)
        given = [ctypes.c_void_p(each.ctypes.data) for each in (Y, other)]
        calls = lambda: ours(Y, found), lambda: function(ctypes.byref(layer), *given)
        best = _in_turn(calls)
        error = float(np.linalg.norm(found - other) / np.linalg.norm(other))
        if not error < 1e-3:
            return {"status": "failed", "reason": f"results differ by {error:.2%}"}
        return {"us": 1e6 * best[0], "cpp_us": 1e6 * best[1], "error": error, "name": name}

    def describe(self, record: Record) -> str:
        """Return the kernel and both times."""
        if "us" not in record:
            return f"{self.kernel}: {record['reason']}"
        return (
            f"{self.kernel}, {self.density:.0%}: {record['us']:.1f} us, C++ {record['cpp_us']:.1f}"
        )


def _in_turn(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Return the fastest time of each call."""
    best, end, rounds = [np.inf] * len(calls), time.perf_counter() + SECONDS, 0
    while rounds < LEAST or time.perf_counter() < end:
        for k, call in enumerate(calls):
            begin = time.perf_counter()
            call()
            best[k] = min(best[k], time.perf_counter() - begin)
        rounds += 1
    return best


def _run(words: Sequence[int], keep: Any) -> Callable[[Array, Array], None]:
    """Return a call of a layer's record."""
    from gbdnn.backends.fused.integers.records import run_layer

    record = np.array(words, np.int64)
    return lambda Y, out: run_layer(record.ctypes.data, 0, Y, out) if keep else None


def _floats(weight: Any, bias: Array, batch: int) -> tuple[Any, str | None, Any]:
    """Return our call, the name of the C++ function and its layer: float32 by windows."""
    from gbdnn.backends.base import Affine
    from gbdnn.backends.fused.cells import single
    from gbdnn.backends.fused.integers.layer import layer_kernel
    from gbdnn.backends.fused.weight import FusedWeight

    prepared = FusedWeight(weight, trained=False)
    layer_kernel(np.dtype(np.float32), np.dtype(np.uint16), False)  # loads `run_layer`
    matrix = prepared.matrix(1)
    form = matrix and matrix.windows
    if form is None:
        return None, None, None
    affine = Affine(prepared, bias, (0.0, np.inf))
    words = single.record(matrix, affine, [], 1)
    steps = form.windows
    layer = Layer.of(
        **dict(zip(("out", "in"), prepared.shape, strict=True)), groups=len(steps.table) - 1,
        table=steps.table, targets=steps.targets, columns=steps.starts, places=steps.places,
        weights=steps.weights, bias=bias,
    )  # fmt: skip
    return _run(words, affine), "float_windows", layer


def _integers(weight: Any, bias: Array, batch: int) -> tuple[Any, str | None, Any]:
    """Return the same for 8 bits, by windows or for a batch."""
    from gbdnn.backends import get_backend
    from gbdnn.backends.base import Affine
    from gbdnn.backends.fused.integers.vnni.form import VnniIntegers
    from gbdnn.weights import Levels, integer_weight

    scales = np.full(weight.shape[0], np.abs(weight.values).max() / 127, np.float32)
    levels = Levels(1 / 255, 0, 0, 255)
    form: Any = get_backend("fused").prepare(integer_weight(weight, scales, bits=8, levels=levels))
    affine, few = Affine(form, bias, (0.0, np.inf)), batch == 1
    four = isinstance(form, VnniIntegers)
    windows = getattr(form, "windows", None)
    if windows is None or few != (batch <= form.few):
        return None, None, None
    order = windows if few else form.quads if four else form.units
    factors = form.factors[2:] if few else form.factors[:2]
    layer = Layer.of(
        **dict(zip(("out", "in"), form.shape, strict=True)), groups=len(windows.table) - 1,
        together=windows.together if few else getattr(order, "pairs", 1), nibbles=0,
        table=order.table, targets=windows.targets, places=windows.places, weights=order.weights,
        columns=order.starts if few else order.columns, constants=factors[0], scales=factors[1],
        bias=bias, inverse=1 / levels.step, least=levels.low - levels.zero,
        most=levels.high - levels.zero,
    )  # fmt: skip
    name = ("quad_windows" if few else "quads") if four else "pair_windows" if few else "pair_units"
    return _run(form.record(affine, batch, 1), affine), name, layer


def jobs(
    kernels: Iterable[str], *, densities: Iterable[float], size: int, seed: int, threads: int
) -> list[KernelJob]:
    """Return a job for each kernel and density; each takes one thread."""
    return [
        KernelJob(kernel=kernel, density=density, size=size, seed=seed, threads=1)
        for kernel in kernels
        for density in densities
    ]


def report(records: Sequence[Record]) -> str:
    """Return Markdown: a row for each kernel and density."""
    rows = []
    for (kernel, density), runs in grouped(records, "kernel", "density").items():
        done = [run for run in runs if "us" in run]
        if not done:
            continue
        ratio = median(run["cpp_us"] / run["us"] for run in done)
        times = ([run[name] for run in done] for name in ("us", "cpp_us"))
        rows.append([
            kernel, done[0]["name"], f"{density:.0%}",
            *(spread(median(each), each, ".1f") for each in times), f"{ratio:.2f}",
            "yes" if ratio >= ASKED else "no",
        ])  # fmt: skip
    first = records[0]
    heads = ["kernel", "in C++", "weights", "us", "us of C++", "speed / C++", f">= {ASKED:g}"]
    return (
        f"{markdown_table(heads, rows, left=3)}\n"
        f"One layer of {first['size']:,} x {first['size']:,} with ReLU, floats in and out, the "
        "same packed weights; the fastest of calls in turn; int8 batch: 64 samples; "
        f"{origin(first)}\n"
    )
