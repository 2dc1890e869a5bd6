"""LSTM and GRU of ONNX graphs.

ONNX has the gates of an LSTM in the order i, o, f, c and those of a GRU in the order z, r, h; time
is the first axis, samples are the second, and a node's output has an axis for the directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gbdnn.conversion.onnx.codes import Codes
from gbdnn.conversion.onnx.files import unsupported
from gbdnn.conversion.onnx.reading import Operator, Reading
from gbdnn.layers import BGRU, BLSTM, GRU, LSTM, FinalStates, ResetBeforeGRU
from gbdnn.types import Array
from gbdnn.weights import Levels, integer_weight

__all__ = ["OPERATORS", "check_sequences", "directions_of", "gated", "stacked", "turned"]

LSTM_GATES, GRU_GATES = (0, 2, 3, 1), (1, 0, 2)  # where ONNX has i, f, g, o and r, z, n
ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}


def gated(array: Array, gates: tuple[int, ...]) -> Array:
    """Return an array with the equal blocks of its first axis in another order."""
    blocks = np.split(array, len(gates))
    return np.concatenate([blocks[k] for k in gates])


def _recurrent(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Append an LSTM or a GRU, in one direction or two."""
    given = [*node.input, *[""] * 8]
    stacked(reading, node, attributes, [_parts(reading, node, name) for name in given[1:3]],
            given[3:8])  # fmt: skip


def _parts(reading: Reading, node: Any, name: str) -> list[Any]:
    """Return the matrix of each direction: an array, or its Codes."""
    array = reading.graph.constant(name) if name else None
    if array is None or array.ndim != 3 or array.dtype.kind != "f":
        raise unsupported(node, "constant weights W and R of three dimensions", "others")
    maker = reading.graph.producers.get(name)
    known = reading.graph.constants
    if maker is not None and maker.op_type == "Concat":  # one for each direction, joined
        codes = [known.codes(each) for each in maker.input]
        if len(codes) == len(array) and all(c is not None and len(c.codes) == 1 for c in codes):
            return [c.part(0) for c in codes if c is not None]
    whole = known.codes(name)
    return [array[k] if whole is None else whole.part(k) for k in range(len(array))]


def stacked(
    reading: Reading, node: Any, attributes: dict[str, Any], matrices: list[Any], rest: list[str]
) -> None:
    """Append the layer of W and R for each direction; `rest` names the node's further inputs.

    Those are B, sequence_lens, initial_h, initial_c (an LSTM's) and P.
    """
    kind = "GRU" if node.op_type == "GRU" else "LSTM"
    directions = _checked(reading, node, attributes, kind)
    _check_states(reading, node, rest[1:])
    bias = reading.graph.constant(rest[0]) if rest[0] else None
    if (rest[0] and bias is None) or {len(side) for side in matrices} != {directions}:
        raise unsupported(node, f"constants for {directions} directions", "others")
    first = matrices[0][0]
    reading.takes(node, (first.codes if isinstance(first, Codes) else first).shape[1])
    levels = reading.chain.taken_levels(isinstance(first, Codes))
    make: Any = _gru if kind == "GRU" else _lstm
    if kind == "GRU" and not attributes.get("linear_before_reset", 0):
        make = _gru_reset_before
    sides: list[Any] = [
        make(matrices[0][k], matrices[1][k], None if bias is None else bias[k], levels)
        for k in range(directions)
    ]
    cells = sides[0].recurrent.shape[1]
    if attributes.get("hidden_size", cells) != cells:
        raise unsupported(node, f"hidden_size {cells}", f"{attributes['hidden_size']}")
    both: Any = BGRU if kind == "GRU" else BLSTM
    reading.chain.weighted(sides[0] if directions == 1 else both(*sides))
    _name_axes(reading, node, bool(attributes.get("layout", 0)), directions, cells)


def _checked(reading: Reading, node: Any, attributes: dict[str, Any], kind: str) -> int:
    """Refuse options without counterpart; return the number of directions."""
    check_sequences(reading, node)
    directions = directions_of(reading, node, attributes)
    names = [name.decode("utf-8", "replace").lower() for name in attributes.get("activations", [])]
    if names not in ([], ACTIVATIONS[kind] * directions):
        raise unsupported(node, f"activations {ACTIVATIONS[kind]}", f"{names}"[:80])
    for name in ("clip", "input_forget"):
        if attributes.get(name, 0) != 0:
            raise unsupported(node, f"no {name}", f"{attributes[name]}")
    if kind == "GRU" and directions == 2 and not attributes.get("linear_before_reset", 0):
        raise unsupported(node, "linear_before_reset 1 in two directions", "0")
    return directions


def check_sequences(reading: Reading, node: Any) -> None:
    """Refuse what is not samples, time and features."""
    reading.features_last(node)
    if reading.rank != 3 or reading.rows or {"one", "directions"} & set(reading.axes or ()):
        raise unsupported(node, "sequences: samples, time and features", f"axes {reading.axes}")


def directions_of(reading: Reading, node: Any, attributes: dict[str, Any]) -> int:
    """Return 1 or 2; refuse one layer backwards, except on one of two ways that meet."""
    direction = attributes.get("direction", b"forward").decode("utf-8", "replace")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise unsupported(node, "direction forward, reverse or bidirectional", direction[:40])
    if direction == "bidirectional":
        if reading.reversed or reading.directions is not None:
            expected = "both directions on the way of the whole graph, time steps in their order"
            raise unsupported(node, expected, "others")
        return 2
    backwards = (direction == "reverse") != reading.reversed
    if reading.directions is not None:
        reading.directions.append("reverse" if backwards else "forward")
    elif backwards:
        expected = "direction forward or bidirectional, or reverse beside a forward one: a Concat "
        raise unsupported(node, f"{expected}of their features, the forward ones first", "reverse")
    return 1


def _check_states(reading: Reading, node: Any, names: list[str]) -> None:
    """Refuse states that do not begin with 0, peepholes, and lengths that are computed."""
    lengths, *states = names
    for name in filter(None, states):
        value = reading.sized(name)
        if value is None or value.any():
            raise unsupported(node, "states that begin with 0, and no peepholes", repr(name)[:80])
    if lengths:
        _check_lengths(reading, node, lengths, reading.shape[_time_axis(node)])


def _check_lengths(reading: Reading, node: Any, lengths: str, time: int) -> None:
    """Refuse lengths other than those of all steps and an input."""
    value = reading.sized(lengths)
    if value is None:
        name, producers = lengths, reading.graph.producers
        while (maker := producers.get(name)) is not None and maker.op_type in ("Cast", "Identity"):
            name = maker.input[0]
        if name not in reading.graph.inputs:  # an input: predict(lengths=)
            raise unsupported(node, "sequence_lens that is an input", "a computed one")
    elif (value != time).any():
        raise unsupported(node, f"sequence_lens of all {time} steps", f"{value}"[:80])


def _time_axis(node: Any) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "layout"), 0) % 2


def _name_axes(
    reading: Reading, node: Any, samples_first: bool, directions: int, cells: int
) -> None:
    """Say which axis is time; name those of the output Y, Y_h or Y_c."""
    axes: Any = reading.axes
    samples, time = axes[:2] if samples_first else axes[1::-1]
    if reading.time not in (None, time):
        raise unsupported(node, "time in the axis where it was before", "in another")
    reading.time = time
    reading.sizes |= {"directions": directions, "features": cells}
    which = list(node.output).index(reading.result)
    if which == 0:
        reading.axes = (
            [samples, time, "directions", "features"]
            if samples_first
            else [time, "directions", samples, "features"]
        )
        return
    if which == 2:
        raise unsupported(node, "Y, or Y_h: the state behind the last step", "Y_c")
    reading.axes = [samples, "directions", "features"]
    if not samples_first:
        reading.axes = ["directions", samples, "features"]
    if directions == 2:
        reading.row(FinalStates(cells))
    else:
        reading.final()


def _weight(
    matrix: Any, gates: tuple[int, ...], levels: Levels | None, part: slice = slice(None)
) -> Any:
    """Return rows of a matrix in our order of gates, whole numbers where it was made of them."""
    if not isinstance(matrix, Codes):
        return gated(matrix, gates)[part]
    each = np.repeat(matrix.scale, len(matrix.codes) // len(matrix.scale), axis=0)
    moved = Codes(gated(matrix.codes, gates)[part], gated(each, gates)[part], matrix.bits)
    scales = moved.scales()
    floats = moved.codes * np.repeat(moved.scale, moved.codes.shape[1] // moved.scale.shape[1], 1)
    if scales is None:
        return floats
    return integer_weight(floats.astype(np.float32), scales, bits=moved.bits, levels=levels)


def _lstm(weight: Any, recurrent: Any, bias: Any, levels: Levels | None) -> LSTM:
    both: Any = 0.0 if bias is None else gated(np.add(*np.split(bias, 2)), LSTM_GATES)
    return LSTM(_weight(weight, LSTM_GATES, levels), _weight(recurrent, LSTM_GATES, None), both,
                dtype=_dtype(weight))  # fmt: skip


def _gru(weight: Any, recurrent: Any, bias: Any, levels: Levels | None) -> GRU:
    both: Any = 0.0
    inner: Any = 0.0
    if bias is not None:
        first, second = (gated(half, GRU_GATES) for half in np.split(bias, 2))
        gates = len(first) // 3 * 2
        inner = second[gates:]
        both = np.concatenate([first[:gates] + second[:gates], first[gates:]])
    return GRU(_weight(weight, GRU_GATES, levels), _weight(recurrent, GRU_GATES, None), both, inner,
               dtype=_dtype(weight))  # fmt: skip


def _gru_reset_before(
    weight: Any, recurrent: Any, bias: Any, levels: Levels | None
) -> ResetBeforeGRU:
    both: Any = 0.0 if bias is None else gated(np.add(*np.split(bias, 2)), GRU_GATES)
    rows = len(recurrent.codes if isinstance(recurrent, Codes) else recurrent) // 3 * 2
    gates, candidate = (
        _weight(recurrent, GRU_GATES, None, part) for part in (slice(rows), slice(rows, None))
    )
    made = _weight(weight, GRU_GATES, levels)
    return ResetBeforeGRU(made, gates, candidate, both, dtype=_dtype(weight))


def _dtype(matrix: Any) -> Any:
    wide = not isinstance(matrix, Codes) and matrix.dtype == np.float64
    return np.float64 if wide else np.float32


def turned(reading: Reading, node: Any, axis: int) -> None:
    """Let time, the axis said, run the other way."""
    name = None if reading.axes is None else reading.axes[reading.place(node, axis)]
    plain = name is not None and name.isdecimal()
    if not reading.sequences or reading.rows or not plain or reading.time not in (None, name):
        raise unsupported(node, "the axis of time", f"axis {axis}")
    reading.time, reading.reversed = name, not reading.reversed


def _reverse(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Let time run the other way."""
    axis = attributes.get("time_axis", 0)
    turned(reading, node, axis)
    _check_lengths(reading, node, node.input[1], reading.shape[axis])


OPERATORS: dict[str, Operator] = {
    "LSTM": _recurrent, "GRU": _recurrent, "ReverseSequence": _reverse,
}  # fmt: skip
