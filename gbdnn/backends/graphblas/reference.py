"""The GraphBLAS backend, reference form: hold Kepner et al. 2017 (arXiv:1708.02937) beside it.

`step` is the paper's equation with its two semirings and sparse Y; `input_gradient` and
`weight_gradient` are the way back. They are not fast where Y is full (`backend.py` is); the other
forms are compared with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gbdnn.backends.arrays import apply_bounds, check_affine, check_tiles, check_values, column
from gbdnn.backends.base import UNBOUNDED, Bounds
from gbdnn.backends.graphblas.backend import (
    GraphBLASBackend,
    GraphBLASForm,
    GraphBLASIntegers,
    failure,
    pinned_sparse,
    release,
    suitesparse,
)
from gbdnn.types import Array
from gbdnn.weights import Weight
from gbdnn.weights.graphblas import graphblas

__all__ = ["ReferenceBackend", "input_gradient", "step", "weight_gradient"]


def step(W: Any, Y: Any, b: Any, cap: float | None = None) -> Any:
    """Return Y_{k+1} = h(W_k Y_k + b_k) for ReLU and b_k <= 0, all operands GraphBLAS matrices.

    Parameters
    ----------
    W : Matrix, (out_features, in_features)
    Y : Matrix, (in_features, batch)
        Sparse; entries that are absent are zeros.
    b : Matrix, (out_features, out_features), diagonal
        On S2 = (max, +) the product with diag(b) adds b_i to every stored entry of row i. Where
        b_i <= 0 an absent entry stays absent, as max(0 + b_i, 0) = 0.
    cap : float, optional
        Graph Challenge: entries above it become the cap.
    """
    gb = graphblas()
    plus_times, max_plus = gb.semiring.plus_times, gb.semiring.max_plus
    Z = by_column(gb.Matrix(Y.dtype, W.nrows, Y.ncols))
    Z << plus_times(W @ Y)  #             S1:  W_k (+.x) Y_k
    Z << max_plus(b @ Z)  #               S2:  ... (x) b_k
    Z << gb.select.valuegt(Z, 0)  #       S2:  ... (+) 0
    if cap is not None:
        Z << gb.binary.min(Z, cap)
    return Z


def by_column(matrix: Any) -> Any:
    """Pin a matrix to sparse storage by column: a sample without entries then costs nothing.

    Left to itself GraphBLAS would store by row and turn Y near 50 % density into a bitmap; each
    costs twice the time or more.
    """
    return pinned_sparse(matrix, format="by_col")


def input_gradient(W: Any, dZ: Any) -> Any:
    """Return dY = W^T dZ for sparse matrices.

    Parameters
    ----------
    W : Matrix, (out_features, in_features)
    dZ : Matrix, (out_features, batch)
        The loss's gradient with respect to Z = W Y + b; absent entries are zeros.
    """
    return release(graphblas().semiring.plus_times(W.T @ dZ).new())


def weight_gradient(W: Any, dZ: Any, Y: Any) -> Any:
    """Return dW<W> = dZ Y^T: the product where W has entries, zeros among them stored.

    Parameters
    ----------
    W : Matrix, (out_features, in_features)
        Only its pattern counts.
    dZ : Matrix, (out_features, batch)
    Y : Matrix, (in_features, batch)
        Both stored by row if only the mask's dot products are to be computed.
    """
    gb = graphblas()
    dW = by_row(gb.Matrix(W.dtype, *W.shape))
    dW(W.S) << 0  # stays where no entries of dZ and Y meet
    dW(W.S, accum=gb.binary.plus) << gb.semiring.plus_times(dZ @ Y.T)
    return dW


def by_row(matrix: Any) -> Any:
    """Pin a matrix to sparse storage by row: dot products of rows then follow the mask (dot3)."""
    return pinned_sparse(matrix, format="by_row")


class ReferenceBackend(GraphBLASBackend):
    """The paper's step on whole batches: Y is a sparse GraphBLAS matrix from layer to layer."""

    name = "graphblas-reference"
    sparse_activations = True

    def prepare(self, weight: Weight, *, trained: bool = False) -> Any:
        """Copy the weight into a GraphBLAS matrix; for prediction by column, like Y."""
        form = super().prepare(weight, trained=trained)
        if not trained and isinstance(form, GraphBLASForm):
            by_column(form.matrix)
        return form

    def enter(self, Y: Array) -> Any:
        """Return the non-zeros of Y, shape (features, batch), as a GraphBLAS matrix."""
        samples, features = np.nonzero(Y.T)
        counts = np.bincount(samples, minlength=Y.shape[1])
        matrix = graphblas().Matrix.ss.import_csc(
            nrows=Y.shape[0],
            ncols=Y.shape[1],
            indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64),
            row_indices=features.astype(np.uint64),
            values=Y.T[samples, features],
        )
        return by_column(matrix)

    def leave(self, Y: Any) -> Array:
        """Return a GraphBLAS matrix as a full array, shape (features, batch)."""
        features, samples, values = Y.to_coo(sort=False)  # to_dense would leave garbage
        full = np.zeros(Y.shape, values.dtype)
        full[features, samples] = values
        return full

    def live(self, Y: Any) -> int:
        """Return the number of samples that have any entry: the columns that a step works on."""
        return int(release(Y.reduce_columnwise(graphblas().monoid.any).new()).nvals)

    def forward(
        self, w: GraphBLASForm | GraphBLASIntegers, Y: Any, bias: Array, bounds: Bounds | None
    ) -> Any:
        """Return clamp(W Y + b) for any bias and bounds; by `step` where the zeros stay zeros."""
        if isinstance(w, GraphBLASIntegers):
            full = np.ascontiguousarray(self.leave(Y), w.dtype)[None]
            out = np.empty((1, w.shape[0], full.shape[2]), w.dtype)
            w.affine(full, bias, out, clamp=bounds)
            return self.enter(out[0])
        gb, W = graphblas(), w.matrix
        low, high = bounds or UNBOUNDED
        try:
            if low == 0 and not (bias > 0).any():
                b = release(gb.Vector.from_dense(np.array(np.broadcast_to(bias, W.nrows))))
                return step(W, Y, by_column(b.diag()), None if high == np.inf else high)
            Z = self.leave(release(gb.semiring.plus_times(W @ Y).new()))  # zeros change: full
        except gb.exceptions.GraphblasException as error:
            raise failure("the reference step", error, W, Y) from error
        Z += column(bias)
        apply_bounds(Z, bounds)
        return self.enter(Z)

    # -- on tiles: the equations on sparse matrices, made of the tiles and taken apart again -------

    def affine(
        self,
        w: GraphBLASForm | GraphBLASIntegers,
        Y: Array,
        bias: Array | None,
        out: Array,
        *,
        clamp: Bounds | None = None,
        accumulate: bool = False,
        threads: int = 1,
    ) -> None:
        """Compute out = clamp(W (+.x) Y + b); prediction takes `forward` where it can."""
        if isinstance(w, GraphBLASIntegers):
            super().affine(w, Y, bias, out, clamp=clamp, accumulate=accumulate)
            return
        gb = graphblas()
        check_affine(w, Y, bias, out)
        if not accumulate:
            out[...] = 0
        for y_tile, z_tile in zip(Y, out, strict=True):
            y = self.enter(y_tile)
            z = release(gb.semiring.plus_times(w.matrix @ y).new())
            z_tile += self.leave(z)
        if bias is not None:
            out += column(bias)
        apply_bounds(out, clamp)

    def input_grad(self, w: GraphBLASForm, dZ: Array, out: Array, threads: int = 1) -> None:
        """Compute out = W^T dZ for each tile by `input_gradient`."""
        check_tiles(w, dZ, out, names=("dZ", "out"))
        for dz_tile, y_tile in zip(dZ, out, strict=True):
            dz = self.enter(dz_tile)
            dy = input_gradient(w.matrix, dz)
            y_tile[...] = self.leave(dy)

    def weight_grad(
        self, w: GraphBLASForm, dZ: Array, Y: Array, out: Array, threads: int = 1
    ) -> None:
        """Compute out = the entries of dW, summed over tiles, by `weight_gradient`."""
        check_tiles(w, dZ, Y, names=("dZ", "Y"))
        check_values(w, out)
        out[...] = 0
        for dz_tile, y_tile in zip(dZ, Y, strict=True):
            dz, y = by_row(self.enter(dz_tile)), by_row(self.enter(y_tile))
            dW = weight_gradient(w.matrix, dz, y)
            out += suitesparse(dW).unpack("csr", sort=True)["values"]  # one value if all are equal
