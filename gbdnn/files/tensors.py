"""Arrays and a record of them in one safetensors file, written whole or not at all.

The layout stands in `gbdnn.files.headers`. A file comes from anywhere: all of its header is checked
before memory is taken, and bytes are handed on only where their digest is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gbdnn.errors import DataUnavailableError, FileFormatError, GbdnnError, MemoryBudgetError
from gbdnn.files.headers import (
    DAMAGED,
    DTYPES,
    Header,
    Tensor,
    check_array,
    check_version,
    make_header,
    parse_header,
    plain,
    read_length,
)
from gbdnn.machine import available_bytes

__all__ = ["check_version", "read_tensors", "write_tensors"]

Array = npt.NDArray[Any]
FilePath = str | os.PathLike[str]
BLOCK = 1 << 24


def write_tensors(
    path: FilePath, tensors: Mapping[str, Array], metadata: Mapping[str, Any]
) -> None:
    """Write arrays and metadata to one file; on any error the file that was there stays.

    Parameters
    ----------
    path : path-like
        Its folder must exist. A symbolic link is followed.
    tensors : dict of str to ndarray
        bool, int8 to int64, uint8 to uint64, float32, float64; any shape and memory order. Names
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
    The file is written beside `path`, flushed to the disk, read back and compared with the arrays,
    and then takes the name `path` in one step.
    """
    target = _target(path)
    arrays = {name: check_array(name, array) for name, array in sorted(tensors.items())}
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))  # all aligned
    header = make_header(arrays, plain(metadata, "metadata"))
    try:
        with _new_file(target) as file:
            file.write(header)
            for array in arrays.values():
                content = array.reshape(-1).view(np.uint8).data
                for start in range(0, len(content), BLOCK):
                    file.write(content[start : start + BLOCK])
    except OSError as error:
        if isinstance(error, GbdnnError):
            raise
        raise _unwritable(target, error) from None


def read_tensors(
    path: FilePath, *, limit: int | None = None
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read what `write_tensors` wrote: (tensors, metadata), equal to what was given there.

    Parameters
    ----------
    path : path-like
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
    path = Path(path)
    with _opened(path) as (file, size):
        header = _header(path, file, size)
        _check_room(path, header.tensors, limit)
        tensors = {
            tensor.name: _read(path, file, tensor, header.digests[tensor.name])
            for tensor in header.tensors
        }
    return tensors, header.metadata


# -- writing ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _new_file(target: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `target`; at the end check it and put it there."""
    temporary = target.with_name(f".{target.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _verify(temporary)
        with contextlib.suppress(OSError):  # a model that only its owner may read stays so
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # so that the new name outlives a power cut
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _verify(path: Path) -> None:
    """Read a file back without keeping it, and compare the digests."""
    with _opened(path) as (file, size):
        header = _header(path, file, size)
        scratch = memoryview(bytearray(BLOCK))
        for tensor in header.tensors:
            found, rest = hashlib.sha256(), tensor.stop - tensor.start
            while rest:
                for piece in _pieces(path, file, scratch[: min(rest, BLOCK)]):
                    found.update(piece)
                    rest -= len(piece)
            if found.hexdigest() != header.digests[tensor.name]:
                fix = "Was it changed while it was saved? The file that was there is as it was."
                expected, got = "the bytes that were written", "other ones when read back"
                raise DataUnavailableError(f"tensors[{tensor.name!r}]", expected, got, fix)


def _target(path: FilePath) -> Path:
    """Return where to write: links followed, and nothing there but a plain file."""
    try:
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode if target.exists() else stat.S_IFREG
    except (OSError, ValueError) as error:
        raise _unwritable(Path(path), error) from None
    if not stat.S_ISREG(mode):
        got = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise DataUnavailableError(str(path), "the name of a file", got, "Choose another name.")
    return target


def _unwritable(path: Path, error: Exception) -> DataUnavailableError:
    reason = getattr(error, "strerror", None) or str(error)
    fix = "Check folder, permission and space; a file that was there is as it was."
    return DataUnavailableError(str(path), "a file that can be written", reason, fix)


# -- reading ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Open a plain file: (file, size). A pipe is refused without waiting for its writer."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise DataUnavailableError(
            str(path), "a readable file", reason, "Check the path."
        ) from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        got = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, pipe or socket"
        raise DataUnavailableError(str(path), "a file", got, "Check the path.")
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        try:
            yield file, found.st_size
        except OSError as error:
            if isinstance(error, GbdnnError):
                raise
            reason = error.strerror or str(error)
            raise DataUnavailableError(str(path), "a readable file", reason, DAMAGED) from None


def _header(path: Path, file: IO[bytes], size: int) -> Header:
    """Read and check everything that stands before the tensors."""
    length = read_length(path, file.read(8), size)
    text = bytearray(length)
    for _ in _pieces(path, file, memoryview(text)):
        pass
    return parse_header(path, bytes(text), size - 8 - length)


def _check_room(path: Path, tensors: tuple[Tensor, ...], limit: int | None) -> None:
    nbytes = tensors[-1].stop if tensors else 0
    allowed = available_bytes() if limit is None else limit
    if nbytes > allowed:
        what = "that are free" if limit is None else "that are allowed"
        expected = f"tensors that fit into the {allowed:,} bytes {what}"
        raise MemoryBudgetError(str(path), expected, f"{nbytes:,} bytes")


def _read(path: Path, file: IO[bytes], tensor: Tensor, digest: str) -> Array:
    """Read the next tensor into memory of its own."""
    array = np.empty(tensor.shape, DTYPES[tensor.code])
    content = array.reshape(-1).view(np.uint8)
    found = hashlib.sha256()
    for piece in _pieces(path, file, content.data):
        found.update(piece)
    name = f"{path}, tensor {tensor.name!r}"
    if found.hexdigest() != digest:
        raise FileFormatError(name, "bytes with the right sha256", "others", DAMAGED)
    if tensor.code == "BOOL" and (content > 1).any():
        raise FileFormatError(name, "bools of 0 and 1", "other bytes", DAMAGED)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _pieces(path: Path, file: IO[bytes], memory: memoryview) -> Iterator[memoryview]:
    """Fill `memory` with the next bytes of a file; yield each piece when it is there."""
    place = 0
    while place < len(memory):
        piece = memory[place : place + BLOCK]
        count = file.readinto(piece)  # type: ignore[attr-defined]
        if not count:
            got = f"an end {len(memory) - place:,} bytes early"
            raise FileFormatError(str(path), "as many bytes as the header says", got, DAMAGED)
        yield piece[:count]
        place += count
