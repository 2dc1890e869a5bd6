"""RadiX-Net: sparse layers without chance, in which every input reaches every output.

R. A. Robinett, J. Kepner: RadiX-Net: Structured Sparse Matrices for Deep Neural Networks (2019),
arXiv:1905.00416. The layers of the Sparse DNN Graph Challenge are a special case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn import checks
from gbdnn.errors import InputError, NonFiniteError, ShapeError
from gbdnn.weights.csr import CSR

__all__ = ["mixed_radix", "radix_net"]


def mixed_radix(
    radices: Sequence[int], *, nodes: int | None = None, value: float = 1.0
) -> list[CSR]:
    r"""Return the layers of one mixed-radix topology.

    With radices :math:`N_1, ..., N_L`, place values :math:`\nu_i = \prod_{k<i} N_k` and the cyclic
    shift P of `nodes` nodes, layer i is (rows = inputs) :math:`W_i = \sum_{j<N_i} P^{j \nu_i}`:
    input r feeds the outputs :math:`(r - j \nu_i) \bmod nodes`. If `nodes` is the product of the
    radices, exactly one path leads from each input of layer 1 to each output of layer L.

    Parameters
    ----------
    radices : sequence of int
        Each at least 2.
    nodes : int, optional
        Nodes per layer; a multiple of the product of the radices, which is the default.
    value : float
        The value of all entries; stored once, as float32.

    Returns
    -------
    list of CSR
        One matrix of shape (nodes, nodes) per radix, with that many entries in each row and column.

    Raises
    ------
    InputError
        A radix below 2, or `nodes` is no multiple of the product.

    References
    ----------
    arXiv:1905.00416, section III.A.
    """
    radices = _integers("radices", radices, 2)
    product = math.prod(radices)
    nodes = product if nodes is None else _integers("nodes", [nodes], 1)[0]
    if nodes % product:
        raise InputError("nodes", f"a multiple of {product}, the product of radices", str(nodes))
    widths = [1] * (len(radices) + 1)
    return _layers([radices], nodes, widths, value)


def radix_net(
    radix_lists: Sequence[Sequence[int]], widths: Sequence[int], *, value: float = 1.0
) -> list[CSR]:
    r"""Return the layers of a RadiX-Net.

    The mixed-radix topologies of the lists follow each other on :math:`N'` nodes; layer i is then
    widened by Kronecker's product :math:`1_{D_{i-1} \times D_i} \otimes W_i` (rows = inputs).

    Parameters
    ----------
    radix_lists : sequence of sequences of int
        All lists but the last have one product :math:`N'`; the product of the last divides it.
    widths : sequence of int
        :math:`D_0, ..., D_n`: one more than there are radices in all lists together.
    value : float
        The value of all entries; stored once, as float32.

    Returns
    -------
    list of CSR
        Matrix i has the shape :math:`(D_i N', D_{i-1} N')` and :math:`D_{i-1} N_i` entries a row.

    Raises
    ------
    InputError
        The lists' products do not fit, or a radix is below 2.
    ShapeError
        The wrong number of widths.

    References
    ----------
    arXiv:1905.00416, section III.B.

    Examples
    --------
    >>> from gbdnn.topology import radix_net
    >>> [layer.shape for layer in radix_net([[2, 3], [3, 2]], [1, 2, 2, 2, 1])]
    [(12, 6), (12, 12), (12, 12), (6, 12)]
    """
    if isinstance(radix_lists, str) or not hasattr(radix_lists, "__len__") or not len(radix_lists):
        raise InputError("radix_lists", "at least one list of radices", repr(radix_lists))
    lists = [_integers(f"radix_lists[{i}]", r, 2) for i, r in enumerate(radix_lists)]
    products = [math.prod(radices) for radices in lists]
    nodes = products[0]
    for i, product in enumerate(products[:-1]):
        if product != nodes:
            expected = f"the product {nodes} of the first list"
            raise InputError(f"radix_lists[{i}]", expected, f"the product {product}")
    if nodes % products[-1]:
        expected = f"a product that divides {nodes}, that of the first list"
        raise InputError(f"radix_lists[{len(lists) - 1}]", expected, f"the product {products[-1]}")
    widths = _integers("widths", widths, 1)
    layers = sum(map(len, lists))
    if len(widths) != layers + 1:
        expected = f"{layers + 1} widths, one more than there are radices"
        raise ShapeError("widths", expected, str(len(widths)))
    return _layers(lists, nodes, widths, value)


def distinct_rows(nodes: int, radix: int, place: int, width: int) -> npt.NDArray[np.int64]:
    """Return the input indices of the first `nodes` outputs of a widened mixed-radix layer.

    Output c is fed by (c + j place) mod nodes + t nodes for j < radix, t < width; output c + nodes
    by the same inputs, so that a layer is this array repeated. Shape (nodes, width * radix), rows
    ascending, int64.
    """
    base = (np.arange(nodes)[:, None] + place * np.arange(radix)) % nodes
    base.sort(axis=1)
    return (base[:, None, :] + nodes * np.arange(width)[:, None]).reshape(nodes, width * radix)


def _layers(
    lists: Sequence[Sequence[int]], nodes: int, widths: Sequence[int], value: float
) -> list[CSR]:
    values = np.array([value], np.float32)
    if not np.isfinite(values[0]):
        raise NonFiniteError("value", "a finite float32", repr(value))
    places = [(n, math.prod(radices[:i])) for radices in lists for i, n in enumerate(radices)]
    return [
        _tiled(distinct_rows(nodes, radix, place, before), after, nodes * before, values)
        for (radix, place), before, after in zip(places, widths[:-1], widths[1:], strict=True)
    ]


def _tiled(
    rows: npt.NDArray[Any], copies: int, in_features: int, values: npt.NDArray[np.float32]
) -> CSR:
    """Return the matrix that holds the sorted index rows `copies` times below each other."""
    out_features = len(rows) * copies
    nnz = rows.size * copies
    index = np.int32 if max(nnz, in_features, out_features) < 2**31 else np.int64
    indices = np.tile(rows.astype(index, copy=False).ravel(), copies)
    indptr = np.arange(0, nnz + 1, rows.shape[1], dtype=index)
    return CSR.unchecked(indptr, indices, values, (out_features, in_features))


def _integers(argument: str, numbers: Any, least: int) -> list[int]:
    """Return `numbers` as a list of int, each at least `least`, at least one of them."""
    expected = f"whole numbers of at least {least}"
    if not isinstance(numbers, Sequence | np.ndarray) or isinstance(numbers, str | bytes):
        raise InputError(argument, f"a sequence of {expected}", repr(numbers))
    if len(numbers) == 0:
        raise InputError(argument, expected, "none at all")
    return [checks.count(argument, number, least) for number in numbers]
