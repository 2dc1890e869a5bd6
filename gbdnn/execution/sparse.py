"""Prediction with sparse activations: for backends that keep Y as a sparse matrix of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbdnn.backends.base import Backend
from gbdnn.data.inputs import Inputs
from gbdnn.execution.run import Memory, Run
from gbdnn.execution.source import Sink, Source
from gbdnn.execution.steps import Step
from gbdnn.machine import available_bytes

__all__ = ["run_sparse"]


def run_sparse(
    source: Source,
    inputs: Inputs,
    sink: Sink,
    *,
    backend: Backend,
    threads: int,
    budget: int | None,
    cancelled: Callable[[], bool],
    advance: Callable[[int], None],
) -> int:
    """Take inputs through all layers, layer by layer over wide chunks; return the edges computed.

    For a backend that keeps Y sparse itself; parameters as of `gbdnn.execution.executor.run`.
    """
    edges = 0
    budget = available_bytes() // 4 if budget is None else budget
    chunk = max(budget // (16 * source.widest * source.dtype.itemsize), 1)
    run = Run(backend, Memory(source.dtype), threads)
    with backend.pinned(threads):
        for start in range(0, inputs.count, chunk):
            ids = np.arange(start, min(start + chunk, inputs.count))
            full = np.empty((1, inputs.features, len(ids)), source.dtype)
            inputs.load(slice(start, start + len(ids)), full)
            Y = backend.enter(full[0])
            del full
            for number, step in enumerate(source.steps(backend)):
                if cancelled():
                    return edges
                edges += step.edges * backend.live(Y)
                Y = _sparse_step(run, backend, step, Y, number)
                advance(len(ids))
            sink.write(ids, backend.leave(Y))
    return edges


def _sparse_step(run: Run, backend: Backend, step: Step, Y: Any, number: int) -> Any:
    """Return a step's value as the backend keeps it; what it does not know gets it full."""
    p, after = step.parameters[0], step.layers[1:]
    parts = step.layers[0].affines(p)
    if parts is None or not all(layer.is_activation for layer in after):
        run.at(number % 2)
        full = np.ascontiguousarray(backend.leave(Y))
        return backend.enter(step.forward(run, full[None])[0])
    for weight, bias in parts[:-1]:
        Y = backend.forward(weight, Y, bias, None)
    Y = backend.forward(*parts[-1][:1], Y, parts[-1][1], p.clamp)
    rest = after if p.clamp is None else after[1:]
    if rest:
        full = np.ascontiguousarray(backend.leave(Y))
        for layer in rest:
            layer.apply(full)  # type: ignore[attr-defined]  # activations have it
        Y = backend.enter(full)
    return Y
