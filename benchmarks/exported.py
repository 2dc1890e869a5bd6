"""Networks as torch and onnxruntime compute them, dense: what `to_torch` and `save_onnx` make."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import gbdnn
from gbdnn.network import Network
from gbdnn.types import Array

__all__ = ["onnx_call", "torch_call", "torch_training"]

Call = Callable[[Array], Any]


def torch_call(network: Network, threads: int) -> Call:
    """Return a function of samples (n, time, features) that torch computes."""
    import torch

    torch.set_num_threads(threads)
    module = gbdnn.to_torch(network)

    def run(X: Array) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(X)).numpy()

    return run


def torch_training(network: Network, X: Array, threads: int, *, steps: int, rate: float) -> float:
    """Return the seconds of a step: forward, backward, Adam."""
    import torch

    torch.set_num_threads(threads)
    module = gbdnn.to_torch(network).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    samples, times = torch.from_numpy(X), []
    for _ in range(steps):
        begin = time.perf_counter()
        optimizer.zero_grad()
        module(samples).square().mean().backward()
        optimizer.step()
        times.append(time.perf_counter() - begin)
    return median(times[2:])


def onnx_call(network: Network, threads: int, *, whole_numbers: bool) -> Call:
    """Return a function of samples that onnxruntime computes.

    Parameters
    ----------
    network : Network
    threads : int
    whole_numbers : bool
        With int8 weights, made by `quantize_dynamic`, as `MatMulInteger` and `DynamicQuantizeLSTM`
        take them; there is no GRU of whole numbers.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        gbdnn.save_onnx(network, path)
        if whole_numbers:
            source, path = path, path.with_name("int8.onnx")
            quantize_dynamic(source, path, weight_type=QuantType.QInt8)
            found = {node.op_type for node in onnx.load(path).graph.node}
            assert found & {"MatMulInteger", "DynamicQuantizeLSTM"}, found
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda X: session.run(None, {"X": X})[0]
