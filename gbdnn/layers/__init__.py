"""The layers of a network: frozen records, one equation each.

Inside a network a batch is neuron-major: Y has shape (features, batch), one column per sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gbdnn.errors import InputError, ShapeError, choose
from gbdnn.layers import functional
from gbdnn.layers.functional import Loss
from gbdnn.weights.csr import CSR, as_csr, as_float_dtype, check_finite
from gbdnn.weights.foreign import numeric_array

__all__ = [
    "ACTIVATIONS",
    "GELU",
    "LOSSES",
    "Activation",
    "Dropout",
    "Identity",
    "LeakyReLU",
    "Linear",
    "Loss",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "activation",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False, init=False)
class Linear:
    """Z = W Y + b.

    Parameters
    ----------
    weight : CSR, scipy sparse, graphblas.Matrix or ndarray, shape (out_features, in_features)
        A sparse weight stays sparse, an ndarray stays dense. Copied.
    bias : float or array_like of shape (out_features,), default 0
    dtype : float32 or float64, default float32
        What the layer computes in; weights and bias are converted to it.

    Raises
    ------
    DtypeError, ShapeError, SparseFormatError, NonFiniteError
        See `gbdnn.as_csr`; also for a bias of the wrong length and a weight of no rows or columns.
    """

    weight: CSR | Array
    bias: Array

    def __init__(self, weight: Any, bias: Any = 0.0, *, dtype: npt.DTypeLike = np.float32) -> None:
        dtype = as_float_dtype(dtype)
        if isinstance(weight, np.ndarray | list | tuple):
            weight = _dense_weight(weight, dtype)
        else:
            weight = as_csr(weight, dtype=dtype)
        if 0 in weight.shape:
            raise ShapeError("weight", "at least one row and one column", f"shape {weight.shape}")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", _bias(bias, weight.shape[0], dtype))

    @property
    def in_features(self) -> int:
        """Length of a column of Y."""
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """Length of a column of Z."""
        return int(self.weight.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.weight.dtype

    @property
    def edges(self) -> int:
        """Multiply-adds per sample: stored entries, of a dense weight all places."""
        return self.weight.nnz if isinstance(self.weight, CSR) else int(self.weight.size)

    def astype(self, dtype: npt.DTypeLike) -> Linear:
        """Return the layer in another float dtype."""
        return Linear(self.weight, self.bias, dtype=dtype)

    def __repr__(self) -> str:
        kind = f"nnz={self.edges}" if isinstance(self.weight, CSR) else "dense"
        return f"Linear({self.in_features} -> {self.out_features}, {kind}, {self.dtype})"


class _Elementwise:
    """What activations share; see `gbdnn.backends.base.Activation`."""

    # (low, high) if h(z) = min(max(z, low), high): kernels that clamp while storing look here.
    clamp: tuple[float, float] | None = None
    # What `backward` must be given as `kept`: h(Z), which the next layer keeps anyway, or Z.
    needs: Literal["output", "input"] = "output"


@dataclass(frozen=True)
class Identity(_Elementwise):
    """h(z) = z."""

    clamp = (-np.inf, np.inf)

    def apply(self, Z: Array) -> None:
        """Leave Z as it is."""

    def backward(self, Y: Array, dY: Array) -> None:
        """Leave dY as it is."""


@dataclass(frozen=True)
class ReLU(_Elementwise):
    """h(z) = max(z, 0), or with a cap min(max(z, 0), cap).

    Parameters
    ----------
    cap : float, optional
        Positive; 32 in the Sparse DNN Graph Challenge.
    """

    cap: float | None = None

    def __post_init__(self) -> None:
        if self.cap is not None and not (isinstance(self.cap, Real) and self.cap > 0):
            raise InputError("cap", "a positive number or None", repr(self.cap))

    @property
    def clamp(self) -> tuple[float, float]:  # type: ignore[override]
        """(0, cap)."""
        return 0.0, np.inf if self.cap is None else float(self.cap)

    def apply(self, Z: Array) -> None:
        """Replace Z by h(Z)."""
        functional.relu(Z, self.cap)

    def backward(self, Y: Array, dY: Array) -> None:
        """Replace dY by dZ = dY * h'(Z), from h(Z)."""
        functional.relu_backward(Y, dY, self.cap)


@dataclass(frozen=True)
class LeakyReLU(_Elementwise):
    """h(z) = z for z > 0, else negative_slope * z."""

    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        if not (isinstance(self.negative_slope, Real) and np.isfinite(float(self.negative_slope))):
            raise InputError("negative_slope", "a finite number", repr(self.negative_slope))

    @property
    def needs(self) -> Literal["output", "input"]:  # type: ignore[override]
        """What `backward` wants: Z if the slope is negative, where h(Z) > 0 on both sides of 0."""
        return "output" if self.negative_slope >= 0 else "input"

    def apply(self, Z: Array) -> None:
        """Replace Z by h(Z)."""
        functional.leaky_relu(Z, self.negative_slope)

    def backward(self, kept: Array, dY: Array) -> None:
        """Replace dY by dZ = dY * h'(Z), from h(Z) or Z as `needs` says."""
        functional.leaky_relu_backward(kept, dY, self.negative_slope)


@dataclass(frozen=True)
class Tanh(_Elementwise):
    """h(z) = tanh(z)."""

    def apply(self, Z: Array) -> None:
        """Replace Z by h(Z)."""
        functional.tanh(Z)

    def backward(self, Y: Array, dY: Array) -> None:
        """Replace dY by dZ = dY * h'(Z), from h(Z)."""
        functional.tanh_backward(Y, dY)


@dataclass(frozen=True)
class Sigmoid(_Elementwise):
    """h(z) = 1 / (1 + exp(-z))."""

    def apply(self, Z: Array) -> None:
        """Replace Z by h(Z)."""
        functional.sigmoid(Z)

    def backward(self, Y: Array, dY: Array) -> None:
        """Replace dY by dZ = dY * h'(Z), from h(Z)."""
        functional.sigmoid_backward(Y, dY)


@dataclass(frozen=True)
class GELU(_Elementwise):
    """h(z) = z * Phi(z), the exact form."""

    needs = "input"

    def apply(self, Z: Array) -> None:
        """Replace Z by h(Z)."""
        functional.gelu(Z)

    def backward(self, Z: Array, dY: Array) -> None:
        """Replace dY by dZ = dY * h'(Z), from Z."""
        functional.gelu_backward(Z, dY)


@dataclass(frozen=True)
class Softmax(_Elementwise):
    """h(z)_i = exp(z_i) / sum_j exp(z_j) over the features of a sample."""

    def apply(self, Z: Array) -> None:
        """Replace Z by h(Z)."""
        functional.softmax(Z)

    def backward(self, Y: Array, dY: Array) -> None:
        """Replace dY by dZ = dY * h'(Z), from h(Z)."""
        functional.softmax_backward(Y, dY)


@dataclass(frozen=True)
class Dropout:
    """h(z) = z in `predict`; in training m z, m = 0 with probability `rate`, else 1 / (1 - rate).

    Inverted dropout: the mean of m is 1, so that nothing changes at prediction (Srivastava et al.
    2014, section 10).

    Parameters
    ----------
    rate : float
        From 0 up to, but not including, 1.
    """

    rate: float = 0.5
    clamp = (-np.inf, np.inf)

    def __post_init__(self) -> None:
        if not (_is_real(self.rate) and 0 <= self.rate < 1):
            raise InputError("rate", "a number from 0 up to, but not, 1", repr(self.rate))

    def apply(self, Z: Array) -> None:
        """Leave Z as it is: prediction drops nothing."""

    def draw(
        self, shape: tuple[int, ...], rng: np.random.Generator, dtype: npt.DTypeLike = np.float32
    ) -> Array:
        """Return a mask, each element of it 0 or 1 / (1 - rate): in training h(Z) = Z * mask."""
        mask: Array = rng.random(shape, dtype=as_float_dtype(dtype).type)
        np.greater_equal(mask, float(self.rate), out=mask)
        mask /= 1 - float(self.rate)
        return mask

    def backward(self, mask: Array, dY: Array) -> None:
        """Replace dY by dZ = dY * mask, the mask that was drawn on the way forward."""
        dY *= mask


Activation = Identity | ReLU | LeakyReLU | Tanh | Sigmoid | GELU | Softmax | Dropout

ACTIVATIONS: dict[str, Callable[[], Activation]] = {
    "gelu": GELU,
    "identity": Identity,
    "leaky_relu": LeakyReLU,
    "relu": ReLU,
    "sigmoid": Sigmoid,
    "softmax": Softmax,
    "tanh": Tanh,
}


def activation(name: str) -> Activation:
    """Return the activation layer called `name`, with its default parameters."""
    return ACTIVATIONS[choose("activation", name, ACTIVATIONS)]()


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("binary_cross_entropy", functional.binary_cross_entropy, "values", Sigmoid),
        Loss("cross_entropy", functional.cross_entropy, "classes", Softmax),
        Loss("hinge", functional.hinge, "classes"),
        Loss("huber", functional.huber, "values"),
        Loss("mse", functional.mse, "values"),
    )
}


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _dense_weight(weight: Any, dtype: np.dtype[Any]) -> Array:
    array = numeric_array(weight, "weight")
    if array.ndim != 2:
        raise ShapeError("weight", "2 dimensions (out_features, in_features)", f"{array.shape}")
    return _frozen("weight", array, dtype)


def _bias(bias: Any, out_features: int, dtype: np.dtype[Any]) -> Array:
    array = numeric_array(bias, "bias")
    if array.shape not in ((), (out_features,)):
        expected = f"a number or a vector of length {out_features} (out_features)"
        raise ShapeError("bias", expected, f"shape {array.shape}")
    return _frozen("bias", array + 0, dtype)  # -0.0 becomes 0.0: skipping would show the difference


def _frozen(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Return a read-only, C-contiguous, finite copy in `dtype`."""
    check_finite(name, array)
    with np.errstate(over="ignore"):
        copy = np.array(array, dtype=dtype, order="C")
    check_finite(name, copy, f"The values do not fit into {dtype}.")
    copy.flags.writeable = False
    return copy
