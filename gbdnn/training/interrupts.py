"""Ctrl-C and SIGTERM at the right moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Stopped", "stoppable", "uninterrupted"]


class Stopped(KeyboardInterrupt):
    """SIGTERM, which ends a training as Ctrl-C does."""

    signal = signal.SIGTERM


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM raise `Stopped` inside, where it would end the process at once.

    Handlers that a program has installed itself are left alone; so are threads other than the main
    one, in which Python allows no handlers.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done, then raise what they raise.

    Python raises KeyboardInterrupt between any two lines, so also between the update of one layer
    and the next, or in a finaliser, where it is lost. If the block ends with an exception of its
    own, that goes on instead.
    """
    ours: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _stop}
    here = threading.current_thread() is threading.main_thread()
    result = {n: h for n, h in ours.items() if here and signal.getsignal(n) is h}
    arrived: list[int] = []
    for number in result:
        signal.signal(number, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in result.items():
            signal.signal(number, handler)
    if arrived:
        raise Stopped if arrived[0] == signal.SIGTERM else KeyboardInterrupt
