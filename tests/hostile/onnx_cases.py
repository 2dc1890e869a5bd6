"""Hostile ONNX files: case name -> (function, expected class of gbdnn.errors or None)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gbdnn import load_onnx
from gbdnn.errors import (
    DataUnavailableError,
    FileFormatError,
    InputError,
    MemoryBudgetError,
    NonFiniteError,
)

W = np.ones((4, 3), np.float32)
FINAL = helper.make_node("MatMul", ["X", "W"], ["Y"], name="m")
CASES: dict[str, tuple[Callable[[], Any], type[Exception] | None]] = {}


def model(*nodes: Any, tensors: Any = None, sparse: Any = ()) -> Any:
    kept = [numpy_helper.from_array(W, "W")] if tensors is None else tensors
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "XY"]
    graph = helper.make_graph(list(nodes or (FINAL,)), "g", infos[:1], infos[1:], kept,
                              sparse_initializer=list(sparse))  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def loaded(content: Any, prepare: Callable[[Path], Any] = lambda folder: None) -> Any:
    data = content if isinstance(content, bytes) else content.SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m" / "model.onnx"
        path.parent.mkdir()
        path.write_bytes(data)
        prepare(path.parent)
        return load_onnx(path)


def case(name: str, expected: type[Exception] | None, make: Callable[[], Any]) -> None:
    CASES[name] = (make, expected)


def external(prepare: Any = lambda folder: None, dims: Any = (4, 3), **said: str) -> Any:
    tensor = TensorProto(name="W", data_type=1, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in said.items():
        tensor.external_data.add(key=key, value=value)
    return loaded(model(tensors=[tensor]), prepare)


def claimed(*dims: int) -> Any:
    return loaded(model(tensors=[TensorProto(name="W", data_type=1, dims=dims, raw_data=b"1234")]))


def sparse(values: Any, places: Any, shape: Any) -> Any:
    made = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array(values, np.float32), "W"),
        numpy_helper.from_array(np.array(places, np.int64), ""), shape,
    )  # fmt: skip
    return loaded(model(tensors=[], sparse=[made]))


def data(folder: Path) -> None:
    (folder / "w.bin").write_bytes(W.tobytes())
    (folder.parent / "out.bin").write_bytes(W.tobytes())
    os.symlink("../out.bin", folder / "link.bin")
    os.mkfifo(folder / "pipe")


def field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while True:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
        if not size:
            tag = number << 3 | 2
            return (
                (bytes([tag & 127 | 128, tag >> 7]) if tag > 127 else bytes([tag]))
                + length
                + content
            )


def nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = field(1, field(5, field(6, content)))  # a graph in an attribute of a node
    return field(8, b"\x10\x14") + field(7, content)


def truncated(k: int) -> Any:
    return loaded(model().SerializeToString()[:-k])


def cycle() -> Any:
    return loaded(
        model(helper.make_node("Relu", ["Y"], ["Z"]), helper.make_node("Relu", ["Z"], ["Y"]))
    )


def changed(**fields: Any) -> Any:
    made = model()
    for name, value in fields.items():
        made.graph.node[0].MergeFrom(onnx.NodeProto(**{name: value}))
    return loaded(made)


def many_changed_bytes() -> None:
    """Change every byte of a file in turn: an error of gbdnn, or a network."""
    content = model().SerializeToString()
    rng = np.random.default_rng(0)
    for k in range(len(content)):
        other = bytearray(content)
        other[k] ^= int(rng.integers(1, 256))
        with contextlib.suppress(InputError, MemoryBudgetError, DataUnavailableError):
            loaded(bytes(other))


case("sound", None, lambda: loaded(model()))
case("empty", FileFormatError, lambda: loaded(b""))
case("text", FileFormatError, lambda: loaded(b"<html></html>"))
case("noise", FileFormatError, lambda: loaded(np.random.default_rng(0).bytes(10_000)))
for k in (1, 5, 20, 60):
    case(f"truncated by {k}", FileFormatError, lambda k=k: truncated(k))
case("changed bytes", None, many_changed_bytes)
case("cycle", FileFormatError, cycle)
case("made twice", FileFormatError, lambda: loaded(model(FINAL, FINAL)))
case("initializer twice", FileFormatError,
     lambda: loaded(model(tensors=[numpy_helper.from_array(W, "W")] * 2)))  # fmt: skip
case("missing initializer", FileFormatError, lambda: loaded(model(tensors=[])))
case("missing output", FileFormatError,
     lambda: loaded(model(helper.make_node("MatMul", ["X", "W"], ["Q"]))))  # fmt: skip
case("no inputs of a node", InputError, lambda: loaded(model(helper.make_node("Relu", [], ["Y"]))))
case("unknown domain", InputError, lambda: changed(domain="evil"))
case("claims 2^60 bytes", FileFormatError, lambda: claimed(1 << 30, 1 << 28))
case("claims an overflow", FileFormatError, lambda: claimed(1 << 62, 1 << 62))
case("claims less than nothing", FileFormatError, lambda: claimed(-1, 3))
case("NaN", NonFiniteError,
     lambda: loaded(model(tensors=[numpy_helper.from_array(W * np.nan, "W")])))  # fmt: skip
case("external", None, lambda: external(data, location="w.bin"))
case("external, too short", FileFormatError, lambda: external(data, (40, 3), location="w.bin"))
case("external, missing", DataUnavailableError, lambda: external(data, location="no.bin"))
case("external, a pipe", DataUnavailableError, lambda: external(data, location="pipe"))
case("external, no number", FileFormatError, lambda: external(data, location="w.bin", offset="x"))
case("external, behind the end", FileFormatError,
     lambda: external(data, location="w.bin", offset=str(1 << 70)))  # fmt: skip
for place in ("../out.bin", "/etc/passwd", "link.bin", "", ".", "a\0b", "x/../../out.bin"):
    case(
        f"external, {place!r}", FileFormatError, lambda place=place: external(data, location=place)
    )
case("sparse, outside", FileFormatError, lambda: sparse([1], [[4, 0]], [4, 3]))
case("sparse, negative", FileFormatError, lambda: sparse([1], [[-1, 0]], [4, 3]))
case("sparse, twice", FileFormatError, lambda: sparse([1, 2], [[1, 0], [1, 0]], [4, 3]))
case("sparse, huge", FileFormatError, lambda: sparse([1], [[1, 0]], [1 << 40, 3]))
case("sparse, large", MemoryBudgetError, lambda: sparse([1], [[1, 0]], [(1 << 31) - 1, 3]))
case("more than 2 GiB", FileFormatError,
     lambda: loaded(model(), lambda home: os.truncate(home / "model.onnx", 1 << 31)))  # fmt: skip
case("nested graphs", FileFormatError, lambda: loaded(nested(5000)))
case("many empty nodes", FileFormatError,
     lambda: loaded(field(8, b"\x10\x14") + field(7, b"\x0a\x00" * 20_000_000)))  # fmt: skip
case("many empty entries", FileFormatError,
     lambda: loaded(
         field(8, b"\x10\x14") + field(7, field(5, b"\x6a\x00" * 20_000_000))))  # fmt: skip


# -- layers over time, whole numbers, constants that grow ------------------------------------------


def over_time(*nodes: Any, **tensors: Any) -> Any:
    """Load a graph of sequences (samples, time, 5), LSTM weights of 3 cells beside it."""
    known: dict[str, Any] = {
        "W": np.ones((1, 12, 5), np.float32), "R": np.ones((1, 12, 3), np.float32),
        "B": np.ones((1, 24), np.float32), "big": np.array([1 << 40]), "one": np.array([1]),
        "last": np.array([-1]), "half": np.float32(0.5), "zero": np.int8(0),
    } | tensors  # fmt: skip
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in known.items()]
    graph = helper.make_graph(
        [node if not isinstance(node, str) else _node(node) for node in nodes], "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", "t", 5])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)], stored,
    )  # fmt: skip
    return loaded(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))


def _node(text: str, **attributes: Any) -> Any:
    """Return a node of "OP inputs -> outputs"."""
    left, right = text.split("->")
    op, *inputs = left.split()
    names = ["" if name == "-" else name for name in inputs]
    return helper.make_node(op, names, right.split(), name=f"the_{op}", **attributes)


def grown(op: str, count: int = 60) -> Any:
    """Load a graph in which each node joins the one before with itself, down to the begin of h."""
    options = {"axis": 0} if op == "Concat" else {}
    steps = [_node("Shape X -> s0")]
    steps += [_node(f"{op} s{k} s{k} -> s{k + 1}", **options) for k in range(count)]
    last = f"LSTM X W R B - s{count} -> Y"
    return over_time(*steps, last)


def doubled() -> Any:
    """Load a graph whose weight is joined with itself again and again."""
    steps = [_node("Identity W -> w0")]
    steps += [_node(f"Concat w{k} w{k} -> w{k + 1}", axis=0) for k in range(40)]
    return over_time(*steps, "LSTM X w40 R B -> Y")


def rounded(scale: Any, zero: Any = None) -> Any:
    zero = np.int8(0) if zero is None else zero
    return over_time("QuantizeLinear X q z -> a", "DequantizeLinear a q z -> x", "MatMul x V -> Y",
                     q=scale, z=zero, V=np.ones((5, 2), np.float32))  # fmt: skip


def blocks(scales: Any, **attributes: Any) -> Any:
    return over_time(_node("DequantizeLinear C S -> w", **attributes), "MatMul X w -> Y",
                     C=np.ones((5, 4), np.int8), S=scales)  # fmt: skip


LONG = "LSTM X W R B -> Y"
case("sequences, sound", None, lambda: over_time(LONG))
for shape in ((12, 5), (1, 12, 4), (1, 0, 5), (3, 12, 5), (0, 12, 5)):
    case(f"W of shape {shape}", InputError,
         lambda shape=shape: over_time(LONG, W=np.ones(shape, np.float32)))  # fmt: skip
case("W of 11 rows", FileFormatError,
     lambda: over_time(LONG, W=np.ones((1, 11, 5), np.float32)))  # fmt: skip
case("R of another shape", InputError,
     lambda: over_time(LONG, R=np.ones((1, 12, 4), np.float32)))  # fmt: skip
case("B too short", FileFormatError, lambda: over_time(LONG, B=np.ones((1, 23), np.float32)))
case("W of whole numbers", InputError,
     lambda: over_time(LONG, W=np.ones((1, 12, 5), np.int64) * (1 << 62)))  # fmt: skip
case("W is NaN", InputError, lambda: over_time(LONG, W=np.full((1, 12, 5), np.nan, np.float32)))
case("an LSTM without inputs", InputError, lambda: over_time("LSTM -> Y"))
case("an LSTM of one input", InputError, lambda: over_time("LSTM X -> Y"))
case("h of 2^40 zeros", InputError,
     lambda: over_time("ConstantOfShape big -> h", "LSTM X W R B - h -> Y"))  # fmt: skip
case("h grown to 2^40", InputError,
     lambda: over_time("Expand half big -> h", "LSTM X W R B - h -> Y"))  # fmt: skip
case("h of 2^40 tiles", InputError,
     lambda: over_time("Tile one big -> h", "LSTM X W R B - h -> Y"))  # fmt: skip
case("sums of sums", InputError, lambda: grown("Add"))
case("joined with itself", InputError, lambda: grown("Concat"))
case("a weight joined with itself", MemoryBudgetError, doubled)
case("places times places", MemoryBudgetError,
     lambda: over_time("Gather W P -> w", "LSTM X w R B -> Y", W=np.ones((1, 1200, 50), np.float32),
                       P=np.zeros(1 << 20, np.int64)))  # fmt: skip
case("a step of 0", InputError, lambda: rounded(np.float32(0)))
case("a step below 0", InputError, lambda: rounded(np.float32(-1)))
case("a step that is NaN", InputError, lambda: rounded(np.float32(np.nan)))
case("a step that is infinite", InputError, lambda: rounded(np.float32(np.inf)))
case("two zeros", FileFormatError, lambda: rounded(np.float32(1), np.zeros(2, np.int8)))
case("blocks of a billion", InputError,
     lambda: blocks(np.ones((5, 2), np.float32), axis=1, block_size=1 << 40))  # fmt: skip
case("blocks that do not fit", InputError,
     lambda: blocks(np.ones((5, 3), np.float32), axis=1, block_size=2))  # fmt: skip
case("no blocks", InputError,
     lambda: blocks(np.ones((5, 0), np.float32), axis=1, block_size=2))  # fmt: skip
case("scales for nothing", InputError, lambda: blocks(np.ones(3, np.float32)))
case("scales that are NaN", NonFiniteError, lambda: blocks(np.full(4, np.nan, np.float32)))
case("an axis of 2^40", InputError, lambda: over_time(_node("Gather X one -> Y", axis=1 << 40)))
case("axes twice", InputError, lambda: over_time(_node("Transpose X -> Y", perm=[0, 0, 1])))
case("a shape of another size", InputError,
     lambda: over_time(LONG.replace("Y", "y"), "Reshape y big -> Y"))  # fmt: skip
case("100 new axes", InputError,
     lambda: over_time("Unsqueeze X a -> x", "LSTM x W R B -> Y", a=np.arange(100)))  # fmt: skip
case("a step of 0 places", InputError,
     lambda: over_time("Slice W zeros one zeros zeros -> w", "LSTM X w R B -> Y",
                       zeros=np.array([0])))  # fmt: skip
case("a division by 0", InputError,
     lambda: over_time("Div W nought -> w", "LSTM X w R B -> Y",
                       W=np.ones((1, 12, 5), np.int64), nought=np.zeros(1, np.int64)))  # fmt: skip
case("a Scan", InputError,
     lambda: over_time(_node("Scan X -> Y", num_scan_inputs=1, body=helper.make_graph(
         [], "b", [], []))))  # fmt: skip
