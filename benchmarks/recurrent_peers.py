"""The LSTMs and GRUs of torch and onnxruntime, dense, with the weights of a network of ours."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gbdnn.layers import GRU
from gbdnn.network import Network
from gbdnn.types import Array

__all__ = ["onnx_call", "torch_call", "torch_training"]

Call = Callable[[Array], Any]
# where ONNX has its gates among ours: i, o, f, c of an LSTM; z, r, n of a GRU
ORDERS = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}


def _matrices(network: Network) -> tuple[Array, Array, Array, Array]:
    """Return W, U, and the biases of both products, as torch has them."""
    layer = network.layers[0]
    W, U = (w.to_dense(allow_dense=True) for w in (layer.weight, layer.recurrent))
    bias = np.broadcast_to(layer.bias, len(W)).astype(W.dtype)
    inner = np.zeros_like(bias)
    if isinstance(layer, GRU):
        inner[-len(W) // 3 :] = layer.recurrent_bias
    return W, U, bias, inner


def _module(network: Network, threads: int) -> Any:
    """Return torch's module."""
    import torch

    torch.set_num_threads(threads)
    layer = network.layers[0]
    kind = torch.nn.GRU if isinstance(layer, GRU) else torch.nn.LSTM
    module: Any = kind(layer.in_features, layer.out_features)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), _matrices(network), strict=True):
            parameter.copy_(torch.from_numpy(value))
    return module


def torch_call(network: Network, threads: int) -> Call:
    """Return a function of samples (n, time, features) that torch computes."""
    import torch

    module = _module(network, threads).eval()

    def run(X: Array) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(X).transpose(0, 1))[0].transpose(0, 1).numpy()

    return run


def torch_training(network: Network, X: Array, threads: int, *, steps: int, rate: float) -> float:
    """Return the seconds of a step: forward, backward, Adam."""
    import torch

    module = _module(network, threads)
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    samples, times = torch.from_numpy(X).transpose(0, 1), []
    for _ in range(steps):
        begin = time.perf_counter()
        optimizer.zero_grad()
        module(samples)[0].square().mean().backward()
        optimizer.step()
        times.append(time.perf_counter() - begin)
    return median(times[2:])


def onnx_call(network: Network, threads: int, *, whole_numbers: bool) -> Call:
    """Return a function of samples (n, time, features) that onnxruntime computes.

    Parameters
    ----------
    network : Network
    threads : int
    whole_numbers : bool
        With `DynamicQuantizeLSTM` (int8 weights), made by `quantize_dynamic`; it has no GRU.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        _write(network, path)
        if whole_numbers:
            path = _quantized(path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(X: Array) -> Any:
        given = np.ascontiguousarray(X.transpose(1, 0, 2))
        return session.run(None, {name: given})[0][:, 0].transpose(1, 0, 2)

    return run


def _write(network: Network, path: Path) -> None:
    """Write the layer as an ONNX model of one operator."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    layer = network.layers[0]
    kind = "gru" if isinstance(layer, GRU) else "lstm"
    order = ORDERS[kind]
    W, U, bias, inner = (
        np.concatenate([np.split(each, len(order))[gate] for gate in order])[None]
        for each in _matrices(network)
    )
    values = {"W": W, "R": U, "B": np.concatenate([bias, inner], axis=1)}
    options = {"linear_before_reset": 1} if kind == "gru" else {}
    node = helper.make_node(kind.upper(), ["X", *values], ["Y"], hidden_size=layer.out_features,
                            **options)  # fmt: skip
    shapes = {"X": ["time", "batch", layer.in_features],
              "Y": ["time", 1, "batch", layer.out_features]}  # fmt: skip
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    held = [numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in values.items()]
    graph = helper.make_graph([node], kind, ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def _quantized(path: Path) -> Path:
    """Write the model with int8 weights, and return where."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name("quantized.onnx")
    quantize_dynamic(path, target, weight_type=QuantType.QInt8, op_types_to_quantize=["LSTM"])
    found = {node.op_type for node in onnx.load(target).graph.node}
    assert "DynamicQuantizeLSTM" in found, found
    return target
