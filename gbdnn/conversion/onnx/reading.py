"""What has been read of an ONNX graph: the layers so far, and what each axis of a tensor is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from gbdnn.conversion.chain import Chain
from gbdnn.conversion.onnx.codes import Codes
from gbdnn.conversion.onnx.files import unsupported
from gbdnn.conversion.onnx.graph import OVER_TIME, Graph, Step
from gbdnn.layers import FinalStates, LastStep, Layer
from gbdnn.types import Array

__all__ = ["Operator", "Reading"]

PROBES = (61, 53, 59, 47)  # sizes of axes that a file leaves open, to tell them apart


class Reading:
    """What has been read so far.

    Attributes
    ----------
    axes : list of str, or None
        What each axis of the tensor is: "features", "directions" of an LSTM, "one" of what is left
        where an axis went, "steps" of samples and time as one; "0", "1" are those of the input.
        None: the file does not say how many.
    folded : list of str
        What "steps" are made of.
    sizes : dict of str to int
        Of the axes; made up where the file leaves them open.
    time : str or None
        The axis over which recurrent layers have gone.
    rows : bool
        Each sequence has become one row.
    shapes : dict of str to tuple
        Of the tensors so far.
    sequences : bool
        The graph has layers over time.
    numbers : bool
        The tensor holds whole numbers for an embedding.
    coded : bool
        The tensor holds codes of the levels that wait in the chain.
    reversed : bool
        The last time step comes first.
    directions : list of str, or None
        On one of two ways to a node that joins them: "forward" or "reverse" of each layer over
        time. None: on the way of the whole graph.
    head : Layer or None
        On one of two ways: what makes one row of each sequence.
    part : tuple of two int, or None
        On one of two ways: which features, of those where the ways part, it has.
    read : callable
        Reads nodes, one after the other.
    """

    read: Callable[[Reading, Sequence[Step]], None]

    def __init__(self, graph: Graph, model: Any, first: str, nodes: Sequence[Any]) -> None:
        self.graph, self.chain = graph, Chain()
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
                         default=1)  # fmt: skip
        self.classes: list[Any] | None = None
        self.result, self.upcoming = "", None
        self.time: str | None = None
        self.folded: list[str] = []
        self.rows = False
        self.coded = self.reversed = False
        self.directions: list[str] | None = None
        self.head: Layer | None = None
        self.part: tuple[int, int] | None = None
        self.table: Array | None = None  # of codes, whose DequantizeLinear is to come
        self.bounds: tuple[float, float] | None = None  # of a Clip before a QuantizeLinear
        recurrent = any(node.op_type in OVER_TIME for node in nodes)
        self.numbers = any(is_embedding(graph, node) for node in nodes)
        self.sequences = recurrent or self.numbers
        kind = graph.inputs[first].type.tensor_type
        dims: list[int] | None = None
        if kind.HasField("shape"):
            dims = [int(dim.dim_value) for dim in kind.shape.dim]
        elif self.sequences:
            dims = [0, 0] if self.numbers else [0, 0, 0]
        self.axes = None if dims is None else [str(k) for k in range(len(dims))]
        self.samples = dims[0] if dims else 0
        self.sizes = {
            str(k): n if n > 0 else PROBES[k % len(PROBES)] for k, n in enumerate(dims or [])
        } | {"one": 1, "features": 1}
        if self.axes and not self.numbers:
            self.sizes["features"] = self.sizes[self.axes[-1]]
            self.axes[-1] = "features"
        vectors = dims is not None and not self.numbers and (self.sequences or len(dims) == 2)
        self.declared = dims[-1] if dims and vectors else 0  # features of the input, 0: any
        self.shapes: dict[str, tuple[int, ...]] = {first: self.shape}

    @property
    def rank(self) -> int | None:
        """Number of axes."""
        return None if self.axes is None else len(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(self.sizes[axis] for axis in self.axes or [])

    def constants(self, node: Any) -> list[Any]:
        """Return the constants among a node's inputs; None for what is computed or left out."""
        return [self.graph.constant(name) if name else None for name in node.input]

    def sized(self, name: str) -> Any:
        """Return a constant, or what follows from the sizes of tensors; else None."""
        return self.graph.constants.sized(name, self.shapes)

    @property
    def split(self) -> bool:
        """Whether the features of two directions are apart."""
        return "directions" in (self.axes or []) and self.sizes["directions"] > 1

    def features_last(self, node: Any, axis: int = -1) -> None:
        """Refuse an axis other than the last, and one that is not of the features."""
        if axis != -1 and axis != (2 if self.rank is None else self.rank) - 1:
            raise unsupported(node, "the axis of the features, the last", f"axis {axis}")
        if self.axes and (self.axes[-1] != "features" or self.split):
            got = ", ".join(self.axes)
            raise unsupported(node, "the features as the last axis", f"the axes {got}")

    def product(self, node: Any, weight: Any, bias: Any, codes: Codes | None = None) -> None:
        """Append W Y + b; `codes` are what W is made of, if it is whole numbers."""
        self.features_last(node)
        if weight.ndim == 2:
            self.takes(node, weight.shape[1])
        scales = None if codes is None else codes.scales()
        if codes is None or scales is None:
            self.chain.product(weight, bias)
        else:
            self.chain.product(weight, bias, scales, codes.bits)
        self.sizes["features"] = weight.shape[0]

    def row(self, layer: Layer) -> None:
        """Append a layer that makes one row of each sequence; keep it on one of two ways."""
        if self.directions is None:
            self.chain.layer(layer)
        else:
            self.head = layer
        self.rows, self.reversed = True, False  # a row has no order

    def final(self) -> None:
        """Take the state behind the last step that a layer takes: the first one backwards."""
        backwards = self.directions is not None and self.directions[-1:] == ["reverse"]
        self.row(FinalStates(0) if backwards else LastStep())

    def takes(self, node: Any, features: int) -> None:
        """Refuse a first weight of other features than the graph's input has."""
        if self.declared not in (0, features) and not self.chain.parts:
            raise unsupported(node, f"a weight for {self.declared} features", f"{features}")

    def place(self, node: Any, axis: int) -> int:
        """Return an axis as a number from 0 up."""
        rank = 2 if self.rank is None else self.rank
        if not -rank <= axis < rank:
            raise unsupported(node, f"an axis of {rank}", str(axis))
        return axis % rank

    def branch(self) -> Reading:
        """Return a reading of the same tensor with its own chain, with the levels that wait."""
        made = copy.copy(self)
        made.chain, made.directions, made.head, made.part = Chain(), [], None, None
        made.sizes, made.shapes = dict(self.sizes), dict(self.shapes)
        made.axes, made.folded = None if self.axes is None else [*self.axes], [*self.folded]
        made.chain.levels = self.chain.levels
        made.declared = 0 if self.chain.parts else self.declared
        return made

    def finish(self, nodes: Sequence[Any]) -> None:
        """Refuse results that are no vectors of features."""
        if self.reversed:
            raise unsupported(nodes[-1][0], "time steps in their order", "the last one first")
        whole = self.axes and self.axes[-1] == "features" and "steps" not in self.axes
        whole = whole and not self.split
        if nodes and self.sequences and self.axes and not whole:
            expected, got = "the features as the last axis of the result", ", ".join(self.axes)
            raise unsupported(nodes[-1][0], expected, f"the axes {got}")


Operator = Callable[[Reading, Any, dict[str, Any], str], None]


def is_embedding(graph: Graph, node: Any) -> bool:
    """Whether a node takes rows out of a constant matrix."""
    if node.op_type != "Gather" or len(node.input) != 2:
        return False
    if graph.constants.follows_sizes(node.input[1]):
        return False
    table: Array | None = graph.constant(node.input[0])
    return table is not None and getattr(table, "ndim", 0) == 2
