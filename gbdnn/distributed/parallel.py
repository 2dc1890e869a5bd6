"""A model that computes a rank's part of each mini-batch, and the hooks that ranks share."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any

import numpy as np

from gbdnn.data.batches import Batch
from gbdnn.data.inputs import Ids, Inputs
from gbdnn.distributed.chunks import STEP
from gbdnn.execution.run import Observer
from gbdnn.training.checkpoints import Checkpoints
from gbdnn.training.hooks import Hook, Validation
from gbdnn.training.interrupts import Stopped
from gbdnn.training.model import Model
from gbdnn.training.step import Training
from gbdnn.types import Array

__all__ = ["AgreedStop", "FromRankZero", "ParallelModel", "SharedValidation"]


class ParallelModel(Model):
    """A `Model` whose loss and gradients are sums over ranks.

    Parameters
    ----------
    network : Network
    ranks : MPIRanks
    **options
        As for `Model`.
    """

    def __init__(self, network: Any, *, ranks: Any, **options: Any) -> None:
        super().__init__(network, **options)
        self.ranks = ranks

    def loss_and_gradients(
        self,
        batch: Batch,
        *,
        rng: np.random.Generator | None = None,
        observe: Observer | None = None,
    ) -> float:
        """Return the loss of the whole mini-batch; gradients are those of the whole one too.

        Each rank takes a run of the samples and draws masks of its own. What `observe` is called
        with, at steps at which patterns grow, are the columns of all ranks.
        """
        ranks, failure, value = self.ranks, None, 0.0
        seen: dict[str, tuple[Array, Array]] = {}

        def keep(name: str, dZ: Array, Y: Array) -> None:
            seen[name] = dZ.copy(), Y.copy()

        try:
            part = replace(batch, ids=np.array_split(batch.ids, ranks.size)[ranks.rank])
            own = None if rng is None else rng.spawn(ranks.size)[ranks.rank]
            if len(part.ids):
                value = super().loss_and_gradients(
                    part, rng=own, observe=None if observe is None else keep
                )
            else:
                for parameter in self.parameters.values():
                    parameter.grad[...] = 0
        except Exception as error:  # which the others have to know
            failure = error
        total: float = ranks.together(value, failure)
        ranks.add([parameter.grad for parameter in self.parameters.values()] + self._averages())
        for average in self._averages():
            average /= ranks.size
        if observe is not None:
            self._observe(seen, observe)
        return total

    def _observe(self, seen: dict[str, tuple[Array, Array]], observe: Observer) -> None:
        """Call `observe` with the columns of all ranks; one without samples has none."""
        for name, parameter in self.parameters.items():
            if parameter.form is None:
                continue
            nothing = (np.empty((1, size, 0), self.dtype) for size in parameter.form.shape)
            dZ, Y = (self.ranks.columns(array) for array in seen.get(name, nothing))
            if dZ.size:
                observe(name, dZ, Y)

    def measure_together(self, batch: Batch) -> dict[str, float]:
        """Return `measure`, the outputs computed by all ranks, a run of the samples each."""
        count, ranks, failure = batch.inputs.count, self.ranks, None
        out = np.empty((0, self.out_features), self.dtype)
        if batch.inputs.over_time:
            return self.measure(batch)
        cuts = [count * rank // ranks.size // STEP * STEP for rank in range(ranks.size)] + [count]
        try:
            out = self.outputs(_Some(batch.inputs, *cuts[ranks.rank : ranks.rank + 2]))
        except Exception as error:
            failure = error
        ranks.together(0.0, failure)
        return self.measured(batch, ranks.rows(out))

    def _averages(self) -> list[Array]:
        """Return what quantizers keep of batches: the mean over ranks is kept."""
        kept = [r for r in self._roundings.values() if r.quantizer.tracks]
        return [array for rounding in kept for array in rounding.learned.values()]


class _Some(Inputs):
    """Samples from number `start` to `stop` of others that are no sequences."""

    def __init__(self, whole: Inputs, start: int, stop: int) -> None:
        self.whole, self.start, self.count = whole, start, stop - start
        self.features, self.dtype = whole.features, whole.dtype

    def load(self, ids: Ids, out: Array) -> None:
        """Write samples as columns into `out`."""
        if isinstance(ids, slice):
            first, last, _ = ids.indices(self.count)
            self.whole.load(slice(self.start + first, self.start + last), out)
        else:
            self.whole.load(self.start + ids, out)


class SharedValidation(Validation):
    """Validation by all ranks together."""

    def measured(self, training: Training, record: dict[str, Any]) -> None:
        """Measure the samples."""
        record |= training.model.measure_together(self.held_out)


class FromRankZero(Hook):
    """Lets rank 0 alone call a hook, and all ranks have what it answers."""

    def __init__(self, hook: Hook, ranks: Any) -> None:
        self.hook, self.ranks = hook, ranks

    def after_step(self, training: Training, loss: float) -> str | None:
        """Ask after a step."""
        answer: str | None = self.ranks.from_zero(lambda: self.hook.after_step(training, loss))
        return answer

    def after_epoch(self, training: Training, record: dict[str, Any]) -> str | None:
        """Ask after an epoch, and have what is added to the record."""

        def called() -> Any:
            known = set(record)
            answer = self.hook.after_epoch(training, record)
            return answer, {name: value for name, value in record.items() if name not in known}

        answer, new = self.ranks.from_zero(called)
        record |= new
        return None if answer is None else str(answer)


class AgreedStop(Hook):
    """Ends all ranks after the same step when a signal has come to one of them.

    After each epoch ranks make sure that they have the same weights. When a rank has failed, rank 0
    keeps the state before that step.
    """

    def __init__(self, ranks: Any, checkpoints: Checkpoints | None) -> None:
        self.ranks, self.checkpoints = ranks, checkpoints
        self._before: dict[int, Any] = {}

    def started(self, training: Training) -> None:
        """Let signals wait for the end of a step."""
        self.ranks.stop = self.ranks.arrived = 0
        self._before = self.ranks.listen()

    def after_step(self, training: Training, loss: float) -> str | None:
        """Stop, if ranks have agreed to."""
        if self.ranks.stop:
            raise Stopped if self.ranks.stop == signal.SIGTERM else KeyboardInterrupt
        return None

    def measured(self, training: Training, record: dict[str, Any]) -> None:
        """Compare the weights of all ranks."""
        parameters = training.model.parameters.values()
        self.ranks.check("weights", [text for p in parameters for text in p.digests()])

    def ended(self, training: Training, stopped: str) -> None:
        """Listen to signals as before; after a failure keep the state."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if stopped == "error" and self.ranks.agreed and self.checkpoints is not None:
            self.checkpoints.save(training)
