"""Greedy search of many utterances at once, for the score of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gbdnn.decoding.protocols import Transducer
from gbdnn.types import Array

__all__ = ["edit_distance", "greedy"]


def greedy(
    model: Transducer, frames: Sequence[Array], *, blank: int = 0, labels_per_frame: int = 4
) -> list[tuple[int, ...]]:
    """Return what "greedy" of `gbdnn.decoding.Decoder` finds, of all utterances side by side.

    Parameters
    ----------
    model : Transducer
    frames : list of ndarray, shapes (time_i, features)
        Of the encoder.
    blank : int
    labels_per_frame : int
    """
    count = len(frames)
    found: list[list[int]] = [[] for _ in range(count)]
    if not count:
        return []
    first, states = model.predict([None], [blank])
    vectors, states = np.repeat(first, count, axis=0), states * count
    for t in range(max(map(len, frames))):
        live = [k for k in range(count) if t < len(frames[k])]
        for _ in range(labels_per_frame):
            now = np.stack([frames[k][t] for k in live])
            best = model.joint(now, vectors[live]).argmax(axis=1)
            emitted = [(k, int(label)) for k, label in zip(live, best, strict=True)
                       if label != blank]  # fmt: skip
            live = [k for k, _ in emitted]
            if not live:
                break
            new, after = model.predict([states[k] for k in live], [label for _, label in emitted])
            vectors[live] = new
            for (k, label), state in zip(emitted, after, strict=True):
                found[k].append(label)
                states[k] = state
    return [tuple(labels) for labels in found]


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Return how many insertions, deletions and substitutions lead from a to b (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]
