"""`Sparsifier`: score, distribution, schedule, structure and growth together, in a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from gbdnn.errors import DtypeError, InputError, ShapeError, choose
from gbdnn.pruning._patterns import insert, subset
from gbdnn.pruning.growth import SET, Growth, RigL, absent, largest_absent, random_absent
from gbdnn.pruning.schedules import Never, OneShot, Periodic, Polynomial, Schedule
from gbdnn.pruning.scores import SCORES, Score, score
from gbdnn.pruning.selection import (
    Selection,
    check_distribution,
    check_exclude,
    check_sparsity,
    included,
    spared,
)
from gbdnn.pruning.structures import Structure, Unstructured, structure
from gbdnn.weights.csr import CSR, realign

if TYPE_CHECKING:
    from gbdnn.training.model import Model

__all__ = ["PRESETS", "Sparsifier", "sparsifier"]

Array = npt.NDArray[Any]
State = dict[str, Any]


@dataclass(frozen=True)
class Sparsifier:
    """When, where and how patterns change in a training.

    At each step of `schedule` the entries of the lowest `score` are dropped until the layers have
    the sparsity that schedule and `distribution` give them; with `growth`, a part more, for which
    others grow.

    Parameters
    ----------
    sparsity : float, optional
        The target, 0 to below 1: the part of all places of the layers (those left out do not
        count) that is empty in the end. A layer that is already sparser is left alone. None: each
        layer keeps its number of entries, which takes `growth` or `Never`.
    score : str or Score
        "magnitude", "gradient", "movement", "random".
    distribution : str
        "global" (one threshold, each layer keeps at least one entry), "uniform" or "per_layer",
        "erk".
    schedule : Schedule
        `Polynomial`, `Periodic`, `OneShot` or `Never`. Where the target rises over several
        updates, the sparsity of all layers together follows the schedule.
    structure : Structure or str
        `Unstructured`, `NM`, `Block`, `Neuron` or "2:4", "4x4", "neuron".
    growth : SET or RigL, optional
        Only without structure.
    exclude : sequence of int
        Numbers of Linears that are left alone; -1 is the last.
    at_start : bool
        Reach `sparsity` at step 0, with entries that are drawn at random, whatever `score`, unless
        the network is as sparse already (within 1 % of its entries). After that layers keep their
        numbers of entries, and `schedule` says when growth exchanges some. What is left has the
        dense layer's scale: networks of `gbdnn.topology.erdos_renyi` start better.

    Raises
    ------
    InputError, DtypeError, UnknownNameError
        If a part is not what it should be, or the parts contradict each other.

    Notes
    -----
    The methods are for the `Trainer`. New entries have the value 0. A step that changes patterns
    depends on the network, the mini-batch and `rng` only. Memory is O(nnz), with RigL the block's
    bytes more; no array has the size out_features x in_features.

    Step t has t steps before it: the first is 0.
    """

    sparsity: float | None = None
    score: Score | str = "magnitude"
    distribution: str = "global"
    schedule: Schedule = field(default_factory=Polynomial)
    structure: Structure | str = field(default_factory=Unstructured)
    growth: Growth | None = None
    exclude: tuple[int, ...] = ()
    at_start: bool = False

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "score", score(self.score))
        set_(self, "distribution", check_distribution(self.distribution))
        set_(self, "structure", structure(self.structure))
        set_(self, "exclude", check_exclude(self.exclude))
        if not isinstance(self.schedule, Never | OneShot | Periodic):
            expected = "Never, OneShot, Periodic or Polynomial"
            raise DtypeError("schedule", expected, type(self.schedule).__name__)
        if self.growth is not None and not isinstance(self.growth, SET | RigL):
            raise DtypeError("growth", "SET, RigL or None", type(self.growth).__name__)
        set_(self, "sparsity", check_sparsity(self.sparsity, self._structure))
        self._check_sense()

    def _check_sense(self) -> None:
        if not isinstance(self.at_start, bool):
            raise DtypeError("at_start", "True or False", repr(self.at_start))
        if self.at_start and self.growth is None and not isinstance(self.schedule, Never):
            raise InputError("at_start", "growth=, or schedule=Never()", "neither")
        never = isinstance(self.schedule, Never)
        if self.growth is not None and not isinstance(self._structure, Unstructured):
            raise InputError("growth", "None with a structure", repr(self.growth))
        if never and (self.growth or (self.sparsity is not None and not self.at_start)):
            fix = "Without changes there is no growth, and a sparsity takes at_start=True."
            raise InputError("schedule", "one with changes", "Never()", fix)
        if not never and self.sparsity is None and self.growth is None:
            fix = "Pass a target, growth=, or schedule=Never()."
            raise InputError("sparsity", "a number from 0 to below 1", "None", fix)

    @property
    def _structure(self) -> Structure:
        return cast("Structure", self.structure)

    @property
    def _score(self) -> Score:
        return cast("Score", self.score)

    @property
    def _selection(self) -> Selection:
        return Selection(self._structure, self.distribution)

    # -- what the Trainer calls --------------------------------------------------------------------

    def start(self, model: Model, total_steps: int | None, rng: np.random.Generator) -> State:
        """Check that all this fits the network, and return the state of a training.

        Parameters
        ----------
        model : Model
        total_steps : int or None
            None if not known: then times must be numbers of steps.
        rng : Generator
            Not used so far.

        Returns
        -------
        dict
            Of arrays (O(nnz) for movement) and numbers, for checkpoints.
        """
        self.schedule.updates(total_steps)
        layers = included(len(model.layers), self.exclude, self._structure)
        weights = _weights(model, layers)
        for k, weight in weights.items():
            if weight.shape[0] * weight.shape[1] >= 2**63:
                expected = "out_features * in_features below 2**63"
                raise ShapeError(f"Linear number {k}", expected, f"{weight.shape}")
        state: State = {"total_steps": total_steps, "density": 1.0}
        if self.sparsity is not None:
            self._selection.check(weights)
            state["density"] = self._selection.density(weights)
            blank = {k: np.zeros(weight.nnz, np.float32) for k, weight in weights.items()}
            self._selection.units(weights, blank, 1 - self.sparsity)
        if self._score.needs == "moved":
            for k, weight in weights.items():
                state[f"moved.{k}"] = np.zeros(weight.nnz, weight.dtype)
        return state

    def observer(
        self, state: State, model: Model, step: int
    ) -> Callable[[int, Array, Array], None] | None:
        """Return what the backward pass of step `step` must call, None if nothing.

        It is for RigL: it looks for the largest gradients among absent entries and keeps their
        places in `state` until `update`.
        """
        growth, part = self.growth, self._exchanged(state, step)
        for key in [key for key in state if key.startswith("grown.")]:
            del state[key]  # of a step that was given up
        if not isinstance(growth, RigL) or not part:
            return None
        layers = set(included(len(model.layers), self.exclude, self._structure))

        def observe(k: int, dZ: Array, Y: Array) -> None:
            if k in layers:
                pattern = model.layers[k].form.pattern
                state[f"grown.{k}"] = largest_absent(
                    pattern, dZ, Y, round(part * pattern.nnz),
                    memory=growth.memory, threads=model.threads,
                )  # fmt: skip

        return observe

    def update(
        self, state: State, model: Model, step: int, rng: np.random.Generator
    ) -> dict[int, CSR]:
        """Return new weights for the Linears whose pattern changes at step `step`.

        Called at each step, after the gradients; `model` is not changed, `state` is: it belongs to
        the new patterns.
        """
        depth = len(model.layers)
        weights = _weights(model, included(depth, self.exclude, self._structure))
        if self._score.needs == "moved":
            for k, weight in weights.items():
                step_of = weight.values * model.layers[k].weight_grad
                state[f"moved.{k}"] = state[f"moved.{k}"] - step_of
        starts = self._starts(state, step)
        if not starts and step not in self.schedule.updates(state["total_steps"]):
            return {}
        rank = SCORES["random"] if starts else self._score
        scores = {
            k: rank.function(
                weight.values, model.layers[k].weight_grad, state.get(f"moved.{k}", _NONE), rng
            )
            for k, weight in weights.items()
        }
        units = self._units(state, step, weights, scores)
        grown = self._grown(state, step, weights, units, rng)
        kept = {k: count - len(grown[k]) for k, count in units.items()}
        weights |= _weights(model, spared(depth, self.exclude, self._structure))
        masks = self._selection.masks(weights, scores, kept)
        found: dict[int, CSR] = {}
        for k, mask in masks.items():
            places = grown.get(k, _NONE)
            if len(places) or not mask.all():
                found[k] = insert(subset(weights[k], mask), places)
                if f"moved.{k}" in state:
                    state[f"moved.{k}"] = realign(state[f"moved.{k}"], weights[k], found[k])
        return found

    # -- parts of update ---------------------------------------------------------------------------

    def _starts(self, state: State, step: int) -> bool:
        """True at the step that goes to the target at once."""
        if not self.at_start or self.sparsity is None or step > 0:
            return False
        return bool(state["density"] > 1.01 * (1 - self.sparsity))

    def _exchanged(self, state: State, step: int) -> float:
        """Return the part of the entries that is exchanged at a step."""
        updates = self.schedule.updates(state["total_steps"])
        if self.growth is None or step not in updates or self._starts(state, step):
            return 0.0
        return self.growth.part(step, updates[-1])

    def _units(
        self, state: State, step: int, weights: dict[int, CSR], scores: dict[int, Array]
    ) -> dict[int, int]:
        """Return the units that each layer has after this step."""
        if self.sparsity is None or (self.at_start and not self._starts(state, step)):
            return {k: weight.nnz for k, weight in weights.items()}
        target, first = 1 - self.sparsity, state["density"]
        if self.at_start:
            return self._selection.units(weights, scores, target)
        left = 1 - self.schedule.progress(step, state["total_steps"])
        return self._selection.units(weights, scores, target + (first - target) * left)

    def _grown(
        self,
        state: State,
        step: int,
        weights: dict[int, CSR],
        units: dict[int, int],
        rng: np.random.Generator,
    ) -> dict[int, Array]:
        """Return the places, ascending, where each layer's new entries grow."""
        part, found = self._exchanged(state, step), {}
        for k, weight in weights.items():
            count = min(round(part * units[k]), absent(weight), max(units[k] - 1, 0))
            if isinstance(self.growth, SET) and count:
                found[k] = random_absent(weight, count, rng)
            else:
                found[k] = np.sort(state.pop(f"grown.{k}", _NONE)[:count])
        return found


_NONE: Array = np.empty(0, np.int64)


def _weights(model: Model, layers: list[int]) -> dict[int, CSR]:
    """Return the weights as they are now; all arrays are the model's own."""
    found = {}
    for k in layers:
        form = model.layers[k].form
        pattern = form.pattern
        found[k] = CSR.unchecked(pattern.indptr, pattern.indices, form.values, pattern.shape)
    return found


# For any of them other settings may be given: sparsifier("rigl", growth=RigL(fraction=0.1)).
PRESETS: dict[str, Sparsifier] = {
    "gradient": Sparsifier(0.9, score="gradient"),
    "magnitude": Sparsifier(0.9),
    "movement": Sparsifier(0.9, score="movement"),
    "random": Sparsifier(0.9, score="random"),
    "rigl": Sparsifier(None, "magnitude", "erk", Periodic(), growth=RigL(), at_start=True),
    "set": Sparsifier(None, "magnitude", "erk", Periodic(), growth=SET(), at_start=True),
    "static": Sparsifier(None, "magnitude", "erk", Never(), at_start=True),
}


def sparsifier(name: str, **settings: Any) -> Sparsifier:
    """Return a `Sparsifier` by the name of a method, with some settings changed.

    Parameters
    ----------
    name : str
        "static": patterns stay. "set", "rigl": weights of small magnitude are exchanged for random
        ones or those of the largest gradient. These three take a sparse network, or a dense one
        and `sparsity`: then they begin with random patterns of ERK densities. "magnitude",
        "movement", "gradient", "random": gradual pruning of a dense or sparse network to
        `sparsity`, by default 0.9.
    **settings
        Fields of `Sparsifier`.

    Raises
    ------
    UnknownNameError
        For an unknown name or setting.

    Examples
    --------
    >>> from gbdnn.pruning import sparsifier
    >>> sparsifier("magnitude", sparsity=0.95, distribution="erk").sparsity
    0.95
    """
    preset = PRESETS[choose("sparsifier", name, PRESETS)]
    for setting in settings:
        choose("setting", setting, [field.name for field in dataclasses.fields(Sparsifier)])
    return dataclasses.replace(preset, **settings)
