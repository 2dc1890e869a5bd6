"""Gradients of whole networks on every backend: central differences and torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from builders import ALL, THREADS, random_csr, random_dense
from gradients import Chain, check_gradient, samples_of
from products import places

from gbdnn import layers
from gbdnn.layers import LOSSES, Dropout

EVERY = [
    layers.Identity(), layers.ReLU(), layers.ReLU(0.8), layers.LeakyReLU(), layers.LeakyReLU(0),
    layers.LeakyReLU(-0.3), layers.Tanh(), layers.Sigmoid(), layers.GELU(), layers.Softmax(),
    Dropout(0.4),
]  # fmt: skip
DEPTH, WIDTHS, SAMPLES = 3, (9, 14, 12, 5), 21  # two tiles of 16, the second with padding


def chain(rng, name, activation, loss, *, last=None, weights=None, threads=1):
    """Return a small network with `activation` in between, and a point."""
    widths = WIDTHS if loss != "hinge binary" else (*WIDTHS[:-1], 1)
    loss = LOSSES[loss.split()[0]]
    if weights is None:
        weights = [
            random_csr(rng, rows, columns, 0.4, np.float64) for columns, rows in pairwise(widths)
        ]
    targets: Any = rng.integers(max(widths[-1], 2), size=SAMPLES)
    if loss.kind == "values":
        targets = rng.random((SAMPLES, widths[-1]))
    masks = {}
    if isinstance(activation, Dropout):
        masks = {k: activation.draw((2, widths[k + 1], 16), rng, np.float64) for k in range(2)}
    made = Chain(
        name, weights, [activation] * 2 + [last or layers.Identity()], loss, targets,
        rng.random(SAMPLES) / SAMPLES, masks=masks, threads=threads,
    )  # fmt: skip
    biases = [0.3 * rng.standard_normal(rows) for rows in widths[1:]]
    return made, made.point(biases, rng.standard_normal((SAMPLES, widths[0])))


def check(made, point, rng, factor=1.0, array=None):
    gradient = [
        factor * part if array in (None, k) else part for k, part in enumerate(made.gradient(point))
    ]
    check_gradient(made.evaluate, point, gradient, rng, terms=80, kinks=made.kinks)


@pytest.mark.parametrize("activation", EVERY, ids=repr)
@pytest.mark.parametrize("name", ALL)
def test_gradients_through_activations(name, activation, rng):
    made, point = chain(rng, name, activation, "mse")
    check(made, point, rng)


@pytest.mark.parametrize("loss", [*LOSSES, "hinge binary"])
@pytest.mark.parametrize("name", ALL)
def test_gradients_of_losses(name, loss, rng):
    made, point = chain(rng, name, layers.ReLU(), loss)
    check(made, point, rng)


@pytest.mark.parametrize("last", [layers.Softmax(), layers.Sigmoid(), layers.ReLU(0.5)], ids=repr)
@pytest.mark.parametrize("name", ALL)
def test_gradients_through_a_last_activation(name, last, rng):
    made, point = chain(rng, name, layers.Tanh(), "huber", last=last)
    check(made, point, rng)


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_dense_and_sparse_layers_together(name, rng):
    weights = [
        random_dense(rng, 14, 9, 0.7, np.float64),
        random_csr(rng, 12, 14, 0.1, np.float64),
        random_csr(rng, 5, 12, 1.0, np.float64),
    ]
    made, point = chain(rng, name, layers.GELU(), "cross_entropy", weights=weights, threads=THREADS)
    check(made, point, rng)


@pytest.mark.parametrize("array", range(2 * DEPTH + 1))
def test_a_gradient_wrong_by_one_part_in_a_thousand_is_noticed(array, rng):
    made, point = chain(rng, "dense", layers.ReLU(), "cross_entropy")
    for factor in (1.001, 0.999):
        with pytest.raises(AssertionError, match=f"array {array}: the gradient says"):
            check(made, point, rng, factor, array)


def test_a_check_that_could_not_fail_is_refused(rng):
    point = [np.ones(3)]
    with pytest.raises(AssertionError, match="would notice nothing"):
        check_gradient(lambda p: 1e9 + float(p[0].sum()), point, [np.ones(3)], rng, terms=1)
    with pytest.raises(AssertionError, match="no direction without a kink"):
        check_gradient(
            lambda p: float(abs(p[0]).sum()), [np.zeros(3)], [np.zeros(3)], rng, terms=1,
            kinks=lambda p: np.sign(p[0]),
        )  # fmt: skip


def torch_gradient(made, point):
    """Return the gradient of a chain from torch's autograd, in float64."""
    import torch

    parts = [torch.tensor(part, requires_grad=True) for part in point]
    depth = len(made.forms)
    Y = parts[-1]
    for k, (form, h) in enumerate(zip(made.forms, made.activations, strict=True)):
        rows, columns = places(form)
        W = torch.zeros(form.pattern.shape, dtype=torch.float64)
        W = W.index_put((torch.tensor(rows), torch.tensor(columns).long()), parts[k])
        Z = Y @ W.T + parts[depth + k]
        match h:
            case layers.ReLU():
                Y = torch.clamp(Z, 0, h.cap)
            case layers.LeakyReLU():
                Y = torch.nn.functional.leaky_relu(Z, h.negative_slope)
            case layers.Dropout():
                Y = Z * torch.tensor(samples_of(made.masks[k], SAMPLES)) if k in made.masks else Z
            case layers.Softmax():
                Y = torch.softmax(Z, dim=1)
            case layers.Identity():
                Y = Z
            case _:
                functions = {"Tanh": torch.tanh, "Sigmoid": torch.sigmoid,
                             "GELU": torch.nn.functional.gelu}  # fmt: skip
                Y = functions[type(h).__name__](Z)
    each = torch.nn.functional.cross_entropy(Y, torch.tensor(made.targets), reduction="none")
    (each * torch.tensor(made.sample_weights)).sum().backward()
    return [part.grad.numpy() for part in parts]


@pytest.mark.parametrize("activation", EVERY, ids=repr)
@pytest.mark.parametrize("name", ALL)
def test_gradients_against_torch(name, activation, rng):
    pytest.importorskip("torch")
    made, point = chain(rng, name, activation, "cross_entropy")
    for ours, theirs in zip(made.gradient(point), torch_gradient(made, point), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-14)
