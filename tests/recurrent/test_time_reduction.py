"""Time reduction: groups of time steps, their gradients, streaming, parts, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_builders import BACKENDS, gradients, linear, lstm, network, sequences
from trainings import Resuming

import gbdnn
from gbdnn import LSTM, Linear, Network, TimeReduction
from gbdnn.errors import GbdnnError, InputError
from gbdnn.execution.streaming import State
from gbdnn.models import recurrent
from gbdnn.quantization import calibrate
from gbdnn.simulator import record


def grouped(x, factor):
    """Return time steps side by side, the last ones filled up with zeros."""
    groups = -(-len(x) // factor)
    full = np.zeros((groups * factor, x.shape[1]), x.dtype)
    full[: len(x)] = x
    return full.reshape(groups, -1)


def stepped(net, x, **options):
    """Return all results of a sequence that comes step by step."""
    state, found = None, []
    for frame in x:
        y, state = net.step(frame[None], state, threads=1, **options)
        found.append(y)
    return np.concatenate([*found, net.finish(state, threads=1, **options)])


@settings(max_examples=40, deadline=None)
@given(factor=st.integers(2, 7), data=st.data())
def test_groups_are_what_they_say(factor, data):
    """Whatever the batch, the padding, what it holds, the parts, and the way of giving them."""
    lengths = data.draw(st.lists(st.integers(1, 15), min_size=1, max_size=9))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    X = [rng.standard_normal((n, 3)).astype(np.float32) for n in lengths]
    one = np.eye(3 * factor, dtype=np.float32)
    net = Network([TimeReduction(3, factor), Linear(one)])
    padded = np.full((len(X), 17, 3), np.nan, np.float32)
    for k, x in enumerate(X):
        padded[k, : len(x)] = x
    backend = data.draw(st.sampled_from(["dense", "fused"]))
    filled = net.predict(padded, lengths=lengths, backend=backend)
    assert filled.shape == (len(X), -(-17 // factor), 3 * factor)
    for x, y, z in zip(X, net.predict(X, backend=backend), filled, strict=True):
        wanted = grouped(x, factor)
        np.testing.assert_array_equal(y, wanted)
        np.testing.assert_array_equal(stepped(net, x), wanted)
        np.testing.assert_array_equal(z[: len(wanted)], wanted)
        assert not z[len(wanted) :].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_step_by_step_is_the_whole_bit_for_bit(backend, dtype, rng):
    net = network("reduce", rng, dtype)
    for length in (1, 5, 6, 13):
        X = rng.standard_normal((9, length, 4)).astype(dtype)
        whole, state, found = net.predict(X, threads=1, backend=backend), None, []
        for t in range(length):
            y, state = net.step(X[:, t], state, threads=1, backend=backend)
            assert y.shape == (9 if t % 6 == 5 else 0, 3)
            found += [y] if len(y) else []
        rest = net.finish(state, threads=1, backend=backend)
        assert rest.shape == (9 if length % 6 else 0, 3)
        found += [rest] if len(rest) else []
        np.testing.assert_array_equal(np.array(found), whole.transpose(1, 0, 2))


def test_finish_without_anything_held_back(rng):
    assert network("reduce", rng).finish(None).shape == (0, 3)
    net = network("lstm", rng)
    _, state = net.step(rng.standard_normal((2, 4)))
    assert net.finish(state).shape == (0, 3)
    with pytest.raises(GbdnnError, match="what step returned"):
        net.finish("state")


@pytest.mark.parametrize("wrong", [7.0, -1.0, 0.5, 2.0])
def test_a_state_that_is_none(wrong, rng):
    net = Network([lstm(rng), TimeReduction(5, 2), linear(rng, 10)])
    x = rng.standard_normal((1, 4))
    _, state = net.step(x)
    values = {key: np.full_like(value, wrong) if key[2] == "count" else value
              for key, value in state.values.items()}  # fmt: skip
    with pytest.raises(InputError, match="0 to 1 time steps collected"):
        net.step(x, State(values, 1))


def test_gradients_through_parts(rng):
    """A part that begins behind whole groups; the last one is not full."""
    net = network("reduce", rng)
    X, y = sequences(rng, net, [17, 2, 12])
    whole, wanted = gradients(net, X, y)
    long, found = gradients(net, X, y, truncate=18)
    assert long == whole
    for name, grad in found.items():
        np.testing.assert_array_equal(grad, wanted[name])
    short, found = gradients(net, X, y, truncate=6)
    assert short == pytest.approx(whole, rel=1e-13)
    assert any(abs(grad - wanted[name]).max() > 1e-5 for name, grad in found.items())
    with pytest.raises(InputError, match="truncate: expected a multiple of 6"):
        gradients(net, X, y, truncate=4)


def test_padded_samples_train_as_a_list_does(rng):
    net = network("reduce", rng)
    X, y = sequences(rng, net, [5, 13, 6, 1])
    padded, targets = np.full((4, 14, 4), 9.0), np.full((4, 3, 3), 9.0)
    for k, (x, own) in enumerate(zip(X, y, strict=True)):
        padded[k, : len(x)], targets[k, : len(own)] = x, own
    trainer = Resuming(loss="mse", epochs=2, batch_size=2, threads=1)
    found = trainer.fit(net, padded, targets, lengths=[5, 13, 6, 1]).network
    wanted = trainer.fit(net, X, y).network
    for name, weight in wanted.weights.items():
        np.testing.assert_array_equal(found.weights[name].entries, weight.entries)
    with pytest.raises(GbdnnError, match=r"y\[0\]: expected 1 targets, one for each group of 6"):
        trainer.fit(net, X, [np.zeros((len(x), 3)) for x in X])


def test_calibration_sees_groups_and_not_the_padding(rng):
    net = Network([TimeReduction(4, 3), Linear(np.eye(12, dtype=np.float32))])
    X = [rng.standard_normal((n, 4)).astype(np.float32) for n in (30, 1, 2, 7)]
    plan = {"*.weight": "max", "layers.1.input": {"quantizer": "percentile", "percent": 90}}
    found = calibrate(net, X, plan).learned
    wanted = np.percentile(np.abs(np.concatenate([grouped(x, 3) for x in X])), 90)
    assert found["layers.1.input"]["high"] == pytest.approx(wanted, rel=1e-5)


def test_recorded_work(rng):
    """Layers behind it are computed for fewer time steps, at once and one by one."""
    net = network("reduce", rng)
    first, second, last = (net.layers[k].edges for k in (0, 2, 4))
    for steps, two, six in ((12, 6, 2), (13, 7, 3), (1, 1, 1)):
        wanted = steps * first + two * second + six * last
        assert record(net, steps=steps).macs == wanted
        assert record(net, steps=steps, streaming=True).macs == wanted
    widths = {p.name: (p.width, p.calls) for p in record(net, steps=12, streaming=True).products}
    assert widths["network.layers.2.weight"] == (1, 6)
    assert widths["network.layers.4.weight"] == (1, 2)


def test_layers_in_a_text():
    net = recurrent("lstm 8, reduce 2, lstm 6", 3, 4, density=0.5, rng=0)
    assert [layer.kind for layer in net.layers] == ["lstm", "reduce", "lstm", "linear"]
    assert (net.time_factor, net.layers[2].in_features) == (2, 16)
    assert "TimeReduction" in str(net.summary())
    for wrong in ("reduce", "reduce 2 2", "reduce 1", "reduce 1001"):
        with pytest.raises(InputError):
            recurrent(f"lstm 8, {wrong}", 3, 4)


def test_files(tmp_path, rng):
    net = network("reduce", rng, np.float32)
    net.save(tmp_path / "m")
    assert gbdnn.load(tmp_path / "m").layers[1] == TimeReduction(5, 2)


@pytest.mark.parametrize(("make", "words"), [
    (lambda r: TimeReduction(0, 2), "features: expected a whole number from 1 up"),
    (lambda r: TimeReduction(4, 1), r"factor: expected a whole number in \[2, 1000\]"),
    (lambda r: TimeReduction(4, 2.5), "factor"),
    (lambda r: TimeReduction(4, "2"), "factor"),
    (lambda r: TimeReduction.of({}, {"features": 4}), "reduce"),
    (lambda r: Network([TimeReduction(4, 2)]), "a layer with weights"),
    (lambda r: Network([lstm(r), TimeReduction(4, 2), linear(r, 8)]), "5 in_features"),
    (lambda r: Network([lstm(r), TimeReduction(5, 2), lstm(r, 5)]), "10 in_features"),
    (lambda r: Network([lstm(r), gbdnn.LastStep(), TimeReduction(5, 2)]), "nothing over time"),
])  # fmt: skip
def test_wrong_layers(make, words, rng):
    with pytest.raises(GbdnnError, match=words):
        make(rng)


def test_it_says_who_cannot_take_it(rng):
    net = network("reduce", rng, np.float32)
    with pytest.raises(GbdnnError, match="reduce"):
        gbdnn.save_onnx(net, "m.onnx")
    pytest.importorskip("torch")
    with pytest.raises(GbdnnError, match=r"reduce|TimeReduction"):
        gbdnn.to_torch(Network([LSTM(rng.random((20, 4)), rng.random((20, 5))),
                                TimeReduction(5, 2), Linear(rng.random((3, 10)))]))  # fmt: skip
