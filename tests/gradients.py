"""Gradients against central differences, and a network's training step written out.

L(p + h d) - L(p - h d) over 2 h is the derivative of L along d up to

    h² / 6 |L'''|     what the difference leaves out: a third of what another h = 2h changes
    e / h             with e the rounding error of L

A computed product of k terms is the exact one of factors that are off by (k + 2) eps (Higham 2002,
section 3.1), so e <= (k + 2) eps (|L| + sum |dL/dp| |p|) over all parameters p. The best h is about
eps^(1/3), and leaves about eps^(2/3) = 4e-11 of it in float64: far below the 0.1 % that no wrong
gradient may hide in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gbdnn.backends import get_backend
from gbdnn.backends.base import aligned_empty
from gbdnn.layers import Dropout, LeakyReLU, Loss, ReLU
from gbdnn.types import Array
from gbdnn.weights import as_weight

EPS = float(np.finfo(np.float64).eps)
STEP = EPS ** (1 / 3)


def check_gradient(
    evaluate: Callable[[Sequence[Array]], float],
    point: Sequence[Array],
    gradient: Sequence[Array],
    rng: np.random.Generator,
    *,
    terms: int,
    kinks: Callable[[Sequence[Array]], Array] | None = None,
    directions: int = 2,
) -> None:
    """Assert that `gradient` is the gradient of `evaluate` at `point`, all in float64.

    Parameters
    ----------
    evaluate : callable
        L of arrays like `point`'s; called with other ones of the same shapes.
    point, gradient : sequences of ndarray
        Each array is checked by itself, along random directions.
    terms : int
        Length k of the longest sum inside of L.
    kinks : callable, optional
        Something of arrays like `point`'s that changes where L has a kink; directions along which
        it changes are replaced by others.
    """
    size = abs(evaluate(point))
    size += sum(float(np.sum(abs(g) * abs(p))) for g, p in zip(gradient, point, strict=True))
    for number, part in enumerate(point):
        for _ in range(directions if part.size else 0):
            direction = _smooth_direction(part, number, point, kinks, rng)

            def along(h: float, k: int = number, d: Array = direction) -> float:
                return evaluate(_moved(point, k, h * d))

            near = (along(STEP) - along(-STEP)) / (2 * STEP)
            far = (along(2 * STEP) - along(-2 * STEP)) / (4 * STEP)
            claimed = float(np.sum(gradient[number] * direction))
            bound = abs(far - near) + (terms + 2) * EPS * size / STEP
            assert abs(claimed - near) <= bound, (
                f"array {number}: the gradient says {claimed:.12g} along a direction, the "
                f"difference {near:.12g}, which is right to {bound:.2g}"
            )
            length = np.sqrt(np.sum(gradient[number] ** 2) * np.sum(direction**2) / part.size)
            assert bound <= 1e-4 * length or not length, "the check would notice nothing"


def _smooth_direction(
    part: Array,
    number: int,
    point: Sequence[Array],
    kinks: Callable[[Sequence[Array]], Array] | None,
    rng: np.random.Generator,
) -> Array:
    """Return a random direction along which no kink is crossed."""
    for _ in range(20):
        direction = rng.choice([-1.0, 1.0], part.shape) * rng.uniform(0.5, 1.5, part.shape)
        if kinks is None:
            return direction
        here = kinks(point)
        steps = (-2 * STEP, -STEP, STEP, 2 * STEP)
        if all(np.array_equal(here, kinks(_moved(point, number, h * direction))) for h in steps):
            return direction
    raise AssertionError("no direction without a kink: choose another point")


def _moved(point: Sequence[Array], number: int, change: Array) -> list[Array]:
    return [part + change if k == number else part for k, part in enumerate(point)]


# -- a training step -------------------------------------------------------------------------------


def tile_major(X: Array, width: int) -> Array:
    """Return samples, shape (n_samples, features), as tiles (tiles, features, width) with zeros."""
    tiles = -(-len(X) // width)
    out = aligned_empty(tiles * X.shape[1] * width, X.dtype).reshape(tiles, X.shape[1], width)
    out[...] = 0
    for sample, row in enumerate(X):
        out[sample // width, :, sample % width] = row
    return out


def samples_of(tiles: Array, count: int) -> Array:
    """Return the columns of tiles as rows, shape (count, features)."""
    return tiles.transpose(0, 2, 1).reshape(-1, tiles.shape[1])[:count]


@dataclass
class Chain:
    """h_k(W_k Y + b_k), layer after layer, and a loss, on a backend's products for training.

    `point` holds weights, biases and inputs: W_0, W_1, ..., b_0, b_1, ..., X.
    """

    backend: str
    weights: Sequence[Any]
    activations: Sequence[Any]
    loss: Loss
    targets: Array  # (n_samples,) or (n_samples, features)
    sample_weights: Array
    width: int = 16
    masks: dict[int, Array] = field(default_factory=dict)  # of dropout, by layer
    threads: int = 1

    def __post_init__(self) -> None:
        self.engine: Any = get_backend(self.backend)
        self.forms = [self.engine.prepare(as_weight(w), trained=True) for w in self.weights]

    def point(self, biases: Sequence[Array], X: Array) -> list[Array]:
        """Return where the weights are now, with biases and inputs."""
        return [*(form.values.copy() for form in self.forms), *biases, X]

    def evaluate(self, point: Sequence[Array]) -> float:
        """Return L."""
        return self._loss(self._forward(point)[-1][1])

    def kinks(self, point: Sequence[Array]) -> Array:
        """Return on which side of every kink L is."""
        kept = self._forward(point)
        sides = []
        for h, (Z, _) in zip(self.activations, kept[1:], strict=True):
            if isinstance(h, ReLU | LeakyReLU):
                sides.append((Z > 0).ravel())
            if isinstance(h, ReLU) and h.cap is not None:
                sides.append((h.cap < Z).ravel())
        last = kept[-1][1]
        if self.loss.name == "huber":
            sides.append((abs(samples_of(last, len(self.targets)) - self.targets) < 1).ravel())
        if self.loss.name == "hinge":
            dZ = last.copy()
            self._loss(dZ)  # which hinges are open, and against which class
            sides.append((dZ != 0).ravel())
        return np.concatenate([np.zeros(0, bool), *sides])

    def gradient(self, point: Sequence[Array]) -> list[Array]:
        """Return dL/dp for each array of the point."""
        kept = self._forward(point)
        dY = kept[-1][1].copy()
        self._loss(dY)
        weights, biases = [], []
        with self.engine.pinned(self.threads):
            for k in reversed(range(len(self.forms))):
                h, (Z, out), Y = self.activations[k], kept[k + 1], kept[k][1]
                self._derivative(k, h, Z, out, dY)
                weights.append(np.full_like(self.forms[k].values, np.nan))
                self.engine.weight_grad(self.forms[k], dY, Y, weights[-1], self.threads)
                biases.append(dY.sum(axis=(0, 2)))
                dX = np.full_like(Y, np.nan)
                self.engine.input_grad(self.forms[k], dY, dX, self.threads)
                dY = dX
        count = len(self.targets)
        assert not dY.transpose(0, 2, 1).reshape(-1, dY.shape[1])[count:].any(), "of padding"
        return [*reversed(weights), *reversed(biases), samples_of(dY, count)]

    def _forward(self, point: Sequence[Array]) -> list[tuple[Array, Array]]:
        """Return (Z, h(Z)) for the input and each layer."""
        depth = len(self.forms)
        Y = tile_major(point[-1], self.width)
        kept = [(Y, Y)]
        with self.engine.pinned(self.threads):
            for k, (form, h) in enumerate(zip(self.forms, self.activations, strict=True)):
                form.values[...] = point[k]
                form.refresh(self.threads)
                shape = (len(Y), form.pattern.shape[0], self.width)
                Z = aligned_empty(int(np.prod(shape)), Y.dtype).reshape(shape)
                bias = point[depth + k]
                self.engine.affine(form, Y, bias, Z, threads=self.threads)
                if isinstance(h, Dropout):
                    out = Z * self.masks[k]
                elif h.clamp is not None:  # in one pass, as training does it
                    out = np.empty_like(Z)
                    self.engine.affine(form, Y, bias, out, clamp=h.clamp, threads=self.threads)
                else:
                    out = Z.copy()
                    h.apply(out)
                kept.append((Z, out))
                Y = out
        return kept

    def _derivative(self, k: int, h: Any, Z: Array, out: Array, dY: Array) -> None:
        """Replace dY, the gradient with respect to h(Z), by that with respect to Z."""
        if isinstance(h, Dropout):
            dY *= self.masks[k]
        else:
            h.derivative(Z if h.needs == "input" else out, dY)

    def _loss(self, Z: Array) -> float:
        """Replace Z, tile-major, by dL/dZ and return L."""
        value = 0.0
        for t, tile in enumerate(Z):
            part = slice(t * self.width, (t + 1) * self.width)
            targets = _padded(self.targets[part], self.width).T
            weights = _padded(self.sample_weights[part], self.width)
            value += self.loss.function(tile, targets, weights)
        return value


def _padded(array: Array, width: int) -> Array:
    out = np.zeros((width, *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out
