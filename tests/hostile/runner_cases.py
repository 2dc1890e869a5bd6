"""Cases that must fail, to show that the runner notices."""

from __future__ import annotations

import ctypes
import os
import signal


def segfault():
    """Read address 0."""
    ctypes.string_at(0)


def hang():
    """Wait longer than is allowed, with the clock turned forward."""
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    signal.pause()


def leave():
    """End the process without a word."""
    os._exit(3)


def wrong_class():
    """Raise something else."""
    raise TypeError("another class")


CASES = {
    "segfault": (segfault, None),
    "hang": (hang, None),
    "exit": (leave, None),
    "wrong class": (wrong_class, None),
    "no error": (lambda: "no error", None),
}
