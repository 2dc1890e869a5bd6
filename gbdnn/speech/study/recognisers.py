"""The recognisers of a study: in floats, rounded, trained with roundings, sparse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gbdnn.errors import choose
from gbdnn.pruning import Polynomial, sparsifier
from gbdnn.quantization import QuantizationPlan
from gbdnn.quantization.transducer import quantize_transducer
from gbdnn.speech import training
from gbdnn.speech.data import Vocabulary
from gbdnn.speech.data.texts import WORDS
from gbdnn.speech.recogniser import Recogniser
from gbdnn.speech.study.settings import Study
from gbdnn.training import EarlyStopping, Trainer

__all__ = ["NAMES", "PLAN", "recogniser", "rounded", "sparse_name", "trained"]

PLAN = "fasoli2022"
CHARACTERS = Vocabulary.of([" ".join(WORDS)]).characters
RATE, PLAN_RATE = 2e-3, 5e-4
ROUNDED = {"naive": "naive_int4", "int8": "int8"}
"""Recognisers that are rounded without training, and their plans."""
NAMES = ("float32", "int4", *ROUNDED)


def sparse_name(sparsity: float) -> str:
    """Return the name of the sparse INT4 recogniser."""
    return f"sparse{100 * sparsity:g}"


def recogniser(study: Study, seed: int, name: str) -> Recogniser:
    """Return a recogniser: "float32", "naive", "int8", "int4", "sparse80", "pruned80" ...

    All but "float32" come from that of the same seed. What the folder has is not made again;
    trainings that were stopped go on.
    """
    path = study.folder / "models" / f"{name}-{seed}.gbdnn"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        _made(study, seed, name).save(path)
    return Recogniser.load(path)


def _made(study: Study, seed: int, name: str) -> Recogniser:
    given, base = study.settings, name.rstrip("0123456789.")
    if name in ROUNDED:
        return rounded(study, recogniser(study, seed, "float32"), ROUNDED[name])
    if name == "float32":
        data = study.needed("train")
        start = training.new_recogniser(data, study.front, encoder=given.encoder, rng=seed,
                                        characters=CHARACTERS)  # fmt: skip
        return trained(study, f"{name}-{seed}", start, given.epochs, RATE, seed)
    start = recogniser(study, seed, "float32")
    if name == "int4":
        return trained(study, f"{name}-{seed}", start, given.plan_epochs, PLAN_RATE, seed, PLAN)
    choose("recogniser", base, ("sparse", "pruned"))
    part = name.removeprefix(base)
    if base == "sparse":
        start = recogniser(study, seed, f"pruned{part}")
        return trained(study, f"{name}-{seed}", start, given.plan_epochs, PLAN_RATE, seed, PLAN)
    method = sparsifier(
        "magnitude", sparsity=float(part) / 100, distribution="lamp", schedule=Polynomial(end=0.5),
        exclude=training.DENSE,
    )  # fmt: skip
    return trained(study, f"{name}-{seed}", start, given.prune_epochs, RATE, seed,
                   sparsifier=method, early_stopping=None)  # fmt: skip


def trained(
    study: Study, name: str, start: Recogniser, epochs: int, rate: float, seed: int,
    plan: Any = None, *, data: training.Data | None = None, **settings: Any,
) -> Recogniser:  # fmt: skip
    """Return a recogniser that was trained on; the best epoch counts, if none is excluded."""
    study.say(f"training {name}, {epochs} epochs")
    options = {"early_stopping": EarlyStopping(patience=epochs), **settings}
    trainer = Trainer(
        epochs=epochs, batch_size=16, learning_rate=rate, schedule="cosine", clip_norm=5.0,
        quantization=plan, checkpoint=study.folder / "state" / name, progress=True, rng=seed,
        threads=study.settings.threads, **options,
    )  # fmt: skip
    data = study.needed("train") if data is None else data
    augment = training.augmentation(study.front) if study.settings.augment else None
    found, _ = training.train_recogniser(trainer, start, data, study.needed("dev"),
                                         augment=augment, resume=True)  # fmt: skip
    return found


def rounded(study: Study, found: Recogniser, plan: str | QuantizationPlan) -> Recogniser:
    """Return a recogniser of few bits without training; its clips begin where "dev" puts them."""
    frames, labels = training.arrays(found, study.needed("dev"))
    model = quantize_transducer(found.model, plan, frames, labels,
                                threads=study.settings.threads)  # fmt: skip
    return replace(found, model=model)
