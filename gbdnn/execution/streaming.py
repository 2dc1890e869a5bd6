"""Time step by time step: sequences whose end is not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn.backends.base import Backend
from gbdnn.data.inputs import Inputs, SequenceInputs
from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.execution.run import Memory, Run
from gbdnn.execution.source import Source
from gbdnn.execution.steps import Step
from gbdnn.execution.tiles import NARROW, lanes_of, padded
from gbdnn.layers.base import Layer
from gbdnn.types import Array
from gbdnn.weights.csr import check_finite

__all__ = ["State", "check_parts", "finish", "step"]


@dataclass(frozen=True, eq=False)
class State:
    """Where the recurrent layers of a network stand behind a time step.

    Attributes
    ----------
    values : dict of (int, int, str) to ndarray, shape (features, columns)
        By the number of the step, that of the layer in it, and the name of the state.
    count : int
        Sequences.
    """

    values: dict[tuple[int, int, str], Array]
    count: int

    def __repr__(self) -> str:
        return f"State({self.count} sequences, {len(self.values)} arrays)"


def check_parts(layers: Any, name: str) -> None:
    """Refuse layers that sequences cannot be given to in parts."""
    for k, layer in enumerate(layers):
        if isinstance(layer, Layer) and layer.needs_all_steps:
            fix = "Leave it out: network[:k] is the network of the first k layers."
            if name == "truncate":
                fix = "Without truncate= gradients go back through whole sequences."
            expected = "layers that take sequences in parts"
            raise InputError(name, expected, f"layers[{k}], a {layer.kind}", fix)


def step(
    source: Source, inputs: Inputs, state: State | None, backend: Backend, threads: int
) -> tuple[Array, State]:
    """Return the result of one time step, shape (count, out_features), and the state behind it.

    While time steps are collected that become one the shape is (0, out_features).
    """
    if isinstance(inputs, SequenceInputs):
        raise ShapeError("x", "one time step, shape (n_samples, n_features)", "sequences")
    steps, count = list(source.steps(backend)), inputs.count
    check_parts([layer for one in steps for layer in one.layers], "network")
    columns = _columns(source, backend, count)
    forms = _forms(steps)
    states = {} if state is None else _given(state, count, columns, forms, source.dtype)
    run = Run(backend, Memory(source.dtype), threads, states=states, goes_on=True)
    with backend.pinned(threads):
        Y = run.empty(1, inputs.features, columns)
        inputs.load(slice(0, count), Y[:, :, :count])
        Y[:, :, count:] = 0
        Y = _through(run, steps, Y)
    places = {id(p): place for place, p in forms.items()}
    values = {(*places[key], name): value[:, :count] for (key, name), value in states.items()}
    return _rows(Y, count), State(values, count)


def finish(source: Source, state: Any, backend: Backend, threads: int) -> Array:
    """Return the result of time steps that are collected in a state, filled up with zeros.

    Its shape is (count, out_features), or (0, out_features) if there are none.
    """
    steps = list(source.steps(backend))
    if state is None:
        return np.empty((0, steps[-1].out_features), source.dtype)
    count = state.count if isinstance(state, State) else 0
    columns = _columns(source, backend, count)
    states = _given(state, count, columns, _forms(steps), source.dtype)
    run = Run(backend, Memory(source.dtype), threads, states=states)
    with backend.pinned(threads):
        Y = _through(run, steps, run.empty(0, steps[0].in_features, columns))
    return _rows(Y, count)


def _through(run: Run, steps: Sequence[Step], Y: Array) -> Array:
    """Take time steps, or none, through all layers."""
    for k, one in enumerate(steps):
        run.at(k % 2)
        if len(Y) or one.time_factor > 1:  # which may have some of before
            Y = one.forward(run, Y)
        else:
            Y = run.empty(0, one.out_features, Y.shape[2])
    return Y


def _rows(Y: Array, count: int) -> Array:
    """Return at most one time step as rows, shape (count, features) or (0, features)."""
    if not len(Y):
        return np.empty((0, Y.shape[1]), Y.dtype)
    rows: Array = Y[0, :, :count].T.copy()
    return rows


def _columns(source: Source, backend: Backend, count: int) -> int:
    """Return how many columns are computed for `count` sequences."""
    width = backend.width(source.widest, source.dtype)
    if count < width:
        width = max(padded(count), min(NARROW, width))
    return padded(count, lanes_of(count, width))


def _forms(steps: Sequence[Step]) -> dict[tuple[int, int], Any]:
    """Return the parameters of each layer by the number of the step and that in it."""
    return {(k, n): p for k, one in enumerate(steps) for n, p in enumerate(one.parameters)}


def _given(
    state: Any, count: int, columns: int, forms: dict[tuple[int, int], Any], dtype: np.dtype[Any]
) -> dict[tuple[int, str], Array]:
    """Return a state by the parameters of the layers, filled up with zeros to `columns`."""
    if not isinstance(state, State):
        raise DtypeError("state", "what step returned, or None", type(state).__name__)
    if state.count != count:
        raise ShapeError("state", f"that of {count} sequences, as x", f"that of {state.count}")
    if not all((k, n) in forms for k, n, _ in state.values):
        raise InputError("state", "that of this network", "that of another one")
    found = {}
    for (k, n, name), value in state.values.items():
        if not isinstance(value, np.ndarray) or value.dtype != dtype:
            got = str(getattr(value, "dtype", type(value).__name__))
            raise DtypeError("state", f"arrays of {dtype}, as the network", got)
        if value.ndim != 2 or value.shape[1] != count:
            raise ShapeError("state", f"arrays (features, {count})", f"shape {value.shape}")
        check_finite("state", value)
        filled = found[id(forms[k, n]), name] = np.zeros((len(value), columns), value.dtype)
        filled[:, :count] = value  # np.pad takes as long as a product
    return found
