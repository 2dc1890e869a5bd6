"""Other libraries that compute the same network, each in its best form. Imported on use only.

All take neuron-major batches but torch-dense, which is batch-major as torch's linear layer is.
The bias is put into the output before the product adds to it, where the library can do that.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
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
    peer = PEERS.get(engine.removesuffix("-sampled"))
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

    def through(Y: Any) -> Any:
        for W, b in layers:  # bias first, then beta = 1: faster than adding it to the product
            Y = torch.addmm(b.expand(W.shape[0], Y.shape[1]), W, Y).relu_()
        return Y

    def single(Y: Any) -> Any:
        y = Y[:, 0]
        for W, b in layers:
            y = torch.mv(W, y).add_(b[:, 0]).relu_()
        return y[:, None]

    def enter(X: Array, width: int) -> list[Any]:
        return [torch.from_numpy(Y) for Y in _cut(X, width)]

    def run(chunks: list[Any]) -> list[Any]:
        return [single(Y) if Y.shape[1] == 1 else through(Y) for Y in chunks]

    nbytes = sum(
        part.numel() * part.element_size()
        for W, _ in layers
        for part in (W.crow_indices(), W.col_indices(), W.values())
    )
    return Engine(
        run, enter, _leave, lambda: nbytes, torch.get_num_threads(), torch.inference_mode,
        chunks=CHUNKS,
    )  # fmt: skip


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
    layers, nbytes = _scipy_layers(weights, biases)

    def through(Y: Array) -> Array:
        for W, b in layers:
            Y = W @ Y
            Y += b
            np.maximum(Y, 0, out=Y)
        return Y

    return Engine(
        lambda chunks: [through(Y) for Y in chunks], _cut, _leave, lambda: nbytes, 1, chunks=CHUNKS
    )


def _scipy_layers(weights: Weights, biases: Sequence[Array]) -> tuple[list[Any], int]:
    """Return csr_array and bias of each layer, and the bytes of the matrices."""
    matrices = [_as_csr(weight).to_scipy() for weight in weights]
    nbytes = sum(W.data.nbytes + W.indices.nbytes + W.indptr.nbytes for W in matrices)
    return [(W, bias[:, None]) for W, bias in zip(matrices, biases, strict=True)], nbytes


def _mkl(weights: Weights, biases: Sequence[Array], threads: int) -> Engine:
    if "MKL_RT" not in os.environ:  # pip puts it where the loader does not look
        found = sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))
        if found:
            os.environ["MKL_RT"] = str(found[0])
    from sparse_dot_mkl import dot_product_mkl, mkl_get_max_threads, mkl_set_num_threads

    mkl_set_num_threads(threads)
    layers, nbytes = _scipy_layers(weights, biases)
    buffers: dict[tuple[int, int], Array] = {}

    def through(number: int, Y: Array) -> Array:
        for k, (W, b) in enumerate(layers):
            if (number, k) not in buffers:
                buffers[number, k] = np.empty((W.shape[0], Y.shape[1]), Y.dtype)
            out = buffers[number, k]
            out[...] = b
            dot_product_mkl(W, Y, out=out, out_scalar=1.0)
            Y = np.maximum(out, 0, out=out)
        return Y

    def enter(X: Array, width: int) -> list[Array]:
        buffers.clear()
        return _cut(X, width)

    return Engine(
        lambda chunks: [through(k, Y) for k, Y in enumerate(chunks)], enter, _leave,
        lambda: nbytes, mkl_get_max_threads(), chunks=CHUNKS,
    )  # fmt: skip


def _cut(X: Array, width: int) -> list[Array]:
    """Return the samples in chunks of `width`, each neuron-major."""
    return [np.ascontiguousarray(X[k : k + width].T) for k in range(0, len(X), width)]


def _leave(chunks: list[Any]) -> Array:
    return np.ascontiguousarray(np.concatenate([np.asarray(Z) for Z in chunks], axis=1).T)


def _as_csr(weight: Weight) -> CSR:
    csr: CSR = weight.pattern().with_entries(weight.entries)
    return csr


PEERS = {
    "mkl": Peer("sparse_dot_mkl", "pip install sparse-dot-mkl mkl (655 MB)", _mkl),
    "scipy": Peer("scipy", "pip install scipy", _scipy),
    "torch-csr": Peer("torch", "pip install torch", _torch_csr),
    "torch-dense": Peer("torch", "pip install torch", _torch_dense),
}
