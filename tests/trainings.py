"""What tests of training share: embedded data, small networks, comparison bit by bit."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from builders import random_csr

from gbdnn import Linear, Network
from gbdnn.layers import Dropout
from gbdnn.training import Result, Trainer
from gbdnn.weights import Weight

Array = npt.NDArray[Any]


@functools.cache
def digits(dtype: Any = np.float32) -> tuple[Array, Array]:
    """Return scikit-learn's 1797 digits, (1797, 64) from 0 to 1, and their classes."""
    from sklearn.datasets import load_digits  # takes a second

    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(dtype), y


def classifier(
    *,
    seed: int = 0,
    hidden: int = 32,
    density: float = 0.4,
    dropout: float = 0.0,
    dtype: Any = np.float32,
    dense: bool = False,
    widths: tuple[int, int] = (64, 10),
) -> Network:
    """Return widths[0] -> hidden -> widths[1] with ReLU and softmax."""
    rng = np.random.default_rng(seed)
    inputs, outputs = widths
    weights = [random_csr(rng, hidden, inputs, density), random_csr(rng, outputs, hidden, density)]
    scaled = [0.3 * weight.to_dense() for weight in weights]
    layers: list[Any] = []
    for weight, values in zip(weights, scaled, strict=True):
        matrix: Any = values if dense else type(weight)(
            weight.indptr, weight.indices, values[weight.to_dense() != 0], weight.shape
        )  # fmt: skip
        layers += [Linear(matrix, 0.0, dtype=dtype)]
    between = ["relu", Dropout(dropout)] if dropout else ["relu"]
    return Network([layers[0], *between, layers[1], "softmax"])


def state_of(network: Network) -> list[bytes]:
    """Return all bytes that make a network."""
    found = []
    for value in network.parameters.values():
        if isinstance(value, Weight):
            pattern = value.pattern()
            arrays = (pattern.indptr, pattern.indices, value.entries)
            found += [value.form.encode(), *(array.tobytes() for array in arrays)]
        else:
            found.append(value.tobytes())
    return found


def assert_same(a: Result, b: Result) -> None:
    """Assert that two trainings ended with the same bits, in all that a step depends on."""
    assert state_of(a.network) == state_of(b.network)
    one, other = a.training, b.training
    assert state_of(one.network()) == state_of(other.network())
    assert slots_of(one) == slots_of(other)
    assert (one.epoch, one.position, one.step) == (other.epoch, other.position, other.step)
    assert without_time(a) == without_time(b)
    assert _plain(one.sparse) == _plain(other.sparse)


def slots_of(training: Any) -> dict[str, dict[str, bytes]]:
    """Return the optimizer's vectors of each parameter as bytes."""
    return {
        name: {slot: vector.tobytes() for slot, vector in parameter.slots.items()}
        for name, parameter in training.model.parameters.items()
    }


def _plain(state: dict[str, Any] | None) -> dict[str, Any]:
    """Return a sparsifier's state with bytes for arrays."""
    arrays = np.ndarray
    return {
        name: value.tobytes() if isinstance(value, arrays) else value
        for name, value in (state or {}).items()
    }


def without_time(result: Result) -> list[dict[str, Any]]:
    """Return the history's records without the seconds."""
    return [
        {name: number for name, number in record.items() if name != "seconds"}
        for record in result.history.records
    ]


class Resuming(Trainer):
    """A Trainer that goes on from its checkpoints, if there are some."""

    def fit(self, *args: Any, **options: Any) -> Result:
        return super().fit(*args, **{"resume": True} | options)


def stop_at(*steps: int) -> Any:
    """Return a callback that ends the training after one of these steps."""
    return lambda event: event.kind == "step" and event.step in steps


def quick(**settings: Any) -> Trainer:
    """Return a Trainer for few steps."""
    defaults: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 64,
        "learning_rate": 3e-3,
        "backend": "dense",
    }
    return Trainer(**defaults | {"threads": 1} | settings)


def some(count: int = 200) -> tuple[Array, Array]:
    """Return the first digits."""
    X, y = digits()
    return X[:count], y[:count]
