"""Builders of networks, and the scaling of samples that becomes part of one."""

from __future__ import annotations

from gbdnn.models.mlp import TOPOLOGIES, hidden_activations, mlp
from gbdnn.models.recurrent import OVER_TIME, lstm, recurrent
from gbdnn.models.scaling import SCALES, Scaling, fold, scaling
from gbdnn.models.transducer import Transducer, transducer

__all__ = [
    "OVER_TIME", "SCALES", "TOPOLOGIES", "Scaling", "Transducer", "fold", "hidden_activations",
    "lstm", "mlp", "recurrent", "scaling", "transducer",
]  # fmt: skip
