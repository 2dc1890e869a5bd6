"""From samples to frames: log-mel energies, differences, stacking, normalisation; also in parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.errors import DtypeError, FileFormatError, InputError, ShapeError
from gbdnn.speech.data.audio import as_samples
from gbdnn.types import Array

__all__ = ["FrontEnd", "FrontEndSession"]

SHIFT, LENGTH = 10.0, 25.0  # ms, of the windows
DELTA = np.array([-2, -1, 0, 1, 2], np.float32) / 10
DELTAS: list[Array] = [
    np.ones(1, np.float32), DELTA, np.convolve(DELTA, DELTA).astype(np.float32),
]  # fmt: skip
"""Weights of the frames around one: itself, the slope of a line through five, and its slope."""
AROUND = len(DELTAS[2]) // 2


@dataclass(frozen=True)
class FrontEnd:
    """What a recogniser hears: how samples become frames; a callable.

    Windows of 25 ms every 10 ms give logarithms of mel energies (package kaldi-native-fbank,
    without dither). With `deltas` their first and second differences are appended: slopes of the
    line through five frames. Each feature is normalised by a global mean and deviation, if there
    are. Then `stack` frames are put into one, and the next begins `skip` later; at the end the last
    frame is repeated.

    Parameters
    ----------
    rate : int
        Samples a second.
    bins : int
        Mel filters, from 20 Hz to half the rate.
    deltas : bool
    stack, skip : int
    mean, deviation : tuple of float, optional
        One for each feature of a frame before stacking; see `fitted`.
    """

    rate: int = 8000
    bins: int = 40
    deltas: bool = False
    stack: int = 3
    skip: int = 3
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        checks.within("rate", self.rate, "[1000, 192000]", whole=True)
        checks.within("bins", self.bins, "[4, 256]", whole=True)
        for name in ("stack", "skip"):
            checks.within(name, getattr(self, name), "[1, 100]", whole=True)
        if not isinstance(self.deltas, bool):
            raise DtypeError("deltas", "True or False", repr(self.deltas))
        if (self.mean is None) != (self.deviation is None):
            raise InputError("mean", "both mean and deviation, or none", "one of them")
        for name in ("mean", "deviation"):
            if (value := getattr(self, name)) is not None:
                numbers = tuple(map(float, value))
                if len(numbers) != self.single or not all(map(math.isfinite, numbers)):
                    expected = f"{self.single} finite numbers, one for each feature"
                    raise InputError(name, expected, f"{len(numbers)}: {numbers!r:.60}")
                if name == "deviation" and min(numbers) <= 0:
                    raise InputError(name, "positive numbers", f"{min(numbers)}")
                object.__setattr__(self, name, numbers)

    @property
    def single(self) -> int:
        """Features of a frame before stacking."""
        return self.bins * (3 if self.deltas else 1)

    @property
    def features(self) -> int:
        """Features of a frame."""
        return self.single * self.stack

    @property
    def seconds_per_frame(self) -> float:
        """Time from a frame to the next."""
        return SHIFT * self.skip / 1000

    def __call__(self, samples: Any) -> Array:
        """Return the frames of a recording.

        Parameters
        ----------
        samples : array_like of float, shape (samples,)
            Within [-1, 1], at the rate `rate`.

        Returns
        -------
        ndarray of float32, shape (frames, features)
            ceil(n / skip) frames for n windows.

        Raises
        ------
        InputError
            Shorter than a window.
        DtypeError, ShapeError, NonFiniteError, MissingDependencyError
        """
        session = self.session()
        return np.concatenate([session.accept(samples), session.finish()])

    def fitted(self, parts: Iterable[Any]) -> FrontEnd:
        """Return a front end that makes zero mean and unit variance of recordings like these.

        Parameters
        ----------
        parts : iterable of ndarray
            Samples, shape (samples,), or what this front end made of them, (frames, features),
            without a mean of its own. A feature that is constant keeps a deviation of 1.
        """
        plain = replace(self, mean=None, deviation=None)
        count, total = 0, np.zeros(self.single)
        squares = np.zeros(self.single)
        for number, part in enumerate(parts):
            array = np.asarray(part)
            if array.ndim == 1:
                array = plain(array)
            elif self.mean is not None:
                fix = "Make them by a front end without mean, or give samples."
                raise InputError("parts", "frames that are not normalised", "a fitted one", fix)
            if array.ndim != 2 or array.shape[1] != self.features:
                expected = f"shape (samples,) or (frames, {self.features})"
                raise ShapeError(f"parts[{number}]", expected, f"{array.shape}")
            rows = array.reshape(-1, self.single).astype(np.float64)
            count += len(rows)
            total += rows.sum(axis=0)
            squares += np.square(rows).sum(axis=0)
        if not count:
            raise InputError("parts", "at least one frame", "none")
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        deviation[deviation < 1e-4] = 1
        found = {"mean": mean, "deviation": deviation}
        # Files say them as text: as many digits as float32 is sure of.
        short = {name: tuple(float(f"{v:.6g}") for v in each) for name, each in found.items()}
        return replace(self, mean=short["mean"], deviation=short["deviation"])

    def session(self) -> FrontEndSession:
        """Return a session for samples that come in parts."""
        return FrontEndSession(self)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can say, for model files."""
        found = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> FrontEnd:
        """Return the front end that `as_dict` described.

        Raises
        ------
        FileFormatError
        """
        if not isinstance(settings, Mapping) or not settings.keys() <= cls.__annotations__.keys():
            expected = f"a dict with {', '.join(cls.__annotations__)}"
            raise FileFormatError("front end", expected, f"{settings!r:.80}")
        try:
            return cls(**settings)
        except (TypeError, ValueError) as error:
            raise FileFormatError("front end", "its settings", str(error)[:200]) from None


class FrontEndSession:
    """A recording whose samples come in parts; all frames together are those of the whole."""

    def __init__(self, front: FrontEnd) -> None:
        package = checks.package("kaldi_native_fbank", "features of audio", "speech")
        options = package.FbankOptions()
        options.frame_opts.samp_freq = front.rate
        options.frame_opts.frame_shift_ms, options.frame_opts.frame_length_ms = SHIFT, LENGTH
        options.frame_opts.dither = 0.0
        options.mel_opts.num_bins = front.bins
        self.front = front
        try:
            self._filters = package.OnlineFbank(options)
        except ValueError:  # a filter without a frequency of the transform
            expected = f"fewer mel filters for {front.rate} Hz"
            raise InputError("bins", expected, f"{front.bins}") from None
        self._read = 0  # windows that were taken from the filters
        self._windows = np.zeros((0, front.bins), np.float32)  # those that are still needed
        self._frames = np.zeros((0, front.single), np.float32)  # not yet stacked
        self._finished = self._begun = False
        self._skipped = 0  # frames still to be passed over
        if front.mean is not None and front.deviation is not None:
            self._mean = np.array(front.mean, np.float32)
            self._scale = 1 / np.array(front.deviation, np.float32)

    def accept(self, samples: Any) -> Array:
        """Go on with samples, shape (samples,); return the frames that are now known."""
        if self._finished:
            fix = "Make a session for each recording."
            raise InputError("session", "no samples after finish()", "some", fix)
        array = as_samples("samples", samples)
        self._filters.accept_waveform(self.front.rate, array.tolist())
        ready = self._filters.num_frames_ready
        new = [self._filters.get_frame(k).copy() for k in range(self._read, ready)]
        self._filters.pop(ready - self._read)
        self._read = ready
        return self._stacked(self._singles(new, last=False), last=False)

    def finish(self) -> Array:
        """Return the last frames."""
        if self._finished:
            return np.zeros((0, self.front.features), np.float32)
        if not self._read:
            expected = f"at least {LENGTH:g} ms of audio, one window"
            raise InputError("samples", expected, "less")
        self._finished = True
        return self._stacked(self._singles([], last=True), last=True)

    def _singles(self, new: list[Array], *, last: bool) -> Array:
        """Return frames before stacking: with differences once all frames around are known."""
        front = self.front
        if not front.deltas:
            found: Array = np.array(new, np.float32).reshape(-1, front.bins)
        else:
            if new and not self._begun:  # before the first window that window again
                new = [new[0]] * AROUND + new
                self._begun = True
            windows = np.concatenate([self._windows, *(window[None] for window in new)])
            if last:
                windows = np.concatenate([windows, windows[-1:].repeat(AROUND, axis=0)])
            count = max(len(windows) - 2 * AROUND, 0)
            parts = []
            for weights in DELTAS:
                begin = AROUND - len(weights) // 2
                part = np.zeros((count, front.bins), np.float32)
                for k, weight in enumerate(weights):
                    if weight:
                        part += weight * windows[begin + k : begin + k + count]
                parts.append(part)
            found = np.concatenate(parts, axis=1)
            self._windows = windows[count:]
        if front.mean is not None:
            found = (found - self._mean) * self._scale
        return found

    def _stacked(self, new: Array, *, last: bool) -> Array:
        """Return stacked frames, once all their parts are known."""
        front = self.front
        frames = np.concatenate([self._frames, new])
        passed = min(self._skipped, len(frames))
        frames, self._skipped = frames[passed:], self._skipped - passed
        starts = range(0, len(frames) if last else len(frames) - front.stack + 1, front.skip)
        if last and len(frames):
            frames = np.concatenate([frames, frames[-1:].repeat(front.stack - 1, axis=0)])
        found = [frames[k : k + front.stack].reshape(-1) for k in starts]
        done = len(starts) * front.skip
        self._frames = frames[done:]
        self._skipped += max(done - len(frames), 0)
        return np.array(found, np.float32).reshape(-1, front.features)
