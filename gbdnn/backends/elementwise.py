"""Compiled elementwise passes of a training step: each reads and writes its arrays once.

numpy would take six passes and as many temporaries for Adam; here memory is the limit. Everything
is elementwise (a row's sum by itself), so results do not depend on the number of threads.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numba import from_dtype, types

from gbdnn.backends.fused.compilation import array_type, jit, load
from gbdnn.backends.workers import share
from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.types import Array

__all__ = ["adam", "relu_backward", "row_sums", "sgd"]

SMALL = 1 << 20  # elements, a quarter of a millisecond: waking a thread takes up to a tenth
PIECES = 2  # ranges for each thread
elementwise = partial(jit, error_model="numpy")  # Python's check for division by 0 ends vectors
summing = partial(jit, fastmath={"reassoc"})  # sums in vectors


def adam(
    value: Array,
    grad: Array,
    first: Array,
    second: Array,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    step: int,
    decay: float,
    decoupled: bool,
    threads: int = 1,
) -> None:
    r"""Take a step of Adam, in place, in one pass.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        w &= w - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    with :math:`g + \lambda w` for g, or if `decoupled` with :math:`w - \eta \lambda w` for w.

    Parameters
    ----------
    value, grad, first, second : ndarray, of one shape and dtype (float32 or float64), C-contiguous
        w, g, m and v; all but g are changed.
    learning_rate, beta1, beta2, epsilon, decay : float
    step : int
        t, from 1.
    decoupled : bool
    threads : int

    Raises
    ------
    ShapeError, DtypeError, InputError
        For arrays that the compiled code cannot use, or a step below 1.

    References
    ----------
    Kingma and Ba 2015, algorithm 1, in the order of operations of the end of section 2; Loshchilov
    and Hutter 2019, algorithm 2.
    """
    if step < 1:
        raise InputError("step", "1 or more", str(step))
    arrays = _flat(value=value, grad=grad, first=first, second=second)
    # sqrt(v / c) = sqrt(v) / sqrt(c): both corrections are single numbers
    numbers = (
        learning_rate / (1 - beta1**step), beta1, 1 - beta1, beta2, 1 - beta2,
        1 / math.sqrt(1 - beta2**step), epsilon,
        0.0 if decoupled else decay, 1 - learning_rate * decay if decoupled else 1.0,
    )  # fmt: skip
    _run(_adam, arrays, numbers, threads)


def sgd(
    value: Array,
    grad: Array,
    velocity: Array | None,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    decay: float,
    threads: int = 1,
) -> None:
    r"""Take a step of gradient descent, in place, in one pass.

    .. math::
        u = \mu u - \eta (g + \lambda w) \qquad
        w = w + u \quad \text{or} \quad w + \mu u - \eta (g + \lambda w)

    Parameters
    ----------
    value, grad, velocity : ndarray, of one shape and dtype (float32 or float64), C-contiguous
        w, g and u; w and u are changed. Without a velocity momentum does not count.
    learning_rate, momentum, decay : float
    nesterov : bool
        The second form.
    threads : int

    Raises
    ------
    ShapeError, DtypeError, InputError
        For arrays that the compiled code cannot use.

    References
    ----------
    Sutskever, Martens, Dahl and Hinton 2013, section 2, with Nesterov's point ahead as the variable
    (Bengio, Boulanger-Lewandowski and Pascanu 2013, section 3.5).
    """
    if velocity is None:
        _run(_descent, _flat(value=value, grad=grad), (learning_rate, decay), threads)
        return
    ahead = (momentum, 1.0) if nesterov else (1.0, 0.0)
    arrays = _flat(value=value, grad=grad, velocity=velocity)
    _run(_momentum, arrays, (learning_rate, momentum, decay, *ahead), threads)


def relu_backward(Y: Array, dY: Array, low: float, high: float, threads: int = 1) -> None:
    """Replace dY by dZ for Y = min(max(Z, low), high): 0 where not low < Y < high, in place.

    Parameters
    ----------
    Y, dY : ndarray, of one shape and dtype (float32 or float64), C-contiguous
    low, high : float
        May be infinite.
    threads : int

    Raises
    ------
    ShapeError, DtypeError, InputError
        For arrays that the compiled code cannot use.
    """
    _run(_between, _flat(dY=dY, Y=Y), (low, high, 0.0), threads)


def row_sums(dZ: Array, out: Array, threads: int = 1) -> None:
    """Compute out[i] = sum of dZ[:, i, :], the gradient of the bias.

    Parameters
    ----------
    dZ : ndarray, shape (tiles, features, width), C-contiguous
    out : ndarray, shape (features,), of the same dtype, C-contiguous
    threads : int

    Raises
    ------
    ShapeError, DtypeError, InputError
        For arrays that the compiled code cannot use.
    """
    if dZ.ndim != 3 or out.shape != (dZ.shape[1],):
        got = f"shapes {dZ.shape} and {out.shape}"
        raise ShapeError("dZ, out", "shapes (tiles, features, width) and (features,)", got)
    _check("out", out, out.dtype, writes=True)
    _check("dZ", dZ, out.dtype)
    if dZ.size == 0:
        out.fill(0)
        return
    _load(out.dtype)
    share(lambda rows: _row_sums(dZ, *rows, out), _ranges(len(out), dZ.size, threads), threads)


def _flat(**arrays: Array) -> list[Array]:
    """Check arrays, the first of which decides and all of which but g and Y are written to."""
    name, model = next(iter(arrays.items()))
    for key, array in arrays.items():
        if array.shape != model.shape:
            raise ShapeError(key, f"shape {model.shape}, as {name}", f"shape {array.shape}")
        _check(key, array, model.dtype, writes=key not in ("grad", "Y"))
    return [array.reshape(-1) for array in arrays.values()]


def _check(name: str, array: Array, dtype: np.dtype[Any], writes: bool = False) -> None:
    if array.dtype != dtype or dtype not in (np.float32, np.float64):
        raise DtypeError(name, "float32 or float64, all arrays the same", str(array.dtype))
    if not array.flags.c_contiguous:
        raise InputError(name, "a C-contiguous array", f"strides {array.strides}")
    if writes and not array.flags.writeable:
        raise InputError(name, "an array that can be written", "a read-only one")


def _run(
    kernel: Callable[..., None], arrays: list[Array], numbers: tuple[float, ...], threads: int
) -> None:
    """Call `kernel` for ranges of the elements."""
    dtype, count = arrays[0].dtype, len(arrays[0])
    _load(dtype)
    exact = [dtype.type(number) for number in numbers]  # double numbers would widen float32

    def run(part: tuple[int, int]) -> None:  # in slices: positions from 0 need no sign, so vectors
        kernel(*(array[slice(*part)] for array in arrays), *exact)

    share(run, _ranges(count, count, threads), threads)


def _ranges(count: int, work: int, threads: int) -> list[tuple[int, int]]:
    pieces = threads * PIECES if threads > 1 and work >= SMALL else 1
    edges = [count * k // pieces for k in range(pieces + 1)]
    return list(pairwise(edges))


@elementwise
def _adam(  # type: ignore[no-untyped-def]
    value, grad, first, second,
    rate, beta1, rest1, beta2, rest2, scale, epsilon, decay, keep,
):  # fmt: skip
    for k in range(len(value)):
        g = grad[k] + decay * value[k]
        m = beta1 * first[k] + rest1 * g
        v = beta2 * second[k] + rest2 * (g * g)
        first[k] = m
        second[k] = v
        value[k] = keep * value[k] - rate * m / (math.sqrt(v) * scale + epsilon)


@elementwise
def _descent(value, grad, rate, decay):  # type: ignore[no-untyped-def]
    for k in range(len(value)):
        value[k] -= rate * (grad[k] + decay * value[k])


@elementwise
def _momentum(  # type: ignore[no-untyped-def]
    value, grad, velocity, rate, momentum, decay, ahead, push
):
    for k in range(len(value)):
        step = rate * (grad[k] + decay * value[k])
        u = momentum * velocity[k] - step
        velocity[k] = u
        value[k] += ahead * u - push * step


@elementwise
def _between(dy, y, low, high, nothing):  # type: ignore[no-untyped-def]
    for k in range(len(dy)):
        dy[k] = dy[k] if (low < y[k]) & (y[k] < high) else nothing


@summing
def _row_sums(dz, start, stop, out):  # type: ignore[no-untyped-def]
    for tile in range(dz.shape[0]):
        for i in range(start, stop):
            total = dz[tile, i, 0]
            for c in range(1, dz.shape[2]):
                total += dz[tile, i, c]
            out[i] = total if tile == 0 else out[i] + total


@cache
def _load(dtype: np.dtype[Any]) -> None:
    """Load the passes from the disk cache, or compile them (2 seconds)."""
    real, size = from_dtype(dtype), types.int64
    inputs, changed = array_type(real, 1), array_type(real, 1, writable=True)
    load(_adam, changed, inputs, changed, changed, *[real] * 9)
    load(_descent, changed, inputs, real, real)
    load(_momentum, changed, inputs, changed, *[real] * 5)
    load(_between, changed, inputs, real, real, real)
    load(_row_sums, array_type(real, 3), size, size, changed)
