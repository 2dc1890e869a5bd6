"""Loops over time: the recurrences of layers with a state, step by step, for every backend.

Arrays that go from one time step to the next have one tile more than there are steps: tile 0 is the
state before the first one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gbdnn.backends.base import Backend
from gbdnn.backends.recurrences import Scan, ScanGrad
from gbdnn.types import Array

__all__ = ["gru", "gru_grad", "lstm", "lstm_grad"]


def lstm(
    backend: Backend, p: Any, Z: Array, H: Array, C: Array, V: Array, M: Array, threads: int
) -> None:
    """Compute the recurrence of `gbdnn.layers.recurrent.lstm`.

    Parameters
    ----------
    backend : Backend
    p : namespace
        With `recurrent`, perhaps `projection`, and ``roundings["hidden"]``.
    Z : ndarray, shape (time, 4 cells, width)
        W X + b; becomes the values of the gates.
    H : ndarray, shape (time + 1, out_features, width)
        H[0] is given; takes what each time step hands on, rounded.
    C : ndarray, shape (time + 1, cells, width)
        C[0] is given.
    V : ndarray, shape (time, out_features, width)
        Takes h before the rounding; ``H[1:]`` where there is none.
    M : ndarray, shape (time, cells, width)
        Takes o tanh(c); V where there is no projection.
    threads : int
    """
    from gbdnn.backends.fused import gates  # numba, which other networks may not need

    down, rounding = getattr(p, "projection", None), p.roundings.get("hidden")
    if _computed(backend, _lstm_scan(p, Z, H, C, V, M), rounding, threads):
        return
    for t in range(len(Z)):
        backend.affine(
            p.recurrent, H[t : t + 1], None, Z[t : t + 1], accumulate=True, threads=threads
        )
        gates.lstm(Z[t], C[t], C[t + 1], M[t], threads)
        if down is not None:
            backend.affine(down, M[t : t + 1], None, V[t : t + 1], threads=threads)
        if rounding is not None:
            rounding.fake(V[t : t + 1], H[t + 1 : t + 2])


def lstm_grad(
    run: Any, p: Any, Z: Array, H: Array, C: Array, V: Array, M: Array, dV: Array
) -> None:
    """Go back through the recurrence of an LSTM.

    Parameters
    ----------
    run : Run
    p : namespace
    Z, H, C, V, M : ndarray
        As `lstm` left them; Z becomes the gradient of W X + b.
    dV : ndarray, shape (time, out_features, width)
        The gradient of what the layer returned; becomes that of V with all that follows in time.
    """
    from gbdnn.backends.fused import gates

    backend, threads = run.backend, run.threads
    down, (_, out, width) = getattr(p, "projection", None), dV.shape
    if _gone_back(run, p, _lstm_scan(p, Z, H, C, V, M), dV):
        return
    dC, back = run.empty(1, C.shape[1], width)[0], run.empty(1, out, width)
    dM = None if down is None else run.empty(1, C.shape[1], width)
    dC[...] = 0
    for t in reversed(range(len(Z))):
        if t + 1 < len(Z):
            backend.input_grad(p.recurrent, Z[t + 1 : t + 2], back, threads)
        else:
            back[...] = 0
        _through_rounding(run, p, V[t : t + 1], dV[t : t + 1], back)
        if dM is not None:
            backend.input_grad(down, dV[t : t + 1], dM, threads)
        gates.lstm_grad(Z[t], C[t], C[t + 1], dV[t] if dM is None else dM[0], dC, threads)


def gru(backend: Backend, p: Any, Z: Array, B: Array, H: Array, V: Array, threads: int) -> None:
    """Compute the recurrence of `gbdnn.layers.recurrent.gru`.

    Only the h that the product takes is rounded; z h' takes it as it is.

    Parameters
    ----------
    backend : Backend
    p : namespace
        With `recurrent`, `recurrent_bias` and ``roundings["hidden"]``.
    Z : ndarray, shape (time, 3 cells, width)
        W X + b; becomes the values of r, z, n.
    B : ndarray, shape (time, 3 cells, width)
        Takes U h'; the bias inside the reset gate is added to its last third.
    H, V : ndarray
        As of `lstm`.
    threads : int
    """
    from gbdnn.backends.fused import gates

    cells, rounding = H.shape[1], p.roundings.get("hidden")
    bias = np.zeros(3 * cells, Z.dtype)
    bias[2 * cells :] = p.recurrent_bias
    if _computed(backend, Scan("gru", p.recurrent, Z, H, V, B=B, bias=bias), rounding, threads):
        return
    for t in range(len(Z)):
        backend.affine(p.recurrent, H[t : t + 1], bias, B[t : t + 1], threads=threads)
        gates.gru(Z[t], B[t], _state(H, V, t), V[t], threads)
        if rounding is not None:
            rounding.fake(V[t : t + 1], H[t + 1 : t + 2])


def gru_grad(run: Any, p: Any, Z: Array, B: Array, H: Array, V: Array, dV: Array) -> None:
    """Go back through the recurrence of a GRU; Z and B become the gradients of both sums."""
    from gbdnn.backends.fused import gates

    if _gone_back(run, p, Scan("gru", p.recurrent, Z, H, V, B=B), dV):
        return
    _, out, width = dV.shape
    back, direct = run.empty(1, out, width), run.empty(1, out, width)
    for t in reversed(range(len(Z))):
        if t + 1 < len(Z):
            run.backend.input_grad(p.recurrent, B[t + 1 : t + 2], back, run.threads)
        else:
            back[...] = direct[...] = 0
        _through_rounding(run, p, V[t : t + 1], dV[t : t + 1], back)
        dV[t] += direct[0]
        gates.gru_grad(Z[t], B[t], _state(H, V, t), dV[t], direct[0], run.threads)


def _lstm_scan(p: Any, Z: Array, H: Array, C: Array, V: Array, M: Array) -> Scan:
    return Scan("lstm", p.recurrent, Z, H, V, C, M, getattr(p, "projection", None))


def _computed(backend: Backend, scan: Scan, rounding: Any, threads: int) -> bool:
    """Let the backend compute a recurrence as a whole, if it can."""
    if rounding is not None:
        # with averages that follow the steps, or another function, they go one by one
        rounds = rounding.fixed() if hasattr(rounding, "fixed") else None
        if rounds is None:
            return False
        scan = replace(scan, rounds=rounds)
    return backend.scan(scan, threads)


def _gone_back(run: Any, p: Any, scan: Scan, dV: Array) -> bool:
    """Let the backend go back through a recurrence as a whole, if it can."""
    rounding = p.roundings.get("hidden")
    if rounding is None:
        return bool(run.backend.scan_grad(ScanGrad(scan, dV), run.threads))
    if not hasattr(rounding, "passes"):
        return False
    passes, dH = run.empty(*dV.shape), run.empty(*dV.shape)
    rounding.passes(scan.V, passes)
    given = ScanGrad(scan, dV, passes, dH, p.returns_rounded)
    if not run.backend.scan_grad(given, run.threads):
        return False
    for t in reversed(range(len(dV))):  # what the rounding learns from each step
        rounding.backward(scan.V[t : t + 1], dH[t : t + 1])
    return True


def _state(H: Array, V: Array, t: int) -> Array:
    """Return h before time step t, not rounded."""
    before: Array = V[t - 1] if t else H[0]
    return before


def _through_rounding(run: Any, p: Any, V: Array, dV: Array, back: Array) -> None:
    """Add to dV what comes back from the next time step, through the rounding between them."""
    if p.returns_rounded:
        dV += back
        run.quantized_grad(p, "hidden", V, dV)
    else:
        dV += run.quantized_grad(p, "hidden", V, back)
