"""Random connections: Erdos-Renyi layers, their first values, and densities of many layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn import checks
from gbdnn.errors import InputError, ShapeError, choose
from gbdnn.types import Array
from gbdnn.weights import CSR, as_float_dtype

__all__ = [
    "INITIALISERS",
    "as_generator",
    "distinct",
    "erdos_renyi",
    "erk_densities",
    "initialise",
]


def erdos_renyi(
    out_features: int,
    in_features: int,
    *,
    density: float,
    rng: np.random.Generator | int,
    values: str = "he",
    dtype: npt.DTypeLike = np.float32,
) -> CSR:
    """Return a layer whose connections are a uniformly random set of fixed size.

    Parameters
    ----------
    out_features, in_features : int
        Shape of the matrix.
    density : float
        Part of the places that are filled, from 0 to 1. The number of entries is exactly
        round(density * out_features * in_features).
    rng : numpy.random.Generator or int
        Source of chance; an int seeds a new one.
    values : {"he", "glorot", "ones"}
        See `initialise`.
    dtype : float32 or float64

    Returns
    -------
    CSR
        Shape (out_features, in_features).

    Notes
    -----
    Time O(nnz log nnz) and memory O(nnz + out_features + in_features): no array has the size
    out_features * in_features, so 10^6 x 10^6 is as cheap as its entries.

    References
    ----------
    P. Erdos, A. Renyi: On random graphs I (1959), the model G(n, M). As a layer: Mocanu et al.,
    Nature Communications 9 (2018) 2383.

    Examples
    --------
    >>> from gbdnn.topology import erdos_renyi
    >>> erdos_renyi(1000, 784, density=0.01, rng=0)
    CSR(1000 x 784, nnz=7840, float32)
    """
    rows, columns = _size("out_features", out_features), _size("in_features", in_features)
    if rows * columns >= 2**63:
        expected = "out_features * in_features below 2**63"
        raise ShapeError("out_features", expected, f"{rows} x {columns}")
    rng = as_generator(rng)
    choose("values", values, INITIALISERS)
    nnz = round(_density(density, zero=True) * rows * columns)
    places = distinct(rows * columns, nnz, rng)
    index = np.int32 if max(nnz, rows, columns) < 2**31 else np.int64
    row, column = np.divmod(places, columns)
    indptr = np.zeros(rows + 1, index)
    np.cumsum(np.bincount(row, minlength=rows), out=indptr[1:])
    blank = np.ones(1, as_float_dtype(dtype))
    pattern = CSR.unchecked(indptr, column.astype(index), blank, (rows, columns))
    return initialise(pattern, values=values, rng=rng)


def initialise(matrix: CSR, *, rng: np.random.Generator | int, values: str = "he") -> CSR:
    r"""Return a matrix of the same pattern with fresh values.

    Each value is drawn from a normal distribution of mean 0 and variance

    - ``"he"``: :math:`2 / n_i`, where :math:`n_i` counts the entries of the value's own row i;
    - ``"glorot"``: :math:`2 / (n_i + m_j)`, where :math:`m_j` counts those of its column j;
    - ``"ones"`` sets every value to 1 (stored once).

    The scale follows the connections that are there, not the dense layer's size: otherwise signals
    of a layer with density d shrink by :math:`\sqrt d`.

    Parameters
    ----------
    matrix : CSR
        Its pattern, shape and dtype are used; index arrays are shared, not copied.
    rng : numpy.random.Generator or int
    values : {"he", "glorot", "ones"}

    References
    ----------
    He et al. 2015, arXiv:1502.01852; Glorot, Bengio 2010; for sparse rows Evci et al. 2020,
    arXiv:2010.03533.
    """
    draw = INITIALISERS[choose("values", values, INITIALISERS)]
    fresh = draw(matrix, as_generator(rng))
    return CSR.unchecked(matrix.indptr, matrix.indices, fresh, matrix.shape)


def _he(matrix: CSR, rng: np.random.Generator) -> Array:
    fan_in = np.diff(matrix.indptr)
    scale = np.sqrt(2 / np.maximum(fan_in, 1)).astype(matrix.dtype)
    draws: Array = rng.standard_normal(matrix.nnz, matrix.dtype)
    draws *= np.repeat(scale, fan_in)
    return draws


def _glorot(matrix: CSR, rng: np.random.Generator) -> Array:
    fan_in = np.diff(matrix.indptr)
    fan_out = np.bincount(matrix.indices, minlength=matrix.shape[1])
    scale = np.sqrt(2 / (np.repeat(fan_in, fan_in) + fan_out[matrix.indices]))
    draws: Array = rng.standard_normal(matrix.nnz, matrix.dtype)
    draws *= scale.astype(matrix.dtype)
    return draws


def _ones(matrix: CSR, rng: np.random.Generator) -> Array:
    return np.ones(1 if matrix.nnz else 0, matrix.dtype)


INITIALISERS: dict[str, Callable[[CSR, np.random.Generator], Array]] = {
    "glorot": _glorot,
    "he": _he,
    "ones": _ones,
}


def erk_densities(shapes: Sequence[Sequence[int]], *, density: float) -> list[float]:
    r"""Return the density of each layer by the Erdos-Renyi-Kernel rule.

    Layer l of dimensions :math:`n_1 \times n_2 \times ...` gets
    :math:`d_l = \min(1, \epsilon \sum_i n_i / \prod_i n_i)`; :math:`\epsilon` is such that all
    layers together keep the part `density` of their weights. A layer that would exceed 1 stays
    dense, and the others share what remains. For matrices this is the Erdos-Renyi rule.

    Parameters
    ----------
    shapes : sequence of sequences of int
        (out_features, in_features) of each layer, with kernel sizes behind them if there are any.
    density : float
        Above 0, at most 1.

    Returns
    -------
    list of float
        In the order of `shapes`.

    References
    ----------
    Evci et al. 2020, Rigging the Lottery, arXiv:1911.11134; Mocanu et al. 2018.

    Examples
    --------
    >>> from gbdnn.topology import erk_densities
    >>> [round(d, 3) for d in erk_densities([(300, 784), (100, 300), (10, 100)], density=0.1)]
    [0.08, 0.23, 1.0]
    """
    target = _density(density, zero=False)
    sizes, ratios = [], []
    for i, shape in enumerate(shapes):
        dimensions = [_size(f"shapes[{i}]", n) for n in shape]
        if len(dimensions) < 2:
            raise ShapeError(f"shapes[{i}]", "at least (out_features, in_features)", repr(shape))
        sizes.append(math.prod(dimensions))
        ratios.append(sum(dimensions) / sizes[-1])
    dense: set[int] = set()
    while True:
        sparse = [i for i in range(len(sizes)) if i not in dense]
        wanted = target * sum(sizes) - sum(sizes[i] for i in dense)
        weight = sum(ratios[i] * sizes[i] for i in sparse)
        epsilon = max(wanted, 0.0) / weight if sparse else 0.0
        # all that exceed 1 become dense at once; rounding must not hold one back for ever
        full = {i for i in sparse if epsilon * ratios[i] >= 1.0}
        if not full:
            return [1.0 if i in dense else epsilon * ratios[i] for i in range(len(sizes))]
        dense |= full


def distinct(total: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return `count` distinct numbers below `total`, ascending, every set equally likely.

    Numbers are drawn with repetition and repeated ones dropped: with at most half of all numbers
    wanted, 1.4 draws for each suffice. More than half are the complement of fewer than half.
    """
    if 2 * count > total:
        left_out = distinct(total, total - count, rng)
        # the k-th number that is kept stands behind those left out that precede it
        before = np.searchsorted(left_out - np.arange(len(left_out)), np.arange(count), "right")
        return np.arange(count) + before
    result = np.empty(0, np.int64)
    while len(result) < count:
        missing = count - len(result)
        extra = rng.integers(total, size=missing + missing // 2 + 8)
        result = np.sort(np.concatenate([result, extra]))
        result = result[np.diff(result, prepend=-1) > 0]
    # by symmetry any subset of the found set is as likely as another
    surplus = rng.choice(len(result), len(result) - count, replace=False, shuffle=False)
    return np.delete(result, surplus)


def as_generator(rng: np.random.Generator | int) -> np.random.Generator:
    """Return `rng`, or a new generator that it seeds."""
    return np.random.default_rng(checks.generator_or_seed("rng", rng))


def _size(argument: str, number: Any) -> int:
    whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not whole or number < 1:
        raise ShapeError(argument, "a whole number of at least 1", repr(number))
    return int(number)


def _density(density: Any, *, zero: bool) -> float:
    number = isinstance(density, int | float | np.number) and not isinstance(density, bool)
    if not number or not 0 <= density <= 1 or (density == 0 and not zero):
        raise InputError(
            "density", "a number from 0 to 1" if zero else "a number above 0, at most 1",
            repr(density), "Density is the part that is kept: 1 - sparsity.",
        )  # fmt: skip
    return float(density)
