"""`prune`: a network with fewer weights, at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.data.inputs import as_inputs
from gbdnn.errors import DtypeError, InputError, ShapeError, choose
from gbdnn.layers import LOSSES, Linear
from gbdnn.network import Network
from gbdnn.pruning._patterns import subset
from gbdnn.pruning.scores import Score
from gbdnn.pruning.scores import score as as_score
from gbdnn.pruning.selection import (
    Selection,
    check_distribution,
    check_exclude,
    check_sparsity,
    included,
    spared,
)
from gbdnn.pruning.structures import Structure
from gbdnn.pruning.structures import structure as as_structure
from gbdnn.topology.random import as_generator
from gbdnn.weights.csr import CSR, check_finite, full_pattern, numeric_array

__all__ = ["prune"]

Array = npt.NDArray[Any]


def prune(
    network: Network,
    sparsity: float | None,
    *,
    score: str | Score = "magnitude",
    distribution: str = "global",
    structure: Structure | str | None = None,
    exclude: Sequence[int] = (),
    gradients: Sequence[Any] | None = None,
    X: Any = None,
    y: Any = None,
    loss: str = "cross_entropy",
    backend: str = "fused",
    threads: int | None = None,
    rng: np.random.Generator | int = 0,
) -> Network:
    """Return a network without the weights of the lowest score.

    Parameters
    ----------
    network : Network
        Not changed. Weights that keep all they had are shared with the result.
    sparsity : float
        From 0 to below 1: the part of all places (out_features x in_features) of the pruned layers
        that is empty afterwards. Of a sparse layer the absent entries count: one of density 0.1 has
        a sparsity of 0.9. 0 removes nothing from a dense network. With `NM` it may be None.
    score : {"magnitude", "gradient", "movement", "random"} or Score
        "gradient" and "movement" (here the one step's -w dL/dw) need `gradients`, or X and y.
    distribution : {"global", "uniform", "per_layer", "erk"}
        One threshold for all layers (each keeps at least one entry); the same sparsity for each;
        or more for larger layers. A layer that is sparser than its share keeps all, so that the
        total may be below `sparsity`.
    structure : Structure or str, optional
        `Block`, `Neuron`, `NM`, or "4x4", "neuron", "2:4". Of a structure the sparsity counts whole
        units: with blocks, the part of the blocks that is empty.
    exclude : sequence of int
        Numbers of Linears that are left alone (-1 is the last) and do not count.
    gradients : sequence of array_like, optional
        dL/dW of each Linear: shape (nnz,) in the order of the entries, of a dense weight also
        (out_features, in_features).
    X, y : array_like, optional
        Samples (sparse X too) and targets from which gradients are computed, with `loss` (a name of
        `gbdnn.layers.LOSSES`) on `backend`.
    rng : Generator or int
        For the score "random".

    Returns
    -------
    Network
        Pruned dense weights have become CSR; zeros in a dense weight are entries like others. Of
        equal scores the first entries stay, row by row: an iso-valued weight is better pruned at
        random. Train it on, and its patterns stay.

    Raises
    ------
    InputError
        A sparsity that is below that of the network, or that leaves a layer without entries, 1 and
        more; missing gradients; no such layer.
    ShapeError
        A structure that does not divide a layer; gradients that do not fit.
    UnknownNameError, DtypeError, NonFiniteError

    Examples
    --------
    >>> import numpy as np, gbdnn
    >>> from gbdnn.pruning import prune
    >>> W = np.arange(1.0, 101.0).reshape(10, 10)
    >>> network = gbdnn.Network([gbdnn.Linear(W)])
    >>> prune(network, 0.75).layers[0].weight
    CSR(10 x 10, nnz=25, float32)
    """
    if not isinstance(network, Network):
        raise DtypeError("network", "a Network", type(network).__name__)
    shape_of, scorer = as_structure(structure), as_score(score)
    selection = Selection(shape_of, check_distribution(distribution))
    target = check_sparsity(sparsity, shape_of)
    if target is None:
        raise DtypeError("sparsity", "a number from 0 to below 1", "None")
    generator = as_generator(rng)
    linears = [layer for layer in network.layers if isinstance(layer, Linear)]
    exclude = check_exclude(exclude)
    layers = included(len(linears), exclude, shape_of)
    weights = {k: _sparse(linears[k].weight) for k in layers}
    selection.check(weights)
    _check_denser(selection, weights, target)
    slopes = {k: np.empty(0) for k in layers}
    if scorer.needs:
        options = {"loss": loss, "backend": backend, "threads": threads}
        slopes = _gradients(network, linears, gradients, X, y, options)
    scores = {
        k: scorer.function(
            weight.full_values, slopes[k],
            -weight.full_values * slopes[k] if scorer.needs == "moved" else slopes[k], generator,
        )
        for k, weight in weights.items()
    }  # fmt: skip
    units = selection.units(weights, scores, 1 - target)
    weights |= {k: _sparse(linears[k].weight) for k in spared(len(linears), exclude, shape_of)}
    masks = selection.masks(weights, scores, units)
    fewer = {k: subset(weights[k], mask) for k, mask in masks.items() if not mask.all()}
    return _with_weights(network, fewer)


def _with_weights(network: Network, weights: dict[int, CSR]) -> Network:
    """Return the network with other weights in some of its Linears."""
    layers: list[Any] = []
    number = 0
    for layer in network.layers:
        if isinstance(layer, Linear):
            weight = weights.get(number)
            number += 1
            if weight is not None:
                layers.append(Linear(weight, layer.bias, dtype=layer.dtype))
                continue
        layers.append(layer)
    return Network(layers, metadata=network.metadata)


def _check_denser(selection: Selection, weights: dict[int, CSR], sparsity: float) -> None:
    """Refuse a target that the layers together are beyond."""
    density = selection.density(weights)
    places = sum(weight.shape[0] * weight.shape[1] for weight in weights.values())
    if round((1 - sparsity) * places) > round(density * places):
        raise InputError(
            "sparsity", f"at least {1 - density:.6g}, which the layers have", repr(sparsity),
            "Pruning only removes; sparsity is the part of all places that is empty.",
        )  # fmt: skip


def _gradients(
    network: Network,
    linears: list[Linear],
    gradients: Any,
    X: Any,
    y: Any,
    options: dict[str, Any],
) -> dict[int, Array]:
    """Return dL/dW of each Linear, shape (nnz,), given or computed."""
    if gradients is None:
        if X is None or y is None:
            fix = "Pass gradients=, or X= and y= with loss=."
            raise InputError("gradients", "what this score needs", "None", fix)
        return _computed(network, X, y, **options)
    if isinstance(gradients, str) or not hasattr(gradients, "__len__"):
        got = type(gradients).__name__
        raise DtypeError("gradients", "one array for each Linear", got)
    if len(gradients) != len(linears):
        expected = f"{len(linears)} arrays, one for each Linear"
        raise ShapeError("gradients", expected, str(len(gradients)))
    return {k: _checked(k, linears[k], given) for k, given in enumerate(gradients)}


def _checked(k: int, linear: Linear, given: Any) -> Array:
    name = f"gradients[{k}]"
    array = numeric_array(given, name).astype(np.float64)
    allowed: list[tuple[int, ...]] = [(linear.edges,)]
    if not isinstance(linear.weight, CSR):
        allowed.append((linear.out_features, linear.in_features))
    if array.shape not in allowed:
        expected = " or ".join(f"shape {shape}" for shape in allowed)
        raise ShapeError(name, f"{expected}, as the weight", f"shape {array.shape}")
    check_finite(name, array)
    return array.reshape(-1)


def _computed(
    network: Network, X: Any, y: Any, loss: str, backend: str, threads: int | None, batch: int = 256
) -> dict[int, Array]:
    """Return the gradients of the mean loss over all samples, in float64."""
    from gbdnn.data.batches import as_targets
    from gbdnn.training.model import Model

    function = LOSSES[choose("loss", loss, LOSSES)]
    inputs = as_inputs(X, network.in_features, network.dtype)
    if inputs.count == 0:
        raise ShapeError("X", "at least one sample", "none")
    targets = as_targets(y, inputs.count, network.out_features, function, network.dtype)
    model = Model(network, loss=function, backend=backend, threads=threads)
    total = {k: np.zeros(len(layer.form.values)) for k, layer in enumerate(model.layers)}
    for start in range(0, inputs.count, batch):
        ids = np.arange(start, min(start + batch, inputs.count))
        weights = np.full(len(ids), 1 / inputs.count)
        model.loss_and_gradients(inputs, ids, targets[ids], weights)
        for k, layer in enumerate(model.layers):
            total[k] += layer.weight_grad
    for k, gradient in total.items():
        fix = "The network's loss or its gradients overflow for these samples."
        check_finite(f"the gradient of Linear number {k}", gradient, fix)
    return total


def _sparse(weight: CSR | Array) -> CSR:
    return weight if isinstance(weight, CSR) else full_pattern(weight)
