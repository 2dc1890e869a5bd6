"""One training step: mini-batch, gradients, checks, pattern changes, optimizer.

`Training` is all that changes while a `Trainer`, which is settings only, runs. It drives anything
that has parameters and a loss (`gbdnn.training.model.Trains`). The loop over steps is in `loop.py`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn.data.batches import Batch
from gbdnn.errors import DivergenceError, InputError
from gbdnn.network import Network
from gbdnn.training.history import History
from gbdnn.training.interrupts import uninterrupted
from gbdnn.training.model import Trains
from gbdnn.types import Array

__all__ = ["Result", "Training"]

LARGEST_UPDATE = 1e30  # its sums stay finite in float32, so weights do
START, MASKS, REWIRING = 1, 2, 3  # purposes of random numbers; the order of the data is 0


class Training:
    """A training while it runs: parameters, optimizer state, position, history.

    Parameters
    ----------
    trainer : Trainer
        The settings; names in it have become objects.
    model : Trains
        A `Model`, or anything else that has parameters and a loss.
    """

    def __init__(self, trainer: Any, model: Trains) -> None:
        rng = trainer.rng
        self.seed = int(rng.integers(2**31) if isinstance(rng, np.random.Generator) else rng)
        self.model: Any = model
        self.sparse: dict[str, Any] | None = None
        self.epoch, self.position, self.step = 0, 0, 0
        self.loss_sum, self.weight_sum, self.seconds = 0.0, 0.0, 0.0
        self.records: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None  # early stopping's: value, epoch, network
        self.slowdown = 1.0  # by which early stopping divides the learning rate
        self.identity: str | None = None  # of checkpoints
        self.total: int | None = None  # steps from the first to the last, if that is known
        self.use(trainer)
        for parameter in model.parameters.values():
            parameter.slots = {n: np.zeros_like(parameter.value) for n in self.optimizer.slots}

    def use(self, trainer: Any) -> None:
        """Go on with these settings."""
        self.trainer = trainer  # in which names have become objects
        self.optimizer = trainer.optimizer
        self.schedule = trainer.schedule
        self.sparsifier = trainer.sparsifier

    @property
    def nbytes(self) -> int:
        """Bytes of weights in both orientations, gradients and optimizer state."""
        parameters = self.model.parameters.values()
        slots = sum(vector.nbytes for p in parameters for vector in p.slots.values())
        return int(slots + sum(parameter.nbytes for parameter in parameters))

    def network(self) -> Any:
        """Return the network as it is now (a copy)."""
        return self.model.network()

    def result(self, stopped: str) -> Result:
        """Return what there is now."""
        best = self.best["network"] if self.best and self.trainer.early_stopping else None
        history = History(tuple(dict(record) for record in self.records))
        return Result(best or self.network(), history, stopped, self)

    # -- a step -----------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> float:
        """Take one step on a mini-batch; return its loss. Ctrl-C waits until it is whole.

        A mini-batch whose samples all have weight 0 changes no parameter.

        Raises
        ------
        DivergenceError
            Before a parameter was changed, if the loss or a gradient is not finite.
        """
        with uninterrupted(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            begin = time.perf_counter()
            loss, changed = self._gradients(batch)
            for name, weight in changed.items():
                self.model.repattern(name, weight, self.optimizer)
            if not changed and batch.total:
                self._update()
            self.step += 1
            self.position += 1
            self.loss_sum += loss * batch.total
            self.weight_sum += batch.total
            self.seconds += time.perf_counter() - begin
        return loss

    def _gradients(self, batch: Batch) -> tuple[float, dict[str, Any]]:
        """Compute loss and gradients, checked and clipped, and new patterns if it is time."""
        model, sparsifier, step = self.model, self.sparsifier, self.step
        state = self.start_sparsifier()
        observe = None if sparsifier is None else sparsifier.observer(state, model, step)
        loss = model.loss_and_gradients(batch, rng=self._rng(MASKS, step), observe=observe)
        self._check(loss)
        if sparsifier is None:
            return loss, {}
        return loss, sparsifier.update(state, model, step, self._rng(REWIRING, step))

    def start_sparsifier(self) -> dict[str, Any]:
        """Return the sparsifier's state, which begins at the first call."""
        if self.sparse is None and self.sparsifier is not None:
            self.sparse = self.sparsifier.start(self.model, self.total, self._rng(START, 0))
        return {} if self.sparse is None else self.sparse

    def _rng(self, purpose: int, step: int) -> np.random.Generator:
        """Return the generator of one purpose at one step: it needs no state in checkpoints."""
        return np.random.default_rng([self.seed, purpose, step])

    def _check(self, loss: float) -> None:
        """Refuse what is not finite; clip the gradients."""
        gradients = [parameter.grad for parameter in self.model.parameters.values()]
        norm = math.sqrt(sum(sum_of_squares(grad) for grad in gradients))
        limit = self.trainer.clip_norm
        scale = limit / norm if limit is not None and norm > limit else 1.0
        if not math.isfinite(loss):
            got = f"a loss of {loss}"
        elif not math.isfinite(norm):
            got = f"a gradient norm of {norm}"
        elif (update := self.learning_rate(self.step) * norm * scale) > LARGEST_UPDATE:
            got = f"an update of {update:.3g}, too large to go on from"
        else:
            for grad in gradients if scale != 1 else ():
                grad *= scale
            return
        fix = "Lower learning_rate or set clip_norm; the error's result is what was before."
        raise DivergenceError(
            f"training, epoch {self.epoch}, step {self.step}", "finite loss, gradients and weights",
            got, fix, result=self.result("diverged"),
        )  # fmt: skip

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step; those after the last have that of the last."""
        total = self.total
        if total is None:
            if getattr(self.schedule, "needs_total", True):
                expected = "a number for an iterable without a length"
                fix = f"{self.schedule!r} must know how many steps there will be."
                raise InputError("steps_per_epoch", expected, "None", fix)
            total = 1
        factor = self.schedule(min(step, total - 1), total)
        if not (factor >= 0 and math.isfinite(factor)):
            got = f"{factor!r} at step {step}"
            raise InputError("schedule", "factors that are finite and not negative", got)
        return float(self.trainer.learning_rate * factor / self.slowdown)

    def _update(self) -> None:
        """Take the optimizer's step on all parameters."""
        rate = self.learning_rate(self.step)
        for parameter in self.model.parameters.values():
            if not parameter.rate:
                continue
            decay = self.optimizer.weight_decay if parameter.decays else parameter.own_decay
            self.optimizer.update(
                parameter.value, parameter.grad, parameter.slots,
                learning_rate=rate * parameter.rate, step=self.step + 1, decay=decay,
                threads=self.model.threads,
            )  # fmt: skip
        self.model.changed()


@dataclass(frozen=True, eq=False)
class Result:
    """What a training leaves.

    Attributes
    ----------
    network : Network
        With `EarlyStopping` that restores it the best epoch's, however the training ended; else the
        last one, which is also `training.network()`.
    history : History
        One record for each epoch.
    stopped : str
        "epochs", "early stopping", "callback", "end of data", "interrupted" or "diverged".
    training : Training
        The live state, with which `Trainer.resume` goes on.
    """

    network: Network
    history: History
    stopped: str
    training: Training

    def __repr__(self) -> str:
        return f"Result({self.network!r}, {self.history!r}, stopped={self.stopped!r})"


def sum_of_squares(grad: Array) -> float:
    """Return the sum of squares; NaN or infinite exactly if an element is.

    In the dtype of `grad`, whose squares may overflow: then once more in float64.
    """
    vector = grad.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.einsum("i,i->", vector, vector))
        if not math.isfinite(total) and np.isfinite(vector).all():
            total = float(np.square(vector, dtype=np.float64).sum())
    return total
