"""Labels from files: classes or values, and which of the two they are."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.types import Array
from gbdnn.weights.csr import check_finite

__all__ = ["as_classes", "as_numbers", "as_values", "codes", "is_missing", "is_number", "task_of",
           "typed"]  # fmt: skip

# how a text that is a number may be written; the last is what numpy.savetxt does
WRITTEN: tuple[tuple[Callable[[str], Any], Callable[[Any], str]], ...] = (
    (int, str), (float, repr), (float, "{:.18e}".format),
)  # fmt: skip
MANY = 50  # classes, above which whole numbers look like values
FEW = 5  # samples of a class, below which more than 10 of them do


def is_number(text: str, kind: Callable[[str], Any] = float) -> bool:
    """True if the text is a number; Python's own 1_1 is not."""
    try:
        kind(text)
    except ValueError:
        return False
    return "_" not in text


def is_missing(text: str) -> bool:
    """True for the texts that stand for no label: nothing, and NaN."""
    return re.fullmatch(r"\s*([+-]?nan)?\s*", text, re.IGNORECASE) is not None


def typed(words: Sequence[str]) -> Array:
    """Return labels as numbers where each number gives its text again, else as they are.

    007 and 7, 1_1 and 11, 1.1 and 1.10, 1e3 and 1000 stay different labels.
    """
    different = set(words)
    for number, text in WRITTEN:
        try:
            values = {word: number(word) for word in different}
        except ValueError:
            continue
        kept = all(text(value) == word for word, value in values.items())
        small = number is float or all(abs(value) < 2**63 for value in values.values())
        if kept and small and len(set(values.values())) == len(different):  # 0.0 is -0.0
            return np.array([values[word] for word in words])
    return np.array(words)


def as_numbers(y: Array) -> Array | None:
    """Return labels as float64, texts that are numbers too; None if some are no numbers."""
    if y.dtype.kind == "U" and all(map(is_number, y.ravel().tolist())):
        return y.astype(np.float64)
    return y.astype(np.float64) if y.dtype.kind in "biuf" else None


def task_of(y: Array) -> str:
    """Return "regress" for fractions and for several values a sample, else "classify".

    Raises
    ------
    InputError
        Fractions that are fewer as numbers than as texts: versions, or values?
    """
    values = as_numbers(y)
    if y.ndim != 1:
        return "regress"
    if values is None:
        return "classify"
    different = len(np.unique(values))
    if (values == np.rint(values)).all():
        if different > MANY or (different > 10 and different * FEW > len(y)):
            warnings.warn(
                f"the labels, {different} different whole numbers, are taken as classes; "
                "to predict them as values say --task regress (or --task classify to hide this)",
                stacklevel=2,
            )
        return "classify"
    if y.dtype.kind == "U" and different < (texts := len(np.unique(y))):
        got = f"{texts} texts that are {different} numbers, as 1.1 and 1.10 are"
        raise InputError("labels", "texts or numbers", got, "Say --task classify or regress.")
    return "regress"


def as_classes(y: Array) -> tuple[list[Any], Array]:
    """Return the classes, ascending, as what JSON can say, and the number of each label in them.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, InputError
        Labels with two dimensions, that are neither numbers nor text, missing, or all the same.
    """
    y = _plain(y)
    if y.dtype.kind == "U":
        missing = np.array([is_missing(word) for word in y.tolist()], bool)
        if missing.any():
            got = f"{missing.sum()} empty or NaN, the first at index {missing.argmax()}"
            raise InputError("labels", "a label for each sample", got)
    classes, numbers = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InputError("labels", "at least two classes", f"{len(classes)}")
    return classes.tolist(), numbers


def as_values(y: Array) -> Array:
    """Return targets of a regression as float64, shape (n_samples, outputs)."""
    values = as_numbers(y)
    if values is None:
        fix = "Text is for classes: --task classify."
        raise DtypeError("labels", "numbers", f"dtype {y.dtype}", fix)
    check_finite("labels", values, "Every sample needs a label.")
    return values.reshape(len(y), -1)


def codes(classes: Sequence[Any], y: Array) -> Array:
    """Return the number of each label among the classes, -1 for others.

    A number and its text are the same label, so that arrays and tables can be mixed.
    """
    numbers = {str(name): k for k, name in enumerate(classes)}
    numbers |= {name: k for k, name in enumerate(classes)}
    labels = _plain(y.reshape(len(y), -1)[:, 0]).tolist()
    return np.array([numbers.get(name, numbers.get(str(name), -1)) for name in labels])


def _plain(y: Array) -> Array:
    """Return one label for each sample: bytes as text, whole floats as integers."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ShapeError("labels", "one label for each sample", f"shape {y.shape}")
    if y.dtype.kind not in "biufUS":
        raise DtypeError("labels", "numbers or text", f"dtype {y.dtype}")
    if y.dtype.kind == "f":
        check_finite("labels", y, "Every sample needs a label.")
        if (y == np.rint(y)).all() and abs(y).max(initial=0) < 2**53:
            return y.astype(np.int64)
    return np.char.decode(y, "utf-8", "replace") if y.dtype.kind == "S" else y
