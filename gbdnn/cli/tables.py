"""Tables of text: numbers in columns, with or without a header, one column perhaps of labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from gbdnn.errors import FileFormatError, InputError
from gbdnn.files.disk import open_binary
from gbdnn.types import Array

__all__ = ["column_of", "read_table"]

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
            start = text.readline(LONGEST)
            lines = csv.reader(
                chain([start], text), delimiter=max(",;\t", key=start.count), strict=True
            )
            rows = ((lines.line_num, row) for row in lines if row)
            head = list(islice(rows, 2))
            if not head:
                raise FileFormatError(str(path), "a table with at least one line", "an empty file")
            first = head[0][1]
            if header is None:
                named = label is not None and not _is(int, label)
                header = named or _is_header(head, names)
            title = [name.strip() for name in first] if header else []
            head = head[1:] if header else head
            if label is not None:
                column: int | None = column_of(path, label, title, len(first))
            else:
                column = None if features == len(first) else _label_column(title, head, names)
            X, y = _columns(path, chain(head, rows), len(first), column)
        except (UnicodeDecodeError, csv.Error) as error:
            expected = "a table in UTF-8, fields divided by comma, semicolon or tab"
            raise FileFormatError(str(path), expected, str(error)[:200]) from None
    return X, y, title[column] if title and column is not None else None


def _is_header(head: list[Line], names: tuple[str, ...]) -> bool:
    """Judge by the first two lines: names where numbers follow, a known name, or names only."""
    first, second = head[0][1], head[-1][1]
    words = [k for k, field in enumerate(first) if not _is(float, field)]
    return (
        len(words) == len(first)
        or any(_is_label(first[k], names) for k in words)
        or any(k < len(second) and _is(float, second[k]) for k in words)
    )


def _label_column(title: list[str], head: list[Line], names: tuple[str, ...]) -> int | None:
    """Return the column whose name says that it holds labels, or the only one of text."""
    found = [k for k, name in enumerate(title) if _is_label(name, names)]
    if not found and head:
        found = [k for k, field in enumerate(head[0][1]) if not _is(float, field)]
    return found[0] if len(found) == 1 else None


def column_of(path: Path, label: str, title: list[str], width: int) -> int:
    """Return the column that a name, or a number that may be negative, means."""
    if label in title:
        return title.index(label)
    number = int(label) if _is(int, label) else width
    if not -width <= number < width:
        expected = f"a column of {path.name}: {-width} to {width - 1}"
        if title:
            expected += f", or one of {', '.join(title)}"[:120]
        raise InputError("label", expected, repr(label))
    return number % width


def _columns(
    path: Path, rows: Iterator[Line], width: int, column: int | None
) -> tuple[Array, Array | None]:
    """Return the numbers, float32, and the column of labels: numbers if all are, else text."""
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
            line, field = next((n, f) for n, row in block for f in row if not _is(float, f))
            fix = "Fill in what is missing; name the column of labels with --label."
            what = f"{path}, line {line}"
            raise FileFormatError(what, "numbers", repr(field[:60]), fix) from None
    if not parts:
        raise FileFormatError(str(path), "at least one line of numbers", "a header only")
    y: Any = (
        [float(word) for word in labels] if all(_is(float, word) for word in labels) else labels
    )
    return np.concatenate(parts), None if column is None else np.array(y)


def _is(kind: Callable[[str], Any], text: str) -> bool:
    """True if the text is a number of this kind."""
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _is_label(name: str, names: tuple[str, ...]) -> bool:
    return name.strip() in names or name.strip().lower() in LABELS
