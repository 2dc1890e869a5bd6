"""What is known of an ONNX graph before it runs: constants, and what follows from sizes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from gbdnn.conversion.onnx.codes import Codes, centred, full, spread
from gbdnn.conversion.onnx.files import (
    WRONG,
    array_of,
    attributes_of,
    label,
    onnx_package,
    unsupported,
)
from gbdnn.errors import FileFormatError, InputError, MemoryBudgetError
from gbdnn.files.header import DAMAGED
from gbdnn.machine import available_bytes
from gbdnn.types import Array

__all__ = ["Constants"]

DEEP = 50  # nodes between a constant and its use
SMALL = 1 << 20  # bytes that are always free: to look takes 5 ms
SIZED = 1 << 24  # elements of what follows from sizes
DOMAINS = ("", "ai.onnx", "com.microsoft")


class Constants:
    """The initializers of a graph, and what nodes make of them."""

    def __init__(self, stored: Mapping[str, Any], producers: Mapping[str, Any], path: str) -> None:
        self.stored, self.producers, self.path = stored, producers, path
        self.made: dict[str, Any] = {}
        self.beside: dict[str, bool] = {}
        self.nbytes = 0

    def constant(self, name: str, way: tuple[str, ...] = ()) -> Any:
        """Return a name's array, or scipy's CSR of a sparse one; None if it is computed."""
        if name not in self.made:
            if name in way or len(way) > DEEP:
                return None
            self.made[name] = self._constant(name, (*way, name))
        return self.made[name]

    def _constant(self, name: str, way: tuple[str, ...]) -> Any:
        if name in self.stored:
            return self._array(self.stored[name])
        return self._folded(name, lambda other: self.constant(other, way))

    def _folded(self, name: str, value: Any) -> Any:
        """Return what a node makes of `value` of its inputs; None if one of them is None."""
        node: Any = self.producers.get(name)
        if node is None or node.op_type not in FOLDED or node.output[0] != name:
            return None
        return self.applied(node, [value(n) if n else None for n in node.input])

    def applied(self, node: Any, inputs: list[Any]) -> Any:
        """Return what a node makes of its inputs; None where one is missing, or it is not known."""
        make = FOLDED.get(node.op_type)
        if make is None or node.domain not in DOMAINS:
            return None
        if any(n and given is None for n, given in zip(node.input, inputs, strict=True)):
            return None
        try:
            made = make(self, node, attributes_of(node), *inputs)
        except WRONG as error:
            if isinstance(error, InputError):
                raise
            raise unsupported(node, "a constant that fits", str(error)[:100]) from None
        if isinstance(made, np.ndarray) and made.base is None:
            self.room(made.nbytes, node)
            self.nbytes += made.nbytes
        return made

    def room(self, nbytes: int, node: Any) -> None:
        """Refuse constants that together take more than half of the memory that is free."""
        if self.nbytes + nbytes < SMALL:
            return
        if 2 * (self.nbytes + nbytes) > (free := available_bytes()):
            expected = f"at most half of the {free:,} bytes that are free"
            got = f"{self.nbytes + nbytes:,} bytes up to {label(node)}"
            raise MemoryBudgetError(f"{self.path}, constants", expected, got)

    def follows_sizes(self, name: str, way: tuple[str, ...] = ()) -> bool:
        """Whether a value depends on the inputs by their sizes only, if at all."""
        if name not in self.beside:
            node = self.producers.get(name)
            if name in self.stored or name in way or len(way) > DEEP or node is None:
                return name in self.stored
            self.beside[name] = node.op_type in ("Shape", "Size") or (
                node.op_type in FOLDED
                and all(self.follows_sizes(n, (*way, name)) for n in node.input if n)
            )
        return self.beside[name]

    def sized(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """Return a value that follows from the shapes of tensors; None if it does not."""
        found: dict[str, Any] = {}

        def value(name: str, deep: int = 0) -> Any:
            if name not in found:
                found[name] = self.constant(name)
                if found[name] is None and deep <= DEEP and self.follows_sizes(name):
                    found[name] = made(self.producers[name], name, deep + 1)
            return found[name]

        def made(node: Any, name: str, deep: int) -> Any:
            if node.op_type not in ("Shape", "Size"):
                return self._folded(name, lambda other: value(other, deep))
            shape = shapes.get(node.input[0])
            return None if shape is None else _shape_of(node, np.array(shape, np.int64))

        return value(name)

    def _array(self, tensor: Any) -> Any:
        if not hasattr(tensor, "indices"):
            return array_of(tensor, self.path)
        what = f"{self.path}, tensor {tensor.values.name[:80]!r}"
        values, indices = (array_of(t, self.path) for t in (tensor.values, tensor.indices))
        shape = tuple(tensor.dims)
        if len(shape) != 2 or not all(0 < n < 2**31 for n in shape):
            raise FileFormatError(what, "a matrix", f"shape {shape}", DAMAGED)
        if 16 * max(shape) > available_bytes():
            raise MemoryBudgetError(what, "a shape that fits into memory", f"{shape}")
        count = len(values) if values.ndim == 1 else -1
        fits = indices.dtype == np.int64 and indices.shape in ((count,), (count, 2))
        places = indices if indices.ndim == 2 else np.stack(np.divmod(indices, shape[1]), axis=1)
        if not fits or (places < 0).any() or (places >= shape).any():
            raise FileFormatError(what, "a place in the matrix for each value", "others", DAMAGED)
        if len(np.unique(places[:, 0] * shape[1] + places[:, 1])) != count:
            raise FileFormatError(what, "every place once", "one twice", DAMAGED)
        return sp.csr_array((values, (places[:, 0], places[:, 1])), shape)

    # -- whole numbers -----------------------------------------------------------------------------

    def codes(self, name: str, deep: int = 0) -> Codes | None:
        """Return a constant as whole numbers of 8 bits or fewer, without zero point; else None."""
        node: Any = self.producers.get(name)
        if node is None or deep > DEEP or self.constant(name) is None:
            return None
        if node.op_type in MOVES:
            inner = self.codes(node.input[0], deep + 1)
            attributes, rest = attributes_of(node), [self.constant(n) for n in node.input[1:]]
            if inner is None:
                return None
            return inner.each(lambda x: MOVES[node.op_type](self, node, attributes, x, *rest))
        if node.op_type != "DequantizeLinear":
            return None
        codes, scale, zero = [*(self.constant(n) for n in node.input if n), None][:3]
        stored = 4 if self.is_half(node.input[0]) else 8
        return centred(codes, scale, zero, attributes_of(node), stored)

    def is_half(self, name: str) -> bool:
        """Whether the numbers of a name have 4 bits."""
        kinds, node = onnx_package().TensorProto, self.producers.get(name)
        tensor = self.stored.get(name)
        if tensor is None and node is not None and node.op_type == "Constant":
            tensor = attributes_of(node).get("value")
        if node is not None and node.op_type == "QuantizeLinear":
            if attributes_of(node).get("output_dtype") in (kinds.INT4, kinds.UINT4):
                return True
            return len(node.input) > 2 and self.is_half(node.input[2])
        return getattr(tensor, "data_type", 0) in (kinds.INT4, kinds.UINT4)


def _shape_of(node: Any, shape: Array) -> Array:
    if node.op_type == "Size":
        return np.asarray(shape.prod())
    attributes = attributes_of(node)
    start, end = attributes.get("start", 0), attributes.get("end", len(shape))
    return shape[start:end]


def _stored(known: Constants, node: Any, attributes: Any) -> Any:
    ((kind, value),) = attributes.items()
    return known._array(value) if kind in ("value", "sparse_value") else np.asarray(value)


def _cast(known: Constants, node: Any, attributes: Any, x: Any) -> Any:
    dtype = np.dtype(onnx_package().helper.tensor_dtype_to_np_dtype(attributes["to"]))
    return x.astype(np.float32 if dtype.name in ("float16", "bfloat16") else dtype)


def _quantized(known: Constants, node: Any, attributes: Any, x: Any, scale: Any,
               zero: Any = None) -> Any:  # fmt: skip
    kind = attributes.get("output_dtype", 0)
    dtype: Any = np.uint8 if zero is None else zero.dtype
    if zero is None and kind:
        dtype = np.int8 if kind in (onnx_package().TensorProto.INT8,
                                    onnx_package().TensorProto.INT4) else np.uint8  # fmt: skip
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if known.is_half(node.output[0]):
        low, high = (-8, 7) if low < 0 else (0, 15)
    codes = np.rint(x / full(x, spread(x, scale, attributes)))
    if zero is not None:
        codes = codes + full(x, spread(x, zero, attributes))
    return np.clip(codes, low, high).astype(dtype)


def _dequantized(known: Constants, node: Any, attributes: Any, x: Any, scale: Any,
                 zero: Any = None) -> Any:  # fmt: skip
    codes = x.astype(np.int32)
    if zero is not None:
        codes = codes - full(x, spread(x, zero, attributes)).astype(np.int32)
    each = full(x, spread(x, scale, attributes))
    return (codes * each).astype(scale.dtype)


def _axes(attributes: Any, rest: tuple[Any, ...], rank: int) -> tuple[int, ...] | None:
    """Return axes, an attribute or an input, as numbers from 0 up."""
    given = rest[0].tolist() if rest else attributes.get("axes")
    return None if given is None else tuple(int(axis) % rank for axis in np.atleast_1d(given))


def _squeezed(known: Constants, node: Any, attributes: Any, x: Any, *rest: Any) -> Any:
    return x.squeeze(_axes(attributes, rest, x.ndim))


def _product(known: Constants, node: Any, attributes: Any, x: Any, *rest: Any) -> Any:
    kept = bool(attributes.get("keepdims", 1))
    return np.asarray(x.prod(_axes(attributes, rest, x.ndim), x.dtype, keepdims=kept))


def _unsqueezed(known: Constants, node: Any, attributes: Any, x: Any, *rest: Any) -> Any:
    count = len(np.atleast_1d(rest[0])) if rest else len(attributes["axes"])
    return np.expand_dims(x, _axes(attributes, rest, x.ndim + count) or ())


def _transposed(known: Constants, node: Any, attributes: Any, x: Any) -> Any:
    return x.transpose() if sp.issparse(x) else x.transpose(attributes.get("perm"))


def _sliced(known: Constants, node: Any, attributes: Any, x: Any, *rest: Any) -> Any:
    if rest:
        starts, ends, axes, steps = [*(np.atleast_1d(r).tolist() for r in rest), None, None][:4]
    else:
        starts, ends, axes, steps = [*(attributes.get(n) for n in ("starts", "ends", "axes")), None]
    cut = [slice(None)] * x.ndim
    for k, axis in enumerate(range(len(starts)) if axes is None else axes):
        step = 1 if steps is None else steps[k]
        if step <= 0:
            raise ValueError(f"the step {step}")
        cut[axis] = slice(starts[k], ends[k], step)
    return x[tuple(cut)]


def _filled(known: Constants, node: Any, attributes: Any, shape: Any) -> Any:
    _check_size(known, node, shape)
    value = attributes.get("value")
    return np.full(shape.tolist(), 0.0 if value is None else known._array(value).ravel()[0],
                   np.float32 if value is None else None)  # fmt: skip


def _expanded(known: Constants, node: Any, attributes: Any, x: Any, shape: Any) -> Any:
    _check_size(known, node, shape)
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _tiled(known: Constants, node: Any, attributes: Any, x: Any, times: Any) -> Any:
    _check_size(known, node, np.append(times, x.size))
    return np.tile(x, times.tolist())


def _gathered(known: Constants, node: Any, attributes: Any, x: Any, places: Any) -> Any:
    axis = attributes.get("axis", 0)
    known.room(x.nbytes // max(x.shape[axis], 1) * places.size, node)
    return np.asarray(np.take(x, places, axis))


def _joined(known: Constants, node: Any, attributes: Any, *parts: Any) -> Any:
    known.room(sum(part.nbytes for part in parts), node)
    return np.concatenate(parts, attributes["axis"])


def _reshaped(known: Constants, node: Any, attributes: Any, x: Any, shape: Any) -> Any:
    return x.reshape([x.shape[k] if n == 0 else n for k, n in enumerate(shape.tolist())])


def _check_size(known: Constants, node: Any, shape: Any) -> None:
    """Refuse what is no shape, or one of too many elements."""
    total = math.prod(np.atleast_1d(shape).tolist())
    if shape.ndim != 1 or len(shape) > 32 or min(shape.tolist(), default=0) < 0 or total > SIZED:
        raise unsupported(node, f"a shape of at most {SIZED:,} elements", f"{shape}"[:80])
    known.room(8 * total, node)


def _arithmetic(operation: Any) -> Any:
    def folded(known: Constants, node: Any, attributes: Any, a: Any, b: Any) -> Any:
        known.room(math.prod(np.broadcast_shapes(a.shape, b.shape)) * a.itemsize, node)
        with np.errstate(all="ignore"):
            return np.asarray(operation(a, b)).astype(a.dtype)

    return folded


def _compared(operation: Any) -> Any:
    return lambda known, node, attributes, *inputs: np.asarray(operation(*inputs))


def _divided(a: Any, b: Any) -> Any:
    whole = np.issubdtype(a.dtype, np.integer)
    if whole and not b.all():
        raise ValueError("a division by 0")
    return np.trunc(a / b) if whole else a / b


MOVES: dict[str, Any] = {
    "Identity": lambda known, node, attributes, x: x,
    "Transpose": _transposed,
    "Squeeze": _squeezed,
    "Unsqueeze": _unsqueezed,
}
"""What only moves numbers."""
FOLDED: dict[str, Any] = {
    **MOVES,
    "Constant": _stored,
    "Cast": _cast,
    "Reshape": _reshaped,
    "QuantizeLinear": _quantized,
    "DequantizeLinear": _dequantized,
    "Gather": _gathered,
    "ReduceProd": _product,
    "Concat": _joined,
    "Slice": _sliced,
    "ConstantOfShape": _filled,
    "Expand": _expanded,
    "Tile": _tiled,
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _arithmetic(_divided),
    "Less": _compared(np.less),
    "And": _compared(np.logical_and),
    "Not": _compared(np.logical_not),
    "Where": _compared(np.where),
}
"""Operators that are computed where all their inputs are known."""
