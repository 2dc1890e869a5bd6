"""Pruning and sparse training: five pieces that combine freely.

==============  ===========================================  =======================================
piece           says                                         choices
==============  ===========================================  =======================================
score           how much an entry matters                    magnitude, gradient, movement, random
distribution    how sparse each weight becomes               global, lamp, uniform, erk
schedule        when, and how much of the way                OneShot, Periodic, Polynomial, Never
structure       what goes as a whole                         Unstructured, NM, Block, Neuron
growth          what grows for what is dropped               none, SET, RigL
==============  ===========================================  =======================================

Names come from the tables `SCORES`, `DISTRIBUTIONS`, `SCHEDULES`, `STRUCTURES`, `GROWTHS`; objects
of the same kinds may be passed as well. `prune` takes a network's weights away at once; a
`Sparsifier` does it while a `Trainer` trains. Patterns are sparse matrices throughout, not masks
over dense ones.
"""

from __future__ import annotations

from gbdnn.pruning.distributions import DISTRIBUTIONS
from gbdnn.pruning.growth import GROWTHS, SET, Growth, RigL
from gbdnn.pruning.in_training import PRESETS, Sparsifier, sparsifier
from gbdnn.pruning.post_training import prune
from gbdnn.pruning.report import PruningReport, pruning_report
from gbdnn.pruning.schedules import SCHEDULES, Never, OneShot, Periodic, Polynomial
from gbdnn.pruning.scores import SCORES, Score
from gbdnn.pruning.structures import NM, STRUCTURES, Block, Neuron, Structure, Unstructured

__all__ = [
    "DISTRIBUTIONS", "GROWTHS", "NM", "PRESETS", "SCHEDULES", "SCORES", "SET", "STRUCTURES",
    "Block", "Growth", "Neuron", "Never", "OneShot", "Periodic", "Polynomial", "PruningReport",
    "RigL", "Score", "Sparsifier", "Structure", "Unstructured", "prune", "pruning_report",
    "sparsifier",
]  # fmt: skip
