"""Parameters: what an optimizer changes, by name, with everything that belongs to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gbdnn.backends.base import Backend
from gbdnn.quantization.rules import WeightQuantizer
from gbdnn.training.optimizers import Optimizer
from gbdnn.types import Array
from gbdnn.weights import CSR, Weight
from gbdnn.weights.patterns import common, realign

__all__ = ["Parameter", "array_parameter", "weight_parameter"]


@dataclass(eq=False)
class Parameter:
    """One parameter in training.

    Attributes
    ----------
    name : str
        As in `Network.parameters`: "layers.2.weight".
    value : ndarray
        What the optimizer changes: of a weight the entries, shape (nnz,).
    grad : ndarray of that shape
        Gradient of the last mini-batch.
    slots : dict of str to ndarray
        The optimizer's vectors, of that shape too.
    decays : bool
        Weight decay applies: it is a weight.
    origin : Weight or None
        The weight that training began with, for its form; None for arrays.
    form : Prepared or None
        What the kernels read. Its values are `value` itself, or what quantizer and form make of it.
    quantizer : WeightQuantizer or None
    learned : dict of str to Parameter
        What the quantizer learns, parameters of their own.
    rate : float
        The learning rate is so many times the trainer's; with 0 the optimizer leaves it alone.
    own_decay : float
        Weight decay where `decays` is false.
    """

    name: str
    value: Array
    grad: Array
    slots: dict[str, Array] = field(default_factory=dict)
    decays: bool = False
    origin: Weight | None = None
    form: Any = None
    quantizer: WeightQuantizer | None = None
    learned: dict[str, Parameter] = field(default_factory=dict)
    rate: float = 1.0
    own_decay: float = 0.0
    _offsets: list[int] = field(default_factory=list)  # of the quantizer's parts

    @property
    def pattern(self) -> CSR:
        """The places of the entries."""
        result: CSR = self.form.pattern
        return result

    @property
    def weight(self) -> CSR:
        """The weight as it is now: the arrays are the parameter's own."""
        return self.pattern.with_entries(self.value)

    @property
    def nbytes(self) -> int:
        """Bytes of value, form and gradient; not of the optimizer's vectors."""
        if self.form is None:
            return int(self.grad.nbytes + self.value.nbytes)
        apart = 0 if self.value is self.form.values else self.value.nbytes
        return int(self.grad.nbytes + apart + self.form.nbytes)

    def digests(self) -> list[str]:
        """Return the sha256 of each of its arrays."""
        places = [] if self.form is None else [self.pattern.indptr, self.pattern.indices]
        return [hashlib.sha256(array.data).hexdigest() for array in (*places, self.value)]

    def current(self) -> Weight | Array:
        """Return a copy of what it means now, in the form that training began with."""
        if self.origin is None:
            return self.value.copy()
        return self.origin.with_entries(self.form.values.copy(), self.pattern)

    def refresh(self, threads: int = 1) -> None:
        """Bring what the kernels read up to date after `value` was changed."""
        if self.form is None:
            return
        if self.value is not self.form.values:
            self._mean(self.form.values)
        self.form.refresh(threads)

    def _mean(self, out: Array) -> None:
        """Write what quantizer and form make of the value."""
        assert self.origin is not None
        if self.quantizer is None:
            out[...] = self.value
        else:
            self.quantizer.fake(self.value, self.learned_values, out, self._offsets)
        if not _is_exact(self.origin):
            out[...] = self.origin.with_entries(out, self.pattern).entries

    def finish_gradient(self) -> None:
        """Turn the gradient with respect to what the kernels read into that of the value."""
        if self.quantizer is not None:
            grads = {name: p.grad for name, p in self.learned.items()}
            self.quantizer.backward(
                self.value, self.learned_values, self.grad, grads, self._offsets
            )

    @property
    def learned_values(self) -> dict[str, Array]:
        """What the quantizer has learned; not copies."""
        return {name: p.value for name, p in self.learned.items()}

    def repattern(self, weight: CSR, backend: Backend, optimizer: Optimizer) -> None:
        """Take over a weight with another pattern; the optimizer's state goes along.

        Entries that are new get what `Optimizer.newborn` says.
        """
        old = self.pattern
        pairs = common(old, weight)
        self.slots = {
            name: realign(vector, old, weight, fill=optimizer.newborn(name, vector), pairs=pairs)
            for name, vector in self.slots.items()
        }
        self.prepare(weight, backend)

    def restore(self, result: Any, slots: dict[str, Array], backend: Backend) -> None:
        """Take over a state that was read: a `CSR`, or an array, and the optimizer's vectors."""
        self.slots = slots
        if self.form is None:
            self.value[...] = result
            return
        if np.array_equal(result.indices, self.pattern.indices) and np.array_equal(
            result.indptr, self.pattern.indptr
        ):
            self.value[...] = result.full_values
        else:
            self.prepare(result, backend)

    def prepare(self, weight: Weight, backend: Backend) -> None:
        """Make form, value and gradient for a weight."""
        self.form = backend.prepare(weight, trained=True)
        assert self.origin is not None
        if self.quantizer is not None:
            self._offsets = self.quantizer.offsets(self.pattern)
        if self.quantizer is None and _is_exact(self.origin):
            self.value = self.form.values
        else:
            self.value = self.form.values.copy()
            self.refresh()
        self.grad = np.zeros_like(self.value)


def _is_exact(weight: Weight) -> bool:
    """True if the form can say every float."""
    return weight.plain() is weight


def weight_parameter(
    name: str, weight: Weight, backend: Backend, quantizer: WeightQuantizer | None = None
) -> Parameter:
    """Return a parameter for a weight; of a dense one all places are trained."""
    nothing = np.empty(0, weight.dtype)
    made = Parameter(name, nothing, nothing, decays=True, origin=weight, quantizer=quantizer)
    if quantizer is not None:
        first = quantizer.initial(weight.entries, quantizer.offsets(weight.pattern()))
        made.learned = {
            own: array_parameter(f"{name}.{own}", np.asarray(value)) for own, value in first.items()
        }
    made.prepare(weight, backend)
    return made


def array_parameter(name: str, array: Array) -> Parameter:
    """Return a parameter for an array, which is copied."""
    return Parameter(name, array.copy(), np.zeros_like(array))
