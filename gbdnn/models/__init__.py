"""Builders of networks, and the scaling of samples that becomes part of one."""

from __future__ import annotations

from gbdnn.models.mlp import TOPOLOGIES, hidden_activations, mlp
from gbdnn.models.scaling import SCALES, Scaling, fold, scaling

__all__ = ["SCALES", "TOPOLOGIES", "Scaling", "fold", "hidden_activations", "mlp", "scaling"]
