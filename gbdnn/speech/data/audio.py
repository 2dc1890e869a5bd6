"""Audio in files and as arrays: read, resampled, written, and made worse on purpose."""

from __future__ import annotations

import functools
import math
import os
import re
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.errors import (
    DataUnavailableError,
    DtypeError,
    FileFormatError,
    InputError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
)
from gbdnn.files.disk import open_regular
from gbdnn.machine import available_bytes
from gbdnn.types import Array, FilePath

__all__ = [
    "ClippedAudioWarning", "add_noise", "as_samples", "mu_law", "read_audio", "resample",
    "reverberate", "write_audio",
]  # fmt: skip

RATES = (1_000, 768_000)  # Hz: what recordings have
CLIPPED = 1e-3  # of the samples, at full scale beside another one: more is worth a warning
LARGEST = 20_000  # denominator of the ratio of two rates
SCALED = 4.0  # above this a float file was not scaled to [-1, 1]
CUT = re.compile(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)")
ENDLESS = (1 << 31) - (1 << 20)  # sizes that programs write into a header before they know them


class ClippedAudioWarning(UserWarning):
    """A recording was too loud for its format: its peaks are cut off."""


def read_audio(path: FilePath, rate: int, *, channel: int | None = None) -> Array:
    """Read an audio file, at a sampling rate.

    Parameters
    ----------
    path : path-like
        WAV, FLAC, Ogg, MP3, AIFF, AU and what else libsndfile reads.
    rate : int
        Samples a second of the result; a file of another rate is resampled.
    channel : int, optional
        Which channel to take, from 0. Without it a file must have one channel, or equal ones:
        channels are not mixed, since two speakers on two channels would talk at the same time.

    Returns
    -------
    ndarray of float32, shape (samples,)
        Within [-1, 1].

    Raises
    ------
    MissingDependencyError
        Without the package soundfile.
    DataUnavailableError
        The file cannot be read.
    FileFormatError
        It is empty, no audio, damaged, or ends before its header says. (Ogg has no length in its
        header: there the end of a shorter file is not noticed.)
    NonFiniteError, ShapeError, InputError, MemoryBudgetError
        It holds NaN, several channels, numbers that are not scaled to [-1, 1], or more than fits.

    Warns
    -----
    ClippedAudioWarning
        When more than 0.1 % of the samples are at full scale beside one another.
    """
    checks.within("rate", rate, f"[{RATES[0]}, {RATES[1]}]", whole=True)
    samples, own = _read(Path(path))
    name = str(path)
    samples = _one_channel(name, samples, channel)
    if not np.isfinite(samples).all():
        at = int((~np.isfinite(samples)).argmax())
        raise NonFiniteError(name, "finite samples", f"{samples[at]} at {at / own:.3f} s")
    peak = float(np.abs(samples).max())
    if peak > SCALED:
        raise InputError(name, "floats scaled to [-1, 1]", f"up to {peak:.6g}", "Divide by 32768?")
    full = np.abs(samples) >= min(1.0, peak) * 0.9999 if peak > 0.98 else np.zeros(1, bool)
    share = float((full[1:] & full[:-1]).sum()) / len(samples)
    if share > CLIPPED:
        text = f"{name}: {share:.1%} of the samples are clipped; record with less gain"
        warnings.warn(text, ClippedAudioWarning, stacklevel=2)
    return np.clip(resample(samples, own, rate), -1, 1)


def _read(path: Path) -> tuple[Array, int]:
    """Return what a file holds, shape (samples, channels), and its rate."""
    soundfile = checks.package("soundfile", "audio files", "speech")
    with open_regular(path) as raw:
        size = os.fstat(raw.fileno()).st_size
        if not size:
            raise FileFormatError(str(path), "an audio file", "an empty one")
        try:
            with soundfile.SoundFile(raw) as file:
                rate, frames, channels = file.samplerate, file.frames, file.channels
                if not RATES[0] <= rate <= RATES[1]:
                    expected = f"a rate of {RATES[0]:,} to {RATES[1]:,} Hz"
                    raise FileFormatError(str(path), expected, f"{rate:,}")
                need, free = 4 * frames * channels, available_bytes()
                if need > free:
                    expected = f"audio that fits into the {free:,} bytes that are free"
                    raise MemoryBudgetError(str(path), expected, f"{need:,} bytes")
                samples = file.read(frames, dtype="float32", always_2d=True)  # GSM needs a number
                cut = [(int(a), int(b)) for a, b in CUT.findall(file.extra_info)]
        except soundfile.LibsndfileError as error:
            got = f"what is none, or damaged ({error.error_string.strip('. ') or error.code})"
            fix = "Get it again, or convert it to WAV."
            raise FileFormatError(str(path), "an audio file", got, fix) from None
    short = [(said, found) for said, found in cut if found < said < ENDLESS]
    if short or len(samples) < frames:
        said, found = short[0] if short else (frames, len(samples))
        unit = "bytes" if short else "samples"
        expected = f"{said:,} {unit}, as its header says"
        raise FileFormatError(str(path), expected, f"{found:,}", "The file is cut: get it again.")
    if not len(samples):
        raise FileFormatError(str(path), "at least one sample", "a header and none")
    return samples, rate


def _one_channel(name: str, samples: Array, channel: int | None) -> Array:
    count = samples.shape[1]
    if channel is not None:
        if not 0 <= checks.count("channel", channel, 0) < count:
            raise InputError("channel", f"0 to {count - 1} for {name}", repr(channel))
        return samples[:, channel]
    if count > 1 and (samples[:, 1:] != samples[:, :1]).any():
        got, fix = f"{count} different ones", "Take one of them: channel=0, or a file of one."
        raise ShapeError(name, "one channel", got, fix)
    return samples[:, 0]


def as_samples(name: str, samples: Any) -> Array:
    """Return samples as float32, shape (samples,), once checked: floats, finite, not empty."""
    array = np.asarray(samples)
    if array.dtype.kind != "f":
        fix = "Divide whole numbers of 16 bits by 32768."
        raise DtypeError(name, "floats within [-1, 1]", str(array.dtype), fix)
    if array.ndim != 1:
        raise ShapeError(name, "shape (samples,)", f"shape {array.shape}")
    if not np.isfinite(array).all():
        at = int((~np.isfinite(array)).argmax())
        raise NonFiniteError(name, "finite samples", f"{array[at]} at sample {at}")
    return array.astype(np.float32, copy=False)


def resample(samples: Array, rate: int, new: int) -> Array:
    """Return samples at another rate, by a polyphase filter (`scipy.signal.resample_poly`).

    Rates without common factors have huge filters; above 20,000 their ratio is taken to 2.5e-5.
    """
    if rate == new:
        return samples
    from scipy.signal import resample_poly

    up, down = Fraction(new, rate).limit_denominator(LARGEST).as_integer_ratio()
    return np.asarray(resample_poly(samples, up, down, window=_low_pass(max(up, down))), np.float32)


@functools.lru_cache(maxsize=8)
def _low_pass(largest: int) -> Array:
    """Return the filter that `resample_poly` would design anew for each call."""
    from scipy.signal import firwin

    return np.asarray(firwin(20 * largest + 1, 1 / largest, window=("kaiser", 5.0)), np.float32)


def write_audio(path: FilePath, samples: Array, rate: int) -> None:
    """Write samples within [-1, 1] as a WAV file of 16 bits; others are clipped.

    In place: what is left by a disk that is full has a header that says more than there is.

    Raises
    ------
    MissingDependencyError, DataUnavailableError, DtypeError, ShapeError, NonFiniteError
    """
    soundfile = checks.package("soundfile", "audio files", "speech")
    array = np.clip(as_samples("samples", samples), -1, 1)
    whole = np.round(array * 32767).astype(np.int16)
    try:
        with Path(path).open("wb") as file:
            soundfile.write(file, whole, rate, subtype="PCM_16", format="WAV")
    except OSError as error:
        got = error.strerror or str(error)
        raise DataUnavailableError(str(path), "a file that can be written", got) from None


def mu_law(samples: Array) -> Array:
    """Return samples as a telephone line of 8 bits passes them on (mu-law, mu = 255).

        y = sign(x) ln(1 + mu |x|) / ln(1 + mu), rounded to 255 levels, and back

    Parameters
    ----------
    samples : ndarray of float, shape (samples,)
        Within [-1, 1]; others are clipped.
    """
    x = np.clip(as_samples("samples", samples), -1, 1)
    y = np.sign(x) * np.log1p(255 * np.abs(x)) / math.log(256)
    levels = np.round(y * 127) / 127
    back = np.sign(levels) * np.expm1(np.abs(levels) * math.log(256)) / 255
    return np.asarray(back, np.float32)


def add_noise(
    samples: Array, snr: float, rng: np.random.Generator | int, *, colour: float = 0.0
) -> Array:
    """Return samples with Gaussian noise, scaled down if needed to stay within [-1, 1].

    Parameters
    ----------
    samples : ndarray of float, shape (samples,)
    snr : float
        Power of the signal by that of the noise, in dB, both as means over all samples.
    rng : Generator or int
    colour : float
        The noise's power falls as 1 / f ** colour: 0 is white, 1 pink, 2 brown.
    """
    from scipy.fft import next_fast_len

    x = as_samples("samples", samples)
    rng = np.random.default_rng(checks.generator_or_seed("rng", rng))
    if not math.isfinite(snr):
        raise InputError("snr", "a finite number of dB", repr(snr))
    if not len(x):
        return x.copy()
    noise = rng.standard_normal(next_fast_len(len(x), real=True))
    if checks.not_negative("colour", colour) and len(x) > 1:
        spectrum = np.fft.rfft(noise)
        spectrum[1:] /= np.arange(1, len(spectrum)) ** (colour / 2)
        spectrum[0] = 0
        noise = np.fft.irfft(spectrum, len(noise))
    noise = noise[: len(x)]
    power, own = np.mean(np.square(x, dtype=np.float64)), np.mean(noise**2)
    if not (power and own):
        return x.copy()  # silence has no ratio
    y = x + noise * math.sqrt(power / own) * 10 ** (-snr / 20)
    return _within(y)


def reverberate(
    samples: Array,
    rate: int,
    seconds: float,
    rng: np.random.Generator | int,
    *,
    direct: float = 3.0,
) -> Array:
    """Return samples as in a room: the direct sound and noise that dies away (Polack 1988).

        h(0) = 1, h(t) = a n(t) 10^(-3 t / seconds), n standard normal

    Parameters
    ----------
    samples : ndarray of float, shape (samples,)
    rate : int
    seconds : float
        In which the echo falls by 60 dB.
    rng : Generator or int
    direct : float
        Energy of the direct sound by that of the echo, in dB.

    Returns
    -------
    ndarray of float32, shape (samples,)
        As loud as `samples` (the same energy), but within [-1, 1]; the echo behind the end is cut.
    """
    from scipy.signal import fftconvolve

    x = as_samples("samples", samples)
    rng = np.random.default_rng(checks.generator_or_seed("rng", rng))
    count = int(checks.positive("seconds", seconds) * checks.count("rate", rate))
    if not count or not len(x):
        return x.copy()
    tail = rng.standard_normal(count) * 10 ** (-3 * np.arange(1, count + 1) / count)
    tail *= math.sqrt(10 ** (-direct / 10) / np.sum(tail**2))
    y = fftconvolve(x.astype(np.float64), np.concatenate(([1.0], tail)))[: len(x)]
    energy, own = np.sum(np.square(x, dtype=np.float64)), np.sum(y**2)
    if own:
        y *= math.sqrt(energy / own)
    return _within(y)


def _within(samples: Array) -> Array:
    """Return samples as float32, scaled down if they leave [-1, 1]."""
    return np.asarray(samples / max(1.0, float(np.abs(samples).max())), np.float32)
