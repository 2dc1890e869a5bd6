"""Recurrent layers from the tensors that torch has for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gbdnn.errors import InputError, ShapeError
from gbdnn.layers import BGRU, BLSTM, GRU, LSTM
from gbdnn.types import Array

__all__ = ["bidirectional", "gru", "is_recurrent", "lstm", "stack"]

NAME = re.compile(r"(weight_(?:ih|hh|hr)|bias_(?:ih|hh))_l(\d{1,3})(_reverse)?")


def lstm(parts: Mapping[str, Array], dtype: Any) -> LSTM:
    """Return the LSTM of "weight_ih", "weight_hh" and, if there are, biases and "weight_hr"."""
    bias = parts["bias_ih"] + parts["bias_hh"] if "bias_ih" in parts else 0.0
    return LSTM(parts["weight_ih"], parts["weight_hh"], bias, parts.get("weight_hr"), dtype=dtype)


def gru(parts: Mapping[str, Array], dtype: Any) -> GRU:
    """Return the GRU of these tensors; the bias of n's product stays inside the reset gate."""
    bias: Any = 0.0
    inner: Any = 0.0
    if "bias_ih" in parts:
        gates = len(parts["bias_ih"]) // 3 * 2
        bias, inner = parts["bias_ih"].copy(), parts["bias_hh"][gates:]
        bias[:gates] += parts["bias_hh"][:gates]
    return GRU(parts["weight_ih"], parts["weight_hh"], bias, inner, dtype=dtype)


def bidirectional(sides: list[Any]) -> Any:
    """Return the layer of one cell or two."""
    if len(sides) == 1:
        return sides[0]
    return (BGRU if isinstance(sides[0], GRU) else BLSTM)(*sides)


def is_recurrent(names: Any) -> bool:
    """Whether tensors of these names are those of an LSTM, a GRU or an RNN."""
    return any(NAME.fullmatch(name) for name in names)


def stack(group: Mapping[str, Array]) -> list[Any]:
    """Return the layers of one module's tensors, "weight_ih_l0" and so on, as torch names them.

    Raises
    ------
    InputError
        For tensors that are missing, left over, or of an RNN without gates.
    ShapeError
    """
    found: dict[tuple[int, bool], dict[str, Array]] = {}
    for name, array in group.items():
        match = NAME.fullmatch(name)
        if match is None or array.dtype.kind != "f":
            raise InputError(name, "floats called as weight_ih_l0 or bias_hh_l1_reverse", name)
        found.setdefault((int(match[2]), match[3] is not None), {})[match[1]] = array
    ends = (False, True) if (0, True) in found else (False,)
    numbers = range(max(number for number, _ in found) + 1)
    if len(found) != len(numbers) * len(ends) or any((k, False) not in found for k in numbers):
        raise InputError("tensors", "those of all cells from l0 on", ", ".join(group)[:200])
    return [bidirectional([_cell(found[k, end]) for end in ends]) for k in numbers]


def _cell(parts: Mapping[str, Array]) -> Any:
    """Return the cell of tensors whose shapes say its kind."""
    biases = ("bias_ih" in parts) + ("bias_hh" in parts)
    if not {"weight_ih", "weight_hh"} <= parts.keys() or biases == 1:
        expected = "weight_ih, weight_hh and both biases or none"
        raise InputError("tensors", expected, ", ".join(parts))
    into, back = parts["weight_ih"], parts["weight_hh"]
    if into.ndim != 2 or back.ndim != 2 or len(into) != len(back):
        raise ShapeError("weight_hh", f"as many rows as weight_ih {into.shape}", f"{back.shape}")
    down = parts.get("weight_hr")
    cells = back.shape[1] if down is None else down.shape[-1]
    dtype = into.dtype if into.dtype.itemsize == 8 else "float32"
    if len(into) == 4 * cells:
        return lstm(parts, dtype)
    if len(into) == 3 * cells and down is None:
        return gru(parts, dtype)
    raise ShapeError("weight_ih", f"{4 * cells} rows (LSTM) or {3 * cells} (GRU)", f"{len(into)}")
