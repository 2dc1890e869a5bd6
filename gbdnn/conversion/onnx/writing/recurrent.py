"""Recurrent layers as ONNX nodes.

An LSTM node has no projection and rounds nothing inside. A projection P goes into the recurrent
matrix, U h = (U P) m, and stands behind the node as a product; a layer whose h is rounded becomes a
Scan, whose body is one time step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gbdnn.conversion.onnx.writing.graph import Writing
from gbdnn.errors import InputError
from gbdnn.types import Array
from gbdnn.weights import Dense, Integers, Levels, Weight

__all__ = ["recurrent"]

# where ours has i, o, f, c and z, r, h
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "gru_reset_before": (1, 0, 2)}


def recurrent(writing: Writing, layer: Any, name: str) -> None:
    """Write an LSTM or a GRU, in one direction or two; time becomes the first axis."""
    writing.samples_first(False, name)
    sides = getattr(layer, "sides", (layer,))
    hidden = any(_levels(side.recurrent) is not None for side in sides)
    alike = len({(s.recurrent.shape[0], _levels(s.weight)) for s in sides}) == 1
    if alike and not hidden:
        _node(writing, sides, name)
        return
    if hidden and sides[0].kind == "gru_reset_before":
        expected = "h in floats: a GRU with the reset gate before the product is one node"
        raise InputError("network", expected, f"{name} with a rounded h")
    given, parts = writing.last, []
    for k, side in enumerate(sides):
        writing.last, own = given, f"{name}.{('forward', 'backward')[k]}"
        if hidden:
            _scan(writing, side, own, backwards=k > 0)
        else:
            _node(writing, (side,), own, "reverse" if k else "forward")
        parts.append(writing.last)
    writing.last = parts[0]
    if len(parts) > 1:
        writing.last = writing.put("Concat", parts, name, axis=2)


def _levels(weight: Weight) -> Levels | None:
    return weight.levels if isinstance(weight, Integers) else None


def _node(writing: Writing, sides: Any, name: str, direction: str = "") -> None:
    """Write one LSTM or GRU node, the product with the projection behind it."""
    kind, both = sides[0].kind, len(sides) > 1
    writing.rounding(_levels(sides[0].weight), f"{name}.input")
    blocks = GATES[kind]
    projected = kind == "lstm" and any(side.projection is not None for side in sides)
    matrices = []
    for own in ("weight", "recurrent"):
        found = [_inside(side) if own == "recurrent" else side.weight for side in sides]
        matrices.append(_joined(writing, found, f"{name}.{own}", blocks))
    bias = writing.tensor(f"{name}.bias", np.stack([_bias(side, blocks) for side in sides]))
    cells = sides[0].weight.shape[0] // len(blocks)
    options: dict[str, Any] = {"hidden_size": cells}
    options["direction"] = direction or ("bidirectional" if both else "forward")
    if kind != "lstm":
        options["linear_before_reset"] = int(kind == "gru")
    writing.node("LSTM" if kind == "lstm" else "GRU", [*matrices, bias], name, **options)
    if both:
        shape = writing.tensor(f"{name}.shape", np.array([0, 0, -1], np.int64))
        writing.node("Transpose", [], f"{name}.sides", perm=[0, 2, 1, 3])
        writing.node("Reshape", [shape], f"{name}.sides")
    else:
        writing.node("Squeeze", [writing.tensor(f"{name}.axis", np.array([1]))], f"{name}.sides")
    if projected:
        weight: Weight = sides[0].projection if not both else _diagonal(sides)
        writing.node("MatMul", [writing.matrix(weight, f"{name}.projection", turned=True)],
                     f"{name}.down")  # fmt: skip


def _inside(side: Any) -> Weight:
    """Return U, with a projection U P, with a matrix for the candidate this below it."""
    if side.kind == "gru_reset_before":
        parts = [w.plain().to_dense(allow_dense=True) for w in (side.recurrent, side.candidate)]
        return Dense(np.concatenate(parts), dtype=side.dtype)
    down = getattr(side, "projection", None)
    if down is None:
        weight: Weight = side.recurrent
        return weight
    both = [w.plain().to_dense(allow_dense=True).astype(np.float64) for w in (side.recurrent, down)]
    return Dense(both[0] @ both[1], dtype=side.dtype)


def _diagonal(sides: Any) -> Dense:
    """Return the projections of both sides, each for its own cells."""
    downs = [
        np.eye(s.out_features) if s.projection is None
        else s.projection.plain().to_dense(allow_dense=True)
        for s in sides
    ]  # fmt: skip
    (a, b), (c, d) = (down.shape for down in downs)
    full = np.zeros((a + c, b + d), sides[0].dtype)
    full[:a, :b], full[a:, b:] = downs
    return Dense(full, dtype=sides[0].dtype)


def _order(rows: int, blocks: tuple[int, ...]) -> Array:
    """Return our rows in ONNX's order."""
    size = rows // len(blocks)
    return np.concatenate([np.arange(k * size, (k + 1) * size) for k in blocks])


def _joined(writing: Writing, weights: list[Weight], name: str, blocks: tuple[int, ...]) -> str:
    """Write the matrices of all directions as one of three dimensions."""
    order = _order(weights[0].shape[0], blocks)
    if not any(isinstance(weight, Integers) for weight in weights):
        full = [weight.plain().to_dense(allow_dense=True)[order] for weight in weights]
        return writing.tensor(name, np.stack(full))
    first = writing.tensor(f"{name}.first", np.array([0]))
    parts = []
    for k, weight in enumerate(weights):
        own = f"{name}.{k}"
        inputs = [writing.matrix(weight, own, order=order), first]
        parts.append(writing.put("Unsqueeze", inputs, f"{own}.side"))
    return parts[0] if len(parts) == 1 else writing.put("Concat", parts, name, axis=0)


def _bias(side: Any, blocks: tuple[int, ...]) -> Array:
    """Return the biases of W and of R, one behind the other."""
    rows = side.weight.shape[0]
    first, second = np.broadcast_to(side.bias, rows), np.zeros(rows, side.dtype)
    if side.kind == "gru":
        second[rows // 3 * 2 :] = side.recurrent_bias
    order = _order(rows, blocks)
    return np.concatenate([first[order], second[order]]).astype(side.dtype)


# -- one time step as the body of a Scan -----------------------------------------------------------


def _scan(writing: Writing, side: Any, name: str, *, backwards: bool) -> None:
    """Write the input's part of all gates as one product, and a loop over time."""
    helper, kind = writing.onnx.helper, side.kind
    rows, out, width = side.weight.shape[0], side.out_features, side.row_blocks
    writing.rounding(_levels(side.weight), f"{name}.input")
    matrix = writing.matrix(side.weight, f"{name}.weight", turned=True)
    bias = np.broadcast_to(side.bias, rows).astype(side.dtype)
    writing.node("MatMul", [matrix], name)
    writing.node("Add", [writing.tensor(f"{name}.bias", bias)], name)
    sizes = {"h": out} | ({"c": rows // width} if kind == "lstm" else {})
    samples = writing.put("Shape", [writing.last], f"{name}.samples", start=1, end=2)
    states = []
    for state, size in sizes.items():
        features = writing.tensor(f"{name}.{state}.features", np.array([size]))
        shape = writing.put("Concat", [samples, features], f"{name}.{state}.shape", axis=0)
        zero = writing.onnx.numpy_helper.from_array(np.zeros(1, side.dtype))
        states.append(writing.put("ConstantOfShape", [shape], f"{name}.{state}.begin", value=zero))
    body = _body(writing, side, name)
    result = [f"{name}.{state}.end" for state in sizes] + [f"{name}.steps"]
    way = [int(backwards)]
    node = helper.make_node("Scan", [*states, writing.last], result, name=f"{name}.scan", body=body,
                            num_scan_inputs=1, scan_input_directions=way,
                            scan_output_directions=way)  # fmt: skip
    writing.nodes.append(node)
    writing.last = result[-1]


def _body(writing: Writing, side: Any, name: str) -> Any:
    """Return the graph of one time step: h, of an LSTM c, and the input's part; then h again."""
    inner, helper = writing.inner(), writing.onnx.helper
    matrix = writing.matrix(side.recurrent, f"{name}.recurrent", turned=True)
    own = f"{name}.step"
    inner.last = f"{own}.h"
    inner.rounding(_levels(side.recurrent), f"{own}.hidden")
    sums = inner.put("MatMul", [inner.last, matrix], f"{own}.sums")
    results = (_lstm_step if side.kind == "lstm" else _gru_step)(inner, side, own, sums)
    results.append(inner.put("Identity", results[:1], f"{own}.output"))
    writing.opset = max(writing.opset, inner.opset)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(side.dtype))
    given = [f"{own}.h", *([f"{own}.c"] if side.kind == "lstm" else []), f"{own}.x"]
    infos = [[helper.make_tensor_value_info(n, kind, None) for n in names]
             for names in (given, results)]  # fmt: skip
    return helper.make_graph(inner.nodes, own, *infos)


def _lstm_step(inner: Writing, side: Any, own: str, sums: str) -> list[str]:
    """Write c' = f c + i g and h = o tanh(c'), or its projection; return h and c."""
    put = inner.put
    z = put("Add", [f"{own}.x", sums], f"{own}.z")
    i = put("Split", [z], f"{own}.gates", outputs=4, axis=1, num_outputs=4)
    f, g, o = (f"{i}.{k}" for k in (1, 2, 3))
    i, f, o = (put("Sigmoid", [gate], f"{own}.{n}") for gate, n in ((i, "i"), (f, "f"), (o, "o")))
    added = put("Mul", [i, put("Tanh", [g], f"{own}.g")], f"{own}.added")
    kept = put("Mul", [f, f"{own}.c"], f"{own}.kept")
    c = put("Add", [kept, added], f"{own}.c.next")
    h = put("Mul", [o, put("Tanh", [c], f"{own}.cell")], f"{own}.m")
    if side.projection is not None:
        down = inner.matrix(side.projection, f"{own}.projection", turned=True)
        h = put("MatMul", [h, down], f"{own}.down")
    return [h, c]


def _gru_step(inner: Writing, side: Any, own: str, sums: str) -> list[str]:
    """Write h = (1 - z) n + z h' = n + z (h' - n); return it."""
    put = inner.put
    x = put("Split", [f"{own}.x"], f"{own}.inputs", outputs=3, axis=1, num_outputs=3)
    s = put("Split", [sums], f"{own}.parts", outputs=3, axis=1, num_outputs=3)
    r = put("Sigmoid", [put("Add", [x, s], f"{own}.r.sum")], f"{own}.r")
    z = put("Sigmoid", [put("Add", [f"{x}.1", f"{s}.1"], f"{own}.z.sum")], f"{own}.z")
    bias = np.broadcast_to(side.recurrent_bias, side.out_features).astype(side.dtype)
    inside = put("Add", [f"{s}.2", inner.tensor(f"{own}.bias", bias)], f"{own}.inside")
    reset = put("Mul", [r, inside], f"{own}.reset")
    n = put("Tanh", [put("Add", [f"{x}.2", reset], f"{own}.n.sum")], f"{own}.n")
    moved = put("Mul", [z, put("Sub", [f"{own}.h", n], f"{own}.change")], f"{own}.moved")
    return [put("Add", [n, moved], f"{own}.next")]
