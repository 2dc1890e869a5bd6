"""The official networks of the Sparse DNN Graph Challenge, made instead of downloaded.

They are RadiX-Nets whose layers are shuffled by MATLAB's `randperm`. The result equals the official
files byte for byte (`write_layer` of `gbdnn.challenge.files`). Kepner et al. 2019,
arXiv:1909.05631.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.errors import InputError
from gbdnn.topology.radix import distinct_rows
from gbdnn.weights.csr import CSR

__all__ = ["CAP", "LAYERS", "NEURONS", "Spec", "layers"]

NEURONS = (1024, 4096, 16384, 65536)
LAYERS = (120, 480, 1920)
CAP = 32.0  # upper bound of an activation
FAN = 32  # edges into and out of each neuron
COPIES = 16  # a layer is one small layer, repeated 16 x 16 times
WEIGHT = 1 / 16
BIAS = dict(zip(NEURONS, (-0.30, -0.35, -0.40, -0.45), strict=True))
CATEGORIES = dict(zip(NEURONS, (1812, 1801, 1918, 1994), strict=True))


@dataclass(frozen=True)
class Spec:
    """One network of the challenge.

    Parameters
    ----------
    neurons : {1024, 4096, 16384, 65536}
        Neurons in each layer, which are also the inputs' features.
    layers : int
        1 to 1920; official are 120, 480 and 1920. A shorter network is a prefix of a longer one.
    """

    neurons: int
    layers: int

    def __post_init__(self) -> None:
        if not isinstance(self.neurons, int | np.integer) or self.neurons not in NEURONS:
            known = ", ".join(map(str, NEURONS))
            raise InputError("neurons", f"one of {known}", repr(self.neurons))
        _check_range("layers", self.layers, 1, LAYERS[-1])

    @property
    def bias(self) -> float:
        """The bias of every neuron."""
        return BIAS[self.neurons]

    @property
    def cap(self) -> float:
        """The upper bound of an activation."""
        return CAP

    @property
    def edges(self) -> int:
        """Non-zeros of all weights together: 32 a neuron."""
        return FAN * self.neurons * self.layers

    @property
    def known_categories(self) -> int | None:
        """How many of the 60,000 official inputs survive; None unless `layers` is official."""
        return CATEGORIES[self.neurons] if self.layers in LAYERS else None


def layers(spec: Spec, *, start: int = 0, stop: int | None = None) -> Iterator[CSR]:
    r"""Yield the weights of layers start ... stop - 1, counted from 0.

    With :math:`M = N/16`, :math:`G = \log_2 M`, :math:`k = g G + i`, the cyclic shift P of M nodes
    and the permutation :math:`\Pi_g` of the rows (none for g = 0), the official layer k, whose rows
    are inputs, is :math:`\frac1{16} \Pi_g (1_{16 \times 16} \otimes (I + P^{2^i}))`; its transpose
    is returned.

    Parameters
    ----------
    spec : Spec
    start, stop : int
        Part of the network; `stop` is `spec.layers` if not given.

    Yields
    ------
    CSR
        (out_features, in_features) = (N, N), 32 entries a row, int32 indices, and one float32
        value, 1/16, for all entries. One layer is in memory at a time.

    Raises
    ------
    InputError
        Not 0 <= start <= stop <= spec.layers. Raised at the call, not at the first layer.
    """
    _check_range("start", start, 0, spec.layers)
    stop = spec.layers if stop is None else stop
    _check_range("stop", stop, start, spec.layers)
    return _generate(spec.neurons, start, stop)


def _generate(neurons: int, start: int, stop: int) -> Iterator[CSR]:
    nodes, group_size = _group(neurons)
    values = np.array([WEIGHT], np.float32)
    indptr = np.arange(0, FAN * neurons + 1, FAN, dtype=np.int32)
    permutations = _permutations(neurons, start // group_size)
    group, permutation = -1, np.empty(0, np.int32)
    for k in range(start, stop):
        if k // group_size != group:
            group, permutation = k // group_size, next(permutations)
        rows = permutation[distinct_rows(nodes, 2, 2 ** (k % group_size), COPIES)]
        rows.sort(axis=1)
        yield CSR.unchecked(indptr, np.tile(rows.ravel(), COPIES), values, (neurons, neurons))


def _permutations(neurons: int, group: int) -> Iterator[npt.NDArray[np.int32]]:
    """Yield the row permutations of groups `group`, `group` + 1, ...: row r is stored as p[r].

    MATLAB's default generator is numpy's RandomState(5489), and its `randperm` sorts uniform draws.
    One stream ran on through all four sizes, each made to 1920 layers; what precedes is drawn and
    dropped, since this generator cannot jump.
    """
    stream = np.random.RandomState(5489)
    for smaller in NEURONS[: NEURONS.index(neurons)]:
        groups = -(-LAYERS[-1] // _group(smaller)[1])
        _drop(stream, smaller * (groups - 1))
    _drop(stream, neurons * max(group - 1, 0))
    if group == 0:  # the first group is stored as it is
        yield np.arange(neurons, dtype=np.int32)
    while True:
        yield np.argsort(stream.random_sample(neurons), kind="stable").astype(np.int32)


def _drop(stream: np.random.RandomState, draws: int) -> None:
    for first in range(0, draws, 1 << 20):  # in pieces: 1920 layers need 100 MB at once
        stream.random_sample(min(1 << 20, draws - first))


def _group(neurons: int) -> tuple[int, int]:
    """Return the nodes of the small layer and how many layers join all of them."""
    nodes = neurons // COPIES
    return nodes, nodes.bit_length() - 1


def _check_range(argument: str, number: Any, low: int, high: int) -> None:
    whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not whole or not low <= number <= high:
        raise InputError(argument, f"a whole number from {low} to {high}", repr(number))
