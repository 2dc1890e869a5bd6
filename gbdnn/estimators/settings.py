"""What the estimators' parameters mean: checks, seeds, optimizer, labels and their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from gbdnn import checks
from gbdnn.errors import DtypeError, InputError, choose
from gbdnn.models import TOPOLOGIES, hidden_activations
from gbdnn.network import Network
from gbdnn.pruning import GROWTHS, Periodic, Sparsifier, sparsifier
from gbdnn.training.optimizers import SGD, Adam, AdamW, Optimizer
from gbdnn.training.schedules import SCHEDULES, InverseScaling, Schedule
from gbdnn.types import Array
from gbdnn.weights import as_float_dtype

__all__ = [
    "ALIASES", "ENDLESS", "check", "class_factors", "codes", "growth", "hidden_sizes", "optimizer",
    "rate", "schedule", "seeds", "steps",
]  # fmt: skip

ALIASES = {"logistic": "sigmoid"}  # scikit-learn's names of activations
SOLVERS = ("adam", "adamw", "sgd")

# name: interval, whether whole
NUMBERS: dict[str, tuple[str, bool]] = {
    "alpha": ("[0, inf)", False),
    "power_t": ("[0, inf)", False),
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
ENDLESS = ("adaptive", "constant", "invscaling")  # rates that do not fall to 0 at max_iter
RATE, STEPS, MOST = 0.002, 1000, 5  # of a dense network that makes so many steps or more
BETWEEN = 50  # steps at least between two exchanges of connections
# what partial_fit takes; the defaults that need a length mean None and "constant"
PARTIAL: dict[str, tuple[Any, ...]] = {
    "growth": (None, "rigl"),
    "early_stopping": (False,),
    "learning_rate": ("constant", "invscaling", "warm-up"),
}


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
    if not _is_auto(estimator.learning_rate_init):
        checks.within("learning_rate_init", estimator.learning_rate_init, "(0, inf)")
    if not _is_auto(estimator.batch_size):
        checks.within("batch_size", estimator.batch_size, "[1, inf)", whole=True)
    choose("activation", estimator.activation, [*hidden_activations(), *ALIASES])
    choose("solver", estimator.solver, SOLVERS)
    choose("topology", estimator.topology, TOPOLOGIES)
    growth(estimator.growth)
    if not callable(estimator.learning_rate):
        choose("learning_rate", estimator.learning_rate, [*SCHEDULES, *ENDLESS])
    hidden_sizes(estimator.hidden_layer_sizes)
    as_float_dtype(estimator.dtype)
    if partial:
        _check_partial(estimator)


def _check_partial(estimator: Any) -> None:
    """Refuse in `partial_fit` what must know how long the training lasts, or all labels."""
    for name, allowed in PARTIAL.items():
        if getattr(estimator, name) not in allowed:
            fix = "partial_fit does not know how long the training goes on: use fit."
            expected = f"{' or '.join(map(repr, allowed))} in partial_fit"
            raise InputError(name, expected, repr(getattr(estimator, name)), fix)
    if isinstance(getattr(estimator, "class_weight", None), str):
        fix = "Pass a dict; how often each class will come is not known."
        got = repr(estimator.class_weight)
        raise InputError("class_weight", "a dict or None in partial_fit", got, fix)


def growth(given: Any, steps: int = 1) -> Sparsifier | None:
    """Return what moves connections: of a name in `gbdnn.pruning.GROWTHS`, from time to time.

    In a training of few steps more seldom than every fiftieth part: what is new must learn.
    """
    if given is None or isinstance(given, Sparsifier):
        return given
    periods = Periodic(every=max(steps // 50, BETWEEN))
    return sparsifier("rigl", growth=choose("growth", given, GROWTHS), schedule=periods)


def steps(estimator: Any, batch: int, weights: Array) -> int:
    """Return how many steps `fit` makes at most; samples of weight 0 are in none."""
    return -(-int(np.count_nonzero(weights)) // batch) * int(estimator.max_iter)


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


def rate(estimator: Any, network: Network, steps: int | None = None) -> float:
    """Return the learning rate: as given, or for the network's density and the number of steps.

    He's first values grow by 1 / sqrt(density), and Adam's steps have the size of the rate, so
    that in a few of them weights cannot go far.
    """
    if not _is_auto(estimator.learning_rate_init):
        return float(estimator.learning_rate_init)
    places = sum(math.prod(weight.shape) for weight in network.weights.values())
    few = 1.0 if steps is None else min(max(STEPS / steps, 1.0), MOST)
    return few * RATE / math.sqrt(network.edges / places)


def schedule(estimator: Any, steps: int, samples: int) -> Schedule | str:
    """Return the learning rate's factors; `steps` and `samples` make a pass."""
    name = estimator.learning_rate
    if name == "invscaling":  # as in scikit-learn it falls from pass to pass
        return InverseScaling(float(estimator.power_t), every=steps, unit=samples)
    made: Schedule | str = "constant" if name == "adaptive" else name
    return made


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


def optimizer(estimator: Any, batch: float, rate: float) -> Optimizer:
    """Return the optimizer; `batch` is the sum of the samples' weights in a mean batch."""
    decay = float(estimator.alpha) / (1 if estimator.solver == "adamw" else batch)
    if decay * rate > 1:
        expected = f"alpha * {rate:.3g}, the rate, below {batch:.3g}, the sample weights of a batch"
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
