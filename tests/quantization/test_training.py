"""Quantization-aware training, and networks that were frozen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import random_csr, random_dense

import gbdnn
from gbdnn import Dense, Linear, Network, Trainer
from gbdnn.data.batches import Batch
from gbdnn.data.inputs import as_inputs
from gbdnn.errors import DivergenceError, InputError, NonFiniteError, ShapeError
from gbdnn.layers import LOSSES
from gbdnn.pruning import Periodic, Sparsifier
from gbdnn.quantization import PLANS, PactPlus, QuantizationPlan, calibrate, quantize
from gbdnn.training.model import Model
from gbdnn.weights import Int4, Int8, Integers

ENGINES = ["fused", "dense", "graphblas", "auto"]
LEARNED = {"*.weight": {"quantizer": "lsq", "granularity": "row"},
           "layers.[024].input": {"quantizer": "pact+", "sides": "two"}}  # fmt: skip
PER = [{"*.weight": {"quantizer": "sawb", "granularity": 4}}, LEARNED, *PLANS]


def network(rng, dtype=np.float32, last="softmax"):
    first = random_dense(rng, 24, 12, 1.0, dtype) / 4
    layers = [Linear(Dense(first), 0.1, dtype=dtype), "relu",
              Linear(random_csr(rng, 16, 24, 0.4, dtype), dtype=dtype), "tanh",
              Linear(random_dense(rng, 4, 16, 1.0, dtype) / 4, 0.2, dtype=dtype)]  # fmt: skip
    return Network([*layers, *([last] if last else [])])


def data(rng, count=90):
    X = rng.standard_normal((count, 12)).astype(np.float32)
    return X, (X[:, :4] + 0.3 * rng.standard_normal((count, 4))).argmax(axis=1)


def fitted(rng, plan, **settings):
    X, y = data(rng)
    fixed = {"epochs": 3, "batch_size": 16, "learning_rate": 3e-3, "threads": 1}
    return Trainer(quantization=plan, **fixed | settings).fit(network(rng), X, y), X


def close(a, b):
    assert np.abs(a - b).max() <= 1e-6 * np.abs(b).max()


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("plan", PER, ids=str)
def test_the_frozen_network_computes_what_was_trained(plan, backend, rng):
    result, X = fitted(rng, plan, backend=backend)
    model = result.training.model
    trained = model.outputs(as_inputs(X, 12, np.dtype(np.float32)))
    scores = Network(result.network.layers[:-1])  # without the softmax, as the model
    for engine in ENGINES:
        close(scores.predict(X, backend=engine), trained)
        close(scores.predict(X[:1], backend=engine), trained[:1])
    assert all(isinstance(w, Integers) for w in result.network.weights.values())


@pytest.mark.parametrize("plan", PLANS)
def test_post_training(plan, rng, tmp_path):
    net, (X, _) = network(rng, last=None), data(rng)
    before = {name: np.array(w.to_dense()) for name, w in net.weights.items()}
    made = quantize(net, plan, X)
    whole = net.predict(X)
    error = np.abs(made.predict(X) - whole).std() / whole.std()
    assert error < (0.02 if plan == "int8" else 0.4)
    form = Int8 if plan == "int8" else Int4
    assert all(isinstance(w, form) for w in made.weights.values())
    assert made.nbytes < net.nbytes / (2 if plan == "int8" else 4)
    for name, weight in made.weights.items():
        np.testing.assert_array_equal(net.weights[name].to_dense(), before[name])
        assert not weight.to_dense()[before[name] == 0].any()
    made.save(tmp_path / "m")
    np.testing.assert_array_equal(gbdnn.load(tmp_path / "m").predict(X), made.predict(X))
    again = quantize(made, plan, X)
    for name, weight in again.weights.items():  # levels are their own levels
        if plan != "fasoli2022" and plan != "fasoli2021":  # whose clip is of other numbers then
            np.testing.assert_allclose(weight.to_dense(), made.weights[name].to_dense(), rtol=1e-5)


def test_the_tailored_plan_loses_less_than_the_naive_one(rng):
    net, (X, _) = network(rng, last=None), data(rng, 500)
    X[3, 5] = 60.0  # an outlier
    whole = net.predict(X)
    errors = {plan: np.abs(quantize(net, plan, X).predict(X) - whole).mean() for plan in PLANS}
    assert errors["int8"] < errors["fasoli2022"] < 0.7 * errors["naive_int4"]


def test_weights_alone(rng):
    net, (X, _) = network(rng, last=None), data(rng)
    made = quantize(net, {"*.weight": "max"})
    floats = net.replaced({name: w.plain() for name, w in made.weights.items()})
    close(made.predict(X), floats.predict(X))
    assert all(w.levels is None for w in made.weights.values())


@pytest.mark.parametrize("plan", ["naive_int4", "fasoli2022", LEARNED], ids=str)
@pytest.mark.parametrize(
    "sparsifier",
    [None, Sparsifier(0.7, schedule=Periodic(0.2, 0.8, 3)), gbdnn.pruning.sparsifier("rigl")],
)
def test_it_goes_on_from_a_checkpoint_bit_for_bit(plan, sparsifier, rng, tmp_path):
    X, y = data(rng)
    net = network(rng)
    if sparsifier is not None and sparsifier.growth is not None:
        net = net.replaced({"layers.0.weight": random_csr(rng, 24, 12, 0.4),
                            "layers.4.weight": random_csr(rng, 4, 16, 0.6)})  # fmt: skip
    settings = {"quantization": plan, "epochs": 3, "batch_size": 16, "threads": 1,
                "sparsifier": sparsifier}  # fmt: skip
    fit = {"validation": (X[:30], y[:30])}
    whole = Trainer(**settings).fit(net, X, y, **fit)
    for step in (4, 11):
        stop = lambda event, step=step: event.step >= step  # noqa: E731
        Trainer(**settings, checkpoint=tmp_path, callbacks=[stop]).fit(
            net, X, y, **fit, resume=True
        )
    again = Trainer(**settings, checkpoint=tmp_path).fit(net, X, y, **fit, resume=True)
    for name, p in whole.training.model.parameters.items():
        q = again.training.model.parameters[name]
        assert q.digests() == p.digests(), name
        assert all((q.slots[slot] == p.slots[slot]).all() for slot in p.slots)
    assert again.history["validation_loss"] == pytest.approx(whole.history["validation_loss"], 0)
    for name, value in whole.network.parameters.items():
        other = again.network.parameters[name]
        if isinstance(value, Integers):
            assert other.settings == value.settings
            value, other = value.to_dense(), other.to_dense()
        np.testing.assert_array_equal(other, value)
    with pytest.raises(InputError, match="checkpoint"):
        Trainer(**settings | {"quantization": "int8"}, checkpoint=tmp_path).fit(
            net, X, y, resume=True
        )


@pytest.mark.parametrize("plan", PER, ids=str)
def test_zeros_stay_zero_and_patterns_may_change(plan, rng):
    pruned = Sparsifier(0.8, schedule=Periodic(0.0, 0.9, 2))
    result, X = fitted(rng, plan, sparsifier=pruned)
    total = sum(p.pattern.nnz for p in result.training.model.parameters.values() if p.form)
    places = sum(w.shape[0] * w.shape[1] for w in result.network.weights.values())
    assert total == pytest.approx(0.2 * places, abs=2)
    model = result.training.model
    for name, weight in result.network.weights.items():
        pattern = model.parameters[name].pattern.with_entries(np.ones(
            model.parameters[name].pattern.nnz, np.float32)).to_dense()  # fmt: skip
        assert not weight.to_dense()[pattern == 0].any()
    trained = model.outputs(as_inputs(X, 12, np.dtype(np.float32)))
    close(Network(result.network.layers[:-1]).predict(X), trained)


def test_statistics_follow_the_pattern(rng):
    result, _ = fitted(
        rng, {"*.weight": "max"}, sparsifier=Sparsifier(0.7, schedule=Periodic(0.0, 1.0, 2))
    )
    for name, p in result.training.model.parameters.items():
        if p.form is not None:
            wanted = np.abs(p.value).max() / 7
            assert result.network.weights[name].scales[0] == pytest.approx(wanted)


def model_of(net, plan, X, loss="mse"):
    found = calibrate(net, X, plan)
    return Model(net, loss=LOSSES[loss], backend="dense", threads=1, quantization=found)


def batch_of(X, y, dtype):
    count = len(X)
    inputs = as_inputs(X, X.shape[1], np.dtype(dtype))
    return Batch(inputs, np.arange(count), np.asarray(y), np.full(count, 1 / count), 1.0)


def test_gradients_of_clips_are_those_of_the_layer(rng):
    """One linear layer, written out: dL/da is the sum over all values of dX times dy/da."""
    X, Y = rng.standard_normal((20, 6)), rng.standard_normal((20, 3))
    net = Network([Linear(Dense(rng.standard_normal((3, 6))), 0.0, dtype=np.float64)])
    q = PactPlus(4, "two", start=(-1.2, 1.5))
    model = model_of(net, {"*.weight": "max", "*.input": q}, X)
    for _ in range(2):  # nothing is left of the step before
        model.loss_and_gradients(batch_of(X, Y, np.float64))
    p = model.parameters
    learned = {"low": np.array([-1.2]), "high": np.array([1.5])}
    rounded = np.empty_like(X)
    q.fake(X, learned, rounded)
    W = p["layers.0.weight"].form.values.reshape(3, 6)
    residual = rounded @ W.T - Y
    scale = (Model.loss_and_gradients and 1) * p["layers.0.bias"].grad / residual.sum(axis=0)
    assert scale == pytest.approx(scale[0])
    dX, grads = scale[0] * residual @ W, {"low": np.zeros(1), "high": np.zeros(1)}
    q.backward(X, learned, dX, grads)
    assert p["layers.0.input.high"].grad == pytest.approx(grads["high"])
    assert p["layers.0.input.low"].grad == pytest.approx(grads["low"])
    dW = scale[0] * residual.T @ rounded
    np.testing.assert_allclose(p["layers.0.weight"].grad, dW.ravel(), rtol=1e-9)


def test_gradients_do_not_depend_on_the_cut_into_tiles(rng):
    X, Y = rng.standard_normal((70, 12)), rng.standard_normal((70, 4))
    net = network(rng, np.float64, last=None)
    grads = []
    for width in (16, 128):
        model = model_of(net, "fasoli2022", X)
        model.backend.width = lambda *_, width=width: width  # type: ignore[method-assign]
        model.loss_and_gradients(batch_of(X, Y, np.float64))
        grads.append({name: p.grad.copy() for name, p in model.parameters.items()})
        del model.backend.width
    for name, grad in grads[0].items():
        np.testing.assert_allclose(grads[1][name], grad, rtol=1e-9, atol=1e-12)


def test_clips_have_a_rate_and_a_decay_of_their_own(rng):
    def moved(**own):
        plan = QuantizationPlan(
            {"*.weight": "sawb", "*.input": {"quantizer": "pact+", "sides": "two"}}, **own
        )
        X, y = data(rng2())
        trainer = Trainer(quantization=plan, epochs=1, batch_size=90, optimizer="sgd", threads=1)
        model = trainer.fit(network(rng2()), X, y).training.model
        begins = calibrate(network(rng2()), X, plan).learned
        return {f"{name}.{own}": float(model.parameters[f"{name}.{own}"].value[0] - value[0])
                for name, found in begins.items() for own, value in found.items()}  # fmt: skip

    rng2 = lambda: np.random.default_rng(5)  # noqa: E731
    once, fast, still = moved(), moved(learned_rate=10.0), moved(learned_rate=0.0)
    assert any(once.values())
    assert not any(still.values())
    for name, step in once.items():
        assert fast[name] == pytest.approx(10 * step, rel=1e-6, abs=1e-12)
    decayed = moved(learned_decay=0.5)
    assert decayed["layers.2.input.high"] < once["layers.2.input.high"]


def test_kept_clips_follow_the_batches(rng):
    result, X = fitted(rng, "naive_int4")
    high = result.training.model.parameters["layers.0.input.high"]
    assert high.rate == 0
    assert high.grad == 0
    assert high.value[0] != np.abs(X).max()
    assert 0.5 * np.abs(X).max() < high.value[0] < np.abs(X).max()


def test_training_improves_on_post_training(rng):
    X, y = data(rng, 400)
    net = Trainer(epochs=20, batch_size=32, learning_rate=1e-2, threads=1).fit(network(rng), X, y)
    plan = {"*.weight": {"quantizer": "sawb+", "bits": 2},
            "*.input": {"quantizer": "pact+", "bits": 2, "sides": "two"}}  # fmt: skip
    post = quantize(net.network, plan, X)
    qat = Trainer(epochs=10, batch_size=32, learning_rate=3e-3, quantization=plan, threads=1)
    trained = qat.fit(net.network, X, y).network

    def accuracy(made):
        return float((made.predict(X).argmax(axis=1) == y).mean())

    assert accuracy(trained) > accuracy(post) + 0.03


def test_a_stream_is_calibrated_on_its_first_batch(rng):
    X, y = data(rng)
    batches = [(X[k : k + 30], y[k : k + 30]) for k in range(0, 90, 30)]
    settings = {"quantization": "fasoli2022", "epochs": 1, "threads": 1}
    a = Trainer(**settings).fit(network(np.random.default_rng(1)), batches)
    b = Trainer(**settings, steps_per_epoch=3).fit(network(np.random.default_rng(1)), iter(batches))
    assert a.training.step == b.training.step == 3
    for name, p in a.training.model.parameters.items():
        np.testing.assert_array_equal(b.training.model.parameters[name].value, p.value)
    begins = calibrate(network(np.random.default_rng(1)), X[:30], "fasoli2022").learned
    value = a.training.model.parameters["layers.0.input.high"].value
    assert value == pytest.approx(begins["layers.0.input"]["high"], rel=0.02)


@pytest.mark.parametrize("observer", ["mean", "widest", "moving"])
def test_observers(observer, rng):
    X = rng.standard_normal((384, 12)).astype(np.float32)
    X[:128] *= 3
    plan = {"*.weight": "max",
            "*.input": {"quantizer": "percentile", "sides": "two", "percent": 100}}  # fmt: skip
    found = calibrate(network(rng), X, plan, observer=observer).learned["layers.0.input"]
    highs = [float(X[k : k + 128].max()) for k in (0, 128, 256)]
    moving = highs[0]
    for high in highs[1:]:
        moving += 0.1 * (high - moving)
    wanted = {"mean": np.mean(highs), "widest": max(highs), "moving": moving}[observer]
    assert found["high"][0] == pytest.approx(wanted, rel=1e-6)


def test_calibration_does_not_depend_on_padding_or_engine(rng):
    X, _ = data(rng, 37)
    net = network(rng)
    found = [calibrate(net, X, "fasoli2022", backend=backend).learned for backend in ENGINES]
    Y = X.astype(np.float64)
    for k in (0, 2):
        layer = net.layers[k]
        Y = Y @ layer.weight.to_dense().T + layer.bias
        Y = np.maximum(Y, 0) if k == 0 else np.tanh(Y)
        name = f"layers.{k + 2}.input"
        high = np.percentile(Y[Y > 0] if k == 0 else Y, 99.9)
        for learned in found:
            assert learned[name]["high"][0] == pytest.approx(high, rel=1e-4)


def test_what_cannot_be_calibrated(rng):
    net = network(rng)
    with pytest.raises(InputError, match="X: expected samples to calibrate"):
        quantize(net, "int8")
    with pytest.raises(ShapeError, match="X: expected at least one sample"):
        quantize(net, "int8", np.zeros((0, 12)))
    with pytest.raises(ShapeError):
        quantize(net, "int8", np.zeros((3, 11)))
    with pytest.raises(NonFiniteError):
        quantize(net, "int8", np.full((3, 12), np.nan))
    with pytest.raises(InputError, match="observer"):
        quantize(net, "int8", np.zeros((3, 12)), observer="median")
    with pytest.raises(InputError, match="samples"):
        quantize(net, "int8", np.zeros((3, 12)), samples=0)


@pytest.mark.parametrize("plan", PLANS)
def test_hostile_data(plan, rng):
    net = network(rng, last=None)
    for X in (np.zeros((5, 12)), np.full((5, 12), 1e6), np.r_[np.zeros((4, 12)), [[1e6] * 12]]):
        made = quantize(net, plan, X)
        for backend in ENGINES:
            out = made.predict(X, backend=backend)
            assert np.isfinite(out).all()
    zeros = net.replaced({"layers.2.weight": Dense(np.zeros((16, 24), np.float32))})
    X, _ = data(rng)
    np.testing.assert_allclose(
        quantize(zeros, plan, X).predict(X), zeros.predict(X), rtol=0.3, atol=0.3
    )


def test_a_training_that_diverges_says_so(rng):
    X, y = data(rng)
    with pytest.raises(DivergenceError) as error:
        Trainer(quantization="naive_int4", learning_rate=1e38, optimizer="sgd", epochs=5,
                batch_size=16).fit(network(rng), X * 1e3, y)  # fmt: skip
    assert np.isfinite(error.value.result.network.predict(X)).all()


def test_another_plan_cannot_go_on(rng):
    result, X = fitted(rng, "naive_int4")
    trainer = replace(result.training.trainer, quantization="int8", epochs=4)
    with pytest.raises(InputError, match="quantization"):
        trainer.resume(result.training, X, np.zeros(len(X), int))
    more = replace(result.training.trainer, epochs=4)
    assert more.resume(result.training, X, np.zeros(len(X), int)).training.epoch == 4


def test_early_stopping_keeps_a_frozen_network(rng):
    X, y = data(rng)
    stopping = gbdnn.training.EarlyStopping(patience=1)
    trainer = Trainer(quantization="fasoli2022", epochs=30, batch_size=16, learning_rate=0.02,
                      early_stopping=stopping)  # fmt: skip
    result = trainer.fit(network(rng), X, y, validation=(X[:30], y[:30]))
    assert all(isinstance(w, Int4) for w in result.network.weights.values())
