"""Nodes and tensors of an ONNX graph in the making."""

from __future__ import annotations

from typing import Any

import numpy as np

from gbdnn.types import Array
from gbdnn.weights import Integers, Levels, Weight
from gbdnn.weights.integers.codes import pack
from gbdnn.weights.patterns import rows_of

__all__ = ["Writing"]


class Writing:
    """Nodes and tensors in the making.

    Attributes
    ----------
    last : str
        What the last node gave.
    over_time, time_first : bool
        That is sequences, and time is their first axis; samples are it otherwise.
    opset : int
        21 if it needs numbers of 4 bits or scales of blocks.
    """

    def __init__(self, onnx: Any, dtype: Any) -> None:
        self.onnx, self.dtype = onnx, dtype
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.last, self.opset = "X", 20  # Gelu came with 20; older ones are read by more runtimes
        self.over_time = self.time_first = False

    def inner(self) -> Writing:
        """Return one for the body of a loop: nodes of its own, the same tensors."""
        made = Writing(self.onnx, self.dtype)
        made.tensors = self.tensors
        return made

    def tensor(self, name: str, array: Any) -> str:
        """Add an initializer and return its name."""
        if all(known.name != name for known in self.tensors):
            made = self.onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
            self.tensors.append(made)
        return name

    def number(self, name: str, value: Any) -> str:
        """Add a number in the network's dtype."""
        return self.tensor(name, np.array(value, self.dtype))

    def node(
        self, op: str, others: list[str], name: str, result: str = "", **attributes: Any
    ) -> str:
        """Append a node that takes what the last one gave, and others; return what it gives."""
        self.last = self.put(op, [self.last, *others], name, result, **attributes)
        return self.last

    def put(
        self, op: str, inputs: list[str], name: str, result: str = "", outputs: int = 1,
        **attributes: Any,
    ) -> str:  # fmt: skip
        """Append a node; return its first output, of several NAME.OP, NAME.OP.1, ..."""
        made = result or f"{name}.{op}"
        names = [made, *(f"{made}.{k}" for k in range(1, outputs))]
        node = name if all(node.name != name for node in self.nodes) else f"{name}.{op}"
        make = self.onnx.helper.make_node
        self.nodes.append(make(op, inputs, names, name=node, **attributes))
        return made

    def samples_first(self, first: bool, name: str) -> None:
        """Let samples be the first axis, or time."""
        if self.over_time and self.time_first == first:
            self.node("Transpose", [], f"{name}.order", perm=[1, 0, 2])
            self.time_first = not first

    # -- weights -----------------------------------------------------------------------------------

    def matrix(
        self, weight: Weight, name: str, *, turned: bool = False, order: Array | None = None
    ) -> str:
        """Write a weight, dense, or as codes and their scales; return its name.

        `turned`: (in, out). `order`: of its rows.
        """
        if not isinstance(weight, Integers):
            full = weight.plain().to_dense(allow_dense=True)
            full = full if order is None else full[order]
            return self.tensor(name, full.T if turned else full)
        pattern = weight.pattern()
        codes = np.zeros(weight.shape, np.int8)
        codes[rows_of(pattern), pattern.indices] = weight.codes
        scales = weight.row_scales
        scales = scales[:1] if weight.scales.size == 1 else scales
        if order is not None:
            codes, scales = codes[order], scales if len(scales) == 1 else scales[order]
        return self._dequantized(codes, scales.astype(self.dtype), name, turned, weight.form)

    def _dequantized(self, codes: Array, scales: Array, name: str, turned: bool, form: str) -> str:
        helper, options = self.onnx.helper, dict[str, Any]()
        groups = scales.shape[1]
        if groups > 1:
            options = {"axis": 0 if turned else 1, "block_size": codes.shape[1] // groups}
            self.opset = 21
        elif len(scales) > 1:
            options = {"axis": 1 if turned else 0}
        if turned:
            codes, scales = codes.T, scales.T
        given = scales if groups > 1 else scales.reshape(() if scales.size == 1 else -1)
        packed = np.ascontiguousarray(codes)
        if form == "int4":
            self.opset = 21
            kind, content = self.onnx.TensorProto.INT4, pack(packed.ravel(), 4).tobytes()
            self.tensors.append(
                helper.make_tensor(f"{name}.codes", kind, codes.shape, content, raw=True)
            )
        else:
            self.tensor(f"{name}.codes", packed)
        inputs = [f"{name}.codes", self.tensor(f"{name}.scales", given)]
        return self.put("DequantizeLinear", inputs, name, name, **options)

    def rounding(self, levels: Levels | None, name: str) -> None:
        """Write levels; fewer than those of 8 bits by a Clip before them."""
        if levels is None:
            return
        dtype = np.dtype(np.int8 if levels.low < 0 else np.uint8)
        bounds = np.iinfo(dtype)
        if (levels.low, levels.high) != (bounds.min, bounds.max):
            ends = zip(("low", "high"), levels.bounds(), strict=True)
            self.node("Clip", [self.number(f"{name}.{end}", value) for end, value in ends], name)
        inputs = [
            self.number(f"{name}.step", levels.step),
            self.tensor(f"{name}.zero", np.array(levels.zero, dtype)),
        ]
        self.node("QuantizeLinear", inputs, name)
        self.node("DequantizeLinear", inputs, name)
