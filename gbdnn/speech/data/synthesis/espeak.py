"""Synthetic speech by espeak-ng, through the library that the package espeakng-loader brings.

The library keeps phases of oscillators and more from one utterance to the next, and takes the time
of day as seed, so that the same text sounds a little different each time. Here it is closed and
opened again before each utterance and gets a seed: equal text, voice and seed give equal samples,
in any order and process. That takes some milliseconds of an utterance.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.errors import BackendError, InputError, choose
from gbdnn.types import Array

__all__ = ["ACCENTS", "VARIANTS", "Voice", "synthesise", "voices"]

ACCENTS = {
    "america": "en-us",
    "new-york": "en-us-nyc",
    "britain": "gmw/en",
    "received": "en-gb-x-rp",
    "scotland": "en-gb-scotland",
    "lancaster": "en-gb-x-gbclan",
    "midlands": "en-gb-x-gbcwmd",
    "caribbean": "en-029",
}
"""Accents of English and what the library calls them."""
VARIANTS = (
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "klatt",
    "klatt2", "klatt3", "klatt4", "Alex", "Andrea", "Annie", "Denis", "Gene", "Jacky", "Lee",
    "Mario", "Michael", "Mike", "adam", "anika", "aunty", "belinda", "benjamin", "boris",
    "david", "ed", "edward", "grandma", "grandpa", "ian", "john", "linda", "max", "miguel",
    "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "travis",
    "victor", "zac",
)  # fmt: skip
"""Speakers that can be understood: those of the library without robots and whispers, and without
"caleb", whose noise has no seed."""

SYNCHRONOUS, UTF8 = 2, 1  # AUDIO_OUTPUT_SYNCHRONOUS, espeakCHARS_UTF8
RATE, PITCH, RANGE = 1, 3, 4  # numbers of espeak_SetParameter
_LOCK = threading.Lock()
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Voice:
    """Who speaks.

    Parameters
    ----------
    accent : str
        One of `ACCENTS`.
    variant : str
        One of `VARIANTS`, or another that the library has.
    rate : int
        Words a minute, 80 to 450.
    pitch, range : int
        0 to 99; of the voice, and how much it moves.
    """

    accent: str = "america"
    variant: str = "m1"
    rate: int = 175
    pitch: int = 50
    range: int = 50

    def __post_init__(self) -> None:
        choose("accent", self.accent, ACCENTS)
        for name, interval in (("rate", "[80, 450]"), ("pitch", "[0, 99]"), ("range", "[0, 99]")):
            checks.within(name, getattr(self, name), interval, whole=True)

    @property
    def name(self) -> str:
        """Accent and variant, what a manifest has as speaker."""
        return f"{self.accent}+{self.variant}"


def voices(
    accents: Iterable[str] = ("america",),
    variants: Iterable[str] = VARIANTS,
    rates: Iterable[int] = (150, 175, 200),
    pitches: Iterable[int] = (40, 50, 60),
) -> list[Voice]:
    """Return all combinations."""
    return [
        Voice(accent, variant, rate, pitch)
        for accent, variant, rate, pitch in itertools.product(accents, variants, rates, pitches)
    ]


def synthesise(text: str, voice: Voice, *, seed: int = 0) -> tuple[Array, int]:
    """Return a text as a voice speaks it.

    Parameters
    ----------
    text : str
        Also numbers and punctuation; what it becomes is the library's choice, so words are better.
    voice : Voice
    seed : int
        Of the noise in the breath of some voices; others do not depend on it.

    Returns
    -------
    samples : ndarray of float32, shape (samples,)
        Within [-1, 1].
    rate : int
        22,050 Hz.

    Raises
    ------
    MissingDependencyError
        Without the package espeakng-loader.
    InputError
        Text without anything to say.
    UnknownNameError
        A variant that the library does not have.
    BackendError
        The library returned an error.

    Notes
    -----
    One utterance at a time in a process.
    """
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InputError("text", "words", f"{text!r:.80}")
    parts: list[Array] = []

    def collect(wave: Any, count: int, events: Any) -> int:
        if wave and count > 0:
            parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    callback = _Callback(collect)  # lives until the library is closed
    with _LOCK, _library() as (library, call, data):
        # the library takes a variant that it does not have for none, and says nothing
        choose("variant", voice.variant, os.listdir(os.path.join(data, "voices", "!v")))
        rate = library.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), 0)
        if rate <= 0:
            raise BackendError("espeak_Initialize", "a sampling rate", str(rate))
        try:
            library.espeak_SetSynthCallback(callback)
            name = f"{ACCENTS[voice.accent]}+{voice.variant}"
            call("espeak_SetVoiceByName", ctypes.c_char_p(name.encode()))
            for number, value in ((RATE, voice.rate), (PITCH, voice.pitch), (RANGE, voice.range)):
                call("espeak_SetParameter", number, int(value), 0)
            library.espeak_ng_SetRandSeed(ctypes.c_long(checks.count("seed", seed, 0) % (1 << 31)))
            raw = text.encode() + b"\0"
            size, zero = ctypes.c_size_t(len(raw)), ctypes.c_uint(0)
            call("espeak_Synth", raw, size, zero, 1, zero, ctypes.c_uint(UTF8), None, None)
            call("espeak_Synchronize")
        finally:
            library.espeak_Terminate()
    if not parts:
        raise InputError("text", "something to say", f"{text!r:.80}")
    return np.concatenate(parts).astype(np.float32) / 32768, rate


@contextmanager
def _library() -> Iterator[tuple[Any, Callable[..., None], str]]:
    """Open the library; yield it, a function that calls and checks, and its folder of data."""
    loader = checks.package("espeakng_loader", "synthetic speech", "speech")
    library = ctypes.CDLL(loader.get_library_path())

    def call(name: str, *arguments: Any) -> None:
        status = getattr(library, name)(*arguments)
        if status:
            raise BackendError(name, "status 0", f"status {status}")

    try:
        yield library, call, loader.get_data_path()
    finally:
        close = ctypes.CDLL(None).dlclose
        close.argtypes = [ctypes.c_void_p]
        close(library._handle)
