"""`gbdnn bench kernels`: the C++ computes what it should, also without its instructions."""

from __future__ import annotations

import ctypes
import shutil

import numpy as np
import pytest

from benchmarks import kernels
from benchmarks.kernels import KERNELS, KernelJob, Layer, jobs, library, report
from gbdnn import as_csr
from gbdnn.backends.fused.integers.vnni.packing import as_quads, as_windows
from gbdnn.errors import InputError

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="g\\+\\+"):
        library.__wrapped__()


@needs_compiler
@pytest.mark.parametrize("most", [7, 127])
def test_the_kernels_of_four_bytes(rng, most):
    codes = rng.integers(-most, most + 1, (40, 100)) * (rng.random((40, 100)) < 0.3)
    W = as_csr(codes.astype(np.float32))
    given = W.indptr, W.indices.astype(np.uint16), W.values.astype(np.int8)
    x = rng.integers(0, 256, (100, 64)).astype(np.float32)
    scales, bias = np.full(48, 0.5, np.float32), np.arange(-20, 20, dtype=np.float32)
    constants = np.full(48, 3, np.int32)
    want = np.maximum(0.5 * (codes @ x + 3) + bias[:, None], 0)
    windows, quads = as_windows(*given, 100, nibbles=most == 7), as_quads(*given)
    common = {"in": 100, "out": 40, "constants": constants, "scales": scales, "bias": bias,
              "inverse": 1.0, "least": 0.0, "most": 255.0}  # fmt: skip
    few = Layer.of(groups=3, nibbles=most == 7, table=windows.table, targets=windows.targets,
                   columns=windows.starts, places=windows.places, weights=windows.weights,
                   **common)  # fmt: skip
    many = Layer.of(table=quads.table, columns=quads.columns, weights=quads.weights, **common)
    for name, layer, y in (("quad_windows", few, x[:, :1]), ("quads", many, x)):
        y, found = np.ascontiguousarray(y), np.full((40, y.shape[1]), np.nan, np.float32)
        function = getattr(library(plain=True), name)
        function(ctypes.byref(layer), *(ctypes.c_void_p(each.ctypes.data) for each in (y, found)))
        np.testing.assert_array_equal(found, want[:, : y.shape[1]])


@needs_compiler
def test_kernels_are_compared(monkeypatch):
    monkeypatch.setattr(kernels, "SECONDS", 0.0)
    monkeypatch.setattr(kernels, "origin", lambda record: "here")
    found = []
    for job in jobs(KERNELS, densities=[0.2], size=200, seed=0, threads=1):
        record = job.measure()
        assert record.get("status", "done") in ("done", "skipped"), record
        found.append({**vars(job), **record})
    text = report([*found, {**found[0], "us": 10.0, "cpp_us": 8.0, "kernel": "other", "name": "f"}])
    assert "| other | f | 20% | 10.0 (10.0 to 10.0) | 8.0 (8.0 to 8.0) | 0.80 | no |" in text


@needs_compiler
def test_a_kernel_that_differs_fails(monkeypatch):
    monkeypatch.setattr(kernels, "SECONDS", 0.0)
    monkeypatch.setattr(kernels, "LEAST", 1)
    make = kernels._integers

    def wrong(*given):
        ours, name, layer = make(*given)
        if layer is not None:
            layer.inverse *= 1.01
        return ours, name, layer

    monkeypatch.setattr(kernels, "_integers", wrong)
    record = KernelJob(kernel="int8 batch", density=0.2, size=200, seed=0, threads=1).measure()
    assert record["status"] in ("failed", "skipped")
