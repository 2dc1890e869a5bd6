"""`Trainer`: the settings of a training, checked, and `fit`. The loop itself is in `loop.py`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from gbdnn import checks
from gbdnn.backends import BACKENDS
from gbdnn.data.batches import ArrayBatches, Batches, StreamBatches
from gbdnn.data.samples import class_factors, samples, weighted
from gbdnn.errors import DtypeError, InputError, choose
from gbdnn.layers import LOSSES
from gbdnn.network import Network
from gbdnn.pruning import Sparsifier, sparsifier
from gbdnn.training.loop import Training
from gbdnn.training.model import Model
from gbdnn.training.optimizers import Optimizer, optimizer
from gbdnn.training.results import Callback, Result
from gbdnn.training.schedules import Schedule, schedule
from gbdnn.training.stopping import EarlyStopping
from gbdnn.training.validation import HeldOut

__all__ = ["Trainer"]


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Settings of a training; `fit` runs it.

    Parameters
    ----------
    loss : str
        "cross_entropy" (logits, or a softmax as the last layer), "binary_cross_entropy" (logits or
        a sigmoid), "hinge" (scores), "mse", "huber".
    optimizer : Optimizer or str
        For example ``Adam()``, ``SGD(momentum=0.9, nesterov=True)``, "adamw".
    learning_rate : float
    schedule : Schedule or str
        The learning rate's factor over the steps: "constant", "cosine", "step", "warm-up", or a
        function of (step, total).
    epochs, batch_size : int
        Passes over the data; samples in a mini-batch (of an iterable these are its items).
    shuffle : bool
        A new order each epoch (an iterable's order is its own).
    steps_per_epoch : int, optional
        For iterables: items in an epoch. One without a length needs it for schedules other than
        "constant", for pattern changes at parts of the training, and for more than one epoch.
    clip_norm : float, optional
        Gradients whose common Euclidean norm is above are scaled down to it.
    sparsifier : Sparsifier or str, optional
        What changes the patterns: "static" (nothing), "set", "rigl", "magnitude", ... or a
        `gbdnn.pruning.Sparsifier`.
    class_weight : "balanced" or dict, optional
        Factors of the sample weights by class, not in validation; balanced is
        n / (classes that occur * count of the class).
    early_stopping : EarlyStopping, optional
    callbacks : sequence of callables
        Called with an `Event` after each step and epoch; a true result ends the training.
    checkpoint : path, optional
        Folder of checkpoints. `fit` goes on from the newest one there that is whole.
    checkpoint_every : int, optional
        Steps between checkpoints, besides one after each epoch.
    backend : str
    threads : int, optional
        Default all cores.
    progress : bool
        A bar with epoch and loss on standard error.
    rng : int or Generator
        Of a generator `fit` draws one number. With the fused backend a training depends on it
        alone, not on `threads`.

    Raises
    ------
    InputError, DtypeError, UnknownNameError
        At once, if a setting cannot be used.

    Notes
    -----
    Equal settings, network, data and `rng` give equal bits on one machine; so does a training that
    was killed and goes on from a checkpoint (one thread; an iterable must give the same again).
    """

    loss: str = "cross_entropy"
    optimizer: Optimizer | str = "adam"
    learning_rate: float = 1e-3
    schedule: Schedule | str = "constant"
    epochs: int = 10
    batch_size: int = 128
    shuffle: bool = True
    steps_per_epoch: int | None = None
    clip_norm: float | None = None
    sparsifier: Sparsifier | str | None = None
    class_weight: Any = field(default=None, hash=False)  # dicts have no hash
    early_stopping: EarlyStopping | None = None
    callbacks: tuple[Callback, ...] = ()
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: int | None = None
    backend: str = "fused"
    threads: int | None = None
    progress: bool = False
    rng: int | np.random.Generator = 0

    def __post_init__(self) -> None:
        choose("loss", self.loss, LOSSES)
        choose("backend", self.backend, BACKENDS)
        put = object.__setattr__
        put(self, "optimizer", _named("optimizer", self.optimizer, optimizer, "update", "slots"))
        put(self, "schedule", schedule(self.schedule))
        if self.sparsifier is not None:
            put(self, "sparsifier", _named("sparsifier", self.sparsifier, sparsifier, "start"))
        put(self, "learning_rate", checks.positive("learning_rate", self.learning_rate))
        decay = cast("Optimizer", self.optimizer).weight_decay
        if self.learning_rate * decay > 1:
            expected, got = f"at most 1 / weight_decay = {1 / decay:g}", f"{self.learning_rate!r}"
            raise InputError("learning_rate", expected, got, "Decay would overshoot zero.")
        if self.clip_norm is not None:
            put(self, "clip_norm", checks.positive("clip_norm", self.clip_norm))
        for name in ("epochs", "batch_size", "steps_per_epoch", "checkpoint_every"):
            if getattr(self, name) is not None or name in ("epochs", "batch_size"):
                put(self, name, checks.count(name, getattr(self, name)))
        put(self, "rng", checks.generator_or_seed("rng", self.rng))
        put(self, "callbacks", _callables("callbacks", self.callbacks))
        if not isinstance(self.early_stopping, EarlyStopping | None):
            got = type(self.early_stopping).__name__
            raise DtypeError("early_stopping", "an EarlyStopping or None", got)
        if not isinstance(self.checkpoint, str | os.PathLike | None):
            raise DtypeError("checkpoint", "a path or None", type(self.checkpoint).__name__)
        if self.checkpoint_every is not None and self.checkpoint is None:
            expected = "a folder where checkpoint_every is given"
            raise InputError("checkpoint", expected, "None")

    def fit(
        self,
        network: Network,
        X: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        validation: tuple[Any, ...] | None = None,
    ) -> Result:
        """Train a copy of `network`.

        Parameters
        ----------
        network : Network
            Not changed. Sparse weights keep their patterns unless `sparsifier` changes them; dense
            ones stay dense.
        X : array_like or scipy sparse (n_samples, in_features), or an iterable of mini-batches
            A sparse X stays sparse. An iterable yields (X, y) or (X, y, sample_weight) and is
            passed over once an epoch; then `y` is not given.
        y : array_like
            Classes (n_samples,) as numbers from 0, or values (n_samples, out_features).
        sample_weight : array_like, shape (n_samples,), optional
        validation : tuple (X, y) or (X, y, sample_weight), optional
            Adds `validation_loss` and `validation_score` to the history.

        Returns
        -------
        Result

        Raises
        ------
        DivergenceError
            At the first loss or gradient that is not finite, before that step changes a weight. Its
            `result` has the weights of before, all finite, or early stopping's best.
        TrainingInterrupted (KeyboardInterrupt)
            On Ctrl-C, after the step that it came in and a checkpoint; its `result` is the training
            after that step.
        ShapeError, DtypeError, NonFiniteError, InputError
            If an argument does not fit, or the checkpoints belong to another training.
        FileFormatError, DataUnavailableError
            If there are checkpoints but none is whole, or their folder cannot be written.

        Warns
        -----
        UserWarning
            For damaged checkpoints that are skipped, for one that cannot be written (a full disk;
            the training goes on, older files stay), and for an iterator that ends too early.
        """
        return self._run(Training(self, network), X, y, sample_weight, validation)

    def resume(
        self,
        training: Training,
        X: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        validation: tuple[Any, ...] | None = None,
    ) -> Result:
        """Go on with a training that ended: `result.training`, or the `result` of an exception.

        For more epochs, after Ctrl-C or a callback's stop, or with another learning rate after a
        `DivergenceError`; ``dataclasses.replace(trainer, ...)`` makes such settings.

        Parameters
        ----------
        training : Training
            Is changed. Its seed counts, not `rng`.
        X, y, sample_weight, validation
            As for `fit`; for bits as if it had never ended, those of before.

        Raises
        ------
        InputError
            If loss, optimizer, sparsifier, batch_size or backend are others than before; else as
            `fit`.
        """
        if not isinstance(training, Training):
            got = type(training).__name__
            raise DtypeError("training", "a Training, as in result.training", got)
        for name in ("loss", "optimizer", "sparsifier", "batch_size", "backend"):
            before, now = getattr(training.trainer, name), getattr(self, name)
            if before != now:
                raise InputError(name, f"{before!r}, as before", repr(now))
        training.use(self)
        return self._run(training, X, y, sample_weight, validation)

    def _run(
        self, training: Training, X: Any, y: Any, sample_weight: Any, validation: Any
    ) -> Result:
        batches = self._batches(training.model, X, y, sample_weight)
        return training.run(batches, _held_out(training.model, validation))

    def _batches(self, model: Model, X: Any, y: Any, sample_weight: Any) -> Batches:
        """Check what `fit` was given and cut it into mini-batches."""
        if y is None:
            return self._stream(model, X, sample_weight)
        if self.steps_per_epoch is not None:
            got = repr(self.steps_per_epoch)
            raise InputError("steps_per_epoch", "None where X and y are arrays", got)
        inputs, targets, weights = samples(model, X, y, sample_weight)
        if self.batch_size > inputs.count:
            expected = f"at most {inputs.count}, the number of samples"
            fix = f"With batch_size={inputs.count} each step takes them all."
            raise InputError("batch_size", expected, f"{self.batch_size}", fix)
        if self.class_weight is not None:
            weights = weighted(weights, class_factors(self.class_weight, model, targets), targets)
        return ArrayBatches(inputs, targets, weights, self.batch_size, self.shuffle)

    def _stream(self, model: Model, X: Any, sample_weight: Any) -> Batches:
        if sample_weight is not None:
            fix = "Let the iterable give (X, y, sample_weight)."
            raise InputError("sample_weight", "None where y is None", "weights", fix)
        if not isinstance(X, Iterable) or hasattr(X, "shape") or isinstance(X, str | bytes):
            raise DtypeError("y", "targets, or as X an iterable of (X, y)", "None")
        if isinstance(X, Iterator) and self.epochs > 1 and self.steps_per_epoch is None:
            expected = f"a number, as X can be passed over once only and epochs is {self.epochs}"
            fix = "Or pass an iterable that starts anew for each epoch, or epochs=1."
            raise InputError("steps_per_epoch", expected, "None", fix)
        factors = None
        if self.class_weight is not None:
            factors = class_factors(self.class_weight, model)
        return StreamBatches(X, model, self.steps_per_epoch, factors)


def _held_out(model: Model, validation: Any) -> HeldOut | None:
    if validation is None:
        return None
    if not (isinstance(validation, tuple | list) and len(validation) in (2, 3)):
        expected = "a tuple (X, y) or (X, y, sample_weight)"
        raise DtypeError("validation", expected, type(validation).__name__)
    X, y, weights = (*validation, None)[:3]
    return HeldOut(*samples(model, X, y, weights, prefix="validation "))


def _named(argument: str, given: Any, make: Any, *methods: str) -> Any:
    """Return what a name stands for; anything else must have `methods`."""
    if isinstance(given, str):
        return make(given)
    if isinstance(given, type) or not all(hasattr(given, method) for method in methods):
        got = repr(given) if isinstance(given, type) else type(given).__name__
        raise DtypeError(argument, f"a name or an object with {' and '.join(methods)}", got)
    return given


def _callables(argument: str, given: Any) -> tuple[Callback, ...]:
    found = tuple(given) if isinstance(given, Iterable) else (None,)
    if not all(callable(callback) for callback in found):
        raise DtypeError(argument, "a sequence of callables", repr(given)[:100])
    return found
