"""Gradients of a network in training against central differences, on every backend."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from builders import ALL, THREADS, random_csr, random_dense
from gradients import check_gradient

from gbdnn import Linear, Network, layers
from gbdnn.data.batches import Batch
from gbdnn.data.inputs import as_inputs
from gbdnn.layers import LOSSES, Dropout
from gbdnn.training.model import Model

WIDTHS = (9, 14, 12, 5)
BETWEEN: dict[str, list[Any]] = {
    "nothing": [],
    "relu": ["relu"],
    "capped": [layers.ReLU(0.7)],
    "leaky": ["leaky_relu"],
    "leaky both ways": [layers.LeakyReLU(-0.2)],
    "tanh": ["tanh"],
    "sigmoid": ["sigmoid"],
    "gelu": ["gelu"],
    "softmax": ["softmax"],
    "dropout": [Dropout(0.3)],
    "relu, dropout": ["relu", Dropout(0.3)],
    "dropout, relu": [Dropout(0.3), "relu"],
    "gelu, dropout": ["gelu", Dropout(0.3)],
    "tanh, relu": ["tanh", "relu"],
    "relu, gelu, tanh": ["relu", "gelu", "tanh"],
    "identity, gelu": ["identity", "gelu"],
}


class Problem:
    """A network in training, its data, and L as a function of its parameters."""

    def __init__(
        self, rng: np.random.Generator, name: str, between: list[Any], loss: str, *,
        last: Any = None, samples: int = 21, threads: int = 1, dense: bool = False,
        sparse_inputs: bool = False,
    ) -> None:  # fmt: skip
        stack: list[Any] = []
        for columns, rows in pairwise(WIDTHS):
            make = random_dense if dense else random_csr
            weight = make(rng, rows, columns, 0.4, np.float64)
            stack += [Linear(weight, 0.3 * rng.standard_normal(rows), dtype=np.float64), *between]
        stack = stack[: len(stack) - len(between)] + ([last] if last is not None else [])
        self.model = Model(Network(stack), loss=LOSSES[loss], backend=name, threads=threads)
        X: Any = rng.standard_normal((samples, WIDTHS[0]))
        if sparse_inputs:
            X = sp.csr_array(X * (rng.random(X.shape) < 0.5))
        self.inputs = as_inputs(X, WIDTHS[0], np.dtype(np.float64))
        self.ids = rng.permutation(samples)
        shape = (samples, WIDTHS[-1])
        classes = LOSSES[loss].kind == "classes"
        self.targets = rng.integers(WIDTHS[-1], size=samples) if classes else rng.random(shape)
        self.weights = rng.random(samples) / samples

    def point(self) -> list[Any]:
        return [parameter.value.copy() for parameter in self.model.parameters.values()]

    def evaluate(self, point: Any, observe: Any = None) -> float:
        for parameter, wanted in zip(self.model.parameters.values(), point, strict=True):
            parameter.value[...] = wanted
        self.model.changed()
        batch = Batch(self.inputs, self.ids, self.targets, self.weights, 1.0)
        return self.model.loss_and_gradients(batch, rng=np.random.default_rng(5), observe=observe)

    def gradient(self, point: Any) -> list[Any]:
        for parameter in self.model.parameters.values():
            parameter.grad[...] = np.nan
        self.evaluate(point)
        return [parameter.grad.copy() for parameter in self.model.parameters.values()]

    def kinks(self, point: Any) -> Any:
        """Return which neurons pass gradients on, and the signs of what they say."""
        sides: list[Any] = []
        self.evaluate(point, lambda name, dZ, Y: sides.extend([dZ.ravel() != 0, Y.ravel() > 0]))
        return np.concatenate(sides)

    def check(self, rng: np.random.Generator, factor: float = 1.0) -> None:
        point = self.point()
        gradient = [factor * part for part in self.gradient(point)]
        check_gradient(self.evaluate, point, gradient, rng, terms=200, kinks=self.kinks)


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("name", ALL)
def test_activations(name, between, rng):
    Problem(rng, name, BETWEEN[between], "mse").check(rng)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ALL)
def test_losses(name, loss, rng):
    Problem(rng, name, ["relu"], loss).check(rng)


@pytest.mark.parametrize(
    "last", [layers.Identity(), layers.ReLU(), layers.ReLU(0.5), layers.LeakyReLU(), layers.Tanh(),
             layers.Sigmoid(), layers.GELU(), layers.Softmax()], ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("loss", ["mse", "huber", "cross_entropy", "binary_cross_entropy"])
def test_last_activations(loss, last, rng):
    """Some are part of the loss; the others are between it and the last layer."""
    for name in ("dense", "fused"):
        Problem(rng, name, ["tanh"], loss, last=last).check(rng)


@pytest.mark.parametrize("samples", [1, 16, 17, 150])
@pytest.mark.parametrize("name", ALL)
def test_batches_of_any_size(name, samples, rng):
    Problem(rng, name, ["gelu"], "cross_entropy", samples=samples, threads=THREADS).check(rng)


@pytest.mark.parametrize("name", ALL)
def test_dense_weights_and_sparse_inputs(name, rng):
    Problem(rng, name, ["tanh"], "cross_entropy", dense=True, sparse_inputs=True).check(rng)


@pytest.mark.parametrize("name", ALL)
def test_wrong_by_one_part_in_a_thousand_is_noticed(name, rng):
    for factor in (1.001, 0.999):
        with pytest.raises(AssertionError, match="the gradient says"):
            Problem(rng, name, ["relu"], "cross_entropy").check(rng, factor)
