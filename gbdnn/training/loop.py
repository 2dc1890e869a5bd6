"""The training loop: mini-batch, gradients, checks, pattern changes, optimizer step.

`Training` is all that changes while a `Trainer`, which is settings only, runs.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from gbdnn.data.batches import Batch, Batches
from gbdnn.errors import DivergenceError, DtypeError, InputError, TrainingInterrupted
from gbdnn.layers import LOSSES, Dropout, Sigmoid, Softmax
from gbdnn.layers.functional import Loss
from gbdnn.network import Network
from gbdnn.training.checkpoints import Checkpoints
from gbdnn.training.elementwise import sum_of_squares
from gbdnn.training.history import History
from gbdnn.training.interrupts import uninterrupted
from gbdnn.training.model import Model
from gbdnn.training.progress import shown
from gbdnn.training.results import Event, Result
from gbdnn.training.validation import HeldOut
from gbdnn.weights.csr import realign

if TYPE_CHECKING:
    from gbdnn.pruning import Sparsifier
    from gbdnn.training.optimizers import Optimizer
    from gbdnn.training.schedules import Schedule
    from gbdnn.training.trainer import Trainer

__all__ = ["Training"]

Array = npt.NDArray[Any]
LARGEST_UPDATE = 1e30  # its sums stay finite in float32, so weights do
MASKS, REWIRING, START = 2, 3, 1  # purposes of random numbers; the order of the data is 0


@dataclass(frozen=True, eq=False)
class _Plan:
    """What a run works on."""

    batches: Batches
    held_out: HeldOut | None
    total: int | None
    keep: Checkpoints | None


class Training:
    """A training while it runs: parameters, optimizer state, position, history."""

    def __init__(self, trainer: Trainer, network: Network) -> None:
        if not isinstance(network, Network):
            raise DtypeError("network", "a gbdnn.Network", type(network).__name__)
        loss = LOSSES[trainer.loss]
        _check_end(network, loss)
        rng = trainer.rng
        self.seed = int(rng.integers(2**31) if isinstance(rng, np.random.Generator) else rng)
        self.model = Model(network, loss=loss, backend=trainer.backend, threads=trainer.threads)
        self.slots = [
            {name: np.zeros_like(value) for name in cast("Optimizer", trainer.optimizer).slots}
            for value, _ in self.model.parameters()
        ]
        self.sparse: dict[str, Any] | None = None
        self.epoch, self.position, self.step = 0, 0, 0
        self.loss_sum, self.weight_sum, self.seconds = 0.0, 0.0, 0.0
        self.records: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None  # early stopping's: value, epoch, network
        self.identity: str | None = None  # of checkpoints
        self.use(trainer)

    def use(self, trainer: Trainer) -> None:
        """Go on with these settings."""
        self.trainer = trainer  # in which names have become objects
        self.optimizer = cast("Optimizer", trainer.optimizer)
        self.schedule = cast("Schedule", trainer.schedule)
        self.sparsifier = cast("Sparsifier | None", trainer.sparsifier)

    @property
    def nbytes(self) -> int:
        """Bytes of weights in both orientations, gradients and optimizer state."""
        slots = sum(vector.nbytes for slot in self.slots for vector in slot.values())
        return self.model.nbytes + slots

    def network(self) -> Network:
        """Return the network as it is now (a copy)."""
        return self.model.network()

    def result(self, stopped: str) -> Result:
        """Return what there is now."""
        best = self.best["network"] if self.best and self.trainer.early_stopping else None
        history = History(tuple(dict(record) for record in self.records))
        return Result(best or self.network(), history, stopped, self)

    # -- the loop ----------------------------------------------------------------------------------

    def run(self, batches: Batches, held_out: HeldOut | None = None) -> Result:
        """Train from where this training is to the end of the last epoch.

        A new training first goes on from the newest checkpoint in its folder, if there is one.
        """
        trainer = self.trainer
        total = None if batches.steps is None else batches.steps * trainer.epochs
        keep = None if trainer.checkpoint is None else Checkpoints(Path(trainer.checkpoint))
        plan = _Plan(batches, held_out, total, keep)
        if trainer.early_stopping is not None:
            trainer.early_stopping.check(held_out is not None)
        if keep is not None:
            keep.open(self, batches)
        self.learning_rate(self.step, total)
        self._start_sparsifier(total)
        try:
            with shown(self, total) as show:
                stopped = self._epochs(plan, show)
        except KeyboardInterrupt as error:
            with suppress(KeyboardInterrupt):
                self._save(keep)  # which a second Ctrl-C ends: older files are whole
            raise TrainingInterrupted(self.result("interrupted")) from error
        if stopped == "callback":  # else the end of an epoch has saved
            self._save(keep)
        return self.result(stopped)

    def _epochs(self, plan: _Plan, show: Callable[[], None]) -> str:
        """Run the epochs that are left; return why it ended."""
        trainer = self.trainer
        while self.epoch < trainer.epochs:
            if self._patience_is_over():
                return "early stopping"
            for batch in plan.batches.epoch(self.epoch, self.seed, self.position):
                loss = self.train_step(batch, plan.total)
                show()
                if self._tell("step", plan.total, loss):
                    return "callback"
                if trainer.checkpoint_every and self.step % trainer.checkpoint_every == 0:
                    self._save(plan.keep)
            if not self.position:
                return self._no_data()
            record = self._end_epoch(plan)
            show()
            stop = self._tell("epoch", plan.total, record["loss"], record)
            self._save(plan.keep)
            if stop:
                return "callback"
        return "epochs"

    def train_step(self, batch: Batch, total: int | None = None) -> float:
        """Take one step on a mini-batch; return its loss. Ctrl-C waits until it is whole.

        A mini-batch whose samples all have weight 0 changes no parameter.

        Raises
        ------
        DivergenceError
            Before a parameter was changed, if the loss or a gradient is not finite.
        """
        with uninterrupted(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            begin = time.perf_counter()
            loss, changed = self._gradients(batch, total)
            if changed:
                self._replace(changed)
            elif batch.total:
                self._update(total)
            self.step += 1
            self.position += 1
            self.loss_sum += loss * batch.total
            self.weight_sum += batch.total
            self.seconds += time.perf_counter() - begin
        return loss

    def _gradients(self, batch: Batch, total: int | None) -> tuple[float, dict[int, Any]]:
        """Compute loss and gradients, checked and clipped, and new patterns if it is time."""
        model, sparsifier, step = self.model, self.sparsifier, self.step
        state = self._start_sparsifier(total)
        observe = None if sparsifier is None else sparsifier.observer(state, model, step)
        drops = any(isinstance(h, Dropout) for layer in model.layers for h in layer.after)
        loss = model.loss_and_gradients(
            batch.inputs, batch.ids, batch.targets, batch.weights,
            rng=self._rng(MASKS, step) if drops else None, observe=observe,
        )  # fmt: skip
        self._check(loss, total)
        if sparsifier is None:
            return loss, {}
        return loss, sparsifier.update(state, model, step, self._rng(REWIRING, step))

    def _start_sparsifier(self, total: int | None) -> dict[str, Any]:
        if self.sparse is None and self.sparsifier is not None:
            self.sparse = self.sparsifier.start(self.model, total, self._rng(START, 0))
        return {} if self.sparse is None else self.sparse

    def _rng(self, purpose: int, step: int) -> np.random.Generator:
        """Return the generator of one purpose at one step: it needs no state in checkpoints."""
        return np.random.default_rng([self.seed, purpose, step])

    def _check(self, loss: float, total: int | None) -> None:
        """Refuse what is not finite; clip the gradients."""
        gradients = [grad for _, grad in self.model.parameters()]
        norm = math.sqrt(sum(sum_of_squares(grad) for grad in gradients))
        limit = self.trainer.clip_norm
        scale = limit / norm if limit is not None and norm > limit else 1.0
        if not math.isfinite(loss):
            got = f"a loss of {loss}"
        elif not math.isfinite(norm):
            got = f"a gradient norm of {norm}"
        elif (update := self.learning_rate(self.step, total) * norm * scale) > LARGEST_UPDATE:
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

    def learning_rate(self, step: int, total: int | None) -> float:
        """Return the learning rate of a step; those after `total` have that of the last."""
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
        return float(self.trainer.learning_rate * factor)

    def _update(self, total: int | None) -> None:
        """Take the optimizer's step on all parameters."""
        rate = self.learning_rate(self.step, total)
        for number, (value, grad) in enumerate(self.model.parameters()):
            decay = 0.0 if number % 2 else self.optimizer.weight_decay  # odd ones are biases
            self.optimizer.update(
                value, grad, self.slots[number], learning_rate=rate, step=self.step + 1,
                decay=decay, threads=self.model.threads,
            )  # fmt: skip
        self.model.changed()

    def _replace(self, changed: dict[int, Any]) -> None:
        """Give layers new patterns; the optimizer's state goes along, new entries start at 0."""
        for k, weight in changed.items():
            old = self.model.layers[k].form.pattern
            slot = self.slots[2 * k]
            self.slots[2 * k] = {
                name: realign(v, old, weight, fill=self.optimizer.newborn(name, v))
                for name, v in slot.items()
            }
            self.model.replace(k, weight)

    # -- the end of an epoch -----------------------------------------------------------------------

    def _end_epoch(self, plan: _Plan) -> dict[str, Any]:
        """Write the epoch's record and go to the next epoch."""
        patterns = [layer.form.pattern for layer in self.model.layers]
        nnz = sum(pattern.nnz for pattern in patterns)
        record: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "loss": self.loss_sum / self.weight_sum if self.weight_sum else 0.0,
            "learning_rate": self.learning_rate(self.step - 1, plan.total),
            "nnz": nnz,
            "density": nnz / sum(math.prod(pattern.shape) for pattern in patterns),
            "seconds": self.seconds,
        }
        if plan.held_out is not None:
            loss, score = plan.held_out.measure(self.model)
            record |= {"validation_loss": loss, "validation_score": score}
        with uninterrupted():
            self._judge(record)
            self.records.append(record)
            self.epoch, self.position = self.epoch + 1, 0
            self.loss_sum = self.weight_sum = 0.0
        return record

    def _judge(self, record: dict[str, Any]) -> None:
        """Remember the best epoch for early stopping."""
        rule = self.trainer.early_stopping
        if rule is None:
            return
        value = rule.value(record)
        if self.best is None or value > self.best["value"] + rule.min_delta:
            network = self.network() if rule.restore_best else None
            self.best = {"value": value, "epoch": record["epoch"], "network": network}

    def _patience_is_over(self) -> bool:
        rule, best = self.trainer.early_stopping, self.best
        if rule is None or best is None:
            return False
        return bool(self.epoch - 1 - best["epoch"] >= rule.patience)

    def _no_data(self) -> str:
        """An epoch without a mini-batch: an error at the beginning, later the end."""
        if not self.step:
            raise InputError("X", "at least one mini-batch", "an iterable that gave none")
        message = f"X: nothing came for epoch {self.epoch} of {self.trainer.epochs}; training ends"
        warnings.warn(message, stacklevel=5)
        return "end of data"

    def _tell(
        self, kind: str, total: int | None, loss: float, record: dict[str, Any] | None = None
    ) -> bool:
        """Call the callbacks; return whether one of them wants to stop."""
        if not self.trainer.callbacks:
            return False
        epoch = self.epoch if record is None else record["epoch"]
        event = Event(kind, epoch, self.step, total, loss, self, {} if record is None else record)
        answers = [callback(event) for callback in self.trainer.callbacks]  # all are asked
        return any(answers)

    def _save(self, keep: Checkpoints | None) -> None:
        """Write a checkpoint; if that fails, the training is worth more than the file."""
        if keep is None:
            return
        try:
            keep.save(self)
        except OSError as error:
            message = f"checkpoint not written: {error} Older ones are whole; training goes on."
            warnings.warn(message, stacklevel=5)


def _check_end(network: Network, loss: Loss) -> None:
    """Refuse networks whose last layer contradicts the loss."""
    last = network.layers[-1]
    if loss.name == "cross_entropy" and network.out_features == 1:
        expected = "a loss for one output"
        fix = "Use 'binary_cross_entropy' or 'hinge', or a network with two outputs."
        raise InputError("loss", expected, repr(loss.name), fix)
    absorbed = loss.absorbs is not None and isinstance(last, loss.absorbs)
    scores = loss.kind == "classes" or loss.absorbs is not None
    if scores and isinstance(last, Sigmoid | Softmax) and not absorbed:
        expected = f"one that takes what a {type(last).__name__.lower()} gives"
        fix = f"{loss.name!r} takes scores of any size: leave the network's last layer out."
        raise InputError("loss", expected, repr(loss.name), fix)
