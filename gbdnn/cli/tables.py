"""Tables of text: numbers in columns, with or without a header, one column perhaps of labels."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from gbdnn.cli.labels import as_numbers, is_missing, is_number, typed
from gbdnn.errors import FileFormatError, InputError, NonFiniteError
from gbdnn.files.disk import open_binary
from gbdnn.types import Array

__all__ = ["Table", "column_of", "read_table"]

Line = tuple[int, list[str]]
LABELS = ("label", "labels", "target", "class", "y")  # names of label columns that need no --label
UNNAMED = re.compile(r"(Unnamed: \d+(\.\d+)?)?")  # pandas' index, written and read again
ROWS = 4096  # that are made an array at a time
DECIMAL = re.compile(r"[+-]?\d+,\d+")  # a number with a decimal comma
HEAD = 8  # lines by which header and delimiter are judged
LONGEST = 1 << 26  # characters in one of them
LISTED = 20  # names in a message


@dataclass(frozen=True, eq=False)
class Table:
    """What stands in a table.

    Attributes
    ----------
    X : ndarray of float32, shape (rows, columns of numbers)
    y : ndarray or None
        Labels: numbers where each gives its text again, else text.
    label : str or None
        The label column's name in the header.
    names : tuple of str or None
        Those of X's columns; None without a header, and where two are equal or one is empty.
    """

    X: Array
    y: Array | None
    label: str | None
    names: tuple[str, ...] | None


def read_table(
    path: Path,
    label: str | None,
    *,
    features: int | None = None,
    header: bool | None = None,
    names: tuple[str, ...] = (),
    columns: Sequence[str] | None = None,
) -> Table:
    """Read a table in UTF-8, fields divided by comma, semicolon, tab or blanks.

    Parameters
    ----------
    path : Path
        With .gz at the end it is compressed.
    label : str, optional
        Name or number of the column of labels. Default: the one whose name says so, or the only one
        that holds text; else there is none.
    features : int, optional
        A table of so many columns has no labels unless `label` is given.
    header : bool, optional
        Whether the first line is one; default: judged by the first lines.
    names : tuple of str
        More names that a column of labels may have.
    columns : sequence of str, optional
        The names that the header must have, in the order in which they are wanted.

    Raises
    ------
    DataUnavailableError, FileFormatError, InputError, NonFiniteError
        With the numbers of line and column, counted from 1. Also if the header lacks a wanted name
        or has others, and if the first line may be a header of numbers.
    """
    with open_binary(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
        try:
            start = [line for _ in range(HEAD) if (line := text.readline(LONGEST))]
            comment = _take_comments(start)
            delimiter = _delimiter([line for line in start if line.strip()])
            reader = _reader(chain(start, text), delimiter, strict=True)
            rows = ((reader.line_num, row) for row in reader if row)
            head = list(islice(rows, HEAD))
            if not head:
                raise FileFormatError(str(path), "a table with at least one line", "an empty file")
            first, title = head[0][1], _fields(comment, delimiter)
            if header is False or len(title) != len(first):
                title = []
            if not title:
                if header is None:
                    named = label is not None and not is_number(label, int)
                    header = named or _is_header(path, head, names, columns)
                title = [name.strip() for name in first] if header else []
                head = head[1:] if header else head
            unnamed = _unnamed(title)
            if label is not None:
                column: int | None = column_of(path, label, title, len(first))
            elif features == len(first) - unnamed and not (columns and title):
                column = None
            else:
                column = _label_column(title, head, names, columns or (), unnamed)
            kept = [k for k in range(unnamed, len(first)) if k != column]
            if unnamed and column != 0:
                _say_left_out(path, unnamed)
            if title and columns:
                kept = _ordered(path, title, kept, columns)
            elif not title and columns:
                warnings.warn(f"{path.name} has no header: its columns are taken as they stand, "
                              "the model's are known by name", stacklevel=2)  # fmt: skip
            body = _Body(path, title, len(first), column, kept, delimiter)
            X, y = body.read(chain(head, rows))
        except (UnicodeDecodeError, csv.Error) as error:
            expected = "a table in UTF-8, fields divided by comma, semicolon, tab or blanks"
            raise FileFormatError(str(path), expected, str(error)[:200]) from None
    own = tuple(title[k] for k in kept) if title else ()
    unique = own and all(own) and len(set(own)) == len(own)
    return Table(X, y, title[column] if title and column is not None else None,
                 own if unique else None)  # fmt: skip


# -- the head --------------------------------------------------------------------------------------


def _take_comments(start: list[str]) -> str:
    """Empty leading lines "# ...", which numpy.savetxt writes, and return what the last says."""
    comment = ""
    for k, line in enumerate(start):
        if not line.startswith("# "):
            break
        comment, start[k] = line[2:], "\n"
    return comment


def _fields(line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(_reader([line], delimiter), [])]


def _reader(lines: Iterable[str], delimiter: str, *, strict: bool = False) -> Any:
    """Return a csv.reader; many blanks divide as one does."""
    if delimiter == " ":
        lines = (line.rstrip() + "\n" for line in lines)
    blank = delimiter == " "
    return csv.reader(lines, delimiter=delimiter, strict=strict, skipinitialspace=blank)


def _delimiter(start: list[str]) -> str:
    """Return what divides the first lines into equally many fields, most of them numbers."""
    best, found = (0, 0), ""
    for delimiter in "\t;, ":
        try:
            rows = list(_reader(map(str.strip, start), delimiter))
        except csv.Error:
            continue
        fields = [field.strip() for row in rows for field in row]
        numbers = sum(map(_looks_numeric, fields))
        if len(set(map(len, rows))) == 1 < len(rows[0]) and (numbers, len(fields)) > best:
            best, found = (numbers, len(fields)), delimiter
    first = start[0] if start else ""
    if not found and not set(first) & set(",;\t") and all(map(is_number, first.split())):
        return " "
    return found or max(",;\t", key=first.count)


def _is_header(
    path: Path, head: list[Line], names: tuple[str, ...], columns: Sequence[str] | None
) -> bool:
    """Judge by the first lines: names where numbers follow, a known name, or names only."""
    first, second = [field.strip() for field in head[0][1]], head[min(1, len(head) - 1)][1]
    if columns and set(columns) <= set(first):
        return True
    words = [k for k, field in enumerate(first) if not _looks_numeric(field)]
    if words:
        return (
            len(words) == len(first)
            or any(_is_label(first[k], names) for k in words)
            or any(k < len(second) and _looks_numeric(second[k].strip()) for k in words)
        )
    return _is_numbered(path, first, [row for _, row in head[1:]])


def _looks_numeric(field: str) -> bool:
    return is_number(field) or DECIMAL.fullmatch(field) is not None


def _is_numbered(path: Path, first: list[str], rest: list[list[str]]) -> bool:
    """Judge a first line of numbers, which pandas' own names of columns, 0, 1, 2, ..., are too.

    Raises
    ------
    InputError
        It may be a header or a sample.
    """
    if not rest or not all(field.isdecimal() and str(int(field)) == field for field in first):
        return False
    numbers = list(map(int, first))
    rising = all(a < b for a, b in pairwise(numbers))
    counted = numbers == list(range(len(first)))
    whole = [all(row[k : k + 1] and is_number(row[k], int) for row in rest)
             for k in range(len(first))]  # fmt: skip
    if len(first) > 1 and counted and not all(whole):
        return True
    if counted or (rising and (len(first) > 5 or not any(whole))):
        got = f"{', '.join(first)}"[:60] + " there, names of columns or a sample"
        fix = "Say --header or --no-header."
        raise InputError(f"{path}, line 1", "a header or numbers", got, fix)
    return False


def _unnamed(title: list[str]) -> int:
    """Return how many leading columns have no name."""
    named = (k for k, name in enumerate(title) if not UNNAMED.fullmatch(name))
    return next(named, 0)


def _say_left_out(path: Path, count: int) -> None:
    what = "the first column, which has no name," if count == 1 else f"{count} unnamed columns"
    warnings.warn(f"{path.name}: {what} left out, as an index is", stacklevel=3)


def _label_column(
    title: list[str],
    head: list[Line],
    names: tuple[str, ...],
    columns: Sequence[str],
    unnamed: int,
) -> int | None:
    """Return the column whose name says that it holds labels, or the only one of text."""
    width = len(title) or (len(head[0][1]) if head else 0)
    free = [k for k in range(unnamed, width) if not title or title[k] not in columns]
    found = [k for k in free if title and title[k] in names]
    found = found or [k for k in free if title and _is_label(title[k], names)]
    if not found and head:  # NA somewhere does not make a column one of text
        rows = [[field.strip() for field in row] + [""] * (width - len(row)) for _, row in head]
        found = [k for k in free if all(row[k] and not _looks_numeric(row[k]) for row in rows)]
    return found[0] if len(found) == 1 else None


def _is_label(name: str, names: tuple[str, ...]) -> bool:
    return name.strip() in names or name.strip().lower() in LABELS


def column_of(path: Path, label: str, title: list[str], width: int) -> int:
    """Return the column that a name, or a number that may be negative, means."""
    if label in title:
        return title.index(label)
    number = int(label) if is_number(label, int) else width
    if not -width <= number < width:
        expected = f"a column of {path.name}: {-width} to {width - 1}"
        if title:
            expected += f", or one of {', '.join(title)}"[:120]
        raise InputError("label", expected, repr(label))
    return number % width


def _ordered(path: Path, title: list[str], kept: list[int], columns: Sequence[str]) -> list[int]:
    """Return the columns in the order of the wanted names."""
    place = {title[k]: k for k in kept}
    twice = {title[k] for k in kept if place[title[k]] != k}
    problems = {
        "lacks": [name for name in columns if name not in place],
        "has besides": [name for name in place if name not in set(columns)],
        "has twice": sorted(twice & set(columns)),
    }
    got = "; ".join(f"{verb} {_listed(names)}" for verb, names in problems.items() if names)
    if got:
        fix = "Rename or leave out columns; --label names that of the labels."
        raise InputError(str(path), "a table with the model's columns", f"one that {got}", fix)
    return [place[name] for name in columns]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(repr(name[:60]) for name in names[:LISTED]) + more


# -- the body --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Body:
    """The lines under the header, and which of their columns are wanted."""

    path: Path
    title: list[str]
    width: int
    column: int | None
    kept: list[int]
    delimiter: str

    def read(self, rows: Iterator[Line]) -> tuple[Array, Array | None]:
        """Return the numbers, float32, and the labels: numbers or text, see `typed`."""
        if not self.kept:
            raise FileFormatError(str(self.path), "at least one column of numbers", "none")
        pick: Callable[[list[str]], Any] = itemgetter(*self.kept)
        if len(self.kept) == 1:
            pick = itemgetter(slice(self.kept[0], self.kept[0] + 1))
        parts: list[Array] = []
        labels: list[str] = []
        lines: list[int] = []
        number: Callable[[str], float] = float
        while block := list(islice(rows, ROWS)):
            for line, row in block:
                if len(row) != self.width:
                    got = f"{len(row)} in line {line}"
                    raise FileFormatError(str(self.path), f"{self.width} fields in each line", got)
                if self.column is not None:
                    labels.append(row[self.column].strip())
                    lines.append(line)
            fields = [pick(row) for _, row in block]
            if number is float and self._has_comma(fields, parts):
                number = _comma_number
            try:
                with np.errstate(over="ignore"):
                    part = np.array([list(map(number, row)) for row in fields], np.float32)
            except ValueError:
                raise self._fault(block, number) from None
            if not np.isfinite(part).all() or any("_" in "".join(row) for row in fields):
                raise self._fault(block, number)
            parts.append(part)
        if not parts:
            raise FileFormatError(str(self.path), "at least one line of numbers", "a header only")
        return np.concatenate(parts), self._labels(labels, lines)

    def _has_comma(self, fields: list[Any], before: list[Array]) -> bool:
        """True if numbers between semicolons have decimal commas, and none had a point."""
        if self.delimiter != ";" or not any("," in "".join(row) for row in fields):
            return False
        return not any("." in "".join(row) for row in fields) and all(
            (part == np.rint(part)).all() for part in before
        )

    def _labels(self, words: list[str], lines: list[int]) -> Array | None:
        if self.column is None or all(map(is_missing, words)):
            return None
        for line, word in zip(lines, words, strict=True):
            if is_missing(word):
                fix = "Fill it in, or leave the line out."
                got = repr(word) if word else "nothing"
                expected = "a label, a text or a finite number"
                raise InputError(self._place(line, self.column), expected, got, fix)
        y = typed(words)
        if self.delimiter == ";" and any("," in word for word in words):
            points = [word.replace(",", ".") for word in words]
            if not any("." in word for word in words) and all(map(is_number, points)):
                y = typed(points)
        values = as_numbers(y)
        if values is not None and not np.isfinite(values).all():
            k = int((~np.isfinite(values)).argmax())
            raise NonFiniteError(self._place(lines[k], self.column), "a finite number", words[k])
        return y

    def _fault(self, block: list[Line], number: Callable[[str], float]) -> InputError:
        """Return an error that says where the first field is that is no finite number."""
        for line, row in block:
            for k in self.kept:
                field = row[k].strip()
                if not is_number(field, number):
                    fix = "Fill in what is missing; name the column of labels with --label."
                    if DECIMAL.fullmatch(field):
                        fix = "Decimal commas are read between semicolons only, and without points."
                    got = repr(field[:60]) if field else "nothing"
                    return FileFormatError(self._place(line, k), "a number", got, fix)
                with np.errstate(over="ignore"):
                    fits = np.isfinite(np.float32(number(field)))
                if not fits:
                    fix = "Fill it in, or leave the line or the column out."
                    expected = "a finite number that fits into float32"
                    return NonFiniteError(self._place(line, k), expected, field[:60], fix)
        raise AssertionError("all fields are numbers")

    def _place(self, line: int, column: int) -> str:
        name = f" ({self.title[column][:60]})" if self.title else ""
        return f"{self.path}, line {line}, column {column + 1}{name}"


def _comma_number(text: str) -> float:
    """Return a number with a decimal comma."""
    if "." in text:
        raise ValueError(text)
    return float(text.replace(",", "."))
