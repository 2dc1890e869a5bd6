"""Layers over time in torch: LSTM, GRU and Embedding as layers, and modules for what torch lacks.

torch's recurrent modules return a tuple, and one row of a sequence is taken by indexing: `Last`,
`Final`, `Mean` and `Outputs` say so as modules. `tracing` finds them in a model's `forward`,
`to_torch` writes them.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import nn

from gbdnn.conversion.cells import cell_layers
from gbdnn.errors import InputError, ShapeError
from gbdnn.layers import GRU, LSTM, Dropout, Embedding, Layer
from gbdnn.torch.linear import float_array, masked
from gbdnn.types import Array

__all__ = [
    "Final", "Last", "Mean", "Outputs", "Swap", "embedding_layer", "recurrent_layers",
    "recurrent_module",
]  # fmt: skip


class Last(nn.Module):
    """The last time step of each sequence; `axis` is that of time, None of h, which has none."""

    def __init__(self, axis: int | None = 1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, input: Any) -> Any:
        """Return the last time step."""
        return input[-1] if self.axis in (None, 0) else input[:, -1]


class Final(nn.Module):
    """The last time step of the first features, the first one of the others.

    Those are the final states of both directions; samples come first.
    """

    def __init__(self, forward_features: int) -> None:
        super().__init__()
        self.forward_features = forward_features

    def forward(self, input: Any) -> Any:
        """Return both, side by side."""
        n = self.forward_features
        return torch.cat([input[:, -1, :n], input[:, 0, n:]], 1)


class Mean(nn.Module):
    """The mean over the time steps of each sequence; `axis` is that of time."""

    def __init__(self, axis: int = 1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, input: Any) -> Any:
        """Return the mean."""
        return input.mean(self.axis)


class Swap(nn.Module):
    """Samples and time change places."""

    def forward(self, input: Any) -> Any:
        """Return the transposed view."""
        return input.transpose(0, 1)


class Outputs(nn.Module):
    """What an LSTM or GRU gives at each time step, without the state behind the last one."""

    def __init__(self, cells: nn.Module) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, input: Any) -> Any:
        """Return h of each time step."""
        return self.cells(input)[0]


def recurrent_layers(module: Any, dtype: Any) -> list[Layer]:
    """Return the layers of a `torch.nn.LSTM` or `torch.nn.GRU`, with its masks applied."""
    names = [re.sub("_orig$", "", name) for name, _ in module.named_parameters()]
    layers = cell_layers(
        {n: np.array(float_array(masked(module, n), n)) for n in dict.fromkeys(names)}, dtype
    )
    if not module.dropout:
        return layers
    return [each for layer in layers for each in (layer, Dropout(module.dropout))][:-1]


def embedding_layer(module: Any, dtype: Any) -> Embedding:
    """Return the layer of a `torch.nn.Embedding`."""
    if module.max_norm is not None:
        raise InputError("max_norm", "None: weights as they are", repr(module.max_norm))
    return Embedding(np.array(float_array(masked(module, "weight"), "weight").T), dtype=dtype)


def recurrent_module(layer: Any) -> nn.Module:
    """Return an `Outputs` of a `torch.nn.LSTM` or `torch.nn.GRU` with the weights of a layer.

    Raises
    ------
    ShapeError
        For two directions of different sizes.
    """
    sides = dict(zip(("_l0", "_l0_reverse"), getattr(layer, "sides", (layer,)), strict=False))
    first = sides["_l0"]
    cells = first.weight.shape[0] // first.row_blocks
    options: dict[str, Any] = {"batch_first": True, "dtype": getattr(torch, str(first.dtype))}
    options["bidirectional"] = len(sides) > 1
    down = getattr(first, "projection", None)
    sizes = {(side.recurrent.shape, getattr(side, "projection", None) is None)
             for side in sides.values()}  # fmt: skip
    if len(sizes) > 1:
        expected = "sides of equal sizes, as torch has them in two directions"
        raise ShapeError("layer", expected, f"{layer!r}")
    made: Any
    if isinstance(first, LSTM):
        size = 0 if down is None else first.out_features
        made = nn.LSTM(first.in_features, cells, proj_size=size, **options)
    else:
        made = nn.GRU(first.in_features, cells, **options)
    with torch.no_grad():
        for end, side in sides.items():
            for name, value in _tensors(side).items():
                getattr(made, name + end).copy_(torch.from_numpy(np.array(value)))
    return Outputs(made)


def _tensors(side: Any) -> dict[str, Array]:
    """Return what torch calls the parameters of one direction."""
    rows = side.weight.shape[0]
    made = {"weight_ih": side.weight, "weight_hh": side.recurrent}
    if getattr(side, "projection", None) is not None:
        made["weight_hr"] = side.projection
    tensors = {name: w.plain().to_dense(allow_dense=True) for name, w in made.items()}
    tensors["bias_ih"] = np.broadcast_to(side.bias, rows)
    tensors["bias_hh"] = np.zeros(rows, side.dtype)
    if isinstance(side, GRU):
        tensors["bias_hh"][rows // 3 * 2 :] = side.recurrent_bias
    return tensors
