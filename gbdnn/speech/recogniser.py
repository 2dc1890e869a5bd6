"""Recognisers: a front end, a transducer and its characters, in one file; words with times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gbdnn.decoding import Decoder, Fusion, Hypothesis
from gbdnn.errors import DtypeError, FileFormatError, InputError, ShapeError
from gbdnn.models import Transducer
from gbdnn.models.files import load
from gbdnn.speech.data.features import FrontEnd
from gbdnn.speech.data.vocabulary import Vocabulary
from gbdnn.types import Array, FilePath

__all__ = ["Recogniser", "RecogniserSession", "Transcript", "Word"]

FRONT, CHARACTERS = "front_end", "characters"  # in the metadata of a model file


@dataclass(frozen=True)
class Word:
    """A word that was heard, and when.

    Attributes
    ----------
    text : str
    start, end : float
        In seconds: the frames in which its first and its last character were emitted. A transducer
        may emit late, one that reads both ways early; nobody has told it where words are.
    """

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Transcript:
    """What was heard.

    Attributes
    ----------
    text : str
    words : tuple of Word
    score, log_probability : float
        See `gbdnn.decoding.Hypothesis`.
    """

    text: str
    words: tuple[Word, ...]
    score: float
    log_probability: float


@dataclass(frozen=True, eq=False)
class Recogniser:
    """From samples to text.

    Parameters
    ----------
    model : Transducer
    front : FrontEnd
        Gives frames of `model.in_features` values.
    vocabulary : Vocabulary
        Its size is `model.vocabulary`, the blank counted.

    Raises
    ------
    ShapeError, DtypeError, InputError
        If they do not fit together.
    """

    model: Transducer
    front: FrontEnd
    vocabulary: Vocabulary

    def __post_init__(self) -> None:
        if not isinstance(self.model, Transducer):
            raise DtypeError("model", "a gbdnn.models.Transducer", type(self.model).__name__)
        if self.front.features != self.model.in_features:
            expected = f"frames of {self.model.in_features} values, as the model takes"
            raise ShapeError("front", expected, f"{self.front.features}")
        if self.vocabulary.size != self.model.vocabulary or self.model.blank:
            expected = f"{self.model.vocabulary - 1} characters, and the blank 0"
            got = f"{self.vocabulary.size - 1} and the blank {self.model.blank}"
            raise InputError("vocabulary", expected, got)

    @property
    def seconds_per_frame(self) -> float:
        """Time from a frame of the encoder to the next."""
        return self.front.seconds_per_frame * self.model.time_factor

    # -- files -------------------------------------------------------------------------------------

    def as_transducer(self) -> Transducer:
        """Return the model with front end and characters in its metadata."""
        own = {FRONT: self.front.as_dict(), CHARACTERS: self.vocabulary.characters}
        return replace(self.model, metadata={**self.model.metadata, **own})

    def save(self, path: FilePath, *, compress: bool = False) -> None:
        """Write one file, which `Recogniser.load` and `gbdnn.load` read; see `Network.save`."""
        self.as_transducer().save(path, compress=compress)

    @property
    def file_nbytes(self) -> int:
        """Bytes of this file."""
        return self.as_transducer().file_nbytes

    @classmethod
    def load(cls, path: FilePath) -> Recogniser:
        """Read what `save` wrote.

        Raises
        ------
        DataUnavailableError, FileFormatError
        """
        return cls.of(path, load(path))

    @classmethod
    def of(cls, path: FilePath, model: Any) -> Recogniser:
        """Return the recogniser that a model file's content is; see `load`."""
        said = getattr(model, "metadata", {})
        if not isinstance(model, Transducer) or not {FRONT, CHARACTERS} <= said.keys():
            fix = "Train one: gbdnn speech train."
            if "hybrid" in said:
                fix = "This one is a hybrid: --kind hybrid, gbdnn.speech.hybrid.load_hybrid."
            raise FileFormatError(str(path), "a recogniser", f"another model, {model!r:.80}", fix)
        try:
            return cls(model, FrontEnd.from_dict(said[FRONT]), Vocabulary(said[CHARACTERS]))
        except (InputError, DtypeError) as error:
            what = f"{path}, {error.argument}"
            raise FileFormatError(what, error.expected, error.got) from None

    # -- recognition -------------------------------------------------------------------------------

    def decoder(
        self, *, search: str = "alsd", beam: int | None = 8, fusion: Fusion | None = None
    ) -> Decoder:
        """Return a search; with a beam of 1 the greedy one.

        A text has at most as many characters as there are frames of the front end, which "alsd"
        assumes.
        """
        search = "greedy" if beam == 1 and search == "alsd" and fusion is None else search
        fusion = fusion or Fusion()
        return Decoder(
            self.model, search, beam, fusion=fusion, most_per_frame=self.model.time_factor
        )

    def transcribe(
        self, samples: Any, decoder: Decoder | None = None, *, threads: int | None = 1
    ) -> Transcript:
        """Return what a recording says.

        Parameters
        ----------
        samples : ndarray of float, shape (samples,)
            Within [-1, 1], at the rate of the front end (`gbdnn.speech.data.read_audio`).
        decoder : Decoder, optional
            Default ``self.decoder()``.
        threads : int, optional
            Of the encoder; None: all cores.
        """
        return self.transcribe_frames(self.front(samples), decoder, threads=threads)

    def transcribe_frames(
        self, frames: Array, decoder: Decoder | None = None, *, threads: int | None = 1
    ) -> Transcript:
        """Return what frames of the front end say."""
        (encoded,) = self.model.encode([frames], threads=threads)
        return self.transcript((decoder or self.decoder()).decode(encoded)[0])

    def session(self, decoder: Decoder | None = None) -> RecogniserSession:
        """Return a session for samples that come in parts.

        Raises
        ------
        InputError
            If the encoder needs whole recordings.
        """
        return RecogniserSession(self, decoder or self.decoder())

    def transcript(self, found: Hypothesis) -> Transcript:
        """Return labels as text and words."""
        text = self.vocabulary.decode(found.labels)
        step, words, start = self.seconds_per_frame, [], 0
        for stop in range(len(text) + 1):
            if stop < len(text) and text[stop] != " ":
                continue
            if stop > start:
                first, last = found.frames[start], found.frames[stop - 1]
                words.append(Word(text[start:stop], first * step, (last + 1) * step))
            start = stop + 1
        return Transcript(" ".join(text.split()), tuple(words), found.score,
                          found.log_probability)  # fmt: skip


class RecogniserSession:
    """A recording whose samples come in parts; the result is that of the whole.

    Frames go through the encoder one by one, its states from frame to frame.
    """

    def __init__(self, recogniser: Recogniser, decoder: Decoder) -> None:
        if not recogniser.model.streams:
            kinds = ", ".join(layer.kind for layer in recogniser.model.encoder.layers)
            fix = "Train one with --encoder 'lstm 256, lstm 256', or decode whole recordings."
            raise InputError("session", "an encoder that reads one way", kinds, fix)
        self.recogniser = recogniser
        self._front = recogniser.front.session()
        self._search = decoder.session()
        self._state: Any = None

    def accept(self, samples: Any) -> Transcript:
        """Go on with samples, shape (samples,); return the best so far, which may change."""
        self._go_on(self._front.accept(samples))
        return self.recogniser.transcript(self._search.best)

    def finish(self) -> Transcript:
        """Return the result."""
        self._go_on(self._front.finish())
        rest = self.recogniser.model.encoder.finish(self._state, threads=1)
        if len(rest):
            self._search.accept(rest)
        self._state = None
        return self.recogniser.transcript(self._search.finish()[0])

    def _go_on(self, frames: Sequence[Array] | Array) -> None:
        encoder = self.recogniser.model.encoder
        found = []
        for frame in frames:
            out, self._state = encoder.step(frame[None], self._state, threads=1)
            found.append(out)
        if found:
            self._search.accept(np.concatenate(found))
