r"""Gated recurrent unit (Cho et al. 2014), with the reset gate behind the product.

.. math::
    r_t &= \sigma(W_r x_t + b_r + U_r h_{t-1}) \qquad
    z_t = \sigma(W_z x_t + b_z + U_z h_{t-1}) \\
    n_t &= \tanh(W_n x_t + b_n + r_t (U_n h_{t-1} + b'_n)) \\
    h_t &= (1 - z_t) n_t + z_t h_{t-1}

with h = 0 at the beginning. Rows of W, U and b are those of r, z, n, in this order, as torch.nn.GRU
has them; b' is inside the reset gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.layers.base import Run, Tape
from gbdnn.layers.recurrent.common import Cell, matrix, set_fields
from gbdnn.types import Array
from gbdnn.weights import Weight

__all__ = ["GRU"]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class GRU(Cell):
    """GRU over the time steps of each sequence; gives h of each.

    Parameters
    ----------
    weight : Weight, scipy sparse, ndarray or torch tensor, shape (3 cells, in_features)
        Rows of r, z, n; kept as `Linear` keeps its weight.
    recurrent : of the same kinds, shape (3 cells, cells)
    bias : float or array_like of shape (3 cells,), default 0
        Of torch's biases: their sums for r and z, that of the input for n.
    recurrent_bias : float or array_like of shape (cells,), default 0
        b': the last third of torch's bias_hh.
    dtype : float32 or float64, default float32

    Raises
    ------
    ShapeError, DtypeError, SparseFormatError, NonFiniteError
    """

    kind = "gru"
    row_blocks = 3
    weight_names = ("weight", "recurrent")
    array_names = ("bias", "recurrent_bias")

    weight: Weight
    recurrent: Weight
    bias: Array
    recurrent_bias: Array

    def __init__(
        self, weight: Any, recurrent: Any, bias: Any = 0.0, recurrent_bias: Any = 0.0, *,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        made = matrix("weight", weight, dtype, gates=3)
        rows, cells = made.shape[0], made.shape[0] // 3
        back = matrix("recurrent", recurrent, dtype, rows=rows, columns=cells)
        set_fields(self, dtype, weight=made, recurrent=back, bias=(bias, rows),
                   recurrent_bias=(recurrent_bias, cells))  # fmt: skip

    def trained_parameters(self) -> Mapping[str, Weight | Array]:
        """Return the parameters, biases with their shapes (3 cells,) and (cells,)."""
        rows = self.weight.shape[0]
        return {
            **self.parameters,
            "bias": np.broadcast_to(self.bias, rows),
            "recurrent_bias": np.broadcast_to(self.recurrent_bias, rows // 3),
        }

    def scan(self, run: Run, p: Any, X: Array, tape: Tape) -> Array:
        """Compute the input's part of all gates in one product, then the recurrence.

        H[t + 1] is what time step t hands on: h, rounded if "hidden" has a quantizer; V[t] is h
        before that. B has the parts of the sums that h adds.
        """
        Z = run.over_time(p.weight, X, p.bias)
        time, rows, width = Z.shape
        H, B = run.empty(time + 1, rows // 3, width), run.empty(time, rows, width)
        V = run.empty(time, rows // 3, width) if "hidden" in p.roundings else H[1:]
        run.begin(p, "hidden", H[0])
        run.gru(p, Z, B, H, V)
        run.end(p, "hidden", H[-1])
        result = H[1:] if p.returns_rounded else V
        run.keep(tape, X, Z, B, H, V, result)
        return result

    def scan_grad(self, run: Run, p: Any, dH: Array, tape: list[Array]) -> Array:
        """Return dZ, in the place of the gates."""
        X, Z, B, H, V, _ = tape
        run.gru_grad(p, Z, B, H, V, dH)
        run.weight_grad(p, "weight", Z, X)
        run.weight_grad(p, "recurrent", B, H[:-1])
        run.row_sums(p, "bias", Z)
        inner = run.empty(len(B), H.shape[1], B.shape[2])
        inner[...] = B[:, 2 * H.shape[1] :]
        run.row_sums(p, "recurrent_bias", inner)
        return Z
