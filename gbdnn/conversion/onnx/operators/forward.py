"""Nodes of ONNX graphs that are products, functions of single values, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbdnn.conversion.onnx.files import unsupported
from gbdnn.conversion.onnx.operators import integers
from gbdnn.conversion.onnx.reading import Operator, Reading
from gbdnn.layers import GELU, Dropout, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh

__all__ = ["MICROSOFT", "OPERATORS", "text_of"]


def text_of(value: Any) -> str:
    """Return a text of a file."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _gemm(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    weight, bias = [*reading.constants(node), None][1:3]
    if weight is None or attributes.get("transA", 0) or (bias is None and len(node.input) > 2
                                                         and node.input[2]):  # fmt: skip
        raise unsupported(node, "X times a constant, plus a constant")
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    rows = bool(attributes.get("transB", 0))
    codes = reading.graph.constants.codes(node.input[1]) if alpha == 1 else None
    weight = weight if rows else weight.T
    if alpha != 1:
        weight = (weight * alpha).astype(weight.dtype)
    if codes is not None and not rows:
        codes = codes.each(np.transpose)
    reading.product(node, weight, 0.0 if bias is None else beta * bias, codes)


def _matmul(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    weight = reading.constants(node)[1]
    if weight is None or node.input[0] != computed:
        raise unsupported(node, "X times a constant")
    codes = reading.graph.constants.codes(node.input[1])
    reading.product(node, weight.T, 0.0, None if codes is None else codes.each(np.transpose))


def _per_feature(reading: Reading, node: Any, value: Any) -> Any:
    """Return a constant for each feature as a vector."""
    array = np.asarray(value)
    rank = reading.rank or 2
    if array.size != (array.shape[-1] if array.ndim else 1) or array.ndim > rank:
        raise unsupported(node, "a number, or one for each feature", f"shape {array.shape}")
    if array.size > 1:
        reading.features_last(node)
    return array.reshape(-1) if array.size > 1 else array.reshape(())


def _arithmetic(factor: Callable[[Any], Any], shift: Callable[[Any], Any]) -> Operator:
    """Return an operator that is an affine map of each feature, by its constant c."""

    def operator(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
        if node.op_type == "Mul" and reading.graph.gelu(node):
            reading.chain.layer(GELU())
            reading.chain.scaled(2.0, 0.0)
            return
        if node.op_type == "Mul" and reading.graph.dynamic_product(node):
            integers.dynamic_product(reading, node)
            return
        first, second = reading.constants(node)
        if first is None and second is None:
            raise unsupported(node, "one constant")
        c = _per_feature(reading, node, first if second is None else second).astype(np.float64)
        if second is not None:
            with np.errstate(divide="ignore"):
                reading.chain.scaled(factor(c), shift(c))
        elif node.op_type == "Div":
            raise unsupported(node, "a division by a constant", "one of a constant")
        elif node.op_type == "Sub":
            reading.chain.scaled(-1.0, c)
        else:
            reading.chain.scaled(factor(c), shift(c))

    return operator


def _batch_norm(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    gain, bias, mean, variance = reading.constants(node)[1:5]
    if any(part is None for part in (gain, bias, mean, variance)) or reading.rank not in (2, None):
        raise unsupported(node, "constants for each feature of a sample")
    if attributes.get("training_mode", 0):
        raise unsupported(node, "training_mode 0")
    factor = gain / np.sqrt(variance.astype(np.float64) + attributes.get("epsilon", 1e-5))
    reading.chain.scaled(factor, bias - mean * factor)


def _scaler(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    offset, factor = (np.asarray(attributes[name], np.float64) for name in ("offset", "scale"))
    reading.chain.scaled(factor, -offset * factor)


def _clip(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    constants = reading.constants(node)
    if any(
        value is None and name for name, value in list(zip(node.input, constants, strict=True))[1:]
    ):
        raise unsupported(node, "constant bounds")
    low, high = (
        attributes.get(name, sign * np.inf) if len(constants) <= k or constants[k] is None
        else float(constants[k].reshape(()))
        for k, name, sign in ((1, "min", -1), (2, "max", 1))
    )  # fmt: skip
    if low <= np.finfo(np.float32).min and high >= np.finfo(np.float32).max:
        return
    if integers.narrows(reading, low, high):
        return
    if low != 0 or not high > 0:
        raise unsupported(node, "bounds 0 and a positive cap, or none", f"{low} and {high}")
    reading.chain.layer(ReLU(None if high >= np.finfo(np.float32).max else high))


def _bounded(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Append a ReLU for Max(x, 0), or its cap for a Min behind it, as tf2onnx writes them."""
    bounds = [value for value in reading.constants(node) if value is not None]
    if len(bounds) != 1 or len(node.input) != 2 or bounds[0].size != 1:
        raise unsupported(node, "one constant number", "others")
    bound, parts = float(bounds[0].reshape(())), reading.chain.parts
    ready = reading.chain.waiting is None and reading.chain.levels is None
    before = parts[-1] if parts and ready else None
    if node.op_type == "Max" and bound == 0:
        reading.chain.layer(ReLU())
    elif isinstance(before, ReLU) and before.cap is None and node.op_type == "Min" and bound > 0:
        parts[-1] = ReLU(bound)
    else:
        raise unsupported(node, "Max with 0, or a Min above 0 behind it", f"{bound}")


def _softmax(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    axis = attributes.get("axis", -1 if reading.opset >= 13 else 1)
    reading.features_last(node, axis)
    reading.chain.layer(Softmax())


def _gelu(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    if attributes.get("approximate", b"none") not in (b"none", "none"):
        raise unsupported(node, "approximate 'none'", "an approximation")
    reading.chain.layer(GELU())


def _dropout(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    constants = reading.constants(node)
    if len(node.input) > 2 and node.input[2] and (constants[2] is None or constants[2].any()):
        raise unsupported(node, "training_mode false")
    given = constants[1] if len(constants) > 1 else None
    rate = float(attributes.get("ratio", 0.5) if given is None else given)
    if 0 <= rate < 1:
        reading.chain.layer(Dropout(rate))


def _nothing(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Leave values as they are."""


def _cast(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    if attributes["to"] not in (1, 10, 11, 16) and not reading.numbers:
        raise unsupported(node, "a float type", f"type {attributes['to']}")


def _zip_map(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    names = attributes.get("classlabels_strings") or attributes.get("classlabels_int64s") or []
    reading.classes = [text_of(n) if isinstance(n, bytes) else n for n in names] or None


def _layer(make: Callable[[dict[str, Any]], Any]) -> Operator:
    return lambda reading, node, attributes, computed: reading.chain.layer(make(attributes))


OPERATORS: dict[str, Operator] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _arithmetic(np.ones_like, lambda c: c),
    "Sub": _arithmetic(np.ones_like, lambda c: -c),
    "Mul": _arithmetic(lambda c: c, np.zeros_like),
    "Div": _arithmetic(lambda c: 1 / c, np.zeros_like),
    "BatchNormalization": _batch_norm,
    "Scaler": _scaler,
    "Relu": _layer(lambda a: ReLU()),
    "Clip": _clip,
    "Max": _bounded,
    "Min": _bounded,
    "LeakyRelu": _layer(lambda a: LeakyReLU(a.get("alpha", 0.01))),
    "Tanh": _layer(lambda a: Tanh()),
    "Sigmoid": _layer(lambda a: Sigmoid()),
    "Gelu": _gelu,
    "Softmax": _softmax,
    "Dropout": _dropout,
    "Identity": _nothing,
    "Cast": _cast,
    "ZipMap": _zip_map,
}
MICROSOFT: dict[str, Operator] = {"Gelu": _gelu}
