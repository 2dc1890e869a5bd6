"""Samples and labels from files, for the command line: npz, npy, CSV and svmlight.

Nothing is unpickled, and sizes in headers are compared with the file before memory is taken.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse as sp

from gbdnn.cli.tables import column_of, read_table
from gbdnn.data.inputs import unpadded
from gbdnn.errors import (
    FileFormatError,
    GbdnnError,
    InputError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
    choose,
)
from gbdnn.files.disk import open_binary
from gbdnn.machine import available_bytes
from gbdnn.types import Array, FilePath
from gbdnn.weights.csr import as_csr, check_finite

__all__ = [
    "FORMATS", "Dataset", "check_samples", "digits", "read", "split",
]  # fmt: skip

PAIRS = (("X", "y"), ("x", "y"), ("X_train", "y_train"), ("x_train", "y_train"),
         ("data", "target"), ("data", "label"), ("images", "labels"))  # fmt: skip
TESTS = (("X", "y"), ("x", "y"), ("X_test", "y_test"), ("x_test", "y_test"))
STORED = {
    **dict.fromkeys(("csr", "csc", "bsr"), ("indices", "indptr")),
    "coo": ("row", "col"),
    "dia": ("offsets",),
}
"""What scipy.sparse.save_npz writes besides data, shape and format."""
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
    names : tuple of str or None
        The features' names in a header.
    lengths : ndarray of int or None
        Of sequences: X is padded, (n_samples, time, n_features).
    """

    X: Any
    y: Array | None
    origin: str
    label: str | None = None
    first: int | None = None
    names: tuple[str, ...] | None = None
    lengths: Array | None = None


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
        The number of the first feature in svmlight files, 0 or 1. Default: 0 if that occurs; else 1
        with a warning, or with `features` an error if the file could begin with either.
    test : bool
        Prefer x_test and y_test to x_train and y_train.
    names : tuple of str
        More names that a column of labels may have in a header.
    columns : sequence of str, optional
        The names of the features; a table's columns are brought into this order.
    sequences : bool
        An array (n, time, features) is not images but sequences, one (n, time) such of one feature;
        in .npz an array `lengths` says how many time steps each has.
    """

    label: str | None = None
    features: int | None = None
    header: bool | None = None
    first: int | None = None
    test: bool = False
    names: tuple[str, ...] = ()
    columns: Sequence[str] | None = None
    sequences: bool = False


def read(path: FilePath, **wanted: Any) -> Dataset:
    """Read samples, with labels if the file has them.

    Parameters
    ----------
    path : path-like
        The name's end says what it is: .npz (arrays X and y, or x_train and y_train; or what
        scipy.sparse.save_npz writes, which may hold y besides), .npy, .csv, .tsv, .txt (with a
        header or not), .svm, .svmlight, .libsvm; text also with .gz.
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
    asked = Wanted(**wanted)
    dataset = reader(path, asked)
    X, y = dataset.X, dataset.y
    if asked.sequences:
        return _sequences(path, dataset)
    if X.ndim > 2 and 0 not in X.shape:
        dataset = replace(dataset, X=X.reshape(len(X), -1))
    if X.ndim < 2 or 0 in X.shape:
        raise FileFormatError(str(path), "samples x features, at least one", f"shape {X.shape}")
    if y is not None and (y.ndim not in (1, 2) or len(y) != X.shape[0]):
        expected = f"{X.shape[0]} labels, as many as samples"
        raise FileFormatError(str(path), expected, f"shape {y.shape}")
    return dataset


def _sequences(path: Path, dataset: Dataset) -> Dataset:
    """Check sequences and what belongs to them."""
    X, y = dataset.X, dataset.y
    if sp.issparse(X) or X.ndim not in (2, 3) or 0 in X.shape:
        expected = "sequences (n, time, features), or (n, time) of one feature"
        raise FileFormatError(str(path), expected, f"shape {X.shape}")
    X = X.reshape(*X.shape[:2], -1)
    if y is not None and len(y) != len(X):
        raise FileFormatError(str(path), f"{len(X)} labels, as many as sequences", f"{y.shape}")
    lengths = np.array([len(part) for part in unpadded(X, dataset.lengths, "X")[0]])
    return replace(dataset, X=X, lengths=lengths)


def digits(sequences: bool = False) -> Dataset:
    """Return the 1,797 handwritten digits of scikit-learn: (1797, 64), 0 to 16.

    As sequences they are their 8 rows of 8, from 0 to 1.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    X, name = found.data.astype(np.float32), "scikit-learn's digits"
    if sequences:
        return Dataset(X.reshape(-1, 8, 8) / 16, found.target, name, lengths=np.full(len(X), 8))
    return Dataset(X, found.target, name)


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


# -- npz and npy -----------------------------------------------------------------------------------


def _read_npz(path: Path, wanted: Wanted) -> Dataset:
    with _whole(path, ".npz") as file, np.load(file, allow_pickle=False) as archive:
        names = {name.removesuffix(".npy") for name in archive.zip.namelist()}
        if {"format", "shape", "data"} <= names:
            return _read_sparse(path, archive, names, wanted)
        pairs = TESTS + PAIRS if wanted.test else PAIRS
        found = [p for p in pairs if set(p) <= names] or [p for p in pairs if p[0] in names]
        if not found:
            got = f"the names {', '.join(sorted(names)) or 'none'}"[:200]
            raise FileFormatError(str(path), f"an array X or x_train in {path.name}", got)
        name, label = found[0][0], wanted.label or found[0][1]
        X = _member(path, archive, name)
        y = _labels(path, archive, label, names) if wanted.label or label in names else None
        there = "lengths" in names and (wanted.sequences or X.ndim > 2)
        if there and not wanted.sequences:
            got = f"an array `lengths` beside {name} of shape {X.shape}: sequences"
            fix = 'gbdnn train --layers "lstm 64" makes a network that takes them.'
            raise InputError(str(path), "samples that are no sequences, as this network", got, fix)
        lengths = _member(path, archive, "lengths") if there else None
    return Dataset(X, y, f"{path.name}, array {name}", lengths=lengths)


def _read_sparse(path: Path, archive: Any, names: set[str], wanted: Wanted) -> Dataset:
    """Read what scipy.sparse.save_npz has written, in any of its formats."""
    kind = _member(path, archive, "format").tobytes().decode("ascii", "replace").replace("\0", "")
    needed = STORED[choose(f"{path}, format", kind, STORED)]
    if "coords" in names:  # how newer versions of scipy may write coo
        needed = ("coords",)
    if missing := [name for name in needed if name not in names]:
        expected = f"the arrays {', '.join(needed)} of a {kind} matrix"
        raise FileFormatError(str(path), expected, f"no {', '.join(missing)}")
    shape = tuple(_member(path, archive, "shape").ravel().tolist())
    parts = [_member(path, archive, name) for name in needed]
    data: Any = (_member(path, archive, "data"), *parts)
    if kind == "coo":
        data = (data[0], tuple(parts[0]) if len(parts) == 1 else tuple(parts))
    matrix = getattr(sp, f"{kind}_array")(data, shape=shape)
    X = as_csr(matrix, name=str(path)).to_scipy()
    label = wanted.label or next((name for _, name in PAIRS if name in names), None)
    y = None if label is None else _labels(path, archive, label, names)
    return Dataset(X, y, f"{path.name}, {kind}")


def _labels(path: Path, archive: Any, label: str, names: set[str]) -> Array:
    if label not in names:
        raise InputError("label", f"one of {', '.join(sorted(names))}"[:200], repr(label))
    return _member(path, archive, label)


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
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        got = "Python objects, which only a pickle holds"
        fix = "Save text as y.astype(str), a sparse matrix with scipy.sparse.save_npz."
        raise FileFormatError(what, "an array of numbers or text", got, fix) from None
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
    table = read_table(
        path, wanted.label, features=wanted.features, header=wanted.header, names=wanted.names,
        columns=wanted.columns,
    )  # fmt: skip
    return Dataset(table.X, table.y, path.name, table.label, names=table.names)


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
    with np.errstate(over="ignore"):
        fits = np.isfinite(X.data.astype(np.float32))
    if not fits.all():
        k = int(fits.argmin())
        what = f"{_place(path, int(np.searchsorted(X.indptr, k, 'right')) - 1)}: {X.indices[k]}"
        raise NonFiniteError(what, "a finite number that fits into float32", f"{X.data[k]}")
    if not (fits := np.isfinite(y)).all():
        k = int(fits.argmin())
        raise NonFiniteError(f"{_place(path, k)}, label", "a finite number", f"{y[k]}")
    first = wanted.first
    if first is None:
        first = _first_feature(path, X, wanted.features)
    elif X.nnz and X.indices.min() < first:
        fix = "Count from 0 with --zero-based, here and in training."
        raise FileFormatError(str(path), "features numbered from 1", "a feature 0", fix)
    width = X.shape[1] - first
    if wanted.features is not None and width > wanted.features:
        expected = f"features up to number {wanted.features - 1 + first}"
        raise ShapeError(str(path), expected, f"{X.shape[1] - 1}")
    X.indices -= first
    shape = (X.shape[0], max(wanted.features or width, 1))
    X = type(X)((X.data, X.indices, X.indptr), shape=shape)
    X = as_csr(X, dtype=np.float32, name=str(path)).to_scipy()
    return Dataset(X, y, path.name, first=first)


def _first_feature(path: Path, X: Any, features: int | None) -> int:
    """Return 0 or 1: what the numbers of features in an svmlight file begin with."""
    with open_binary(path) as file:  # dump_svmlight_file says it if it is given a comment
        said = re.search(rb"^# Column indices are (zero|one)-based", file.read(4096), re.MULTILINE)
    if said or not X.nnz or X.indices.min() == 0:
        return int(said[1] == b"one" if said else not X.nnz)
    if features is None:
        warnings.warn(
            f"{path.name}: no feature 0 occurs, so that features are taken to be numbered from 1; "
            "say --zero-based (scikit-learn's dump_svmlight_file) or --one-based (libsvm)",
            stacklevel=4,
        )
    elif X.shape[1] <= features:
        expected = "a file with a feature 0, or --zero-based or --one-based"
        got = "a smallest feature of " + str(X.indices.min())
        fix = "scikit-learn's dump_svmlight_file counts from 0, libsvm from 1."
        raise InputError(str(path), expected, got, fix)
    return 1


def _place(path: Path, sample: int) -> str:
    """Return file and line of a sample in an svmlight file; comments may stand between samples."""
    with open_binary(path) as file:
        lines = (k for k, line in enumerate(file, 1) if line.split(b"#")[0].strip())
        return f"{path}, line {next(islice(lines, sample, None))}"


_READERS: dict[str, Callable[[Path, Wanted], Dataset]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    **dict.fromkeys((".csv", ".tsv", ".txt"), _read_csv),
    **dict.fromkeys((".svm", ".svmlight", ".libsvm"), _read_svmlight),
}
FORMATS = tuple(_READERS)
