"""The tree of label sequences that a search meets: each prefix is predicted once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn.decoding.fusion import Fusion
from gbdnn.decoding.protocols import Transducer
from gbdnn.errors import NonFiniteError, ShapeError
from gbdnn.types import Array

__all__ = ["Hypothesis", "Prefix", "Prefixes"]


@dataclass(frozen=True)
class Hypothesis:
    """A label sequence that was found.

    Attributes
    ----------
    labels : tuple of int
    frames : tuple of int
        Number of the frame, from 0, at which each label was emitted, on the likeliest of the
        alignments that came together.
    score : float
        What the search orders by, in nats: `log_probability` and what the fusion adds.
    log_probability : float
        Of the transducer alone: the sum over the alignments that the search kept; for greedy
        search that of its one alignment.
    """

    labels: tuple[int, ...]
    frames: tuple[int, ...]
    score: float
    log_probability: float


class Prefix:
    """A label sequence, as a node of the tree; equal sequences are the same object.

    Attributes
    ----------
    parent, label, length
        The sequence without its last label, that label, the number of labels.
    children : dict
    vector, state, states, row
        The predictor's output and state, the language models' states, and what the fusion adds for
        each next label; None before they are computed, `row` also without a fusion.
    fused : float
        What the fusion added so far.
    """

    __slots__ = (
        "children", "fused", "label", "length", "parent", "row", "state", "states", "vector",
    )  # fmt: skip

    def __init__(self, parent: Prefix | None, label: int) -> None:
        self.parent, self.label = parent, label
        self.length: int = 0 if parent is None else parent.length + 1
        self.children: dict[int, Prefix] = {}
        self.vector: Any = None
        self.state: Any = None
        self.states: tuple[Any, ...] = ()
        self.row: Any = None
        self.fused: float = 0.0
        if parent is not None and parent.row is not None:
            self.fused = parent.fused + float(parent.row[label])

    def labels(self) -> tuple[int, ...]:
        """Return the sequence."""
        found, node = [], self
        while node.parent is not None:
            found.append(node.label)
            node = node.parent
        return tuple(reversed(found))


class Prefixes:
    """The tree, and what the models say about its nodes.

    Parameters
    ----------
    model : Transducer
    fusion : Fusion
    blank : int

    Attributes
    ----------
    root : Prefix
        The empty sequence.
    predicted : int
        Prefixes that were given to the predictor.
    """

    def __init__(self, model: Transducer, fusion: Fusion, blank: int) -> None:
        self.model, self.fusion, self.blank = model, fusion, blank
        self.root = Prefix(None, blank)
        self.predicted = 0

    def child(self, node: Prefix, label: int) -> Prefix:
        """Return a sequence with one label more."""
        if (found := node.children.get(label)) is None:
            found = node.children[label] = Prefix(node, label)
        return found

    def scores(self, nodes: Sequence[Prefix], frames: Array) -> Array:
        """Return log-probabilities after each of k prefixes at its frame, and fusion's part.

        Parameters
        ----------
        nodes : sequence of k Prefix
        frames : ndarray, shape (k, features)

        Returns
        -------
        ndarray of float64, shape (k, vocabulary)
        """
        self._predict([node for node in nodes if node.vector is None])
        found = self.model.joint(frames, np.stack([node.vector for node in nodes]))
        scores = np.array(found, np.float64)
        if scores.ndim != 2 or len(scores) != len(nodes) or scores.shape[1] <= self.blank:
            expected = f"shape ({len(nodes)}, vocabulary) with the blank {self.blank}"
            raise ShapeError("joint", expected, f"{scores.shape}")
        if not (scores < np.inf).all():  # NaN, too
            raise NonFiniteError("joint", "log-probabilities", "NaN or infinity")
        if self.fusion.active:
            for node in nodes:
                if node.row is None:  # a bonus alone
                    node.row = np.full(scores.shape[1], self.fusion.bonus)
            rows = np.stack([node.row for node in nodes])
            if rows.shape != scores.shape:
                got = f"{rows.shape[1]} and {scores.shape[1]}"
                raise ShapeError("fusion", "language models of the joint's vocabulary", got)
            rows[:, self.blank] = 0
            scores += rows
        return scores

    def _predict(self, nodes: list[Prefix]) -> None:
        """Compute what the models say about prefixes whose parents are known."""
        if not nodes:
            return
        before = [node.parent for node in nodes]
        labels = [node.label for node in nodes]
        states = [parent and parent.state for parent in before]
        vectors, after = self.model.predict(states, labels)
        self.predicted += len(nodes)
        if len(vectors) != len(nodes) or len(after) != len(nodes):
            expected = f"vectors and states of {len(nodes)} hypotheses"
            raise ShapeError("predict", expected, f"{len(vectors)} and {len(after)}")
        for node, vector, state in zip(nodes, vectors, after, strict=True):
            node.vector, node.state = vector, state
        if self.fusion.models:
            old = [parent.states if parent else () for parent in before]
            rows, new = self.fusion.scores(old, labels, self.blank)
            for node, row, part in zip(nodes, rows, new, strict=True):  # type: ignore[arg-type]
                node.row, node.states = row, part

    def forget(self, live: Iterable[Prefix]) -> None:
        """Drop what no continuation of these prefixes needs: long recordings take little memory."""
        live = {each for node in live for each in (node, node.parent) if each}
        kept = set(live)
        for node in live:
            above = node.parent
            while above is not None and above not in kept:
                kept.add(above)
                above = above.parent
        for node in kept:
            node.children = {key: child for key, child in node.children.items() if child in kept}
            if node not in live:
                node.vector = node.state = node.row = None
                node.states = ()
