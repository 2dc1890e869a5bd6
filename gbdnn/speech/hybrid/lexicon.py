"""Lexicons: words as sequences of units, and units as chains of states of a hidden Markov model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gbdnn import checks
from gbdnn.errors import DtypeError, FileFormatError, GbdnnError, InputError
from gbdnn.files.disk import open_binary
from gbdnn.types import FilePath

__all__ = ["Lexicon", "read_lexicon"]

LINES, WORD, UNITS = 1 << 20, 200, 1000  # lines of a file, characters of a word, units of one


@dataclass(frozen=True)
class Lexicon:
    """Words and their pronunciations.

    States are numbered: those of silence first, then those of each unit in the order of `units`.
    Words are numbered from 1 in the order of their first entry, as an n-gram's labels are.

    Parameters
    ----------
    entries : sequence of (word, units)
        A pronunciation each; a word may have several. Units are texts, such as graphemes.
    states : int
        Of each unit, passed one after the other, none left out: a word needs as many frames.
    silence : int
        States of silence.

    Raises
    ------
    InputError, DtypeError
        For words and units that are empty or have white space, and entries that stand twice.

    Examples
    --------
    >>> lexicon = Lexicon.spelled(["on", "no"])
    >>> lexicon.units, lexicon.count
    (('n', 'o'), 9)
    >>> lexicon.states_of(1)
    [(6, 7, 8, 3, 4, 5)]
    """

    entries: tuple[tuple[str, tuple[str, ...]], ...]
    states: int = 3
    silence: int = 3

    def __post_init__(self) -> None:
        made = []
        for number, entry in enumerate(self.entries):
            where = f"entries[{number}]"
            if not (isinstance(entry, Sequence) and len(entry) == 2):
                raise DtypeError(where, "a word and its units", repr(entry)[:60])
            word, units = entry
            if isinstance(units, str) or not isinstance(units, Sequence):
                raise DtypeError(where, "a sequence of units", repr(units)[:60])
            if not 0 < len(units) <= UNITS:
                raise InputError(where, f"1 to {UNITS} units", f"{len(units)} of {word!r}"[:100])
            for text in (word, *units):
                if not _is_token(text):
                    expected = f"texts of 1 to {WORD} characters without white space"
                    raise InputError(where, expected, repr(text)[:60])
            made.append((word, tuple(units)))
        if not made:
            raise InputError("entries", "at least one word", "none")
        if len(set(made)) < len(made):
            twice = next(entry for entry in made if made.count(entry) > 1)
            raise InputError("entries", "each entry once", f"{twice[0]!r} twice"[:100])
        object.__setattr__(self, "entries", tuple(made))
        for name in ("states", "silence"):
            checks.within(name, getattr(self, name), "[1, 16]", whole=True)

    @classmethod
    def spelled(cls, words: Iterable[str], *, states: int = 3, silence: int = 3) -> Lexicon:
        """Return a lexicon in which a word's units are its characters; words are taken once."""
        if isinstance(words, str):
            raise DtypeError("words", "a list of words", "a text")
        found = dict.fromkeys(words)
        return cls(tuple((word, tuple(word)) for word in found), states, silence)

    @classmethod
    def of_texts(cls, texts: Iterable[str], *, states: int = 3, silence: int = 3) -> Lexicon:
        """Return the lexicon of all words of some texts, spelled, in alphabetical order."""
        words = sorted({word for text in texts for word in text.split()})
        return cls.spelled(words, states=states, silence=silence)

    @cached_property
    def units(self) -> tuple[str, ...]:
        """All units, in order."""
        return tuple(sorted({unit for _, units in self.entries for unit in units}))

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All words, each once; word k + 1 is ``words[k]``."""
        return tuple(dict.fromkeys(word for word, _ in self.entries))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, 1)}

    @cached_property
    def _chains(self) -> dict[int, list[tuple[int, ...]]]:
        first = {unit: self.silence + k * self.states for k, unit in enumerate(self.units)}
        found: dict[int, list[tuple[int, ...]]] = {}
        for word, units in self.entries:
            chain = [first[unit] + j for unit in units for j in range(self.states)]
            found.setdefault(self._numbers[word], []).append(tuple(chain))
        return found

    @property
    def count(self) -> int:
        """Number of states: what a network has as outputs."""
        return self.silence + self.states * len(self.units)

    def states_of(self, word: int) -> list[tuple[int, ...]]:
        """Return the states of each pronunciation of a word, by its number."""
        return list(self._chains[word])

    def state_names(self) -> tuple[str, ...]:
        """Return a name for each state: "sil.0", "a.2"."""
        silent = [f"sil.{j}" for j in range(self.silence)]
        return (*silent, *(f"{unit}.{j}" for unit in self.units for j in range(self.states)))

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's words.

        Raises
        ------
        InputError
            For words that are not in the lexicon.
        """
        words = text.split()
        if foreign := sorted(set(words) - self._numbers.keys()):
            got = ", ".join(map(repr, foreign[:5]))
            fix = "Add them to the lexicon: Lexicon.of_texts takes all words of some texts."
            raise InputError("text", f"words of the lexicon's {len(self.words)}", got[:200], fix)
        return [self._numbers[word] for word in words]

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of words' numbers."""
        return " ".join(self.words[number - 1] for number in numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return the lexicon as JSON can say it."""
        entries = [[word, list(units)] for word, units in self.entries]
        return {"entries": entries, "states": self.states, "silence": self.silence}

    @classmethod
    def from_dict(cls, record: Any) -> Lexicon:
        """Undo `to_dict`; everything is checked.

        Raises
        ------
        InputError, DtypeError
        """
        known = {"entries", "states", "silence"}
        if not isinstance(record, Mapping) or record.keys() != known:
            raise InputError("lexicon", f"a record of {', '.join(sorted(known))}",
                             repr(record)[:60])  # fmt: skip
        if not isinstance(record["entries"], list):
            raise DtypeError("entries", "a list", repr(record["entries"])[:60])
        return cls(tuple(record["entries"]), record["states"], record["silence"])


def read_lexicon(path: FilePath, *, states: int = 3, silence: int = 3) -> Lexicon:
    """Read a lexicon: lines of a word, white space, and its units between white space.

    A word alone on its line is spelled: its units are its characters. Empty lines do not count;
    UTF-8, also compressed (.gz).

    Raises
    ------
    DataUnavailableError
    FileFormatError
        With file and line.
    """
    entries: dict[tuple[str, tuple[str, ...]], int] = {}
    with open_binary(Path(path)) as file:
        for number in range(1, LINES + 2):
            place = f"{path}, line {number}"
            raw = file.readline(WORD * UNITS + 1)
            if not raw:
                break
            if number > LINES or len(raw) > WORD * UNITS:
                expected = f"at most {LINES:,} lines of {WORD * UNITS:,} bytes"
                raise FileFormatError(place, expected, "more")
            try:
                word, *units = raw.decode("utf-8-sig" if number == 1 else "utf-8").split() or [""]
            except UnicodeDecodeError as error:
                raise FileFormatError(place, "text in UTF-8", str(error)[:100]) from None
            if not word:
                continue
            entry = (word, tuple(units or word))
            if entry in entries:
                got = f"{word!r} as in line {entries[entry]}"[:200]
                raise FileFormatError(place, "each pronunciation once", got)
            entries[entry] = number
            try:
                Lexicon((entry,))
            except GbdnnError as error:
                raise FileFormatError(place, error.expected, error.got) from None
    if not entries:
        raise FileFormatError(str(path), "at least one word", "none")
    return Lexicon(tuple(entries), states, silence)


def _is_token(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) <= WORD and not any(map(str.isspace, text))
