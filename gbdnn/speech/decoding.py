"""Decoding of recordings: language models beside a recogniser, their weights, and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gbdnn.decoding import Decoder, Fusion, Hypothesis, InternalLM, LanguageModel
from gbdnn.errors import GbdnnError, InputError, MissingDependencyError, choose
from gbdnn.speech.data.audio import read_audio
from gbdnn.speech.data.features import LENGTH, FrontEnd
from gbdnn.speech.data.loading import BadUtterance
from gbdnn.speech.data.manifest import Utterance
from gbdnn.speech.recogniser import Recogniser, Transcript
from gbdnn.speech.tuning import Trial, tune_fusion
from gbdnn.types import Array

__all__ = ["FUSIONS", "Heard", "fusion", "load_samples", "parts", "recognise", "tuned"]

FUSIONS = ("shallow", "density-ratio", "ilme", "lodr")
BLOCK = 8  # of parts of a recording a second, in streaming


def fusion(
    recogniser: Recogniser,
    kind: str,
    external: LanguageModel,
    source: LanguageModel | None = None,
    *,
    weight: float = 0.3,
    source_weight: float = 0.2,
    bonus: float = 0.0,
) -> Fusion:
    """Return a fusion by name; weights should be tuned, see `tuned`.

    Parameters
    ----------
    recogniser : Recogniser
    kind : str
        "shallow"; "density-ratio" and "lodr" with a source model, for "lodr" a bigram; "ilme" with
        the recogniser's own. See `gbdnn.decoding.Fusion`.
    external, source : LanguageModel
        Over the labels of the recogniser.

    Raises
    ------
    InputError, UnknownNameError
    """
    choose("fusion", kind, FUSIONS)
    if kind == "shallow":
        return Fusion(external, weight=weight, bonus=bonus)
    if kind == "ilme":
        source = InternalLM(recogniser.model, recogniser.model.size, recogniser.model.blank)
    if source is None:
        fix = "Train one on the training's transcripts: gbdnn speech lm TEXT --out LM."
        raise InputError("source_lm", f"a source model for {kind!r}", "None", fix)
    if kind == "lodr" and getattr(source, "order", 2) != 2:
        fix = "Train one: gbdnn speech lm TEXT --order 2 --out LM."
        raise InputError("source_lm", "a bigram for 'lodr'", f"order {source.order}", fix)  # type: ignore[attr-defined]
    return Fusion(external, source, weight, source_weight, bonus)


@dataclass(frozen=True)
class Heard:
    """A transcript, and what it took.

    Attributes
    ----------
    transcript : Transcript
    audio, seconds : float
        Length of the recording, and time from samples to text.
    """

    transcript: Transcript
    audio: float
    seconds: float


def recognise(
    recogniser: Recogniser, decoder: Decoder, samples: Array, *, stream: bool = False,
    partial: Callable[[Transcript], None] | None = None, threads: int | None = 1,
) -> Heard:  # fmt: skip
    """Recognise a recording, and take the time.

    Parameters
    ----------
    samples : ndarray of float32, shape (samples,)
    stream : bool
        Take it in parts of an eighth of a second.
    partial : callable, optional
        Gets the transcript after each part.
    threads : int, optional
        Of the encoder, for whole recordings.
    """
    begin = time.perf_counter()
    if stream:
        session = recogniser.session(decoder)
        for part in parts(samples, recogniser.front.rate // BLOCK):
            found = session.accept(part)
            if partial is not None:
                partial(found)
        found = session.finish()
    else:
        found = recogniser.transcribe(samples, decoder, threads=threads)
    seconds = time.perf_counter() - begin
    return Heard(found, len(samples) / recogniser.front.rate, seconds)


def load_samples(utterance: Utterance, front: FrontEnd) -> Array:
    """Return the samples of a recording, at the rate of a front end, at least one window.

    Raises
    ------
    BadUtterance
        The audio cannot be read or is none.
    """
    expected = "a recording that can be used"
    try:
        samples = read_audio(utterance.audio, front.rate)
    except MissingDependencyError:
        raise
    except GbdnnError as error:
        got = f"expected {error.expected}, got {error.got}"
        raise BadUtterance(utterance.name, expected, got, error.fix) from None
    if len(samples) * 1000 < LENGTH * front.rate:
        got = f"{len(samples) / front.rate:.3f} s, less than a window of {LENGTH:g} ms"
        raise BadUtterance(utterance.name, expected, got)
    return samples


def parts(samples: Array, size: int) -> Iterator[Array]:
    """Yield samples in parts."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def tuned(
    recogniser: Recogniser,
    begin: Fusion,
    frames: Sequence[Array],
    texts: Sequence[str],
    *,
    beam: int = 8,
    report: Callable[[Trial], Any] | None = None,
) -> Trial:
    """Return the weights with the fewest errors of words on development data; see `tune_fusion`.

    Parameters
    ----------
    begin : Fusion
        With the models; its weights do not count.
    frames : list of ndarray
        Of the recogniser's front end.
    texts : list of str
    beam : int
        At least 4 are kept, of which the lists of hypotheses consist.
    report : callable, optional
        Called with each trial.
    """
    encoded = recogniser.model.encode(list(frames))

    def decode(candidate: Fusion) -> list[list[Hypothesis]]:
        decoder = recogniser.decoder(beam=max(beam, 4), fusion=candidate)
        return [decoder.decode(h) for h in encoded]

    zero = replace(begin, weight=0.0, source_weight=0.0, bonus=0.0)
    write = recogniser.vocabulary.decode
    return tune_fusion(decode, texts, write, zero, report=report)[0]
