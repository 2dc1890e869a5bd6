"""LSTM and GRU of torch's parameters: weight_ih_l0, weight_hh_l0, bias_ih_l0, ... as layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from gbdnn.conversion.chain import sparse_if_pruned
from gbdnn.errors import InputError, ShapeError
from gbdnn.layers import BGRU, BLSTM, GRU, LSTM, Layer
from gbdnn.types import Array

__all__ = ["PARTS", "cell_layers", "is_cells"]

PARTS = ("weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh")
NAME = re.compile(rf"({'|'.join(PARTS)})_l(\d+)(_reverse)?")


def is_cells(names: Any) -> bool:
    """Return whether names are those of a `torch.nn.LSTM`, GRU or RNN: weight_ih_l0, ..."""
    return any(NAME.match(name) for name in names)


def cell_layers(arrays: Mapping[str, Array], dtype: Any) -> list[Layer]:
    """Return the layers of a `torch.nn.LSTM` or `torch.nn.GRU`.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        By torch's names, masks applied. The shapes say which of the two it is: weight_hh has the
        rows of four gates or of three.
    dtype : float32 or float64

    Raises
    ------
    InputError
        For other names, missing ones, and an RNN.
    ShapeError, DtypeError, NonFiniteError
    """
    sides: dict[tuple[int, bool], dict[str, Array]] = {}
    for name, array in arrays.items():
        found = NAME.fullmatch(name)
        if found is None:
            expected = "the tensors of an LSTM or GRU (weight_ih_l0, weight_hh_l0, bias_ih_l0, ...)"
            raise InputError("layer", expected, name[:80])
        sides.setdefault((int(found[2]), found[3] is not None), {})[found[1]] = array
    both = any(backward for _, backward in sides)
    biased = any(name.startswith("bias") for parts in sides.values() for name in parts)
    made: list[Layer] = []
    for number in range(max(layer for layer, _ in sides) + 1):
        layers: list[Any] = []
        for backward in (False, True)[: 1 + both]:
            parts = sides.get((number, backward), {})
            for name in [*PARTS[:2], *PARTS[3:] * biased]:
                if name not in parts:
                    missing = f"{name}_l{number}{'_reverse' * backward}"
                    raise InputError("layer", f"the tensor {missing} too", "none")
            layers.append(_maker(parts)(parts, dtype))
        pair: Any = BGRU if isinstance(layers[0], GRU) else BLSTM
        made.append(pair(*layers) if both else layers[0])
    return made


def _maker(parts: Mapping[str, Array]) -> Callable[[Mapping[str, Array], Any], LSTM | GRU]:
    """Return what makes a layer of these, by the rows for each cell."""
    back, projection = parts["weight_hh"], parts.get("weight_hr")
    for name in PARTS[:3]:
        if name in parts and (parts[name].ndim != 2 or 0 in parts[name].shape):
            raise ShapeError(name, "two dimensions, none of them 0", f"shape {parts[name].shape}")
    cells = back.shape[1] if projection is None else projection.shape[1]
    if back.shape[0] == 4 * cells:
        return _lstm
    if back.shape[0] == 3 * cells and projection is None:
        return _gru
    expected = f"{4 * cells} rows of an LSTM or {3 * cells} of a GRU (an RNN has no layer here)"
    raise ShapeError("weight_hh", expected, f"{back.shape[0]}")


def _lstm(parts: Mapping[str, Array], dtype: Any) -> LSTM:
    bias = parts["bias_ih"] + parts["bias_hh"] if "bias_ih" in parts else 0.0
    first, back, projection = (
        sparse_if_pruned(parts[name]) if name in parts else None for name in PARTS[:3]
    )
    return LSTM(first, back, bias, projection, dtype=dtype)


def _gru(parts: Mapping[str, Array], dtype: Any) -> GRU:
    bias: Any = 0.0
    inner: Any = 0.0
    if "bias_ih" in parts:
        gates = len(parts["bias_ih"]) // 3 * 2
        bias, inner = parts["bias_ih"].copy(), parts["bias_hh"][gates:]
        bias[:gates] += parts["bias_hh"][:gates]
    first, back = (sparse_if_pruned(parts[name]) for name in PARTS[:2])
    return GRU(first, back, bias, inner, dtype=dtype)
