"""Loops over time whose body is one step of a GRU, as TensorFlow's converter writes Keras' GRU.

The body is computed once with sums instead of numbers, see `Sum`; a GRU is what it then says:

    h' = z h + n - z n,  z = sigmoid(W_z x + U_z h + b_z),  n = tanh(W_n x + r (U_n h + c) + b_n)

or with U_n (r h) in it. Counters and the condition are computed for all steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gbdnn.conversion.onnx.files import WRONG, attributes_of, unsupported
from gbdnn.conversion.onnx.graph import SINGLE
from gbdnn.conversion.onnx.operators.recurrent import check_sequences, directions_of
from gbdnn.conversion.onnx.reading import Operator, Reading
from gbdnn.conversion.onnx.sums import Atom, Sum
from gbdnn.errors import InputError
from gbdnn.layers import GRU, ResetBeforeGRU
from gbdnn.types import Array

__all__ = ["OPERATORS"]

COUNTED = "counted"  # what changes from step to step by itself
STEPS = 1 << 24  # of time, at most
FAR = 1 << 16  # as the end of a slice: behind all samples
NODES = 200  # of a body, at most; that of a GRU has about 35
EXPECTED = "a GRU as one loop: h' = z h + (1 - z) n from 0, over all time steps"
NONE = "W x + U h + b, then tanh: an RNN, which has no layer here"


@dataclass
class Body:
    """The body of a loop: what its names are."""

    graph: Any
    known: dict[str, Any] = field(default_factory=dict)  # constants, by name
    counters: dict[str, Any] = field(default_factory=dict)  # where they begin
    follows: dict[str, str] = field(default_factory=dict)  # what a state becomes
    state: str = ""
    place: str = ""  # what x is taken out with


def _loop(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Append the GRU that a loop computes."""
    check_sequences(reading, node)
    x = reading.graph.loop(node)
    if x is None:
        raise unsupported(node, EXPECTED)
    body = _body(reading, node, attributes["body"])
    atoms = Atom("x"), Atom("h")
    size = reading.sized(_outer(node, body, body.state)).shape[1]
    reading.graph.constants.room(16 * size * (size + reading.sizes["features"]), node)
    values = _values(reading, body, x, atoms, size)
    result = values.get(body.follows[body.state])
    _check_steps(reading, node, body)
    layer = _layer(node, result, atoms, (reading.sizes["features"], size))
    directions_of(reading, node, {})
    reading.takes(node, layer.in_features)
    reading.chain.taken_levels(False)
    reading.chain.weighted(layer)
    _name_axes(reading, node, body, size)


def _outer(node: Any, body: Body, name: str) -> str:
    """Return what a state is called outside."""
    return str(node.input[[i.name for i in body.graph.input].index(name)])


def _body(reading: Reading, node: Any, graph: Any) -> Body:
    """Return the body with its constants and counters; find its one state."""
    if len(graph.node) > NODES:
        raise unsupported(node, f"a body of at most {NODES} nodes", f"{len(graph.node)}")
    body, constants = Body(graph), reading.graph.constants
    body.known = {t.name: constants._array(t) for t in graph.initializer}
    inside = {i.name for i in graph.input} | {n for each in graph.node for n in each.output}
    used = {n for each in graph.node for n in each.input if n}
    for name in used - inside - body.known.keys():
        body.known[name] = reading.sized(name)
    same = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
    states = [i.name for i in graph.input][2:]
    if len(node.input) != len(states) + 2 or len(graph.output) <= len(states):
        raise unsupported(node, "a body whose states are those of the loop", "another number")
    for state, given, out in zip(states, node.input[2:], graph.output[1:], strict=False):
        value = reading.sized(given)
        if value is None:
            raise unsupported(node, EXPECTED, f"a state that is computed, {given!r}"[:80])
        body.follows[state] = out.name
        if same.get(out.name, out.name) == state:
            body.known[state] = value
        elif value.dtype.kind in "iu" and value.size == 1:
            body.counters[state] = value
        elif body.state or value.ndim != 2 or value.any() or value.dtype.kind != "f":
            raise unsupported(node, EXPECTED, f"the state {given!r} beside it"[:80])
        else:
            body.state = state
    if not body.state:
        raise unsupported(node, EXPECTED, "no state")
    return body


def _values(
    reading: Reading, body: Body, x: str, atoms: tuple[Atom, Atom], size: int
) -> dict[str, Any]:
    """Return what each name of the body is: a constant, a Sum, `COUNTED`, or None: unknown."""
    values: dict[str, Any] = {**body.known, body.state: Sum.of(atoms[1], size)}
    values |= dict.fromkeys([i.name for i in body.graph.input][:2], COUNTED)
    values |= dict.fromkeys(body.counters, COUNTED)
    for node in body.graph.node:
        given = [values.get(n) if n else None for n in node.input]
        if node.op_type == "Gather" and node.input[0] == x and not body.place:
            axis = attributes_of(node).get("axis", 0)
            if given[1] is COUNTED and axis == 0:
                body.place = node.input[1]
                values[node.output[0]] = Sum.of(atoms[0], reading.sizes["features"])
        elif any(value is COUNTED for value in given):
            values |= dict.fromkeys(node.output, COUNTED)
        else:
            values |= dict(zip(node.output, _made(reading, node, given), strict=False))
    return values


def _made(reading: Reading, node: Any, given: list[Any]) -> list[Any]:
    """Return what a node gives; nothing where it is not known."""
    constants = reading.graph.constants
    if any(name and value is None for name, value in zip(node.input, given, strict=True)):
        return []
    try:
        with np.errstate(all="ignore"):
            if node.op_type == "Split":
                return _split(given, attributes_of(node), len(node.output))
            if not any(isinstance(value, Sum) for value in given):
                return [constants.applied(node, given)]
            made = SUMS[node.op_type](*given) if node.op_type in SUMS else None
    except WRONG as error:
        if isinstance(error, InputError):
            raise
        raise unsupported(node, "numbers that fit", str(error)[:100]) from None
    if made is not None:
        constants.room(made.nbytes, node)
        constants.nbytes += made.nbytes
    return [made]


def _split(given: list[Any], attributes: dict[str, Any], count: int) -> list[Any]:
    """Return equal parts, or those of the lengths said; of a Sum those of the features."""
    value, axis = given[0], attributes.get("axis", 0)
    lengths = given[1] if len(given) > 1 else attributes.get("split")
    total = value.size if isinstance(value, Sum) else value.shape[axis]
    lengths = [total // count] * count if lengths is None else [int(n) for n in lengths]
    if sum(lengths) != total or (isinstance(value, Sum) and axis not in (-1, 1)):
        return []
    ends = np.cumsum(lengths)
    if isinstance(value, Sum):
        return [value.part(int(e) - n, int(e)) for e, n in zip(ends, lengths, strict=True)]
    return list(np.split(value, ends[:-1], axis))


def _added(a: Any, b: Any) -> Sum:
    made: Sum = a.plus(b) if isinstance(a, Sum) else b.plus(a)
    return made


def _multiplied(a: Any, b: Any) -> Sum:
    made: Sum
    if isinstance(a, Sum) and isinstance(b, Sum):
        made = a.product(b)
    else:
        made = a.times(b) if isinstance(a, Sum) else b.times(a)
    return made


def _subtracted(a: Any, b: Any) -> Sum:
    return _added(a, b.times(-1.0) if isinstance(b, Sum) else -b)


def _sliced(x: Sum, starts: Array, ends: Array, axes: Array, steps: Any = None) -> Sum | None:
    """Return some features; all samples."""
    begin, end = 0, x.size
    for start, stop, axis in zip(starts.tolist(), ends.tolist(), axes.tolist(), strict=True):
        if axis in (1, -1):
            begin, end, _ = slice(start, stop).indices(x.size)
        elif start != 0 or stop < FAR:
            return None
    return x.part(begin, end) if begin < end and (steps is None or (steps == 1).all()) else None


SUMS: dict[str, Any] = {
    "Identity": lambda x: x,
    "Add": _added,
    "Sub": _subtracted,
    "Mul": _multiplied,
    "MatMul": lambda x, matrix: None if isinstance(matrix, Sum) else x.through(matrix),
    "Slice": _sliced,
    "Sigmoid": lambda x: x.applied("sigmoid"),
    "Tanh": lambda x: x.applied("tanh"),
}
"""What operators make of sums."""


# -- all steps -------------------------------------------------------------------------------------


def _check_steps(reading: Reading, node: Any, body: Body) -> None:
    """Refuse a loop that does not take the time steps in order, each of them once.

    All steps are computed at once: each counter is taken to grow by 1, and is then seen to do so.
    """
    time = reading.shape[0]
    most = reading.sized(node.input[0]) if node.input[0] else np.array(time + 1)
    begins = reading.sized(node.input[1]) if node.input[1] else np.array(True)
    if most is None or begins is None or time > STEPS:
        raise unsupported(node, f"a known number of steps, at most {STEPS:,}", "another")
    steps = np.arange(time)
    values = {n: c for n, c in body.known.items() if c is not None and c.size == 1}
    values |= {n: (c.reshape(()) + steps).astype(c.dtype) for n, c in body.counters.items()}
    first, keep = [i.name for i in body.graph.input][:2]
    values |= {first: steps, keep: np.ones(time, bool)}
    names = [body.graph.output[0].name, body.place, *(body.follows[c] for c in body.counters)]
    for each in _needed(body, names):
        if each.op_type in SINGLE:
            given = [values.get(n) for n in each.input]
            values[each.output[0]] = reading.graph.constants.applied(each, given)
    found = [values.get(name) for name in names]
    if any(value is None for value in found):
        raise unsupported(node, "a count of time steps", "another")
    goes, place, *grown = (np.broadcast_to(value, time) for value in found if value is not None)
    wanted = [values[name] + 1 for name in body.counters]
    if (place != steps).any() or any((a != b).any() for a, b in zip(grown, wanted, strict=True)):
        raise unsupported(node, f"all {time} time steps in their order", "another")
    ends = np.flatnonzero(~goes)[:1] + 1  # steps that are taken: the condition is that of the next
    taken = min(int(most), *ends.tolist(), time + 1) if begins else 0
    if taken != time:
        got = f"{taken}" if taken < time else "more"
        raise unsupported(node, f"all {time} time steps", got)


def _needed(body: Body, wanted: list[str]) -> list[Any]:
    """Return the nodes that names follow from, in order."""
    names, found = set(wanted), []
    for node in reversed(body.graph.node):
        if names & set(node.output):
            names |= set(node.input)
            found.append(node)
    return found[::-1]


# -- the layer -------------------------------------------------------------------------------------


def _layer(
    node: Any, result: Any, atoms: tuple[Atom, Atom], sizes: tuple[int, int]
) -> GRU | ResetBeforeGRU:
    """Return the layer whose next state a sum is."""
    if not isinstance(result, Sum):
        raise unsupported(node, EXPECTED)
    found = _gates(result, atoms[1])
    if found is None:
        lone = [atom.kind for atom in result.terms] == ["tanh"] and not np.any(result.shift)
        raise unsupported(node, EXPECTED, NONE if lone else "another step")
    (r, z, n), inner = found
    parts = [_affine(gate, atoms, sizes) for gate in (r, z, n)]
    candidate = _affine(inner, atoms, sizes) if isinstance(inner, Sum) else None
    if None in parts or (candidate is None and isinstance(inner, Sum)):
        raise unsupported(node, EXPECTED, "gates of other values than x and h")
    weights, backs, shifts = zip(*(p for p in parts if p is not None), strict=True)
    weight, bias = np.concatenate(weights), np.concatenate(shifts)
    dtype = np.float64 if weight.dtype == np.float64 else np.float32
    if candidate is not None:
        if candidate[0].any() or backs[2].any():
            raise unsupported(node, EXPECTED, "a reset gate of other values than h")
        back = np.concatenate([*backs[:2], candidate[1]])
        return GRU(weight, back, bias, candidate[2], dtype=dtype)
    if backs[2].any():
        raise unsupported(node, EXPECTED, "a candidate of h without the reset gate")
    own = np.eye(sizes[1], dtype=np.float32) * inner if np.ndim(inner) == 0 else inner.T
    return ResetBeforeGRU(weight, np.concatenate(backs[:2]), own, bias, dtype=dtype)


def _gates(result: Sum, h: Atom) -> tuple[list[Sum], Any] | None:
    """Return what r, z and n are of, and what r is multiplied with.

    That is the sum U h + c, or the matrix for r h.
    """
    products = {a: f for a, f in result.terms.items() if a.kind == "product"}
    rest = {a: f for a, f in result.terms.items() if a.kind != "product"}
    if len(products) != 2 or len(rest) != 1 or not result.plain or np.any(result.shift):
        return None
    ((n, one),) = rest.items()
    kept, lost = sorted(products, key=lambda a: h not in a.inner)
    z = next((a for a in kept.inner if a is not h), None)
    fits = h in kept.inner and z is not None and n in lost.inner and z in lost.inner
    if not fits or (one, products[kept], products[lost]) != (1, 1, -1) or n.kind != "tanh":
        return None
    reset = [a for a in n.inner.terms if a.kind == "product"]
    if z is None or z.kind != "sigmoid" or len(reset) != 1:
        return None
    r = next((a for a in reset[0].inner if a.kind == "sigmoid"), None)
    other = next((a for a in reset[0].inner if a is not r), None)
    candidate = Sum(n.inner.size, {a: f for a, f in n.inner.terms.items() if a is not reset[0]},
                    n.inner.shift)  # fmt: skip
    factor = n.inner.terms[reset[0]]
    if r is None or other is None:
        return None
    if other is h:
        return [r.inner, z.inner, candidate], factor
    if other.kind == "sum" and np.ndim(factor) == 0 and factor == 1:
        return [r.inner, z.inner, candidate], other.inner
    return None


def _affine(
    value: Sum, atoms: tuple[Atom, Atom], sizes: tuple[int, int]
) -> tuple[Array, Array, Array] | None:
    """Return W (out, in), U and b of W x + U h + b."""
    if not value.terms.keys() <= set(atoms) or value.size != sizes[1]:
        return None
    found = []
    for atom, size in zip(atoms, sizes, strict=True):
        factor = value.terms.get(atom, np.zeros((size, value.size), np.float32))
        if np.ndim(factor) == 0:
            if size != value.size:
                return None
            factor = np.eye(size, dtype=np.float32) * factor
        found.append(factor.T)
    return found[0], found[1], np.broadcast_to(value.shift, value.size).astype(found[0].dtype)


def _name_axes(reading: Reading, node: Any, body: Body, size: int) -> None:
    """Say which axis is time; name those of all steps, or of the state behind the last one."""
    axes: Any = reading.axes
    if reading.time not in (None, axes[0]):
        raise unsupported(node, "time in the axis where it was before", "in another")
    reading.time = axes[0]
    reading.sizes["features"] = size
    same = {n.output[0]: n.input[0] for n in body.graph.node if n.op_type == "Identity"}
    names = [same.get(o.name, o.name) for o in body.graph.output][1:]
    which = list(node.output).index(reading.result)
    follows = body.follows[body.state]
    if names[which] != same.get(follows, follows):
        raise unsupported(node, "the state, or those of all steps", "another value of the body")
    if which < len(body.follows):
        reading.axes = axes[1:]
        reading.final()


OPERATORS: dict[str, Operator] = {"Loop": _loop}
