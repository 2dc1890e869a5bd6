"""The official files of the Sparse DNN Graph Challenge, read with care and written byte for byte.

All are text, numbers count from 1, and a name that ends in .gz is compressed:

- ``neuron1024/n1024-l1.tsv``: ``row<TAB>col<TAB>6.250000e-02``, sorted by column, then row. The row
  is a neuron of the layer before (an input), the column one of this layer (an output).
- ``neuron1024-l120-categories.tsv``: the number of an input that survives, one a line.
- ``sparse-images-1024.tsv``: ``row<TAB>col<TAB>1``; the row is an input, the column a feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.challenge.images import InputBits
from gbdnn.challenge.matrix_market import read_matrix_market, write_matrix_market
from gbdnn.challenge.text import Table, blocks, check_text
from gbdnn.errors import FileFormatError, InputError, ShapeError
from gbdnn.files.disk import atomic_write, open_binary
from gbdnn.types import Array, FilePath
from gbdnn.weights.csr import CSR

__all__ = [
    "categories_bytes",
    "categories_path",
    "images_path",
    "layer_path",
    "read_categories",
    "read_images",
    "read_layer",
    "read_matrix_market",
    "write_categories",
    "write_images",
    "write_layer",
    "write_matrix_market",
]

LAST = 2**31 - 1


def layer_path(folder: FilePath, neurons: int, k: int) -> Path:
    """Return the file of layer k, counted from 1 as in its name.

    The first that exists of ``folder/neuron{N}/n{N}-l{k}.tsv``, the same directly in `folder`, and
    both with ``.gz``; if none does, the first name, which is the one to write.
    """
    name = f"n{neurons}-l{k}.tsv"
    return _first(Path(folder) / f"neuron{neurons}" / name, Path(folder) / name)


def categories_path(folder: FilePath, neurons: int, layers: int) -> Path:
    """Return the file of categories, ``folder/neuron{N}-l{L}-categories.tsv``.

    Looked for as in `layer_path`.
    """
    name = f"neuron{neurons}-l{layers}-categories.tsv"
    return _first(Path(folder) / name, Path(folder) / f"neuron{neurons}" / name)


def images_path(folder: FilePath, neurons: int) -> Path:
    """Return the file of inputs, ``folder/sparse-images-{N}.tsv`` (also in ``folder/MNIST``)."""
    name = f"sparse-images-{neurons}.tsv"
    return _first(Path(folder) / name, Path(folder) / "MNIST" / name)


def read_layer(path: FilePath, neurons: int) -> CSR:
    """Read a layer.

    Parameters
    ----------
    path : path-like
    neurons : int
        The matrix is neurons x neurons.

    Returns
    -------
    CSR
        (out_features, in_features): the file's columns are the rows. float32, iso-valued if all
        values are the same. Lines may stand in any order.

    Raises
    ------
    DataUnavailableError
        The file cannot be read.
    FileFormatError
        Anything but whole lines of two numbers from 1 to `neurons` and a finite value; a place that
        occurs twice; no line at all. Names the line.
    """
    path, neurons = Path(path), _positive("neurons", neurons)
    keys: list[Array] = []
    values: list[Array] = []
    for table in _tables(path, "row column value"):
        rows = table.integers(0, low=1, high=neurons, what="row")
        columns = table.integers(1, low=1, high=neurons, what="column")
        keys.append((columns - 1) * neurons + (rows - 1))
        values.append(table.reals(2))
        if sum(map(len, keys)) > neurons**2:
            raise FileFormatError(str(path), f"at most {neurons}**2 entries", "more")
    if not keys:
        raise FileFormatError(str(path), "lines of row<TAB>column<TAB>value", "an empty file")
    key = np.concatenate(keys)
    same = all(len(v) == 1 and v[0] == values[0][0] for v in values)
    value = values[0] if same else _expand(values, keys)
    value = _as_float32(path, value)
    if not (key[1:] > key[:-1]).all():
        order = np.argsort(key, kind="stable")
        key = key[order]
        value = value if len(value) == 1 else value[order]
        twice = np.flatnonzero(key[1:] == key[:-1])
        if len(twice):
            column, row = divmod(int(key[twice[0]]), neurons)
            line = int(order[twice[0] + 1]) + 1
            got = f"row {row + 1}, column {column + 1} a second time in entry {line}"
            raise FileFormatError(str(path), "each place at most once", got)
    index = np.int32 if len(key) < 2**31 else np.int64
    outputs, inputs = np.divmod(key, neurons)
    indptr = np.zeros(neurons + 1, index)
    np.cumsum(np.bincount(outputs, minlength=neurons), out=indptr[1:])
    return CSR.unchecked(indptr, inputs.astype(index), value, (neurons, neurons))


def write_layer(path: FilePath, csr: CSR) -> None:
    """Write a layer; one made by `generate.layers` becomes the official file, byte for byte.

    Values are written with 7 digits as in the official files, or with 9 (float32) or 17 (float64)
    where 7 would change them. The file appears whole or not at all.
    """
    if csr.nnz == 0:
        raise InputError("csr", "at least one entry", "none", "An empty file cannot be read back.")
    rows = [f"{row}\t" for row in range(1, csr.shape[1] + 1)]
    indices, bounds = csr.indices[: csr.nnz].tolist(), csr.indptr.tolist()
    texts = [_format(value) for value in csr.values]
    with atomic_write(Path(path)) as file:
        for column in range(csr.shape[0]):
            first, last = bounds[column], bounds[column + 1]
            if first == last:
                continue
            names = [rows[i] for i in indices[first:last]]
            middle = f"{column + 1}\t"
            if len(texts) == 1:  # what stands between two row numbers is always the same
                end = f"{middle}{texts[0]}\n"
                text = end.join(names) + end
            else:
                pairs = zip(names, texts[first:last], strict=True)
                text = "".join(f"{name}{middle}{value}\n" for name, value in pairs)
            file.write(text.encode("ascii"))


def read_categories(path: FilePath) -> npt.NDArray[np.int64]:
    """Read categories, 1-based as in the file: int64, shape (count,). The file may be empty.

    Raises
    ------
    DataUnavailableError, FileFormatError
        As `read_layer`; also if a number is not greater than the one before.
    """
    path = Path(path)
    result = [np.empty(0, np.int64)]
    for table in _tables(path, "category"):
        numbers = table.integers(0, low=1, high=LAST, what="category")
        falls = np.diff(numbers, prepend=result[-1][-1:]) <= 0
        if falls.any():
            row = int(falls.argmax()) + len(numbers) - len(falls)
            raise table.refuse(row, "ascending categories", f"{numbers[row]}")
        result.append(numbers)
    return np.concatenate(result)


def write_categories(path: FilePath, categories: npt.ArrayLike) -> None:
    """Write categories, 1-based; the file appears whole or not at all."""
    content = categories_bytes(categories)
    with atomic_write(Path(path)) as file:
        file.write(content)


def categories_bytes(categories: npt.ArrayLike) -> bytes:
    """Return the content of a file of categories, for comparison with the official one."""
    numbers = np.asarray(categories)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        got = f"{numbers.dtype} of shape {numbers.shape}"
        raise InputError("categories", "a vector of whole numbers", got)
    if numbers.size and (numbers[0] < 1 or (numbers[1:] <= numbers[:-1]).any()):
        raise InputError(
            "categories", "ascending numbers from 1", "others", "Add 1 to indices from 0."
        )
    return "".join(f"{number}\n" for number in numbers.tolist()).encode("ascii")


def read_images(path: FilePath, neurons: int, inputs: int = 60_000) -> InputBits:
    """Read inputs.

    Parameters
    ----------
    path : path-like
    neurons : int
        Features: the largest number of a column.
    inputs : int
        The largest number of a row. The file does not say it, since inputs may be empty.

    Returns
    -------
    InputBits
        The file is read in blocks: memory is that of the bits and some 100 MB.

    Raises
    ------
    DataUnavailableError, FileFormatError
        As `read_layer`; also if a value is not 1.
    """
    path = Path(path)
    neurons, inputs = _positive("neurons", neurons), _positive("inputs", inputs)
    width = -(-inputs // 8)
    bits = np.zeros(neurons * width, np.uint8)
    entries = 0
    for table in _tables(path, "row column value"):
        rows = table.integers(0, low=1, high=inputs, what="row") - 1
        columns = table.integers(1, low=1, high=neurons, what="column") - 1
        values = table.reals(2)
        if (values != 1).any():
            row = int((values != 1).argmax())
            raise table.refuse(row, "the value 1", table.word(row, 2))
        np.add.at(bits, columns * width + rows // 8, (128 >> rows % 8).astype(np.uint8))
        entries += len(rows)
    if not entries:
        raise FileFormatError(str(path), "lines of row<TAB>column<TAB>1", "an empty file")
    result = InputBits(bits.reshape(neurons, width), inputs)
    # adding a bit twice carries, and any carry leaves fewer ones than were added
    if result.nnz != entries:
        got = f"only {result.nnz:,} different ones in {entries:,} lines"
        raise FileFormatError(str(path), "each place at most once", got)
    return result


def write_images(path: FilePath, images: InputBits) -> None:
    """Write inputs, sorted by column, then row; the file appears whole or not at all."""
    if images.nnz == 0:
        raise InputError("images", "at least one 1", "none", "An empty file cannot be read back.")
    rows = [f"{row}\t" for row in range(1, images.count + 1)]
    with atomic_write(Path(path)) as file:
        for column, packed in enumerate(images.bits, start=1):
            ones = np.flatnonzero(np.unpackbits(packed)).tolist()
            if ones:
                end = f"{column}\t1\n"
                file.write((end.join([rows[i] for i in ones]) + end).encode("ascii"))


def _tables(path: Path, layout: str) -> Iterator[Table]:
    """Yield the file's lines, some 16 MB at a time."""
    line = 1
    with open_binary(path) as file:
        for raw, whole in blocks(file):
            if not whole:
                check_text(path, np.frombuffer(raw, np.uint8), line)
                got = f"a rest without line end in line {line}"
                fix = "The file is incomplete; get or write it again."
                raise FileFormatError(str(path), "whole lines", got, fix)
            table = Table.parse(path, raw, layout=layout, first_line=line)
            line += raw.count(b"\n")
            if len(table):
                yield table


def _first(*names: Path) -> Path:
    both = [name.with_name(name.name + end) for name in names for end in ("", ".gz")]
    return next((name for name in both if name.is_file()), names[0])


def _expand(values: list[Array], keys: list[Array]) -> Array:
    return np.concatenate([np.broadcast_to(v, k.shape) for v, k in zip(values, keys, strict=True)])


def _as_float32(path: Path, values: Array) -> Array:
    with np.errstate(over="ignore"):
        small = values.astype(np.float32)
    if not np.isfinite(small).all():
        got = f"{np.abs(values).max():g}"
        raise FileFormatError(str(path), "values that fit into float32", got)
    return small


def _format(value: Any) -> str:
    """Return the shortest of the formats that gives the value back."""
    text = f"{value:e}"
    if type(value)(text) == value:
        return text
    return f"{value:.8e}" if value.dtype == np.float32 else f"{value:.16e}"


def _positive(argument: str, number: Any) -> int:
    whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not whole or not 1 <= number <= LAST:
        raise ShapeError(argument, "a whole number of at least 1", repr(number))
    return int(number)
