"""What a model file says of its arrays: an entry of the safetensors header, with digests.

What gbdnn says about the arrays is one string of JSON, the entry "gbdnn" of the header's metadata.
Its key "container" belongs to this module::

    {"version": "2.0",          major.minor of the container
     "sha256": [hex, ...],      of the bytes of each tensor, in the order of the names
     "header_sha256": hex,      of metadata, names, dtypes and shapes, in canonical JSON
     "deflated": {name: [dtype, shape], ...}}       only where there are such tensors

Tensors under "deflated" are stored as bytes (U8) that raw deflate (RFC 1951) made of them. In files
with such tensors, of version 3.0, the entry is deflated too, in base64. Version 1.1 added half
precision to 1.0; before 2.0 the digests stood beside the names. They tell damage, not forgery: what
the numbers say is looked at as if there were none. No name in a file is used as a path, a class or
code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from gbdnn.errors import DtypeError, FileFormatError, InputError
from gbdnn.files.deflate import deflate, inflate
from gbdnn.types import Array, FilePath

__all__ = [
    "CODES", "DAMAGED", "DTYPES", "FOREIGN", "NAME", "Said", "check_version", "nbytes_said",
    "plain", "read_header", "short", "write_header",
]  # fmt: skip

HEADER_LIMIT = 1 << 24  # bytes of JSON; a network of 2,000 layers needs 2 MB
DEPTH_LIMIT = 64  # brackets inside brackets
ALIGN = 64  # of the first tensor in the file, for readers that map it
VERSION = (3, 0)
PLAIN = "2.0"  # of a file without deflated tensors
ENTRY, OWN = "gbdnn", "container"
DTYPES = {
    "BOOL": "|b1", "I8": "|i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "|u1",
    "U16": "<u2", "U32": "<u4", "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
CODES = {np.dtype(text): code for code, text in DTYPES.items()}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
DAMAGED = "The file is damaged or incomplete: get it again."
FOREIGN = "gbdnn loads what Network.save or a training run wrote."

Said = dict[str, tuple[str, list[int]]]  # dtype and shape by name, in the order of the bytes


def plain(value: Any, name: str, depth: int = 4) -> Any:
    """Return a value as what JSON gives back, else raise; `depth` is where it will stand."""
    if isinstance(value, np.generic):
        value = value.item()
    if depth > DEPTH_LIMIT:
        raise InputError(name, f"at most {DEPTH_LIMIT} levels", "more, or a loop")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise DtypeError(name, "text as keys", f"the keys {short(list(value))}")
        return {str(key): plain(part, f"{name}.{key}", depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, f"{name}[{k}]", depth + 1) for k, part in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(name, "a finite number", repr(value), "JSON has none but finite ones.")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    expected = "None, bool, a number, text, a list or a dict"
    raise DtypeError(name, expected, type(value).__name__, "Pass arrays as tensors.")


def write_header(
    arrays: Mapping[str, Array],
    deflated: Said,
    digests: Mapping[str, str],
    metadata: dict[str, Any],
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
        "version": PLAIN,
        "sha256": [digests[name] for name in sorted(digests)],
    }
    if deflated:
        own |= {"version": f"{VERSION[0]}.{VERSION[1]}", "deflated": deflated}
    said = {name: [entry["dtype"], entry["shape"]] for name, entry in entries.items()}
    try:
        own["header_sha256"] = _header_digest(said, metadata | {OWN: own})
        text = _canonical(metadata | {OWN: own}).decode()
        if deflated:
            text = base64.b64encode(deflate(text.encode())).decode()
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


def check_version(path: FilePath, version: Any, known: tuple[int, int], what: str) -> None:
    """Raise `FileFormatError` unless `version` is "major.minor" with a major of at most `known`'s.

    A newer minor version only adds what may be ignored, or what is refused by its own name.
    """
    expected = f"{what} of version {known[0]}.x or older"
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", version):
        raise FileFormatError(str(path), f'{expected}, as "major.minor"', short(version), FOREIGN)
    if int(version.partition(".")[0]) > known[0]:
        fix = "It is from a newer gbdnn: install that version."
        raise FileFormatError(str(path), expected, f"version {version}", fix)


def read_header(
    path: FilePath, said: Said, notes: dict[str, str]
) -> tuple[dict[str, Any], dict[str, str], Said]:
    """Return metadata, the digest of each tensor, and what the deflated ones are made of.

    `said` and `notes` are the safetensors header's; the header's own digest is right.

    Raises
    ------
    FileFormatError
        Also for a name twice, numbers that are not finite and more than DEPTH_LIMIT levels.
    """
    if ENTRY not in notes:
        expected = f"the entry {ENTRY!r} in the metadata of a safetensors file"
        raise FileFormatError(str(path), expected, "a file without it, from another tool", FOREIGN)
    try:
        text = notes[ENTRY]
        if not text.startswith("{"):
            text = inflate(base64.b64decode(text, validate=True), HEADER_LIMIT).decode()
        metadata = plain(json.loads(text, object_pairs_hook=_once), "metadata")
    except (ValueError, TypeError, RecursionError) as error:
        got = f"what is not ({short(str(error))})"
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
    deflated = _deflated(path, own, said)
    del metadata[OWN]
    return metadata, digests, deflated


def _deflated(path: FilePath, own: dict[str, Any], said: Said) -> Said:
    """Return dtype and shape of the deflated tensors; they are vectors of bytes in the file."""
    found = own.get("deflated", {})
    for name, entry in found.items() if isinstance(found, dict) else [("", found)]:
        code, shape = entry if isinstance(entry, list) and len(entry) == 2 else ("", [])
        sizes = shape if isinstance(shape, list) else [-1]
        known = str(code) in DTYPES and all(type(size) is int and size >= 0 for size in sizes)
        stored, places = said.get(name, ("", []))
        if not known or stored != "U8" or len(places) != 1:
            expected = "a vector of bytes, with the dtype and shape of what was deflated"
            raise FileFormatError(f"{path}, tensor {short(name)}", expected, short(entry), DAMAGED)
    return {name: (code, shape) for name, (code, shape) in found.items()}


def nbytes_said(entry: tuple[str, list[int]]) -> int:
    """Return how many bytes a tensor has."""
    code, shape = entry
    return math.prod(shape) * np.dtype(DTYPES[code]).itemsize if code in DTYPES else 0


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
