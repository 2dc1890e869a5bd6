"""Language models of text: n-grams and networks, their files, and their use beside a recogniser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.decoding import LanguageModel, NGram, train_ngram
from gbdnn.errors import DtypeError, FileFormatError, InputError
from gbdnn.files.header import DAMAGED, check_version
from gbdnn.files.tensors import read_tensors, write_tensors
from gbdnn.interchange.models import from_tensors
from gbdnn.models import recurrent
from gbdnn.models.decodable import together
from gbdnn.network import Network, check_network
from gbdnn.speech.data.vocabulary import Vocabulary
from gbdnn.training import EarlyStopping, Trainer
from gbdnn.types import Array, FilePath
from gbdnn.weights import CSR

__all__ = [
    "ENTRY", "FORMAT", "VERSION", "NetworkLM", "TextLM", "load_lm", "ngram_lm", "ngram_of",
    "ngram_record", "recurrent_lm",
]  # fmt: skip

FORMAT, VERSION = "gbdnn.ngram", (1, 0)
ENTRY = "language_model"  # in the metadata of a network's file
FOREIGN = "Make one: gbdnn speech lm TEXT --out LM."
BLANK = 0


@dataclass(frozen=True, eq=False)
class NetworkLM:
    """A network as a `gbdnn.decoding.LanguageModel`.

    Parameters
    ----------
    network : Network
        From the number of a label (one feature) to a score for each label that may follow, without
        softmax; label 0, the blank, is the beginning and the end of a sentence. Layers of the kind
        that `Network.step` takes.
    backend : str
    threads : int
    """

    network: Network
    backend: str = "fused"
    threads: int = 1

    def __post_init__(self) -> None:
        check_network("network", self.network)
        wrong = self.network.one_row or self.network.time_factor > 1
        if self.network.in_features != 1 or wrong:
            got = "no score for each of them" if wrong else f"{self.network.in_features} features"
            raise InputError("network", "one that takes numbers of labels, one a step", got)

    @property
    def vocabulary(self) -> int:
        """Number of labels, with the blank's."""
        return self.network.out_features

    def __call__(self, states: list[Any], labels: list[int]) -> tuple[Array, list[Any]]:
        """See `LanguageModel`; a state is a column of what `Network.step` returned."""
        x = np.array(labels, self.network.dtype)[:, None]
        given = together(states)
        if given is None and x.any():
            raise InputError("labels", f"the blank {BLANK} before the first label", f"{labels}")
        scores, after = self.network.step(x, given, backend=self.backend, threads=self.threads)
        return _log_softmax(scores), [(after, column) for column in range(len(labels))]

    def log_probabilities(self, sentences: Sequence[Array]) -> list[float]:
        """Return log P of each sentence with its end, in nats."""
        inputs = [_shifted(labels)[0][:, None] for labels in sentences]
        found = self.network.predict(inputs, backend=self.backend) if inputs else []
        return [
            float(_log_softmax(scores)[np.arange(len(scores)), _shifted(labels)[1]].sum())
            for scores, labels in zip(found, sentences, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class TextLM:
    """A language model and the characters that its labels stand for; a `LanguageModel` itself.

    Parameters
    ----------
    vocabulary : Vocabulary
    model : NGram or NetworkLM
    """

    vocabulary: Vocabulary
    model: NGram | NetworkLM

    def __post_init__(self) -> None:
        if not isinstance(self.model, NGram | NetworkLM):
            raise DtypeError("model", "an NGram or a NetworkLM", type(self.model).__name__)
        if self.model.vocabulary != self.vocabulary.size:
            expected = f"{self.vocabulary.size} labels, as the vocabulary"
            raise InputError("model", expected, f"{self.model.vocabulary}")

    def __call__(self, states: list[Any], labels: list[int]) -> tuple[Array, list[Any]]:
        """See `LanguageModel`."""
        return self.model(states, labels)

    def for_vocabulary(self, vocabulary: Vocabulary) -> LanguageModel:
        """Return the model over the labels of a recogniser whose characters are among its own.

        Raises
        ------
        InputError
            The recogniser writes characters that the model does not have.
        """
        if vocabulary == self.vocabulary:
            return self.model
        if missing := sorted(set(vocabulary.characters) - set(self.vocabulary.characters)):
            fix = "Train it anew with the recogniser's characters."
            expected = f"a model with the characters {vocabulary.characters!r}"
            raise InputError("language model", expected, f"one without {''.join(missing)!r}", fix)
        return _Renumbered(self.model, np.r_[BLANK, self.vocabulary.encode(vocabulary.characters)])

    def log_probabilities(self, texts: Sequence[str]) -> list[float]:
        """Return log P of each text with its end, in nats."""
        sentences = [self.vocabulary.encode(text) for text in texts]
        if isinstance(self.model, NGram):
            return [self.model.log_probability(labels.tolist()) for labels in sentences]
        return self.model.log_probabilities(sentences)

    def perplexity(self, texts: Sequence[str], *, unit: str = "character") -> float:
        """Return exp(-log P / n), n the characters and ends of all texts, or the words and ends."""
        if not texts:
            raise InputError("texts", "at least one", "none")
        count = sum(len(text if unit == "character" else text.split()) + 1 for text in texts)
        return math.exp(-math.fsum(self.log_probabilities(texts)) / count)

    def save(self, path: FilePath) -> None:
        """Write the model to a safetensors file that `load_lm` reads.

        That of a network is a model file too, which `gbdnn quantize` and others take.

        Raises
        ------
        DataUnavailableError
        """
        said = {"characters": self.vocabulary.characters}
        if isinstance(self.model, NetworkLM):
            self.model.network.save(path, extra={ENTRY: said})
            return
        tensors, record = ngram_record(self.model)
        write_tensors(path, tensors, record | {ENTRY: said})


def load_lm(path: FilePath) -> TextLM:
    """Return the language model in a file, an n-gram or a network.

    Raises
    ------
    DataUnavailableError, FileFormatError, MemoryBudgetError
    """
    tensors, metadata = read_tensors(path)
    said = metadata.get(ENTRY)
    characters = said.get("characters") if isinstance(said, dict) else None
    if not isinstance(characters, str):
        got = f"the format {str(metadata.get('format'))[:40]!r} without {ENTRY!r}"
        if isinstance(said, dict) and "words" in said:
            got = "one of words, which hybrid recognisers take"
        raise FileFormatError(str(path), "a language model", got, FOREIGN)
    try:
        vocabulary = Vocabulary(characters)
        if metadata.get("format") == FORMAT:
            check_version(path, metadata.get("version"), VERSION, "an n-gram model")
            return TextLM(vocabulary, ngram_of(tensors, metadata, vocabulary.size))
        layers, metadata = from_tensors(path, tensors, metadata)
        return TextLM(vocabulary, NetworkLM(Network(layers, metadata=metadata)))
    except (InputError, DtypeError) as error:
        if isinstance(error, FileFormatError):
            raise
        what = f"{path}, {error.argument}"
        raise FileFormatError(what, error.expected, error.got, DAMAGED) from None


def ngram_lm(texts: Sequence[str], vocabulary: Vocabulary, *, order: int = 6) -> TextLM:
    """Return an n-gram model of characters; see `gbdnn.decoding.train_ngram`."""
    sentences = [vocabulary.encode(text).tolist() for text in texts]
    return TextLM(vocabulary, train_ngram(sentences, order, vocabulary.size, BLANK))


def recurrent_lm(
    texts: Sequence[str],
    vocabulary: Vocabulary,
    *,
    layers: str = "embedding 32, lstm 128",
    density: float = 1.0,
    trainer: Trainer | None = None,
    held_out: Sequence[str] = (),
) -> TextLM:
    """Train a network of characters.

    Parameters
    ----------
    texts : sequence of str
    vocabulary : Vocabulary
    layers : str
        As `gbdnn.models.recurrent` has them; "embedding 32" gets the vocabulary's size.
    density : float
        Of the recurrent layers' matrices.
    trainer : Trainer, optional
        Default: Adam with 2e-3 falling as a cosine, 20 epochs, batches of 64, no gradient above 1.
    held_out : sequence of str
        Texts after whose loss the best epoch is taken; not trained on.

    Examples
    --------
    >>> from gbdnn.speech.data import Vocabulary
    >>> from gbdnn.training import Trainer
    >>> texts = ["one two", "two one"] * 20
    >>> settings = Trainer(epochs=30, batch_size=8, learning_rate=1e-2)
    >>> model = recurrent_lm(texts, Vocabulary.of(texts), layers="lstm 16", trainer=settings)
    >>> model.perplexity(["one two"]) < model.perplexity(["wot eno"])
    True
    """
    if not texts:
        raise InputError("texts", "at least one", "none")
    settings = trainer or Trainer(
        epochs=20, batch_size=64, learning_rate=2e-3, schedule="cosine", clip_norm=1.0,
    )  # fmt: skip
    settings = replace(settings, batch_size=min(settings.batch_size, len(texts)))
    if held_out and settings.early_stopping is None:
        rule = EarlyStopping(patience=settings.epochs, monitor="validation_loss",
                             restore_best=True)  # fmt: skip
        settings = replace(settings, early_stopping=rule)
    words = [word.strip() for word in layers.split(",")]
    if words[0].startswith("embedding") and len(words[0].split()) == 2:
        words[0] += f" {vocabulary.size}"
    if not words[0].startswith("embedding"):  # the number alone says nothing to a matrix
        words.insert(0, f"embedding {min(vocabulary.size, 32)} {vocabulary.size}")
    seed = settings.rng if isinstance(settings.rng, int) else 0
    network = recurrent(words, 1, vocabulary.size, density=density, head="identity", rng=seed)

    def arrays(lines: Sequence[str]) -> tuple[list[Array], list[Array]]:
        pairs = [_shifted(vocabulary.encode(line)) for line in lines]
        return [x[:, None] for x, _ in pairs], [y for _, y in pairs]

    validation = arrays(held_out) if held_out else None
    result = settings.fit(network, *arrays(texts), validation=validation)
    return TextLM(vocabulary, NetworkLM(result.network))


@dataclass(frozen=True, eq=False)
class _Renumbered:
    """A model whose label `numbers[k]` is called k."""

    model: LanguageModel
    numbers: Array

    def __call__(self, states: list[Any], labels: list[int]) -> tuple[Array, list[Any]]:
        scores, after = self.model(states, self.numbers[labels].tolist())
        return scores[:, self.numbers], after


def _shifted(labels: Sequence[int] | Array) -> tuple[Array, Array]:
    """Return what goes into a network for a sentence, and the classes that should come out."""
    between = np.asarray(labels, np.int64)
    return np.r_[BLANK, between].astype(np.float32), np.r_[between, BLANK]


def _log_softmax(scores: Array) -> Array:
    found = scores.astype(np.float64)
    found -= found.max(axis=1, keepdims=True)
    found -= np.log(np.exp(found).sum(axis=1, keepdims=True))
    return found


def ngram_record(model: NGram) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return tensors and metadata of an n-gram model's file."""
    rows = model.rows
    numbers = {"order": model.order, "start": model.start, "blank": model.blank}
    tensors = {
        "indptr": rows.indptr, "indices": rows.indices, "values": rows.full_values,
        "targets": model.targets, "backoffs": model.backoffs, "lower": model.lower,
    }  # fmt: skip
    small = {k: v.astype(np.int32) if v.dtype.kind == "i" else v for k, v in tensors.items()}
    return small, {"format": FORMAT, "version": f"{VERSION[0]}.{VERSION[1]}", **numbers}


def ngram_of(tensors: dict[str, Array], metadata: dict[str, Any], size: int) -> NGram:
    """Return an n-gram model once nothing in it points to where there is nothing.

    Raises
    ------
    InputError, DtypeError
    """
    names = ("indptr", "indices", "values", "targets", "backoffs", "lower")
    kinds = {"values": "f", "backoffs": "f"}
    for name in names:
        array = tensors.get(name)
        if array is None or array.ndim != 1 or array.dtype.kind != kinds.get(name, "i"):
            raise InputError(name, "an array of one dimension", "none, or of another kind")
    indptr, indices, values, targets, backoffs, lower = (
        tensors[name].astype(np.float64 if name in kinds else np.int64) for name in names
    )
    count = len(indptr) - 1
    rows = CSR(indptr, indices, values, (max(count, 0), size))  # checks these
    whole = {
        name: checks.count(name, metadata.get(name), 0) for name in ("order", "start", "blank")
    }
    numbers = np.arange(count)
    for name, right in (
        ("indptr", count > 0 and indptr[1] == size),  # row 0 has all labels
        ("values", (values <= 1e-9).all()),
        ("targets", len(targets) == rows.nnz and ((targets >= 0) & (targets < count)).all()),
        ("backoffs", len(backoffs) == count and (backoffs <= 1e-9).all()),
        ("backoffs", np.isfinite(backoffs).all()),
        ("lower", len(lower) == count and lower[0] == -1),
        ("lower", ((lower[1:] >= 0) & (lower[1:] < numbers[1:])).all()),
        ("start", whole["start"] < count),
        ("blank", whole["blank"] == BLANK),
        ("order", whole["order"] > 0),
    ):
        if not right:
            raise InputError(name, "what an n-gram model has", "something else")
    return NGram(whole["order"], rows, targets, backoffs, lower, whole["start"], BLANK)
