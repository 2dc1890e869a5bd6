"""Synthetic speech by flite, another engine than espeak-ng, where its program is installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from gbdnn.errors import BackendError, InputError, MissingDependencyError, choose
from gbdnn.types import Array

__all__ = ["flite", "flite_voices"]

SECONDS = 60  # for an utterance


def flite_voices() -> list[str]:
    """Return the voices of the installed flite that speak any text; none without it."""
    if shutil.which("flite") is None:
        return []
    done = subprocess.run(["flite", "-lv"], capture_output=True, text=True, timeout=SECONDS)
    _, _, names = done.stdout.partition(":")
    return sorted(name for name in names.split() if "_" not in name)  # awb_time tells the time


def flite(text: str, voice: str) -> tuple[Array, int]:
    """Return a text as a voice of flite speaks it: samples, float32 within [-1, 1], and their rate.

    Raises
    ------
    MissingDependencyError
        The program is not installed.
    UnknownNameError, InputError, BackendError
    """
    import numpy as np
    from scipy.io import wavfile

    known = flite_voices()
    if not known:
        fix = "Install it: apt-get install flite, or leave it out."
        raise MissingDependencyError("flite", "the program flite", "none", fix)
    choose("voice", voice, known)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InputError("text", "words", f"{text!r:.80}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, "-t", text, "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        if done.returncode or not path.exists():
            got = done.stderr.strip()[:200] or f"status {done.returncode}"
            raise BackendError("flite", "a WAV file", got)
        rate, samples = wavfile.read(path)
    return samples.astype(np.float32) / 32768, int(rate)
