"""`pruning_report`."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from builders import random_network
from pruning_builders import classifier

from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.pruning import prune, pruning_report


def test_report(rng):
    network = classifier(rng)
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
