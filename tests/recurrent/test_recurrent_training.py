"""Training, pruning, files and step-by-step prediction of recurrent networks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from recurrent_builders import BACKENDS, KINDS, STREAMS, gradients, network, sequences
from trainings import Resuming, assert_same, slots_of, state_of, stop_at

import gbdnn
from gbdnn import LSTM, Network
from gbdnn.data.samples import samples
from gbdnn.errors import GbdnnError, InputError
from gbdnn.layers import LOSSES
from gbdnn.training.model import Model

LENGTHS = [3, 1, 5, 4, 2, 5, 5, 1, 3, 4, 2, 2, 5, 1, 4, 3, 3, 5, 2, 1]


def trainer(**settings):
    fixed = {"loss": "mse", "epochs": 3, "batch_size": 6, "threads": 1, "learning_rate": 0.01}
    return Resuming(**{**fixed, **settings})


@pytest.mark.parametrize("truncate", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_from_a_checkpoint_bit_for_bit(kind, truncate, tmp_path, rng):
    net = network(kind, rng, np.float32)
    X, y = sequences(rng, net, LENGTHS, np.float32)
    if truncate and kind not in STREAMS:
        with pytest.raises(InputError, match=r"truncate: expected (layers .* Without|a multiple)"):
            trainer(truncate=truncate).fit(net, X, y)
        return
    whole = trainer(truncate=truncate).fit(net, X, y, validation=(X, y))
    assert whole.history["loss"][-1] < whole.history["loss"][0]
    assert whole.history["validation_loss"][-1] < whole.history["validation_loss"][0]
    for step in (2, 7):
        trainer(truncate=truncate, checkpoint=tmp_path, callbacks=[stop_at(step)]).fit(
            net, X, y, validation=(X, y)
        )
    again = trainer(truncate=truncate, checkpoint=tmp_path).fit(net, X, y, validation=(X, y))
    assert_same(again, whole)
    assert slots_of(again.training) == slots_of(whole.training)


def test_a_checkpoint_belongs_to_its_truncate(tmp_path, rng):
    net = network("lstm", rng, np.float32)
    X, y = sequences(rng, net, LENGTHS, np.float32)
    trainer(truncate=2, checkpoint=tmp_path, epochs=1).fit(net, X, y)
    with pytest.raises(GbdnnError):
        trainer(truncate=3, checkpoint=tmp_path, epochs=1).fit(net, X, y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["lstmp", "blstm", "gru"])
def test_training_on_every_backend(kind, backend, rng):
    net = network(kind, rng)
    X, y = sequences(rng, net, LENGTHS)
    found = trainer(backend=backend).fit(net, X, y).history["loss"]
    wanted = trainer(backend="dense").fit(net, X, y).history["loss"]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("kind", ["lstm", "last"])
def test_padded_samples_train_as_a_list_does(kind, rng):
    net = network(kind, rng)
    X, y = sequences(rng, net, LENGTHS)
    padded = np.full((len(X), 7, 4), 9.0)
    targets = y if net.one_row else np.full((len(X), 7, 3), 9.0)
    for k, x in enumerate(X):
        padded[k, : len(x)] = x
        if not net.one_row:
            targets[k, : len(x)] = y[k]
    found = trainer().fit(net, padded, targets, lengths=LENGTHS).network
    assert state_of(found) == state_of(trainer().fit(net, X, y).network)
    for wrong in (np.zeros((20, 6, 3)), np.zeros(3), "text"):
        with pytest.raises(GbdnnError, match="y"):
            trainer().fit(net, padded, wrong, lengths=LENGTHS)
    with pytest.raises(InputError, match="lengths"):
        trainer().fit(net, padded, targets, lengths=[8] * 20)


def test_classes_of_sequences_and_of_time_steps(rng):
    """The sign of the first feature of the first time step, known at the end."""
    weights = rng.standard_normal((32, 2)), rng.standard_normal((32, 8)) / 3
    X = [rng.standard_normal((n, 2)).astype(np.float32) for n in rng.integers(1, 9, 200)]
    first = np.array([int(x[0, 0] > 0) for x in X])
    head = gbdnn.Linear(rng.standard_normal((2, 8)))
    settings = {"loss": "cross_entropy", "epochs": 12, "batch_size": 20, "learning_rate": 0.03}
    for layers, y in (
        ([LSTM(*weights), gbdnn.LastStep(), head, "softmax"], first),
        ([LSTM(*weights), head], [np.full(len(x), c) for x, c in zip(X, first, strict=True)]),
    ):
        done = trainer(**settings, truncate=None).fit(Network(layers), X, y, validation=(X, y))
        assert done.history["validation_score"][-1] > 0.9


@pytest.mark.parametrize("sparsifier", ["set", "rigl", "magnitude"])
@pytest.mark.parametrize("kind", ["lstmp", "blstm", "gru"])
def test_sparse_training_changes_all_patterns(kind, sparsifier, rng):
    net = network(kind, rng, np.float32)
    X, y = sequences(rng, net, LENGTHS, np.float32)
    done = trainer(sparsifier=sparsifier, epochs=20).fit(net, X, y).network
    for name, weight in net.weights.items():
        old, new = weight.pattern(), done.weights[name].pattern()
        if np.prod(old.shape) - old.nnz < 8:  # nearly no place is free
            continue
        assert old.nnz != new.nnz or not np.array_equal(old.indices, new.indices), name


@pytest.mark.parametrize("structure", [None, "2:4", "4x4"])
@pytest.mark.parametrize("kind", ["lstm", "blstm", "gru"])
def test_prune_both_matrices(kind, structure, rng):
    cells = 8
    layer = {
        "lstm": lambda: LSTM(rng.random((32, 8)), rng.random((32, cells))),
        "gru": lambda: gbdnn.GRU(rng.random((24, 8)), rng.random((24, cells))),
        "blstm": lambda: gbdnn.BLSTM(*(LSTM(rng.random((32, 8)), rng.random((32, cells)))
                                       for _ in "12")),
    }[kind]()  # fmt: skip
    net = Network([layer])
    options = {} if structure is None else {"structure": structure}
    sparsity = None if structure == "2:4" else 0.5
    pruned = gbdnn.prune(net, sparsity, exclude=(), **options)
    for name, weight in pruned.weights.items():
        assert weight.nnz == pytest.approx(0.5 * net.weights[name].nnz, rel=0.35), name


@pytest.mark.parametrize("kind", KINDS)
def test_save_load_and_summary(kind, tmp_path, rng):
    net = network(kind, rng, np.float32)
    X, _ = sequences(rng, net, LENGTHS, np.float32)
    net.save(tmp_path / "m")
    loaded = gbdnn.load(tmp_path / "m")
    assert state_of(loaded) == state_of(net)
    for a, b in zip(loaded.predict(X), net.predict(X), strict=True):
        np.testing.assert_array_equal(a, b)
    text = str(net.summary("fused"))
    for layer in net.layers:
        assert type(layer).__name__ in text
    assert f"{net.edges:,}" in text
    assert "LSTM" in repr(net) or "GRU" in repr(net)
    assert net.astype(np.float64).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", STREAMS)
def test_step_by_step_is_the_whole_bit_for_bit(kind, backend, dtype, rng):
    net = network(kind, rng, dtype)
    for count in (1, 12, 40):
        X, _ = sequences(rng, net, [6] * count, dtype)
        whole, state = net.predict(np.array(X), threads=1, backend=backend), None
        for t in range(6):
            y, state = net.step(np.array(X)[:, t], state, threads=1, backend=backend)
            np.testing.assert_array_equal(y, whole[:, t])


def test_a_state_is_not_changed_and_belongs_to_its_network(rng):
    net, other = network("lstm", rng), network("lstmp", rng)
    x = rng.standard_normal((3, 4))
    _, state = net.step(x)
    again = [net.step(x, state)[0] for _ in range(2)]
    np.testing.assert_array_equal(*again)
    net.release()  # prepared weights are made anew
    np.testing.assert_array_equal(net.step(x, state)[0], again[0])
    assert "3 sequences" in repr(state)
    for wrong, words in (
        (lambda: net.step(x[:2], state), "that of 2 sequences"),
        (lambda: net.step(x, "x"), "what step returned"),
        (lambda: net.step(x, other.step(x)[1]), "state"),
        (lambda: net.step(x[None]), "one time step"),
        (lambda: net.step(x[0]), "^x: expected 2 dimensions"),
        (lambda: net.step(x[:, :3]), "4 features"),
        (lambda: network("blstm", rng).step(x), "sequences in parts"),
        (lambda: network("mean", rng).step(x), "sequences in parts"),
    ):
        with pytest.raises(GbdnnError, match=words):
            wrong()


@pytest.mark.parametrize("kind", ["lstm", "lstmp", "gru"])
def test_truncated_gradients(kind, rng):
    """The gradient of each part, its first state held fixed; the loss is that of the whole."""
    net = network(kind, rng)
    X, y = sequences(rng, net, [7, 2, 5])
    whole, wanted = gradients(net, X, y)
    long, found = gradients(net, X, y, truncate=7)
    assert long == whole
    for name, grad in found.items():
        np.testing.assert_array_equal(grad, wanted[name])
    short, found = gradients(net, X, y, truncate=3)
    assert short == pytest.approx(whole, rel=1e-14)
    assert any(abs(grad - wanted[name]).max() > 1e-4 for name, grad in found.items())


def test_truncated_gradients_are_those_of_detached_states(rng):
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    module = torch.nn.LSTM(4, 5, batch_first=True).double()
    own = {name: value.detach().numpy() for name, value in module.named_parameters()}
    net = Network([LSTM(own["weight_ih_l0"], own["weight_hh_l0"],
                        own["bias_ih_l0"] + own["bias_hh_l0"], dtype=np.float64)])  # fmt: skip
    X, y = sequences(rng, net, [8, 8])
    _, found = gradients(net, X, y, truncate=3)
    state, loss = None, 0
    for start, stop in pairwise([0, 3, 6, 8]):
        out, state = module(torch.tensor(np.array(X)[:, start:stop]), state)
        loss = loss + ((out - torch.tensor(np.array(y)[:, start:stop])) ** 2).sum() / (5 * 16)
        state = tuple(part.detach() for part in state)
    loss.backward()
    for mine, theirs in (("weight", "weight_ih_l0"), ("recurrent", "weight_hh_l0")):
        wanted = getattr(module, theirs).grad.numpy()
        np.testing.assert_allclose(found[f"layers.0.{mine}"].reshape(wanted.shape), wanted,
                                   atol=1e-13)  # fmt: skip


def test_validation_of_a_model_takes_whole_sequences(rng):
    net = network("lstm", rng)
    X, y = sequences(rng, net, LENGTHS)
    model = Model(net, loss=LOSSES["mse"], backend="dense", threads=1, truncate=2)
    inputs, targets, _ = samples(model, X, y, None)
    np.testing.assert_allclose(model.outputs(inputs), np.concatenate(net.predict(X)), atol=1e-14)
    assert targets.shape == (sum(LENGTHS), 3)
