"""Optimizers against their papers' formulas and against torch."""

from __future__ import annotations

import numpy as np
import pytest

from gbdnn.errors import InputError, UnknownNameError
from gbdnn.training.optimizers import OPTIMIZERS, SGD, Adam, AdamW, optimizer

STEPS = 7
RATE = 0.05


def run(rule, dtype=np.float64, *, rates=(RATE,) * STEPS, decay=None):
    """Take steps with fixed random gradients; return the values after each."""
    rng = np.random.default_rng(3)
    value = rng.standard_normal(50).astype(dtype)
    state = {name: np.zeros_like(value) for name in rule.slots}
    found = [value.copy()]
    for step, rate in enumerate(rates, start=1):
        grad = rng.standard_normal(50).astype(dtype)
        before = grad.copy()
        decay_now = rule.weight_decay if decay is None else decay
        rule.update(value, grad, state, learning_rate=rate, step=step, decay=decay_now)
        np.testing.assert_array_equal(grad, before)
        found.append(value.copy())
    return np.array(found)


def by_torch(make):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    value = torch.nn.Parameter(torch.from_numpy(rng.standard_normal(50)))
    rule = make(torch.optim, [value])
    found = [value.detach().numpy().copy()]
    for _ in range(STEPS):
        value.grad = torch.from_numpy(rng.standard_normal(50))
        rule.step()
        found.append(value.detach().numpy().copy())
    return np.array(found)


PAIRS = {
    "sgd": (SGD(), lambda o, p: o.SGD(p, lr=RATE)),
    "sgd, decay": (SGD(weight_decay=0.1), lambda o, p: o.SGD(p, lr=RATE, weight_decay=0.1)),
    "momentum": (SGD(momentum=0.9), lambda o, p: o.SGD(p, lr=RATE, momentum=0.9)),
    "momentum, decay": (
        SGD(momentum=0.9, weight_decay=0.1),
        lambda o, p: o.SGD(p, lr=RATE, momentum=0.9, weight_decay=0.1),
    ),
    "nesterov": (
        SGD(momentum=0.8, nesterov=True),
        lambda o, p: o.SGD(p, lr=RATE, momentum=0.8, nesterov=True),
    ),
    "nesterov, decay": (
        SGD(momentum=0.8, nesterov=True, weight_decay=0.1),
        lambda o, p: o.SGD(p, lr=RATE, momentum=0.8, nesterov=True, weight_decay=0.1),
    ),
    "adam": (Adam(), lambda o, p: o.Adam(p, lr=RATE)),
    "adam, settings": (
        Adam(beta1=0.5, beta2=0.9, epsilon=1e-3, weight_decay=0.1),
        lambda o, p: o.Adam(p, lr=RATE, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1),
    ),
    "adamw": (AdamW(), lambda o, p: o.AdamW(p, lr=RATE)),
    "adamw, decay": (
        AdamW(weight_decay=0.3), lambda o, p: o.AdamW(p, lr=RATE, weight_decay=0.3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_torch(name):
    rule, make = PAIRS[name]
    np.testing.assert_allclose(run(rule), by_torch(make), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", PAIRS)
def test_single_precision_follows_double(name):
    rule = PAIRS[name][0]
    np.testing.assert_allclose(run(rule, np.float32), run(rule), rtol=0, atol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_learning_rate_is_inside_the_velocity(nesterov):
    """Sutskever's form, which differs from torch's when the rate changes."""
    rates = [0.1, 0.1, 0.01, 0.01]
    rng = np.random.default_rng(3)
    w, v, expected = rng.standard_normal(50), np.zeros(50), []
    for rate in rates:
        grad = rng.standard_normal(50)
        v = 0.9 * v - rate * grad
        w = w + (0.9 * v - rate * grad if nesterov else v)
        expected.append(w)
    found = run(SGD(momentum=0.9, nesterov=nesterov), rates=rates)[1:]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_the_comparison_notices_one_part_in_a_thousand():
    right, wrong = run(Adam()), run(Adam(), rates=(RATE * 1.001,) * STEPS)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(wrong, right, rtol=0, atol=1e-13)


def test_names():
    for name, rule in OPTIMIZERS.items():
        assert optimizer(name) == rule
        assert hash(rule) == hash(optimizer(name))
    with pytest.raises(UnknownNameError, match="'adamw'"):
        optimizer("adamax")


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(momentum=1.0),
        lambda: SGD(momentum=-0.1),
        lambda: SGD(momentum=float("nan")),
        lambda: SGD(momentum="0.9"),
        lambda: SGD(momentum=True),
        lambda: SGD(nesterov=True),
        lambda: SGD(weight_decay=-1),
        lambda: SGD(weight_decay=float("inf")),
        lambda: Adam(beta1=1.0),
        lambda: Adam(beta2=float("nan")),
        lambda: Adam(epsilon=0.0),
        lambda: AdamW(weight_decay=None),
    ],
)
def test_bad_settings(make):
    with pytest.raises(InputError):
        make()
