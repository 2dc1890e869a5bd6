"""Augmentation of frames in training: parts of time and of frequency are blotted out."""

from __future__ import annotations

import numpy as np

from gbdnn import checks
from gbdnn.errors import InputError, ShapeError
from gbdnn.types import Array

__all__ = ["spec_augment"]


def spec_augment(
    frames: Array,
    rng: np.random.Generator,
    *,
    bins: int = 40,
    bin_masks: int = 2,
    bin_width: int = 8,
    time_masks: int = 2,
    time_width: int = 10,
    share: float = 0.2,
) -> Array:
    """Return frames with masks of zeros, the mean of normalised frames (Park et al. 2019).

    Each mask has a width drawn uniformly from 0 to its largest, and a uniform place.

    Parameters
    ----------
    frames : ndarray of float, shape (frames, features)
        Not changed. Features are groups of `bins`, as a `FrontEnd` stacks them; a mask of bins
        covers the same bins of all groups.
    rng : Generator
    bins : int
    bin_masks, bin_width : int
        Number of masks over bins and their largest width.
    time_masks, time_width : int
        The same over frames.
    share : float
        Of the frames a mask over time covers at most.

    Returns
    -------
    ndarray of the dtype and shape of `frames`
    """
    if frames.ndim != 2 or frames.shape[1] % checks.count("bins", bins):
        raise ShapeError("frames", f"shape (frames, a multiple of {bins})", f"{frames.shape}")
    if not 0 <= bin_width <= bins:
        raise InputError("bin_width", f"0 to {bins}", repr(bin_width))
    checks.within("share", share, "[0, 1]")
    out = frames.copy()
    groups = out.reshape(len(out), -1, bins)
    for _ in range(checks.count("bin_masks", bin_masks, 0)):
        width = int(rng.integers(bin_width + 1))
        begin = int(rng.integers(bins - width + 1))
        groups[:, :, begin : begin + width] = 0
    longest = min(checks.count("time_width", time_width, 0), int(share * len(out)))
    for _ in range(checks.count("time_masks", time_masks, 0)):
        width = int(rng.integers(longest + 1))
        begin = int(rng.integers(len(out) - width + 1))
        groups[begin : begin + width] = 0
    return out
