"""How compiled functions are made: without the GIL, cached on disk, for given types only."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from numba import njit, types
from numba.core import event

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["array_type", "compiling", "jit", "load"]


def jit(function: Any, **options: Any) -> Any:
    """Compile for nopython without the GIL, cached on disk where some directory is writable.

    numba tries NUMBA_CACHE_DIR, then this package's __pycache__, then the user's cache directory.
    """
    with suppress(RuntimeError):  # "no locator available": none of the three is writable
        return njit(cache=True, nogil=True, **options)(function)
    return njit(nogil=True, **options)(function)


def array_type(kind: Any, ndim: int, *, writable: bool = False) -> Any:
    """Return the type of C-contiguous arrays.

    numba passes writable arrays where a function takes read-only ones, not the reverse.
    """
    return types.Array(kind, ndim, "C", readonly=not writable)


def load(kernel: Any, *arguments: Any) -> None:
    """Load a kernel for arguments of these types from the disk cache, or compile it.

    Outside of this function numba must convert arguments, not compile again for other types.
    """
    with compiling():
        kernel.disable_compile(False)
        kernel.compile(types.void(*arguments))
        kernel.disable_compile()


@contextmanager
def compiling() -> Iterator[None]:
    """Let one thread at a time compile, and tell the log 'gbdnn' the first time."""
    with _lock, event.install_listener("numba:compile", _announcement):
        yield


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


_lock = threading.RLock()
_announcement = _Announcement()
