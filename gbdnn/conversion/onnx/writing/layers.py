"""Layers as ONNX nodes: each kind is one function in `WRITERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbdnn.conversion.onnx.writing.graph import Writing
from gbdnn.conversion.onnx.writing.recurrent import recurrent
from gbdnn.weights import Integers

__all__ = ["WRITERS"]

FAR = 1 << 31  # as the end of a slice: behind all features
Writer = Callable[[Writing, Any, str], object]


def _linear(writing: Writing, layer: Any, name: str) -> None:
    weight = layer.weight
    bias = np.broadcast_to(layer.bias, layer.out_features).astype(writing.dtype)
    turned = writing.over_time  # a Gemm takes no sequences
    matrix = writing.matrix(weight, f"{name}.weight", turned=turned)
    if isinstance(weight, Integers):
        writing.rounding(weight.levels, f"{name}.input")
    added = writing.tensor(f"{name}.bias", bias)
    if turned:
        writing.node("MatMul", [matrix], name)
        writing.node("Add", [added], name)
    else:
        writing.node("Gemm", [matrix, added], name, transB=1)


def _relu(writing: Writing, layer: Any, name: str) -> None:
    if layer.cap is None:
        writing.node("Relu", [], name)
        return
    ends = [("low", 0.0), ("cap", layer.cap)]
    writing.node("Clip", [writing.number(f"{name}.{end}", value) for end, value in ends], name)


def _plain(op: str, **attributes: Any) -> Writer:
    return lambda writing, layer, name: writing.node(op, [], name, **attributes)


def _embedding(writing: Writing, layer: Any, name: str) -> None:
    table = writing.matrix(layer.weight, f"{name}.weight", turned=True)
    writing.last = writing.put("Gather", [table, writing.last], name, axis=0)


def _last(writing: Writing, layer: Any, name: str) -> None:
    place = writing.tensor(f"{name}.place", np.array(-1, np.int64))
    writing.node("Gather", [place], name, axis=0 if writing.time_first else 1)
    writing.over_time = writing.time_first = False


def _final(writing: Writing, layer: Any, name: str) -> None:
    """Write the last time step of the first features beside the first one of the others."""
    given, n, time = writing.last, layer.forward_features, 0 if writing.time_first else 1
    parts = []
    for side, place, cut in (("forward", -1, (0, n)), ("backward", 0, (n, FAR))):
        own = f"{name}.{side}"
        where = writing.tensor(f"{own}.place", np.array(place, np.int64))
        row = writing.put("Gather", [given, where], own, axis=time)
        ends = [writing.tensor(f"{own}.{k}", np.array([end])) for k, end in enumerate((*cut, 1))]
        parts.append(writing.put("Slice", [row, *ends], f"{own}.part") if n else row)
    writing.last = writing.put("Concat", parts, name, axis=1) if n else parts[1]
    writing.over_time = writing.time_first = False


def _mean(writing: Writing, layer: Any, name: str) -> None:
    axis = writing.tensor(f"{name}.axis", np.array([0 if writing.time_first else 1], np.int64))
    writing.node("ReduceMean", [axis], name, keepdims=0)
    writing.over_time = writing.time_first = False


def _nothing(writing: Writing, layer: Any, name: str) -> None:
    """Write nothing."""


WRITERS: dict[str, Writer] = {
    "linear": _linear,
    "relu": _relu,
    "leaky_relu": lambda writing, layer, name: writing.node(
        "LeakyRelu", [], name, alpha=float(layer.negative_slope)
    ),
    "tanh": _plain("Tanh"),
    "sigmoid": _plain("Sigmoid"),
    "gelu": _plain("Gelu"),
    "softmax": _plain("Softmax", axis=-1),
    "identity": _nothing,
    "dropout": _nothing,
    "lstm": recurrent,
    "gru": recurrent,
    "blstm": recurrent,
    "bgru": recurrent,
    "gru_reset_before": recurrent,
    "embedding": _embedding,
    "last": _last,
    "final": _final,
    "mean": _mean,
}
