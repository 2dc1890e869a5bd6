"""Tensors of torch as weights, biases and samples, in every layout that torch has."""

from __future__ import annotations

import numpy as np
import pytest

import gbdnn
from gbdnn.errors import DtypeError, GbdnnError

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC|BSR|BSC) tensor support"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),
]

VALUES = torch.tensor([[0.0, 1.5, 0.0, 0.0], [2.0, 0.0, -3.0, 0.5]])  # what every dtype can hold
LAYOUTS = {
    "strided": lambda t: t,
    "transposed": lambda t: t.T.contiguous().T,
    "csr": lambda t: t.to_sparse_csr(),
    "csc": lambda t: t.to_sparse_csc(),
    "coo": lambda t: t.to_sparse(),
    "bsr": lambda t: t.to_sparse_bsr((1, 2)),
    "bsc": lambda t: t.to_sparse_bsc((2, 1)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("parameter", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_weights(layout, parameter, dtype):
    """A sparse tensor stays sparse, a dense one is dense; nothing of torch is changed."""
    tensor = LAYOUTS[layout](VALUES.to(getattr(torch, dtype)))
    if parameter:
        tensor = torch.nn.Parameter(tensor)
    bias = torch.nn.Parameter(torch.tensor([0.5, -1.0]))
    made = gbdnn.Linear(tensor, bias)
    np.testing.assert_array_equal(made.weight.to_dense(allow_dense=True), VALUES.numpy())
    np.testing.assert_array_equal(made.bias, bias.detach().numpy())
    dense = gbdnn.Linear(VALUES.numpy())
    assert made.weight.form == (dense.weight.form if layout in ("strided", "transposed") else "csr")
    assert made.dtype == np.float32
    assert tensor.requires_grad == parameter


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples(layout):
    network = gbdnn.Network([gbdnn.Linear(np.ones((3, 4), np.float32))])
    wanted = network.predict(VALUES.numpy())
    for tensor in (VALUES, VALUES.clone().requires_grad_()):
        np.testing.assert_array_equal(network.predict(LAYOUTS[layout](tensor)), wanted)


def test_a_repeated_entry_is_added():
    tensor = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (1, 3), check_invariants=True)
    assert gbdnn.Linear(tensor).weight.to_dense(allow_dense=True).tolist() == [[0, 3, 0]]


def test_tensors_that_do_not_fit():
    damaged = torch.sparse_csr_tensor([0, 1], [9], [1.0], (1, 3), check_invariants=False)
    for tensor in (VALUES.to(torch.complex64), VALUES.to("meta"), damaged, VALUES[0]):
        with pytest.raises(GbdnnError, match="weight"):
            gbdnn.Linear(tensor)


def test_what_is_no_network(tmp_path):
    """`prune` and its neighbours say how to come to a network."""
    from gbdnn.estimators import SparseMLPClassifier
    from gbdnn.training import gradients

    X, y = np.eye(4), [0, 1, 0, 1]
    model = SparseMLPClassifier().partial_fit(X, y, classes=[0, 1])
    for call in (
        lambda it: gbdnn.prune(it, 0.95),
        lambda it: gbdnn.prune(it, 0.95, X=X, y=y, score="gradient"),
        lambda it: gbdnn.pruning.pruning_report(it, it),
        lambda it: gbdnn.Trainer().fit(it, X, y),
        lambda it: gradients(it, X, y),
    ):
        with pytest.raises(DtypeError, match=r"SparseMLPClassifier.*network_"):
            call(model)
        with pytest.raises(DtypeError, match=r"gbdnn\.load"):
            call(tmp_path / "m")
        with pytest.raises(DtypeError, match="got Linear"):
            call(torch.nn.Linear(4, 1))
    model.network_ = gbdnn.prune(model.network_, 0.7)
    assert model.predict(X).shape == (4,)
