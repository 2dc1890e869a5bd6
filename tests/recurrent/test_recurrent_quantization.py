"""Recurrent networks with rounded weights, inputs and h: trained, frozen, calibrated."""

from __future__ import annotations

import numpy as np
import pytest
from recurrent_builders import KINDS, gru, linear, lstm, network, rows

from gbdnn import Network, Trainer, quantize
from gbdnn.data.inputs import as_inputs
from gbdnn.layers import LOSSES
from gbdnn.quantization import PLANS, Fix, Max, PactPlus, Sawb, as_plan, calibrate
from gbdnn.quantization.rules import shared
from gbdnn.training.model import Model
from gbdnn.weights import Integers

F4 = np.float32


def sequences(kind, net, rng, count=24):
    lengths = rng.integers(1, 8, count)
    X = [
        (rng.integers(0, 6, (n, 1)) if kind == "embedding" else rng.standard_normal((n, 4)))
        for n in lengths
    ]
    y = [rng.integers(0, 3, rows(net, n)) for n in lengths]
    return [x.astype(F4) for x in X], np.concatenate(y) if net.one_row else y


def joined(out):
    return np.concatenate(out) if isinstance(out, list) else out


@pytest.mark.parametrize("plan", ["naive_int4", "fasoli2021", "fasoli2022"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_frozen_network_computes_what_was_trained(kind, plan, rng):
    net = network(kind, rng, F4)
    X, y = sequences(kind, net, rng)
    trainer = Trainer(quantization=plan, epochs=2, batch_size=8, learning_rate=3e-3, threads=1)
    result = trainer.fit(net, X, y)
    inputs = as_inputs(X, net.in_features, np.dtype(F4), one_row=net.one_row,
                       time_factor=net.time_factor)  # fmt: skip
    trained = result.training.model.outputs(inputs)
    for backend in ("fused", "dense", "graphblas"):
        found = joined(result.network.predict(X, backend=backend))
        assert np.abs(found - trained).max() <= 1e-6 * np.abs(trained).max()
    rules = as_plan(plan, net.named_layers).assigned(net.named_layers)
    for name, weight in result.network.weights.items():
        assert isinstance(weight, Integers) == (name in rules)


def test_gates_have_scales_of_their_own_and_h_is_rounded_once(rng):
    net = network("lstm", rng, F4)
    net = Network([lstm(rng, dtype=F4), lstm(rng, 5, dtype=F4), linear(rng, 5, dtype=F4)])
    X, _ = sequences("lstm", net, rng)
    plan = as_plan("fasoli2021", net.named_layers)
    rules = plan.assigned(net.named_layers)
    assert "layers.1.input" not in rules
    assert "layers.2.weight" not in rules
    assert shared(net.named_layers, rules) == {"layers.1.input": "layers.0.hidden"}
    assert rules["layers.0.input"].quantizer == PactPlus(4, "two")
    assert rules["layers.0.hidden"].quantizer == PactPlus(4, "two", start=(-1.0, 1.0))
    made = quantize(net, plan, X)
    for name in ("layers.0.weight", "layers.0.recurrent", "layers.1.weight", "layers.1.recurrent"):
        assert rules[name].quantizer == Sawb(4)
        assert made.weights[name].scales.shape == (4,)
        blocks = np.array_split(net.weights[name].to_dense(), 4)
        wanted = [Sawb(4).clip(block[block != 0])[1] / 7 for block in blocks]
        np.testing.assert_allclose(made.weights[name].scales, wanted, rtol=1e-6)
    levels = {name: weight.levels for name, weight in made.weights.items() if name in rules}
    assert levels["layers.1.weight"] == levels["layers.0.recurrent"]
    assert levels["layers.0.weight"] != levels["layers.0.recurrent"]
    assert levels["layers.0.recurrent"].step == pytest.approx(2 / 15)
    assert "as layers.0.hidden" in str(plan.describe(net))


def test_the_later_plan_rounds_all_layers(rng):
    net = network("embedding", rng, F4)
    rules = as_plan("fasoli2022", net.named_layers).assigned(net.named_layers)
    assert rules["layers.0.weight"].quantizer == Max(4)
    assert rules["layers.1.hidden"].quantizer == Fix(4)
    assert rules["layers.2.weight"].quantizer == Max(4)
    net = network("lstmp", rng, F4)
    rules = as_plan("fasoli2022", net.named_layers).assigned(net.named_layers)
    assert rules["layers.0.hidden"].quantizer == PactPlus(4, "two")  # it has no bound
    assert rules["layers.1.hidden"].quantizer == Fix(4)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gradients_with_the_rounding_of_h(kind, rng):
    """A quantizer of which y = x within its clips: gradients are then those without it."""

    class Through(Fix):
        """Levels so fine that they are all numbers."""

        kind = "through"

        def fake(self, x, learned, out):
            out[...] = x

    make = lstm if kind == "lstm" else gru
    net = Network([make(rng), make(rng, 5), linear(rng, 5)])
    X, y = sequences(kind, net, rng, 6)
    X = [x.astype(float) for x in X]
    grads = []
    for plan in (None, {"layers.[01].*": Through(8)}):
        found = plan and calibrate(net, X, {
            "layers.[01].weight": "max", "layers.[01].recurrent": "max",
            "layers.[01].hidden": "fix", "layers.0.input": "fix",
        })  # fmt: skip
        model = Model(net, loss=LOSSES["cross_entropy"], backend="dense", threads=1,
                      quantization=found or None)  # fmt: skip
        for rounding in model._roundings.values():
            rounding.quantizer = Through(8)
        for p in model.parameters.values():
            if p.quantizer is not None:  # weights as they are
                p.form.values[...] = p.value
                p.form.refresh()
        from gbdnn.data.batches import Batch
        from gbdnn.data.samples import samples

        inputs, targets, weights = samples(model, X, y, None)
        batch = Batch(inputs, np.arange(inputs.count), targets, weights / weights.sum(), 1.0)
        model.loss_and_gradients(batch)
        grads.append({n: p.grad.copy() for n, p in model.parameters.items() if "." in n})
    for name, grad in grads[0].items():
        np.testing.assert_allclose(grads[1][name], grad, rtol=1e-9, atol=1e-12)


def test_calibration_sees_the_frames_and_not_the_padding(rng):
    net = Network([lstm(rng, dtype=F4), linear(rng, 5, dtype=F4)])
    X, _ = sequences("lstm", net, rng, 9)
    X[0] = np.full((30, 4), 5, F4)
    plan = {"*.weight": "max", "*.recurrent": "max", "layers.0.*put": "max", "*.hidden": "max",
            "layers.1.input": {"quantizer": "percentile", "percent": 90}}  # fmt: skip
    found = calibrate(net, X, plan).learned
    hidden = np.concatenate(Network(net.layers[:1]).predict(X))
    assert found["layers.0.input"]["high"] == pytest.approx(max(np.abs(x).max() for x in X))
    wanted = np.percentile(np.abs(hidden), 90)
    assert found["layers.1.input"]["high"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kind", ["lstm", "blstm"])
@pytest.mark.parametrize("plan", PLANS)
def test_it_goes_on_from_a_checkpoint_bit_for_bit(kind, plan, rng, tmp_path):
    net = network(kind, rng, F4)
    X, y = sequences(kind, net, rng)
    settings = {"quantization": plan, "epochs": 2, "batch_size": 8, "threads": 1}
    whole = Trainer(**settings).fit(net, X, y)
    stop = lambda event: event.step == 4  # noqa: E731
    Trainer(**settings, checkpoint=tmp_path, callbacks=[stop]).fit(net, X, y)
    again = Trainer(**settings, checkpoint=tmp_path).fit(net, X, y, resume=True)
    for name, p in whole.training.model.parameters.items():
        assert again.training.model.parameters[name].digests() == p.digests(), name
