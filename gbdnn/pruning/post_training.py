"""`prune`: a network with fewer weights, at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.network import Network, check_network
from gbdnn.pruning.compact import compact as compacted
from gbdnn.pruning.distributions import Distribution
from gbdnn.pruning.scores import Score
from gbdnn.pruning.scores import score as as_score
from gbdnn.pruning.selection import Selection, check_exclude, check_sparsity, cut_off
from gbdnn.pruning.structures import Structure
from gbdnn.pruning.structures import structure as as_structure
from gbdnn.topology.random import as_generator
from gbdnn.types import Array
from gbdnn.weights import CSR, Weight
from gbdnn.weights.csr import check_finite
from gbdnn.weights.foreign import numeric_array
from gbdnn.weights.patterns import subset

__all__ = ["prune"]


def prune(
    network: Network,
    sparsity: float | None,
    *,
    score: str | Score = "magnitude",
    distribution: str | Distribution = "lamp",
    structure: Structure | str | None = None,
    exclude: Sequence[int | str] = (),
    gradients: Mapping[str, Any] | Sequence[Any] | Callable[[], Mapping[str, Any]] | None = None,
    rng: np.random.Generator | int = 0,
    compact: bool = False,
) -> Network:
    """Return a network without the weights of the lowest score.

    Parameters
    ----------
    network : Network
        Not changed. Weights that keep all they had are shared with the result.
    sparsity : float
        From 0 to below 1: the part of all places (out_features x in_features) of the pruned weights
        that is empty afterwards. Of a sparse weight the absent entries count: one of density 0.1
        has a sparsity of 0.9. 0 removes nothing from a dense network. With `NM` it may be None.
    score, distribution, structure, exclude
        As in `Sparsifier`. The scores "gradient" and "movement" (here the one step's -w dL/dw) need
        `gradients`. The distribution is "lamp" by default: one threshold for all weights, as with
        "global", but of scores in proportion to their layer's, so that no layer is starved.
        Of a structure the sparsity counts whole units: with blocks, the part of the blocks that is
        empty.
    gradients : dict of str to array_like, sequence of array_like or function, optional
        dL/dW by name, or of each weight in order: shape (nnz,) in the order of the entries, of a
        weight that stores all places also (out_features, in_features). A function is called for
        them if the score needs them. `gbdnn.prune` is this function with `gbdnn.training.gradients`
        of samples X and y.
    rng : Generator or int
        For the score "random".
    compact : bool
        Also remove the neurons that make no difference any more (`gbdnn.compact`): layers become
        smaller, and differently pruned networks have different shapes.

    Returns
    -------
    Network
        Weights have their form as before, but dense ones that were pruned have become CSR. Zeros in
        a dense weight are entries like others. Of equal scores the first entries stay, row by row:
        an iso-valued weight is better pruned at random. Train it on, and its patterns stay.

    Raises
    ------
    InputError
        A sparsity that is below that of the network, or that leaves a weight or an output without
        entries, 1 and more; missing gradients; no such weight.
    ShapeError
        A structure that does not divide a weight; gradients that do not fit.
    UnknownNameError, DtypeError, NonFiniteError

    Warns
    -----
    UserWarning
        If there are outputs that no input reaches any more.

    Notes
    -----
    The number of entries that stay is exact without structure: what a weight that is sparser than
    its share leaves over goes to the others. Outputs that have entries keep some.

    Examples
    --------
    >>> import numpy as np, gbdnn
    >>> from gbdnn.pruning import prune
    >>> W = np.arange(1.0, 101.0).reshape(10, 10)
    >>> network = gbdnn.Network([gbdnn.Linear(W)])
    >>> prune(network, 0.75).layers[0].weight
    CSR(10 x 10, nnz=25, float32)
    """
    check_network("network", network)
    shape_of, scorer = as_structure(structure), as_score(score)
    target = check_sparsity(sparsity, shape_of)
    if target is None:
        raise DtypeError("sparsity", "a number from 0 to below 1", "None")
    generator = as_generator(rng)
    weights, layers = network.weights, network.named_layers
    selection = Selection.of(shape_of, distribution, check_exclude(exclude), weights, layers)
    patterns = {name: weights[name].pattern() for name in selection.touched}
    selection.check(patterns)
    _check_denser(selection, patterns, target)
    given = _gradients(weights, selection.names, gradients) if scorer.needs else {}
    scores = {}
    for name in selection.names:
        values, gradient = weights[name].entries, given.get(name, np.empty(0))
        moved = -values * gradient if scorer.needs == "moved" else gradient
        scores[name] = scorer.function(values, gradient, moved, generator)
    units = selection.units(patterns, 1 - target, scores)
    masks = selection.masks(patterns, scores, units)
    pruned = network.replaced({
        name: _subset(weights[name], patterns[name], mask)
        for name, mask in masks.items()
        if not mask.all()
    })  # fmt: skip
    lost = cut_off(pruned.weights, layers)
    if lost > cut_off(weights, layers):
        warnings.warn(
            f"sparsity {target:g}: no input reaches {lost} of {network.out_features} outputs any "
            "more. Lower it, or reach it in training with a Sparsifier; of the distributions "
            "'lamp' and 'erk' leave most to small layers.",
            stacklevel=2,
        )
    return compacted(pruned)[0] if compact else pruned


def _subset(weight: Weight, pattern: CSR, mask: Array) -> Weight:
    """Return the weight, in its form, with the entries where `mask` is true."""
    fewer = subset(pattern, mask)
    return fewer if pattern is weight else weight.with_entries(weight.entries[mask], fewer)


def _check_denser(selection: Selection, patterns: dict[str, CSR], sparsity: float) -> None:
    """Refuse a target that the weights together are beyond."""
    density = selection.density(patterns)
    places = sum(patterns[name].shape[0] * patterns[name].shape[1] for name in selection.names)
    if round((1 - sparsity) * places) > round(density * places):
        raise InputError(
            "sparsity", f"at least {1 - density:.6g}, which the weights have", repr(sparsity),
            "Pruning only removes; sparsity is the part of all places that is empty.",
        )  # fmt: skip


def _gradients(weights: Mapping[str, Weight], names: Sequence[str], given: Any) -> dict[str, Array]:
    """Return dL/dW of the weights `names`, shape (nnz,)."""
    if given is None:
        fix = "Pass gradients=, or to gbdnn.prune X= and y= with loss=."
        raise InputError("gradients", "what this score needs", "None", fix)
    given = given() if callable(given) else given
    if isinstance(given, str) or not hasattr(given, "__len__"):
        got = type(given).__name__
        raise DtypeError("gradients", "a dict of arrays by name, or one for each weight", got)
    if not isinstance(given, Mapping):
        if len(given) != len(weights):
            expected = f"{len(weights)} arrays, one for each weight"
            raise ShapeError("gradients", expected, str(len(given)))
        given = dict(zip(weights, given, strict=True))
    given = {name: gradient for name, gradient in given.items() if name in weights}
    missing = ", ".join(name for name in names if name not in given)
    if missing:
        raise InputError("gradients", "one for each weight that is pruned", f"none for {missing}")
    return {name: _checked(name, weights[name], gradient) for name, gradient in given.items()}


def _checked(name: str, weight: Weight, given: Any) -> Array:
    argument = f"gradients[{name!r}]"
    array = numeric_array(given, argument).astype(np.float64)
    allowed = [(weight.nnz,)] if weight.density < 1 else [(weight.nnz,), weight.shape]
    if array.shape not in allowed:
        expected = " or ".join(f"shape {shape}" for shape in allowed)
        raise ShapeError(argument, f"{expected}, as the weight", f"shape {array.shape}")
    check_finite(argument, array)
    return array.reshape(-1)
