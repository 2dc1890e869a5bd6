r"""Gated recurrent unit with the reset gate before the product, as Cho et al. 2014 have it.

.. math::
    r_t &= \sigma(W_r x_t + b_r + U_r h_{t-1}) \qquad
    z_t = \sigma(W_z x_t + b_z + U_z h_{t-1}) \\
    n_t &= \tanh(W_n x_t + b_n + V s_t) \qquad s_t = r_t h_{t-1} \\
    h_t &= (1 - z_t) n_t + z_t h_{t-1}

with h = 0 at the beginning. It is what ONNX has by default (linear_before_reset 0) and Keras with
reset_after=False. `gru` multiplies r with the product instead, so that one product of h is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.layers import functional
from gbdnn.layers.base import Run, Tape
from gbdnn.layers.recurrent.common import Cell, matrix, set_fields
from gbdnn.types import Array
from gbdnn.weights import Weight

__all__ = ["ResetBeforeGRU"]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class ResetBeforeGRU(Cell):
    """GRU whose reset gate comes before the product; gives h of each time step.

    Steps go one by one on every backend; `GRU` is one compiled call.

    Parameters
    ----------
    weight : Weight, scipy sparse, ndarray or torch tensor, shape (3 cells, in_features)
        Rows of r, z, n; kept as `Linear` keeps its weight.
    recurrent : of the same kinds, shape (2 cells, cells)
        U: rows of r, z.
    candidate : of the same kinds, shape (cells, cells)
        V, which multiplies s.
    bias : float or array_like of shape (3 cells,), default 0
    dtype : float32 or float64, default float32

    Raises
    ------
    ShapeError, DtypeError, SparseFormatError, NonFiniteError
    """

    kind = "gru_reset_before"  # row_blocks stays 1: not each matrix has all gates
    weight_names = ("weight", "recurrent", "candidate")
    array_names = ("bias",)

    weight: Weight
    recurrent: Weight
    candidate: Weight
    bias: Array

    def __init__(
        self, weight: Any, recurrent: Any, candidate: Any, bias: Any = 0.0, *,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        made = matrix("weight", weight, dtype, gates=3)
        rows, cells = made.shape[0], made.shape[0] // 3
        set_fields(
            self, dtype, weight=made, bias=(bias, rows),
            recurrent=matrix("recurrent", recurrent, dtype, rows=2 * cells, columns=cells),
            candidate=matrix("candidate", candidate, dtype, rows=cells, columns=cells),
        )  # fmt: skip

    def activation_of(self, weight: str) -> str | None:
        """Return the activation that a weight is multiplied with; s has no quantizer."""
        return {"weight": "input", "recurrent": "hidden"}.get(weight)

    def trained_parameters(self) -> Mapping[str, Weight | Array]:
        """Return the parameters, the bias with its shape (3 cells,)."""
        return {**self.parameters, "bias": np.broadcast_to(self.bias, self.weight.shape[0])}

    def scan(self, run: Run, p: Any, X: Array, tape: Tape) -> Array:
        """Compute the input's part of all gates in one product, then the recurrence.

        H[t + 1] is what time step t hands on to U: h, rounded if "hidden" has a quantizer; V[t] is
        h before that, of which s and z h' are made.
        """
        Z = run.over_time(p.weight, X, p.bias)
        time, rows, width = Z.shape
        cells, rounds = rows // 3, "hidden" in p.roundings
        H, S = run.empty(time + 1, cells, width), run.empty(time, cells, width)
        V = run.empty(time, cells, width) if rounds else H[1:]
        run.begin(p, "hidden", H[0])
        for t in range(time):
            step = slice(t, t + 1)
            gates, n = Z[step, : 2 * cells], Z[step, 2 * cells :]
            run.affine(p.recurrent, H[step], out=gates, accumulate=True)
            functional.sigmoid(gates)
            (r, z), before = gates[0].reshape(2, cells, width), _before(H, V, t)
            np.multiply(r, before, out=S[t])
            run.affine(p.candidate, S[step], out=n, accumulate=True)
            functional.tanh(n)
            V[t] = n[0] + z * (before - n[0])
            if rounds:
                H[t + 1] = run.quantized(p, "hidden", V[step])[0]
        run.end(p, "hidden", H[-1])
        result = H[1:] if p.returns_rounded else V
        run.keep(tape, X, Z, H, V, S, result)
        return result

    def scan_grad(self, run: Run, p: Any, dH: Array, tape: list[Array]) -> Array:
        """Return dZ, in the place of the gates."""
        X, Z, H, V, S, _ = tape
        time, cells, width = S.shape
        # what the next step says of h, by U and directly
        back = direct = np.zeros((1, cells, width), Z.dtype)
        for t in reversed(range(time)):
            step, dh, before = slice(t, t + 1), dH[t], _before(H, V, t)
            if p.returns_rounded:
                dh += back[0]
                run.quantized_grad(p, "hidden", V[step], dH[step])
            else:
                dh += run.quantized_grad(p, "hidden", V[step], back)[0]
            dh += direct[0]
            r, z, n = Z[t].reshape(3, cells, width)
            kept, dz = dh * z, dh * (before - n) * z * (1 - z)
            n[...] = dh * (1 - z) * (1 - n * n)
            dS = run.input_grad(p.candidate, Z[step, 2 * cells :])
            direct = dS * r + kept
            r[...], z[...] = dS[0] * before * r * (1 - r), dz
            back = run.input_grad(p.recurrent, Z[step, : 2 * cells])
        gates, inner = run.empty(time, 2 * cells, width), run.empty(time, cells, width)
        gates[...], inner[...] = Z[:, : 2 * cells], Z[:, 2 * cells :]
        run.weight_grad(p, "weight", Z, X)
        run.weight_grad(p, "recurrent", gates, H[:-1])
        run.weight_grad(p, "candidate", inner, S)
        run.row_sums(p, "bias", Z)
        return Z


def _before(H: Array, V: Array, t: int) -> Array:
    """Return h before time step t, not rounded."""
    before: Array = V[t - 1] if t else H[0]
    return before
