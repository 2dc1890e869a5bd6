"""Networks for pruning, and a training's steps with every pattern on the way."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from builders import random_dense

from gbdnn import CSR, Linear, Network
from gbdnn.data.batches import Batch
from gbdnn.data.inputs import as_inputs
from gbdnn.layers import LOSSES
from gbdnn.training.model import Model

STEPS = 40
SHAPES = [(20, 12), (16, 20), (4, 16)]


def classifier(rng, dtype=np.float32):
    """Return dense layers of `SHAPES`, with biases."""
    weights = [random_dense(rng, *shape, 1.0, dtype) for shape in SHAPES]
    first, second, third = (Linear(w, rng.standard_normal(len(w)), dtype=dtype) for w in weights)
    return Network([first, "relu", second, "tanh", third, "softmax"])


def dense_network(rng, widths=(12, 20, 16, 4), dtype=np.float32):
    """Return dense layers with ReLU in between, without biases."""
    layers = []
    for columns, rows in pairwise(widths):
        layers += [Linear(random_dense(rng, rows, columns, 1.0, dtype), dtype=dtype), "relu"]
    return Network(layers[:-1])


class Loop:
    """Steps of gradient descent as the Trainer takes them, every pattern kept and checked.

    Patterns, values and gradients are lists, in the order of the weights.
    """

    def __init__(self, network, method, *, steps=STEPS, seed=0, backend="dense"):
        rng = np.random.default_rng(seed)
        self.model = Model(network, loss=LOSSES["mse"], backend=backend, threads=1)
        self.parameters = [p for p in self.model.parameters.values() if p.decays]
        self.X = rng.standard_normal((32, network.in_features)).astype(network.dtype)
        self.y = rng.standard_normal((32, network.out_features)).astype(network.dtype)
        self.method, self.steps, self.seed = method, steps, seed
        self.state = method.start(self.model, steps, rng)
        self.patterns = {-1: self._patterns()}
        self.gradients = {}
        self.values = {}

    def _patterns(self):
        return [parameter.pattern for parameter in self.parameters]

    def run(self, start=0, stop=None):
        for t in range(start, self.steps if stop is None else stop):
            self.step(t)
        return self

    def step(self, t):
        model = self.model
        observed = {}
        observe = self.method.observer(self.state, model, t)

        def both(name, dZ, Y):
            tiles = zip(dZ.astype(float), Y.astype(float), strict=True)
            observed[name] = sum(z @ y.T for z, y in tiles)
            if observe is not None:
                observe(name, dZ, Y)

        inputs = as_inputs(self.X, model.in_features, model.dtype)
        batch = Batch(inputs, np.arange(32), self.y, np.full(32, 1 / 32), 1.0)
        model.loss_and_gradients(batch, observe=both)
        self.gradients[t] = [observed[parameter.name] for parameter in self.parameters]
        self.values[t] = [parameter.value.copy() for parameter in self.parameters]
        changed = self.method.update(self.state, model, t, np.random.default_rng([self.seed, t]))
        for name, weight in changed.items():
            CSR(weight.indptr, weight.indices, weight.values, weight.shape)  # canonical
            model.repattern(name, weight, None)
        if not changed:
            for parameter in model.parameters.values():
                parameter.value -= 0.05 * parameter.grad
        model.changed()
        self.patterns[t] = self._patterns()

    def density(self, t):
        patterns = self.patterns[t]
        return sum(p.nnz for p in patterns) / sum(p.shape[0] * p.shape[1] for p in patterns)
