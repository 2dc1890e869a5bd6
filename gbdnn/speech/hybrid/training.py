"""Training of hybrid recognisers: alignments, frame cross-entropy, alignments by the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError
from gbdnn.models import recurrent
from gbdnn.models.recurrent import reduction
from gbdnn.network import Network
from gbdnn.speech.data import FrontEnd
from gbdnn.speech.hybrid.alignment import SHORT, Gaussians, align, bootstrap, log_priors
from gbdnn.speech.hybrid.lexicon import Lexicon
from gbdnn.speech.hybrid.model import Hybrid
from gbdnn.training import Trainer
from gbdnn.training.step import Result
from gbdnn.types import Array

__all__ = ["checked_utterance", "realigned", "train_hybrid", "tune_hybrid"]

Pairs = Iterable[tuple[Array, str]]
Bad = Callable[[InputError], None]
Done = Callable[[str, Result], Any]


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
    held_out: Pairs = (),
    resume: bool = False,
    bad: Bad | None = None,
    done: Done | None = None,
    progress: Callable[[int], None] | None = None,
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
        as many frames as its text has states; a network that reduces time leaves fewer.
    network : Network, optional
        Where to begin; default random `layers` of `density` (`gbdnn.models.recurrent`).
    layers : str
    density : float
    trainer : Trainer, optional
        Settings of each training between alignments, cross-entropy without quantization;
        `tune_hybrid` rounds the trained one. The states of trainings are kept in folders of their
        own, "alignment-0", ..., in that of `checkpoint`.
    rounds, realignments : int
    front : FrontEnd, optional
        What made the frames; the model keeps it.
    held_out : iterable of (frames, text), optional
        Not trained on; aligned as the others are, it gives "validation_loss", nats a frame, and
        "validation_score", the share of frames whose likeliest state is right.
    resume : bool
        Go on from the checkpoints of the trainer; see `Trainer.fit`. Alignments are made again.
    bad : callable, optional
        Gets the error of each utterance that cannot be used, which is then left out; without it the
        error is raised.
    done : callable, optional
        Called with a name, "alignment-0", ..., and the `Result` of each training.
    progress : callable, optional
        See `bootstrap`.
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
    factor = reduction(layers) if network is None else network.time_factor
    data = _Data.of(given, lexicon, bad, factor)
    if network is None:
        network = recurrent(layers, data.features, lexicon.count, density=density, rng=rng)
    held = list(held_out)
    dev = _Data.of(held, lexicon, bad, factor, "held_out") if held else None
    heard = [stacked(part, factor) for part in data.frames]
    states = bootstrap(lexicon, heard, data.words, rounds=rounds, progress=progress)
    model = Hybrid(network, lexicon, log_priors(states, lexicon.count), front)
    wanted = None
    if dev is not None:
        gaussians = Gaussians.of(heard, states, lexicon.count)
        scores = [gaussians.scores(stacked(part, factor)) for part in dev.frames]
        wanted = dev.frames, _aligned(lexicon, dev, scores)
    for number in range(realignments + 1):
        if number:
            states = _realigned(model, data)
            wanted = None if dev is None else (dev.frames, _realigned(model, dev))
        name = f"alignment-{number}"
        folder = chosen.checkpoint
        own = replace(chosen, checkpoint=None if folder is None else Path(folder) / name)
        model, result = _fitted(model, data, states, own, wanted, resume)
        if done is not None:
            done(name, result)
    return model


def tune_hybrid(
    model: Hybrid, utterances: Pairs, trainer: Trainer, *, held_out: Pairs = (),
    resume: bool = False, bad: Bad | None = None, done: Done | None = None,
) -> Hybrid:  # fmt: skip
    """Train a recogniser further, on the alignments that it makes itself.

    Parameters
    ----------
    model : Hybrid
    utterances : iterable of (frames, text)
    trainer : Trainer
        With ``quantization="fasoli2022"`` the result computes in whole numbers, with a sparsifier
        it is sparse.
    held_out, resume, bad, done
        As of `train_hybrid`; the name is "tuned".
    """
    _check_trainer(trainer)
    factor, held = model.network.time_factor, list(held_out)
    data = _Data.of(list(utterances), model.lexicon, bad, factor)
    wanted = None
    if held:
        dev = _Data.of(held, model.lexicon, bad, factor, "held_out")
        wanted = dev.frames, _realigned(model, dev)
    found, result = _fitted(model, data, _realigned(model, data), trainer, wanted, resume)
    if done is not None:
        done("tuned", result)
    return found


def realigned(model: Hybrid, utterances: Pairs) -> list[Array]:
    """Return the states of each utterance as the network aligns them, shape (frames,)."""
    data = _Data.of(list(utterances), model.lexicon, None, model.network.time_factor)
    return _realigned(model, data)


def stacked(frames: Array, factor: int) -> Array:
    """Return frames as a `TimeReduction` puts them side by side."""
    if factor == 1:
        return frames
    groups = -(-len(frames) // factor)
    found = np.zeros((groups * factor, frames.shape[1]), frames.dtype)
    found[: len(frames)] = frames
    return found.reshape(groups, -1)


@dataclass(frozen=True, eq=False)
class _Data:
    """Utterances, checked: all frames have the same features, all words are known."""

    frames: list[Array]
    words: list[list[int]]
    features: int

    @classmethod
    def of(
        cls, given: Sequence[Any], lexicon: Lexicon, bad: Bad | None, factor: int,
        name: str = "utterances",
    ) -> _Data:  # fmt: skip
        frames: list[Array] = []
        words: list[list[int]] = []
        features: int | None = None
        for number, (part, text) in enumerate(_checked_pairs(given, name)):
            try:
                array, numbers = checked_utterance(
                    part, text, lexicon, features=features, factor=factor
                )
            except InputError as error:
                what = f"{name}[{number}], {error.argument}"
                named = type(error)(what, error.expected, error.got, error.fix)
                if bad is None:
                    raise named from None
                bad(named)
                continue
            features = array.shape[1]
            frames.append(array)
            words.append(numbers)
        if features is None:
            raise InputError(name, "at least one that can be used", "none")
        return cls(frames, words, features)


def checked_utterance(
    frames: Any, text: str, lexicon: Lexicon, *, features: int | None = None, factor: int = 1
) -> tuple[Array, list[int]]:
    """Return the frames of an utterance as an array, and the numbers of its words.

    Parameters
    ----------
    frames : array_like of float, shape (frames, features)
        As many as the text and silence on both sides have states, `factor` for each.
    text : str
    lexicon : Lexicon
    features : int, optional
        None: any.
    factor : int
        Frames that the network makes one.

    Raises
    ------
    InputError, ShapeError, NonFiniteError
    """
    array, numbers = _frames(frames, features), lexicon.encode(text)
    if not numbers:
        raise InputError("text", "at least one word", "none")
    silent = 2 * lexicon.silence  # the flat start has silence on both sides
    least = silent + sum(len(lexicon.states_of(word)[0]) for word in numbers)
    if (left := -(-len(array) // factor)) < least:
        expected = f"at least {least}, the states of {text!r:.60} and of silence"
        raise InputError("frames", expected, f"{left}", SHORT)
    return array, numbers


def _checked_pairs(given: Sequence[Any], name: str = "utterances") -> Sequence[tuple[Any, str]]:
    for number, pair in enumerate(given):
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], str)):
            got = type(pair).__name__
            raise DtypeError(f"{name}[{number}]", "a pair (frames, text)", got)
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


def _fitted(
    model: Hybrid, data: _Data, states: Sequence[Array], trainer: Trainer,
    validation: tuple[Any, ...] | None, resume: bool,
) -> tuple[Hybrid, Result]:  # fmt: skip
    """Train a network on states, and take their priors."""
    fitting = replace(trainer, batch_size=min(trainer.batch_size, len(data.frames)))
    result = fitting.fit(
        model.network, data.frames, list(states), validation=validation, resume=resume
    )
    priors = log_priors(states, model.lexicon.count)
    return replace(model, network=result.network, log_priors=priors), result


def _realigned(model: Hybrid, data: _Data) -> list[Array]:
    return _aligned(model.lexicon, data, model.scores(data.frames))


def _aligned(lexicon: Lexicon, data: _Data, scores: Sequence[Array]) -> list[Array]:
    return [align(lexicon, words, own)[0] for words, own in zip(data.words, scores, strict=True)]
