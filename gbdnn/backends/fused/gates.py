"""Compiled passes over the gates of recurrent layers: one time step, each array read once.

All is elementwise, so that results depend neither on the number of threads nor on the other
columns. The functions are those of the compiled recurrences, so that gates have equal bits on every
backend.
"""

# mypy: disable-error-code="call-arg,no-untyped-call"

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numba import from_dtype

from gbdnn.backends.fused.cells.functions import (
    gru_gates,
    gru_gates_grad,
    lstm_gates,
    lstm_gates_grad,
)
from gbdnn.backends.fused.compilation import array_type, jit, load
from gbdnn.backends.fused.helpers import inner
from gbdnn.backends.fused.instructions import code_stamp
from gbdnn.backends.workers import share
from gbdnn.types import Array

__all__ = ["gru", "gru_grad", "lstm", "lstm_grad"]

SMALL = 1 << 14  # cells, some 100 us: waking a thread takes up to half of it


def lstm(Z: Array, before: Array, after: Array, out: Array, threads: int = 1) -> None:
    """Compute c = f c' + i g and o tanh(c) from the sums of the gates.

    Parameters
    ----------
    Z : ndarray, shape (4 cells, width)
        The sums of i, f, g, o; replaced by their values.
    before, after : ndarray, shape (cells, width)
        c' and c.
    out : ndarray, shape (cells, width)
        Takes o tanh(c).
    """
    _run("lstm", [*_parts(Z, 4), *map(_flat, (before, after, out))], threads)


def lstm_grad(
    Z: Array, before: Array, after: Array, dM: Array, dC: Array, threads: int = 1
) -> None:
    """Replace the gates in Z by the gradients of their sums, and dC by the gradient of c'.

    Parameters
    ----------
    Z : ndarray, shape (4 cells, width)
        As `lstm` left it.
    before, after : ndarray, shape (cells, width)
    dM : ndarray, shape (cells, width)
        The gradient of o tanh(c).
    dC : ndarray, shape (cells, width)
        What later time steps say of the gradient of c.
    """
    _run("lstm_grad", [*_parts(Z, 4), *map(_flat, (before, after, dM, dC))], threads)


def gru(Z: Array, inner: Array, before: Array, out: Array, threads: int = 1) -> None:
    """Compute n = tanh(z_n + r u) and h = (1 - z) n + z h'.

    Parameters
    ----------
    Z : ndarray, shape (3 cells, width)
        What the input adds to the sums of r, z, n; replaced by their values.
    inner : ndarray, shape (3 cells, width)
        What h' adds to them, with the bias inside the reset gate: u is its last third.
    before, out : ndarray, shape (cells, width)
        h' and h.
    """
    _run("gru", [*_parts(Z, 3), *_parts(inner, 3), *map(_flat, (before, out))], threads)


def gru_grad(
    Z: Array, inner: Array, before: Array, dH: Array, back: Array, threads: int = 1
) -> None:
    """Replace Z and `inner` by the gradients of both sums; `back` takes dh z, a part of dh'.

    Parameters
    ----------
    Z, inner : ndarray, shape (3 cells, width)
        As `gru` left them.
    before, dH, back : ndarray, shape (cells, width)
    """
    _run("gru_grad", [*_parts(Z, 3), *_parts(inner, 3), *map(_flat, (before, dH, back))], threads)


def _parts(Z: Array, count: int) -> list[Array]:
    return list(Z.reshape(count, -1))


def _flat(array: Array) -> Array:
    return array.reshape(-1)


def _run(name: str, arrays: list[Array], threads: int) -> None:
    """Call a pass for ranges of the cells."""
    size, kernel = len(arrays[0]), _passes(arrays[0].dtype)[name]
    if threads == 1 or size < SMALL:
        kernel(*arrays)
        return
    edges = [size * k // threads // 16 * 16 for k in range(threads)] + [size]
    share(lambda part: kernel(*(a[slice(*part)] for a in arrays)), pairwise(edges), threads)


@inner
def _lstm(i, f, g, o, before, after, out):  # type: ignore[no-untyped-def]
    lstm_gates(i.ctypes.data, f.ctypes.data, g.ctypes.data, o.ctypes.data, before.ctypes.data,
               after.ctypes.data, out.ctypes.data, len(out), i.dtype)  # fmt: skip


@inner
def _lstm_grad(i, f, g, o, before, after, dm, dc):  # type: ignore[no-untyped-def]
    lstm_gates_grad(i.ctypes.data, f.ctypes.data, g.ctypes.data, o.ctypes.data,
                    before.ctypes.data, after.ctypes.data, dm.ctypes.data, dc.ctypes.data,
                    len(dm), i.dtype)  # fmt: skip


@inner
def _gru(r, z, n, inner_r, inner_z, inner_n, before, out):  # type: ignore[no-untyped-def]
    gru_gates(r.ctypes.data, z.ctypes.data, n.ctypes.data, inner_r.ctypes.data,
              inner_z.ctypes.data, inner_n.ctypes.data, before.ctypes.data, out.ctypes.data,
              len(out), r.dtype)  # fmt: skip


@inner
def _gru_grad(r, z, n, inner_r, inner_z, inner_n, before, dh, back):  # type: ignore[no-untyped-def]
    gru_gates_grad(r.ctypes.data, z.ctypes.data, n.ctypes.data, inner_r.ctypes.data,
                   inner_z.ctypes.data, inner_n.ctypes.data, before.ctypes.data, dh.ctypes.data,
                   back.ctypes.data, len(dh), r.dtype)  # fmt: skip


@cache
def _passes(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the passes by name, loaded from the disk cache or compiled."""
    stamp, changed = code_stamp(), array_type(from_dtype(dtype), 1, writable=True)

    def lstm(i, f, g, o, before, after, out):  # type: ignore[no-untyped-def]
        _lstm(i[0 * stamp :], f, g, o, before, after, out)

    def lstm_grad(i, f, g, o, before, after, dm, dc):  # type: ignore[no-untyped-def]
        _lstm_grad(i[0 * stamp :], f, g, o, before, after, dm, dc)

    def gru(r, z, n, inner_r, inner_z, inner_n, before, out):  # type: ignore[no-untyped-def]
        _gru(r[0 * stamp :], z, n, inner_r, inner_z, inner_n, before, out)

    def gru_grad(r, z, n, inner_r, inner_z, inner_n, before, dh, back):  # type: ignore[no-untyped-def]
        _gru_grad(r[0 * stamp :], z, n, inner_r, inner_z, inner_n, before, dh, back)

    made = {}
    for function in (lstm, lstm_grad, gru, gru_grad):
        made[function.__name__] = compiled = jit(function)
        load(compiled, *[changed] * function.__code__.co_argcount)
    return made
