r"""Long short-term memory (Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000).

.. math::
    (i_t, f_t, g_t, o_t) &= (\sigma, \sigma, \tanh, \sigma)(W x_t + U h_{t-1} + b) \\
    c_t &= f_t c_{t-1} + i_t g_t \qquad m_t = o_t \tanh(c_t) \\
    h_t &= m_t \quad \text{or with a projection} \quad h_t = P m_t

with h and c = 0 at the beginning; the projection is that of Sak, Senior and Beaufays 2014. Rows of
W, U and b are those of i, f, g, o, in this order, as torch.nn.LSTM has them.
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

__all__ = ["LSTM"]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class LSTM(Cell):
    """LSTM over the time steps of each sequence; gives h of each.

    Parameters
    ----------
    weight : Weight, scipy sparse, ndarray or torch tensor, shape (4 cells, in_features)
        Rows of the gates i, f, g, o; kept as `Linear` keeps its weight.
    recurrent : of the same kinds, shape (4 cells, out_features)
        out_features is the number of cells, or with a projection that of its rows.
    bias : float or array_like of shape (4 cells,), default 0
        torch's two biases, added.
    projection : of the same kinds, shape (out_features, cells), optional
    dtype : float32 or float64, default float32

    Raises
    ------
    ShapeError, DtypeError, SparseFormatError, NonFiniteError
    """

    kind = "lstm"
    row_blocks = 4
    array_names = ("bias",)

    weight: Weight
    recurrent: Weight
    bias: Array
    projection: Weight | None

    def __init__(
        self, weight: Any, recurrent: Any, bias: Any = 0.0, projection: Any = None, *,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        made = matrix("weight", weight, dtype, gates=4)
        rows, cells = made.shape[0], made.shape[0] // 4
        down = None if projection is None else matrix("projection", projection, dtype,
                                                      columns=cells)  # fmt: skip
        out = cells if down is None else down.shape[0]
        back = matrix("recurrent", recurrent, dtype, rows=rows, columns=out)
        set_fields(self, dtype, weight=made, recurrent=back, bias=(bias, rows), projection=down)

    @property
    def weight_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The projection is one if there is one."""
        return ("weight", "recurrent") + (() if self.projection is None else ("projection",))

    @property
    def settings(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def activation_of(self, weight: str) -> str | None:
        """Return the activation that a weight is multiplied with."""
        return {"weight": "input", "recurrent": "hidden"}.get(weight)

    def trained_parameters(self) -> Mapping[str, Weight | Array]:
        """Return the parameters, the bias with its shape (4 cells,)."""
        bias = np.broadcast_to(self.bias, self.weight.shape[0])
        return {**self.parameters, "bias": bias}

    def scan(self, run: Run, p: Any, X: Array, tape: Tape) -> Array:
        """Compute the input's part of all gates in one product, then the recurrence.

        H[t + 1] is what time step t hands on: h, rounded if "hidden" has a quantizer; V[t] is h
        before that, M[t] before the projection. Where there is no such thing they are one array.
        """
        Z = run.over_time(p.weight, X, p.bias)
        time, rows, width = Z.shape
        cells, out, rounds = rows // 4, self.out_features, "hidden" in p.roundings
        H, C = run.empty(time + 1, out, width), run.empty(time + 1, cells, width)
        V = run.empty(time, out, width) if rounds else H[1:]
        M = V if self.projection is None else run.empty(time, cells, width)
        run.begin(p, "hidden", H[0])
        run.begin(p, "cell", C[0])
        run.lstm(p, Z, H, C, V, M)
        run.end(p, "hidden", H[-1])
        run.end(p, "cell", C[-1])
        run.keep(tape, X, Z, H, C, V, M)
        result = H[1:] if p.returns_rounded else V
        run.keep(tape, result)
        return result

    def scan_grad(self, run: Run, p: Any, dH: Array, tape: list[Array]) -> Array:
        """Return dZ, in the place of the gates."""
        X, Z, H, C, V, M, _ = tape
        run.lstm_grad(p, Z, H, C, V, M, dH)
        run.weight_grad(p, "weight", Z, X)
        run.weight_grad(p, "recurrent", Z, H[:-1])
        if self.projection is not None:
            run.weight_grad(p, "projection", dH, M)
        run.row_sums(p, "bias", Z)
        return Z
