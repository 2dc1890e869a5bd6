"""Text tables of numbers: read in blocks of whole lines, with every byte looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from gbdnn.errors import FileFormatError

__all__ = ["Table", "blocks", "check_text"]

Ints = npt.NDArray[np.int64]
BLOCK = 1 << 24
NEWLINE = 10
TEXT = np.isin(np.arange(256), [9, 10, 13, *range(32, 127)])  # tab, newline, return, printable
NUMBER = np.isin(np.arange(256), list(b"0123456789+-.eE"))
LONGEST = 40  # characters of a number


def blocks(file: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield (bytes, whether they end with a line) in whole lines; False only for a last rest."""
    rest = b""
    while piece := file.read(BLOCK):
        cut = piece.rfind(b"\n") + 1
        if cut:
            yield rest + piece[:cut], True
            rest = piece[cut:]
        else:
            rest += piece
            if len(rest) > 2 * BLOCK:  # no line of numbers is this long
                break
    if rest:
        yield rest, False


def check_text(path: Path, data: npt.NDArray[np.uint8], first_line: int) -> None:
    """Raise FileFormatError at the first byte that is not printable ASCII or white space."""
    foreign = ~TEXT[data]
    if foreign.any():
        place = int(foreign.argmax())
        line = first_line + int(np.count_nonzero(data[:place] == NEWLINE))
        got = f"the byte 0x{data[place]:02x} in line {line}"
        raise FileFormatError(str(path), "plain text of numbers", got, "Is it compressed?")


@dataclass(frozen=True)
class Table:
    """The words of some whole lines, all with the same number of words.

    Parameters
    ----------
    path : str
        For messages.
    data : ndarray of uint8
        The bytes.
    starts, ends : ndarray of int64, shape (lines, fields)
        Where each word begins and ends.
    first_line : int
        Number of the first line, from 1.
    """

    path: str
    data: npt.NDArray[np.uint8]
    starts: Ints
    ends: Ints
    first_line: int

    @classmethod
    def parse(cls, path: Path, raw: bytes, *, layout: str, first_line: int = 1) -> Table:
        """Split bytes into words; `layout` names the words, for instance ``"row column value"``.

        Empty lines are left out. Raises FileFormatError at the first line that has another number
        of words, or bytes which are not plain text.
        """
        fields = len(layout.split())
        data = np.frombuffer(raw, np.uint8)
        blank = data <= 32
        newlines = np.flatnonzero(data == NEWLINE)
        check_text(path, data, first_line)
        change = np.flatnonzero(np.diff(blank, prepend=True, append=True))
        starts, ends = change[::2], change[1::2]
        words = np.diff(np.searchsorted(starts, newlines), prepend=0)
        if len(raw) and raw[-1] != NEWLINE:
            words = np.append(words, len(starts) - words.sum())
        wrong = (words != fields) & (words != 0)
        if wrong.any():
            at = int(wrong.argmax())
            got = f"{words[at]} words in line {first_line + at}"
            raise FileFormatError(str(path), f"lines of {fields} words ({layout})", got)
        shape = (-1, fields)
        return cls(str(path), data, starts.reshape(shape), ends.reshape(shape), first_line)

    def __len__(self) -> int:
        return len(self.starts)

    def line_of(self, row: int) -> int:
        """Return the line number of a row of the table (they differ where lines are empty)."""
        start = int(self.starts[row, 0])
        return self.first_line + int(np.count_nonzero(self.data[:start] == NEWLINE))

    def word(self, row: int, field: int) -> str:
        """Return a word for a message."""
        text = self.data[self.starts[row, field] : self.ends[row, field]].tobytes().decode("ascii")
        return repr(text if len(text) <= LONGEST else text[:LONGEST] + "...")

    def refuse(self, row: int, expected: str, got: str, fix: str = "") -> FileFormatError:
        """Return the error for a row."""
        return FileFormatError(f"{self.path}, line {self.line_of(row)}", expected, got, fix)

    def integers(self, field: int, *, low: int, high: int, what: str) -> Ints:
        """Return a column of whole numbers from `low` to `high`; decimal digits only."""
        starts, ends = self.starts[:, field], self.ends[:, field]
        width = ends - starts
        expected = f"{what} as a whole number from {low} to {high}"
        numbers = np.zeros(len(starts), np.int64)
        digits = min(int(width.max(initial=0)), 18)
        bad = width > 18
        for k in range(digits):
            present = width > k
            digit = self.data[np.maximum(ends - 1 - k, 0)] - np.uint8(48)  # wraps for other signs
            bad |= present & (digit > 9)
            numbers += np.where(present, digit, 0) * np.int64(10**k)
        bad |= (numbers < low) | (numbers > high)
        if bad.any():
            row = int(bad.argmax())
            fix = "Numbers count from 1." if low == 1 and self.word(row, field) == "'0'" else ""
            raise self.refuse(row, expected, self.word(row, field), fix)
        return numbers

    def reals(self, field: int) -> npt.NDArray[np.float64]:
        """Return a column of finite numbers, shape (rows,); (1,) if all words are the same."""
        starts, ends = self.starts[:, field], self.ends[:, field]
        width = ends - starts
        expected = "a finite number"
        longest = int(width.max(initial=1))
        if longest > LONGEST:
            row = int(width.argmax())
            raise self.refuse(row, f"{expected} of at most {LONGEST} characters", f"{longest}")
        letters = np.zeros((len(starts), longest), np.uint8)
        for k in range(longest):
            present = width > k
            letters[:, k] = np.where(present, self.data[np.minimum(starts + k, ends - 1)], 0)
        if (letters == letters[:1]).all():
            letters = letters[:1]
        wrong = (~NUMBER[letters] & (letters > 0)).any(axis=1)
        if wrong.any():  # also nan and inf
            row = int(wrong.argmax())
            raise self.refuse(row, expected, self.word(row, field))
        words = letters.view(f"S{longest}").ravel()
        try:
            values = words.astype(np.float64)
        except ValueError:
            row = next(i for i, word in enumerate(words) if not _is_number(word))
            raise self.refuse(row, expected, self.word(row, field)) from None
        if not np.isfinite(values).all():
            row = int((~np.isfinite(values)).argmax())
            raise self.refuse(row, expected, self.word(row, field))
        return values


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
