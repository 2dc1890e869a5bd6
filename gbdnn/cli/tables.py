"""Tables of text: numbers in columns, with or without a header, one column perhaps of labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.errors import FileFormatError, InputError
from gbdnn.files.disk import open_binary

__all__ = ["column_of", "read_table"]

Array = npt.NDArray[Any]
Line = tuple[int, list[str]]
LABELS = ("label", "labels", "target", "class", "y")  # names of label columns that need no --label
ROWS = 4096  # that are made an array at a time
LONGEST = 1 << 26  # characters in the first line


def read_table(
    path: Path,
    label: str | None,
    *,
    features: int | None = None,
    header: bool | None = None,
    names: tuple[str, ...] = (),
) -> tuple[Array, Array | None, str | None]:
    """Read a table in UTF-8, fields divided by comma, semicolon or tab.

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
        Whether the first line is one; default: judged by the first two lines.
    names : tuple of str
        More names that a column of labels may have.

    Returns
    -------
    X : ndarray of float32, shape (rows, columns of numbers)
    y : ndarray or None
        Numbers (float64) if all labels are, else text.
    name : str or None
        The label column's name in the header.

    Raises
    ------
    DataUnavailableError, FileFormatError, InputError
        With the number of the line.
    """
    with open_binary(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as text:
        try:
            return _read(path, text, label, features, header, (*LABELS, *names))
        except (UnicodeDecodeError, csv.Error) as error:
            expected = "a table in UTF-8, fields divided by comma, semicolon or tab"
            raise FileFormatError(str(path), expected, str(error)[:200]) from None


def _read(
    path: Path,
    text: io.TextIOWrapper,
    label: str | None,
    features: int | None,
    header: bool | None,
    known: tuple[str, ...],
) -> tuple[Array, Array | None, str | None]:
    start = text.readline(LONGEST)
    delimiter = max(",;\t", key=start.count)
    lines = csv.reader(chain([start], text), delimiter=delimiter, strict=True)
    rows = ((lines.line_num, row) for row in lines if row)
    head = list(islice(rows, 2))
    if not head:
        raise FileFormatError(str(path), "a table with at least one line", "an empty file")
    first = head[0][1]
    if header is None:
        header = (label is not None and not _is_integer(label)) or _is_header(head, known)
    names = [name.strip() for name in first] if header else []
    numbered = head[1:] if header else head
    if label is not None:
        column: int | None = column_of(path, label, names, len(first))
    elif features == len(first):
        column = None
    else:
        column = _label_column(names, numbered, known)
    X, y = _columns(path, chain(numbered, rows), len(first), column)
    return X, y, names[column] if names and column is not None else None


def _is_header(head: list[Line], known: tuple[str, ...]) -> bool:
    """Judge by the first two lines: names where numbers follow, a known name, or names only."""
    first = head[0][1]
    words = [k for k, field in enumerate(first) if not _is_number(field)]
    if len(words) == len(first) or any(_is_label(first[k], known) for k in words):
        return True
    second = head[1][1] if len(head) > 1 else first
    return any(k < len(second) and _is_number(second[k]) for k in words)


def _label_column(names: list[str], head: list[Line], known: tuple[str, ...]) -> int | None:
    """Return the column whose name says that it holds labels, or the only one of text."""
    named = [k for k, name in enumerate(names) if _is_label(name, known)]
    row = head[0][1] if head else []
    found = named or [k for k, field in enumerate(row) if not _is_number(field)]
    return found[0] if len(found) == 1 else None


def column_of(path: Path, label: str, names: list[str], width: int) -> int:
    """Return the column that a name, or a number that may be negative, means."""
    if label in names:
        return names.index(label)
    try:
        number = int(label)
    except ValueError:
        number = width
    if not -width <= number < width:
        expected = f"a column of {path.name}: {-width} to {width - 1}"
        if names:
            expected += f", or one of {', '.join(names)}"[:120]
        raise InputError("label", expected, repr(label))
    return number % width


def _columns(
    path: Path, rows: Iterator[Line], width: int, column: int | None
) -> tuple[Array, Array | None]:
    """Return the numbers, float32, and the column of labels."""
    parts: list[Array] = []
    labels: list[str] = []
    while block := list(islice(rows, ROWS)):
        for line, row in block:
            if len(row) != width:
                got = f"{len(row)} in line {line}"
                raise FileFormatError(str(path), f"{width} fields in each line", got)
            if column is not None:
                labels.append(row.pop(column).strip())
        try:
            parts.append(np.array([list(map(float, row)) for _, row in block], np.float32))
        except ValueError:
            raise _no_number(path, block) from None
    if not parts:
        raise FileFormatError(str(path), "at least one line of numbers", "a header only")
    return np.concatenate(parts), None if column is None else _label_array(labels)


def _no_number(path: Path, block: list[Line]) -> FileFormatError:
    line, field = next((n, f) for n, row in block for f in row if not _is_number(f))
    fix = "Fill in what is missing; name the column of labels with --label."
    return FileFormatError(f"{path}, line {line}", "numbers", repr(field[:60]), fix)


def _label_array(labels: list[str]) -> Array:
    """Return labels as numbers if all of them are, else as text."""
    if all(map(_is_number, labels)):
        return np.array(list(map(float, labels)))
    return np.array(labels)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_label(name: str, known: tuple[str, ...]) -> bool:
    return name.strip() in known or name.strip().lower() in LABELS


def _is_integer(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True
