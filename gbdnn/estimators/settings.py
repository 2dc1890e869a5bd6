"""What the estimators' parameters mean: checks, first weights, optimizer, class weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_random_state

from gbdnn.errors import DtypeError, InputError, MemoryBudgetError, choose
from gbdnn.layers import Linear
from gbdnn.machine import available_bytes
from gbdnn.network import Network
from gbdnn.pruning import Sparsifier
from gbdnn.topology import erdos_renyi, erk_densities
from gbdnn.training.optimizers import SGD, Adam, AdamW, Optimizer
from gbdnn.training.schedules import SCHEDULES
from gbdnn.weights.csr import CSR, as_float_dtype

__all__ = [
    "PROGRESS",
    "check",
    "class_factors",
    "codes",
    "fresh_network",
    "hidden_sizes",
    "linears",
    "optimizer",
    "seeds",
]

Array = npt.NDArray[Any]

ACTIVATIONS = {
    "gelu": "gelu", "identity": "identity", "leaky_relu": "leaky_relu", "logistic": "sigmoid",
    "relu": "relu", "tanh": "tanh",
}  # fmt: skip
HEADS = {"identity": "identity", "logistic": "sigmoid", "softmax": "softmax"}
RECTIFIERS = ("gelu", "leaky_relu", "relu")  # halve the variance, which "he" makes up for
SOLVERS = ("adam", "adamw", "sgd")
GROWTHS = ("rigl", "set")
TOPOLOGIES = ("erk", "uniform")
TRAINING_BYTES = 32  # for each weight while training: both orientations, gradient, Adam's moments
# What a `Training` is beside its network.
PROGRESS = ("trainer", "seed", "slots", "epoch", "position", "step", "records")

# name: (expected, test)
NUMBERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "alpha": ("a finite number from 0 up", lambda v: 0 <= v < math.inf),
    "learning_rate_init": ("a finite number above 0", lambda v: 0 < v < math.inf),
    "max_iter": ("a whole number from 1 up", lambda v: v >= 1 and v % 1 == 0),
    "tol": ("a finite number from 0 up", lambda v: 0 <= v < math.inf),
    "n_iter_no_change": (
        "a whole number from 1 up, or infinity",
        lambda v: v == math.inf or (v >= 1 and v % 1 == 0),
    ),
    "momentum": ("a number from 0 to below 1", lambda v: 0 <= v < 1),
    "validation_fraction": ("a number above 0 and below 1", lambda v: 0 < v < 1),
    "beta_1": ("a number from 0 to below 1", lambda v: 0 <= v < 1),
    "beta_2": ("a number from 0 to below 1", lambda v: 0 <= v < 1),
    "epsilon": ("a finite number above 0", lambda v: 0 < v < math.inf),
}
SWITCHES = ("shuffle", "warm_start", "early_stopping", "nesterovs_momentum")


def check(estimator: Any, *, partial: bool = False) -> None:
    """Check all parameters but those that need the data; `partial` for `partial_fit`.

    Raises
    ------
    InputError, DtypeError
    """
    for name, (expected, test) in NUMBERS.items():
        _require(name, getattr(estimator, name), expected, test)
    for name in SWITCHES:
        if not isinstance(getattr(estimator, name), bool | np.bool_):
            raise InputError(name, "True or False", repr(getattr(estimator, name)))
    if estimator.batch_size != "auto":
        expected = "a whole number from 1 up, or 'auto'"
        _require("batch_size", estimator.batch_size, expected, lambda v: v >= 1 and v % 1 == 0)
    choose("activation", estimator.activation, ACTIVATIONS)
    choose("solver", estimator.solver, SOLVERS)
    choose("topology", estimator.topology, TOPOLOGIES)
    if estimator.growth is not None and not isinstance(estimator.growth, Sparsifier):
        choose("growth", estimator.growth, GROWTHS)
    if not callable(estimator.learning_rate):
        choose("learning_rate", estimator.learning_rate, SCHEDULES)
    hidden_sizes(estimator.hidden_layer_sizes)
    as_float_dtype(estimator.dtype)
    if partial:
        _check_partial(estimator)


def _check_partial(estimator: Any) -> None:
    """Refuse in `partial_fit` what must know how long the training lasts, or all labels."""
    for name, wanted in (
        ("growth", None), ("early_stopping", False), ("learning_rate", "constant")
    ):  # fmt: skip
        if getattr(estimator, name) != wanted:
            fix = "partial_fit does not know how long the training goes on: use fit."
            got = repr(getattr(estimator, name))
            raise InputError(name, f"{wanted!r} in partial_fit", got, fix)
    if isinstance(getattr(estimator, "class_weight", None), str):
        fix = "Pass a dict; how often each class will come is not known."
        got = repr(estimator.class_weight)
        raise InputError("class_weight", "a dict or None in partial_fit", got, fix)


def _require(name: str, value: Any, expected: str, test: Callable[[Any], bool]) -> None:
    if not (isinstance(value, Real) and not isinstance(value, bool) and test(value)):
        raise InputError(name, expected, repr(value))


def hidden_sizes(sizes: Any) -> list[int]:
    """Return the hidden layers' sizes as a list."""
    listed = _listed(sizes)
    listed = [sizes] if listed is None else listed
    for size in listed:
        expected = "whole numbers from 1 up to what fits into memory"
        _require("hidden_layer_sizes", size, expected, lambda v: 1 <= v < 2**63 and v % 1 == 0)
    return [int(size) for size in listed]


def _listed(value: Any) -> list[Any] | None:
    """Return a sequence as a list, None for anything else."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None


def seeds(random_state: Any) -> list[int]:
    """Return seeds for first weights, held-out samples and order."""
    try:
        random = check_random_state(random_state)
    except ValueError:
        expected = "a whole number, a numpy.random.RandomState or None"
        raise InputError("random_state", expected, repr(random_state)) from None
    return [int(seed) for seed in random.randint(2**31 - 1, size=3)]


def linears(network: Network) -> list[Linear]:
    """Return the layers that have weights."""
    return [layer for layer in network.layers if isinstance(layer, Linear)]


# -- the network to start from ---------------------------------------------------------------------


def fresh_network(estimator: Any, sizes: list[int], head: str, rng: np.random.Generator) -> Network:
    """Return a network with random connections; `sizes` are neurons from input to output.

    Hidden layers have weights by He's rule for rectifiers and Glorot's otherwise, and biases
    uniform within 1 / sqrt(inputs of the neuron), which spreads the kinks over the input space;
    the output layer has Glorot's weights and no bias.
    """
    shapes = [(out, into) for into, out in pairwise(sizes)]
    densities = _densities(estimator.density, shapes, estimator.topology)
    _check_room(shapes, densities)
    values = "he" if estimator.activation in RECTIFIERS else "glorot"
    layers: list[Any] = []
    for k, (shape, density) in enumerate(zip(shapes, densities, strict=True)):
        last = k == len(shapes) - 1
        weight = erdos_renyi(
            *shape, density=density, rng=rng, values="glorot" if last else values,
            dtype=estimator.dtype,
        )  # fmt: skip
        bound = 1 / np.sqrt(np.maximum(np.diff(weight.indptr), 1))
        bias = 0.0 if last else rng.uniform(-bound, bound)
        layers.append(Linear(_stored(weight), bias, dtype=estimator.dtype))
        layers.append(HEADS[head] if last else ACTIVATIONS[estimator.activation])
    return Network(layers)


def _stored(weight: CSR) -> CSR | Array:
    full = weight.nnz == weight.shape[0] * weight.shape[1]
    return weight.full_values.reshape(weight.shape) if full else weight


def _densities(density: Any, shapes: Sequence[tuple[int, int]], topology: str) -> list[float]:
    """Return the density of each layer."""
    listed = _listed(density)
    if listed is not None:
        if len(listed) != len(shapes):
            expected = f"one number, or {len(shapes)}, one for each layer with the output layer"
            raise InputError("density", expected, f"{len(listed)} numbers")
        return [_density(each) for each in listed]
    wanted = _density(density)
    if topology == "erk":
        densities = erk_densities(shapes, density=wanted)
    else:
        densities = [wanted] * (len(shapes) - 1) + [1.0]
    # With fewer weights than neurons most neurons would have no connection at all.
    floors = [min((out + into) / (out * into), 1.0) for out, into in shapes]
    return [max(pair) for pair in zip(densities, floors, strict=True)]


def _density(value: Any) -> float:
    _require("density", value, "a number above 0, at most 1", lambda v: 0 < v <= 1)
    return float(value)


def _check_room(shapes: Sequence[tuple[int, int]], densities: Sequence[float]) -> None:
    """Refuse a network that cannot be trained in the memory there is, before it is built."""
    weights = sum(out * into * d for (out, into), d in zip(shapes, densities, strict=True))
    neurons = sum(out + into for out, into in shapes)
    nbytes, free = int(TRAINING_BYTES * (weights + neurons)), available_bytes()
    if nbytes > free:
        raise MemoryBudgetError(
            "hidden_layer_sizes", f"a network that trains in the {free:,} bytes that are free",
            f"{weights:,.0f} weights, {nbytes:,} bytes", "Take smaller layers or a lower density.",
        )  # fmt: skip


# -- optimizer and weights of classes --------------------------------------------------------------


def optimizer(estimator: Any, batch: float) -> Optimizer:
    """Return the optimizer; `batch` is the sum of the samples' weights in a mean batch."""
    decay = float(estimator.alpha) / (1 if estimator.solver == "adamw" else batch)
    if decay * estimator.learning_rate_init > 1:
        expected = f"alpha * learning_rate_init below {batch:.3g}, the sample weights of a batch"
        fix = "Lower alpha, or multiply sample_weight by a number."
        raise InputError("alpha", expected, f"{estimator.alpha!r}", fix)
    momentum = float(estimator.momentum)
    if estimator.solver == "sgd":
        nesterov = bool(estimator.nesterovs_momentum) and momentum > 0
        return SGD(momentum, nesterov, weight_decay=decay)
    kind = AdamW if estimator.solver == "adamw" else Adam
    betas = float(estimator.beta_1), float(estimator.beta_2)
    return kind(*betas, epsilon=float(estimator.epsilon), weight_decay=decay)


def codes(y: Array, classes: Array) -> Array:
    """Return the number of each label among the sorted `classes`.

    Raises
    ------
    InputError
        Naming a label that is not among them.
    """
    try:
        found = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
        known = np.broadcast_to(classes[found] == y, y.shape)
    except TypeError:  # text and numbers
        found, known = np.zeros(len(y), int), np.zeros(len(y), bool)
    if not known.all():
        expected = f"labels among the classes of the first call, {classes}"
        got = ", ".join(map(repr, np.unique(y[~known]).tolist()[:5]))
        raise InputError("y", expected, f"unseen labels: {got}")
    return found


def class_factors(class_weight: Any, classes: Array, codes: Array, weights: Array) -> Array:
    """Return the factor of each sample's weight; "balanced" gives all classes the same sum."""
    if class_weight is None:
        return np.ones(len(codes))
    if isinstance(class_weight, str):
        choose("class_weight", class_weight, ["balanced"])
        sums = np.bincount(codes, weights, minlength=len(classes))
        factors = sums.sum() / (np.count_nonzero(sums) * np.where(sums > 0, sums, 1))
        return np.asarray(factors[codes])
    if not isinstance(class_weight, dict):
        got = type(class_weight).__name__
        raise DtypeError("class_weight", "a dict of label: factor, 'balanced' or None", got)
    places = {label: number for number, label in enumerate(classes.tolist())}
    factors = np.ones(len(classes))
    for label, factor in class_weight.items():
        if label not in places:
            raise InputError("class_weight", f"labels among {classes}", repr(label))
        expected = f"a finite number from 0 up for {label!r}"
        _require("class_weight", factor, expected, lambda v: 0 <= v < math.inf)
        factors[places[label]] = factor
    return np.asarray(factors[codes])
