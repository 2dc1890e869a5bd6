"""Recurrent networks with random connections, in which a training on sequences begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn import checks
from gbdnn.errors import InputError, choose
from gbdnn.layers import (
    BGRU,
    BLSTM,
    GRU,
    HEADS,
    LSTM,
    Dropout,
    Embedding,
    Layer,
    Linear,
    TimeReduction,
    activation_names,
)
from gbdnn.layers import activation as named
from gbdnn.network import Network
from gbdnn.topology import erdos_renyi
from gbdnn.weights import CSR, Dense

__all__ = ["OVER_TIME", "lstm", "recurrent", "reduction"]

Matrix = Callable[[int, int], Any]
REDUCE = TimeReduction.kind


def _lstm(matrix: Matrix, into: int, cells: int, out: int | None = None, **dtype: Any) -> LSTM:
    """Return an LSTM whose cells remember in the beginning: the bias of f is 1."""
    weight, recurrent = matrix(4 * cells, into), matrix(4 * cells, out or cells)
    bias = np.repeat([0.0, 1.0, 0.0, 0.0], cells)
    return LSTM(weight, recurrent, bias, matrix(out, cells) if out else None, **dtype)


def _blstm(matrix: Matrix, into: int, cells: int, out: int | None = None, **dtype: Any) -> BLSTM:
    sides = (_lstm(matrix, into, cells, out, **dtype) for _ in range(2))
    return BLSTM(*sides)


def _gru(matrix: Matrix, into: int, cells: int, **dtype: Any) -> GRU:
    return GRU(matrix(3 * cells, into), matrix(3 * cells, cells), **dtype)


def _bgru(matrix: Matrix, into: int, cells: int, **dtype: Any) -> BGRU:
    return BGRU(*(_gru(matrix, into, cells, **dtype) for _ in range(2)))


def _linear(matrix: Matrix, into: int, out: int, **dtype: Any) -> Linear:
    return Linear(matrix(out, into), **dtype)


OVER_TIME: dict[str, Callable[..., Layer]] = {
    "bgru": _bgru, "blstm": _blstm, "gru": _gru, "linear": _linear, "lstm": _lstm,
}  # fmt: skip
"""Layers that `recurrent` makes from a name and sizes: (matrix, in_features, *sizes, dtype)."""


def recurrent(
    layers: str | Iterable[str],
    in_features: int,
    out_features: int,
    *,
    density: float = 1.0,
    head: str = "identity",
    dropout: float = 0.0,
    dtype: npt.DTypeLike = np.float32,
    rng: np.random.Generator | int = 0,
) -> Network:
    r"""Return a network of recurrent layers, then a dense linear one.

    Values are uniform within :math:`\pm 1 / \sqrt{n}`, n the connections of the row, those of an
    embedding standard normal; biases are 0, of the forget gates 1 (Gers, Schmidhuber and Cummins
    2000).

    Parameters
    ----------
    layers : str or sequence of str
        Such as "lstm 128, lstm 128", or with projections "lstm 512 128"; "blstm 64" has 64 cells
        in each direction, "gru 64" and "bgru 64" too; "linear 64", names of activations.
        "embedding 32 1000" as the first one has 32 features for each of 1000 symbols. "reduce 2"
        puts two time steps into one (`gbdnn.TimeReduction`), so that the layers behind it, and the
        results, are for half as many. "last" and "mean" make one row of each sequence, and so does
        "final" behind a blstm or bgru: the final states of both directions.
    in_features, out_features : int
    density : float
        Above 0, at most 1: of all matrices but the embedding's and the last layer's.
    head : str
        Behind the last layer; the name of an activation, "identity": nothing.
    dropout : float
        Rate behind each layer with cells.
    dtype : float32 or float64
    rng : Generator or int

    Raises
    ------
    InputError, UnknownNameError

    Examples
    --------
    >>> from gbdnn.models import recurrent
    >>> recurrent("lstm 128, last", 28, 10, density=0.2).edges
    17254
    """
    checks.within("density", density, "(0, 1]")
    rng, options = np.random.default_rng(rng), {"dtype": dtype}
    into, made = checks.count("in_features", in_features), list[Layer]()

    def matrix(rows: int, columns: int, part: float = density) -> Any:
        pattern = erdos_renyi(rows, columns, density=part, rng=rng, dtype=dtype)
        return _stored(_uniform(pattern, rng))

    words = layers.split(",") if isinstance(layers, str) else list(layers)
    for number, text in enumerate(words):
        name, *sizes = _parsed(text)
        if name == "embedding" and number == 0 and len(sizes) == 2 and into == 1:
            made.append(Embedding(Dense(rng.standard_normal(sizes)), **options))
        elif name == REDUCE and len(sizes) == 1:
            made.append(TimeReduction(into, sizes[0]))
        elif name in HEADS and not sizes:
            made.append(HEADS[name].behind(made))
        elif name in OVER_TIME and len(sizes) in _SIZES[name]:
            made.append(OVER_TIME[name](matrix, into, *sizes, **options))
        elif name in activation_names() and not sizes:
            made.append(named(name))
        else:
            expected = "such as 'lstm 128', 'lstm 512 128', 'gru 64', 'reduce 2', 'last', " \
                       "'embedding 32 1000'"  # fmt: skip
            fix = "An embedding is the first layer, of one feature."
            raise InputError("layers", expected, repr(text), fix)
        into = made[-1].out_features or into
        if dropout and name in OVER_TIME:
            made.append(Dropout(dropout))
    made.append(Linear(matrix(checks.count("out_features", out_features), into, 1.0), **options))
    return Network([*made, *([] if head == "identity" else [named(head)])])


ROWS = ("each", "last", "mean")
_SIZES = {"lstm": (1, 2), "blstm": (1, 2), "gru": (1,), "bgru": (1,), "linear": (1,)}


def lstm(sizes: Sequence[int], *, rows: str = "each", **settings: Any) -> Network:
    """Return LSTMs one after the other, then a dense linear layer.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, cells of each LSTM, outputs.
    rows : {"each", "last", "mean"}
        Results: one for each time step, or one for a sequence.
    **settings
        density, head, dropout, dtype, rng: as of `recurrent`.

    Raises
    ------
    InputError, UnknownNameError
    """
    if len(sizes) < 3:
        raise InputError("sizes", "inputs, cells and outputs", repr(sizes))
    end = [] if choose("rows", rows, ROWS) == "each" else [rows]
    cells = [f"lstm {checks.count('sizes', size)}" for size in sizes[1:-1]]
    return recurrent([*cells, *end], sizes[0], sizes[-1], **settings)


def reduction(layers: str | Iterable[str]) -> int:
    """Return how many time steps have one result together behind layers as `recurrent` takes them.

    Raises
    ------
    InputError, UnknownNameError
    """
    words = layers.split(",") if isinstance(layers, str) else layers
    parsed = [_parsed(text) for text in words]
    return math.prod(factor for name, *sizes in parsed if name == REDUCE for factor in sizes)


def _parsed(text: str) -> tuple[str, *tuple[int, ...]]:
    """Return a name and the numbers behind it."""
    name, *numbers = str(text).split() or [""]
    if not all(number.isdecimal() and 0 < int(number) < 2**31 for number in numbers):
        raise InputError("layers", "a name and whole numbers from 1 up", repr(text))
    return (choose("layers", name, _names()), *map(int, numbers))


def _names() -> list[str]:
    return sorted({*OVER_TIME, *HEADS, "embedding", REDUCE, *activation_names()})


def _uniform(pattern: CSR, rng: np.random.Generator) -> CSR:
    """Return a pattern with values within 1 / sqrt(connections of the row)."""
    counts = np.diff(pattern.indptr)
    values = rng.uniform(-1, 1, pattern.nnz) / np.sqrt(np.repeat(counts, counts))
    return pattern.with_entries(values.astype(pattern.dtype))


def _stored(weight: CSR) -> Any:
    """Return a weight without holes dense."""
    full = weight.nnz == weight.shape[0] * weight.shape[1]
    return Dense(weight.full_values.reshape(weight.shape)) if full else weight
