"""Texts read aloud by synthetic voices: data to begin with where recordings are few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gbdnn import checks
from gbdnn.errors import DataUnavailableError, InputError, choose
from gbdnn.progress import shown
from gbdnn.speech.data import texts as words_of
from gbdnn.speech.data.corpus import CorpusPlan, spoken
from gbdnn.speech.data.manifest import Utterance, write_manifest
from gbdnn.types import FilePath

__all__ = ["read_aloud"]

VOICES = ("known", "speakers", "accents")
STREAM = 8  # of random numbers; a corpus takes those below


def read_aloud(
    out: FilePath,
    texts: Sequence[str],
    plan: CorpusPlan | None = None,
    *,
    shuffled: float = 0.0,
    voices: str = "known",
    progress: bool | Callable[[int], None] = False,
) -> Path:
    """Let the voices of a corpus read texts; return the manifest, `out`/read.jsonl.

    Parameters
    ----------
    out : path-like
        A folder, made if there is none; audio goes into `out`/audio/read.
    texts : sequence of str
        Read in turn, from the first on again until `plan.utterances` are made. Words are made plain
        (`texts.normalised`).
    plan : CorpusPlan, optional
        Voices, noise, line, rate, and how many words a shuffled text has.
    shuffled : float
        Share of utterances whose words are drawn from those of all texts, each word as often as it
        stands there: their order tells a recogniser nothing.
    voices : {"known", "speakers", "accents"}
        Those of the plan's training, other speakers of its accents, other speakers and accents.
    progress : bool or callable

    Raises
    ------
    InputError
        No text with a word; a share outside [0, 1].
    MissingDependencyError, DataUnavailableError
        As `make_corpus`.
    """
    plan = CorpusPlan() if plan is None else plan
    checks.within("shuffled", shuffled, "[0, 1]")
    choose("voices", voices, VOICES)
    lines = [line for text in texts if (line := words_of.normalised(text))]
    if not lines:
        raise InputError("texts", "at least one word", "none")
    pool = " ".join(lines).split()
    folder = Path(out)
    try:
        (folder / "audio" / "read").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = error.strerror or str(error)
        raise DataUnavailableError(str(out), "a folder to write to", got) from None
    found: list[Utterance] = []
    with shown("read aloud", plan.utterances, progress) as advance:
        for number in range(plan.utterances):
            rng = np.random.default_rng([plan.seed, STREAM, number])
            text = lines[number % len(lines)]
            if rng.random() < shuffled:
                text = words_of.source_text(rng, words=plan.words, digits=0, pool=pool)
            path = folder / "audio" / "read" / f"{number:06}.wav"
            found.append(spoken(plan, voices, text, path, rng))
            if advance:
                advance(1)
    manifest = folder / "read.jsonl"
    write_manifest(manifest, found)
    return manifest
