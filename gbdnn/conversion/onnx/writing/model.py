"""`save_onnx`: a network as an ONNX file."""

from __future__ import annotations

import json
from collections.abc import Iterator

from gbdnn import __version__
from gbdnn.conversion.onnx.files import LIMIT, onnx_package
from gbdnn.conversion.onnx.loading import KEY
from gbdnn.conversion.onnx.writing.graph import Writing
from gbdnn.conversion.onnx.writing.layers import WRITERS
from gbdnn.errors import InputError, MemoryBudgetError
from gbdnn.files.disk import atomic_write
from gbdnn.layers import Layer
from gbdnn.machine import available_bytes
from gbdnn.network import Network
from gbdnn.types import FilePath

__all__ = ["save_onnx"]

IR = {20: 9, 21: 10}  # of an opset: the oldest, which most runtimes read


def save_onnx(network: Network, path: FilePath) -> None:
    """Write a network to an ONNX file: input "X" (samples, features), output "Y".

    Parameters
    ----------
    network : Network
        Sparse weights are written dense, as runtimes have no sparse products: the file is larger
        than `Network.save`'s. Integer weights are int8 or int4 behind a DequantizeLinear, levels
        of an input QuantizeLinear and DequantizeLinear. Dropout is left out. With layers over time
        X is (samples, time, features), behind an embedding first whole numbers (samples, time),
        and sequences of a call are of equal length; a recurrent layer whose h is rounded becomes a
        Scan, which `load_onnx` does not read.
    path : path-like
        A file that is there is replaced in one step, or stays as it is if anything fails.

    Raises
    ------
    MissingDependencyError
        Without the package onnx.
    InputError
        For a layer that has no counterpart, and for more than 2 GiB.
    DataUnavailableError, MemoryBudgetError
    """
    onnx = onnx_package()
    writing = Writing(onnx, network.dtype)
    first = network.layers[0].kind == "embedding"
    writing.over_time = first or any(layer.over_time for layer in network.layers)
    axes = [*(["samples", "time"] if writing.over_time else ["samples"])]
    nbytes = 0
    for k, layer in enumerate(network.layers):
        if layer.kind not in WRITERS:
            raise InputError(f"layers[{k}]", f"one of {', '.join(WRITERS)}", layer.kind)
        nbytes += sum(_places(layer)) * network.dtype.itemsize
        if nbytes > LIMIT:
            got = f"{nbytes:,} bytes up to layers[{k}], as weights are written dense"
            raise InputError("network", f"at most {LIMIT:,} bytes", got)
        if 3 * nbytes > (free := available_bytes()):
            raise MemoryBudgetError("network", f"at most {free // 3:,} bytes", f"{nbytes:,}")
        WRITERS[layer.kind](writing, layer, f"layers.{k}")
    writing.samples_first(True, "output")
    writing.node("Identity", [], "output", result="Y")
    helper = onnx.helper
    kind = helper.np_dtype_to_tensor_dtype(network.dtype)
    given = onnx.TensorProto.INT64 if first else kind
    shapes = [axes if first else [*axes, network.in_features],
              [*(axes if writing.over_time else axes[:1]), network.out_features]]  # fmt: skip
    graph = helper.make_graph(
        writing.nodes, "gbdnn",
        [helper.make_tensor_value_info("X", given, shapes[0])],
        [helper.make_tensor_value_info("Y", kind, shapes[1])],
        writing.tensors,
    )  # fmt: skip
    opset = helper.make_opsetid("", writing.opset)
    model = helper.make_model(
        graph, opset_imports=[opset], ir_version=IR[writing.opset],
        producer_name="gbdnn", producer_version=__version__,
    )  # fmt: skip
    if network.metadata:
        try:
            text = json.dumps(network.metadata, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError("metadata", "what JSON can say", str(error)) from None
        helper.set_model_props(model, {KEY: text})
    with atomic_write(path) as file:
        file.write(model.SerializeToString())


def _places(layer: Layer) -> Iterator[int]:
    """Yield how many places each weight has as it is written."""
    for side in getattr(layer, "sides", (layer,)):
        for name in side.weight_names:
            rows, columns = getattr(side, name).shape
            if name == "recurrent":  # with a projection it is a product
                columns = max(columns, rows // side.row_blocks)
            yield rows * columns
