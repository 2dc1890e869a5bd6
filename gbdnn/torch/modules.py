"""`from_torch`: a chain of torch's modules as a network.

`torch.fx` follows the model's `forward`, so that models count that are written as classes; what it
finds must be a chain. Each part of the chain becomes layers by the table `LAYERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from gbdnn.errors import DtypeError, GbdnnError, InputError
from gbdnn.layers import (
    GELU,
    Dropout,
    FinalStates,
    LastStep,
    Layer,
    LeakyReLU,
    Linear,
    MeanOverTime,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)  # fmt: skip
from gbdnn.network import Network
from gbdnn.torch.linear import SparseLinear, effective_weight, float_array, masked
from gbdnn.torch.sequences import Final, Last, Mean, Swap, embedding_layer, recurrent_layers
from gbdnn.torch.tracing import chain
from gbdnn.types import Array
from gbdnn.weights import CSR, Dense
from gbdnn.weights.patterns import rows_of

__all__ = ["from_torch"]


def from_torch(module: nn.Module) -> Network:
    """Return a network with the outputs that a model of torch has in evaluation mode.

    Parameters
    ----------
    module : torch.nn.Module
        A chain of Linear, `SparseLinear`, BatchNorm1d, Flatten, Dropout, Identity, ReLU, ReLU6,
        Hardtanh from 0, LeakyReLU, GELU (exact), Tanh, Sigmoid and Softmax over the features, LSTM
        (of any number of layers, with a projection, in both directions), GRU and Embedding: a
        Sequential, or a class whose `forward` calls them, or their functions, one after another.
        Of sequences it may take the last time step, ``out[:, -1]`` or ``h[-1]``, the final states
        of both directions, ``torch.cat([h[-2], h[-1]], 1)``, or the mean.
        float16 and bfloat16 become float32; float64 stays. It is not changed.

    Returns
    -------
    Network
        Masks of `torch.nn.utils.prune` are applied; a weight half or more of which are zeros
        becomes a `gbdnn.CSR` without them. A BatchNorm1d is folded into the Linear before it; where
        none stands there it becomes a Linear with a diagonal weight. Inputs of more dimensions than
        (samples, features), which the model flattens first, are to be flattened by the caller.
        Sequences have the shape (samples, time, features), whatever ``batch_first`` says, numbers
        for an Embedding (samples, time, 1).

    Raises
    ------
    InputError, DtypeError
        For anything else, with the path of the module and what is supported.

    Examples
    --------
    >>> import gbdnn, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> gbdnn.from_torch(model).edges
    18
    """
    if not isinstance(module, nn.Module):
        raise DtypeError("module", "a torch.nn.Module", type(module).__name__)
    if isinstance(module, fx.GraphModule | torch.jit.ScriptModule):
        got = type(module).__name__
        raise DtypeError("module", "a model as it was written", got, "Pass the original.")
    wide = any(p.dtype == torch.float64 for p in module.parameters())
    links = list(chain(module, tuple(LAYERS)))
    over_time = any(isinstance(link.module, OVER_TIME) for link in links)
    reading = Reading(np.dtype(np.float64 if wide else np.float32), over_time)
    for link in links:
        make = next((LAYERS[kind] for kind in type(link.module).__mro__ if kind in LAYERS), None)
        if make is None or not _is_plain(link.module):
            known = ", ".join(kind.__name__ for kind in LAYERS if kind not in MARKS)
            raise InputError(link.path, f"one of {known}", _described(link.module))
        try:
            make(reading, link.module)
        except GbdnnError as error:
            error.argument = f"{link.path}: {error.argument}"
            raise
    layers = reading.layers
    while layers and layers[0].only_trains:
        layers = layers[1:]  # a network begins with a layer that has weights
    return Network(layers)


@dataclass
class Reading:
    """The layers so far, and which axis of the model's tensors is time.

    Attributes
    ----------
    dtype : numpy dtype
    over_time : bool
        Tensors are sequences, of three dimensions.
    time : int or None
        The axis of time, 0 or 1; None: nothing has said it yet.
    """

    dtype: Any
    over_time: bool
    time: int | None = None
    layers: list[Layer] = field(default_factory=list)

    def vectors(self, name: str) -> None:
        """Refuse sequences."""
        if self.over_time:
            raise InputError(name, "a vector for each sample", "sequences")

    def steps(self, name: str, axis: int) -> None:
        """Refuse another axis of time than the one before."""
        if not self.over_time:
            raise InputError(name, "sequences: behind an LSTM, GRU or Embedding", "vectors")
        if self.time not in (None, axis):
            raise InputError(name, f"time in axis {self.time}, as before", f"in axis {axis}")
        self.time = axis


def _is_plain(module: nn.Module) -> bool:
    """False for a subclass with a `forward` of its own."""
    kind = next(kind for kind in type(module).__mro__ if kind in LAYERS)
    return type(module).forward is kind.forward


def _described(module: nn.Module) -> str:
    kind = type(module)
    return kind.__name__ if kind.__module__.startswith("torch.nn") else f"{kind.__qualname__}"


Made = Callable[[Reading, Any], None]


def _linear(reading: Reading, module: Any) -> None:
    if isinstance(module, SparseLinear):
        weight: Any = module.to_csr()
    else:
        if isinstance(module.weight, nn.UninitializedParameter):
            raise InputError("weight", "one with values", "a lazy one", "Call the model once.")
        weight = np.array(float_array(effective_weight(module), "weight"))
    bias = 0.0 if module.bias is None else float_array(masked(module, "bias"), "bias")
    reading.layers.append(Linear(weight, bias, dtype=reading.dtype))


def _batch_norm(reading: Reading, module: Any) -> None:
    """z = (y - mean) / sqrt(var + eps) * weight + bias = s y + t."""
    reading.vectors("BatchNorm1d")
    if module.running_mean is None or module.running_var is None:
        fix = "Without them the outputs depend on the other samples of the batch."
        raise InputError("running_mean", "running statistics", "none", fix)
    mean, variance = (
        float_array(part, "running statistics").astype(np.float64)
        for part in (module.running_mean, module.running_var)
    )
    scale = 1 / np.sqrt(variance + module.eps)
    shift = -mean * scale
    if module.weight is not None:
        gain = float_array(masked(module, "weight"), "weight").astype(np.float64)
        scale, shift = scale * gain, shift * gain
    if module.bias is not None:
        shift = shift + float_array(masked(module, "bias"), "bias")
    layers, dtype = reading.layers, reading.dtype
    before: Any = layers[-1] if layers else None
    if not isinstance(before, Linear):
        n = len(scale)
        diagonal = CSR(
            np.arange(n + 1, dtype=np.int32), np.arange(n, dtype=np.int32), scale, (n, n)
        )
        layers.append(Linear(diagonal, shift, dtype=dtype))
        return
    if before.out_features != len(scale):
        expected = f"{before.out_features} features, as the layer before gives"
        raise InputError("num_features", expected, f"{len(scale)}")
    bias = before.bias * scale + shift
    layers[-1] = Linear(_scaled(before.weight, scale), bias, dtype=dtype)


def _scaled(weight: Any, scale: Array) -> Any:
    """Return a weight with its rows multiplied by `scale`, in the same form."""
    if weight.form == "dense":
        return Dense(weight.values * scale[:, None], dtype=weight.dtype)
    values = weight.full_values * scale[rows_of(weight)]
    return weight.with_entries(values.astype(weight.dtype))


def _nothing(reading: Reading, module: Any) -> None:
    """Leave values as they are."""


def _flatten(reading: Reading, module: Any) -> None:
    reading.vectors("Flatten")
    if module.start_dim != 1 or module.end_dim != -1:
        got = f"start_dim={module.start_dim}, end_dim={module.end_dim}"
        raise InputError("Flatten", "start_dim=1, end_dim=-1: a vector for each sample", got)
    before = next((e.out_features for e in reversed(reading.layers) if e.out_features), None)
    features = getattr(module, "features", None)
    if before and features not in (None, before):
        raise InputError("view", f"{before} features, as the layer before gives", f"{features}")


def _recurrent(reading: Reading, module: Any) -> None:
    reading.steps("batch_first", 1 if module.batch_first else 0)
    reading.layers += recurrent_layers(module, reading.dtype)


def _embedding(reading: Reading, module: Any) -> None:
    reading.layers.append(embedding_layer(module, reading.dtype))


def _head(make: Callable[[], Layer]) -> Made:
    def made(reading: Reading, module: Any) -> None:
        if module.axis is not None:
            known = 1 if reading.time is None else reading.time  # behind an Embedding alone
            reading.time = known
            reading.steps("the axis of time", module.axis)
        reading.over_time = False
        reading.layers.append(make())

    return made


def _final(reading: Reading, module: Any) -> None:
    reading.over_time = False
    reading.layers.append(FinalStates(module.forward_features))


def _swap(reading: Reading, module: Any) -> None:
    if reading.time is not None:
        reading.time = 1 - reading.time


def _activation(make: Callable[[Any], Layer]) -> Made:
    return lambda reading, module: reading.layers.append(make(module))


def _gelu(module: Any) -> Layer:
    if module.approximate != "none":
        raise InputError("approximate", "'none', the exact form", repr(module.approximate))
    return GELU()


def _softmax(reading: Reading, module: Any) -> None:
    last = 2 if reading.over_time else 1
    if module.dim not in (last, -1):
        raise InputError("dim", f"-1 or {last}, the features", repr(module.dim))
    reading.layers.append(Softmax())


def _hardtanh(module: Any) -> Layer:
    if module.min_val != 0:
        raise InputError("min_val", "0: a rectifier with a cap", repr(module.min_val))
    return ReLU(float(module.max_val))


LAYERS: dict[type[nn.Module], Made] = {
    nn.Linear: _linear,
    SparseLinear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.Flatten: _flatten,
    nn.Dropout: _activation(lambda module: Dropout(module.p)),
    nn.Identity: _nothing,
    nn.ReLU: _activation(lambda module: ReLU()),
    nn.ReLU6: _activation(lambda module: ReLU(6.0)),
    nn.Hardtanh: _activation(_hardtanh),
    nn.LeakyReLU: _activation(lambda module: LeakyReLU(module.negative_slope)),
    nn.GELU: _activation(_gelu),
    nn.Tanh: _activation(lambda module: Tanh()),
    nn.Sigmoid: _activation(lambda module: Sigmoid()),
    nn.Softmax: _softmax,
    nn.LSTM: _recurrent,
    nn.GRU: _recurrent,
    nn.Embedding: _embedding,
    Final: _final,
    Last: _head(LastStep),
    Mean: _head(MeanOverTime),
    Swap: _swap,
}
OVER_TIME = (nn.LSTM, nn.GRU, nn.Embedding)
MARKS = (Final, Last, Mean, Swap)  # which people do not write
