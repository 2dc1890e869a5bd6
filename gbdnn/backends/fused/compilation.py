"""How compiled functions are made: without the GIL, cached on disk, for given types only."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llvmlite.binding import ffi
from numba import njit, types
from numba.core import event, sigutils
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from gbdnn.backends.workers import apart
from gbdnn.machine.locks import starting, wait_at_fork

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["array_type", "c_function", "compiled", "jit", "load", "supports"]

DIGEST = 32  # bytes of a sha256


def supports(*features: str) -> bool:
    """Return whether numba compiles for all of these features of a processor.

    numba's cache on disk has the same features in its keys.
    """
    _, _, known = cpu_target.target_context.codegen().magic_tuple()
    return set(known.split(",")).issuperset(f"+{feature}" for feature in features)


def jit(function: Any, **options: Any) -> Any:
    """Compile for nopython without the GIL, cached on disk where some folder is writable."""
    made = njit(nogil=True, **options)(function)
    made._cache = _cache(function)  # as `enable_caching` of numba does
    return made


def c_function(signature: str, function: Any) -> Any:
    """Compile a C function, cached on disk; its attribute `address` holds as long as it lives."""
    made: Any = CFunc(function, sigutils.normalize_signature(signature), {}, {})
    made._cache = _cache(function)
    compiled(made.compile)
    return made


def array_type(kind: Any, ndim: int, *, writable: bool = False) -> Any:
    """Return the type of C-contiguous arrays.

    numba passes writable arrays where a function takes read-only ones, not the reverse.
    """
    return types.Array(kind, ndim, "C", readonly=not writable)


def load(kernel: Any, *arguments: Any) -> None:
    """Load a kernel for arguments of these types from the disk cache, or compile it.

    Outside of this function numba must convert arguments, not compile again for other types.
    """

    def make() -> None:
        kernel.disable_compile(False)
        kernel.compile(types.void(*arguments))
        kernel.disable_compile()

    compiled(make)


def compiled(task: Callable[[], None]) -> None:
    """Run a task that compiles, in one thread at a time and whole; tell the log the first time."""

    def run() -> None:
        with starting, event.install_listener("numba:compile", _announcement):
            task()

    apart(run)


class _Announcement(event.Listener):
    """Logs once a process; loading from the disk cache raises no event."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said:
            self.said = True
            message = "compiling the fused kernels (some seconds, once; cached on disk)"
            logging.getLogger("gbdnn").info(message)

    def on_end(self, event: Any) -> None:
        pass


# -- the cache on disk -----------------------------------------------------------------------------


def _cache(function: Any) -> Any:
    """Return a function's cache; none where no folder is writable.

    numba tries NUMBA_CACHE_DIR, then this package's __pycache__, then the user's cache folder.
    """
    try:
        return _Cache(function)
    except (RuntimeError, OSError) as error:  # no folder; it went away between two looks
        reason = error
    own = str(Path(function.__code__.co_filename).parent / "__pycache__")
    _warn_uncached(os.environ.get("NUMBA_CACHE_DIR") or own, reason)
    return NullCache()


class _Cache(FunctionCache):
    """A function's files on disk, which may be damaged, or not be written: then it is compiled."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        base, stamp = self._impl.filename_base, self._impl.locator.get_source_stamp()
        self._files = Path(self.cache_path), base
        self._cache_file = _Files(self.cache_path, base, stamp)

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return what was compiled before, or None; files that cannot be used are removed."""
        try:
            return super().load_overload(signature, target)
        except Exception as error:  # whatever a damaged pickle or object file raises
            folder, base = self._files
            logging.getLogger("gbdnn").info("damaged files of %s in %s: %r", base, folder, error)
            with suppress(OSError):
                for path in [folder / f"{base}.nbi", *folder.glob(f"{base}.*.nbc")]:
                    path.unlink(missing_ok=True)
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        """Keep what was compiled, where that is possible."""
        try:
            super().save_overload(signature, data)
        except OSError as error:
            _warn_uncached(self.cache_path, error)


class _Files(IndexDataCacheFile):
    """Index and data files with digests: damaged machine code must not be run."""

    def _dump(self, data: Any) -> bytes:
        dumped: bytes = super()._dump(data)
        return dumped + hashlib.sha256(dumped).digest()  # behind what a pickle reads

    def _load_index(self) -> Any:
        with suppress(FileNotFoundError), open(self._index_path, "rb") as file:
            pickle.load(file)  # numba's version
            _verify(file.read())
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        _verify(Path(self._data_path(name)).read_bytes())
        return super()._load_data(name)


def _verify(dumped: bytes) -> None:
    if hashlib.sha256(dumped[:-DIGEST]).digest() != dumped[-DIGEST:]:
        raise ValueError("not the bytes that were written")


def _warn_uncached(folder: str, error: Exception) -> None:
    """Say once a process that compiled functions are not kept."""
    global _warned
    if not _warned:
        _warned = True
        message = (
            f"compiled functions cannot be kept in {folder} ({error}): each process compiles them "
            "again, which takes some seconds; set NUMBA_CACHE_DIR to a folder with room"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)


_announcement = _Announcement()
_warned = False
# The lock of numba's compiler, and the one of LLVM: whoever else compiles is waited for, too
wait_at_fork(global_compiler_lock._lock, ffi.lib._lock._lock)
