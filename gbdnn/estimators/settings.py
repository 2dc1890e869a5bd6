"""What the estimators' parameters mean: checks, seeds, optimizer, labels and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from gbdnn import checks
from gbdnn.errors import DtypeError, InputError, choose
from gbdnn.models import TOPOLOGIES, hidden_activations
from gbdnn.pruning import GROWTHS, Sparsifier, sparsifier
from gbdnn.training.optimizers import SGD, Adam, AdamW, Optimizer
from gbdnn.training.schedules import SCHEDULES
from gbdnn.types import Array
from gbdnn.weights import as_float_dtype

__all__ = [
    "ALIASES", "check", "class_factors", "codes", "growth", "hidden_sizes", "optimizer", "seeds",
]  # fmt: skip

ALIASES = {"logistic": "sigmoid"}  # scikit-learn's names of activations
SOLVERS = ("adam", "adamw", "sgd")

# name: interval, whether whole
NUMBERS: dict[str, tuple[str, bool]] = {
    "alpha": ("[0, inf)", False),
    "learning_rate_init": ("(0, inf)", False),
    "max_iter": ("[1, inf)", True),
    "tol": ("[0, inf)", False),
    "n_iter_no_change": ("[1, inf]", True),
    "momentum": ("[0, 1)", False),
    "validation_fraction": ("(0, 1)", False),
    "beta_1": ("[0, 1)", False),
    "beta_2": ("[0, 1)", False),
    "epsilon": ("(0, inf)", False),
}
SWITCHES = ("shuffle", "warm_start", "early_stopping", "nesterovs_momentum")
PARTIAL = {"growth": None, "early_stopping": False, "learning_rate": "constant"}


def check(estimator: Any, *, partial: bool = False) -> None:
    """Check all parameters but those that need the data; `partial` for `partial_fit`.

    Raises
    ------
    InputError, DtypeError
    """
    for name, (interval, whole) in NUMBERS.items():
        checks.within(name, getattr(estimator, name), interval, whole=whole)
    for name in SWITCHES:
        if not isinstance(getattr(estimator, name), bool | np.bool_):
            raise InputError(name, "True or False", repr(getattr(estimator, name)))
    if estimator.batch_size != "auto":
        checks.within("batch_size", estimator.batch_size, "[1, inf)", whole=True)
    choose("activation", estimator.activation, [*hidden_activations(), *ALIASES])
    choose("solver", estimator.solver, SOLVERS)
    choose("topology", estimator.topology, TOPOLOGIES)
    growth(estimator.growth)
    if not callable(estimator.learning_rate):
        choose("learning_rate", estimator.learning_rate, SCHEDULES)
    hidden_sizes(estimator.hidden_layer_sizes)
    as_float_dtype(estimator.dtype)
    if partial:
        _check_partial(estimator)


def _check_partial(estimator: Any) -> None:
    """Refuse in `partial_fit` what must know how long the training lasts, or all labels."""
    for name, wanted in PARTIAL.items():
        if getattr(estimator, name) != wanted:
            fix = "partial_fit does not know how long the training goes on: use fit."
            got = repr(getattr(estimator, name))
            raise InputError(name, f"{wanted!r} in partial_fit", got, fix)
    if isinstance(getattr(estimator, "class_weight", None), str):
        fix = "Pass a dict; how often each class will come is not known."
        got = repr(estimator.class_weight)
        raise InputError("class_weight", "a dict or None in partial_fit", got, fix)


def growth(given: Any) -> Sparsifier | None:
    """Return what moves connections: of a name in `gbdnn.pruning.GROWTHS`, from time to time."""
    if given is None or isinstance(given, Sparsifier):
        return given
    return sparsifier("rigl", growth=choose("growth", given, GROWTHS))


def hidden_sizes(sizes: Any) -> list[int]:
    """Return the hidden layers' sizes as a list."""
    sizes = sizes.tolist() if isinstance(sizes, np.ndarray) else sizes
    listed = sizes if isinstance(sizes, Sequence) and not isinstance(sizes, str) else [sizes]
    interval = f"[1, {2**63})"
    return [int(checks.within("hidden_layer_sizes", n, interval, whole=True)) for n in listed]


def seeds(random_state: Any) -> list[int]:
    """Return seeds for first weights, held-out samples and order."""
    try:
        random = check_random_state(random_state)
    except ValueError:
        expected = "a whole number, a numpy.random.RandomState or None"
        raise InputError("random_state", expected, repr(random_state)) from None
    return [int(seed) for seed in random.randint(2**31 - 1, size=3)]


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
        factors[places[label]] = checks.within("class_weight", factor, "[0, inf)")
    return np.asarray(factors[codes])
