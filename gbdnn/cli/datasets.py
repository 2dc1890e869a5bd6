"""Samples and labels from files, for the command line: npz, npy, CSV and svmlight.

Nothing is unpickled, and sizes in headers are compared with the file before memory is taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse as sp

from gbdnn.cli.tables import column_of, read_table
from gbdnn.errors import (
    DtypeError,
    FileFormatError,
    GbdnnError,
    InputError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
)
from gbdnn.files.disk import open_binary
from gbdnn.machine import available_bytes
from gbdnn.types import Array, FilePath
from gbdnn.weights.csr import as_csr, check_finite

__all__ = [
    "FORMATS", "Dataset", "as_classes", "as_values", "check_samples", "digits", "read", "split",
]  # fmt: skip

PAIRS = (("X", "y"), ("x", "y"), ("X_train", "y_train"), ("x_train", "y_train"),
         ("data", "target"), ("data", "label"), ("images", "labels"))  # fmt: skip
TESTS = (("X", "y"), ("x", "y"), ("X_test", "y_test"), ("x_test", "y_test"))
INFLATION = 1032  # deflate cannot make data smaller than this


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples from a file.

    Attributes
    ----------
    X : ndarray or scipy.sparse.csr_array, shape (n_samples, n_features)
    y : ndarray or None
        Shape (n_samples,), numbers or text; or (n_samples, outputs), numbers.
    origin : str
        Where they are from, for a report.
    label : str or None
        The header's name of the column that y was.
    first : int or None
        The number of the first feature in an svmlight file, 0 or 1.
    """

    X: Any
    y: Array | None
    origin: str
    label: str | None = None
    first: int | None = None


@dataclass(frozen=True)
class Wanted:
    """What a reader is asked for.

    Attributes
    ----------
    label : str, optional
        Where the labels are: the name or the number of a column (from 0; -1 is the last), in .npz
        the name of an array. Default: a column or array that is called so; else there are none.
    features : int, optional
        How many there should be. A table with as many columns has no labels; svmlight files, which
        do not say it, get as many.
    header : bool, optional
        Whether the first line of a table is a header; default: looked up in it.
    first : int, optional
        The number of the first feature in svmlight files: 0, 1, or whichever occurs.
    test : bool
        Prefer x_test and y_test to x_train and y_train.
    names : tuple of str
        More names that a column of labels may have in a header.
    """

    label: str | None = None
    features: int | None = None
    header: bool | None = None
    first: int | None = None
    test: bool = False
    names: tuple[str, ...] = ()


def read(path: FilePath, **wanted: Any) -> Dataset:
    """Read samples, with labels if the file has them.

    Parameters
    ----------
    path : path-like
        The name's end says what it is: .npz (arrays X and y, or x_train and y_train), .npy, .csv,
        .tsv, .txt (with a header or not), .svm, .svmlight, .libsvm; text also with .gz.
    **wanted
        Fields of `Wanted`.

    Returns
    -------
    Dataset
        X of an npz or npy file keeps its dtype; images (n, height, width) become rows.

    Raises
    ------
    DataUnavailableError, FileFormatError, InputError, MemoryBudgetError
        The file cannot be read; its content, or the label, is not what it should be; it does not
        fit into the memory that is free.
    """
    path = Path(path)
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    reader = _READERS.get(suffix.lower())
    if reader is None or (path.suffix == ".gz" and reader in (_read_npy, _read_npz)):
        raise InputError(str(path), f"a name that ends in {', '.join(FORMATS)}", repr(path.name))
    dataset = reader(path, Wanted(**wanted))
    X, y = dataset.X, dataset.y
    if X.ndim > 2 and 0 not in X.shape:
        dataset = replace(dataset, X=X.reshape(len(X), -1))
    if X.ndim < 2 or 0 in X.shape:
        raise FileFormatError(str(path), "samples x features, at least one", f"shape {X.shape}")
    if y is not None and (y.ndim not in (1, 2) or len(y) != X.shape[0]):
        expected = f"{X.shape[0]} labels, as many as samples"
        raise FileFormatError(str(path), expected, f"shape {y.shape}")
    return dataset


def digits() -> Dataset:
    """Return the 1,797 handwritten digits of scikit-learn: (1797, 64), 0 to 16."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return Dataset(found.data.astype(np.float32), found.target, "scikit-learn's digits")


def check_samples(X: Any, fix: str = "") -> None:
    """Raise `NonFiniteError` for NaN and infinity in dense or sparse samples."""
    check_finite("X", X.data if sp.issparse(X) else X, fix)


def split(count: int, fraction: float, seed: int) -> tuple[Array, Array]:
    """Return the numbers of the samples for training and, drawn at random, for validation."""
    held = round(count * fraction)
    if fraction and not 0 < held < count:
        expected = f"a part of the {count} samples that leaves some on either side"
        raise InputError("validation", expected, repr(fraction))
    order = np.random.default_rng([seed, count]).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def as_classes(y: Array) -> tuple[list[Any], Array]:
    """Return the classes, ascending, as what JSON can say, and the number of each label in them.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, InputError
        Labels with two dimensions, that are neither numbers nor text, NaN, or all the same.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ShapeError("labels", "one label for each sample", f"shape {y.shape}")
    if y.dtype.kind not in "biufUS":
        raise DtypeError("labels", "numbers or text", f"dtype {y.dtype}")
    if y.dtype.kind == "f":
        check_finite("labels", y, "Every sample needs a label.")
        if (y == np.rint(y)).all() and abs(y).max(initial=0) < 2**53:
            y = y.astype(np.int64)
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InputError("labels", "at least two classes", f"{len(classes)}")
    return classes.tolist(), codes


def as_values(y: Array) -> Array:
    """Return targets of a regression as float64, shape (n_samples, outputs)."""
    if y.dtype.kind not in "biuf":
        fix = "Text is for classes: --task classify."
        raise DtypeError("labels", "numbers", f"dtype {y.dtype}", fix)
    values = y.reshape(len(y), -1).astype(np.float64)
    check_finite("labels", values)
    return values


# -- npz and npy -----------------------------------------------------------------------------------


def _read_npz(path: Path, wanted: Wanted) -> Dataset:
    with _whole(path, ".npz") as file, np.load(file, allow_pickle=False) as archive:
        names = {name.removesuffix(".npy") for name in archive.zip.namelist()}
        pairs = TESTS + PAIRS if wanted.test else PAIRS
        found = [p for p in pairs if set(p) <= names] or [p for p in pairs if p[0] in names]
        if not found:
            expected = f"an array X or x_train in {path.name}"
            got = f"the names {', '.join(sorted(names)) or 'none'}"[:200]
            raise FileFormatError(str(path), expected, got)
        name, label = found[0]
        if wanted.label is not None:
            label = wanted.label
            if label not in names:
                raise InputError("label", f"one of {', '.join(sorted(names))}"[:200], repr(label))
        X = _member(path, archive, name)
        y = _member(path, archive, label) if label in names else None
    return Dataset(X, y, f"{path.name}, array {name}")


def _member(path: Path, archive: Any, name: str) -> Array:
    """Return an array of an archive, whose sizes are looked at before memory is taken."""
    info = archive.zip.getinfo(f"{name}.npy")
    if info.file_size > max(info.compress_size, 1) * INFLATION:
        got = f"{info.compress_size:,} bytes that claim to be {info.file_size:,}"
        raise FileFormatError(str(path), f"a sound array {name}", got)
    what = f"{path}, {name}"
    _check_room(what, info.file_size)
    try:
        return _checked(what, archive[name])
    except MemoryError as error:  # the array's own header, of which numpy takes its size, lies
        raise FileFormatError(what, "as many values as the header says", str(error)) from None


def _read_npy(path: Path, wanted: Wanted) -> Dataset:
    with _whole(path, ".npy"), np.errstate(over="ignore"):
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # fails where the file is short
        size, wants = path.stat().st_size, mapped.offset + mapped.nbytes
        if size != wants:
            raise FileFormatError(str(path), f"{wants:,} bytes, as the header says", f"{size:,}")
        _check_room(str(path), size)
        array = _checked(str(path), np.array(mapped))
    if wanted.label is None or array.ndim != 2:
        return Dataset(array, None, path.name)
    column = column_of(path, wanted.label, [], array.shape[1])
    return Dataset(np.delete(array, column, axis=1), array[:, column], path.name)


def _check_room(name: str, nbytes: int) -> None:
    if nbytes > (free := available_bytes()):
        expected, got = f"an array that fits into {free:,} free bytes", f"{nbytes:,} bytes"
        raise MemoryBudgetError(name, expected, got)


def _checked(name: str, array: Any) -> Array:
    dtype = getattr(array, "dtype", np.dtype(object))
    if dtype.kind not in "biufUS" or not dtype.itemsize:
        raise FileFormatError(name, "an array of numbers or text", f"dtype {dtype}")
    return np.asarray(array)


@contextlib.contextmanager
def _whole(path: Path, kind: str) -> Iterator[IO[bytes]]:
    """Say in gbdnn's errors what is wrong with a file that numpy and zipfile take apart."""
    with open_binary(path) as file:
        try:
            yield file
        except (GbdnnError, MemoryError):
            raise
        except Exception as error:  # their parsers raise nearly anything: zlib.error, ...
            got = f"{type(error).__name__}: {error}"[:200]
            raise FileFormatError(str(path), f"a whole {kind} file", got) from None


# -- tables and svmlight ---------------------------------------------------------------------------


def _read_csv(path: Path, wanted: Wanted) -> Dataset:
    X, y, name = read_table(
        path, wanted.label, features=wanted.features, header=wanted.header, names=wanted.names
    )
    return Dataset(X, y, path.name, name)


def _read_svmlight(path: Path, wanted: Wanted) -> Dataset:
    from sklearn.datasets import load_svmlight_file

    if wanted.label is not None:
        fix = "Leave --label out."
        raise InputError("label", "None: an svmlight line begins with it", repr(wanted.label), fix)
    with open_binary(path) as file:
        try:
            # counted from 0: the largest index is then known, and nothing moves unseen
            X, y = load_svmlight_file(file, zero_based=True)
        except (ValueError, OverflowError, IndexError, UnicodeDecodeError) as error:
            expected = 'lines "label index:value ..." with ascending indices'
            raise FileFormatError(str(path), expected, str(error)[:200]) from None
    if not np.isfinite(X.data).all() or not np.isfinite(y).all():
        raise NonFiniteError(str(path), "finite numbers", "NaN or infinity")
    least = int(X.indices.min(initial=1)) if X.nnz else 1
    first = wanted.first if wanted.first is not None else min(least, 1)
    if least < first:
        raise FileFormatError(str(path), "features numbered from 1", "a feature 0")
    width = X.shape[1] - first
    if wanted.features is not None and width > wanted.features:
        expected = f"features up to number {wanted.features - 1 + first}"
        raise ShapeError(str(path), expected, f"{X.shape[1] - 1}")
    X.indices -= first
    shape = (X.shape[0], max(wanted.features or width, 1))
    X = type(X)((X.data, X.indices, X.indptr), shape=shape)
    X = as_csr(X, dtype=np.float32, name=str(path)).to_scipy()
    return Dataset(X, y, path.name, first=first)


_READERS: dict[str, Callable[[Path, Wanted], Dataset]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    **dict.fromkeys((".csv", ".tsv", ".txt"), _read_csv),
    **dict.fromkeys((".svm", ".svmlight", ".libsvm"), _read_svmlight),
}
FORMATS = tuple(_READERS)
