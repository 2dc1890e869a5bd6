"""Vocabularies of characters: text to labels and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gbdnn.errors import DtypeError, InputError
from gbdnn.types import Array

__all__ = ["Vocabulary"]


@dataclass(frozen=True)
class Vocabulary:
    """The characters that a recogniser writes: label k + 1 is `characters[k]`, 0 is the blank.

    Parameters
    ----------
    characters : str
        Each once.

    Examples
    --------
    >>> vocabulary = Vocabulary.of(["one two", "ten"])
    >>> vocabulary.characters
    ' enotw'
    >>> vocabulary.decode(vocabulary.encode("two"))
    'two'
    """

    characters: str

    def __post_init__(self) -> None:
        if not isinstance(self.characters, str) or not self.characters:
            raise DtypeError("characters", "text", repr(self.characters))
        if len(set(self.characters)) < len(self.characters):
            twice = sorted({c for c in self.characters if self.characters.count(c) > 1})
            raise InputError("characters", "each character once", f"{''.join(twice)!r} twice")

    @classmethod
    def of(cls, texts: Iterable[str]) -> Vocabulary:
        """Return the vocabulary of all characters in some texts, in the order of their codes."""
        characters = "".join(sorted(set().union(*texts)))
        if not characters:
            raise InputError("texts", "at least one character", "none")
        return cls(characters)

    @property
    def size(self) -> int:
        """Number of labels, with the blank."""
        return len(self.characters) + 1

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {character: k + 1 for k, character in enumerate(self.characters)}

    def encode(self, text: str) -> Array:
        """Return the labels of a text, int32.

        Raises
        ------
        InputError
            For characters that are not in the vocabulary.
        """
        labels = self._labels
        if foreign := sorted(set(text) - labels.keys()):
            fix = "Write it in these characters, or make the vocabulary of these texts too."
            got = f"{''.join(foreign)!r} in {text!r:.80}"
            raise InputError("text", f"characters of {self.characters!r}", got, fix)
        return np.array([labels[character] for character in text], np.int32)

    def decode(self, labels: Sequence[int] | Array) -> str:
        """Return the text of labels, which must be 1 to size - 1."""
        numbers = [int(label) for label in labels]
        if wrong := [label for label in numbers if not 0 < label < self.size]:
            expected = f"1 to {self.size - 1}, without the blank 0"
            raise InputError("labels", expected, repr(wrong[0]))
        return "".join(self.characters[label - 1] for label in numbers)
