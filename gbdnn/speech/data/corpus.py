"""Corpora: synthetic speech in two domains with its splits, and recorded telephone prompts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.errors import DataUnavailableError, InputError
from gbdnn.files.disk import atomic_write, open_binary
from gbdnn.progress import shown
from gbdnn.speech.data import texts
from gbdnn.speech.data.audio import (
    add_noise,
    mu_law,
    read_audio,
    resample,
    reverberate,
    write_audio,
)
from gbdnn.speech.data.manifest import Utterance, write_manifest
from gbdnn.speech.data.synthesis import ACCENTS, VARIANTS, Voice, flite, flite_voices, synthesise
from gbdnn.types import Array, FilePath

__all__ = ["CorpusPlan", "make_corpus", "splice", "split", "telephone_prompts"]

SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
TRANSCRIPTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
READ_ALOUD = re.compile(r"[*#]|[0-9][.][0-9]|www[.]")
SOURCE, TARGET = "source.txt", "target.txt"
LEVELS = (20, 10, 5)  # dB, of the test sets with more and more noise


@dataclass(frozen=True)
class CorpusPlan:
    """What a synthetic corpus is made of; the same plan gives the same files.

    Parameters
    ----------
    utterances : int
        For training.
    held_out : int
        In each of the other sets.
    target_texts : int
        Lines of text of the target domain, for language models.
    rate : int
        8000 or 16000, or another sampling rate.
    telephone : bool
        Whether audio passes through a line of 8 bits (mu-law).
    snr : (float, float)
        Least and largest ratio of signal to noise in dB, drawn uniformly for each utterance; noise
        between white and brown.
    rooms : float
        Share of the utterances with reverberation of .1 to .5 s.
    words : (int, int)
        Least and largest number of words of the source domain's texts.
    digits : float
        Share of these that are strings of digits.
    accents, variants : int
        Number of accents and of the library's speakers that training has; others are held out.
    seed : int
    """

    utterances: int = 3000
    held_out: int = 200
    target_texts: int = 5000
    rate: int = 8000
    telephone: bool = True
    snr: tuple[float, float] = (5.0, 20.0)
    rooms: float = 0.0
    words: tuple[int, int] = (3, 7)
    digits: float = 0.4
    accents: int = 4
    variants: int = 36
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("utterances", "held_out"):
            checks.count(name, getattr(self, name))
        for name in ("target_texts", "seed"):
            checks.count(name, getattr(self, name), 0)
        checks.within("rate", self.rate, "[4000, 48000]", whole=True)
        for name in ("rooms", "digits"):
            checks.within(name, getattr(self, name), "[0, 1]")
        for name, table in (("accents", ACCENTS), ("variants", VARIANTS)):
            checks.within(name, getattr(self, name), f"[1, {len(table) - 1}]", whole=True)
        for name in ("words", "snr"):
            least, largest = getattr(self, name)
            if not least <= largest:
                raise InputError(name, "least and largest", repr(getattr(self, name)))
        checks.within("words", self.words[0], "[1, 50]", whole=True)
        checks.within("words", self.words[1], "[1, 50]", whole=True)


@dataclass(frozen=True)
class _Set:
    """A set of the corpus: whose voices, which texts, how much noise."""

    name: str
    number: int  # of its random numbers; sets with the same one differ in noise alone
    texts: str  # a domain
    voices: str = "known"
    snr: float | None = None


def _sets(plan: CorpusPlan) -> list[_Set]:
    found = [
        _Set("train", 0, "source"),
        _Set("dev", 1, "source"),
        _Set("dev-target", 2, "target"),
        _Set("test-matched", 3, "source", "speakers"),
        _Set("test-accents", 4, "source", "accents"),
        _Set("test-target", 5, "target", "speakers"),
        *(_Set(f"test-{level}db", 3, "source", "speakers", level) for level in LEVELS),
    ]
    if flite_voices():
        found.append(_Set("test-shifted", 6, "source", "flite"))
    return found


def make_corpus(
    out: FilePath,
    plan: CorpusPlan | None = None,
    *,
    progress: bool | Callable[[int], None] = False,
) -> dict[str, Path]:
    """Make a corpus of synthetic speech.

    Parameters
    ----------
    out : path-like
        A folder, made if there is none. Audio goes into `out`/audio, 16-bit WAV files.
    plan : CorpusPlan, optional
    progress : bool or callable

    Returns
    -------
    dict of str to Path
        The manifests: "train"; "dev", the same voices with other texts; "test-matched", other
        speakers of the same accents; "test-accents", other accents too; "test-shifted", by another
        engine, flite, where it is installed; "test-20db", "test-10db", "test-5db", test-matched
        with as much noise; "dev-target" and "test-target", texts of the target domain by the
        voices of dev and test-matched. And two texts for language models, a sentence a line:
        "source", the transcripts of train, and "target". No text is in two sets, but for those
        that differ in noise alone.

    Raises
    ------
    MissingDependencyError
        Without espeakng-loader or soundfile.
    InputError
        The folder holds a corpus of another plan.
    DataUnavailableError
    """
    plan = CorpusPlan() if plan is None else plan
    folder = Path(out)
    record = folder / "corpus.json"
    settings = json.loads(json.dumps(asdict(plan)))
    if record.exists() and _settings(record) != settings:
        fix = "Choose another folder, or remove it."
        raise InputError(str(out), "a folder without a corpus of another plan", "one", fix)
    sets = _sets(plan)
    try:
        for made in sets:
            (folder / "audio" / made.name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = error.strerror or str(error)
        raise DataUnavailableError(str(out), "a folder to write to", got) from None
    written = _texts(plan, sets)
    with shown("corpus", sum(len(written[made.number]) for made in sets), progress) as advance:
        for made in sets:
            utterances = []
            for number, text in enumerate(written[made.number]):
                path = folder / "audio" / made.name / f"{number:06}.wav"
                rng = np.random.default_rng([plan.seed, made.number, number])
                utterances.append(spoken(plan, made.voices, text, path, rng, made.snr))
                if advance:
                    advance(1)
            write_manifest(folder / f"{made.name}.jsonl", utterances)
    for name, lines in ((SOURCE, written[0]), (TARGET, written[-1])):
        with atomic_write(folder / name) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
    with atomic_write(record) as file:
        file.write(json.dumps(settings, indent=1).encode())
    found = {made.name: folder / f"{made.name}.jsonl" for made in sets}
    return found | {"source": folder / SOURCE, "target": folder / TARGET}


def _settings(record: Path) -> Any:
    with open_binary(record) as file:
        try:
            return json.loads(file.read())
        except ValueError:
            return None


def _texts(plan: CorpusPlan, sets: Sequence[_Set]) -> dict[int, list[str]]:
    """Return the texts of the sets by their numbers, and those of the target domain under -1."""

    def source(rng: np.random.Generator) -> str:
        return texts.source_text(rng, words=plan.words, digits=plan.digits)

    found: dict[int, list[str]] = {}
    seen: set[str] = set()
    # those that are for tests come first: they stay the same when the training grows
    for made in sorted(sets, key=lambda made: -made.number):
        if made.number not in found:
            rng = np.random.default_rng([plan.seed, made.number])
            count = plan.held_out if made.number else plan.utterances
            make = source if made.texts == "source" else texts.target_text
            found[made.number] = texts.distinct(make, count, rng, seen)
            seen.update(found[made.number])
    rng = np.random.default_rng([plan.seed, 7])
    found[-1] = texts.distinct(texts.target_text, plan.target_texts, rng, seen)
    return found


def spoken(
    plan: CorpusPlan,
    voices: str,
    text: str,
    path: Path,
    rng: np.random.Generator,
    level: float | None = None,
) -> Utterance:
    """Speak, spoil and write an utterance; `level` is the noise's in dB, None: drawn."""
    samples, rate, speaker = _spoken(plan, voices, text, rng)
    samples = resample(samples, rate, plan.rate)
    peak = float(np.abs(samples).max())
    samples = samples * np.float32(10 ** rng.uniform(-1.0, -0.2) / max(peak, 1e-6))
    if rng.random() < plan.rooms:
        samples = reverberate(samples, plan.rate, rng.uniform(0.1, 0.5), rng)
    snr, colour = rng.uniform(*plan.snr), rng.uniform(0, 2)
    samples = add_noise(samples, snr if level is None else level, rng, colour=colour)
    if plan.telephone:
        samples = mu_law(samples)
    write_audio(path, samples, plan.rate)
    return Utterance(path, text, round(len(samples) / plan.rate, 3), speaker)


def _spoken(
    plan: CorpusPlan, voices: str, text: str, rng: np.random.Generator
) -> tuple[Array, int, str]:
    """Return samples, their rate and who speaks."""
    if voices == "flite":
        names = flite_voices()
        name = names[int(rng.integers(len(names)))]
        return *flite(text, name), f"flite+{name}"
    accents, variants = list(ACCENTS), list(VARIANTS)
    accents = accents[plan.accents :] if voices == "accents" else accents[: plan.accents]
    shuffled = np.random.default_rng(plan.seed).permutation(variants).tolist()
    variants = shuffled[: plan.variants] if voices == "known" else shuffled[plan.variants :]
    voice = Voice(
        accents[int(rng.integers(len(accents)))], variants[int(rng.integers(len(variants)))],
        rate=int(rng.integers(140, 211)), pitch=int(rng.integers(35, 66)),
        range=int(rng.integers(30, 71)),
    )  # fmt: skip
    return *synthesise(text, voice, seed=int(rng.integers(1 << 31))), voice.name


def split(
    utterances: Sequence[Utterance], share: float, rng: np.random.Generator | int
) -> tuple[list[Utterance], list[Utterance]]:
    """Return two parts of utterances, the second about `share` of them; no text is in both."""
    checks.fraction("share", share)
    rng = np.random.default_rng(checks.generator_or_seed("rng", rng))
    groups = sorted({utterance.text for utterance in utterances})
    taken = set(rng.permutation(groups)[: round(share * len(groups))].tolist())
    first = [utterance for utterance in utterances if utterance.text not in taken]
    return first, [utterance for utterance in utterances if utterance.text in taken]


def telephone_prompts(
    sounds: FilePath | None = None,
    transcripts: FilePath | None = None,
    *,
    words: Collection[str] | None = None,
    longest: float = math.inf,
) -> list[Utterance]:
    """Return recorded telephone prompts of a person with their texts in plain words.

    Debian's packages asterisk-core-sounds-en-wav and asterisk-core-sounds-en: 8 kHz, one speaker,
    25 minutes, CC-BY-SA 3.0.

    Parameters
    ----------
    sounds : path-like, optional
        A folder with NAME.wav; default that of the installed package.
    transcripts : path-like, optional
        Lines "NAME: text", perhaps compressed; what is in brackets is no speech. Lines with what
        is read aloud in other words (*, #, decimals, addresses) are left out.
    words : collection of str, optional
        Only prompts whose words are all among these.
    longest : float
        Seconds; longer ones are left out.

    Raises
    ------
    DataUnavailableError
        No such folder or file.
    MissingDependencyError
        Without the package soundfile.
    """
    soundfile = checks.package("soundfile", "audio files", "speech")
    folder = SOUNDS if sounds is None else Path(sounds)
    path = TRANSCRIPTS if transcripts is None else Path(transcripts)
    for place in (folder, path):
        if not place.exists():
            fix = "Debian: apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-wav"
            raise DataUnavailableError(str(place), "telephone prompts", "none", f"{fix}.")
    found = []
    with open_binary(path) as file:
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        name, _, text = line.partition(":")
        text = re.sub(r"\[[^\]]*\]|<[^>]*>", " ", text)
        plain = texts.normalised(text)
        audio = folder / f"{name.strip()}.wav"
        if line.startswith(";") or not plain or READ_ALOUD.search(text) or not audio.exists():
            continue
        duration = round(float(soundfile.info(audio).duration), 3)
        if duration <= longest and (words is None or set(plain.split()) <= set(words)):
            origin = f"{path}, line {number}"
            found.append(Utterance(audio, plain, duration, folder.name, origin))
    return found


def splice(
    out: FilePath,
    prompts: Sequence[Utterance],
    count: int,
    rng: np.random.Generator | int,
    *,
    rate: int = 8000,
    words: tuple[int, int] = (3, 7),
    digits: float = 0.4,
    pause: tuple[float, float] = (0.03, 0.12),
) -> list[Utterance]:
    """Put recorded words together, as telephone systems say numbers; each word is real speech.

    Parameters
    ----------
    out : path-like
        Folder for the audio, made if there is none.
    prompts : sequence of Utterance
        Those of one word of `texts.WORDS` are used, of several recordings of a word the first.
    count : int
        Utterances to make, all different.
    rng : Generator or int
    rate : int
    words, digits
        As of a `CorpusPlan`; other words than digits are drawn from all that were recorded.
    pause : (float, float)
        Least and largest silence between words, in seconds.

    Raises
    ------
    InputError
        A digit or more was not recorded.
    """
    rng = np.random.default_rng(checks.generator_or_seed("rng", rng))
    recorded = {u.text: u.audio for u in reversed(prompts) if u.text in texts.WORDS}
    if missing := sorted(set(texts.DIGITS) - recorded.keys()):
        raise InputError("prompts", "a recording of each digit", f"none of {', '.join(missing)}")
    samples = {word: read_audio(path, rate) for word, path in recorded.items()}
    known = tuple(word for word in texts.WORDS if word in recorded)

    def make(rng: np.random.Generator) -> str:
        return texts.source_text(rng, words=words, digits=digits, pool=known)

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, text in enumerate(texts.distinct(make, count, rng)):
        parts: list[Array] = []
        for word in text.split():
            silence = np.zeros(int(rate * rng.uniform(*pause)), np.float32)
            parts += [samples[word], silence]
        joined = np.concatenate(parts[:-1])
        path = folder / f"{number:06}.wav"
        write_audio(path, joined, rate)
        found.append(Utterance(path, text, round(len(joined) / rate, 3), prompts[0].speaker))
    return found
