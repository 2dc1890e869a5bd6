"""`gbdnn bench lstm` and `gbdnn bench low-precision` on small networks."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import low_precision, lstm

SMALL = {"size": 16, "time_steps": 5, "seed": 0, "threads": 1}


def test_engines_compute_the_same_lstm(tmp_path):
    todo = lstm.jobs(["fused", "int8", "dense"], ["predict", "train"], layers=["lstm"],
                     densities=[0.3], batches=[3], **SMALL)  # fmt: skip
    cases = {(case["op"], case["engine"]): case for case in lstm.compare(todo, tmp_path)}
    assert set(cases) == {("predict", e) for e in ("fused", "int8", "dense")} | {
        ("train", "fused"), ("train", "dense"),
    }  # fmt: skip
    assert cases["predict", "fused"]["error"] < 1e-5 < cases["predict", "int8"]["error"] < 0.1
    assert all(case["ms"] > 0 for case in cases.values())
    text = lstm.report(list(cases.values()))
    assert "| lstm | predict | 3 | 30% | int8 |" in text


@pytest.mark.parametrize("layer", lstm.LAYERS)
def test_peers_compute_the_same(layer):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from benchmarks.exported import onnx_call, torch_call, torch_training

    network = lstm._network(np.random.default_rng(0), layer, 16, 0.3)
    X = np.random.default_rng(1).standard_normal((3, 5, 16), np.float32)
    wanted = np.stack(network.predict(X))
    np.testing.assert_allclose(torch_call(network, 1)(X), wanted, atol=1e-5)
    np.testing.assert_allclose(onnx_call(network, 1, whole_numbers=False)(X), wanted, atol=1e-5)
    assert torch_training(network, X, 1, steps=4, rate=1e-3) > 0


def test_onnxruntime_in_whole_numbers():
    pytest.importorskip("onnxruntime")
    from benchmarks.exported import onnx_call

    network = lstm._network(np.random.default_rng(0), "lstm", 16, 0.3)
    X = np.random.default_rng(1).standard_normal((3, 5, 16), np.float32)
    wanted = np.stack(network.predict(X))
    found = onnx_call(network, 1, whole_numbers=True)(X)
    assert 1e-5 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.1


def test_what_is_not_measured():
    """Peers know no training, onnxruntime no GRU in whole numbers."""
    todo = lstm.jobs(lstm.ENGINES, lstm.OPS, densities=[0.2, 0.1], batches=[1, 4], **SMALL)
    assert {job.batch for job in todo if job.op == "train"} == {4}
    engines = {(job.layer, job.op, job.engine) for job in todo}
    assert ("lstm", "predict", "onnx-int8") in engines
    assert ("gru", "predict", "onnx-int8") not in engines
    assert ("lstm", "train", "onnx-dense") not in engines


def test_variants_of_low_precision(tmp_path):
    todo = low_precision.jobs(
        None, densities=[0.5], seeds=1, cells=8, epochs=1, threads=1, samples=300
    )
    (record,) = low_precision.compare(todo, tmp_path)
    variants = record["variants"]
    assert list(variants) == list(low_precision.VARIANTS)
    assert all(0 <= variant["accuracy"] <= 1 for variant in variants.values())
    sizes = [variants[name]["parameter_bytes"] for name in ("float32", "int8", "fasoli2022")]
    assert sizes[0] > 2 * sizes[1] > 2 * sizes[2]
    assert record["trained_on"] == 300
    assert "fasoli2022, QAT" in low_precision.report([record])


def test_a_file_of_images_may_be_text():
    (job,) = low_precision.jobs(
        "images.npz", densities=[1.0], seeds=1, cells=8, epochs=1, threads=1
    )
    assert job.images is not None
    assert job.images.endswith("/images.npz")


def test_rules_of_low_precision():
    def record(density, accuracy, nbytes):
        return {
            "density": density,
            "variants": {
                "float32": {"accuracy": 0.97, "parameter_bytes": 1000},
                "fasoli2022, QAT": {"accuracy": accuracy, "parameter_bytes": nbytes},
            },
        }

    def judged(*records):
        return low_precision.judged({(each["density"],): [each] for each in records})

    dense, sparse = judged(record(1.0, 0.966, 130), record(0.1, 0.961, 40))
    assert dense.endswith("0.40 points below dense float32 (at most 0.5 asked): met")
    assert sparse.endswith("25.0 times fewer bytes (at least 25 asked): met")
    dense, sparse = judged(record(1.0, 0.964, 130), record(0.1, 0.961, 41))
    assert dense.endswith("missed")
    assert sparse.endswith("missed")
    assert judged(record(0.1, 0.961, 40)) == []
