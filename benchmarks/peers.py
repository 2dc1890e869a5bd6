"""Other libraries that compute the same network, each in its best form. Imported on use only.

All take neuron-major batches but torch-dense, which is batch-major as torch's linear layer is.
The bias is put into the output before the product adds to it, where the library can do that.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import Engine
from gbdnn.errors import choose
from gbdnn.types import Array
from gbdnn.weights import CSR, Weight

__all__ = ["PEERS", "Peer", "missing", "prepare", "torch_matrix"]

Weights = Sequence[Weight]
CHUNKS = (1024, 256)  # columns that are tried, besides the whole batch


@dataclass(frozen=True)
class Peer:
    """Another library: the module it needs, how to get it, and how it computes."""

    module: str
    install: str
    prepare: Callable[[Weights, Sequence[Array], int], Engine]


def missing(engine: str) -> str | None:
    """Return how to get the library of an engine if it is not installed, else None."""
    if engine.startswith("onnx"):
        found = find_spec("onnx") and find_spec("onnxruntime")
        return None if found else "pip install onnx onnxruntime"
    peer = PEERS.get("torch-dense" if engine.startswith("torch") else engine)
    return None if peer is None or find_spec(peer.module) else peer.install


def prepare(name: str, weights: Weights, biases: Sequence[Array], threads: int) -> Engine:
    """Bring layers with ReLU into a peer's own form.

    Parameters
    ----------
    name : str
        One of `PEERS`.
    weights : sequence of Weight, shape (out_features, in_features)
    biases : sequence of ndarray, shape (out_features,)
    threads : int
        What the library is told to use.
    """
    return PEERS[choose("peer", name, PEERS)].prepare(weights, biases, threads)


def _torch_csr(weights: Weights, biases: Sequence[Array], threads: int) -> Engine:
    import torch

    torch.set_num_threads(threads)
    layers = [
        (torch_matrix(weight), torch.from_numpy(bias.copy())[:, None])
        for weight, bias in zip(weights, biases, strict=True)
    ]

    def through(number: int, Y: Array) -> Any:
        Z = torch.from_numpy(Y)
        if Z.shape[1] == 1:
            for W, b in layers:
                Z = torch.mv(W, Z[:, 0]).add_(b[:, 0]).relu_()[:, None]
        else:
            for W, b in layers:  # bias first, then beta = 1: faster than adding it to the product
                Z = torch.addmm(b.expand(W.shape[0], Z.shape[1]), W, Z).relu_()
        return Z

    return _by_columns(through, weights, torch.get_num_threads(), torch.inference_mode)


def _by_columns(
    through: Callable[[int, Array], Any], weights: Weights, threads: int, scope: Any = nullcontext
) -> Engine:
    """Return an engine on CSR arrays that takes chunk k through all layers: ``through(k, Y)``."""
    csr = [_as_csr(weight) for weight in weights]
    nbytes = sum(W.indptr.nbytes + W.indices.nbytes + W.full_values.nbytes for W in csr)

    def run(chunks: list[Array]) -> list[Any]:
        return [through(k, Y) for k, Y in enumerate(chunks)]

    def cut(X: Array, width: int) -> list[Array]:
        return [np.ascontiguousarray(X[k : k + width].T) for k in range(0, len(X), width)]

    def leave(chunks: list[Any]) -> Array:
        return np.ascontiguousarray(np.concatenate([np.asarray(Z) for Z in chunks], axis=1).T)

    return Engine(run, cut, leave, lambda: nbytes, threads, scope, CHUNKS)


def torch_matrix(weight: Weight, values: Any = None) -> Any:
    """Return a weight as a CSR tensor of torch, on other `values` if they are given."""
    import torch

    csr = _as_csr(weight)
    parts = [torch.from_numpy(part.copy()) for part in (csr.indptr, csr.indices)]
    values = torch.from_numpy(csr.full_values.copy()) if values is None else values.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CSR is in beta, invariants are not checked
        return torch.sparse_csr_tensor(*parts, values, csr.shape)


def _torch_dense(weights: Weights, biases: Sequence[Array], threads: int) -> Engine:
    import torch
    from torch.nn.functional import linear

    torch.set_num_threads(threads)
    layers = [
        (torch.from_numpy(weight.to_dense(allow_dense=True)), torch.from_numpy(bias.copy()))
        for weight, bias in zip(weights, biases, strict=True)
    ]

    def run(X: Any) -> Any:
        for W, b in layers:
            X = linear(X, W, b).relu_()
        return X

    nbytes = sum(W.numel() * W.element_size() for W, _ in layers)
    return Engine(
        run, lambda X, width: torch.from_numpy(X), lambda Z: np.asarray(Z.numpy()), lambda: nbytes,
        torch.get_num_threads(), torch.inference_mode,
    )  # fmt: skip


def _scipy(weights: Weights, biases: Sequence[Array], threads: int) -> Engine:
    layers = _scipy_layers(weights, biases)

    def through(number: int, Y: Array) -> Array:
        for W, b in layers:
            Y = W @ Y
            Y += b
            np.maximum(Y, 0, out=Y)
        return Y

    return _by_columns(through, weights, 1)


def _scipy_layers(weights: Weights, biases: Sequence[Array]) -> list[Any]:
    """Return csr_array and bias of each layer."""
    return [(_as_csr(W).to_scipy(), bias[:, None]) for W, bias in zip(weights, biases, strict=True)]


def _mkl(weights: Weights, biases: Sequence[Array], threads: int) -> Engine:
    if "MKL_RT" not in os.environ:  # pip puts it where the loader does not look
        found = sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))
        if found:
            os.environ["MKL_RT"] = str(found[0])
    from sparse_dot_mkl import dot_product_mkl, mkl_get_max_threads, mkl_set_num_threads

    mkl_set_num_threads(threads)
    layers = _scipy_layers(weights, biases)
    buffers: dict[tuple[int, int, int], Array] = {}

    def through(number: int, Y: Array) -> Array:
        for k, (W, b) in enumerate(layers):
            key = number, k, Y.shape[1]
            if key not in buffers:
                buffers[key] = np.empty((W.shape[0], Y.shape[1]), Y.dtype)
            out = buffers[key]
            out[...] = b
            dot_product_mkl(W, Y, out=out, out_scalar=1.0)
            Y = np.maximum(out, 0, out=out)
        return Y

    return _by_columns(through, weights, mkl_get_max_threads())


def _as_csr(weight: Weight) -> CSR:
    csr: CSR = weight.pattern().with_entries(weight.entries)
    return csr


PEERS = {
    "mkl": Peer("sparse_dot_mkl", "pip install sparse-dot-mkl mkl (655 MB)", _mkl),
    "scipy": Peer("scipy", "pip install scipy", _scipy),
    "torch-csr": Peer("torch", "pip install torch", _torch_csr),
    "torch-dense": Peer("torch", "pip install torch", _torch_dense),
}
