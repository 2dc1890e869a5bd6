"""`gbdnn bench quantized` on small networks."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import quantized
from benchmarks.quantized import BITS, PEERS, QuantizedJob, jobs, report

COMMON = {"size": 64, "layers": 2, "seed": 0, "threads": 1}


def test_engines_are_compared_with_float32(tmp_path):
    todo = jobs(["fused", "int8", "int4"], densities=[0.3], batches=[3], **COMMON)
    cases = {case["engine"]: case for case in quantized.compare(todo, tmp_path)}
    assert cases["fused"]["error"] == 0
    assert 0 < cases["int8"]["error"] < 0.05 < cases["int4"]["error"] < 0.5
    for name in BITS:
        assert cases[name]["ratio"] == pytest.approx(cases["fused"]["ms"] / cases[name]["ms"])
    text = report(list(cases.values()))
    assert "| 3 | 30% | int8 |" in text


def test_dense_peers_are_measured_once(tmp_path):
    todo = jobs(["int8", *PEERS], densities=[0.3, 0.1], batches=[1, 2], **COMMON)
    assert [job.engine for job in todo].count("int8") == 4
    assert [job.engine for job in todo].count("torch-int8") == 2


@pytest.mark.parametrize("engine", PEERS)
def test_peers_compute_the_same_network(engine):
    for name in ("torch",) if engine.startswith("torch") else ("onnx", "onnxruntime"):
        pytest.importorskip(name)
    job = QuantizedJob(engine=engine, density=0.3, batch=4, **COMMON)
    network = quantized._network(np.random.default_rng(0), 64, 2, 0.3)
    X = np.random.default_rng(1).random((4, 64), np.float32)
    found = job._call(network, X)(X)
    want = network.predict(X)
    assert 0 < np.linalg.norm(found - want) < 0.05 * np.linalg.norm(want)
