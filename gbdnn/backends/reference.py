"""The GraphBLAS backend, reference form: hold Kepner et al. 2017 (arXiv:1708.02937) beside it.

`step` is the paper's equation with its two semirings and sparse Y. It is not fast where Y is full
(`gbdnn.backends.graphblas` is); the other forms are compared with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends._init import graphblas
from gbdnn.backends.base import Activation
from gbdnn.backends.graphblas import GraphBLASBackend, GraphBLASWeight, failure
from gbdnn.sparse import CSR

__all__ = ["ReferenceBackend", "step"]

Array = npt.NDArray[Any]


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
    matrix.ss.config["format"] = "by_col"
    matrix.ss.config["sparsity_control"] = "sparse"
    return matrix


class ReferenceBackend(GraphBLASBackend):
    """The paper's step on whole batches: Y is a sparse GraphBLAS matrix from layer to layer."""

    name = "graphblas-reference"
    sparse_activations = True

    def prepare(self, weight: CSR | Array) -> GraphBLASWeight:
        """Copy the weight into a GraphBLAS matrix by column, like Y."""
        prepared = super().prepare(weight)
        by_column(prepared.matrix)
        return prepared

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
        full: Array = Y.to_dense(0)
        return full

    def live(self, Y: Any) -> int:
        """Return the number of samples that have any entry: the columns that a step works on."""
        return int(Y.reduce_columnwise(graphblas().monoid.any).new().nvals)

    def forward(self, w: GraphBLASWeight, Y: Any, bias: Array, activation: Activation) -> Any:
        """Return h(W Y + b) for any bias and activation."""
        gb, W = graphblas(), w.matrix
        low, high = activation.clamp or (None, None)
        try:
            if low == 0 and not (bias > 0).any():
                b = gb.Vector.from_dense(np.ascontiguousarray(np.broadcast_to(bias, W.nrows)))
                return step(W, Y, by_column(b.diag()), None if high == np.inf else high)
            Z = self.leave(gb.semiring.plus_times(W @ Y).new())  # zeros become something: full
        except gb.exceptions.GraphblasException as error:
            raise failure("the reference step", error, W, Y) from error
        Z += bias if bias.ndim == 0 else bias[:, None]
        activation.apply(Z)
        return self.enter(Z)
