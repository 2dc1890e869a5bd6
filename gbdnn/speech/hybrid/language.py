"""Language models of words, for hybrid recognisers: an n-gram on the numbers of a lexicon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gbdnn.decoding import NGram, train_ngram
from gbdnn.errors import DtypeError, FileFormatError, InputError
from gbdnn.files.header import DAMAGED, check_version
from gbdnn.files.tensors import read_tensors, write_tensors
from gbdnn.speech.hybrid.lexicon import Lexicon
from gbdnn.speech.language import ENTRY, FORMAT, VERSION, ngram_of, ngram_record
from gbdnn.types import FilePath

__all__ = ["WordLM", "load_word_lm", "word_lm"]

FIX = "Make one of the recogniser's words: gbdnn speech lm TEXT --recogniser MODEL --out LM."


@dataclass(frozen=True, eq=False)
class WordLM:
    """An n-gram of words.

    Parameters
    ----------
    words : tuple of str
        Those of a lexicon; word k + 1 is ``words[k]``, 0 the end of a sentence.
    model : NGram
        Of order 1 or 2, on these numbers.

    Raises
    ------
    InputError
    """

    words: tuple[str, ...]
    model: NGram

    def __post_init__(self) -> None:
        if self.model.vocabulary != len(self.words) + 1 or self.model.order > 2:
            expected = f"order 1 or 2 and {len(self.words) + 1} labels, the words and the end"
            got = f"order {self.model.order}, {self.model.vocabulary} labels"
            raise InputError("model", expected, got)

    def for_lexicon(self, lexicon: Lexicon) -> NGram:
        """Return the model, for a recogniser with the same words.

        Raises
        ------
        InputError
        """
        if self.words != lexicon.words:
            both = len(set(self.words) & set(lexicon.words))
            expected = f"the {len(lexicon.words)} words of the recogniser's lexicon"
            got = f"{len(self.words)} words, {both} of them among those"
            raise InputError("language model", expected, got, FIX)
        return self.model

    def perplexity(self, texts: Sequence[str], lexicon: Lexicon) -> float:
        """Return exp(-log P / n), n the words and ends of all texts."""
        sentences = [lexicon.encode(text) for text in texts]
        total = math.fsum(self.model.log_probability(labels) for labels in sentences)
        return math.exp(-total / sum(len(labels) + 1 for labels in sentences))

    def save(self, path: FilePath) -> None:
        """Write the model to a safetensors file that `load_word_lm` reads.

        Raises
        ------
        DataUnavailableError
        """
        tensors, record = ngram_record(self.model)
        write_tensors(path, tensors, record | {ENTRY: {"words": list(self.words)}})


def word_lm(texts: Sequence[str], lexicon: Lexicon, *, order: int = 2) -> WordLM:
    """Return an n-gram of words; see `gbdnn.decoding.train_ngram`.

    Parameters
    ----------
    texts : sequence of str
        Of words of the lexicon.
    lexicon : Lexicon
    order : int
        1 or 2: the decoding graph knows one word before.

    Raises
    ------
    InputError
    """
    sentences = [lexicon.encode(text) for text in texts]
    words = lexicon.words
    return WordLM(words, train_ngram(sentences, order, len(words) + 1))


def load_word_lm(path: FilePath) -> WordLM:
    """Return what `WordLM.save` wrote.

    Raises
    ------
    DataUnavailableError, FileFormatError, MemoryBudgetError
    """
    tensors, metadata = read_tensors(path)
    said = metadata.get(ENTRY)
    words = said.get("words") if isinstance(said, dict) else None
    if metadata.get("format") != FORMAT or words is None:
        other = isinstance(said, dict) and "characters" in said
        got = "one of characters" if other else "another file"
        raise FileFormatError(str(path), "a language model of words", got, FIX)
    check_version(path, metadata.get("version"), VERSION, "an n-gram model")
    try:
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DtypeError("words", "a list of texts", repr(words)[:60])
        if len(set(words)) < len(words):
            raise InputError("words", "each word once", "one twice")
        return WordLM(tuple(words), ngram_of(tensors, metadata, len(words) + 1))
    except (InputError, DtypeError) as error:
        what = f"{path}, {error.argument}"
        raise FileFormatError(what, error.expected, error.got, DAMAGED) from None
