"""The loop and its settings: what is learnt, what is written down, when it ends."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import scipy.sparse as sp
from builders import ALL, THREADS
from hypothesis import given
from hypothesis import strategies as st
from trainings import assert_same, classifier, digits, quick, some, state_of, stop_at

from gbdnn import Linear, Network, ReLU
from gbdnn.errors import (
    DivergenceError,
    DtypeError,
    InputError,
    UnknownNameError,
)
from gbdnn.pruning import Periodic, sparsifier
from gbdnn.training import SGD, AdamW, Cosine, EarlyStopping, StepDecay, Trainer
from gbdnn.weights.patterns import places


def accuracy(network, X, y):
    return float((network.predict(X, backend="dense").argmax(axis=1) == y).mean())


# -- learning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ALL)
def test_digits_are_learnt(backend):
    X, y = digits()
    network = classifier(hidden=64)
    before = state_of(network)
    trainer = Trainer(
        epochs=4, batch_size=32, learning_rate=6e-3, backend=backend, threads=THREADS
    )  # fmt: skip
    result = trainer.fit(network, X, y)
    assert np.all(np.diff(result.history["loss"]) < 0)
    assert accuracy(result.network, X, y) > 0.95
    assert result.stopped == "epochs"
    assert state_of(network) == before
    assert result.network.edges == network.edges


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "warm-up"])
def test_all_names_train(optimizer, schedule):
    rate = {"sgd": 0.5, "momentum": 0.1, "nesterov": 0.1}.get(optimizer, 5e-3)
    trainer = quick(optimizer=optimizer, schedule=schedule, learning_rate=rate, epochs=4)
    history = trainer.fit(classifier(), *digits()).history
    assert history["loss"][-1] < 0.75 * history["loss"][0]


@pytest.mark.parametrize("name", ["static", "set", "rigl", "magnitude", "movement", "random"])
def test_sparse_training(name):
    X, y = digits()
    network = classifier(hidden=48, density=0.3)
    result = quick(sparsifier=name, epochs=8, batch_size=32).fit(network, X, y)
    least = {"random": 0.4, "magnitude": 0.75, "movement": 0.75}.get(name, 0.9)
    assert accuracy(result.network, X, y) > least
    nnz = [layer.weight.nnz for layer in result.network.layers if isinstance(layer, Linear)]
    before = [layer.weight.nnz for layer in network.layers if isinstance(layer, Linear)]
    if name in ("static", "set", "rigl"):
        assert nnz == before
    else:
        assert sum(nnz) == round(0.1 * (48 * 64 + 10 * 48))
    assert result.history["nnz"][-1] == sum(nnz)
    assert result.history["density"][-1] == sum(nnz) / (48 * 64 + 10 * 48)
    for parameter in result.training.model.parameters.values():
        assert not parameter.decays or parameter.pattern.nnz in nnz
        assert {vector.shape for vector in parameter.slots.values()} == {parameter.value.shape}


def test_new_weights_start_with_the_second_moment_of_their_layer():
    """With 0 their first steps would be several times the learning rate, late in a training."""
    X, y = digits()
    seen = []

    def look(event):
        parameter = event.training.model.parameters["layers.0.weight"]
        moments = {name: v.copy() for name, v in parameter.slots.items()}
        if event.kind == "step":
            seen.append((parameter.pattern, parameter.value.copy(), moments))

    changes = Periodic(begin=10, end=31, every=10)  # after 20, 30 steps; the last changes nothing
    trainer = quick(
        sparsifier=sparsifier("set", schedule=changes), epochs=2, batch_size=64, callbacks=(look,)
    )
    trainer.fit(classifier(hidden=48, density=0.3), X, y)
    (old, _, before), (new, values, after), (_, moved, _) = seen[19:22]
    born = ~np.isin(places(new), places(old))
    assert 0 < born.sum() < new.nnz
    assert (values[born] == 0).all()
    assert (after["first"][born] == 0).all()
    np.testing.assert_array_equal(after["second"][born], before["second"].mean())
    steps = abs(moved - values)[born]
    assert 0 < steps.max() < 3 * trainer.learning_rate


def test_regression_and_labels(rng):
    X = rng.standard_normal((300, 8))
    T = X @ rng.standard_normal((8, 2)) + 1
    network = Network([Linear(np.zeros((2, 8)))])
    trainer = quick(loss="mse", epochs=30, batch_size=30, learning_rate=0.03)
    history = trainer.fit(network, X, T, validation=(X, T)).history
    assert history["validation_score"][-1] > 0.99
    np.testing.assert_allclose(history["loss"][-1], history["validation_loss"][-1], atol=0.05)
    labels = (X[:, 0] > 0).astype(int)
    for loss, last in [("binary_cross_entropy", ["sigmoid"]), ("hinge", []), ("huber", [])]:
        network = Network([Linear(np.zeros((1, 8)), 0.0), *last])
        result = quick(loss=loss, epochs=20, batch_size=30, learning_rate=0.05).fit(
            network, X, labels, validation=(X, labels)
        )
        assert result.history["validation_score"][-1] > (0.3 if loss == "huber" else 0.95)
        scores = result.network.predict(X)[:, 0]
        edge = 0.0 if loss == "hinge" else 0.5
        assert np.mean((scores > edge) == labels) > 0.95


def test_the_validation_of_one_output_is_that_of_its_scores(rng):
    X, labels = rng.standard_normal((50, 4)), np.array([0, 1] * 25)
    network = Network([Linear(np.full((1, 4), 0.5)), "sigmoid"])
    trainer = quick(loss="binary_cross_entropy", epochs=1, batch_size=50, learning_rate=1e-30)
    record = trainer.fit(network, X, labels, validation=(X, labels)).history.records[0]
    p = network.predict(X)[:, 0].astype(float)
    loss = -np.mean(labels * np.log(p) + (1 - labels) * np.log1p(-p))
    np.testing.assert_allclose(record["validation_loss"], loss, rtol=1e-5)
    assert record["validation_score"] == np.mean((p > 0.5) == labels)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("backend", ["dense", "fused"])
def test_double_precision_and_dense_layers(dense, backend):
    X, y = digits(np.float64)
    network = classifier(dtype=np.float64, dense=dense, density=0.9)
    network.metadata["name"] = "mine"
    result = quick(backend=backend).fit(network, X, y)
    assert result.network.dtype == np.float64
    weights = [layer.weight for layer in result.network.layers if isinstance(layer, Linear)]
    assert [weight.form == "dense" for weight in weights] == [dense] * 2
    assert result.network.metadata == {"name": "mine"}
    single = quick(backend=backend).fit(network.astype(np.float32), *digits())
    np.testing.assert_allclose(result.history["loss"], single.history["loss"], rtol=1e-4)


def test_a_relu_at_the_end():
    rng = np.random.default_rng(1)
    network = Network([Linear(0.1 * rng.random((10, 64))), ReLU()])
    result = quick(learning_rate=1e-3, epochs=3).fit(network, *digits())
    assert result.history["loss"][-1] < result.history["loss"][0]


def test_the_bytes_of_a_training():
    training = quick().fit(classifier(), *some()).training
    values = sum(parameter.value.nbytes for parameter in training.model.parameters.values())
    assert training.nbytes == training.model.nbytes + 2 * values


# -- equal to ... ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ALL)
def test_equal_settings_equal_bits(backend):
    X, y = some()
    network = classifier(dropout=0.3)
    trainer = quick(backend=backend, sparsifier="set", schedule="cosine", rng=5)
    a, b = (trainer.fit(network, X, y) for _ in range(2))
    assert_same(a, b)
    other = dataclasses.replace(trainer, rng=6).fit(network, X, y)
    assert state_of(other.network) != state_of(a.network)
    generator = np.random.default_rng(0)
    draws = [dataclasses.replace(trainer, rng=generator).fit(network, X, y) for _ in range(2)]
    assert state_of(draws[0].network) != state_of(draws[1].network)


@pytest.mark.parametrize("name", ["static", "rigl"])
def test_the_fused_backend_does_not_depend_on_threads(name, monkeypatch):
    monkeypatch.setattr("gbdnn.backends.elementwise.SMALL", 0)
    monkeypatch.setattr("gbdnn.training.chain.check_threads", lambda threads: threads)
    X, y = digits()
    network = classifier(hidden=96, dropout=0.2)
    results = [
        quick(backend="fused", threads=threads, batch_size=200, sparsifier=name, clip_norm=0.5)
        .fit(network, X, y)
        for threads in (1, 2, 3)
    ]  # fmt: skip
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_sparse_inputs_iterables_and_arrays_are_the_same():
    X, y = some()
    trainer = quick(shuffle=False, batch_size=50, backend="fused", schedule="cosine")
    by_array = trainer.fit(classifier(), X, y)
    by_csr = trainer.fit(classifier(), sp.csr_matrix(X), y)
    items = [(X[k : k + 50], y[k : k + 50]) for k in range(0, 200, 50)]
    by_list = trainer.fit(classifier(), items)
    endless = (item for _ in range(9) for item in items)
    stepped = dataclasses.replace(trainer, steps_per_epoch=4)
    by_generator = stepped.fit(classifier(), endless)
    for other in (by_csr, by_list, by_generator):
        assert_same(by_array, other)
    assert next(endless)[1] is items[0][1]  # 8 were taken


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("backend", ["dense", "fused"])
def test_weights_are_repetitions(loss, backend, rng):
    """A full batch: the gradient of whole-numbered weights is that of repeated samples."""
    X = rng.standard_normal((12, 64))
    y = rng.integers(0, 10, 12) if loss == "cross_entropy" else rng.standard_normal((12, 10))
    counts = np.array([0, 1, 2, 3, 1, 1, 4, 0, 1, 2, 1, 1])
    network = classifier(dtype=np.float64)
    network = network if loss == "cross_entropy" else Network(network.layers[:-1])
    once = {"loss": loss, "optimizer": "sgd", "epochs": 1, "learning_rate": 1.0}
    weighted = quick(**once, batch_size=12, backend=backend).fit(
        network, X, y, sample_weight=2.5 * counts
    )
    repeated = quick(**once, batch_size=17, backend=backend).fit(
        network, np.repeat(X, counts, axis=0), np.repeat(y, counts, axis=0)
    )
    pairs = (result.training.model.parameters.values() for result in (weighted, repeated))
    for one, other in zip(*pairs, strict=True):
        np.testing.assert_allclose(one.grad, other.grad, rtol=0, atol=1e-13)
        assert abs(one.grad).max() > 1e-3
    np.testing.assert_allclose(weighted.history["loss"], repeated.history["loss"], rtol=1e-12)


def test_class_weights_are_sample_weights():
    X, y = some()
    factors = np.linspace(0.5, 3, 10)
    trainer = quick()
    by_class = dataclasses.replace(trainer, class_weight=dict(enumerate(factors)))
    by_sample = trainer.fit(classifier(), X, y, sample_weight=factors[y])
    assert_same(by_class.fit(classifier(), X, y), by_sample)
    items = [(X[:100], y[:100]), (X[100:], y[100:])]
    weighted = [(*item, factors[item[1]]) for item in items]
    assert_same(by_class.fit(classifier(), items), trainer.fit(classifier(), weighted))
    counts = np.bincount(y, minlength=10)
    balanced = dataclasses.replace(trainer, class_weight="balanced")
    by_count = trainer.fit(classifier(), X, y, sample_weight=(200 / (10 * counts))[y])
    assert_same(balanced.fit(classifier(), X, y), by_count)


def test_one_step_is_the_optimizers_formula(rng):
    """Loss, decay of weights only, clipping and learning rate, by hand in float64."""
    X, T = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    W, b = rng.standard_normal((2, 3)), rng.standard_normal(2)
    network = Network([Linear(W, b, dtype=np.float64)])
    R = X @ W.T + b - T
    dW, db = R.T @ X / 20, R.sum(0) / 20
    norm = np.sqrt((dW**2).sum() + (db**2).sum())
    for limit in (None, norm * 2, norm / 3):
        scale = 1 / 3 if limit == norm / 3 else 1
        trainer = quick(
            loss="mse", optimizer=SGD(weight_decay=0.1), learning_rate=0.5, epochs=1,
            batch_size=20, clip_norm=limit,
        )  # fmt: skip
        result = trainer.fit(network, X, T)
        (linear,) = result.network.layers
        np.testing.assert_allclose(linear.weight, W - 0.5 * (scale * dW + 0.1 * W), atol=1e-14)
        np.testing.assert_allclose(linear.bias, b - 0.5 * scale * db, atol=1e-14)
        np.testing.assert_allclose(result.history["loss"], [(R**2).mean()])


def test_against_torch_over_many_steps():
    torch = pytest.importorskip("torch")
    X, y = digits(np.float64)
    X, y = X[:256], y[:256]
    network = classifier(dtype=np.float64, dense=True, density=1.0)
    ours = quick(optimizer=AdamW(weight_decay=0.1), schedule=Cosine(), shuffle=False, epochs=3)
    result = ours.fit(network, X, y)
    linears = [layer for layer in network.layers if isinstance(layer, Linear)]
    W = [torch.tensor(linear.weight.values, requires_grad=True) for linear in linears]
    b = [
        torch.zeros(linear.out_features, dtype=torch.float64, requires_grad=True)
        for linear in linears
    ]
    groups = [{"params": W, "weight_decay": 0.1}, {"params": b, "weight_decay": 0.0}]
    rule = torch.optim.AdamW(groups, lr=3e-3)
    for step in range(12):
        for group in rule.param_groups:
            group["lr"] = 3e-3 * (1 + np.cos(np.pi * step / 12)) / 2
        part = slice(64 * (step % 4), 64 * (step % 4 + 1))
        hidden = torch.relu(torch.from_numpy(X[part]) @ W[0].T + b[0])
        rule.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            hidden @ W[1].T + b[1], torch.from_numpy(y[part]).long()
        )
        loss.backward()
        rule.step()
    found = [layer for layer in result.network.layers if isinstance(layer, Linear)]
    for linear, weight, bias in zip(found, W, b, strict=True):
        np.testing.assert_allclose(linear.weight, weight.detach().numpy(), atol=1e-9)
        np.testing.assert_allclose(linear.bias, bias.detach().numpy(), atol=1e-9)


# -- the end ---------------------------------------------------------------------------------------


def test_divergence_keeps_finite_weights():
    X, y = some()
    trainer = quick(optimizer="sgd", learning_rate=1e30, epochs=3)
    with pytest.raises(DivergenceError, match="learning_rate") as caught:
        trainer.fit(classifier(), X, y)
    result = caught.value.result
    assert result.stopped == "diverged"
    assert all(np.isfinite(p.value).all() for p in result.training.model.parameters.values())
    with np.errstate(invalid="ignore"):  # the products of such weights overflow
        result.network.predict(np.zeros((1, 64)))


def test_what_was_before_the_bad_step_is_kept():
    X, y = some()
    sizes = []

    def spoil(event):
        """Let one sample be far away: gradients overflow, the weights are as they were."""
        sizes.append(state_of(event.training.network()))
        if event.step == 3:
            X[:] = np.float32(3e38)

    X = X.copy()
    with pytest.raises(DivergenceError) as caught:
        quick(callbacks=[spoil]).fit(classifier(), X, y)
    result = caught.value.result
    assert result.training.step == 3
    assert state_of(result.network) == sizes[-1]


def test_after_divergence_with_another_learning_rate():
    X, y = some()
    wild = quick(optimizer="sgd", learning_rate=1e33)
    with pytest.raises(DivergenceError, match="an update of") as caught:
        wild.fit(classifier(), X, y)
    calm = dataclasses.replace(wild, learning_rate=0.1)
    training = caught.value.result.training
    assert training.step == 0  # so large an update was not made
    assert_same(calm.resume(training, X, y), calm.fit(classifier(), X, y))


def test_a_training_that_goes_on_is_one_that_did_not_end():
    X, y = some()
    trainer = quick(schedule="cosine", sparsifier="set", epochs=4)
    stopped = dataclasses.replace(trainer, callbacks=[stop_at(3, 4, 9)])
    result = stopped.fit(classifier(dropout=0.2), X, y)
    assert (result.stopped, result.training.step) == ("callback", 3)
    while result.stopped == "callback":
        result = stopped.resume(result.training, X, y)
    assert_same(result, trainer.fit(classifier(dropout=0.2), X, y))
    longer = dataclasses.replace(trainer, epochs=6)
    assert len(longer.resume(result.training, X, y).history) == 6
    for name, value in [("loss", "mse"), ("batch_size", 3), ("optimizer", "sgd")]:
        other = dataclasses.replace(trainer, **{name: value})
        with pytest.raises(InputError, match=name):
            other.resume(result.training, X, y)
    with pytest.raises(DtypeError, match="training"):
        trainer.resume(result, X, y)


def test_early_stopping_returns_the_best():
    X, y = some()
    seen = {}

    def remember(event):
        if event.kind == "epoch":
            seen[event.epoch] = state_of(event.training.network())

    def fit(**settings):
        rule = EarlyStopping(patience=3, monitor="validation_loss", **settings)
        trainer = quick(
            early_stopping=rule, epochs=200, batch_size=20, learning_rate=0.02,
            callbacks=[remember],
        )  # fmt: skip
        return trainer.fit(classifier(), X[:60], y[:60], validation=(X[60:], y[60:]))

    result = fit()
    losses = result.history["validation_loss"]
    best = int(np.argmin(losses))
    assert result.stopped == "early stopping"
    assert len(losses) == best + 4
    assert state_of(result.network) == seen[best] != seen[len(losses) - 1]
    assert state_of(fit(restore_best=False).network) == seen[len(losses) - 1]


def test_min_delta_and_patience():
    """With an unreachable improvement only the first epoch counts."""
    rule = EarlyStopping(patience=2, min_delta=1e9, monitor="loss")
    result = quick(early_stopping=rule, epochs=9).fit(classifier(), *some())
    assert (len(result.history), result.stopped) == (3, "early stopping")
    assert rule.value({"loss": float("nan")}) == -np.inf


@given(st.lists(st.integers(0, 8), max_size=30), st.integers(1, 4), st.integers(0, 3))
def test_gain_of_an_epoch_beyond_the_best(losses, patience, delta):
    """Against scikit-learn's rule written as it stands there: the loss falls by tol at least."""
    rule = EarlyStopping(patience=patience, min_delta=delta, monitor="loss")
    best, without, ends = np.inf, 0, 0
    for loss in losses:
        without = without + 1 if loss > best - delta or loss == best else 0
        best = min(best, loss)
        if without == patience:
            without, ends = 0, ends + 1
    assert rule.ends([{"loss": float(loss)} for loss in losses]) == ends
    assert rule.ends([{"other": 1.0}]) == 0


def test_the_best_epoch_is_kept_though_it_gains_little():
    X, y = some()
    rule = EarlyStopping(patience=4, min_delta=1e9, monitor="loss")
    result = quick(early_stopping=rule, epochs=9).fit(classifier(), X, y)
    longer = quick(epochs=5).fit(classifier(), X, y)
    assert result.history["loss"] == longer.history["loss"]
    assert int(np.argmin(result.history["loss"])) == 4
    assert state_of(result.network) == state_of(longer.network)


def test_a_falling_rate(tmp_path):
    """Divided by 5 where the training would end, until it is 1e-6; the same from a checkpoint."""
    X, y = some()
    rule = EarlyStopping(patience=2, min_delta=1e9, monitor="loss", divide_rate=5)
    settings = {"early_stopping": rule, "learning_rate": 1e-4, "checkpoint": tmp_path}
    trainer = quick(epochs=50, **settings)
    whole = dataclasses.replace(trainer, checkpoint=None).fit(classifier(), X, y)
    rates = [1e-4] * 3 + [2e-5] * 2 + [4e-6] * 2 + [8e-7] * 2
    np.testing.assert_allclose(whole.history["learning_rate"], rates)
    assert whole.stopped == "early stopping"
    quick(epochs=4, **settings).fit(classifier(), X, y)
    result = trainer.fit(classifier(), X, y, resume=True)
    assert state_of(result.network) == state_of(whole.network)


def test_callbacks():
    X, y = some()
    events = []

    def watch(event):
        events.append((event.kind, event.epoch, event.step, event.total_steps))
        if event.kind == "epoch":
            event.record["double"] = 2 * event.loss

    result = quick(callbacks=[watch, lambda event: None]).fit(classifier(), X, y)
    steps = [("step", (k - 1) // 4, k, 8) for k in range(1, 9)]
    assert events == [*steps[:4], ("epoch", 0, 4, 8), *steps[4:], ("epoch", 1, 8, 8)]
    assert result.history["double"] == [2 * loss for loss in result.history["loss"]]
    ended = quick(callbacks=[lambda event: event.kind == "epoch"]).fit(classifier(), X, y)
    assert (ended.stopped, len(ended.history)) == ("callback", 1)


def test_an_error_in_a_callback_is_not_swallowed():
    def fail(event):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        quick(callbacks=[fail]).fit(classifier(), *some())


# -- what is written down --------------------------------------------------------------------------


def test_history():
    X, y = some()
    history = quick(schedule=StepDecay([0.5]), epochs=4).fit(
        classifier(), X, y, validation=(X, y, np.arange(200))
    ).history  # fmt: skip
    assert len(history) == 4
    assert history["epoch"] == [0, 1, 2, 3]
    assert history["step"] == [4, 8, 12, 16]
    np.testing.assert_allclose(history["learning_rate"], [3e-3, 3e-3, 3e-4, 3e-4])
    assert history["seconds"] == sorted(history["seconds"])
    frame = history.to_frame()
    assert list(frame.columns) == list(history.records[0])
    assert frame["validation_score"].tolist() == history["validation_score"]
    with pytest.raises(UnknownNameError, match="'loss'"):
        history["accuracy"]


def test_results_show_themselves_in_a_line():
    result = quick().fit(classifier(), *some())
    assert repr(result.history).startswith("History(2 epochs, loss 2.")
    assert repr(result).endswith("stopped='epochs')")
    assert len(repr(result)) < 300
    assert repr(type(result.history)(())) == "History(0 epochs)"


def test_validation_is_the_weighted_mean(rng):
    X, y = some()
    weights = rng.random(200)
    result = quick().fit(classifier(dropout=0.5), X, y, validation=(X, y, weights))
    P = result.network.predict(X).astype(float)
    record = result.history.records[-1]
    weights /= weights.sum()
    loss = -weights @ np.log(P[np.arange(200), y])
    np.testing.assert_allclose(record["validation_loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(record["validation_score"], weights @ (P.argmax(1) == y), rtol=1e-9)


def test_progress_says_epoch_loss_and_score(capsys):
    X, y = some()
    quick(progress=True).fit(classifier(), X, y, validation=(X, y))
    shown = capsys.readouterr()
    assert re.fullmatch(
        r"epoch 2/2, loss \d\.\d+, validation score 0\.\d{4}, 100%, .* s\n", shown.err
    )
    assert shown.out == ""
    quick(progress=True, epochs=1).fit(classifier(), iter([(X, y)]))  # of unknown length
    assert re.fullmatch(r"epoch 1/1, loss [^%]* s\n", capsys.readouterr().err)
    quick().fit(classifier(), X, y)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_changes_no_bit(terminal, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    monkeypatch.setattr("gbdnn.progress.SECONDS", 0)
    monkeypatch.setattr("gbdnn.training.hooks.PERIOD", 0)
    X, y = some()
    loud = quick(progress=True, epochs=3).fit(classifier(), X, y, validation=(X, y))
    assert ("\x1b" in capsys.readouterr().err) == terminal
    silent = quick(epochs=3).fit(classifier(), X, y, validation=(X, y))
    for name, weight in loud.network.weights.items():
        assert weight.entries.tobytes() == silent.network.weights[name].entries.tobytes()
    assert loud.history["validation_loss"] == silent.history["validation_loss"]
