"""`sparsify`: the linear layers of a model replaced by sparse ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from gbdnn import checks
from gbdnn.errors import DtypeError, InputError
from gbdnn.pruning.distributions import Distribution
from gbdnn.pruning.distributions import distribution as _distribution
from gbdnn.pruning.scores import Score, score
from gbdnn.pruning.selection import Selection, check_exclude
from gbdnn.pruning.structures import Unstructured
from gbdnn.topology.random import as_generator
from gbdnn.torch.linear import SparseLinear, effective_weight, float_array
from gbdnn.weights import CSR, as_csr
from gbdnn.weights.csr import check_finite
from gbdnn.weights.patterns import full_pattern, subset

__all__ = ["sparsify"]


def sparsify(
    module: nn.Module,
    density: float,
    *,
    score: str | Score = "magnitude",
    distribution: str | Distribution = "erk",
    exclude: Sequence[int | str] = (),
    fresh: bool = False,
    rng: np.random.Generator | int = 0,
) -> nn.Module:
    """Replace each `torch.nn.Linear` in a model by a `SparseLinear` with some of its weights.

    Make the optimizer afterwards: the parameters are new ones.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place. Of subclasses of `torch.nn.Linear`, the projections of
        `torch.nn.MultiheadAttention` among them, nothing is replaced.
    density : float
        Above 0, at most 1: the part of all places of these layers that has an entry afterwards.
    score : str or Score
        What stays: "magnitude", the largest weights; "random".
    distribution : str or function
        How `density` becomes one for each layer: a name of `gbdnn.pruning.DISTRIBUTIONS`.
    exclude : sequence of int and str
        Layers that are left alone, by position, name ("encoder.0") or pattern (``"*.head"``).
    fresh : bool
        Draw values and biases anew, for the entries that are there: to train from the beginning.
    rng : Generator or int
        For random scores; `fresh` values come from torch's generator.

    Returns
    -------
    torch.nn.Module
        `module`; a `SparseLinear` if it is a `torch.nn.Linear` itself.

    Raises
    ------
    InputError, DtypeError
        Also for a weight that other modules share, and for a model without such layers; the model
        is then as it was.
    """
    if not isinstance(module, nn.Module):
        raise DtypeError("module", "a torch.nn.Module", type(module).__name__)
    density = checks.within("density", density, "(0, 1]")
    found = {name: each for name, each in module.named_modules() if type(each) is nn.Linear}
    if not found:
        raise InputError("module", "at least one torch.nn.Linear in it", type(module).__name__)
    chosen = Selection.of(Unstructured(), distribution, check_exclude(exclude), found, {}).names
    _check_shared(module, {name: found[name] for name in chosen})
    weights = {name: _weight(name, found[name]) for name in chosen}
    masks = _masks(weights, density, score, distribution, rng)
    made: dict[int, SparseLinear] = {}
    for name, mask in masks.items():
        linear = found[name]
        kept = subset(weights[name], mask)
        made[id(linear)] = SparseLinear.from_csr(kept, linear.bias, like=linear)
        if fresh:
            made[id(linear)].reset_parameters()
    if id(module) in made:
        return made[id(module)]
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):  # shared ones at each of their places
            if id(child) in made:
                setattr(parent, name, made[id(child)])
    return module


def _weight(name: str, linear: Any) -> CSR:
    """Return a weight with an entry at each place, or where a mask of torch's pruning has one."""
    array = float_array(effective_weight(linear), f"{name}.weight")
    check_finite(f"{name}.weight", array)
    if hasattr(linear, "weight_mask"):
        places = as_csr(linear.weight_mask, name=f"{name}.weight_mask")
        return SparseLinear.from_linear(linear, places).to_csr()
    return full_pattern(array)


def _masks(
    weights: dict[str, CSR], density: float, name: Any, distribution: Any, rng: Any
) -> dict[str, Any]:
    """Return which entries stay."""
    rank, rng = score(name), as_generator(rng)
    if rank.needs:
        raise InputError("score", "'magnitude' or 'random'", repr(rank.name), "Nothing is trained.")
    nothing = np.empty(0)
    scores = {
        key: rank.function(weight.full_values, nothing, nothing, rng)
        for key, weight in weights.items()
    }
    selection = Selection(Unstructured(), _distribution(distribution), tuple(weights))
    return selection.masks(weights, scores, selection.units(weights, density, scores))


def _check_shared(module: nn.Module, found: dict[str, Any]) -> None:
    """Refuse weights that other modules have too: their copies would go ways of their own."""
    owners: dict[int, set[int]] = {}
    for each in module.modules():
        for parameter in each.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(each))
    for name, linear in found.items():
        if any(len(owners[id(p)]) > 1 for p in linear.parameters(recurse=False)):
            fix = f"Leave it out with exclude=[{name!r}]."
            raise InputError(name or "module", "a layer with parameters of its own",
                             "one that shares them with another module", fix)  # fmt: skip
