"""Which connections a layer has: random (Erdos-Renyi, ERK) and deterministic (RadiX-Net) patterns.

Every matrix is (out_features, in_features), as all weights in gbdnn.
"""

from __future__ import annotations

from gbdnn.topology.radix import mixed_radix, radix_net
from gbdnn.topology.random import INITIALISERS, erdos_renyi, erk_densities, initialise

__all__ = [
    "INITIALISERS",
    "erdos_renyi",
    "erk_densities",
    "initialise",
    "mixed_radix",
    "radix_net",
]
