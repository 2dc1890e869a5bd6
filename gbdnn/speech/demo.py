"""The whole way in minutes: synthetic speech, a recogniser in floats and INT4, fusion, a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gbdnn.speech import decoding, training
from gbdnn.speech.data import FrontEnd, Vocabulary, make_corpus, read_manifest
from gbdnn.speech.data.corpus import CorpusPlan
from gbdnn.speech.data.manifest import Utterance, read_texts
from gbdnn.speech.language import TextLM, ngram_lm
from gbdnn.speech.recogniser import Recogniser
from gbdnn.speech.scoring import score
from gbdnn.training import EarlyStopping, Trainer

__all__ = ["Row", "Settings", "corpus", "demo", "language_models"]

PLAN = "fasoli2022"
SETS = ("test-matched", "test-target")


@dataclass(frozen=True)
class Settings:
    """How much the demonstration does.

    Parameters
    ----------
    utterances, tested, tuned : int
        For training; decoded in each of the two tests; for the weights of the language models.
    encoder : str
    epochs, plan_epochs : int
        In floats, and with roundings.
    beam : int
    threads : int, optional
        Default all cores.
    """

    utterances: int = 2500
    tested: int = 60
    tuned: int = 30
    encoder: str = "blstm 96, blstm 96"
    epochs: int = 10
    plan_epochs: int = 2
    beam: int = 8
    threads: int | None = None


@dataclass(frozen=True)
class Row:
    """A recogniser, and how it did.

    Attributes
    ----------
    model : str
        "float32" or "int4".
    lm : str
        "none" or "density ratio".
    nbytes : int
        Of its file.
    errors : dict of str to dict
        By test: `gbdnn.speech.scoring.Score.record`; with the language model only "test-target",
        whose domain is the model's.
    real_time : float
        Seconds from samples to text for a second of audio, one thread.
    """

    model: str
    lm: str
    nbytes: int
    errors: dict[str, dict[str, float]]
    real_time: float


def demo(
    folder: Path, settings: Settings | None = None, *, say: Callable[[str], Any] = print
) -> list[Row]:
    """Make a corpus, train a recogniser, quantise it, decode; what is there already is used.

    Parameters
    ----------
    folder : Path
        Gets corpus/, the models float.gbdnn and int4.gbdnn, the language models source.lm and
        target.lm, and the state of the trainings.
    settings : Settings, optional
    say : callable
        Is told what begins.

    Returns
    -------
    list of Row
    """
    given = settings or Settings()
    say("1/5  a corpus of synthetic speech")
    plan = CorpusPlan(utterances=given.utterances, held_out=max(given.tested, given.tuned),
                      target_texts=3000)  # fmt: skip
    paths = corpus(folder / "corpus", plan)
    recognisers = _train(folder, paths, given, say)
    say("4/5  language models: the transcripts' domain, and the target domain")
    models = language_models(folder, paths, recognisers["float32"].vocabulary)
    say("5/5  decoding, without and with the language models")
    target = read_manifest(paths["dev-target"])[: given.tuned]
    rows = []
    for name, recogniser in recognisers.items():
        begin = decoding.fusion(recogniser, "density-ratio", models["target"], models["source"])
        if name == "float32":  # the weights are the same for both
            data = training.read_data(target, recogniser.front, progress=True, name="tuning")
            best = decoding.tuned(recogniser, begin, data.frames, data.texts).fusion
        nbytes = recogniser.file_nbytes
        for lm, fusion, tests in (
            ("none", None, SETS), ("density ratio", best, SETS[1:]),  # whose domain it is
        ):  # fmt: skip
            decoder = recogniser.decoder(beam=given.beam, fusion=fusion)
            errors, audio, seconds = {}, 0.0, 0.0
            for test in tests:
                said = read_manifest(paths[test])[: given.tested]
                found = _decoded(recogniser, decoder, said)
                errors[test] = score([u.text for u in said],
                                     [heard.transcript.text for heard in found]).record  # fmt: skip
                audio += sum(heard.audio for heard in found)
                seconds += sum(heard.seconds for heard in found)
            rows.append(Row(name, lm, nbytes, errors, seconds / audio))
            say(f"     {name}, language model: {lm}")
    return rows


def corpus(folder: Path, plan: CorpusPlan) -> dict[str, Path]:
    """Return the files of a corpus; it is made unless it is there."""
    record = folder / "corpus.json"  # which is written last
    try:
        there = json.loads(record.read_text()) == json.loads(json.dumps(asdict(plan)))
    except (OSError, ValueError):
        there = False
    if not there:
        return make_corpus(folder, plan, progress=True)
    texts = {name: folder / f"{name}.txt" for name in ("source", "target")}
    return {path.stem: path for path in folder.glob("*.jsonl")} | texts


def _train(
    folder: Path, paths: dict[str, Path], given: Settings, say: Callable[[str], Any]
) -> dict[str, Recogniser]:
    """Return the float recogniser and the one in few bits; trainings go on where they were."""
    front = FrontEnd(8000, 40, stack=3, skip=3)
    data = training.read_data(read_manifest(paths["train"]), front, progress=True)
    dev = training.read_data(read_manifest(paths["dev"]), front, progress=True)
    recogniser = training.new_recogniser(data, front, encoder=given.encoder)
    found = {}
    for name, epochs, rate, plan in (
        ("float32", given.epochs, 2e-3, None), ("int4", given.plan_epochs, 5e-4, PLAN),
    ):  # fmt: skip
        text = "training in floats" if plan is None else f"training on with the plan {plan}"
        say(f"{2 if plan is None else 3}/5  {text}, {epochs} epochs")
        trainer = Trainer(
            epochs=epochs, batch_size=16, learning_rate=rate, schedule="cosine", clip_norm=5.0,
            quantization=plan, checkpoint=folder / "state" / name, progress=True,
            early_stopping=EarlyStopping(patience=epochs), threads=given.threads,
        )  # fmt: skip
        recogniser, _ = training.train_recogniser(trainer, recogniser, data, dev, resume=True)
        recogniser.save(folder / f"{name.removesuffix('32')}.gbdnn")
        found[name] = recogniser
    return found


def language_models(folder: Path, paths: dict[str, Path], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return n-grams over the recogniser's labels; their files are for the commands."""
    found = {}
    for name in ("source", "target"):
        texts = [text for text in read_texts(paths[name]) if set(text) <= {*vocabulary.characters}]
        model: TextLM = ngram_lm(texts, vocabulary, order=6)
        model.save(folder / f"{name}.lm")
        found[name] = model.for_vocabulary(vocabulary)
    return found


def _decoded(
    recogniser: Recogniser, decoder: Any, said: Sequence[Utterance]
) -> list[decoding.Heard]:
    return [
        decoding.recognise(
            recogniser, decoder, decoding.load_samples(utterance, recogniser.front)
        )
        for utterance in said
    ]  # fmt: skip
