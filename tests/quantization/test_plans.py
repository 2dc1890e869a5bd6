"""Plans as data, presets, descriptions, and parts of weights with a scale each."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import random_csr, random_dense

from gbdnn import Linear, Network
from gbdnn.errors import DataUnavailableError, DtypeError, FileFormatError, InputError
from gbdnn.quantization import (
    PLANS,
    Fix,
    Max,
    PactPlus,
    Percentile,
    QuantizationPlan,
    Rule,
    Sawb,
    as_plan,
    quantize,
)
from gbdnn.quantization.rules import WeightQuantizer

LSQ = {"quantizer": "lsq", "bits": 4, "sides": "symmetric", "granularity": "row", "why": ""}


def network(rng, dtype=np.float32):
    first, last = random_dense(rng, 24, 12, 1.0, dtype), random_dense(rng, 4, 16, 1.0, dtype)
    middle = random_csr(rng, 16, 24, 0.4, dtype)
    return Network([Linear(first, 0.1, dtype=dtype), "relu", Linear(middle, dtype=dtype), "tanh",
                    Linear(last, 0.2, dtype=dtype)])  # fmt: skip


@pytest.fixture
def net(rng):
    return network(rng)


def test_a_plan_is_data(tmp_path, net):
    plan = QuantizationPlan(
        {"*.weight": LSQ, "layers.0.input": PactPlus(8, "two", start=(-1, 2)),
         "layers.[24].input": {"quantizer": "fix", "clip": 1.5}},
        "mine", learned_rate=0.1, learned_decay=1e-3,
    )  # fmt: skip
    text = json.dumps(plan.to_dict())
    assert QuantizationPlan.from_dict(json.loads(text)) == plan
    plan.save(tmp_path / "plan.json")
    assert QuantizationPlan.load(tmp_path / "plan.json") == plan
    assert as_plan(plan, {}) is plan
    assert as_plan({"*.weight": "max"}, {}).rules == (Rule("*.weight", Max()),)
    rules = plan.assigned(net.named_layers)
    assert list(rules) == [f"layers.{k}.{name}" for name in ("weight", "input") for k in (0, 2, 4)]
    assert rules["layers.2.weight"].granularity == "row"


@pytest.mark.parametrize("name", PLANS)
def test_presets_are_data_too(name, net):
    plan = as_plan(name, net.named_layers)
    assert QuantizationPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert len(plan.assigned(net.named_layers)) == 6
    text = str(plan.describe(net))
    for word in (*net.weights, name, "bits", "dense float32"):
        assert word in text


def test_presets_fit_the_network(net):
    naive = as_plan("naive_int4", net.named_layers)
    assert {rule.quantizer for rule in naive.rules} == {Max(4)}
    for name in ("fasoli2021", "fasoli2022"):
        rules = as_plan(name, net.named_layers).assigned(net.named_layers)
        assert rules["layers.0.weight"].quantizer == rules["layers.2.weight"].quantizer == Sawb(4)
        assert rules["layers.4.weight"].quantizer == Max(4)
        assert rules["layers.0.input"].quantizer == PactPlus(4, "two")
        assert rules["layers.2.input"].quantizer == PactPlus(4, "one")  # behind a relu
        assert rules["layers.4.input"].quantizer == PactPlus(4, "two")  # behind a tanh
        assert all("ours" in rule.why or "IBM" in rule.why for rule in rules.values())
    int8 = as_plan("int8", net.named_layers).assigned(net.named_layers)
    assert int8["layers.0.weight"].granularity == "row"
    assert int8["layers.0.input"].quantizer == Percentile(8, "two", percent=99.99)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"*.wieght": "max"}, r"layers\.0\.weight.*layers\.4\.input.*wieght"),
        ({"*.weight": "max", "layers.0.*": "max"}, r"one pattern that matches layers\.0\.weight"),
        ({"*.input": "max"}, r"layers\.0\.weight too, as layers\.0\.input"),
        ({"*.weight": PactPlus(4, "two")}, "symmetric"),
        ({"*.weight": "max", "*.input": {"quantizer": "max", "granularity": "row"}}, "activation"),
        ({"layers.0.weight": {"quantizer": "max", "granularity": 5}}, "divides 12"),
        ({"layers.2.weight": {"quantizer": "max", "granularity": 25}}, "divides 24"),
    ],
)
def test_plans_that_do_not_fit(net, given, message):
    with pytest.raises(InputError, match=message):
        quantize(net, given, np.zeros((3, 12)))


@pytest.mark.parametrize(
    "given",
    [
        {"*": {}}, {"*": {"quantizer": "max", "bits": 9}}, {"*": {"quantizer": "max", "bit": 4}},
        {"*": {"quantizer": "maxx"}}, {"*": 3}, {"*": {"quantizer": "max", "granularity": 0}},
        {"*": {"quantizer": "max", "granularity": "rows"}}, {"*": {"quantizer": "max", "why": 1}},
        {}, 3, None, "fasoli2020", ["max"],
    ],
)  # fmt: skip
def test_what_is_no_plan(net, given):
    with pytest.raises((InputError, DtypeError)):
        quantize(net, given, np.zeros((3, 12)))


@pytest.mark.parametrize(
    ("record", "error"),
    [
        ({"rules": {}, "more": 1}, InputError), ({}, InputError), ([], InputError),
        ({"rules": ["max"]}, DtypeError), ({"rules": {"*": "max"}, "learned_rate": -1}, InputError),
        ({"rules": {"*": "max"}, "learned_decay": "x"}, (InputError, DtypeError)),
    ],
)  # fmt: skip
def test_records_that_are_no_plan(record, error, tmp_path):
    with pytest.raises(error):
        QuantizationPlan.from_dict(record)
    (tmp_path / "plan.json").write_text(json.dumps(record))
    with pytest.raises(FileFormatError, match=r"plan\.json"):
        QuantizationPlan.load(tmp_path / "plan.json")


def test_files_that_are_no_plan(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(DataUnavailableError, match=r"plan\.json"):
        QuantizationPlan.load(path)
    for text in (b"", b"{", b"\xff\xfe\x00"):
        path.write_bytes(text)
        with pytest.raises(FileFormatError, match="JSON"):
            QuantizationPlan.load(path)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("granularity", "blocks", "parts"),
    [("tensor", 4, (1,)), ("gate", 4, (4,)), ("gate", 1, (1,)), ("row", 1, (8,)), (3, 1, (8, 2)),
     (6, 1, (8, 1)), (1, 1, (8, 6))],
)  # fmt: skip
def test_parts_have_scales_of_their_own_entries(granularity, blocks, parts, sparse, rng):
    W = random_csr(rng, 8, 6, 0.5 if sparse else 1.0)
    q = WeightQuantizer(Max(4), granularity, blocks)
    assert q.parts(W.shape) == parts
    x, out = W.full_values.copy(), np.empty(W.nnz, np.float32)
    offsets = q.offsets(W)
    q.fake(x, {}, out, offsets)
    frozen = q.frozen(W, {}, None)
    np.testing.assert_allclose(frozen.entries if frozen.layout != "dense" else
                               frozen.to_dense()[W.to_dense() != 0], out, rtol=1e-6)  # fmt: skip
    dense = W.to_dense()
    tall, wide = 8 // parts[0], 6 // (parts[1] if len(parts) == 2 else 1)
    for row in range(0, 8, tall):
        for column in range(0, 6, wide):
            block = dense[row : row + tall, column : column + wide]
            found = frozen.scales[row // tall] if len(parts) == 1 else (
                frozen.scales[row, column // wide])  # fmt: skip
            assert found == pytest.approx(np.abs(block).max() / 7)
            got = frozen.to_dense()[row : row + tall, column : column + wide]
            np.testing.assert_allclose(got, np.rint(block / max(found, 1e-30)) * found, rtol=1e-6)


def test_statistics_are_over_stored_entries_only(rng):
    """A sparse weight has the clip of its entries, not that of a dense one full of zeros."""
    W = random_csr(rng, 40, 40, 0.1)
    clip = Sawb(4).clip(W.full_values)[1]
    q = WeightQuantizer(Sawb(4))
    assert q.frozen(W, {}, None).scales[0] == pytest.approx(clip / 7)
    assert Sawb(4).clip(W.to_dense())[1] != pytest.approx(clip)


def test_empty_and_zero_parts(rng):
    W = random_csr(rng, 6, 4, 1.0).to_dense()
    W[2] = 0
    W[4, :2] = 0
    for q in (WeightQuantizer(Sawb(4), "row"), WeightQuantizer(Fix(4), 2)):
        for weight in (Linear(W).weight, random_csr(rng, 6, 4, 0.0)):
            csr = weight.pattern().with_entries(weight.entries)
            frozen = q.frozen(csr, {}, None)
            assert np.isfinite(frozen.to_dense()).all()
            assert not frozen.to_dense()[csr.to_dense() == 0].any()
            assert frozen.scales[2].max() == 0


def test_the_bits_of_a_description(net):
    plan = as_plan({"*.weight": {"quantizer": "max", "bits": 4}}, {})
    table = plan.describe(net)
    entries = sum(weight.nnz for weight in net.weights.values())
    biases = sum(layer.bias.size for layer in net.layers if layer.parameters)
    assert table.bits == 4 * entries + 3 * 32 + 32 * biases
    assert table.bytes == quantize(net, plan).nbytes
    places = sum(weight.shape[0] * weight.shape[1] for weight in net.weights.values())
    assert table.dense_bytes == 4 * (places + biases)
    frozen = plan.describe(quantize(net, plan))
    assert frozen.bytes == table.bytes
