"""The layers of a network, one file a family, and the losses.

`LAYERS` is the table: a layer that is put into it predicts, trains, is pruned, saved and loaded
like the others; an activation is then also known by its name.
"""

from __future__ import annotations

from gbdnn.errors import choose
from gbdnn.layers.activations import GELU, Identity, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from gbdnn.layers.base import Activation, Layer
from gbdnn.layers.dropout import Dropout
from gbdnn.layers.linear import Linear
from gbdnn.layers.losses import LOSSES, Loss
from gbdnn.layers.recurrent import (
    BGRU,
    BLSTM,
    GRU,
    HEADS,
    LSTM,
    Embedding,
    FinalStates,
    LastStep,
    MeanOverTime,
    ResetBeforeGRU,
    TimeReduction,
)

__all__ = [
    "BGRU", "BLSTM", "GELU", "GRU", "HEADS", "LAYERS", "LOSSES", "LSTM", "Activation", "Dropout",
    "Embedding", "FinalStates", "Identity", "LastStep", "Layer", "LeakyReLU", "Linear", "Loss",
    "MeanOverTime", "ReLU", "ResetBeforeGRU", "Sigmoid", "Softmax", "Tanh", "TimeReduction",
    "activation",
    "activation_names",
]  # fmt: skip

LAYERS: dict[str, type[Layer]] = {
    layer.kind: layer
    for layer in (
        BGRU, BLSTM, Dropout, Embedding, FinalStates, GELU, GRU, Identity, LSTM, LastStep,
        LeakyReLU, Linear, MeanOverTime, ReLU, ResetBeforeGRU, Sigmoid, Softmax, Tanh,
        TimeReduction,
    )
}  # fmt: skip


def activation_names() -> list[str]:
    """Return the names of `LAYERS` that `activation` knows."""
    return sorted(name for name, layer in LAYERS.items() if layer.is_activation)


def activation(name: str) -> Layer:
    """Return the activation called `name`, with its default settings."""
    return LAYERS[choose("activation", name, activation_names())]()
