"""`Trainer`: the settings of a training, checked, and `fit`. The loop itself is in `loop.py`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from gbdnn import checks
from gbdnn.backends import BACKENDS
from gbdnn.data.batches import ArrayBatches, Batch, Batches, StreamBatches
from gbdnn.data.samples import class_factors, samples, weighted
from gbdnn.errors import DtypeError, InputError, choose
from gbdnn.layers import LOSSES, Loss
from gbdnn.network import Network, check_network
from gbdnn.pruning import PRESETS, Sparsifier
from gbdnn.quantization import PLANS, QuantizationPlan, as_plan, calibrate
from gbdnn.training.checkpoints import Checkpoints
from gbdnn.training.hooks import Bar, Callback, Callbacks, Hook, Validation
from gbdnn.training.loop import run
from gbdnn.training.model import Model, Trains
from gbdnn.training.optimizers import OPTIMIZERS, Optimizer
from gbdnn.training.ranks import Ranks
from gbdnn.training.schedules import Schedule, schedule
from gbdnn.training.step import Result, Training
from gbdnn.training.stopping import EarlyStopping, Stop

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
    quantization : str, QuantizationPlan or dict, optional
        Trains with rounded weights and activations, as a plan says: "naive_int4", "fasoli2021",
        "fasoli2022", "int8", a `gbdnn.quantization.QuantizationPlan`, or a dict of patterns, for
        example ``{"*.weight": "max"}``. Kernels compute with the levels, the optimizer changes the
        values behind them and the clips, which begin where X puts them
        (`gbdnn.quantization.calibrate`). The result's network computes in whole numbers.
    truncate : int, optional
        Of sequences: gradients go back through parts of so many time steps, states go on from part
        to part; a mini-batch is still one step of the optimizer. Default: through all.
    class_weight : "balanced" or dict, optional
        Factors of the sample weights by class, not in validation; balanced is
        n / (classes that occur * count of the class).
    early_stopping : EarlyStopping, optional
    callbacks : sequence of callables
        Called with an `Event` after each step and epoch; a true result ends the training.
    checkpoint : path, optional
        Folder of checkpoints. One that holds some is refused unless `fit` is told to ``resume``.
    checkpoint_every : int, optional
        Steps between checkpoints, besides one after each epoch.
    backend : str
    threads : int, optional
        Default all cores.
    progress : bool
        Epoch, loss, score and time left on standard error: a bar on a terminal and in notebooks,
        else a line from time to time. Changes no bit.
    ranks : Ranks, optional
        Processes that each run this with equal arguments and train one network together, with a
        part of each mini-batch each: `gbdnn.distributed.MPIRanks`. Rank 0 alone calls
        callbacks and writes checkpoints. Results are those of one process but for roundings; with
        dropout each rank draws its masks, and what quantizers keep of batches is the ranks' mean.
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
    quantization: QuantizationPlan | Mapping[str, Any] | str | None = field(
        default=None, hash=False
    )
    truncate: int | None = None
    class_weight: Any = field(default=None, hash=False)  # dicts have no hash
    early_stopping: EarlyStopping | None = None
    callbacks: tuple[Callback, ...] = ()
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: int | None = None
    backend: str = "fused"
    threads: int | None = None
    progress: bool = False
    ranks: Ranks | None = field(default=None, hash=False, compare=False)
    rng: int | np.random.Generator = 0

    def __post_init__(self) -> None:
        choose("loss", self.loss, LOSSES)
        choose("backend", self.backend, BACKENDS)
        put = object.__setattr__
        put(
            self,
            "optimizer",
            checks.entry("optimizer", self.optimizer, OPTIMIZERS, "update", "slots"),
        )
        put(self, "schedule", schedule(self.schedule))
        if self.sparsifier is not None:
            put(self, "sparsifier", checks.entry("sparsifier", self.sparsifier, PRESETS, "start"))
        if isinstance(self.quantization, str):
            choose("quantization", self.quantization, PLANS)
        elif self.quantization is not None:
            put(self, "quantization", as_plan(self.quantization, {}))
        put(self, "learning_rate", checks.positive("learning_rate", self.learning_rate))
        decay = cast("Optimizer", self.optimizer).weight_decay
        if self.learning_rate * decay > 1:
            expected, got = f"at most 1 / weight_decay = {1 / decay:g}", f"{self.learning_rate!r}"
            raise InputError("learning_rate", expected, got, "Decay would overshoot zero.")
        if self.clip_norm is not None:
            put(self, "clip_norm", checks.positive("clip_norm", self.clip_norm))
        for name in ("epochs", "batch_size", "steps_per_epoch", "checkpoint_every", "truncate"):
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
        lengths: Any = None,
        validation: tuple[Any, ...] | None = None,
        resume: bool = False,
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
            Classes (n_samples,) as numbers from 0, or values (n_samples, out_features). Of
            sequences with a result for each time step a list of such arrays, or padded as X is.
        sample_weight : array_like, shape (n_samples,), optional
        lengths : array_like of int, shape (n_samples,), optional
            Of X (n_samples, time, in_features), padded sequences; default their whole time.
        validation : tuple (X, y) or (X, y, sample_weight), optional
            Adds `validation_loss` and `validation_score` to the history.
        resume : bool
            Go on from the newest whole checkpoint in the folder `checkpoint`, if there is one.
            Without it a folder that holds checkpoints is refused.

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
        check_network("network", network)
        loss = LOSSES[self.loss]
        _check_end(network, loss)
        calibration = None
        if self.quantization is not None:
            X, seen = _first(X) if y is None else (X, X)
            calibration = calibrate(
                network, seen, self.quantization, backend=self.backend, threads=self.threads
            )
        make = Model if self.ranks is None else self.ranks.model
        model = make(
            network, loss=loss, backend=self.backend, threads=self.threads,
            quantization=calibration, truncate=self.truncate,
        )  # fmt: skip
        return self._run(Training(self, model), X, y, sample_weight, validation, resume,
                         lengths)  # fmt: skip

    def resume(
        self,
        training: Training,
        X: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        lengths: Any = None,
        validation: tuple[Any, ...] | None = None,
    ) -> Result:
        """Go on with a training that ended: `result.training`, or the `result` of an exception.

        For more epochs, after Ctrl-C or a callback's stop, or with another learning rate after a
        `DivergenceError`; ``dataclasses.replace(trainer, ...)`` makes such settings.

        Parameters
        ----------
        training : Training
            Is changed. Its seed counts, not `rng`.
        X, y, sample_weight, lengths, validation
            As for `fit`; for bits as if it had never ended, those of before.

        Raises
        ------
        InputError
            If loss, optimizer, sparsifier, quantization, batch_size, backend or truncate are others
            than before; else as `fit`.
        """
        if not isinstance(training, Training):
            got = type(training).__name__
            raise DtypeError("training", "a Training, as in result.training", got)
        same = ("loss", "optimizer", "sparsifier", "quantization", "batch_size", "backend",
                "truncate")  # fmt: skip
        for name in same:
            before, now = getattr(training.trainer, name), getattr(self, name)
            if before != now:
                raise InputError(name, f"{before!r}, as before", repr(now))
        training.use(self)
        return self._run(training, X, y, sample_weight, validation, lengths=lengths)

    def _run(
        self, training: Training, X: Any, y: Any, sample_weight: Any, validation: Any,
        resume: bool = False, lengths: Any = None,
    ) -> Result:  # fmt: skip
        batches = self._batches(training.model, X, y, sample_weight, lengths)
        return self._go(training, batches, _held_out(training.model, validation), resume)

    def train(
        self, model: Trains, batches: Batches, *, held_out: Any = None, resume: bool = False
    ) -> Result:
        """Train any model on its own mini-batches: what `fit` does once it has made both.

        Parameters
        ----------
        model : Trains
            Is changed. `loss`, `quantization` and what concerns samples is the caller's business.
        batches : Batches
            What they yield goes to ``model.loss_and_gradients``; its `total` is its weight.
        held_out : object, optional
            Goes to ``model.measure`` at the end of each epoch.
        resume : bool
            See `fit`.
        """
        return self._go(Training(self, model), batches, held_out, resume)

    def _go(self, training: Training, batches: Batches, held_out: Any, resume: bool) -> Result:
        hooks: list[Hook] = [] if held_out is None else [Validation(held_out)]
        if self.early_stopping is not None:
            self.early_stopping.check(held_out is not None)
            hooks.append(Stop(self.early_stopping))
        hooks += [Bar()] if self.progress else []
        hooks += [Callbacks(self.callbacks)] if self.callbacks else []
        folder = self.checkpoint
        checkpoints = None if folder is None else Checkpoints(Path(folder), self.checkpoint_every)
        if self.ranks is not None:
            hooks, checkpoints = self.ranks.begin(training, batches, hooks, checkpoints, resume)
        elif checkpoints is not None:
            checkpoints.open(training, batches, resume=resume)
        return run(training, batches, hooks, checkpoints)

    def _batches(
        self, model: Model, X: Any, y: Any, sample_weight: Any, lengths: Any
    ) -> Batches:  # fmt: skip
        """Check what `fit` was given and cut it into mini-batches."""
        if y is None:
            if lengths is not None:
                raise InputError("lengths", "None where y is None", "lengths")
            return self._stream(model, X, sample_weight)
        if self.steps_per_epoch is not None:
            got = repr(self.steps_per_epoch)
            raise InputError("steps_per_epoch", "None where X and y are arrays", got)
        inputs, targets, weights = samples(model, X, y, sample_weight, lengths=lengths)
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


def _held_out(model: Model, validation: Any) -> Batch | None:
    if validation is None:
        return None
    if not (isinstance(validation, tuple | list) and len(validation) in (2, 3)):
        expected = "a tuple (X, y) or (X, y, sample_weight)"
        raise DtypeError("validation", expected, type(validation).__name__)
    X, y, weights = (*validation, None)[:3]
    inputs, targets, weights = samples(model, X, y, weights, prefix="validation ")
    return Batch(inputs, np.arange(inputs.count), targets, weights, float(weights.sum()))


def _first(X: Any) -> tuple[Any, Any]:
    """Return an iterable of mini-batches as it was, and the samples of its first one."""
    if not isinstance(X, Iterable) or hasattr(X, "shape") or isinstance(X, str | bytes):
        return X, None  # which is refused later
    items = iter(X)
    first = next(items, None)
    seen = first[0] if isinstance(first, tuple | list) and len(first) else None
    if not isinstance(X, Iterator):
        return X, seen
    return (X if first is None else itertools.chain([first], items)), seen


def _check_end(network: Network, loss: Loss) -> None:
    """Refuse networks whose last layer contradicts the loss."""
    last = network.layers[-1]
    if network.out_features < loss.least_outputs:
        expected = "a loss for one output"
        fix = "Use 'binary_cross_entropy' or 'hinge', or a network with two outputs."
        raise InputError("loss", expected, repr(loss.name), fix)
    squeezes = {other.absorbs for other in LOSSES.values()} - {None, loss.absorbs}
    if (loss.scores or loss.kind == "classes") and last.kind in squeezes:
        expected = f"one that takes what a {last.kind} gives"
        fix = f"{loss.name!r} takes scores of any size: leave the network's last layer out."
        raise InputError("loss", expected, repr(loss.name), fix)


def _callables(argument: str, given: Any) -> tuple[Callback, ...]:
    made = tuple(given) if isinstance(given, Iterable) else (None,)
    if not all(callable(callback) for callback in made):
        raise DtypeError(argument, "a sequence of callables", repr(given)[:100])
    return made
