"""`Sparsifier`: score, distribution, schedule, structure and growth together, in a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gbdnn.errors import DtypeError, InputError, ShapeError, choose
from gbdnn.layers import Layer
from gbdnn.pruning.distributions import Distribution, distribution
from gbdnn.pruning.growth import SET, Growth, RigL, absent, growth
from gbdnn.pruning.schedules import Never, Periodic, Polynomial, Schedule, schedule
from gbdnn.pruning.scores import SCORES, Score, score
from gbdnn.pruning.selection import Selection, check_exclude, check_sparsity
from gbdnn.pruning.structures import Structure, Unstructured, structure
from gbdnn.types import Array
from gbdnn.weights import CSR
from gbdnn.weights.patterns import exchange, realign

__all__ = ["PRESETS", "Pruned", "Sparsifier", "sparsifier"]

State = dict[str, Any]


class TrainedParameter(Protocol):
    """A parameter of a model that is trained; `weight` is asked for where `decays` is true."""

    decays: bool
    grad: Array  # of the entries, shape (nnz,)

    @property
    def weight(self) -> CSR:
        """The weight as it is now; its arrays may be the parameter's own."""


class Pruned(Protocol):
    """What a `Sparsifier` sees of a model that is trained."""

    threads: int

    @property
    def parameters(self) -> Mapping[str, TrainedParameter]:
        """The parameters by name."""

    @property
    def named_layers(self) -> Mapping[str, Layer]:
        """The layers by the prefixes of these names, in order."""


@dataclass(frozen=True)
class Sparsifier:
    """When, where and how patterns change in a training.

    At each step of `schedule` the entries of the lowest `score` are dropped until the weights have
    the sparsity that schedule and `distribution` give them; with `growth`, a part more, for which
    others grow.

    Parameters
    ----------
    sparsity : float, optional
        The target, 0 to below 1: the part of all places of the weights (those left out do not
        count) that is empty in the end. None: each weight keeps its number of entries, which takes
        `growth` or `Never`.
    score : str or Score
        A name of `SCORES`: "magnitude", "gradient", "movement", "random".
    distribution : str or function
        A name of `DISTRIBUTIONS`: "global" (one threshold for all weights), "lamp" (one threshold
        for scores in proportion to those of their layer), "uniform" or "per_layer" (equal
        densities), "erk" (small layers stay denser). Each weight keeps at least one entry, the last
        one for each output; what a weight that is sparser leaves over goes to the others.
    schedule : Schedule or str
        `Polynomial`, `Periodic`, `OneShot` or `Never`, or a name of `SCHEDULES`. Where the target
        rises over several updates, the sparsity of all weights together follows the schedule.
    structure : Structure or str
        `Unstructured`, `NM`, `Block`, `Neuron` or "2:4", "4x4", "neuron".
    growth : Growth or str, optional
        `SET` or `RigL`, or a name of `GROWTHS`. Only without structure.
    exclude : sequence of int and str
        Weights that are left alone, by position (-1 is the last), name ("layers.0.weight") or
        pattern (``"*.recurrent"``).
    at_start : bool
        Reach `sparsity` at step 0, with entries that are drawn at random, whatever `score`, unless
        the network is as sparse already (within 1 % of its entries). After that weights keep their
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
    distribution: Distribution | str = "global"
    schedule: Schedule | str = field(default_factory=Polynomial)
    structure: Structure | str = field(default_factory=Unstructured)
    growth: Growth | str | None = None
    exclude: tuple[int | str, ...] = ()
    at_start: bool = False

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "score", score(self.score))
        distribution(self.distribution)  # which stays as given: functions print their address
        put(self, "schedule", schedule(self.schedule))
        put(self, "structure", structure(self.structure))
        put(self, "growth", growth(self.growth))
        put(self, "exclude", check_exclude(self.exclude))
        put(self, "sparsity", check_sparsity(self.sparsity, structure(self.structure)))
        self._check_sense()

    def _check_sense(self) -> None:
        static = schedule(self.schedule).static
        if not isinstance(self.at_start, bool):
            raise DtypeError("at_start", "True or False", repr(self.at_start))
        if self.at_start and self.growth is None and not static:
            raise InputError("at_start", "growth=, or schedule=Never()", "neither")
        if self.growth is not None and not structure(self.structure).grows:
            raise InputError("growth", "None with a structure", repr(self.growth))
        if static and (self.growth or (self.sparsity is not None and not self.at_start)):
            fix = "Without changes there is no growth, and a sparsity takes at_start=True."
            raise InputError("schedule", "one with changes", repr(self.schedule), fix)
        if not static and self.sparsity is None and self.growth is None:
            fix = "Pass a target, growth=, or schedule=Never()."
            raise InputError("sparsity", "a number from 0 to below 1", "None", fix)

    # -- what the Trainer calls --------------------------------------------------------------------

    def start(self, model: Pruned, total_steps: int | None, rng: np.random.Generator) -> State:
        """Check that all this fits the network, and return the state of a training.

        Parameters
        ----------
        model : Pruned
        total_steps : int or None
            None if not known: then times must be numbers of steps.
        rng : Generator
            Not used so far.

        Returns
        -------
        dict
            Of arrays and numbers, for checkpoints: "moved.layers.0.weight" (O(nnz), for movement),
            "grown.layers.0.weight" (for growth that observes), "density", "total_steps".
        """
        schedule(self.schedule).updates(total_steps)
        selection = self._selection(model)
        weights = {name: model.parameters[name].weight for name in selection.names}
        for name, weight in weights.items():
            if weight.shape[0] * weight.shape[1] >= 2**63:
                expected = "out_features * in_features below 2**63"
                raise ShapeError(name, expected, f"{weight.shape}")
        state: State = {"total_steps": total_steps, "density": 1.0}
        if self.sparsity is not None:
            selection.check(weights)
            state["density"] = selection.density(weights)
            selection.units(weights, 1 - self.sparsity)
        if score(self.score).needs == "moved":
            for name, weight in weights.items():
                state[f"moved.{name}"] = np.zeros(weight.nnz, weight.dtype)
        return state

    def observer(
        self, state: State, model: Pruned, step: int
    ) -> Callable[[str, Array, Array], None] | None:
        """Return what the backward pass of step `step` must call, None if nothing.

        It is called as ``observe(name, dZ, Y)`` with the weight's name; what growth finds there
        stays in `state` until `update`.
        """
        grower, part = growth(self.growth), self._exchanged(state, step)
        for key in [key for key in state if key.startswith("grown.")]:
            del state[key]  # of a step that was given up
        if grower is None or not grower.observes or not part:
            return None
        names = self._selection(model).names

        def observe(name: str, dZ: Array, Y: Array) -> None:
            if name in names:
                pattern = model.parameters[name].weight
                count = round(part * pattern.nnz)
                state[f"grown.{name}"] = grower.observe(pattern, dZ, Y, count, model.threads)

        return observe

    def update(
        self, state: State, model: Pruned, step: int, rng: np.random.Generator
    ) -> dict[str, CSR]:
        """Return new weights, by name, for those whose pattern changes at step `step`.

        Called at each step, after the gradients; `model` is not changed, `state` is: it belongs to
        the new patterns.
        """
        starts = self._starts(state, step)
        changes = starts or step in schedule(self.schedule).updates(state["total_steps"])
        if not changes and score(self.score).needs != "moved":
            return {}
        selection, parameters = self._selection(model), model.parameters
        weights = {name: parameters[name].weight for name in selection.touched}
        if score(self.score).needs == "moved":
            for name in selection.names:
                step_of = weights[name].values * parameters[name].grad
                state[f"moved.{name}"] = state[f"moved.{name}"] - step_of
        if not changes:
            return {}
        rank = SCORES["random"] if starts else score(self.score)
        scores = {
            name: rank.function(
                weights[name].values, parameters[name].grad, state.get(f"moved.{name}", NONE), rng
            )
            for name in selection.names
        }
        density = self._density(state, step)
        if density is None:
            units = {name: weights[name].nnz for name in selection.names}
        else:
            units = selection.units(weights, density, scores)
        grown = self._grown(state, step, weights, units, rng, selection)
        kept = {name: count - len(grown[name]) for name, count in units.items()}
        found: dict[str, CSR] = {}
        for name, mask in selection.masks(weights, scores, kept).items():
            places = grown.get(name, NONE)
            if len(places) or not mask.all():
                found[name] = exchange(weights[name], mask, places)
                if (key := f"moved.{name}") in state:
                    state[key] = realign(state[key], weights[name], found[name])
        return found

    # -- parts of update ---------------------------------------------------------------------------

    def _selection(self, model: Pruned) -> Selection:
        names = [name for name, parameter in model.parameters.items() if parameter.decays]
        layers = model.named_layers
        return Selection.of(
            structure(self.structure), self.distribution, self.exclude, names, layers
        )

    def _starts(self, state: State, step: int) -> bool:
        """True at the step that goes to the target at once."""
        if not self.at_start or self.sparsity is None or step > 0:
            return False
        return bool(state["density"] > 1.01 * (1 - self.sparsity))

    def _exchanged(self, state: State, step: int) -> float:
        """Return the part of the entries that is exchanged at a step."""
        grower, updates = growth(self.growth), schedule(self.schedule).updates(state["total_steps"])
        if grower is None or step not in updates or self._starts(state, step):
            return 0.0
        return grower.part(step, updates[-1])

    def _density(self, state: State, step: int) -> float | None:
        """Return the density of all weights after this step; None: they keep their numbers."""
        if self.sparsity is None or (self.at_start and not self._starts(state, step)):
            return None
        target, first = 1 - self.sparsity, float(state["density"])
        if self.at_start:
            return target
        left = 1 - schedule(self.schedule).progress(step, state["total_steps"])
        return target + (first - target) * left

    def _grown(
        self,
        state: State,
        step: int,
        weights: dict[str, CSR],
        units: dict[str, int],
        rng: np.random.Generator,
        selection: Selection,
    ) -> dict[str, Array]:
        """Return the places, ascending, where each weight's new entries grow."""
        grower, part, found = growth(self.growth), self._exchanged(state, step), {}
        for name, kept in units.items():
            observed = state.pop(f"grown.{name}", NONE)
            left = max(kept - selection.least(name, weights[name]), 0) if part else 0
            count = min(round(part * kept), absent(weights[name]), left)
            found[name] = NONE
            if count and grower is not None:
                found[name] = grower.places(weights[name], count, rng, observed)
        return found


NONE: Array = np.empty(0, np.int64)


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
