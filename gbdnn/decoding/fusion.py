"""Language models beside a transducer: log-linear scores on labels, never on the blank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.decoding.protocols import LanguageModel, Transducer
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError
from gbdnn.types import Array

__all__ = ["Fusion", "InternalLM"]


@dataclass(frozen=True)
class Fusion:
    """What language models add to the score of a label sequence y.

        log P_transducer(y | x) + weight log P_external(y) - source_weight log P_source(y)
                                + bonus |y|

    - shallow fusion: no source model;
    - density ratio (McDermott, Sak and Variani 2019): a source model of the training transcripts;
    - low-order density ratio: as source a bigram, `train_ngram(transcripts, 2, ...)`
      (Zheng et al. 2022);
    - internal language model estimation (Meng et al. 2021): as source an `InternalLM`.

    All weights are tuned on development data; without them nothing is added.

    Parameters
    ----------
    external, source : LanguageModel, optional
    weight, source_weight : float
        Called mu and lambda in the literature; 0 or more.
    bonus : float
        Of each label, in nats (rho); against deletions.
    """

    external: LanguageModel | None = None
    source: LanguageModel | None = None
    weight: float = 0.0
    source_weight: float = 0.0
    bonus: float = 0.0

    def __post_init__(self) -> None:
        for model, weight in (("external", "weight"), ("source", "source_weight")):
            value = getattr(self, model)
            if value is not None and not callable(value):
                raise DtypeError(f"fusion.{model}", "a function (states, labels)", repr(value))
            if checks.not_negative(f"fusion.{weight}", getattr(self, weight)) and value is None:
                raise InputError(f"fusion.{model}", f"a model for the {weight} given", "None")
        if isinstance(self.bonus, bool) or not math.isfinite(self.bonus):
            raise InputError("fusion.bonus", "a finite number", repr(self.bonus))

    @property
    def models(self) -> list[tuple[str, LanguageModel, float]]:
        """The models that count, with their names and the factors of their scores."""
        found = (
            ("external", self.external, self.weight),
            ("source", self.source, -self.source_weight),
        )
        return [
            (name, model, factor) for name, model, factor in found if model is not None and factor
        ]

    @property
    def active(self) -> bool:
        """Whether anything is added to a transducer's scores."""
        return bool(self.models or self.bonus)

    def scores(
        self, states: list[tuple[Any, ...]], labels: list[int], blank: int
    ) -> tuple[Array | float, list[tuple[Any, ...]]]:
        """Return what each next label adds, shape (k, vocabulary), and each model's new states.

        Parameters
        ----------
        states : list of tuple
            A state for each of `models`; () before the first label.
        labels : list of int
        blank : int
            What stands in its column is not looked at.
        """
        total: Array | float = self.bonus
        new: list[list[Any]] = []
        for number, (name, model, factor) in enumerate(self.models):
            old = [state[number] if state else None for state in states]
            found, after = model(old, labels)
            total = total + factor * _checked(name, found, len(labels), blank)
            new.append(list(after))
        if isinstance(total, np.ndarray) and not (total < np.inf).all():  # NaN, too
            raise NonFiniteError(
                "fusion", "a source model that gives each label a probability", "some 0",
                "Smooth it, as train_ngram does.",
            )  # fmt: skip
        return total, [tuple(state) for state in zip(*new, strict=True)] or [()] * len(labels)


@dataclass(frozen=True)
class InternalLM:
    """The language model inside a transducer: its joint without the encoder's part.

    The scores of `joint` for frames of zeros, without the blank and normalised again (Variani et
    al. 2020; Meng et al. 2021). So zeros must mean that the encoder contributes nothing; a bias
    belongs to the joint then.

    Parameters
    ----------
    model : Transducer
    features : int
        Of an encoder's frame.
    blank : int
    """

    model: Transducer
    features: int
    blank: int = 0

    def __call__(self, states: list[Any], labels: list[int]) -> tuple[Array, list[Any]]:
        """See `LanguageModel`."""
        vectors, states = self.model.predict(states, labels)
        frames = np.zeros((len(labels), self.features), vectors.dtype)
        scores = np.array(self.model.joint(frames, vectors), np.float64)
        scores[:, self.blank] = -np.inf
        scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return scores, states


def _checked(name: str, found: Any, count: int, blank: int) -> Array:
    """Return scores in float64, once their shape is right and none is NaN; the blank's are 0."""
    scores = np.array(found, np.float64)
    if scores.ndim != 2 or len(scores) != count or scores.shape[1] <= blank:
        raise ShapeError(f"fusion.{name}", f"scores ({count}, vocabulary)", f"{scores.shape}")
    scores[:, blank] = 0
    if np.isnan(scores).any():
        raise NonFiniteError(f"fusion.{name}", "log-probabilities", "NaN")
    return scores
