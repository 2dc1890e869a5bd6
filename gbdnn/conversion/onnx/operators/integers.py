"""Nodes of ONNX graphs with whole numbers: roundings of activations, and products of codes.

QuantizeLinear says levels that wait in the chain for the next product. Where a scale is found as
the values come, the weight keeps its codes and the activations stay floats: nearer to what was
trained, and a warning says so.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from gbdnn.conversion.onnx.codes import Codes, centred
from gbdnn.conversion.onnx.files import unsupported
from gbdnn.conversion.onnx.operators.axes import embedded
from gbdnn.conversion.onnx.operators.recurrent import stacked
from gbdnn.conversion.onnx.reading import Operator, Reading
from gbdnn.types import Array
from gbdnn.weights import Levels

__all__ = ["MICROSOFT", "ON_CODES", "OPERATORS", "dynamic_product", "narrows"]


def narrows(reading: Reading, low: float, high: float) -> bool:
    """Whether bounds only narrow the levels of the QuantizeLinear that follows."""
    follows = reading.upcoming is not None and reading.upcoming.op_type == "QuantizeLinear"
    if follows and low < 0 < high:
        reading.bounds = low, high
    return follows and low < 0 < high


def _quantize(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    scale, zero = [*reading.constants(node), None][1:3]
    kind: Any = np.uint8 if zero is None else zero.dtype
    if scale is None or scale.size != 1 or kind not in (np.uint8, np.int8):
        raise unsupported(node, "one constant scale, and codes of at most 8 bits", "others")
    low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    if reading.graph.constants.is_half(node.output[0]):
        low, high = (-8, 7) if low < 0 else (0, 15)
    offset = 0 if zero is None else int(zero.reshape(()))
    step = float(scale.reshape(()))
    if reading.bounds is not None and step > 0:
        ends = np.rint(np.clip(np.divide(reading.bounds, step), -1e4, 1e4)) + offset
        low, high = (int(end) for end in np.clip(ends, low, high))
        reading.bounds = None
    reading.chain.rounded(Levels(step, offset, low, high))
    reading.coded = True


def _dequantize(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    scale, zero = [*reading.constants(node), None][1:3]
    reading.coded = False
    if reading.table is not None and scale is not None:
        codes = centred(reading.table, scale, zero, {"axis": 1})
        middle = 0 if zero is None else zero.astype(np.int16)
        embedded(reading, ((reading.table - middle) * scale).astype(np.float32), codes)
        reading.table = None
        return
    if not _is_waiting(reading, scale, zero):
        raise unsupported(node, "the scale and zero point of the QuantizeLinear before it")


def _is_waiting(reading: Reading, scale: Any, zero: Any) -> bool:
    """Whether scale and zero point are those of the levels that wait."""
    levels: Any = reading.chain.levels
    if scale is None or levels is None or scale.size != 1:
        return False
    offset = 0 if zero is None else int(zero.reshape(()))
    return (float(scale.reshape(())), offset) == (levels.step, levels.zero)


def _product(
    reading: Reading, node: Any, codes: Any, scale: Any, zero: Any, *, rows: bool = False,
    bias: Any = 0.0,
) -> None:  # fmt: skip
    """Append a product with codes (in, out), in `rows` (out, in), times scales of the outputs."""
    if codes is None or scale is None or codes.ndim != 2 or codes.dtype not in (np.int8, np.uint8):
        raise unsupported(node, "a constant matrix of 8 bits with constant scales", "another")
    attributes = {"axis": 0 if rows else 1}
    made = centred(codes, scale, zero, attributes)
    shape = (-1, 1) if rows else (1, -1)
    middle = 0 if zero is None else zero.astype(np.int16).reshape(shape)
    weight = ((codes.astype(np.int16) - middle) * scale.reshape(shape)).astype(np.float32)
    turned = made if rows or made is None else made.each(np.transpose)
    reading.product(node, weight if rows else weight.T, bias, turned)


def _named(reading: Reading, node: Any, count: int) -> list[Any]:
    """Return the constants of a node's inputs, None for those that are left out, as many as said.

    Raises
    ------
    InputError
        For one beside the first that is computed.
    """
    known = reading.constants(node)
    if any(name and value is None for name, value in list(zip(node.input, known, strict=True))[1:]):
        raise unsupported(node, "constants beside the first input", "others")
    return [*known, *[None] * count][:count]


def dynamic_product(reading: Reading, node: Any) -> None:
    """Append what `Graph.dynamic_product` has found."""
    found = reading.graph.dynamic_product(node)
    if found is None:
        raise unsupported(node, "a product", "another")
    _, product, scale = found
    codes, _, zero = [*reading.constants(product), None, None][1:4]
    zero = reading.graph.constant(product.input[3]) if len(product.input) > 3 else None
    _product(reading, product, codes, reading.graph.constant(scale), zero)
    _warn(node.op_type)


def _dynamic_matmul(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    _, codes, scale, zero, bias = _named(reading, node, 5)
    _product(reading, node, codes, scale, zero, bias=0.0 if bias is None else bias)
    _warn(node.op_type)


def _warn(kind: str) -> None:
    message = f"{kind} rounds activations to scales that are found as they come: left out"
    warnings.warn(message, UserWarning, stacklevel=5)


def _matmul_integer(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Append sums of codes times codes: the product with W / step."""
    _, codes, own, zero = _named(reading, node, 4)
    levels = reading.chain.levels
    if not reading.coded or levels is None or (0 if own is None else own) != levels.zero:
        raise unsupported(node, "the zero point of the QuantizeLinear before it")
    reading.coded = False
    _product(reading, node, codes, np.array([1 / levels.step], np.float32), zero)


def _qlinear_matmul(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    _, own, middle, codes, scale, zero, step, offset = _named(reading, node, 8)
    if not reading.coded or not _is_waiting(reading, own, middle):
        raise unsupported(node, "the scale and zero point of the QuantizeLinear before it")
    _product(reading, node, codes, scale, zero)
    _round_again(reading, node, step, offset)


def _qgemm(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    _, own, middle, codes, scale, zero, sums, step, offset = _named(reading, node, 9)
    if not reading.coded or not _is_waiting(reading, own, middle):
        raise unsupported(node, "the scale and zero point of the QuantizeLinear before it")
    if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1:
        raise unsupported(node, "alpha 1, transA 0", "others")
    bias = 0.0 if sums is None else sums * (own.ravel().astype(np.float64) * scale.ravel())
    _product(reading, node, codes, scale, zero, rows=bool(attributes.get("transB", 0)), bias=bias)
    if step is None:
        reading.coded = False
    else:
        _round_again(reading, node, step, offset)


def _round_again(reading: Reading, node: Any, step: Array | None, offset: Array | None) -> None:
    """Append the rounding of a product's outputs."""
    kind: Any = np.uint8 if offset is None else offset.dtype
    if step is None or step.size != 1 or kind not in (np.uint8, np.int8):
        raise unsupported(node, "one constant scale of the outputs, codes of 8 bits", "others")
    bounds = np.iinfo(kind)
    middle = 0 if offset is None else int(offset.reshape(()))
    reading.chain.rounded(Levels(float(step.reshape(())), middle, int(bounds.min), int(bounds.max)))


def _dynamic_lstm(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Append an LSTM of codes; W has the shape (directions, in, 4 cells), R likewise."""
    given = [*node.input, *[""] * 12]
    constants = [reading.graph.constant(name) if name else None for name in given]
    matrices = []
    for codes, scale, zero in (constants[1:2] + constants[8:10], constants[2:3] + constants[10:12]):
        if codes is None or scale is None or codes.ndim != 3:
            raise unsupported(node, "constant W and R with constant scales", "others")
        matrices.append([
            _turned(reading, node, each, *(None if v is None else np.atleast_1d(v[k])
                                           for v in (scale, zero)))
            for k, each in enumerate(codes)
        ])  # fmt: skip
    stacked(reading, node, attributes, matrices, given[3:8])
    _warn(node.op_type)


def _turned(reading: Reading, node: Any, codes: Array, scale: Any, zero: Any) -> Codes | Array:
    """Return a matrix (in, rows) as (rows, in): Codes, or floats where they need more bits."""
    made = centred(codes, scale, zero, {"axis": 1})
    if made is not None:
        return made.each(np.transpose)
    middle = 0 if zero is None else zero.astype(np.int16)
    floats: Array = ((codes.astype(np.int16) - middle) * scale).astype(np.float32).T
    return floats


OPERATORS: dict[str, Operator] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "MatMulInteger": _matmul_integer,
    "QLinearMatMul": _qlinear_matmul,
}
MICROSOFT: dict[str, Operator] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "DynamicQuantizeLSTM": _dynamic_lstm,
    "QGemm": _qgemm,
}
ON_CODES = ("DequantizeLinear", "MatMulInteger", "QLinearMatMul", "QGemm", "Identity", "Reshape",
            "Flatten", "Transpose", "Squeeze", "Unsqueeze")  # fmt: skip
"""What may follow a QuantizeLinear."""
