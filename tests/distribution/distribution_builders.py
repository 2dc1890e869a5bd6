"""Networks, and what is in shared memory."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from gbdnn import Linear


def layers_of(rng, *sizes, density=0.2):
    """Return sparse layers with ReLU between them."""
    layers = []
    for into, out in itertools.pairwise(sizes):
        W = sp.random_array((out, into), density=density, rng=rng)
        W.data -= 0.5
        layers += [Linear(W.astype(np.float32), rng.standard_normal(out, np.float32)), "relu"]
    return layers[:-1]


def segments(process: int | None = None) -> set[str]:
    """Return the shared memory that a process, by default this one, has made."""
    return {path.name for path in Path("/dev/shm").glob(f"gbdnn_{process or os.getpid()}_*")}
