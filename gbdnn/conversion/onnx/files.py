"""ONNX files and nodes: read without trust in what they claim, one line where onnx is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gbdnn.checks import package
from gbdnn.errors import FileFormatError, InputError, MemoryBudgetError
from gbdnn.files.disk import open_regular
from gbdnn.files.header import DAMAGED
from gbdnn.machine import available_bytes
from gbdnn.types import Array, FilePath

__all__ = [
    "LIMIT", "WRONG", "array_of", "attributes_of", "label", "onnx_package", "read_model",
    "unsupported",
]  # fmt: skip

LIMIT = (1 << 31) - 1  # bytes of a protobuf message
STRUCTURE = 32 << 20  # bytes beside the numbers of tensors; each may take 50 in memory
PARTS = 1_000_000  # fields that are looked at
TOOL = "onnx.save_model with save_as_external_data=True writes the tensors beside the file."
NUMBERS = frozenset((4, 5, 7, 9, 10, 11))  # fields of a TensorProto that hold its data
TENSOR: dict[int, Any] = dict.fromkeys(NUMBERS)
SPARSE = {1: TENSOR, 2: TENSOR, 3: None}
MODEL = {7: {5: TENSOR, 15: SPARSE}}
"""Where in a ModelProto numbers may stand, by the fields' numbers; None: here."""
WRONG = (ValueError, IndexError, TypeError, KeyError, AttributeError, ZeroDivisionError)
"""What numpy and we say to parts of a node that do not fit each other."""


def onnx_package() -> Any:
    """Return the package onnx."""
    return package("onnx", "ONNX files", "onnx")


def read_model(path: FilePath) -> Any:
    """Return the ModelProto in a file.

    Raises
    ------
    MissingDependencyError, DataUnavailableError, FileFormatError, MemoryBudgetError
    """
    onnx = onnx_package()
    from google.protobuf.message import DecodeError

    with open_regular(path) as file:
        size, free = os.fstat(file.fileno()).st_size, available_bytes()
        if size > LIMIT:
            got = f"{size:,} bytes"
            raise FileFormatError(str(path), f"at most {LIMIT:,} bytes", got, TOOL)
        if 3 * size > free:
            expected = f"at most a third of the {free:,} bytes that are free"
            raise MemoryBudgetError(str(path), expected, f"{size:,} bytes")
        content = file.read()
    try:
        inside = _numbers(memoryview(content), MODEL, [PARTS])
        if len(content) - inside > STRUCTURE:
            got = f"{len(content) - inside:,}"
            expected = f"at most {STRUCTURE:,} bytes beside the numbers of initializers"
            raise FileFormatError(str(path), expected, got, "Fold constants into initializers.")
        model = onnx.ModelProto.FromString(content)
    except (DecodeError, EOFError) as error:
        got = f"one that is not ({str(error)[:100]})"
        raise FileFormatError(str(path), "a sound ONNX file", got, DAMAGED) from None
    if not model.HasField("graph") or not model.opset_import:
        raise FileFormatError(str(path), "an ONNX model with a graph", "none", DAMAGED)
    return model


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of a message's fields; content is empty but of bytes."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = 0
        for shift in range(0, 70, 7):
            if place >= len(data):
                raise EOFError("it ends within a number")
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise EOFError("a number without end")

    while place < len(data):
        tag = varint()
        kind, begin = tag & 7, place
        if kind == 0:
            varint()
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            length = varint()
            begin, place = place, place + length
        else:
            raise EOFError(f"a field of the kind {kind}")
        if place > len(data):
            raise EOFError("it ends within a field")
        yield tag >> 3, data[begin:place] if kind == 2 else data[:0]


def _numbers(data: memoryview, known: dict[int, Any], left: list[int]) -> int:
    """Return how many bytes hold the numbers of tensors; many tiny parts are refused."""
    total = 0
    for number, content in _fields(data):
        left[0] -= 1
        if left[0] < 0:
            raise EOFError(f"more than {PARTS:,} parts")
        if number in known:
            below = known[number]
            total += len(content) if below is None else _numbers(content, below, left)
    return total


def array_of(tensor: Any, path: FilePath) -> Array:
    """Return the array of a TensorProto; float16 and bfloat16 are float32."""
    onnx = onnx_package()
    what = f"{path}, tensor {tensor.name[:80]!r}"
    try:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            array = _external(tensor, path, what)
        else:
            array = np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError, NotImplementedError, OverflowError) as error:
        if isinstance(error, FileFormatError):
            raise
        got = str(error)[:150] or type(error).__name__
        raise FileFormatError(what, "as many numbers as its shape says", got, DAMAGED) from None
    name = array.dtype.name
    halves = name in ("float16", "bfloat16") or name.startswith("float8")
    if name in ("int4", "uint4"):
        return array.astype(np.int8 if name == "int4" else np.uint8)
    return array.astype(np.float32) if halves else array


def _external(tensor: Any, path: FilePath, what: str) -> Array:
    """Read a tensor from a file in the model's folder, no link out of it."""
    onnx = onnx_package()
    said = {entry.key: entry.value for entry in tensor.external_data}
    location, folder = said.get("location", ""), Path(os.path.realpath(path)).parent
    target = Path(os.path.realpath(folder / location)) if "\0" not in location else folder
    if not location or os.path.isabs(location) or folder not in target.parents:
        expected = f"external data inside {folder}"
        raise FileFormatError(what, expected, repr(location[:100]), "Do not load this file.")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    dims = [int(n) for n in tensor.dims]
    if dtype.hasobject or dtype.name in ("int4", "uint4") or min(dims, default=0) < 0:
        raise FileFormatError(what, "external data of whole bytes", f"{dtype}", DAMAGED)
    nbytes = dtype.itemsize
    for n in dims:
        nbytes *= n
    offset, length = int(said.get("offset") or 0), int(said.get("length") or nbytes)
    with open_regular(target) as file:
        size = os.fstat(file.fileno()).st_size
        if offset < 0 or length != nbytes or offset + length > size:
            got = f"{length:,} bytes at {offset:,} of {size:,} in {target.name}"
            raise FileFormatError(what, f"{nbytes:,} bytes", got, DAMAGED)
        if nbytes > (free := available_bytes()):
            raise MemoryBudgetError(what, f"at most {free:,} bytes", f"{nbytes:,}")
        file.seek(offset)
        content = file.read(nbytes)
    return np.frombuffer(content, dtype.newbyteorder("<") if dtype.isbuiltin == 1 else dtype
                         ).reshape(dims)  # fmt: skip


# -- nodes --------------------------------------------------------------------------------------


def label(node: Any) -> str:
    """Return what messages call a node."""
    name = node.name or (node.output[0] if node.output else "")
    return f"node {name[:80]!r} ({node.domain + '.' if node.domain else ''}{node.op_type[:40]})"


def unsupported(node: Any, expected: str, got: str = "another") -> InputError:
    """Return the error for a node that has no counterpart."""
    fix = "docs/interchange.md lists what is converted."
    return InputError(label(node), expected, got, fix)


def attributes_of(node: Any) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    onnx = onnx_package()
    try:
        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    except ValueError as error:
        raise FileFormatError(label(node), "sound attributes", str(error)[:100], DAMAGED) from None
