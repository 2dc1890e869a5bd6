"""From manifests to frames and labels; bad utterances are named, or passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gbdnn.errors import GbdnnError, InputError, MissingDependencyError
from gbdnn.speech.data.audio import read_audio
from gbdnn.speech.data.features import FrontEnd
from gbdnn.speech.data.manifest import Utterance
from gbdnn.speech.data.vocabulary import Vocabulary
from gbdnn.types import Array

__all__ = ["BadUtterance", "Example", "examples", "load_example"]


class BadUtterance(InputError):
    """An utterance that cannot be used; `argument` has audio, file and line, `got` the reason."""


@dataclass(frozen=True, eq=False)
class Example:
    """An utterance as a recogniser is trained on it.

    Attributes
    ----------
    utterance : Utterance
    frames : ndarray of float32, shape (frames, features)
    labels : ndarray of int32, shape (labels,)
    """

    utterance: Utterance
    frames: Array
    labels: Array


def load_example(
    utterance: Utterance, front: FrontEnd, vocabulary: Vocabulary | None = None
) -> Example:
    """Read an utterance.

    Parameters
    ----------
    utterance : Utterance
    front : FrontEnd
    vocabulary : Vocabulary, optional
        Without it the labels are empty.

    Raises
    ------
    BadUtterance
        The audio cannot be read or is none, or the text is empty or has other characters.
    MissingDependencyError
    """
    try:
        labels = (vocabulary or Vocabulary(" ")).encode(utterance.text if vocabulary else "")
        if vocabulary and not len(labels):
            raise InputError("text", "at least one character", "none")
        frames = front(read_audio(utterance.audio, front.rate))
    except MissingDependencyError:
        raise
    except GbdnnError as error:
        name = error.argument
        what = "" if name == str(utterance.audio) else f"{name}: "
        got = f"{what}expected {error.expected}, got {error.got}"
        raise BadUtterance(
            utterance.name, "an utterance that can be used", got, error.fix
        ) from None
    return Example(utterance, frames, labels)


def examples(
    utterances: Iterable[Utterance],
    front: FrontEnd,
    vocabulary: Vocabulary | None = None,
    *,
    bad: Callable[[BadUtterance], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Example]:
    """Yield utterances as examples.

    Parameters
    ----------
    utterances : iterable of Utterance
    front : FrontEnd
    vocabulary : Vocabulary, optional
    bad : callable, optional
        Gets the error of each utterance that cannot be used, and which is then passed over; without
        it the error is raised.
    progress : callable, optional
        Called with 1 after each utterance.
    """
    for utterance in utterances:
        try:
            found = load_example(utterance, front, vocabulary)
        except BadUtterance as error:
            if bad is None:
                raise
            bad(error)
        else:
            yield found
        if progress is not None:
            progress(1)
