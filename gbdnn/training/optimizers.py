"""Optimizers: frozen settings and one update rule each; their state follows W's pattern, O(nnz)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from gbdnn import checks
from gbdnn.backends import elementwise
from gbdnn.errors import InputError, choose

__all__ = ["OPTIMIZERS", "SGD", "Adam", "AdamW", "Optimizer", "optimizer"]

Array = npt.NDArray[Any]


class Optimizer(Protocol):
    """What the Trainer asks of an optimizer."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the vectors that it keeps for each parameter, of the parameter's shape."""

    @property
    def weight_decay(self) -> float:
        """Decay of weights; biases are not decayed."""

    def newborn(self, slot: str, vector: Array) -> float:
        """Return what a vector, the layer's so far, has for an entry that is new in a pattern."""

    def update(
        self,
        value: Array,
        grad: Array,
        state: dict[str, Array],
        *,
        learning_rate: float,
        step: int,
        decay: float,
        threads: int = 1,
    ) -> None:
        """Change `value` and the vectors of `state` in place; steps count from 1."""


@dataclass(frozen=True)
class SGD:
    """v = momentum v - lr g; w += v, or with Nesterov's w += momentum v - lr g.

    The learning rate is inside v, as in the paper and in Keras; torch keeps it outside, which is
    the same as long as it does not change.

    Parameters
    ----------
    momentum : float in [0, 1)
    nesterov : bool
        Sutskever et al. 2013, section 2: the gradient counts as that of the point ahead.
    weight_decay : float
        Adds weight_decay * w to the gradient of weights (not of biases).
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        checks.fraction("momentum", self.momentum)
        checks.not_negative("weight_decay", self.weight_decay)
        if self.nesterov and not self.momentum:
            raise InputError("momentum", "more than 0 with nesterov=True", repr(self.momentum))

    @property
    def slots(self) -> tuple[str, ...]:
        """("velocity",), without momentum nothing."""
        return ("velocity",) if self.momentum else ()

    def newborn(self, slot: str, vector: Array) -> float:
        """Return 0."""
        return 0.0

    def update(
        self,
        value: Array,
        grad: Array,
        state: dict[str, Array],
        *,
        learning_rate: float,
        step: int,
        decay: float,
        threads: int = 1,
    ) -> None:
        """Change `value` and the velocity in place."""
        elementwise.sgd(
            value, grad, state.get("velocity"), learning_rate, self.momentum, self.nesterov,
            decay, threads,
        )  # fmt: skip


@dataclass(frozen=True)
class Adam:
    """w -= lr m' / (sqrt(v') + epsilon), m' and v' the bias-corrected moments of the gradient.

    Kingma and Ba 2015, algorithm 1: m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2,
    m' = m / (1 - beta1^t), v' = v / (1 - beta2^t). Weight decay adds to the gradient.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    slots = ("first", "second")
    decoupled = False

    def __post_init__(self) -> None:
        checks.fraction("beta1", self.beta1)
        checks.fraction("beta2", self.beta2)
        checks.positive("epsilon", self.epsilon)
        checks.not_negative("weight_decay", self.weight_decay)

    def newborn(self, slot: str, vector: Array) -> float:
        """Return 0 for the first moment, the layer's mean for the second.

        With a second moment of 0, late in a training, a new weight's first steps would have several
        times the size of the learning rate: the correction for t = 0 is long over.
        """
        return float(vector.mean()) if slot == "second" and len(vector) else 0.0

    def update(
        self,
        value: Array,
        grad: Array,
        state: dict[str, Array],
        *,
        learning_rate: float,
        step: int,
        decay: float,
        threads: int = 1,
    ) -> None:
        """Change `value` and both moments in place."""
        elementwise.adam(
            value, grad, state["first"], state["second"], learning_rate, self.beta1, self.beta2,
            self.epsilon, step, decay, self.decoupled, threads,
        )  # fmt: skip


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled decay: w -= lr weight_decay w beside Adam's step.

    Loshchilov and Hutter 2019, algorithm 2.
    """

    weight_decay: float = 0.01
    decoupled = True


OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Adam(),
    "adamw": AdamW(),
    "momentum": SGD(momentum=0.9),
    "nesterov": SGD(momentum=0.9, nesterov=True),
    "sgd": SGD(),
}


def optimizer(name: str) -> Optimizer:
    """Return the optimizer called `name`, with its default settings."""
    return OPTIMIZERS[choose("optimizer", name, OPTIMIZERS)]
