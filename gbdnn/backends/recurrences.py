"""What a backend may compute as a whole: the loop over time of a recurrent layer, there and back.

Arrays that go from one time step to the next have one tile more than there are steps: tile 0 is the
state before the first one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gbdnn.types import Array

__all__ = ["Rounds", "Scan", "ScanGrad"]

Rounds = tuple[float, int, int]
"""Step, lowest and highest multiple of it: x becomes step * clip(rint(x / step), low, high)."""


@dataclass(frozen=True, eq=False)
class Scan:
    """The recurrence of an LSTM or a GRU; see `gbdnn.layers.recurrent`.

    Attributes
    ----------
    kind : str
        "lstm" or "gru".
    recurrent, projection : Prepared
        U, and P of an LSTM or None.
    Z : ndarray, shape (time, gates * cells, width)
        W X + b; becomes the values of the gates.
    H : ndarray, shape (time + 1, out_features, width)
        H[0] is given; takes what each time step hands on, rounded.
    V : ndarray, shape (time, out_features, width)
        Takes h before the rounding; ``H[1:]`` where there is none.
    C : ndarray, shape (time + 1, cells, width)
        Of an LSTM; C[0] is given.
    M : ndarray, shape (time, cells, width)
        Of an LSTM: takes o tanh(c); V where there is no projection.
    B : ndarray, shape (time, 3 cells, width)
        Of a GRU: takes what h adds to the sums.
    bias : ndarray, shape (3 cells,)
        Of a GRU: what is added to B.
    rounds : Rounds, optional
        How h is rounded.
    """

    kind: str
    recurrent: Any
    Z: Array
    H: Array
    V: Array
    C: Array | None = None
    M: Array | None = None
    projection: Any = None
    B: Array | None = None
    bias: Array | None = None
    rounds: Rounds | None = None


@dataclass(frozen=True, eq=False)
class ScanGrad:
    """The way back through a `Scan`: Z, and B of a GRU, become the gradients of both sums.

    Attributes
    ----------
    scan : Scan
        As the way there left it; weights prepared with ``trained=True``.
    dV : ndarray, shape (time, out_features, width)
        The gradient of what the layer returned; becomes that of V with all that follows in time.
    passes : ndarray, shape (time, out_features, width), optional
        Where h is rounded: what a gradient by the rounded h is multiplied with.
    dH : ndarray, shape (time, out_features, width), optional
        Where h is rounded: takes the gradient by the rounded h.
    returns_rounded : bool
        The layer returned the rounded h.
    """

    scan: Scan
    dV: Array
    passes: Array | None = None
    dH: Array | None = None
    returns_rounded: bool = False
