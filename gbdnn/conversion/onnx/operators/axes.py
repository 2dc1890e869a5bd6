"""Nodes of ONNX graphs that move axes about, or take one place of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gbdnn.conversion.onnx.codes import Codes
from gbdnn.conversion.onnx.files import unsupported
from gbdnn.conversion.onnx.operators.recurrent import turned
from gbdnn.conversion.onnx.operators.sides import joined
from gbdnn.conversion.onnx.reading import Operator, Reading, is_embedding
from gbdnn.layers import Embedding, FinalStates, LastStep, MeanOverTime
from gbdnn.weights import integer_weight

__all__ = ["OPERATORS", "embedded"]

ONE = "the last time step, or the first one"


def _gather(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Append an Embedding, or take one place of an axis."""
    if is_embedding(reading.graph, node):
        if attributes.get("axis", 0) != 0 or not reading.numbers or reading.chain.parts:
            raise unsupported(node, "rows of a table as the first operation", "another")
        table = reading.graph.constant(node.input[0])
        codes = reading.graph.constants.codes(node.input[0])
        reading.numbers = False
        reading.axes = [*(reading.axes or []), "features"]
        if table.dtype in (np.int8, np.uint8):  # a DequantizeLinear follows
            reading.table, reading.coded = table, True
            return
        embedded(reading, table, codes)
        return
    places = reading.constants(node)[1] if len(node.input) == 2 else None
    if places is None or places.size != 1 or reading.axes is None:
        raise unsupported(node, "one constant place, or rows of a constant table", "others")
    axis, place = reading.place(node, attributes.get("axis", 0)), int(places.ravel()[0])
    if (state := reading.graph.state_of(node)) is not None:
        axis, place = reading.axes.index("directions"), state[1]  # of one layer instead of all
    if not _one(reading, axis, place):
        raise unsupported(node, ONE, f"place {places.ravel()[0]} of axis {axis}")
    if places.ndim:
        reading.axes[axis] = "one"
    else:
        del reading.axes[axis]


def embedded(reading: Reading, table: Any, codes: Codes | None) -> None:
    """Append an Embedding of a table, shape (vocabulary, features)."""
    turned = None if codes is None else codes.each(np.transpose)
    scales = None if turned is None else turned.scales()
    weight: Any = np.ascontiguousarray(table.T)
    if turned is not None and scales is not None:
        weight = integer_weight(weight, scales, bits=turned.bits)
    dtype = np.float64 if table.dtype == np.float64 else np.float32
    reading.chain.weighted(Embedding(weight, dtype=dtype))
    reading.sizes["features"] = table.shape[1]


def _one(reading: Reading, axis: int, place: int) -> bool:
    """Take one end of time, one of two directions, or the only place there is; else False."""
    axes: Any = reading.axes
    name, features = axes[axis], reading.sizes["features"]
    size = reading.sizes[name]
    place += size * (place < 0)
    if name in ("one", "directions") and size == 1:
        return place == 0
    if name == "directions" and 0 <= place < size:
        return _part(reading, place * features, (place + 1) * features)
    if not _is_time(reading, name) or place not in (0, size - 1):
        return False
    last = place == (0 if reading.reversed else size - 1)
    reading.row(LastStep() if last else FinalStates(0))
    return True


def _part(reading: Reading, begin: int, end: int) -> bool:
    """Take some features of those where two ways part; False on the way of the whole graph."""
    if reading.directions is None or reading.part is not None or reading.chain.parts:
        return False
    reading.part = begin, end
    reading.sizes["features"] = end - begin
    return True


def _is_time(reading: Reading, name: str) -> bool:
    """Whether an axis is time; behind an embedding alone it is the second one."""
    return reading.sequences and not reading.rows and name == (reading.time or "1")


def _slice(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Take the last time step, or the first one, or all of them the other way."""
    if len(node.input) > 1:
        given = [reading.sized(name) for name in node.input[1:]]
        starts, ends, axes, steps = [*(None if v is None else v.tolist() for v in given), None,
                                     None][:4]  # fmt: skip
    else:
        starts, ends, axes = (attributes.get(name) for name in ("starts", "ends", "axes"))
        steps = None
    backwards = steps == [-1]
    if not (starts and ends and axes) or len(starts) != 1 or steps not in (None, [1], [-1]):
        raise unsupported(node, ONE, "another part")
    axis = reading.place(node, axes[0])
    size = reading.shape[axis] if reading.axes else 0
    if backwards:
        if starts[0] not in (-1, size - 1) or ends[0] >= -size:
            raise unsupported(node, "all time steps, the last one first", "a part of them")
        turned(reading, node, axis)
        return
    begin, end = starts[0] + size * (starts[0] < 0), min(ends[0] + size * (ends[0] < 0), size)
    if reading.axes is None or (begin, end) == (0, size):
        return
    whole = reading.axes[axis] == "features" and "directions" not in reading.axes
    if whole and 0 <= begin < end and _part(reading, begin, end):
        return
    if end - begin != 1 or not _one(reading, axis, begin):
        raise unsupported(node, ONE, f"{starts[0]} to {ends[0]} of axis {axis}")
    reading.axes[axis] = "one"


def _mean(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Append a MeanOverTime."""
    axes = attributes.get("axes")
    if len(node.input) > 1 and node.input[1]:
        given = reading.constants(node)[1]
        axes = None if given is None else given.tolist()
    if not axes or len(axes) != 1 or reading.axes is None:
        raise unsupported(node, "the axis of time", f"axes {axes}"[:60])
    axis = reading.place(node, axes[0])
    if not _is_time(reading, reading.axes[axis]):
        raise unsupported(node, "the axis of time", f"axis {axis}")
    reading.row(MeanOverTime())
    if attributes.get("keepdims", 1):
        reading.axes[axis] = "one"
    else:
        del reading.axes[axis]


def _transpose(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    axes = reading.axes
    order = attributes.get("perm", [] if axes is None else list(range(len(axes)))[::-1])
    if axes is None or sorted(order) != list(range(len(axes))):
        raise unsupported(node, "an order of known axes", f"{order}"[:60])
    if not reading.sequences:
        raise unsupported(node, "sequences", "samples")
    reading.axes = [axes[k] for k in order]


def _squeeze(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    given = reading.constants(node)[1] if len(node.input) > 1 and node.input[1] else None
    axes = attributes.get("axes") if given is None else given.tolist()
    known: Any = reading.axes
    if known is None:
        raise unsupported(node, "known axes", "others")
    single = [k for k, size in enumerate(reading.shape) if size == 1]
    gone = {reading.place(node, k) for k in (single if axes is None else axes)}
    if not gone <= set(single) or any(known[k] == "features" for k in gone):
        raise unsupported(node, "axes of size 1", f"{sorted(gone)}")
    reading.axes = [axis for k, axis in enumerate(known) if k not in gone]


def _unsqueeze(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    given = reading.constants(node)[1] if len(node.input) > 1 else attributes.get("axes")
    if given is None or reading.axes is None or not reading.sequences:
        raise unsupported(node, "known axes of sequences", "others")
    places = [int(k) for k in np.atleast_1d(given)]
    rank = len(reading.axes) + len(places)
    wanted = {k % rank for k in places if -rank <= k < rank}
    if len(wanted) != len(places) or rank > 8:
        raise unsupported(node, "places for new axes", f"{places}"[:60])
    rest = iter(reading.axes)
    reading.axes = ["one" if k in wanted else next(rest) for k in range(rank)]


def _flatten(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Leave vectors as they are."""
    axis = attributes.get("axis", 1)
    if axis != 1 and not (axis < 0 and reading.rank is not None and axis + reading.rank == 1):
        raise unsupported(node, "axis 1: a vector for each sample", f"axis {axis}")
    _one_vector(reading, node)


def _reshape(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Leave vectors as they are; join directions with features."""
    value = reading.sized(node.input[1]) if len(node.input) == 2 else None
    shape = None if value is None else [int(n) for n in value.ravel()]
    if reading.sequences:
        _moved(reading, node, shape, bool(attributes.get("allowzero", 0)))
        return
    traced = reading.samples  # exporters write the number of samples they were shown
    known = reading.shape[0] if reading.axes else traced
    if (
        shape is None
        or len(shape) != 2
        or shape[1] == 0
        or (shape[0] > 0 and shape[1] > 0 and shape[0] not in (traced, known))
    ):
        raise unsupported(node, "the shape (samples, features)", f"{shape}")
    if shape[1] > 0 and reading.chain.features not in (None, shape[1]):
        raise unsupported(node, f"{reading.chain.features} features", f"{shape[1]}")
    _one_vector(reading, node)


def _moved(reading: Reading, node: Any, shape: list[int] | None, zeros: bool) -> None:
    """Find which of the shapes without new contents is meant."""
    axes: Any = reading.axes
    now = reading.shape
    wanted = shape or []
    if not zeros:
        wanted = [now[k] if n == 0 and k < len(now) else n for k, n in enumerate(wanted)]
    if wanted.count(-1) == 1:
        rest = int(np.prod([n for n in wanted if n != -1], dtype=object))
        wanted = [int(np.prod(now)) // rest if n == -1 and rest > 0 else n for n in wanted]
    joined = list(axes)
    sizes = dict(reading.sizes)
    if "directions" in joined and joined.index("directions") + 1 == joined.index("features"):
        joined.remove("directions")
        sizes["features"] *= sizes["directions"]
    bare = [axis for axis in joined if axis not in ("one", "directions") or sizes[axis] > 1]
    folded, rows = _steps(reading, list(axes))
    for candidate, known in ((axes, reading.sizes), (joined, sizes), (bare, sizes),
                             (folded, reading.sizes | rows)):  # fmt: skip
        if [known[axis] for axis in candidate] == wanted:
            reading.axes, reading.sizes = list(candidate), dict(known)
            return
    got = f"the shape {shape} of {', '.join(axes)} {now}"[:120]
    raise unsupported(node, "axes that keep their contents, directions joined with features", got)


def _steps(reading: Reading, axes: list[str]) -> tuple[list[str], dict[str, int]]:
    """Return axes with those before the features as one, "steps", or these as they were before.

    Exporters multiply sequences as matrices of all time steps.
    """
    if axes[:1] == ["steps"]:
        return [*reading.folded, *axes[1:]], {}
    if len(axes) < 3 or axes[-1] != "features" or reading.rows:
        return axes, {}
    reading.folded = axes[:-1]
    return ["steps", "features"], {"steps": int(np.prod(reading.shape[:-1]))}


def _one_vector(reading: Reading, node: Any) -> None:
    """Flatten: what has been computed must be a vector for each sample already."""
    if reading.sequences:
        _moved(reading, node, [reading.shape[0], -1] if reading.axes else None, True)
        return
    if reading.chain.parts and reading.rank not in (2, None):
        raise unsupported(node, "samples with one vector each", f"{reading.rank} dimensions")
    if reading.axes and len(reading.axes) != 2:
        reading.sizes["features"] = int(np.prod(reading.shape[1:]))
        reading.axes = [reading.axes[0], "features"]


def _concat(reading: Reading, node: Any, attributes: dict[str, Any], computed: str) -> None:
    """Join two layers, or two parts; else nothing: (1 - p, p) is one sigmoid's."""
    if reading.graph.sides(node):
        joined(reading, node, attributes)


OPERATORS: dict[str, Operator] = {
    "Concat": _concat,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Gather": _gather,
    "Slice": _slice,
    "ReduceMean": _mean,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
