"""What a search asks of a transducer, by the products of its predictor and its joint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gbdnn.execution.streaming import State
from gbdnn.types import Array

__all__ = ["COMBINATIONS", "Decodable", "together"]

COMBINATIONS = {"add": np.add, "multiply": np.multiply}
"""How h and g come together in the joint."""


class Decodable:
    """Answers `gbdnn.decoding.Transducer`; subclasses have `_step` and `_scores`."""

    bias: Array
    combine: str

    def _step(self, x: Array, state: State | None) -> tuple[Array, State]:
        """Return g of labels x, shape (k, 1), and the predictor's state behind them."""
        raise NotImplementedError

    def _scores(self, met: Array) -> Array:
        """Return scores, shape (k, vocabulary), of values met, shape (k, size)."""
        raise NotImplementedError

    def predict(self, states: list[Any], labels: list[int]) -> tuple[Array, list[Any]]:
        """Take a label in each of k states; return g, shape (k, size), and the new states.

        A state is None before the first label, which is the blank.
        """
        given = np.array(labels, self.bias.dtype).reshape(-1, 1)
        out, after = self._step(given, together(states))
        return out, [(after, k) for k in range(len(labels))]

    def joint(self, frames: Array, vectors: Array) -> Array:
        """Return natural log-probabilities, shape (k, vocabulary), of h and g, both (k, size)."""
        met = COMBINATIONS[self.combine](frames, vectors) + self.bias
        scores = self._scores(np.tanh(met, out=met))
        scores -= scores.max(axis=1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return scores


def together(states: Sequence[Any]) -> State | None:
    """Return the states of hypotheses as that of one batch; each is (State, column) or None."""
    known = [state for state in states if state is not None]
    if not known:
        return None
    first, columns = known[0][0], [state and state[1] for state in states]
    if len(known) == len(states) and all(state[0] is first for state in known):
        picked = {key: value[:, columns] for key, value in first.values.items()}
        return State(picked, len(states))
    values = {}
    for key, value in first.values.items():
        out = np.zeros((len(value), len(states)), value.dtype)
        for k, state in enumerate(states):
            if state is not None:
                out[:, k] = state[0].values[key][:, state[1]]
        values[key] = out
    return State(values, len(states))
