"""Weights of hybrid decoding, chosen on development data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gbdnn.decoding.batched import edit_distance
from gbdnn.errors import InputError, ShapeError
from gbdnn.speech.hybrid.decoder import HybridDecoder
from gbdnn.types import Array

__all__ = ["BONUSES", "WEIGHTS", "HybridTrial", "tune_decoder"]

WEIGHTS, BONUSES = (1.0, 2.0, 0.5, 4.0), (0.0, -3.0, 3.0, -6.0, -9.0)
"""What is tried; of equally good ones the first is taken."""


@dataclass(frozen=True, eq=False)
class HybridTrial:
    """A decoder, and the share of words that it gets wrong.

    Attributes
    ----------
    decoder : HybridDecoder
    rate : float
        Substitutions, deletions and insertions by the number of words.
    """

    decoder: HybridDecoder
    rate: float


def tune_decoder(
    decoder: HybridDecoder,
    frames: Sequence[Array],
    texts: Sequence[str],
    *,
    report: Callable[[HybridTrial], Any] | None = None,
    **computing: Any,
) -> HybridTrial:
    """Return the weight and the bonus with the fewest errors of words.

    All `BONUSES` are tried, with a language model each with all `WEIGHTS`.

    Parameters
    ----------
    decoder : HybridDecoder
        Its other settings are kept.
    frames : sequence of ndarray, shape (frames, features)
        The network's part is computed once.
    texts : sequence of str
        What is said in them.
    report : callable, optional
        Called with each trial.
    **computing
        See `Network.predict`.

    Raises
    ------
    InputError, ShapeError
    """
    if len(frames) != len(texts):
        raise ShapeError("texts", f"{len(frames)} of them, as frames", f"{len(texts)}")
    said = [text.split() for text in texts]
    count = sum(map(len, said))
    if not count:
        raise InputError("texts", "at least one word", "none")
    model = decoder.model
    scores = model.scores(frames, prior_scale=decoder.prior_scale, **computing)
    best: HybridTrial | None = None
    for weight in (decoder.weight,) if decoder.language_model is None else WEIGHTS:
        for bonus in BONUSES:
            own = replace(decoder, weight=weight, bonus=bonus)
            heard = [model.lexicon.decode(own.best(part)[0].labels).split() for part in scores]
            wrong = sum(map(edit_distance, said, heard))
            trial = HybridTrial(own, wrong / count)
            if report is not None:
                report(trial)
            if best is None or trial.rate < best.rate:
                best = trial
    assert best is not None
    return best
