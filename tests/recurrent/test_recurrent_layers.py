"""Recurrent layers: values and gradients against torch, central differences, and each other."""

from __future__ import annotations

import numpy as np
import pytest
from builders import ALL
from gradients import check_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_builders import (
    BACKENDS,
    KINDS,
    blstm,
    gradients,
    linear,
    lstm,
    network,
    rows,
    sequences,
)

import gbdnn
from gbdnn import (
    BGRU,
    BLSTM,
    GRU,
    LSTM,
    Embedding,
    FinalStates,
    LastStep,
    MeanOverTime,
    Network,
)
from gbdnn.data.batches import Batch
from gbdnn.data.samples import samples
from gbdnn.errors import GbdnnError, InputError, NonFiniteError, ShapeError
from gbdnn.layers import LOSSES
from gbdnn.training.model import Model


def of_torch(module, suffix=""):
    """Return a layer with the parameters of one direction of a torch module."""
    own = {name: value.detach().numpy() for name, value in module.named_parameters()}
    W, U, b, c = (own[f"{n}_l0{suffix}"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    if type(module).__name__ == "GRU":
        cells, inner = U.shape[1], c.copy()
        inner[2 * cells :] = 0
        return GRU(W, U, b + inner, c[2 * cells :], dtype=np.float64)
    return LSTM(W, U, b + c, own.get(f"weight_hr_l0{suffix}"), dtype=np.float64)


TORCH = {
    "lstm": ("LSTM", {}), "lstmp": ("LSTM", {"proj_size": 4}), "gru": ("GRU", {}),
    "blstm": ("LSTM", {"bidirectional": True}), "bgru": ("GRU", {"bidirectional": True}),
    "blstmp": ("LSTM", {"bidirectional": True, "proj_size": 4}),
}  # fmt: skip


def pair(kind):
    """Return a torch module and the network with the same weights."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    name, options = TORCH[kind]
    module = getattr(torch.nn, name)(6, 7, batch_first=True, **options).double()
    if kind.startswith("b"):
        both = BGRU if kind == "bgru" else BLSTM
        return module, Network([both(of_torch(module), of_torch(module, "_reverse"))])
    return module, Network([of_torch(module)])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", TORCH)
def test_values_are_those_of_torch(kind, backend, rng):
    torch = pytest.importorskip("torch")
    module, net = pair(kind)
    lengths = [9, 4, 1, 6]
    X = rng.standard_normal((4, 9, 6))
    found = net.predict(X, lengths=lengths, backend=backend)
    for k, n in enumerate(lengths):
        wanted = module(torch.tensor(X[k : k + 1, :n]))[0][0].detach().numpy()
        np.testing.assert_allclose(found[k, :n], wanted, rtol=0, atol=1e-10)
        assert not found[k, n:].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", TORCH)
def test_gradients_are_those_of_torch(kind, backend, rng):
    torch = pytest.importorskip("torch")
    module, net = pair(kind)
    X, y = sequences(rng, net, [5, 1, 8, 3])
    value, found = gradients(net, X, y, backend)
    parts = [((module(torch.tensor(x[None]))[0][0] - torch.tensor(t)) ** 2).sum()
             for x, t in zip(X, y, strict=True)]  # fmt: skip
    loss = sum(parts) / (net.out_features * sum(map(len, X)))
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-12)
    for suffix, prefix in (("", "forward_"), ("_reverse", "backward_")):
        if not kind.startswith("b"):
            prefix = ""
        if suffix and not prefix:
            continue
        own = {name: p.grad.numpy() for name, p in module.named_parameters()}
        wanted = {
            "weight": own[f"weight_ih_l0{suffix}"], "recurrent": own[f"weight_hh_l0{suffix}"],
            "bias": own[f"bias_ih_l0{suffix}"], "projection": own.get(f"weight_hr_l0{suffix}"),
        }  # fmt: skip
        if kind in ("gru", "bgru"):
            wanted["recurrent_bias"] = own[f"bias_hh_l0{suffix}"][14:]
        for name, grad in wanted.items():
            if grad is not None:
                mine = found[f"layers.0.{prefix}{name}"].reshape(grad.shape)
                np.testing.assert_allclose(mine, grad, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_sparse_weights(kind, backend, rng):
    """Against central differences, for sequences of different lengths."""
    net = network(kind, rng)
    model = Model(net, loss=LOSSES["mse"], backend=backend, threads=1)
    inputs, targets, weights = samples(model, *sequences(rng, net, [4, 1, 6, 3]), None)
    batch = Batch(inputs, np.arange(4), targets, weights, float(weights.sum()))

    def evaluate(point):
        for parameter, value in zip(model.parameters.values(), point, strict=True):
            parameter.value[...] = value
        model.changed()
        return model.loss_and_gradients(batch)

    point = [parameter.value.copy() for parameter in model.parameters.values()]
    evaluate(point)
    gradient = [parameter.grad.copy() for parameter in model.parameters.values()]
    assert all(part.any() for part in gradient)
    check_gradient(evaluate, point, gradient, rng, terms=200)
    with pytest.raises(AssertionError, match="the gradient says"):
        check_gradient(evaluate, point, [1.001 * g for g in gradient], rng, terms=200)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_nothing_depends_on_padding_batch_or_order(kind, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    net = network(kind, rng)
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=40))
    X, y = sequences(rng, net, lengths)
    backend = data.draw(st.sampled_from(["dense", "fused"]))
    whole = net.predict(X, backend=backend, threads=data.draw(st.sampled_from([1, 2])))
    order = rng.permutation(len(X))
    size = data.draw(st.integers(1, 40))
    other = net.predict([X[k] for k in order], backend=backend, batch_size=size)
    time = max(lengths) + data.draw(st.integers(0, 3))
    padded = rng.integers(0, 6, (len(X), time, net.in_features)).astype(float)
    for k, x in enumerate(X):
        padded[k, : len(x)] = x
    filled = net.predict(padded, lengths=lengths, backend=backend)
    for place, k in enumerate(order):
        np.testing.assert_allclose(other[place], whole[k], rtol=0, atol=1e-12)
        mine = filled[k] if net.one_row else filled[k, : rows(net, lengths[k])]
        np.testing.assert_allclose(mine, whole[k], rtol=0, atol=1e-12)
    value, grads = gradients(net, X, y, backend)
    parts = [gradients(net, [x], [t] if not net.one_row else t[None], backend)
             for x, t in zip(X, y, strict=True)]  # fmt: skip
    each = np.array([rows(net, length) for length in lengths])
    shares = each / each.sum()
    assert value == pytest.approx(sum(w * v for w, (v, _) in zip(shares, parts, strict=True)))
    for name, grad in grads.items():
        wanted = sum(w * own[name] for w, (_, own) in zip(shares, parts, strict=True))
        np.testing.assert_allclose(grad, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["lstm", "gru", "blstm"])
def test_a_thousand_steps_do_not_overflow(kind, dtype, rng):
    net = network(kind, rng, dtype)
    X = 1e4 * rng.standard_normal((2, 1000, 4)).astype(dtype)  # all gates open or shut
    y = rng.random((2, 1000, 3))
    assert np.isfinite(net.predict(X)).all()
    value, grads = gradients(net, X, y, "fused")
    assert np.isfinite(value)
    assert all(np.isfinite(grad).all() for grad in grads.values())


def test_heads(rng):
    layer = lstm(rng)
    X, _ = sequences(rng, Network([layer]), [3, 1, 7])
    each = Network([layer]).predict(X)
    last = Network([layer, LastStep()]).predict(X)
    mean = Network([layer, MeanOverTime()]).predict(X)
    np.testing.assert_allclose(last, [h[-1] for h in each], atol=1e-14)
    np.testing.assert_allclose(mean, [h.mean(axis=0) for h in each], atol=1e-14)


@pytest.mark.parametrize("head", [LastStep(), MeanOverTime(), FinalStates(2)])
def test_heads_behind_a_product(head, rng):
    """A product looks which constants the activations behind it keep; a head is none."""
    layers = [lstm(rng), linear(rng, 5), head]
    X, _ = sequences(rng, Network(layers), [3, 1, 7])
    each = Network(layers[:2]).predict(X)
    ends = {"last": lambda h: h[-1], "mean": lambda h: h.mean(axis=0),
            "final": lambda h: np.append(h[-1, :2], h[0, 2:])}  # fmt: skip
    wanted = [ends[head.kind](h) for h in each]
    np.testing.assert_allclose(Network(layers).predict(X), wanted, atol=1e-14)


def test_final_states_are_those_of_each_side(rng):
    """What the forward cell gives at the end, and the other one at the end of what is reversed."""
    layer = blstm(rng)
    X, _ = sequences(rng, Network([layer]), [3, 1, 7])
    found = Network([layer, FinalStates(5)]).predict(X)
    forward, backward = (Network([side, LastStep()]) for side in layer.sides)
    wanted = np.hstack([forward.predict(X), backward.predict([x[::-1] for x in X])])
    np.testing.assert_allclose(found, wanted, atol=1e-14)
    each = Network([layer]).predict(X)
    for n in (0, 3, 7):
        ends = [np.append(h[-1, :n], h[0, n:]) for h in each]
        np.testing.assert_allclose(Network([layer, FinalStates(n)]).predict(X), ends, atol=1e-14)


def test_final_states_are_saved_and_shown(rng, tmp_path):
    net = network("final", rng)
    net.save(tmp_path / "model.safetensors")
    again = gbdnn.load(tmp_path / "model.safetensors")
    assert again.layers[1] == FinalStates(5)
    assert [row["kind"] for row in again.summary().rows][1] == "FinalStates"
    X, _ = sequences(rng, net, [4, 2])
    np.testing.assert_array_equal(again.predict(X), net.predict(X))


def test_final_states_by_name():
    from gbdnn.models import lstm as lstms
    from gbdnn.models import recurrent

    net = recurrent("blstm 6 4, relu, final", 5, 3, dropout=0.1)
    assert FinalStates(4) in net.layers
    assert recurrent("bgru 6, final", 5, 3).layers[1] == FinalStates(6)
    for layers in ("lstm 6, final", "blstm 6, linear 8, final", "final"):
        with pytest.raises(InputError, match="a BLSTM or BGRU before 'final'"):
            recurrent(layers, 5, 3)
    with pytest.raises(GbdnnError, match="'each', 'last', 'mean'"):
        lstms([5, 6, 3], rows="final")


@pytest.mark.parametrize("backend", BACKENDS)
def test_embedding_gives_columns(backend, rng):
    table = rng.standard_normal((3, 5))
    net = Network([Embedding(table, dtype=np.float64)])
    np.testing.assert_array_equal(net.predict([[4], [0], [4]], backend=backend), table.T[[4, 0, 4]])
    found = net.predict([np.array([[1], [3]]), np.array([[2]])], backend=backend)
    np.testing.assert_array_equal(np.concatenate(found), table.T[[1, 3, 2]])
    for wrong in (5, -1, 0.5):
        with pytest.raises(InputError, match="whole numbers from 0 to 4"):
            net.predict([[wrong]], backend=backend)


@pytest.mark.parametrize(("make", "words"), [
    (lambda r: LSTM(r.random((9, 2)), r.random((9, 2))), "weight: expected shape \\(4 x units"),
    (lambda r: LSTM(r.random((8, 2)), r.random((8, 3))), "recurrent: expected shape \\(8, 2\\)"),
    (lambda r: LSTM(r.random((8, 2)), r.random((8, 2)), np.ones(2)), "bias"),
    (lambda r: LSTM(r.random((8, 2)), r.random((8, 2)), 0, r.random((1, 2))), "recurrent"),
    (lambda r: LSTM(r.random((8, 2)), r.random((8, 1)), 0, r.random((1, 3))), "projection"),
    (lambda r: LSTM(np.full((8, 2), np.nan), r.random((8, 2))), "weight"),
    (lambda r: GRU(r.random((8, 2)), r.random((8, 2))), "weight: expected shape \\(3 x units"),
    (lambda r: GRU(r.random((6, 2)), r.random((6, 2)), 0, np.ones(6)), "recurrent_bias"),
    (lambda r: BLSTM(lstm(r), 3), "backward"),
    (lambda r: BLSTM(lstm(r), lstm(r, 3)), "backward"),
    (lambda r: BLSTM(lstm(r), lstm(r, dtype=np.float32)), "backward"),
    (lambda r: Network([lstm(r), LastStep(), lstm(r, 5)]), "nothing over time behind"),
    (lambda r: Network([LastStep()]), "a layer with weights"),
    (lambda r: FinalStates(-1), "forward_features: expected a whole number from 0 up"),
    (lambda r: FinalStates(2.5), "forward_features"),
    (lambda r: Network([lstm(r), FinalStates(5)]), "6 features or more before it, got 5"),
    (lambda r: FinalStates.of({}, {}), "final"),
    (lambda r: Network([blstm(r), FinalStates(5), lstm(r, 8)]), "nothing over time behind"),
    (lambda r: LSTM.of({"weight": lstm(r).weight}, {}), "weight and recurrent"),
    (lambda r: BLSTM.of({"weight": lstm(r).weight}, {}), "forward_"),
])  # fmt: skip
def test_wrong_layers(make, words, rng):
    with pytest.raises(GbdnnError, match=words):
        make(rng)


@pytest.mark.parametrize(("X", "lengths", "error", "words"), [
    ([np.ones((0, 4))], None, InputError, "length 0"),
    (np.ones((2, 3, 4)), [0, 3], InputError, "from 1 to 3"),
    (np.ones((2, 3, 4)), [1, 4], InputError, "4 at index 1"),
    (np.ones((2, 3, 4)), [1, 1.5], InputError, "whole numbers"),
    (np.ones((2, 3, 4)), [1], ShapeError, "lengths"),
    (np.ones((2, 4)), [1, 1], ShapeError, "n_samples, time"),
    ([np.ones((3, 4))], [3], GbdnnError, ""),
    (np.ones((2, 0, 4)), None, InputError, "lengths"),
    (np.ones((2, 3, 5)), None, ShapeError, "4 features"),
    (np.full((2, 3, 4), np.nan), None, GbdnnError, "finite"),
])  # fmt: skip
def test_wrong_sequences(X, lengths, error, words, rng):
    net = network("lstm", rng)
    if words == "":
        assert net.predict(X, lengths=lengths).shape == (1, 3, 3)  # a list of equal ones is padded
        return
    with pytest.raises(error, match=words):
        net.predict(X, lengths=lengths)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", ["fused", "dense"])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_long_sequences_change_no_bit(kind, backend, dtype, rng, monkeypatch):
    """From state to state, as long sequences are predicted."""
    from gbdnn.execution import executor

    net = network(kind, rng, dtype)
    X, _ = sequences(rng, net, [23, 1, 8, 7, 16], dtype)
    whole = net.predict(X, backend=backend, threads=1)
    monkeypatch.setattr(executor, "PART", 5000)  # some time steps
    for mine, wanted in zip(net.predict(X, backend=backend, threads=1), whole, strict=True):
        np.testing.assert_array_equal(mine, wanted)


def test_values_that_do_not_fit_are_an_error_alone(rng):
    net = network("lstm", rng, np.float32)
    with pytest.raises(NonFiniteError, match=r"X\[1\]: .* do not fit into float32"):
        net.predict([np.ones((2, 4)), np.full((3, 4), 1e300)])
    assert net.predict([np.full((3, 4), 1e300)], check_finite=False)[0].shape == (3, 3)


def test_padding_may_hold_anything(rng):
    net = network("blstm", rng)
    X = np.full((2, 4, 4), np.nan)
    X[0, :2], X[1, :1] = 1, 2
    assert np.isfinite(net.predict(X, lengths=[2, 1])).all()


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("head", [LastStep(), MeanOverTime()], ids=["last", "mean"])
def test_heads_behind_layers_that_know_no_time(head, backend, rng):
    first = linear(rng, 4)
    X = rng.standard_normal((70, 5, 4))
    wanted = np.tanh(X @ first.weight.to_dense().T + first.bias)
    wanted = wanted[:, -1] if head.kind == "last" else wanted.mean(1)
    net = Network([first, "tanh", head])
    np.testing.assert_allclose(net.predict(X, backend=backend), wanted, atol=1e-12)
    one_step = net.predict(X[:, 0], backend=backend)
    np.testing.assert_allclose(one_step, net.predict(X[:, :1], backend=backend), atol=1e-12)


@pytest.mark.parametrize("backend", ALL)
def test_no_sequences_at_all(backend, rng):
    layers, X = [lstm(rng)], np.zeros((0, 3, 4))
    assert Network(layers).predict(X, backend=backend).shape == (0, 3, 5)
    assert Network(layers).predict(X, lengths=[], backend=backend).shape == (0, 3, 5)
    assert Network([*layers, LastStep()]).predict(X, backend=backend).shape == (0, 5)
    with pytest.raises(ShapeError, match="4 features per sample"):
        Network(layers).predict(np.zeros((0, 3, 2)), backend=backend)


def test_samples_are_sequences_of_one_step(rng):
    net = Network([lstm(rng), LastStep(), linear(rng, 5)])
    X = rng.standard_normal((40, 4))
    np.testing.assert_allclose(net.predict(X), net.predict(X[:, None]), atol=1e-14)
    assert gbdnn.Network([lstm(rng)]).predict(X).shape == (40, 5)
