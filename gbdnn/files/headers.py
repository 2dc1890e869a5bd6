"""The header of a safetensors file: made, and read from bytes that nobody vouches for.

A file begins with eight bytes, the length of the header (little-endian), then comes the header in
JSON, which gives the dtype, shape and place of each tensor, then the tensors' bytes without gaps.
Everything that gbdnn says about them is one string of JSON, the entry "gbdnn" of the header's
`__metadata__`. Its key "container" belongs to this module::

    {"version": "1.0",              major.minor of the container
     "sha256": {name: hex, ...},    of the bytes of each tensor
     "header_sha256": hex}          of metadata, names, dtypes and shapes, in canonical JSON

All of it is checked before memory is taken for a tensor. The digests tell damage, not forgery: what
the numbers say is looked at as if there were none. No name in a file is used as a path, a class or
code.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.errors import DtypeError, FileFormatError, InputError

__all__ = [
    "DAMAGED", "DTYPES", "FOREIGN", "HEADER_LIMIT", "Header", "Tensor", "check_array",
    "check_version", "make_header", "parse_header", "plain", "read_length", "sha256",
]  # fmt: skip

Array = npt.NDArray[Any]
HEADER_LIMIT = 1 << 24  # bytes of JSON; a network of 2,000 layers needs 2 MB
DEPTH_LIMIT = 64  # brackets inside brackets
ALIGN = 64  # of the first tensor in the file, for readers that map it
VERSION = (1, 0)
ENTRY, OWN = "gbdnn", "container"
DTYPES = {
    "BOOL": "|b1", "I8": "|i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "|u1",
    "U16": "<u2", "U32": "<u4", "U64": "<u8", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
CODES = {np.dtype(text): code for code, text in DTYPES.items()}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # to the end where it is not closed
DAMAGED = "The file is damaged or incomplete: get it again."
FOREIGN = "gbdnn loads what Network.save or a training run wrote."


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: bytes start to stop after the header."""

    name: str
    code: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """What a file says of itself; tensors in the order of their bytes."""

    tensors: tuple[Tensor, ...]
    metadata: dict[str, Any]
    digests: dict[str, str]


def check_version(
    path: str | os.PathLike[str], version: Any, known: tuple[int, int], what: str
) -> None:
    """Raise `FileFormatError` unless `version` is "major.minor" with a major of at most `known`'s.

    A newer minor version only adds what may be ignored.
    """
    expected = f"{what} of version {known[0]}.x or older"
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", version):
        raise FileFormatError(str(path), f'{expected}, as "major.minor"', _short(version), FOREIGN)
    if int(version.partition(".")[0]) > known[0]:
        fix = "It is from a newer gbdnn: install that version."
        raise FileFormatError(str(path), expected, f"version {version}", fix)


def check_array(name: Any, array: Any) -> Array:
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
    raise DtypeError(
        name, "None, bool, a number, text, a list or a dict", type(value).__name__,
        "Pass arrays as tensors.",
    )  # fmt: skip


def make_header(arrays: dict[str, Array], metadata: dict[str, Any]) -> bytes:
    """Return length and header, padded so that the tensors begin at a multiple of ALIGN."""
    if OWN in metadata:
        raise InputError("metadata", f"keys other than {OWN!r}", repr(OWN))
    entries: dict[str, Any] = {}
    place = 0
    for name, array in arrays.items():
        offsets = [place, place + array.nbytes]
        code = CODES[array.dtype]
        entries[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": offsets}
        place += array.nbytes
    own: dict[str, Any] = {
        "version": f"{VERSION[0]}.{VERSION[1]}",
        "sha256": {name: sha256(array) for name, array in arrays.items()},
    }
    try:
        own["header_sha256"] = _header_digest(entries, metadata | {OWN: own})
        text = _canonical(metadata | {OWN: own}).decode()
    except (UnicodeEncodeError, ValueError) as error:  # half of a surrogate pair; a huge integer
        raise InputError("metadata", "what fits into JSON", str(error)[:200]) from None
    raw = json.dumps({"__metadata__": {ENTRY: text}} | entries, separators=(",", ":")).encode()
    raw += b" " * (-(len(raw) + 8) % ALIGN)
    if len(raw) > HEADER_LIMIT:
        got = f"{len(raw):,} bytes in JSON"
        raise InputError("metadata", f"at most {HEADER_LIMIT:,} bytes with the tensors' names", got)
    return struct.pack("<Q", len(raw)) + raw


def read_length(path: Path, raw: bytes, size: int) -> int:
    """Return the length of the header from the first 8 bytes of a file of `size` bytes."""
    length: int = struct.unpack("<Q", raw)[0] if len(raw) == 8 else 0
    if not 2 <= length <= min(HEADER_LIMIT, size - 8):
        expected = f"a safetensors file with a header of 2 to {HEADER_LIMIT:,} bytes inside it"
        got = f"{size:,} bytes that begin with {raw.hex() or 'nothing'}"
        raise FileFormatError(str(path), expected, got, FOREIGN)
    return length


def parse_header(path: Path, text: bytes, size: int) -> Header:
    """Check a header; `size` is the number of bytes after it.

    Raises
    ------
    FileFormatError
        If anything in it contradicts the format, the rest of it, or `size`.
    """
    if not text.startswith(b"{"):
        got = f"one that begins with {text[:8]!r}"
        raise FileFormatError(str(path), "a safetensors header in JSON", got, FOREIGN)
    entries = _parse(path, text, "the header")
    notes = entries.pop("__metadata__", None)
    if not isinstance(notes, dict) or not isinstance(notes.get(ENTRY), str):
        expected = f"the entry {ENTRY!r} in the metadata of a safetensors file"
        raise FileFormatError(str(path), expected, "a file without it, from another tool", FOREIGN)
    metadata = _parse(path, notes[ENTRY].encode("utf-8", "surrogatepass"), "the metadata")
    tensors = _places(path, entries, size)
    digests = _check_digests(path, entries, metadata)
    del metadata[OWN]
    return Header(tensors, metadata, digests)


def _parse(path: Path, raw: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object: no depth, no name twice, nothing that is not finite."""
    plain = np.frombuffer(STRING.sub(b"", raw), np.uint8)
    levels = np.isin(plain, list(b"[{")).astype(np.int8) - np.isin(plain, list(b"]}"))
    if np.cumsum(levels, dtype=np.int64).max(initial=0) > DEPTH_LIMIT:
        got = "more"
        raise FileFormatError(str(path), f"{what} with {DEPTH_LIMIT} levels", got, DAMAGED)
    try:
        found = json.loads(
            raw.decode(), object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        got = f"what is not ({_short(str(error))})"
        raise FileFormatError(str(path), f"{what} in sound JSON", got, DAMAGED) from None
    if not isinstance(found, dict):
        raise FileFormatError(str(path), f"{what} as an object", type(found).__name__, DAMAGED)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is not finite")
    return value


def _places(path: Path, entries: dict[str, Any], size: int) -> tuple[Tensor, ...]:
    """Check what the header says of each tensor; together they are exactly the rest of the file."""
    tensors = sorted(
        (_place(path, name, entry) for name, entry in entries.items()),
        key=lambda tensor: (tensor.start, tensor.stop),
    )
    place = 0
    for tensor in tensors:
        if tensor.start != place:
            got = f"{tensor.name!r} at {tensor.start:,} instead of {place:,}"
            raise FileFormatError(str(path), "tensors one after the other", got, DAMAGED)
        place = tensor.stop
    if place != size:
        got = f"{size:,}"
        raise FileFormatError(str(path), f"{place:,} bytes of tensors", got, DAMAGED)
    return tuple(tensors)


def _place(path: Path, name: str, entry: Any) -> Tensor:
    def refuse(expected: str, got: Any) -> FileFormatError:
        return FileFormatError(f"{path}, tensor {_short(name)}", expected, _short(got), DAMAGED)

    if not NAME.fullmatch(name):
        raise refuse("a name of letters, digits, '_', '.' and '-'", name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise refuse("dtype, shape and data_offsets", entry)
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise refuse(f"a dtype of {', '.join(DTYPES)}", code)
    if not _are_sizes(shape) or len(shape) > 32:
        raise refuse("a shape of whole numbers from 0", shape)
    width = np.dtype(DTYPES[code]).itemsize
    if width * math.prod(max(size, 1) for size in shape) >= 2**63:  # numpy counts zeros as ones
        raise refuse("a shape that memory could hold", shape)
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise refuse("two data_offsets from 0", offsets)
    if offsets[1] - offsets[0] != width * math.prod(shape):
        got = f"{offsets[0]} to {offsets[1]}"
        raise refuse(f"data_offsets {width * math.prod(shape)} bytes apart", got)
    return Tensor(name, code, tuple(shape), *offsets)


def _are_sizes(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**63 for n in numbers)


def _check_digests(path: Path, entries: dict[str, Any], metadata: dict[str, Any]) -> dict[str, str]:
    """Check the header's own digest; return those of the tensors, one for each."""
    own = metadata.get(OWN)
    if not isinstance(own, dict):
        raise FileFormatError(str(path), f"the key {OWN!r} in the metadata", "none", FOREIGN)
    check_version(path, own.get("version"), VERSION, "a container")
    digests = own.get("sha256")
    if not isinstance(digests, dict) or digests.keys() != entries.keys():
        raise FileFormatError(str(path), "one sha256 for each tensor", "others", DAMAGED)
    given = own.pop("header_sha256", None)
    try:
        right = given == _header_digest(entries, metadata)
    except (UnicodeEncodeError, ValueError, RecursionError):
        right = False
    if not right:
        raise FileFormatError(str(path), "a header with the right sha256", "another", DAMAGED)
    return digests


def sha256(array: Array) -> str:
    """Return the digest of the memory of a C-contiguous array, in hexadecimal."""
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _canonical(value: Any) -> bytes:
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def _header_digest(entries: dict[str, Any], metadata: dict[str, Any]) -> str:
    """Digest what a header says, whatever its spaces and order; without the digest itself."""
    tensors = {name: [entry["dtype"], entry["shape"]] for name, entry in entries.items()}
    return hashlib.sha256(_canonical({"metadata": metadata, "tensors": tensors})).hexdigest()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
