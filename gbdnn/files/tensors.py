"""Arrays and a record of them in one safetensors file, written whole or not at all.

What is said of the arrays stands in `gbdnn.files.header`.

safetensors' parser reads every header and checks that the tensors fill the file without a gap.
The bytes are read here: a file that shrinks meanwhile, or memory that ends, would stop the process
inside the library. They are written here too: `safetensors.serialize` needs the memory of all
tensors again, and `serialize_file` renames a file of its own, with mode 0600, over its target.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from gbdnn.errors import (
    DataUnavailableError,
    DtypeError,
    FileFormatError,
    InputError,
    MemoryBudgetError,
)
from gbdnn.files.deflate import deflate, inflate
from gbdnn.files.disk import atomic_write, open_regular
from gbdnn.files.header import (
    CODES,
    DAMAGED,
    DTYPES,
    FOREIGN,
    NAME,
    Said,
    nbytes_said,
    plain,
    read_header,
    short,
    write_header,
)
from gbdnn.machine import available_bytes
from gbdnn.types import Array, FilePath

__all__ = ["nbytes_of", "read_foreign", "read_tensors", "write_tensors"]

BLOCK = 1 << 24
WORTH = 15 / 16  # of its bytes that a deflated tensor may take
FOREIGN_DTYPES = {**DTYPES, "BF16": "<u2"}


# -- writing ---------------------------------------------------------------------------------------


def write_tensors(
    path: FilePath,
    tensors: Mapping[str, Array],
    metadata: Mapping[str, Any],
    *,
    compress: bool = False,
) -> None:
    """Write arrays and metadata to one file; on any error the file that was there stays.

    Parameters
    ----------
    path : path-like
        Its folder must exist. A symbolic link is followed.
    tensors : dict of str to ndarray
        bool, int8 to int64, uint8 to uint64, float16 to float64; any shape and memory order. Names
        are letters, digits, "_", "." and "-". The arrays must not change meanwhile.
    metadata : dict
        What JSON can say: None, bool, finite numbers, text, lists, dicts with text as keys; tuples
        and numpy scalars are converted. The key "container" is taken.
    compress : bool
        Whether tensors are deflated where that saves a sixteenth of their bytes or more, and with
        them the metadata: codes and bitmaps of sparse weights become a fifth to a third smaller,
        floats stay as they are.

    Raises
    ------
    InputError, DtypeError
        Names, dtypes or metadata that cannot be written.
    DataUnavailableError
        The file cannot be written: no space, no permission, no folder.

    Notes
    -----
    The file is written beside `path`, flushed to the disk, read back and compared with the digests,
    and then takes the name `path` in one step.
    """
    arrays, deflated = _arranged(tensors, compress)
    digests = {name: hashlib.sha256(_bytes(array)).hexdigest() for name, array in arrays.items()}
    header = write_header(arrays, deflated, digests, plain(metadata, "metadata"))

    def verify(temporary: Path) -> None:
        scratch = memoryview(bytearray(BLOCK))
        with temporary.open("rb") as file:
            same = file.read(len(header)) == header
            for name, array in arrays.items():
                same = same and _read(file, array.nbytes, scratch) == digests[name]
        if not same:
            expected, got = "the bytes that were written", "other ones when read back"
            fix = "Did an array change while it was saved? The file that was there is as it was."
            raise DataUnavailableError(str(path), expected, got, fix)

    with atomic_write(path, verify=verify) as file:
        file.write(header)
        for array in arrays.values():
            file.write(_bytes(array))


def nbytes_of(tensors: Mapping[str, Array], metadata: Mapping[str, Any]) -> int:
    """Return how many bytes the file of `write_tensors` has, not compressed; no array is read."""
    arrays, _ = _arranged(tensors, False)
    header = write_header(arrays, {}, dict.fromkeys(arrays, "0" * 64), plain(metadata, "metadata"))
    return len(header) + sum(array.nbytes for array in arrays.values())


def _arranged(tensors: Mapping[str, Array], compress: bool) -> tuple[dict[str, Array], Said]:
    """Return what is stored, in the order of the file, and what the deflated tensors are."""
    arrays = {name: _checked(name, array) for name, array in tensors.items()}
    deflated: Said = {}
    for name, array in arrays.items() if compress else ():
        data = deflate(_bytes(array))
        if len(data) <= WORTH * array.nbytes:
            deflated[name] = CODES[array.dtype], list(array.shape)
            arrays[name] = np.frombuffer(data, np.uint8)
    # the widest first: then all are aligned
    arranged = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))
    return arranged, deflated


def _checked(name: Any, array: Any) -> Array:
    """Return a C-contiguous, little-endian array; the same memory where it already is."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        expected = "names of letters, digits, '_', '.' and '-', up to 200 characters"
        raise InputError("tensors", expected, short(name))
    if not isinstance(array, np.ndarray | np.generic):
        raise DtypeError(f"tensors[{name!r}]", "an ndarray", type(array).__name__)
    dtype = array.dtype.newbyteorder("<")
    if dtype not in CODES:
        raise DtypeError(f"tensors[{name!r}]", "one of " + ", ".join(map(str, CODES)), str(dtype))
    return np.asarray(array, dtype=dtype, order="C")


# -- reading ---------------------------------------------------------------------------------------


def read_tensors(
    path: FilePath, *, limit: int | None = None
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read what `write_tensors` wrote: (tensors, metadata), equal to what was given there.

    Parameters
    ----------
    path : path-like
        Of any name; the content counts.
    limit : int, optional
        Bytes that all tensors together may take; default the memory that is free.

    Returns
    -------
    tensors : dict of str to ndarray
        C-contiguous, with memory of their own, writable.
    metadata : dict

    Raises
    ------
    DataUnavailableError
        The file cannot be read.
    FileFormatError
        Its content is damaged, incomplete, or not from gbdnn.
    MemoryBudgetError
        The tensors are larger than `limit`.
    """
    with open_regular(path) as file:
        allowed = available_bytes() if limit is None else limit
        said, notes = _parsed(path, file, allowed)
        metadata, digests, deflated = read_header(path, said, notes)
        _require_room(path, sum(map(nbytes_said, (said | deflated).values())), allowed)
        tensors = {}
        for name, array, digest in _tensors(path, file, said):
            if digest != digests[name]:
                raise _refused(path, name, "bytes with the right sha256", "others")
            if name in deflated:
                array = _native(path, name, _inflated(path, name, array, *deflated[name]))
            tensors[name] = array
    return tensors, metadata


def read_foreign(
    path: FilePath, *, limit: int | None = None
) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a safetensors file of any tool: (tensors, the texts of its metadata).

    As `read_tensors`, but without digests nobody notices changed bytes. bfloat16 becomes float32;
    other dtypes than those of `write_tensors` are refused.
    """
    with open_regular(path) as file:
        said, notes = _parsed(path, file, available_bytes() if limit is None else limit)
        return {name: array for name, array, _ in _tensors(path, file, said, FOREIGN_DTYPES)}, notes


def _parsed(path: FilePath, file: IO[bytes], allowed: int) -> tuple[Said, dict[str, str]]:
    """Return what a header says of the tensors, which fit into memory, and its metadata."""
    size = os.fstat(file.fileno()).st_size
    begin = file.read(9)
    length = int.from_bytes(begin[:8], "little")
    if begin[8:] != b"{" or length > size - 8:
        expected = "a safetensors file: the length of a header, and JSON of that length"
        got = f"{size:,} bytes that begin with {begin.hex() or 'nothing'}"
        raise FileFormatError(str(path), expected, got, FOREIGN)
    file.seek(8 + length)
    _require_room(path, size - 8 - length, allowed)
    try:  # by the number of the open file: its name may mean another one by now
        with safe_open(f"/dev/fd/{file.fileno()}", "np") as header:
            slices = [(name, header.get_slice(name)) for name in header.offset_keys()]
            said = {name: (part.get_dtype(), part.get_shape()) for name, part in slices}
            return said, header.metadata() or {}
    except SafetensorError as error:
        got = f"one that is not ({short(str(error))})"
        raise FileFormatError(str(path), "a sound safetensors header", got, DAMAGED) from None


def _tensors(
    path: FilePath, file: IO[bytes], said: Said, dtypes: Mapping[str, str] = DTYPES
) -> Iterator[tuple[str, Array, str]]:
    """Yield the name, the array and the sha256 of each tensor."""
    for name, (code, shape) in said.items():
        if not NAME.fullmatch(name):
            raise _refused(path, name, "a name of letters, digits, '_', '.' and '-'", short(name))
        if code not in dtypes:
            raise _refused(path, name, f"a dtype of {', '.join(dtypes)}", short(code))
        try:
            array = np.empty(shape, dtypes[code])
        except ValueError:  # too many dimensions; sizes that overflow beside a zero
            raise _refused(path, name, "a shape that memory could hold", short(shape)) from None
        try:
            digest = _read(file, array.nbytes, _bytes(array))
        except EOFError:
            raise _refused(path, name, f"{array.nbytes:,} bytes", "an end before") from None
        if code == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        yield name, _native(path, name, array), digest


def _inflated(path: FilePath, name: str, data: Array, code: str, shape: list[int]) -> Array:
    """Return the array that raw deflate made these bytes of."""
    nbytes = nbytes_said((code, shape))
    try:
        raw = bytearray(inflate(_bytes(data), nbytes))
        return np.frombuffer(raw, DTYPES[code]).reshape(shape)
    except ValueError as error:  # also of shapes with too many dimensions, or of another size
        expected = f"{nbytes:,} deflated bytes of the shape {short(shape)}"
        raise _refused(path, name, expected, short(str(error))) from None


def _native(path: FilePath, name: str, array: Array) -> Array:
    """Return an array in the processor's byte order, whose bools are bools."""
    if array.dtype == bool and array.view(np.uint8).max(initial=0) > 1:
        raise _refused(path, name, "bools of 0 and 1", "other bytes")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _refused(path: FilePath, name: str, expected: str, got: str) -> FileFormatError:
    return FileFormatError(f"{path}, tensor {short(name)}", expected, got, DAMAGED)


def _require_room(path: FilePath, nbytes: int, allowed: int) -> None:
    if nbytes > allowed:
        expected = f"tensors that fit into {allowed:,} bytes, which are free or allowed"
        raise MemoryBudgetError(str(path), expected, f"{nbytes:,} bytes")


def _read(file: IO[bytes], nbytes: int, memory: memoryview) -> str:
    """Read bytes into `memory`, again and again from its start if it is short; return their sha256.

    Raises EOFError where the file ends before.
    """
    result = hashlib.sha256()
    for start in range(0, nbytes, BLOCK):
        place = start % len(memory)
        piece = memory[place : place + min(BLOCK, nbytes - start)]
        if file.readinto(piece) < len(piece):  # type: ignore[attr-defined]
            raise EOFError
        result.update(piece)
    return result.hexdigest()


def _bytes(array: Array) -> memoryview:
    """Return the memory of a C-contiguous array."""
    return array.reshape(-1).view(np.uint8).data
