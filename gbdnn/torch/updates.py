"""`PatternUpdates`: a `gbdnn.pruning.Sparsifier` beside an optimizer of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from gbdnn import checks
from gbdnn.errors import DtypeError, InputError
from gbdnn.pruning import Sparsifier, sparsifier
from gbdnn.pruning.scores import score
from gbdnn.pruning.structures import structure
from gbdnn.torch.linear import SparseLinear
from gbdnn.torch.product import threads
from gbdnn.types import Array
from gbdnn.weights import CSR
from gbdnn.weights.patterns import common, realign

__all__ = ["PatternUpdates"]

SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")  # torch's names of second moments


class PatternUpdates:
    """SET, RigL or gradual pruning of the `SparseLinear` layers of a model, while it trains.

    Parameters
    ----------
    module : torch.nn.Module
        Its layers whose `values` require gradients are changed.
    optimizer : torch.optim.Optimizer
        Vectors that it keeps for `values` move with the pattern. New entries begin with the value 0
        and the moments 0, but with the layer's mean of the second moments.
    method : str or Sparsifier
        "set", "rigl", "magnitude", ...: a name for `gbdnn.pruning.sparsifier`, or an object of it.
        Weights have the names of the layers, "encoder.0", for `exclude`.
    total_steps : int, optional
        Steps of the whole training; needed where the schedule says parts of them.
    seed : int

    Examples
    --------
    ::

        updates = PatternUpdates(model, optimizer, "rigl", total_steps=10_000)
        for x, y in batches:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
            updates.step()

    Notes
    -----
    RigL looks at the gradient of the last backward pass before `step`. Gradients are dropped
    where a pattern changes.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        method: str | Sparsifier = "rigl",
        *,
        total_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise DtypeError("module", "a torch.nn.Module", type(module).__name__)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise DtypeError("optimizer", "a torch.optim.Optimizer", type(optimizer).__name__)
        self.sparsifier = method if isinstance(method, Sparsifier) else sparsifier(method)
        if structure(self.sparsifier.structure).spares_outputs:
            got = repr(self.sparsifier.structure)
            raise InputError("method", "a structure that leaves neurons alone", got)
        total = None if total_steps is None else checks.count("total_steps", total_steps)
        self.optimizer, self.seed = optimizer, checks.count("seed", seed, 0)
        self.layers = {
            name: layer
            for name, layer in module.named_modules()
            if isinstance(layer, SparseLinear) and layer.values.requires_grad
        }
        if not self.layers:
            got = type(module).__name__
            fix = "gbdnn.torch.sparsify replaces the torch.nn.Linear of a model."
            raise InputError("module", "a SparseLinear in it that is trained", got, fix)
        self.number = 0
        self.state = self.sparsifier.start(self._model(), total, np.random.default_rng(self.seed))
        self._observe()

    def step(self) -> bool:
        """Change the patterns if it is time to; call it after ``optimizer.step()``.

        Returns
        -------
        bool
            Whether any pattern changed.
        """
        rng = np.random.default_rng([self.seed, self.number])
        changes = self.sparsifier.update(self.state, self._model(), self.number, rng)
        for name, weight in changes.items():
            self._change(self.layers[name], weight)
        self.number += 1
        self._observe()
        return bool(changes)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` goes on with, beside the states of model and optimizer."""
        parts = {
            key: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
            for key, value in self.state.items()
        }
        return {"number": self.number, "seed": self.seed, "state": parts}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another object stood; load model and optimizer first."""
        self.number, self.seed = int(state_dict["number"]), int(state_dict["seed"])
        self.state = {
            key: value.numpy().copy() if isinstance(value, torch.Tensor) else value
            for key, value in state_dict["state"].items()
        }
        self._observe()

    def _model(self) -> _Model:
        strict = bool(score(self.sparsifier.score).needs)
        return _Model({n: _Weight(n, each, strict) for n, each in self.layers.items()}, threads())

    def _observe(self) -> None:
        """Let the next backward pass call what growth must see."""
        seen = self.sparsifier.observer(self.state, self._model(), self.number)
        for name, layer in self.layers.items():
            layer.observe = None if seen is None else _Observer(seen, name)

    def _change(self, layer: SparseLinear, weight: CSR) -> None:
        old, values = layer.to_csr(), layer.values
        pairs = common(old, weight)
        slots = self.optimizer.state.get(values, {})
        for key, vector in slots.items():
            if isinstance(vector, torch.Tensor) and vector.shape == (old.nnz,):
                array = vector.detach().numpy()
                fill = float(array.mean()) if key in SQUARES and old.nnz else 0.0
                moved = realign(array, old, weight, fill=fill, pairs=pairs)
                slots[key] = torch.from_numpy(moved)
        layer.repattern(weight)


@dataclass(eq=False)
class _Model:
    """What a `Sparsifier` sees: `gbdnn.pruning.in_training.Pruned`."""

    parameters: Mapping[str, Any]
    threads: int

    @property
    def named_layers(self) -> dict[str, Any]:
        """None: which layer follows which is not known."""
        return {}


@dataclass(frozen=True)
class _Weight:
    name: str
    layer: SparseLinear
    strict: bool
    decays = True

    @property
    def weight(self) -> CSR:
        return self.layer.to_csr()

    @property
    def grad(self) -> Array:
        grad = self.layer.values.grad
        if grad is None and self.strict:
            fix = "Call step() after optimizer.step() and before zero_grad()."
            raise InputError(f"{self.name}.values.grad", "the step's gradient", "None", fix)
        found: Array = np.zeros(self.layer.nnz) if grad is None else grad.detach().numpy()
        return found


@dataclass(frozen=True)
class _Observer:
    see: Any
    name: str

    def __call__(self, dZ: Array, Y: Array) -> None:
        self.see(self.name, dZ, Y)
