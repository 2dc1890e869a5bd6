"""Files in and out: written whole or not at all, read with errors that say what is wrong."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gzip
import hashlib
import os
import secrets
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from gbdnn.errors import DataUnavailableError, FileFormatError
from gbdnn.types import FilePath

__all__ = ["atomic_write", "cache_dir", "open_binary", "open_regular", "unreadable"]

DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


def cache_dir() -> Path:
    """Return the folder for downloads: the environment's GBDNN_CACHE_DIR or the user's cache."""
    named = os.environ.get("GBDNN_CACHE_DIR")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("gbdnn"))


@contextlib.contextmanager
def atomic_write(
    path: FilePath, *, verify: Callable[[Path], None] | None = None
) -> Iterator[IO[bytes]]:
    """Open a new file beside `path` and put it in its place when the block ends without error.

    Parameters
    ----------
    path : path-like
        Its folder must exist. A symbolic link is followed; a file that was there gives the new one
        its permissions. A name that ends in .gz is compressed, without time stamp: equal content,
        equal bytes.
    verify : callable, optional
        Gets the path of the new file when its bytes are on the disk, and raises if they are not
        what was written. With it the new name, too, outlives a power cut.

    Raises
    ------
    DataUnavailableError
        For every `OSError`: no space, no permission, no folder. The file that was there is as it
        was.
    """
    try:
        target = _target(path)
        _remove_stale(target.parent)
        temporary, raw, lock = _new_temporary(target)
        try:
            with raw:
                if Path(path).suffix == ".gz":
                    with gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
                        yield cast(IO[bytes], file)
                else:
                    yield raw
                if verify is not None:
                    raw.flush()
                    os.fsync(raw.fileno())
            if verify is not None:
                verify(temporary)
            with contextlib.suppress(OSError):  # what only its owner may read stays so
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(lock)
    except DataUnavailableError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from None
    if verify is not None:
        with contextlib.suppress(OSError):
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _new_temporary(target: Path) -> tuple[Path, IO[bytes], int]:
    """Return a new file beside `target`, open, and what keeps it locked until it is closed.

    A process that dies leaves its file without lock. The process id in the name says little: ids
    are used again, and mean other processes in other containers and on other hosts.
    """
    while True:
        token = f"{os.getpid()}.{secrets.token_hex(4)}"
        temporary = target.with_name(f".{target.name[:40]}.gbdnn-{_host()}.{token}.tmp")
        raw = temporary.open("xb")
        lock = os.dup(raw.fileno())  # shares the lock, and outlives `raw`
        with contextlib.suppress(OSError):  # not on every file system
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return temporary, raw, lock
        raw.close()  # somebody took it for stale before it was locked
        os.close(lock)


def _remove_stale(folder: Path) -> None:
    """Remove temporary files of processes of this host that do not live any more."""
    for temporary in folder.glob(f".*.gbdnn-{_host()}.*.tmp"):
        with contextlib.suppress(OSError):
            file = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if stat.S_ISREG(os.fstat(file).st_mode):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    temporary.unlink()
            finally:
                os.close(file)


@functools.cache
def _host() -> str:
    """Return a short name of this host: locks of others are not seen on every shared folder."""
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]


def _target(path: FilePath) -> Path:
    """Return where to write: links followed, and nothing there but a regular file."""
    try:
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode if target.exists() else stat.S_IFREG
    except ValueError as error:  # a zero byte in the name
        raise _unwritable(path, error) from None
    if not stat.S_ISREG(mode):
        raise DataUnavailableError(
            str(path), "the name of a file", _described(mode), "Choose another name."
        )
    return target


def _unwritable(path: FilePath, error: Exception) -> DataUnavailableError:
    fix = "Check folder, permission and space; a file that was there is as it was."
    return DataUnavailableError(str(path), "a file that can be written", _reason(error), fix)


@contextlib.contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, through gzip if its name ends in .gz; say in gbdnn's errors what is wrong."""
    try:
        with path.open("rb") as raw:
            if path.suffix == ".gz":
                if path.stat().st_size == 0:  # which gzip takes for an empty text
                    raise EOFError("an empty file")
                with gzip.GzipFile(fileobj=raw) as file:
                    yield cast(IO[bytes], file)
            else:
                yield raw
    except DAMAGED as error:
        got = f"a damaged or incomplete one ({error})"
        raise FileFormatError(str(path), "a whole gzip file", got, "Get the file again.") from None
    except DataUnavailableError:
        raise
    except OSError as error:
        raise unreadable(path, error) from None


@contextlib.contextmanager
def open_regular(path: FilePath) -> Iterator[IO[bytes]]:
    """Open a regular file as it is; a pipe is refused without waiting for its writer."""
    try:
        file = open(  # noqa: SIM115
            path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
        )
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise unreadable(path, error) from None
    with file:
        try:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                got = _described(mode)
                raise DataUnavailableError(str(path), "a file", got, "Check the path.")
            yield file
        except DataUnavailableError:
            raise
        except OSError as error:
            raise unreadable(path, error) from None


def unreadable(path: FilePath, error: Exception) -> DataUnavailableError:
    """Return the error for a file that cannot be read."""
    return DataUnavailableError(str(path), "a readable file", _reason(error), "Check the path.")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _described(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
