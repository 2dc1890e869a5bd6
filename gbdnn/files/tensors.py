"""Arrays and a record of them in one safetensors file, written whole or not at all.

What gbdnn says about the arrays is one string of JSON, the entry "gbdnn" of the header's metadata.
Its key "container" belongs to this module::

    {"version": "2.0",          major.minor of the container
     "sha256": [hex, ...],      of the bytes of each tensor, in the order of the names
     "header_sha256": hex}      of metadata, names, dtypes and shapes, in canonical JSON

Version 1.1 added half precision to 1.0; before 2.0 the digests stood beside the names. They tell
damage, not forgery: what the numbers say is looked at as if there were none. No name in a file is
used as a path, a class or code.

The library's parser reads every header and checks that the tensors fill the file without a gap.
The bytes are read here: a file that shrinks meanwhile, or memory that ends, would stop the process
inside the library. They are written here too: `safetensors.serialize` needs the memory of all
tensors again, and `serialize_file` renames a file of its own, with mode 0600, over its target.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
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
from gbdnn.files.disk import atomic_write, open_regular
from gbdnn.machine import available_bytes
from gbdnn.types import Array, FilePath

__all__ = [
    "DAMAGED", "FOREIGN", "check_version", "nbytes_of", "plain", "read_foreign", "read_tensors",
    "write_tensors",
]  # fmt: skip

HEADER_LIMIT = 1 << 24  # bytes of JSON; a network of 2,000 layers needs 2 MB
DEPTH_LIMIT = 64  # brackets inside brackets
ALIGN = 64  # of the first tensor in the file, for readers that map it
BLOCK = 1 << 24
VERSION = (2, 0)
ENTRY, OWN = "gbdnn", "container"
DTYPES = {
    "BOOL": "|b1", "I8": "|i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "|u1",
    "U16": "<u2", "U32": "<u4", "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
FOREIGN_DTYPES = {**DTYPES, "BF16": "<u2"}
CODES = {np.dtype(text): code for code, text in DTYPES.items()}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
DAMAGED = "The file is damaged or incomplete: get it again."
FOREIGN = "gbdnn loads what Network.save or a training run wrote."


# -- writing ---------------------------------------------------------------------------------------


def write_tensors(
    path: FilePath, tensors: Mapping[str, Array], metadata: Mapping[str, Any]
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
    checked = {name: _checked(name, array) for name, array in tensors.items()}
    # the widest first: then all are aligned
    arrays = dict(sorted(checked.items(), key=lambda item: (-item[1].itemsize, item[0])))
    digests = {name: hashlib.sha256(_bytes(array)).hexdigest() for name, array in arrays.items()}
    header = _header(arrays, digests, plain(metadata, "metadata"))

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
    """Return how many bytes the file of `write_tensors` has; O(tensors), no array is read."""
    checked = {name: _checked(name, array) for name, array in tensors.items()}
    arrays = dict(sorted(checked.items(), key=lambda item: (-item[1].itemsize, item[0])))
    header = _header(arrays, dict.fromkeys(arrays, "0" * 64), plain(metadata, "metadata"))
    return len(header) + sum(array.nbytes for array in arrays.values())


def _checked(name: Any, array: Any) -> Array:
    """Return a C-contiguous, little-endian array; the same memory where it already is."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        expected = "names of letters, digits, '_', '.' and '-', up to 200 characters"
        raise InputError("tensors", expected, _short(name))
    if not isinstance(array, np.ndarray | np.generic):
        raise DtypeError(f"tensors[{name!r}]", "an ndarray", type(array).__name__)
    dtype = array.dtype.newbyteorder("<")
    if dtype not in CODES:
        raise DtypeError(f"tensors[{name!r}]", "one of " + ", ".join(map(str, CODES)), str(dtype))
    return np.asarray(array, dtype=dtype, order="C")


def plain(value: Any, name: str, depth: int = 4) -> Any:
    """Return a value as what JSON gives back, else raise; `depth` is where it will stand."""
    if isinstance(value, np.generic):
        value = value.item()
    if depth > DEPTH_LIMIT:
        raise InputError(name, f"at most {DEPTH_LIMIT} levels", "more, or a loop")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise DtypeError(name, "text as keys", f"the keys {_short(list(value))}")
        return {str(key): plain(part, f"{name}.{key}", depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, f"{name}[{k}]", depth + 1) for k, part in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(name, "a finite number", repr(value), "JSON has none but finite ones.")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    expected = "None, bool, a number, text, a list or a dict"
    raise DtypeError(name, expected, type(value).__name__, "Pass arrays as tensors.")


def _header(
    arrays: Mapping[str, Array], digests: Mapping[str, str], metadata: dict[str, Any]
) -> bytes:
    """Return what stands before the tensors: a length of 8 bytes, and JSON filled up to ALIGN."""
    if OWN in metadata:
        raise InputError("metadata", f"keys other than {OWN!r}", repr(OWN))
    entries: dict[str, Any] = {}
    stop = 0
    for name, array in arrays.items():
        start, stop = stop, stop + array.nbytes
        code, shape = CODES[array.dtype], list(array.shape)
        entries[name] = {"dtype": code, "shape": shape, "data_offsets": [start, stop]}
    own: dict[str, Any] = {
        "version": f"{VERSION[0]}.{VERSION[1]}",
        "sha256": [digests[name] for name in sorted(digests)],
    }
    said = {name: [entry["dtype"], entry["shape"]] for name, entry in entries.items()}
    try:
        own["header_sha256"] = _header_digest(said, metadata | {OWN: own})
        text = _canonical(metadata | {OWN: own}).decode()
    except (UnicodeEncodeError, ValueError) as error:  # half of a surrogate pair; a huge integer
        raise InputError("metadata", "what fits into JSON", str(error)[:200]) from None
    raw = json.dumps({"__metadata__": {ENTRY: text}} | entries, separators=(",", ":")).encode()
    raw += b" " * (-(len(raw) + 8) % ALIGN)
    if len(raw) > HEADER_LIMIT:
        got = f"{len(raw):,} bytes in JSON"
        raise InputError("metadata", f"at most {HEADER_LIMIT:,} bytes with the tensors' names", got)
    return len(raw).to_bytes(8, "little") + raw


def _canonical(value: Any) -> bytes:
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def _header_digest(said: Mapping[str, Any], metadata: dict[str, Any]) -> str:
    """Digest [dtype, shape] of each tensor and the metadata, without the digest itself."""
    return hashlib.sha256(_canonical({"metadata": metadata, "tensors": said})).hexdigest()


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
        said, notes = _parsed(path, file, limit)
        metadata, digests = _checked_metadata(path, said, notes)
        tensors = {}
        for name, array, digest in _tensors(path, file, said):
            if digest != digests[name]:
                expected = "bytes with the right sha256"
                raise FileFormatError(f"{path}, tensor {name!r}", expected, "others", DAMAGED)
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
        said, notes = _parsed(path, file, limit)
        return {name: array for name, array, _ in _tensors(path, file, said, FOREIGN_DTYPES)}, notes


def check_version(path: FilePath, version: Any, known: tuple[int, int], what: str) -> None:
    """Raise `FileFormatError` unless `version` is "major.minor" with a major of at most `known`'s.

    A newer minor version only adds what may be ignored, or what is refused by its own name.
    """
    expected = f"{what} of version {known[0]}.x or older"
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", version):
        raise FileFormatError(str(path), f'{expected}, as "major.minor"', _short(version), FOREIGN)
    if int(version.partition(".")[0]) > known[0]:
        fix = "It is from a newer gbdnn: install that version."
        raise FileFormatError(str(path), expected, f"version {version}", fix)


Said = dict[str, tuple[str, list[int]]]  # dtype and shape by name, in the order of the bytes


def _parsed(path: FilePath, file: IO[bytes], limit: int | None) -> tuple[Said, dict[str, str]]:
    """Return what a header says of the tensors, which fit into memory, and its metadata."""
    size = os.fstat(file.fileno()).st_size
    begin = file.read(9)
    length = int.from_bytes(begin[:8], "little")
    if begin[8:] != b"{" or length > size - 8:
        expected = "a safetensors file: the length of a header, and JSON of that length"
        got = f"{size:,} bytes that begin with {begin.hex() or 'nothing'}"
        raise FileFormatError(str(path), expected, got, FOREIGN)
    file.seek(8 + length)
    allowed = available_bytes() if limit is None else limit
    if size - 8 - length > allowed:
        expected = f"tensors that fit into {allowed:,} bytes, which are free or allowed"
        raise MemoryBudgetError(str(path), expected, f"{size - 8 - length:,} bytes")
    try:  # by the number of the open file: its name may mean another one by now
        with safe_open(f"/dev/fd/{file.fileno()}", "np") as header:
            slices = [(name, header.get_slice(name)) for name in header.offset_keys()]
            said = {name: (part.get_dtype(), part.get_shape()) for name, part in slices}
            return said, header.metadata() or {}
    except SafetensorError as error:
        got = f"one that is not ({_short(str(error))})"
        raise FileFormatError(str(path), "a sound safetensors header", got, DAMAGED) from None


def _checked_metadata(
    path: FilePath, said: Said, notes: dict[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the metadata and the digest of each tensor, from a header whose own digest is right.

    Raises
    ------
    FileFormatError
        Also for a name twice, numbers that are not finite and more than DEPTH_LIMIT levels.
    """
    if ENTRY not in notes:
        expected = f"the entry {ENTRY!r} in the metadata of a safetensors file"
        raise FileFormatError(str(path), expected, "a file without it, from another tool", FOREIGN)
    try:
        metadata = plain(json.loads(notes[ENTRY], object_pairs_hook=_once), "metadata")
    except (ValueError, TypeError, RecursionError) as error:
        got = f"what is not ({_short(str(error))})"
        raise FileFormatError(str(path), "metadata in sound JSON", got, DAMAGED) from None
    own = metadata.get(OWN) if isinstance(metadata, dict) else None
    if not isinstance(own, dict):
        raise FileFormatError(str(path), f"the key {OWN!r} in the metadata", "none", FOREIGN)
    check_version(path, own.get("version"), VERSION, "a container")
    digests, given = own.get("sha256"), own.pop("header_sha256", None)
    if isinstance(digests, list) and len(digests) == len(said):
        digests = dict(zip(sorted(said), digests, strict=True))
    if not isinstance(digests, dict) or digests.keys() != said.keys():
        raise FileFormatError(str(path), "one sha256 for each tensor", "others", DAMAGED)
    try:
        right = given == _header_digest(said, metadata)
    except ValueError:  # half of a surrogate pair
        right = False
    if not right:
        raise FileFormatError(str(path), "a header with the right sha256", "another", DAMAGED)
    del metadata[OWN]
    return metadata, digests


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def _tensors(
    path: FilePath, file: IO[bytes], said: Said, dtypes: Mapping[str, str] = DTYPES
) -> Iterator[tuple[str, Array, str]]:
    """Yield the name, the array and the sha256 of each tensor."""
    for name, (code, shape) in said.items():

        def refused(expected: str, got: Any, name: str = name) -> FileFormatError:
            return FileFormatError(f"{path}, tensor {_short(name)}", expected, _short(got), DAMAGED)

        if not NAME.fullmatch(name):
            raise refused("a name of letters, digits, '_', '.' and '-'", name)
        if code not in dtypes:
            raise refused(f"a dtype of {', '.join(dtypes)}", code)
        try:
            array = np.empty(shape, dtypes[code])
        except ValueError:  # too many dimensions; sizes that overflow beside a zero
            raise refused("a shape that memory could hold", shape) from None
        try:
            digest = _read(file, array.nbytes, _bytes(array))
        except EOFError:
            raise refused(f"{array.nbytes:,} bytes", "an end before") from None
        if code == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
            raise refused("bools of 0 and 1", "other bytes")
        if code == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        yield name, array.astype(array.dtype.newbyteorder("="), copy=False), digest


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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
