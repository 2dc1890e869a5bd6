"""Z = W Y + b and its gradients as one function of torch's autograd.

Tensors are batch-major, gbdnn's kernels take tiles: one blocked copy in, one out, and between them
the three products on the memory of the parameter itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from gbdnn.backends import get_backend
from gbdnn.backends.elementwise import row_sums
from gbdnn.backends.layout import from_tiles, to_tiles
from gbdnn.errors import InputError
from gbdnn.machine import default_threads
from gbdnn.torch.team import torchs_threads
from gbdnn.types import Array

__all__ = ["Product", "as_tiles", "threads"]


def threads() -> int:
    """Return how many threads to use: torch's number, within gbdnn's limits."""
    return min(int(torch.get_num_threads()), default_threads())


def as_tiles(X: Any, width: int) -> Any:
    """Return X, shape (samples, features), as a tensor (tiles, features, width)."""
    samples, features = X.shape
    tiles = torch.empty((-(-samples // width), features, width), dtype=X.dtype)
    to_tiles(X.detach().contiguous().numpy(), tiles.numpy(), threads())
    return tiles


def as_rows(tiles: Array, samples: int) -> Any:
    """Return tiles as a tensor (samples, features)."""
    out = torch.empty((samples, tiles.shape[1]), dtype=torch.from_numpy(tiles).dtype)
    from_tiles(tiles, out.numpy(), threads())
    return out


class Product(torch.autograd.Function):
    """Z = X W^T + b for X of shape (samples, in_features); `layer` is the `SparseLinear`."""

    @staticmethod
    def forward(ctx: Any, X: Any, values: Any, bias: Any, layer: Any) -> Any:
        """Compute on the backend "fused"; Y is kept in tiles."""
        with torchs_threads():
            return Product._forward(ctx, X, values, bias, layer)

    @staticmethod
    def _forward(ctx: Any, X: Any, values: Any, bias: Any, layer: Any) -> Any:
        form, backend, count = layer.form(values), get_backend("fused"), threads()
        width = backend.width(max(form.shape), form.dtype, X.shape[0])
        Y = as_tiles(X, width)
        Z = torch.empty((Y.shape[0], form.shape[0], width), dtype=X.dtype).numpy()
        b = None if bias is None else bias.detach().contiguous().numpy()
        backend.affine(form, Y.numpy(), b, Z, threads=count)
        ctx.layer, ctx.form, ctx.samples = layer, form, X.shape[0]
        ctx.save_for_backward(Y if ctx.needs_input_grad[1] else None, values)
        return as_rows(Z, X.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dZ_rows: Any) -> Any:
        """dW = dZ Y^T at W's pattern, db = row sums of dZ, dY = W^T dZ."""
        with torchs_threads():
            return Product._backward(ctx, dZ_rows)

    @staticmethod
    def _backward(ctx: Any, dZ_rows: Any) -> Any:
        Y, values = ctx.saved_tensors
        layer, backend, count = ctx.layer, get_backend("fused"), threads()
        form = layer.form(values)
        if form is not ctx.form:
            fix = "Change patterns after the backward pass."
            raise InputError("backward", "the pattern of the forward pass", "another one", fix)
        width = backend.width(max(form.shape), form.dtype, ctx.samples)
        dZ = as_tiles(dZ_rows, width).numpy()
        dX = dW = db = None
        if ctx.needs_input_grad[0]:
            form.refresh(count)
            dY = torch.empty((len(dZ), form.shape[1], width), dtype=values.dtype).numpy()
            backend.input_grad(form, dZ, dY, count)
            dX = as_rows(dY, ctx.samples)
        if ctx.needs_input_grad[1]:
            if layer.observe is not None:
                layer.observe(dZ, Y.numpy())
            dW = torch.empty_like(values, memory_format=torch.contiguous_format)
            backend.weight_grad(form, dZ, Y.numpy(), dW.numpy(), count)
        if ctx.needs_input_grad[2]:
            db = torch.empty(form.shape[0], dtype=values.dtype)
            row_sums(dZ, db.numpy(), count)
        return dX, dW, db, None
