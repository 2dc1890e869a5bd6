"""Matrix Market files, coordinate format: every size is checked before memory is taken.

scipy's mmread accepts NaN, absurd dimensions and repeated entries, and may crash on long numbers.
The format: https://math.nist.gov/MatrixMarket/formats.html
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gbdnn.challenge.text import Table, blocks
from gbdnn.errors import FileFormatError
from gbdnn.files.disk import atomic_write, open_binary
from gbdnn.types import FilePath

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["read_matrix_market", "write_matrix_market"]

FIELDS = {"real": "row column value", "integer": "row column value", "pattern": "row column"}
LONGEST_LINE = 1 << 16
SHORTEST_ENTRY = 4  # bytes: "1 1\n"
INFLATION = 1032  # deflate cannot make data smaller than this
LAST = 2**31 - 1


def read_matrix_market(path: FilePath) -> sp.coo_array:
    """Read a sparse matrix from a ``.mtx`` or ``.mtx.gz`` file.

    Parameters
    ----------
    path : path-like
        ``%%MatrixMarket matrix coordinate real|integer|pattern general``.

    Returns
    -------
    scipy.sparse.coo_array
        Shape as in the file, int32 indices from 0 in the file's order; float64 values (``pattern``:
        ones). Pass it through `gbdnn.as_csr` to use it as a weight.

    Raises
    ------
    DataUnavailableError
        The file cannot be read.
    FileFormatError
        Another header; more entries than the file or the matrix can hold; indices out of range;
        NaN or infinite values; repeated, missing or surplus entries; damaged gzip.
    """
    import scipy.sparse as sp

    path = Path(path)
    with open_binary(path) as file:
        field = _read_header(path, file)
        (rows, columns, count), line = _read_sizes(path, file)
        room = path.stat().st_size * (INFLATION if path.suffix == ".gz" else 1)
        if count > min(rows * columns, (room + 1) // SHORTEST_ENTRY):
            got = f"{count:,} entries for {rows} x {columns} in {path.stat().st_size:,} bytes"
            raise FileFormatError(f"{path}, line {line}", "as many entries as can be", got)
        parts: list[tuple[Any, Any, Any]] = []
        result = 0
        for raw, _ in blocks(file):
            table = Table.parse(path, raw, layout=FIELDS[field], first_line=line + 1)
            line += raw.count(b"\n")
            result += len(table)
            if result > count:
                raise FileFormatError(str(path), f"{count:,} entries", "more lines than that")
            row = table.integers(0, low=1, high=rows, what="row")
            column = table.integers(1, low=1, high=columns, what="column")
            value = np.ones(1) if field == "pattern" else table.reals(2)
            parts.append((row - 1, column - 1, np.broadcast_to(value, row.shape)))
    if result < count:
        got = f"{result:,}"
        raise FileFormatError(str(path), f"{count:,} entries", got, "The file is incomplete.")
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    row, column, value = (np.concatenate(part) for part in zip(empty, *parts, strict=True))
    _refuse_repeated(path, row * columns + column, columns)
    indices = (row.astype(np.int32), column.astype(np.int32))
    return sp.coo_array((value, indices), shape=(rows, columns))


def write_matrix_market(path: FilePath, matrix: Any, *, comment: str = "") -> None:
    """Write a matrix as ``coordinate real general`` with all digits of its values.

    Parameters
    ----------
    path : path-like
        ``.gz`` is compressed. The file appears whole or not at all.
    matrix : CSR, scipy sparse, or what else `gbdnn.as_csr` takes
    comment : str
        Lines behind the header.
    """
    from gbdnn.weights.csr import as_csr

    csr = as_csr(matrix, name="matrix")
    rows = np.repeat(np.arange(1, csr.shape[0] + 1), np.diff(csr.indptr)).tolist()
    columns = (csr.indices[: csr.nnz] + 1).tolist()
    digits = 9 if csr.dtype == np.float32 else 17
    with atomic_write(Path(path)) as file:
        head = "%%MatrixMarket matrix coordinate real general\n"
        head += "".join(f"% {line}\n" for line in comment.splitlines())
        file.write(f"{head}{csr.shape[0]} {csr.shape[1]} {csr.nnz}\n".encode())
        values = csr.full_values.tolist()
        entries = zip(rows, columns, values, strict=True)
        file.writelines(f"{r} {c} {v:.{digits}g}\n".encode("ascii") for r, c, v in entries)


def _read_header(path: Path, file: IO[bytes]) -> str:
    expected = "%%MatrixMarket matrix coordinate real|integer|pattern general"
    header = file.readline(LONGEST_LINE).decode("latin-1")
    words = header.lower().split()
    good = len(words) == 5 and words[:3] == ["%%matrixmarket", "matrix", "coordinate"]
    if not good or words[3] not in FIELDS or words[4] != "general":
        shown = header.strip()[:80]
        fix = "Convert symmetric, complex or dense matrices first." if "%%" in header else ""
        raise FileFormatError(f"{path}, line 1", expected, repr(shown), fix)
    return words[3]


def _read_sizes(path: Path, file: IO[bytes]) -> tuple[tuple[int, int, int], int]:
    """Return (rows, columns, entries) and the number of the line where they stand."""
    line = 1
    while text := file.readline(LONGEST_LINE):
        line += 1
        if text.startswith(b"%") or not text.strip():
            continue
        words = text.split()
        if len(words) != 3 or not all(w.isdigit() and len(w) <= 18 for w in words):
            break
        rows, columns, count = (int(word) for word in words)
        if max(rows, columns) > LAST:
            break
        return (rows, columns, count), line
    got = repr(text[:80].decode("latin-1").strip()) if text else "the end of the file"
    expected = f"rows, columns (at most {LAST}) and entries"
    raise FileFormatError(f"{path}, line {line}", expected, got)


def _refuse_repeated(path: Path, key: npt.NDArray[np.int64], columns: int) -> None:
    order = np.argsort(key, kind="stable")
    twice = np.flatnonzero(np.diff(key[order]) == 0)
    if len(twice):
        entry = int(order[twice[0] + 1])
        row, column = divmod(int(key[entry]), columns)
        got = f"row {row + 1}, column {column + 1} a second time in entry {entry + 1}"
        raise FileFormatError(str(path), "each place at most once", got)
