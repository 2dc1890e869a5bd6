"""Training of hybrid recognisers: alignments, frame cross-entropy, alignments by the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError
from gbdnn.models import recurrent
from gbdnn.network import Network
from gbdnn.speech.data import FrontEnd
from gbdnn.speech.hybrid.alignment import align, bootstrap, log_priors
from gbdnn.speech.hybrid.lexicon import Lexicon
from gbdnn.speech.hybrid.model import Hybrid
from gbdnn.training import Trainer
from gbdnn.types import Array

__all__ = ["realigned", "train_hybrid", "tune_hybrid"]

Pairs = Iterable[tuple[Array, str]]
Bad = Callable[[InputError], None]


def train_hybrid(
    utterances: Pairs,
    lexicon: Lexicon | None = None,
    *,
    network: Network | None = None,
    layers: str = "blstm 96, blstm 96",
    density: float = 1.0,
    trainer: Trainer | None = None,
    rounds: int = 10,
    realignments: int = 1,
    front: FrontEnd | None = None,
    bad: Bad | None = None,
    rng: int = 0,
) -> Hybrid:
    """Train a hybrid recogniser from frames and texts alone.

    A flat start and `rounds` of Gaussians align frames with states (`bootstrap`); the network
    learns the states by cross-entropy; then it aligns by itself and learns on, `realignments`
    times.

    Parameters
    ----------
    utterances : iterable of (frames, text)
        Frames of shape (time, features); words between white space.
    lexicon : Lexicon, optional
        Default: the words of all texts, spelled, 3 states for each character. Each utterance needs
        as many frames as its text has states.
    network : Network, optional
        Where to begin; default random `layers` of `density` (`gbdnn.models.recurrent`).
    layers : str
    density : float
    trainer : Trainer, optional
        Settings of each training between alignments, cross-entropy without quantization;
        `tune_hybrid` rounds the trained one.
    rounds, realignments : int
    front : FrontEnd, optional
        What made the frames; the model keeps it.
    bad : callable, optional
        Gets the error of each utterance that cannot be used, which is then left out; without it the
        error is raised.
    rng : int
        Of the random network.

    Raises
    ------
    InputError, ShapeError, DtypeError, NonFiniteError
        Also for an utterance that is too short, with its number.
    """
    checks.count("realignments", realignments, 0)
    given = list(utterances)
    if lexicon is None:
        lexicon = Lexicon.of_texts(text for _, text in _checked_pairs(given))
    chosen = trainer or Trainer(epochs=10, batch_size=16, learning_rate=2e-3, clip_norm=5.0)
    _check_trainer(chosen)
    if chosen.quantization is not None:
        fix = "Train floats first, then tune_hybrid with this trainer."
        raise InputError("trainer", "one without quantization", repr(chosen.quantization), fix)
    data = _Data.of(given, lexicon, bad)
    if network is None:
        network = recurrent(layers, data.features, lexicon.count, density=density, rng=rng)
    states = bootstrap(lexicon, data.frames, data.words, rounds=rounds)
    model = _fitted(Hybrid(network, lexicon, log_priors(states, lexicon.count), front), data,
                    states, chosen)  # fmt: skip
    for _ in range(realignments):
        model = _fitted(model, data, _realigned(model, data), chosen)
    return model


def tune_hybrid(
    model: Hybrid, utterances: Pairs, trainer: Trainer, *, bad: Bad | None = None
) -> Hybrid:
    """Train a recogniser further, on the alignments that it makes itself.

    Parameters
    ----------
    model : Hybrid
    utterances : iterable of (frames, text)
    trainer : Trainer
        With ``quantization="fasoli2022"`` the result computes in whole numbers, with a sparsifier
        it is sparse.
    bad : callable, optional
        As of `train_hybrid`.
    """
    _check_trainer(trainer)
    data = _Data.of(list(utterances), model.lexicon, bad)
    return _fitted(model, data, _realigned(model, data), trainer)


def realigned(model: Hybrid, utterances: Pairs) -> list[Array]:
    """Return the states of each utterance as the network aligns them, shape (frames,)."""
    return _realigned(model, _Data.of(list(utterances), model.lexicon, None))


@dataclass(frozen=True, eq=False)
class _Data:
    """Utterances, checked: all frames have the same features, all words are known."""

    frames: list[Array]
    words: list[list[int]]
    features: int

    @classmethod
    def of(cls, given: Sequence[Any], lexicon: Lexicon, bad: Bad | None) -> _Data:
        frames: list[Array] = []
        words: list[list[int]] = []
        features: int | None = None
        for number, (part, text) in enumerate(_checked_pairs(given)):
            try:
                array = _frames(part, features)
                numbers = lexicon.encode(text)
                silent = 2 * lexicon.silence  # the flat start has silence on both sides
                least = silent + sum(len(lexicon.states_of(word)[0]) for word in numbers)
                if not numbers:
                    raise InputError("text", "at least one word", "none")
                if len(array) < least:
                    expected = f"at least {least}, the states of {text!r:.60} and of silence"
                    raise InputError("frames", expected, f"{len(array)}")
            except InputError as error:
                what = f"utterances[{number}], {error.argument}"
                named = type(error)(what, error.expected, error.got, error.fix)
                if bad is None:
                    raise named from None
                bad(named)
                continue
            features = array.shape[1]
            frames.append(array)
            words.append(numbers)
        if features is None:
            raise InputError("utterances", "at least one that can be used", "none")
        return cls(frames, words, features)


def _checked_pairs(given: Sequence[Any]) -> Sequence[tuple[Any, str]]:
    for number, pair in enumerate(given):
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], str)):
            got = type(pair).__name__
            raise DtypeError(f"utterances[{number}]", "a pair (frames, text)", got)
    return given


def _frames(part: Any, features: int | None) -> Array:
    array = np.asarray(part)
    if array.dtype.kind != "f":
        raise InputError("frames", "floats", str(array.dtype))
    if array.ndim != 2 or 0 in array.shape or features not in (None, array.shape[1]):
        expected = f"shape (time, {'features' if features is None else features})"
        raise ShapeError("frames", expected, f"shape {array.shape}")
    if not np.isfinite(array).all():
        raise NonFiniteError("frames", "finite numbers", "NaN or infinity")
    return array


def _check_trainer(trainer: Any) -> None:
    if not isinstance(trainer, Trainer):
        raise DtypeError("trainer", "a gbdnn.Trainer", type(trainer).__name__)
    if trainer.loss != "cross_entropy":
        raise InputError("trainer", "the loss 'cross_entropy'", repr(trainer.loss))


def _fitted(model: Hybrid, data: _Data, states: Sequence[Array], trainer: Trainer) -> Hybrid:
    fitting = replace(trainer, batch_size=min(trainer.batch_size, len(data.frames)))
    result = fitting.fit(model.network, data.frames, list(states))
    priors = log_priors(states, model.lexicon.count)
    return replace(model, network=result.network, log_priors=priors)


def _realigned(model: Hybrid, data: _Data) -> list[Array]:
    scores = model.scores(data.frames)
    return [
        align(model.lexicon, words, own)[0] for words, own in zip(data.words, scores, strict=True)
    ]
