"""Adding a thing is one class and one table entry: toys that gbdnn does not know go through it all.

`toys.py` defines them; no file of gbdnn names one. Each is taken through prediction on every
backend, gradients against central differences, training, a checkpoint and going on from it bit for
bit, pruning, the summary, saving and loading, and the command line.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import random_csr
from click.testing import CliRunner
from gradients import check_gradient
from toys import Elman, Half, Loops, tables
from trainings import Resuming, assert_same, slots_of, state_of, stop_at

import gbdnn
from gbdnn import Linear, Network, ReLU
from gbdnn.backends import BACKENDS
from gbdnn.data.batches import Batch
from gbdnn.data.inputs import as_inputs
from gbdnn.layers import LOSSES
from gbdnn.training.model import Model

ROOT = Path(gbdnn.__file__).parents[1]
F4, F8 = np.dtype(np.float32), np.dtype(np.float64)
ENGINES = sorted([*BACKENDS, "loops"])


@pytest.fixture(autouse=True)
def _tables():
    with tables():
        yield


def elman(rng, dtype=np.float32, *, into=6, hidden=8, out=3):
    """Return Elman(into -> hidden), then Linear(hidden -> out)."""
    weights = [random_csr(rng, hidden, into, 0.6), random_csr(rng, hidden, hidden, 0.5)]
    layer = Elman(*(w.astype(dtype) for w in weights), 0.1 * rng.standard_normal(hidden))
    return Network([layer, Linear(random_csr(rng, out, hidden, 0.8), dtype=dtype)])


def halves(rng, dtype=np.float32):
    """Return two layers with weights of half precision."""
    weights = [random_csr(rng, 9, 6, 0.5), random_csr(rng, 3, 9, 0.6)]
    layers = [Linear(Half.from_weight(w)) for w in weights]
    return Network([layers[0], "relu", layers[1]])


def softsigns(rng, dtype=np.float32):
    weights = [random_csr(rng, 9, 6, 0.5), random_csr(rng, 3, 9, 0.6)]
    return Network([Linear(weights[0], 0.3, dtype=dtype), "softsign",
                    Linear(weights[1], dtype=dtype)])  # fmt: skip


def plain(rng, dtype=np.float32):
    weights = [random_csr(rng, 9, 6, 0.5), random_csr(rng, 3, 9, 0.6)]
    return Network([Linear(weights[0], 0.2, dtype=dtype), ReLU(), Linear(weights[1], dtype=dtype)])


def data(rng, network, count=30, *, sequences=False, dtype=np.float32):
    """Return (X, y) with values as targets."""
    features, outputs = network.in_features, network.out_features
    if not sequences:
        return rng.standard_normal((count, features)).astype(dtype), rng.random((count, outputs))
    lengths = rng.integers(1, 6, count)
    X = [rng.standard_normal((n, features)).astype(dtype) for n in lengths]
    return X, [rng.random((n, outputs)) for n in lengths]


TOYS: dict[str, tuple[Any, bool, dict[str, Any]]] = {
    # name: (network, whether it takes sequences, settings of the Trainer)
    "layer": (elman, True, {}),
    "weight form": (halves, False, {}),
    "quantizer": (plain, False, {"quantization": {"layers.*.weight": "grid"}}),
    "backend": (plain, False, {"backend": "loops"}),
    "activation": (softsigns, False, {}),
    "loss": (plain, False, {"loss": "log_cosh"}),
    "score": (plain, False, {
        "sparsifier": gbdnn.pruning.Sparsifier(0.7, schedule=gbdnn.pruning.Periodic(0, 1.0, 2))
    }),
}  # fmt: skip


def trainer(name, **settings):
    fixed = {"loss": "mse", "epochs": 4, "batch_size": 8, "backend": "dense", "threads": 1}
    own = dict(TOYS[name][2])
    if name == "score":
        from dataclasses import replace

        own["sparsifier"] = replace(own["sparsifier"], score="near_one")
    return Resuming(**{**fixed, **own, **settings})


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("toy", TOYS)
def test_predict_on_every_backend(toy, backend, rng):
    make, sequences, _ = TOYS[toy]
    network = make(rng)
    X, _ = data(rng, network, 70, sequences=sequences)
    found = network.predict(X, backend=backend)
    wanted = _by_hand(network, X)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def _by_hand(network, X):
    """Return the results in float64, written out."""
    results = []
    for x in X:
        Y = np.atleast_2d(x).astype(np.float64)
        for layer in network.layers:
            if isinstance(layer, Elman):
                h, H = np.zeros(layer.out_features), []
                W, U = layer.weight.to_dense(), layer.recurrent.to_dense()
                for row in Y:
                    h = np.tanh(W @ row + U @ h + layer.bias)
                    H.append(h)
                Y = np.array(H)
            elif isinstance(layer, Linear):
                Y = Y @ layer.weight.to_dense().astype(float).T + layer.bias
            else:
                Y = Y.copy()
                layer.apply(Y.T)
        results.append(Y if np.ndim(x) == 2 else Y[0])
    return results


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_sequences_do_not_depend_on_their_neighbours(batch_size, rng):
    network = elman(rng)
    X, _ = data(rng, network, 20, sequences=True)
    alone = [network.predict([x], backend="fused")[0] for x in X]
    order = rng.permutation(20)
    together = network.predict([X[k] for k in order], backend="fused", batch_size=batch_size)
    for k, found in zip(order, together, strict=True):
        np.testing.assert_allclose(found, alone[k], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("toy", ["layer", "activation", "loss", "backend"])
def test_gradients(toy, backend, rng):
    make, sequences, settings = TOYS[toy]
    network = make(rng, np.float64)
    X, y = data(rng, network, 7, sequences=sequences, dtype=np.float64)
    loss = LOSSES[settings.get("loss", "mse")]
    model = Model(network, loss=loss, backend=backend, threads=1)
    inputs = as_inputs(X, network.in_features, F8)
    targets = np.concatenate(y) if sequences else np.asarray(y)
    batch = Batch(inputs, np.arange(7), targets, np.full(len(targets), 1 / len(targets)), 1.0)

    def evaluate(point):
        for parameter, value in zip(model.parameters.values(), point, strict=True):
            parameter.value[...] = value
        model.changed()
        return model.loss_and_gradients(batch)

    point = [parameter.value.copy() for parameter in model.parameters.values()]
    evaluate(point)
    gradient = [parameter.grad.copy() for parameter in model.parameters.values()]

    def kinks(at):
        sides = []
        for parameter, value in zip(model.parameters.values(), at, strict=True):
            parameter.value[...] = value
        model.changed()
        model.loss_and_gradients(batch, observe=lambda name, dZ, Y: sides.append(Y.ravel() > 0))
        return np.concatenate(sides)

    check_gradient(evaluate, point, gradient, rng, terms=100, kinks=kinks)
    wrong = [1.001 * part for part in gradient]
    with pytest.raises(AssertionError, match="the gradient says"):
        check_gradient(evaluate, point, wrong, rng, terms=100, kinks=kinks)


def test_the_quantizers_step_has_the_gradient_of_the_straight_through_estimator(rng):
    network = plain(rng, np.float64)
    X, y = data(rng, network, 7, dtype=np.float64)
    found = gbdnn.quantization.calibrate(network, None, {"layers.0.weight": "grid"})
    model = Model(network, loss=LOSSES["mse"], backend="dense", threads=1, quantization=found)
    batch = Batch(as_inputs(X, 6, F8), np.arange(7), np.asarray(y), np.full(7, 1 / 7), 1.0)
    w, s = model.parameters["layers.0.weight"], model.parameters["layers.0.weight.step"]
    before = model.loss_and_gradients(batch)
    levels = np.rint(w.value / s.value[0])
    np.testing.assert_array_equal(w.form.values, levels * s.value[0])
    # with the levels held fixed L(s) is smooth: its derivative is sum of dL/dy * round(x / s)
    rounded = float(w.grad @ levels)
    h = 1e-6
    w.form.values[...] = levels * (s.value[0] + h)
    w.form.refresh()
    np.testing.assert_allclose((model.loss_and_gradients(batch) - before) / h, rounded, rtol=1e-4)


@pytest.mark.parametrize("toy", TOYS)
def test_training_goes_on_from_a_checkpoint_bit_for_bit(toy, tmp_path, rng):
    make, sequences, _ = TOYS[toy]
    network = make(rng)
    X, y = data(rng, network, sequences=sequences)
    whole = trainer(toy).fit(network, X, y, validation=(X, y))
    assert whole.history["loss"][-1] < whole.history["loss"][0]
    assert whole.history["validation_loss"][-1] < whole.history["validation_loss"][0]
    for step in (3, 8, 13):
        trainer(toy, checkpoint=tmp_path, callbacks=[stop_at(step)]).fit(
            network, X, y, validation=(X, y)
        )
    again = trainer(toy, checkpoint=tmp_path).fit(network, X, y, validation=(X, y))
    assert_same(again, whole)
    assert slots_of(again.training) == slots_of(whole.training)


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("toy", ["layer", "weight form", "quantizer", "activation", "loss"])
def test_training_on_every_backend(toy, backend, rng):
    make, sequences, _ = TOYS[toy]
    network = make(rng)
    X, y = data(rng, network, sequences=sequences)
    result = trainer(toy, backend=backend).fit(network, X, y)
    dense = trainer(toy).fit(network, X, y)
    np.testing.assert_allclose(result.history["loss"], dense.history["loss"], rtol=1e-3)


def test_sparse_training_of_both_weights_of_a_layer(rng):
    network = elman(rng)
    X, y = data(rng, network, 60, sequences=True)
    result = trainer("layer", sparsifier="rigl", epochs=10).fit(network, X, y)
    for name in ("layers.0.weight", "layers.0.recurrent"):
        old, new = network.weights[name].pattern(), result.network.weights[name].pattern()
        assert old.nnz == new.nnz
        assert not np.array_equal(old.indices, new.indices)


@pytest.mark.parametrize("toy", TOYS)
def test_prune_summary_save_and_load(toy, tmp_path, rng):
    make, sequences, _ = TOYS[toy]
    network = make(rng)
    pruned = gbdnn.prune(network, 0.8, score="near_one")
    assert sum(w.nnz for w in pruned.weights.values()) < sum(
        w.nnz for w in network.weights.values()
    )
    for name, weight in network.weights.items():
        assert pruned.weights[name].form == weight.form
    assert type(network.layers[0]).__name__ in str(network.summary())
    report = gbdnn.pruning.pruning_report(network, pruned, rounds=1, batch=3, threads=1)
    assert all(name in str(report) for name in network.weights)
    assert report.samples == 3  # of sequences, where a layer is recurrent
    assert min(report.seconds) > 0
    X, _ = data(rng, network, 5, sequences=sequences)
    out = pruned.predict(X)
    y = np.concatenate(out).argmax(axis=1) if sequences else out.argmax(axis=1)
    report = gbdnn.pruning.pruning_report(network, pruned, X=X, y=y, rounds=0)
    assert report.accuracy[1] == 1
    pruned.save(tmp_path / "model.safetensors")
    loaded = gbdnn.load(tmp_path / "model.safetensors")
    assert state_of(loaded) == state_of(pruned)
    assert [layer.kind for layer in loaded.layers] == [layer.kind for layer in pruned.layers]
    X, _ = data(rng, network, 5, sequences=sequences)
    for a, b in zip(loaded.predict(X), pruned.predict(X), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:sparsity")  # outputs lose their inputs
def test_the_command_line_offers_them(tmp_path):
    from gbdnn.cli.main import cli

    def run(*words):
        done = CliRunner().invoke(cli, list(words))
        assert done.exit_code == 0, (words, done.output, done.exception)
        return done.output

    text = run("train", "--help")
    for name in ("softsign", "loops"):
        assert name in text, name
    assert "near_one" in run("prune", "--help")
    assert "loops" in run("predict", "--help")
    out, plan = str(tmp_path / "m.safetensors"), tmp_path / "plan.json"
    plan.write_text('{"rules": {"*.weight": "grid"}}')
    words = ["--hidden", "8", "--epochs", "1", "--activation", "softsign", "--backend", "loops"]
    text = run("train", "--out", out, *words, "--plan", str(plan))
    assert (tmp_path / "m.safetensors").exists(), text
    kinds = [layer.kind for layer in gbdnn.load(out).layers]
    assert kinds[1] == "softsign"
    text = run("prune", out, str(tmp_path / "p.safetensors"), "--sparsity", "0.95", "--score",
               "near_one", "--rounds", "0")  # fmt: skip
    assert (tmp_path / "p.safetensors").exists(), text
    assert "softsign" in run("train", "--help")


def test_no_file_of_the_package_knows_the_toys():
    """What they need is in their classes and in the tables."""
    for module in list(sys.modules):
        if module.startswith("gbdnn") and (path := getattr(sys.modules[module], "__file__", "")):
            with open(path) as file:
                text = file.read()
            for name in ("elman", "softsign", "log_cosh", "near_one", "loops"):
                assert f'"{name}"' not in text.lower(), (module, name)


def test_the_newcomers_page_is_true():
    """docs/architecture.md names tables, files and methods that exist, and the order of floors."""
    from test_architecture import FLOORS

    text = (ROOT / "docs" / "architecture.md").read_text()
    tables_named = set(re.findall(r"`(gbdnn\.[a-z_.]+)\.([A-Z]+)`", text))
    assert len(tables_named) >= 10
    for module, table in tables_named:
        assert isinstance(getattr(importlib.import_module(module), table), dict), (module, table)
    block = text[text.index("    cli  ") : text.index("The benchmarks stand")]
    words = [line.split()[0] for line in block.splitlines() if line.strip()][:-1]
    ground = block.strip().splitlines()[-1].strip().split(", ")
    assert [*words, *ground] == FLOORS[::-1]
    for path in re.findall(r"(?:# |\()([a-z]+/[a-z]+\.py)", text):
        assert (ROOT / "gbdnn" / path).exists(), path
    classes = re.findall(r"^class (\w+):.*?# ([a-z]+)/([a-z]+)\.py", text, re.M)
    assert len(classes) == 5
    for name, folder, module in classes:
        found = getattr(importlib.import_module(f"gbdnn.{folder}.{module}"), name)
        body = text[text.index(f"class {name}:") :].split("\n\n")[0]
        for method, arguments in re.findall(r"def (\w+)\(([^)]*)\)", body):
            wanted = [a.strip().split("=")[0] for a in arguments.split(",")]
            real = inspect.signature(getattr(found, method)).parameters
            assert [a for a in wanted if a != "*"] == list(real), (name, method)


def test_a_backend_is_a_class_with_defaults():
    assert Loops().program([]) is None
    assert Loops().width(64, F4) >= 64
