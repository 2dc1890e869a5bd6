"""`to_torch`: a network as modules of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from gbdnn.errors import GbdnnError, InputError
from gbdnn.layers import (
    BGRU,
    BLSTM,
    GELU,
    GRU,
    LSTM,
    Dropout,
    Embedding,
    FinalStates,
    Identity,
    LastStep,
    LeakyReLU,
    Linear,
    MeanOverTime,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)  # fmt: skip
from gbdnn.network import Network, check_network
from gbdnn.torch.linear import SparseLinear
from gbdnn.torch.sequences import Final, Last, Mean, recurrent_module

__all__ = ["to_torch"]


def to_torch(network: Network) -> nn.Sequential:
    """Return a `torch.nn.Sequential` with the outputs of a network, in evaluation mode.

    Parameters
    ----------
    network : gbdnn.Network
        Sparse weights of linear layers become `SparseLinear`, dense ones `torch.nn.Linear`;
        recurrent layers and embeddings become torch's, with full weights. Quantised weights become
        what they mean in floats, and their inputs are not rounded.

    Returns
    -------
    torch.nn.Sequential
        For sequences it takes (samples, time, features); behind an embedding first,
        whole numbers (samples, time).

    Raises
    ------
    InputError, ShapeError
        For a layer that has no counterpart, with its place.
    """
    check_network("network", network)
    modules = []
    for k, layer in enumerate(network.layers):
        make = MODULES.get(type(layer))
        if make is None:
            known = ", ".join(kind.__name__ for kind in MODULES)
            raise InputError(f"layers[{k}]", f"one of {known}", type(layer).__name__)
        try:
            modules.append(make(layer))
        except GbdnnError as error:
            error.argument = f"layers[{k}]: {error.argument}"
            raise
    return nn.Sequential(*modules).eval()


def _linear(layer: Any) -> nn.Module:
    weight = layer.weight.plain()
    bias = np.array(np.broadcast_to(layer.bias, layer.out_features))
    if weight.form == "csr":
        made: nn.Module = SparseLinear.from_csr(weight, bias)
        return made
    full = torch.from_numpy(weight.to_dense(allow_dense=True))
    linear = nn.Linear(layer.in_features, layer.out_features, dtype=full.dtype)
    with torch.no_grad():
        linear.weight.copy_(full)
        linear.bias.copy_(torch.from_numpy(bias))
    return linear


def _relu(layer: Any) -> nn.Module:
    return nn.ReLU() if layer.cap is None else nn.Hardtanh(0.0, float(layer.cap))


def _embedding(layer: Any) -> nn.Module:
    full = torch.from_numpy(np.array(layer.weight.plain().to_dense(allow_dense=True).T))
    return nn.Embedding.from_pretrained(full, freeze=False)


MODULES: dict[type, Callable[[Any], nn.Module]] = {
    Linear: _linear,
    ReLU: _relu,
    LeakyReLU: lambda layer: nn.LeakyReLU(float(layer.negative_slope)),
    GELU: lambda layer: nn.GELU(),
    Tanh: lambda layer: nn.Tanh(),
    Sigmoid: lambda layer: nn.Sigmoid(),
    Softmax: lambda layer: nn.Softmax(dim=-1),
    Dropout: lambda layer: nn.Dropout(float(layer.rate)),
    Identity: lambda layer: nn.Identity(),
    LSTM: recurrent_module,
    BLSTM: recurrent_module,
    GRU: recurrent_module,
    BGRU: recurrent_module,
    Embedding: _embedding,
    FinalStates: lambda layer: Final(layer.forward_features),
    LastStep: lambda layer: Last(),
    MeanOverTime: lambda layer: Mean(),
}
