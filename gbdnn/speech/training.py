"""Recognisers from manifests: data are read, a front end is fitted, a transducer is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from gbdnn.data.utterances import Augment
from gbdnn.errors import InputError
from gbdnn.models import transducer
from gbdnn.progress import shown
from gbdnn.speech.data.augment import spec_augment
from gbdnn.speech.data.features import FrontEnd
from gbdnn.speech.data.loading import BadUtterance, Example, examples
from gbdnn.speech.data.manifest import Utterance
from gbdnn.speech.data.vocabulary import Vocabulary
from gbdnn.speech.recogniser import Recogniser
from gbdnn.training import Trainer
from gbdnn.training.step import Result
from gbdnn.training.transducer import fit_transducer
from gbdnn.types import Array

__all__ = [
    "DENSE", "Data", "arrays", "augmentation", "new_recogniser", "normalised", "read_data",
    "train_recogniser",
]  # fmt: skip

ENCODER, PREDICTOR, SIZE = "blstm 96, blstm 96", "lstm 128", 128
DENSE = ("joint.*", "predictor.layers.0.*")
"""Small matrices of a recogniser that stay dense when it is pruned."""


@dataclass(frozen=True, eq=False)
class Data:
    """Utterances that were read.

    Attributes
    ----------
    frames : list of ndarray of float32, shapes (frames, features)
        Not normalised.
    texts : list of str
    bad : list of BadUtterance
        What was passed over, and why.
    names : list of str
        Audio, file and line of each, for messages.
    """

    frames: list[Array]
    texts: list[str]
    bad: list[BadUtterance]
    names: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Utterances that can be used."""
        return len(self.frames)


def read_data(
    utterances: Sequence[Utterance],
    front: FrontEnd,
    *,
    characters: str | None = None,
    skip_bad: bool = False,
    progress: bool | Callable[[int], None] = False,
    name: str = "audio",
) -> Data:
    """Read the audio of utterances.

    Parameters
    ----------
    utterances : sequence of Utterance
    front : FrontEnd
    characters : str, optional
        Texts with others are bad; None: all characters are good.
    skip_bad : bool
        Pass over utterances that cannot be used; else the first one is an error.
    progress : bool or callable
    name : str
        What the progress calls it.

    Raises
    ------
    BadUtterance
        Also if none is left.
    """
    bad: list[BadUtterance] = []
    vocabulary = None if characters is None else Vocabulary(characters)
    vocabulary = vocabulary or Vocabulary.of([utterance.text for utterance in utterances])
    with shown(name, len(utterances), progress) as advance:
        found: list[Example] = list(
            examples(utterances, front, vocabulary, bad=bad.append if skip_bad else None,
                     progress=advance)
        )  # fmt: skip
    if not found:
        reason = str(bad[0]) if bad else "none at all"
        raise InputError("manifest", "an utterance that can be used", reason)
    texts = [example.utterance.text for example in found]
    names = [example.utterance.name for example in found]
    return Data([example.frames for example in found], texts, bad, names)


def new_recogniser(
    data: Data,
    front: FrontEnd,
    *,
    encoder: str = ENCODER,
    predictor: str = PREDICTOR,
    size: int = SIZE,
    characters: str | None = None,
    **settings: Any,
) -> Recogniser:
    """Return a recogniser with random weights for data: mean and deviation are theirs.

    Parameters
    ----------
    data : Data
    front : FrontEnd
        The one that `data` was read with.
    encoder, predictor : str
    size : int
    characters : str, optional
        Default those of the data.
    **settings
        embedding, combine, density, dropout, rng: as of `gbdnn.models.transducer`.
    """
    vocabulary = Vocabulary(characters) if characters else Vocabulary.of(data.texts)
    fitted = front.fitted(data.frames)
    model = transducer(
        encoder, front.features, vocabulary.size, predictor=predictor, size=size, **settings
    )
    return Recogniser(model, fitted, vocabulary)


def augmentation(front: FrontEnd, **settings: Any) -> Augment:
    """Return SpecAugment for frames of a front end; see `gbdnn.speech.data.spec_augment`."""
    return partial(spec_augment, bins=front.bins, **settings)


def train_recogniser(
    trainer: Trainer,
    recogniser: Recogniser,
    data: Data,
    dev: Data | None = None,
    *,
    augment: Augment | None = None,
    resume: bool = False,
) -> tuple[Recogniser, Result]:
    """Train a copy of a recogniser.

    Parameters
    ----------
    trainer : Trainer
        See `gbdnn.training.transducer.fit_transducer`.
    recogniser : Recogniser
        Where training begins: `new_recogniser`, or a trained one.
    data, dev : Data
        Read by a front end like the recogniser's, without mean.
    augment : callable, optional
        See `augmentation`.
    resume : bool
        Go on from the checkpoints of `trainer`.
    """
    parts = [None if part is None else arrays(recogniser, part) for part in (data, dev)]
    assert parts[0] is not None
    result = fit_transducer(
        trainer, recogniser.model, *parts[0], validation=parts[1], augment=augment, resume=resume
    )
    model: Any = result.network
    return Recogniser(model, recogniser.front, recogniser.vocabulary), result


def arrays(recogniser: Recogniser, data: Data) -> tuple[list[Array], list[Array]]:
    """Return frames, normalised by the recogniser's front end, and labels."""
    frames = [normalised(recogniser.front, part) for part in data.frames]
    return frames, [recogniser.vocabulary.encode(text) for text in data.texts]


def normalised(front: FrontEnd, frames: Array) -> Array:
    """Return what a front end makes of a recording, from what it makes without its mean."""
    if front.mean is None or front.deviation is None:
        return frames
    mean, scale = np.array(front.mean, np.float32), 1 / np.array(front.deviation, np.float32)
    found: Array = ((frames.reshape(-1, front.single) - mean) * scale).reshape(frames.shape)
    return found
