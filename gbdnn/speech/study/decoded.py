"""Cells of a study: recognisers on tests, with and without language models."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gbdnn.decoding import Decoder, Fusion
from gbdnn.decoding.batched import greedy
from gbdnn.files.rows import Record
from gbdnn.speech import decoding, training
from gbdnn.speech.recogniser import Recogniser
from gbdnn.speech.scoring import KINDS, Score, score
from gbdnn.speech.study.recognisers import recogniser
from gbdnn.speech.study.settings import FUSIONS, TESTS, Study
from gbdnn.types import Array

__all__ = [
    "COMPARED", "decoder", "encoded", "fusion", "fusions", "pooled", "scored", "tests", "tuned",
    "written",
]  # fmt: skip

LISTS = 4  # hypotheses of a recording in tuning, whatever the beams of the tests
COMPARED = ("float32", "int4")
"""Recognisers that are compared on all tests and with all fusions."""


def tests(study: Study, seed: int, names: Sequence[str]) -> None:
    """Decode tests with recognisers of a seed, without a language model.

    All tests with "float32" and "int4", matched voices with others.
    """
    for test, name in itertools.product(TESTS, names):
        if test == "matched" or name in COMPARED:
            _words(study, seed, name, test, "none", study.settings.beam)
    for name in names:
        key = f"bytes/{name}/seed {seed}"
        study.cell(key, lambda n=name: _size(study, n, seed))  # type: ignore[misc]


def fusions(
    study: Study, seed: int, beams: Sequence[int], kinds: Sequence[str] = FUSIONS
) -> None:  # fmt: skip
    """Decode the target domain with the float and the INT4 recogniser and fusions."""
    for beam in beams:
        for kind in kinds:
            for name in COMPARED:
                _words(study, seed, name, "target", kind, beam)


def tuned(study: Study, seed: int, kind: str) -> Record:
    """Return the weights of a fusion for a seed, chosen with the float recogniser."""

    def make() -> Record:
        found = recogniser(study, seed, "float32")
        frames, texts = _arrays(found, study.needed("tuning"))
        begin = _fusion(study, found, kind, {})
        best = decoding.tuned(found, begin, frames, texts, beam=LISTS)
        return {
            "kind": "tuned", "seed": seed, "fusion": kind, "weight": best.fusion.weight,
            "source_weight": best.fusion.source_weight, "bonus": best.fusion.bonus,
            "errors": best.errors, "of": best.words,
        }  # fmt: skip

    return study.cell(f"tuned/{kind}/seed {seed}", make)


def fusion(study: Study, seed: int, found: Recogniser, kind: str) -> Fusion | None:
    """Return a fusion with tuned weights; None for "none"."""
    return None if kind == "none" else _fusion(study, found, kind, tuned(study, seed, kind))


def decoder(found: Recogniser, beam: int, chosen: Fusion | None) -> Decoder:
    """Return the search of a cell: a beam of 1 is greedy, with language models too."""
    search = "greedy" if beam == 1 else "alsd"
    return found.decoder(search=search, beam=beam, fusion=chosen)


def encoded(study: Study, found: Recogniser, data: training.Data) -> list[Array]:
    """Return the encoder's frames of recordings."""
    return found.model.encode(_arrays(found, data)[0], threads=study.settings.threads)


def written(
    found: Recogniser, frames: Sequence[Array], beam: int, chosen: Fusion | None
) -> list[str]:
    """Return what recordings say, from the encoder's frames."""
    if beam == 1 and chosen is None:  # the same, all side by side
        labels: Any = greedy(found.model, frames)
    else:
        search = decoder(found, beam, chosen)
        labels = [search.decode(h)[0].labels for h in frames]
    return [found.vocabulary.decode(one) for one in labels]


def scored(said: Sequence[str], heard: Sequence[str]) -> dict[str, list[int]]:
    """Return the errors of each recording as JSON says them."""
    found = score(said, heard)
    return {name: getattr(found, name).tolist() for name in ("words", *KINDS)}


def pooled(rows: Sequence[Record]) -> Score:
    """Return the errors of each recording, summed over rows: recordings stay what is drawn."""
    return Score(*(np.sum([row[name] for row in rows], axis=0) for name in ("words", *KINDS)))


def _arrays(found: Recogniser, data: training.Data) -> tuple[list[Array], list[str]]:
    return [training.normalised(found.front, frames) for frames in data.frames], data.texts


def _fusion(study: Study, found: Recogniser, kind: str, given: Record) -> Fusion:
    models = study.language_models(found.vocabulary)
    source = {"density-ratio": "source", "lodr": "bigram"}.get(kind)
    weights = {key: given.get(key, 0.0) for key in ("weight", "source_weight", "bonus")}
    return decoding.fusion(found, kind, models["target"],
                           None if source is None else models[source], **weights)  # fmt: skip


def _size(study: Study, name: str, seed: int) -> Record:
    found = recogniser(study, seed, name)
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        found.save(path, compress=True)
        compressed = path.stat().st_size
    return {
        "kind": "bytes", "model": name, "seed": seed, "bytes": found.file_nbytes,
        "compressed": compressed,
        "density": found.model.summary().total["density"],
    }  # fmt: skip


def _words(study: Study, seed: int, name: str, test: str, kind: str, beam: int) -> None:
    """Decode a cell, if the test is there."""

    def make() -> Record:
        found, data = recogniser(study, seed, name), study.needed(test)
        chosen = fusion(study, seed, found, kind)
        heard = written(found, encoded(study, found, data), beam, chosen)
        return {
            "kind": "words", "seed": seed, "model": name, "test": test, "fusion": kind,
            "beam": beam, **scored(data.texts, heard),
        }  # fmt: skip

    key = f"{test}/{name}/{kind}/beam {beam}/seed {seed}"
    if key in study.rows or study.data(test) is not None:
        study.cell(key, make)
