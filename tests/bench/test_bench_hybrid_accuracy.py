"""`gbdnn bench hybrid-accuracy`: which parts get 8 bits, what the table says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.hybrid_accuracy import LONGER, SPARED, TAILORED, jobs, report, row, spared
from gbdnn import quantize
from gbdnn.models import recurrent
from gbdnn.quantization import as_plan

SPARES = {
    "input": {"layers.0.input"},
    "first weights": {"layers.0.forward_weight", "layers.0.backward_weight"},
    "h": {"layers.0.hidden", "layers.1.hidden"},
    "output layer": {"layers.2.weight", "layers.2.input"},
    "recurrent weights": {f"layers.{k}.{way}_recurrent" for k in (0, 1)
                          for way in ("forward", "backward")},
    "input and output layer": {"layers.0.input", "layers.2.weight", "layers.2.input"},
}  # fmt: skip


@pytest.mark.parametrize("name", SPARED)
def test_a_part_gets_8_bits_and_no_other(name, rng):
    network = recurrent("blstm 4, blstm 4", 6, 9, rng=0)
    layers = network.named_layers
    plan = spared(as_plan("fasoli2022", layers), layers, SPARED[name])
    bits = {tensor: rule.quantizer.bits for tensor, rule in plan.assigned(layers).items()}
    assert {tensor for tensor, count in bits.items() if count == 8} == SPARES[name]
    assert set(bits.values()) == {4, 8}
    X = [rng.standard_normal((7, 6)).astype(np.float32) for _ in range(3)]
    assert np.isfinite(quantize(network, plan, X).predict(X)[0]).all()


def _record(seed, errors):
    words = [10] * 20
    none = [0] * 20

    def variant(own):
        return {"words": words, "substitutions": own, "deletions": none, "insertions": none,
                "file_bytes": 1000}  # fmt: skip

    variants = {LONGER: variant([1] * 20), TAILORED: variant(errors)}
    return {"variants": variants, "seed": seed, "layers": "blstm 4", "utterances": 5, "epochs": 1,
            "plan_epochs": 1, "threads": 1, "machine": {}, "versions": {}}  # fmt: skip


def test_rows_pool_the_seeds_and_hold_the_rule():
    pytest.importorskip("jiwer")
    kept = [_record(0, [1] * 20), _record(1, [1] * 19 + [2])]
    found = row(kept, TAILORED)
    assert found["difference"] == pytest.approx(1 / 400)
    assert found["kept"]
    assert found["seeds"] == 2
    assert found["difference_low"] <= 1 / 400 <= found["difference_high"]
    missed = [_record(0, [1] * 20), _record(1, [1] * 17 + [2] * 3)]
    assert not row(missed, TAILORED)["kept"]


def test_report_says_what_was_missed(monkeypatch):
    pytest.importorskip("jiwer")
    monkeypatch.setattr("benchmarks.hybrid_accuracy.origin", lambda record: "a machine")
    assert "**missed**" in report([_record(0, [2] * 20)])
    text = report([_record(0, [1] * 20)])
    assert "kept" in text
    assert f"| {TAILORED} | 10.0 (10.0 to 10.0) | 20/0/0 | +0.0 (+0.0 to +0.0)" in text


def test_jobs_differ_in_their_seeds():
    made = jobs(2, utterances=3, threads=1)
    assert [job.seed for job in made] == [0, 1]
    assert len({job.key for job in made}) == 2
