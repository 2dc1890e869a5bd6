"""What a study does, and its folder: data, models and rows that are there are not made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gbdnn import checks
from gbdnn.errors import DataUnavailableError, InputError
from gbdnn.files import rows
from gbdnn.files.disk import atomic_write
from gbdnn.speech import demo, training
from gbdnn.speech.data import FrontEnd, Vocabulary, read_manifest, telephone_prompts
from gbdnn.speech.data.corpus import CorpusPlan
from gbdnn.speech.data.manifest import Utterance, read_texts
from gbdnn.speech.data.texts import WORDS
from gbdnn.speech.language import ngram_lm
from gbdnn.training.interrupts import uninterrupted

__all__ = ["FUSIONS", "TESTS", "Settings", "Study"]

TESTS = {
    "known": "dev", "matched": "test-matched", "target": "test-target", "noise": "test-10db",
    "shifted": "test-shifted", "prompts": "",
}  # fmt: skip
"""Sets of recordings, and their manifests in the corpus; the prompts are what is installed, and
"known", voices of the training, is what half of "dev" is: the best epoch is chosen by the other."""
FUSIONS = ("none", "density-ratio", "shallow", "lodr", "ilme")
MISSING = {
    "known": "two recordings in dev",
    "shifted": "flite, when the corpus was made",
    "prompts": "the packages asterisk-core-sounds-en and asterisk-core-sounds-en-wav",
}


@dataclass(frozen=True)
class Settings:
    """How much a study does.

    Parameters
    ----------
    seeds, seed : int
        How many times recognisers are trained, and the first of their seeds: of weights and order
        of the data. The corpus is the same for all.
    utterances, tested, tuned : int
        For training; in each test; for the weights of the language models.
    snr : (float, float)
        Least and largest ratio of signal to noise in dB in training.
    accents, variants : int
        Of the synthesiser: accents of all tests but the shifted ones, and speakers in training; the
        matched tests have the other speakers.
    augment : bool
        SpecAugment in all trainings.
    stack : int
        Frames of 10 ms that are put into one.
    encoder : str
    epochs, plan_epochs, prune_epochs : int
        In floats; with roundings, from the floats; in which the floats are pruned.
    sparsities : tuple of float
        The first is that of the claim; others are tried with the first seed only.
    beams : tuple of int
        With language models.
    beam : int
        Of all other tests; one of `beams`.
    threads : int, optional
        Default all cores.
    """

    seeds: int = 3
    seed: int = 0
    utterances: int = 4000
    tested: int = 220
    tuned: int = 40
    snr: tuple[float, float] = (15.0, 30.0)
    accents: int = 2
    variants: int = 44
    augment: bool = True
    stack: int = 4
    encoder: str = "blstm 128, blstm 128"
    epochs: int = 10
    plan_epochs: int = 2
    prune_epochs: int = 8
    sparsities: tuple[float, ...] = (0.8, 0.9)
    beams: tuple[int, ...] = (1, 4, 8, 16)
    beam: int = 8
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "utterances", "tested", "tuned", "epochs", "plan_epochs",
                     "prune_epochs", "beam"):  # fmt: skip
            checks.count(name, getattr(self, name))
        for beam in self.beams:
            checks.count("beams", beam)
        for sparsity in self.sparsities:
            checks.within("sparsities", sparsity, "(0, 1)")
        if self.beam not in self.beams:
            raise InputError("beam", f"one of the beams {self.beams}", repr(self.beam))

    @property
    def deciding(self) -> dict[str, Any]:
        """What rows and models in a folder depend on, as JSON says it."""
        free = ("seeds", "seed", "beams", "beam", "sparsities", "threads")
        found = {key: value for key, value in asdict(self).items() if key not in free}
        return json.loads(json.dumps(found))  # type: ignore[no-any-return]


class Study:
    """A folder with a corpus, models and rows of results.

    Parameters
    ----------
    folder : Path
    settings : Settings
    say : callable
        Is told what begins.

    Raises
    ------
    InputError
        The folder has a study of other settings, or cannot be written.
    """

    def __init__(self, folder: Path, settings: Settings, say: Callable[[str], Any] = print) -> None:
        self.folder, self.settings, self.say = folder, settings, say
        rows.require_writable(folder)
        record = folder / "settings.json"
        if record.exists():
            there = json.loads(record.read_text())
            if there != settings.deciding:
                changed = ", ".join(k for k, v in settings.deciding.items() if there.get(k) != v)
                fix = "Choose another folder, or the settings in its settings.json."
                raise InputError("out", "a folder without a study of other settings",
                                 f"one with other {changed}", fix)  # fmt: skip
        else:
            with atomic_write(record) as file:
                file.write(json.dumps(settings.deciding, indent=1).encode())
        known = rows.read(folder)
        for line in known.damaged:
            say(line)
        self.rows = {row["key"]: row for row in known.records}
        self._data: dict[str, training.Data | None] = {}

    def cell(self, key: str, make: Callable[[], rows.Record]) -> rows.Record:
        """Return the row of a cell; it is computed unless the folder has it."""
        if key not in self.rows:
            self.say(key)
            row = {"key": key, **make()}
            with uninterrupted():
                rows.append(self.folder, row)
            self.rows[key] = row
        return self.rows[key]

    def of_kind(self, kind: str) -> list[rows.Record]:
        """Return the rows of a kind."""
        return [row for row in self.rows.values() if row["kind"] == kind]

    # -- data --------------------------------------------------------------------------------------

    @cached_property
    def paths(self) -> dict[str, Path]:
        """The corpus' files."""
        given = self.settings
        plan = CorpusPlan(
            utterances=given.utterances, held_out=max(given.tested, given.tuned),
            target_texts=3000, snr=given.snr, accents=given.accents, variants=given.variants,
        )  # fmt: skip
        return demo.corpus(self.folder / "corpus", plan)

    @cached_property
    def front(self) -> FrontEnd:
        """Frames without a mean, telephone rate."""
        return FrontEnd(8000, 40, stack=self.settings.stack, skip=self.settings.stack)

    def data(self, name: str) -> training.Data | None:
        """Return recordings that were read: "train", "dev", "tuning", or a test; None: not there.

        Frames are not normalised.
        """
        if name not in self._data:
            said = self._said(name)
            if said is None:
                self.say(f"skipped: the test {name!r}, without {MISSING[name]}")
            self._data[name] = (
                None if said is None else training.read_data(said, self.front, progress=True,
                                                             name=f"audio, {name}")
            )  # fmt: skip
        return self._data[name]

    def needed(self, name: str) -> training.Data:
        """Return `data` that is always there."""
        found = self.data(name)
        assert found is not None
        return found

    def _said(self, name: str) -> Sequence[Utterance] | None:
        given = self.settings
        if name == "prompts":
            try:
                return telephone_prompts(words=WORDS)[: given.tested]
            except DataUnavailableError:
                return None
        count = {"train": given.utterances, "tuning": given.tuned}
        manifest = {"tuning": "dev-target"}.get(name, TESTS.get(name, name))
        path = self.paths.get(manifest)
        if path is None:
            return None
        said = read_manifest(path)
        if manifest == "dev":
            half = -(-len(said) // 2)
            return said[:half] if name == "dev" else said[half:] or None
        return said[: count.get(name, given.tested)]

    # -- language models ---------------------------------------------------------------------------

    def language_models(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """Return "target" and "source", of 6 characters, and "bigram", the source's of 2."""
        if "target" not in self._models:
            found = demo.language_models(self.folder, self.paths, vocabulary)
            texts = [t for t in read_texts(self.paths["source"])
                     if set(t) <= {*vocabulary.characters}]  # fmt: skip
            bigram = ngram_lm(texts, vocabulary, order=2)
            self._models |= {**found, "bigram": bigram.for_vocabulary(vocabulary)}
        return self._models

    @cached_property
    def _models(self) -> dict[str, Any]:
        return {}
