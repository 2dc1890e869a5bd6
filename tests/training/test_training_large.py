"""A layer whose full matrix would take four terabytes trains a step."""

from __future__ import annotations

import pytest
from builders import run_script

SCRIPT = """
import numpy as np
from gbdnn import Linear, Network, Trainer
from gbdnn.data.inputs import as_inputs
from gbdnn.machine import peak_rss_bytes
from gbdnn.topology import erdos_renyi
from gbdnn.data.batches import Batch
from gbdnn.layers import LOSSES
from gbdnn.training.step import Training
from gbdnn.training.model import Model

N, NNZ, BATCH = 1_000_000, 50_000_000, 16
weight = erdos_renyi(N, N, density=NNZ / N**2, rng=0)
assert weight.nnz == NNZ
network = Network([Linear(weight), "relu"])
before = peak_rss_bytes()
model = Model(network, loss=LOSSES["mse"])
training = Training(Trainer(loss="mse", batch_size=BATCH), model)
rng = np.random.default_rng(0)
X, y = rng.random((2, BATCH, N), dtype=np.float32)
inputs = as_inputs(X, N, np.dtype(np.float32))
batch = Batch(inputs, np.arange(BATCH), y, np.ones(BATCH), float(BATCH))
values = model.parameters["layers.0.weight"].value.copy()
training.total = 3
losses = [training.train_step(batch) for _ in range(3)]
assert losses[2] < losses[1] < losses[0], losses
assert (model.parameters["layers.0.weight"].value != values).any()
print(training.nbytes / NNZ, peak_rss_bytes() - before)
"""


@pytest.mark.slow
def test_a_million_by_a_million_with_fifty_million_weights():
    per_weight, grown = map(float, run_script(SCRIPT, timeout=900).stdout.split())
    # both orientations, gradients, Adam's moments; tables by row are in it, biases too
    assert per_weight <= 32
    assert grown < 5e9
