"""Activations: h of the equation. Each is a class with `apply` and `derivative`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import numpy as np

from gbdnn.errors import InputError
from gbdnn.layers import functional
from gbdnn.layers.base import Activation, Bounds
from gbdnn.types import Array

__all__ = ["GELU", "Identity", "LeakyReLU", "ReLU", "Sigmoid", "Softmax", "Tanh"]


@dataclass(frozen=True)
class Identity(Activation):
    """h(z) = z."""

    kind = "identity"
    is_elementwise = True

    @property
    def clamp(self) -> Bounds:
        """No bounds."""
        return -np.inf, np.inf

    def apply(self, Z: Array) -> None:
        """Leave Z as it is."""

    def derivative(self, Y: Array, dY: Array) -> None:
        """Leave dY as it is."""


@dataclass(frozen=True)
class ReLU(Activation):
    """h(z) = max(z, 0), or with a cap min(max(z, 0), cap).

    Parameters
    ----------
    cap : float, optional
        Positive; 32 in the Sparse DNN Graph Challenge.
    """

    kind = "relu"
    is_elementwise = True

    cap: float | None = None

    def __post_init__(self) -> None:
        if self.cap is not None and not (isinstance(self.cap, Real) and self.cap > 0):
            raise InputError("cap", "a positive number or None", repr(self.cap))

    @property
    def clamp(self) -> Bounds:
        """(0, cap)."""
        return 0.0, np.inf if self.cap is None else float(self.cap)

    @property
    def settings(self) -> Mapping[str, float | None]:
        """The cap; an infinite one, which JSON cannot say, is none."""
        return {"cap": None if self.clamp[1] == np.inf else float(self.clamp[1])}

    def apply(self, Z: Array) -> None:
        """Replace Z by h(Z)."""
        functional.relu(Z, self.cap)

    def derivative(self, Y: Array, dY: Array) -> None:
        """Replace dY by dZ = dY * h'(Z), from h(Z)."""
        functional.relu_backward(Y, dY, self.cap)


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """h(z) = z for z > 0, else negative_slope * z."""

    kind = "leaky_relu"
    is_elementwise = True

    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        if not (isinstance(self.negative_slope, Real) and np.isfinite(float(self.negative_slope))):
            raise InputError("negative_slope", "a finite number", repr(self.negative_slope))

    @property
    def needs(self) -> Literal["output", "input"]:
        """What `backward` wants: Z if the slope is negative, where h(Z) > 0 on both sides of 0."""
        return "output" if self.negative_slope >= 0 else "input"

    def apply(self, Z: Array) -> None:
        """Replace Z by h(Z)."""
        functional.leaky_relu(Z, self.negative_slope)

    def derivative(self, kept: Array, dY: Array) -> None:
        """Replace dY by dZ = dY * h'(Z), from h(Z) or Z as `needs` says."""
        functional.leaky_relu_backward(kept, dY, self.negative_slope)


@dataclass(frozen=True)
class Tanh(Activation):
    """h(z) = tanh(z)."""

    kind = "tanh"
    is_elementwise = True

    apply = staticmethod(functional.tanh)
    derivative = staticmethod(functional.tanh_backward)


@dataclass(frozen=True)
class Sigmoid(Activation):
    """h(z) = 1 / (1 + exp(-z))."""

    kind = "sigmoid"
    is_elementwise = True

    apply = staticmethod(functional.sigmoid)
    derivative = staticmethod(functional.sigmoid_backward)


@dataclass(frozen=True)
class GELU(Activation):
    """h(z) = z * Phi(z), the exact form."""

    kind = "gelu"
    is_elementwise = True

    @property
    def needs(self) -> Literal["output", "input"]:
        """Z: most negative values of h(Z) are taken twice."""
        return "input"

    apply = staticmethod(functional.gelu)
    derivative = staticmethod(functional.gelu_backward)


@dataclass(frozen=True)
class Softmax(Activation):
    """h(z)_i = exp(z_i) / sum_j exp(z_j) over the features of a sample."""

    kind = "softmax"

    apply = staticmethod(functional.softmax)
    derivative = staticmethod(functional.softmax_backward)
