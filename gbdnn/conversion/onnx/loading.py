"""`load_onnx`: a chain of ONNX nodes as a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gbdnn.conversion.onnx.files import WRONG, attributes_of, read_model, unsupported
from gbdnn.conversion.onnx.graph import Graph, Step
from gbdnn.conversion.onnx.operators import MICROSOFT, ON_CODES, OPERATORS
from gbdnn.conversion.onnx.operators.forward import text_of
from gbdnn.conversion.onnx.reading import Operator, Reading
from gbdnn.errors import DataUnavailableError, FileFormatError, GbdnnError, MemoryBudgetError
from gbdnn.files.header import DAMAGED
from gbdnn.network import Network
from gbdnn.types import FilePath

__all__ = ["KEY", "load_onnx"]

KEY = "gbdnn"  # of the metadata property that `save_onnx` writes


def load_onnx(path: FilePath, *, output: str | None = None) -> Network:
    """Return the network in an ONNX file whose graph is a chain.

    Parameters
    ----------
    path : path-like
        External data may lie beside it, in files inside its folder.
    output : str, optional
        The output to compute; default the only one, or the only one that is not of labels.

    Returns
    -------
    Network
        Gemm, MatMul, Add, Sub, Mul and Div by constants, BatchNormalization and Scaler become
        `gbdnn.Linear`; a weight half or more of which are zeros becomes sparse, sparse
        initializers stay so. LSTM and GRU become layers over time, Gather from a constant an
        `gbdnn.Embedding`; sequences have the shape (samples, time, features), whatever the graph
        has, numbers for an embedding (samples, time, 1). Weights of whole numbers become
        `gbdnn.Int8` or `gbdnn.Int4`, and the QuantizeLinear of their input its `Levels`. Classes
        that a converter of scikit-learn wrote are in the metadata.

    Raises
    ------
    MissingDependencyError
        Without the package onnx.
    InputError
        For an operator that has no counterpart, with the node's name.
    DataUnavailableError, FileFormatError, MemoryBudgetError
        For files that cannot be read, are damaged, or claim what they do not hold.

    Warns
    -----
    UserWarning
        For roundings of activations that are left out: those that no product with an integer
        weight follows, and those to scales that are found as the values come.
    """
    model = read_model(path)
    graph = Graph(model.graph, path)
    first, nodes = graph.chain(graph.output(output))
    every = [inner for node, _, _ in nodes for inner in graph.inside(node)]
    for node in every:
        _operator(node)
    reading = Reading(graph, model, first, every)
    reading.read = _read
    _read(reading, nodes)
    reading.finish(nodes)
    return Network(reading.chain.finished(), metadata=_metadata(reading, model))


def _read(reading: Reading, nodes: Sequence[Step]) -> None:
    """Let each node's operator add what it stands for."""
    for k, (node, result, computed) in enumerate(nodes):
        reading.result, reading.upcoming = result, nodes[k + 1][0] if k + 1 < len(nodes) else None
        if reading.coded and node.op_type not in ON_CODES:
            raise unsupported(node, f"behind codes one of {', '.join(ON_CODES)}", "another")
        operator = _operator(node)
        try:
            operator(reading, node, attributes_of(node), computed[0] if computed else "")
        except (FileFormatError, DataUnavailableError, MemoryBudgetError):
            raise
        except GbdnnError as error:
            if not error.argument.startswith("node "):
                raise unsupported(node, error.expected, f"{error.argument}: {error.got}") from None
            raise
        except WRONG as error:
            what = f"{reading.graph.path}, node {node.name[:80]!r}"
            got = str(error)[:120]
            raise FileFormatError(what, f"a sound {node.op_type}", got, DAMAGED) from None
        reading.shapes[result] = reading.shape


DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


def _operator(node: Any) -> Operator:
    known = {"com.microsoft": MICROSOFT, **dict.fromkeys(DOMAINS, OPERATORS)}.get(node.domain, {})
    if node.op_type not in known:
        expected = f"one of {', '.join({**OPERATORS, **MICROSOFT})}"
        raise unsupported(node, expected, "an operator without counterpart")
    return known[node.op_type]


def _metadata(reading: Reading, model: Any) -> dict[str, Any]:
    """Return what `save_onnx` wrote, and classes."""
    said = {entry.key: entry.value for entry in model.metadata_props}
    try:
        known = json.loads(said.get(KEY, "{}"))
        json.dumps(known, allow_nan=False)
    except (ValueError, RecursionError):
        known = {}
    metadata = dict(known) if isinstance(known, dict) else {}
    features = max(reading.chain.features or 0, 2)
    classes = reading.classes or _classes(reading.graph, features)
    return metadata if classes is None else {"classes": classes, **metadata}


def _classes(graph: Graph, count: int) -> list[Any] | None:
    """Return the classes from which a graph takes its labels."""
    for node in graph.nodes:
        if node.op_type == "ArrayFeatureExtractor" and node.domain == "ai.onnx.ml":
            found = graph.constant(node.input[0])
            if found is not None and found.size == count:
                texts = found.dtype.kind in "OS"
                names = [text_of(v) if texts else v for v in found.ravel().tolist()]
                return names if len(set(names)) == count else None
    return None
