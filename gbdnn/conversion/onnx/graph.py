"""The graph in an ONNX file: its constants, and the chain of nodes that leads to an output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbdnn.conversion.onnx.constants import Constants
from gbdnn.conversion.onnx.files import attributes_of, label, onnx_package, unsupported
from gbdnn.errors import FileFormatError, InputError, choose
from gbdnn.files.header import DAMAGED
from gbdnn.types import FilePath

__all__ = ["Graph"]

RECURRENT = ("LSTM", "GRU", "DynamicQuantizeLSTM")
OVER_TIME = (*RECURRENT, "Loop")
SINGLE = ("Cast", "Identity", "Add", "Sub", "Mul", "Less", "Not", "And", "Where")
"""What computes each number by itself."""
PIECES = ("Gather", "Slice", "Squeeze", "Transpose", "Identity")
"""What takes a part out of a tensor."""
LONG = 40  # nodes of one of two ways that meet

Step = tuple[Any, str, list[str]]
"""A node on the way, its output there, and what it computes from."""


def first(node: Any) -> str | None:
    """Return a node's first input."""
    return str(node.input[0]) if node.input else None


class Graph:
    """A graph whose names are unique and whose nodes use nothing that is missing."""

    def __init__(self, graph: Any, path: FilePath) -> None:
        self.path = str(path)
        self.stored = {t.name: t for t in graph.initializer}
        self.stored |= {t.values.name: t for t in graph.sparse_initializer}
        self.inputs = {i.name: i for i in graph.input if i.name not in self.stored}
        self.outputs = {o.name: o for o in graph.output}
        self.nodes = list(graph.node)
        self.producers = {name: node for node in graph.node for name in node.output if name}
        made = sum(1 for node in graph.node for name in node.output if name)
        stored = len(graph.initializer) + len(graph.sparse_initializer)
        names = {*self.stored, *self.inputs, *self.producers}
        if len(names) != stored + len({i.name for i in graph.input} - self.stored.keys()) + made:
            raise FileFormatError(self.path, "every name once", "one that is made twice", DAMAGED)
        used = [*self.outputs, *(name for node in graph.node for name in node.input if name)]
        for name in used:
            if name not in names:
                got = f"none for {name[:80]!r}"
                expected = "a node, input or initializer for every name"
                raise FileFormatError(self.path, expected, got, DAMAGED)
        self.constants = Constants(self.stored, self.producers, self.path)

    def constant(self, name: str) -> Any:
        """Return a name's array, or scipy's CSR of a sparse one; None if it is computed."""
        return self.constants.constant(name)

    def output(self, name: str | None) -> str:
        """Return the output to convert: the only one, or the only one that is not of labels."""
        if name is not None:
            return str(choose("output", name, self.outputs))
        onnx = onnx_package()
        labels = (onnx.TensorProto.INT64, onnx.TensorProto.STRING)
        found = [
            o.name for o in self.outputs.values()
            if len(self.outputs) == 1 or o.type.tensor_type.elem_type not in labels
        ]  # fmt: skip
        if len(found) != 1:
            got = ", ".join(repr(n[:60]) for n in list(self.outputs)[:9]) or "none"
            raise InputError("output", "one output of numbers", got, "Pass output=, its name.")
        return str(found[0])

    def chain(self, output: str) -> tuple[str, list[Step]]:
        """Return the input, and the nodes from it to an output."""
        found: list[Step] = []
        seen: set[str] = set()
        while output not in self.inputs:
            node = self.producers.get(output)
            if node is None:
                raise FileFormatError(
                    self.path, "an output that is computed", "a constant", DAMAGED
                )
            if output in seen:
                raise FileFormatError(f"{self.path}, {label(node)}", "no cycle", "one", DAMAGED)
            seen.add(output)
            computed, before = self.computed(node), self.before(node)
            if before is None:
                before = self.fork(node)
            if before is None:
                got = f"{len(computed)}: {', '.join(map(repr, computed))[:120]}"
                raise unsupported(node, "a chain: one computed input for each node", got)
            found.append((node, output, computed))
            output = before
        return output, found[::-1]

    def before(self, node: Any) -> str | None:
        """Return the name that a node computes from, if it is one step of a chain."""
        pattern = next((way for find in self.patterns if (way := find(node))), None)
        computed = self.computed(node) if pattern is None else [pattern]
        return computed[0] if len(computed) == 1 else None

    def fork(self, node: Any) -> str | None:
        """Return x if a node joins what two layers over time make of x, or two parts of x."""
        found = self.sides(node)
        return None if found is None else found[0]

    def sides(self, node: Any) -> tuple[str, list[list[Step]]] | None:
        """Return x, and both ways from it to a node that joins two layers, or two parts of x."""
        if node.op_type != "Concat" or len(node.input) != 2:
            return None
        ways = [self._way(name) for name in node.input]
        for name in ways[0]:
            if name in ways[1]:
                parts = [list(way.values())[: list(way).index(name)][::-1] for way in ways]
                kinds = [{step[0].op_type for step in part} for part in parts]
                layers = all(kind & set(OVER_TIME) for kind in kinds)
                pieces = all(kind and kind <= set(PIECES) for kind in kinds)
                return (name, parts) if layers or pieces else None
        return None

    def _way(self, name: str) -> dict[str, Step]:
        """Return the nodes before a name, the last one first, by their outputs on the way.

        The name where it ends is the last key; its node is no part of the way.
        """
        found: dict[str, Step] = {}
        while name not in found and len(found) < LONG:
            node: Any = self.producers.get(name)
            before = None if node is None or node.op_type == "Concat" else self.before(node)
            found[name] = (node, name, [] if node is None else self.computed(node))
            if before is None:
                break
            name = before
        return found

    def inside(self, node: Any) -> list[Any]:
        """Return a node, and those on both ways to it if it joins two layers."""
        found = self.sides(node)
        return [node, *(step[0] for way in (found[1] if found else []) for step in way)]

    def computed(self, node: Any) -> list[str]:
        """Return the inputs of a node that depend on values of the graph's inputs."""
        lone = (*RECURRENT, "ReverseSequence")  # whose states and lengths are looked at there
        names = node.input[:1] if node.op_type in lone else node.input
        return [name for name in names if name and not self.constants.follows_sizes(name)]

    @property
    def patterns(self) -> tuple[Callable[[Any], str | None], ...]:
        """Nodes of several computed inputs that are one step of a chain all the same."""
        return (self.gelu, self.two_classes, self.state, self.dynamic, self.loop, self.numbers)

    def gelu(self, node: Any) -> str | None:
        """Return z if a node gives 2 gelu(z) = z (1 + erf(z / sqrt 2))."""
        if node.op_type != "Mul" or len(node.input) != 2:
            return None
        for z, other in (node.input, list(node.input)[::-1]):
            add = self._made_by(other, "Add")
            erf = self._made_by(self._beside(add, 1.0), "Erf")
            inner = erf and self.producers.get(first(erf) or "")
            kinds = {"Div": np.sqrt(2), "Mul": np.sqrt(0.5)}
            if inner and self._beside(inner, kinds.get(inner.op_type)) == z:
                return str(z)
        return None

    def two_classes(self, node: Any) -> str | None:
        """Return p if a node gives (1 - p, p)."""
        if node.op_type != "Concat" or len(node.input) != 2:
            return None
        sub = self._made_by(node.input[0], "Sub")
        if sub is not None and len(sub.input) == 2 and sub.input[1] == node.input[1]:
            one = self.constant(sub.input[0])
            if one is not None and one.size == 1 and float(one.ravel()[0]) == 1:
                return str(sub.input[1])
        return None

    def state(self, node: Any) -> str | None:
        """Return h of one layer if a node takes it from those of all, joined."""
        found = self.state_of(node)
        return None if found is None else found[0]

    def state_of(self, node: Any) -> tuple[str, int] | None:
        """Return h of one layer, and which of its directions a node takes from those of all."""
        picks = node.op_type == "Gather" and len(node.input) == 2
        joined = self._made_by(node.input[0], "Concat") if picks else None
        place = None if joined is None else self.constant(node.input[1])
        if joined is None or place is None or place.size != 1:
            return None
        rows: list[tuple[str, int]] = []
        for name in joined.input:
            maker = self.producers.get(name)
            if maker is None or maker.op_type not in RECURRENT or maker.output[0] == name:
                return None
            both = attributes_of(maker).get("direction") == b"bidirectional"
            rows += [(str(name), k) for k in range(1 + both)]
        axes = [attributes_of(each).get("axis", 0) for each in (node, joined)]
        number = int(place.ravel()[0])
        return rows[number] if axes == [0, 0] and -len(rows) <= number < len(rows) else None

    def numbers(self, node: Any) -> str | None:
        """Return x if a node takes rows of a table by x, which other nodes leave as it is.

        tf2onnx adds the number of rows to those below 0. Whether valid numbers stay is tried out.
        """
        table: Any = self.constant(node.input[0]) if node.op_type == "Gather" else None
        if getattr(table, "ndim", 0) != 2 or len(node.input) != 2:
            return None
        names, inner, ends = [str(node.input[1])], set[str](), set[str]()
        while names and len(inner) < LONG:
            name = names.pop()
            maker = self.producers.get(name)
            if maker is not None and maker.op_type in SINGLE and self.constant(name) is None:
                inner.add(name)
                names += [n for n in maker.input if n and n not in inner]
            elif self.constant(name) is None:
                ends.add(name)
        if names or len(ends) != 1 or not inner:
            return None
        rows = np.arange(table.shape[0])
        values: dict[str, Any] = {(x := ends.pop()): rows}
        for each in self.nodes:
            if inner & set(each.output):
                given = [values[n] if n in values else self.constant(n) for n in each.input]
                values[each.output[0]] = self.constants.applied(each, given)
        found: Any = values.get(node.input[1])
        return x if np.array_equal(found, rows) else None

    def loop(self, node: Any) -> str | None:
        """Return x if a loop computes from nothing else but constants and sizes."""
        body = attributes_of(node).get("body") if node.op_type == "Loop" else None
        if body is None or self.computed(node):
            return None
        own = {i.name for i in [*body.input, *body.initializer]}
        own |= {name for inner in body.node for name in inner.output}
        used = {name for inner in body.node for name in inner.input if name} - own
        found = [name for name in used if not self.constants.follows_sizes(name)]
        return found[0] if len(found) == 1 else None

    def dynamic(self, node: Any) -> str | None:
        """Return x if a node gives the product of x, rounded as it comes, with whole numbers."""
        found = self.dynamic_product(node)
        return None if found is None else str(found[0].input[0])

    def dynamic_product(self, node: Any) -> tuple[Any, Any, str] | None:
        """Return the nodes that round and multiply, and the scale of the weight.

        onnxruntime's quantize_dynamic writes x times W so: x becomes codes and their scale
        (DynamicQuantizeLinear), MatMulInteger multiplies them with W's codes, Cast makes floats,
        Mul multiplies them with the product of both scales.
        """
        if node.op_type != "Mul" or len(node.input) != 2:
            return None
        for sums, scales in (node.input, list(node.input)[::-1]):
            cast, both = self._made_by(sums, "Cast"), self._made_by(scales, "Mul")
            product = cast and self._made_by(first(cast), "MatMulInteger")
            rounding = product and self._made_by(first(product), "DynamicQuantizeLinear")
            if rounding and both and len(rounding.output) == 3 and len(both.input) == 2:
                own = [name for name in both.input if name != rounding.output[1]]
                zero = list(product.input[2:3])
                if len(own) == 1 and zero == [rounding.output[2]] and rounding.input:
                    return rounding, product, str(own[0])
        return None

    def _made_by(self, name: str | None, op: str) -> Any:
        node = self.producers.get(name or "")
        return node if node is not None and node.op_type == op else None

    def _beside(self, node: Any, value: Any) -> str | None:
        """Return a node's other input if one is the number `value`."""
        if node is None or value is None or len(node.input) != 2:
            return None
        for name, other in (node.input, list(node.input)[::-1]):
            known = self.constant(other)
            if known is not None and known.size == 1 and np.isclose(known.ravel()[0], value, 1e-5):
                return str(name)
        return None
