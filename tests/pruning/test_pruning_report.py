"""`pruning_report`."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from builders import random_dense, random_network
from pruning_builders import classifier

from gbdnn import LSTM, Embedding, Linear, Network
from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.pruning import prune, pruning_report


def test_report(rng):
    network = classifier(rng)
    with pytest.warns(UserWarning, match="outputs"):
        pruned = prune(network, 0.9, distribution="uniform")
    report = pruning_report(network, pruned, batch=32, rounds=3)
    assert report.nnz == (624, 62)
    assert report.bytes == (network.nbytes, pruned.nbytes)
    assert [change.name for change in report.layers] == list(network.weights)
    assert [change.nnz for change in report.layers] == [(240, 24), (320, 32), (64, 6)]
    assert sum(change.bytes[1] for change in report.layers) == pruned.nbytes
    assert report.density == (1.0, 62 / 624)
    assert min(report.seconds) > 0
    assert report.speedup == report.seconds[0] / report.seconds[1]
    lines = str(report).splitlines()
    head = "weight shape (out x in) nnz before nnz after density before density after bytes"
    assert " ".join(lines[0].split()).startswith(head)
    assert lines[1].split()[:8] == [
        "layers.0.weight",
        "20",
        "x",
        "12",
        "240",
        "24",
        "100.000%",
        "10.000%",
    ]
    assert lines[4].split()[:3] == ["total", "624", "62"]
    assert "32 samples" in lines[5]
    assert "medians of 3 rounds" in lines[5]


def test_report_with_samples_and_without_timing(rng):
    network = classifier(rng)
    pruned = prune(network, 0.5)
    X = sp.csr_array(rng.standard_normal((9, 12)))
    assert pruning_report(network, pruned, X=X, rounds=1, backend="graphblas").samples == 9
    silent = pruning_report(network, pruned, rounds=0)
    assert silent.seconds is None
    assert silent.speedup is None
    assert len(str(silent).splitlines()) == 5


def test_accuracy_before_and_after(rng):
    network = classifier(rng)
    pruned = prune(network, 0.7)
    X, y = rng.standard_normal((50, 12)), rng.integers(4, size=50)
    report = pruning_report(network, pruned, X=X, y=y, rounds=0)
    guesses = [each.predict(X).argmax(axis=1) for each in (network, pruned)]
    assert report.accuracy == tuple(float((guess == y).mean()) for guess in guesses)
    assert report.mean_squared_error is None
    text = f"accuracy, 50 samples: {report.accuracy[0]:.4f} before, {report.accuracy[1]:.4f} after"
    assert str(report).splitlines()[-1] == text
    values = rng.standard_normal((50, 4))
    report = pruning_report(network, pruned, X=X, y=values, rounds=0)
    errors = [np.square(each.predict(X) - values).mean() for each in (network, pruned)]
    assert report.mean_squared_error == pytest.approx(tuple(errors), rel=1e-6)
    assert report.accuracy is None


@pytest.mark.parametrize("behind", [[], [LSTM(np.ones((8, 6)), np.ones((8, 2)))]])
def test_symbols_are_timed(behind, rng):
    network = Network([Embedding(random_dense(rng, 6, 9)), *behind])
    report = pruning_report(network, prune(network, 0.7), batch=5, rounds=1)
    assert report.samples == 5
    assert report.seconds is not None


@pytest.mark.parametrize(("end", "limit"), [("sigmoid", 0.5), ("identity", 0.0)])
def test_accuracy_of_one_output(rng, end, limit):
    network = Network([Linear(random_dense(rng, 1, 6)), end])
    X, y = rng.standard_normal((40, 6)), rng.integers(2, size=40)
    found = pruning_report(network, network, X=X, y=y, rounds=0).accuracy[0]
    assert found == ((network.predict(X)[:, 0] > limit) == y).mean()
    values = pruning_report(network, network, X=X, y=y.astype(float), rounds=0)
    assert values.accuracy is None
    assert values.mean_squared_error is not None


def test_report_refuses(rng):
    network, other = classifier(rng), random_network(rng, (12, 20, 4))
    with pytest.raises(ShapeError, match="after"):
        pruning_report(network, other)
    with pytest.raises(DtypeError):
        pruning_report(network, None)
    with pytest.raises(InputError, match="rounds"):
        pruning_report(network, network, rounds=-1)
    with pytest.raises(InputError, match="batch"):
        pruning_report(network, network, batch=0)
    with pytest.raises(ShapeError):
        pruning_report(network, network, X=np.ones((3, 5)))
    with pytest.raises(InputError, match="X"):
        pruning_report(network, network, y=[0, 1])
    for y in (np.zeros(4, int), np.zeros((3, 2)), np.zeros(3)):
        with pytest.raises(ShapeError, match="3 classes"):
            pruning_report(network, network, X=np.ones((3, 12)), y=y, rounds=0)
