"""Small transducers and utterances whose labels can be learned."""

from __future__ import annotations

from typing import Any

import numpy as np

from gbdnn.models import Transducer, transducer

Utterances = tuple[list[Any], list[Any]]


def small(combine: str = "add", encoder: str = "lstm 6, lstm 5", **settings: Any) -> Transducer:
    """Return a transducer of 3 features and 5 labels."""
    given: dict[str, Any] = {"predictor": "lstm 4", "embedding": 3, "size": 6, "rng": 3}
    made = transducer(encoder, 3, 5, combine=combine, **given | settings)
    rng = np.random.default_rng(4)
    larger = {name: weight.with_entries(2.5 * weight.entries) for name, weight in
              made.weights.items()}  # fmt: skip
    return made.replaced(larger | {"joint.bias": rng.normal(0, 0.3, made.size)})


def spoken(
    count: int, *, labels: int = 4, features: int = 6, most: int = 4, noise: float = 0.2,
    dtype: Any = np.float32, seed: int = 0,
) -> Utterances:  # fmt: skip
    """Return utterances in which each label is a direction for two to four frames, with gaps."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((labels + 1, features))
    directions[0] = 0  # a gap
    X, y = [], []
    for _ in range(count):
        said = rng.integers(1, labels + 1, size=rng.integers(1, most + 1))
        parts = [np.repeat(directions[[label, 0]], [rng.integers(2, 5), 1], axis=0)
                 for label in said]  # fmt: skip
        frames = np.concatenate(parts)
        X.append((frames + noise * rng.standard_normal(frames.shape)).astype(dtype))
        y.append(said)
    return X, y


def mixed(dtype: Any = np.float64) -> Utterances:
    """Return utterances of 3 features of different lengths; one says nothing."""
    rng = np.random.default_rng(5)
    X = [rng.standard_normal((T, 3)).astype(dtype) for T in (4, 7, 1, 5)]
    return X, [np.array([1, 2]), np.array([4, 3, 3, 1]), np.array([2]), np.array([], int)]
