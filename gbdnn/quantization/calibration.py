"""Calibration, and the way from a float network to one that computes in whole numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.backends import get_backend
from gbdnn.data.inputs import Inputs, as_inputs
from gbdnn.errors import InputError, ShapeError, choose
from gbdnn.execution.run import Memory, Run
from gbdnn.execution.steps import Step, grouped, prepared_step
from gbdnn.execution.tiles import padded
from gbdnn.layers import Layer
from gbdnn.machine import check_threads
from gbdnn.network import Network, check_network
from gbdnn.quantization.presets import as_plan
from gbdnn.quantization.rounding import OBSERVERS, Observing, Pass, valid_columns
from gbdnn.quantization.rules import Rule, WeightQuantizer, activations, shared, weights
from gbdnn.types import Array
from gbdnn.weights import CSR, Integers, Levels, Weight

__all__ = ["Calibration", "calibrate", "floats", "frozen", "quantize"]

SAMPLES, BATCH = 2048, 128


@dataclass(frozen=True, eq=False)
class Calibration:
    """A plan that was fitted to a network and samples.

    Attributes
    ----------
    rules : dict of str to Rule
        By the names of weights and activations.
    learned : dict of str to dict
        Of each activation with a rule where its quantizer begins: arrays by name.
    learned_rate, learned_decay : float
        As the plan has them.
    """

    rules: Mapping[str, Rule]
    learned: Mapping[str, dict[str, Array]] = field(default_factory=dict)
    learned_rate: float = 1.0
    learned_decay: float = 0.0

    def weight_quantizer(self, name: str, row_blocks: int) -> WeightQuantizer | None:
        """Return what rounds a weight, if it has a rule."""
        rule = self.rules.get(name)
        if rule is None:
            return None
        return WeightQuantizer(rule.quantizer, rule.granularity, row_blocks)


def calibrate(
    network: Network,
    X: Any,
    plan: Any,
    *,
    observer: str = "mean",
    samples: int = SAMPLES,
    backend: str = "fused",
    threads: int | None = None,
) -> Calibration:
    """Fit a plan to a network: find where the clips of its activations begin.

    Parameters
    ----------
    network : Network
        Computes in floats; it is not changed.
    X : array_like, scipy sparse or sequences
        As `Network.predict` takes it. None will do for plans without activations.
    plan : str, QuantizationPlan or dict
        "naive_int4", "fasoli2021", "fasoli2022", "int8"; see `gbdnn.quantization.presets`.
    observer : str
        How batches are put together: "mean", "widest" or "moving"; what is found in a batch the
        quantizer says, as the percentiles of `Pact`.
    samples : int
        So many are looked at, evenly spread over X, or all if there are fewer.

    Raises
    ------
    InputError, ShapeError, DtypeError, NonFiniteError, UnknownNameError
    """
    check_network("network", network)
    network = floats(network)
    choose("observer", observer, OBSERVERS)
    checks.count("samples", samples)
    chosen = as_plan(plan, network.named_layers)
    rules = chosen.assigned(network.named_layers)
    inner = {name: rules[name] for name in activations(network.named_layers) if name in rules}
    found: dict[str, dict[str, Array]] = {}
    if inner:
        if X is None:
            fix = "Only a plan for weights alone needs none."
            raise InputError("X", "samples to calibrate the activations with", "None", fix)
        inputs = as_inputs(X, network.in_features, network.dtype, one_row=network.one_row)
        if not inputs.count or not inputs.rows:
            raise ShapeError("X", "at least one sample to calibrate with", "none")
        inputs.verify()
        found = _observed(
            network, inputs, inner, observer, samples, get_backend(backend), check_threads(threads)
        )
    return Calibration(rules, found, chosen.learned_rate, chosen.learned_decay)


def _observed(
    network: Network, inputs: Inputs, rules: Mapping[str, Rule], observer: str, samples: int,
    backend: Any, threads: int,
) -> dict[str, dict[str, Array]]:  # fmt: skip
    """Take samples through the network, looking at the activations."""
    state = Pass()
    seen = {name: Observing(rule.quantizer, observer, state) for name, rule in rules.items()}
    steps = list(_observing(network, backend, seen))
    run = Run(backend, Memory(network.dtype), threads)
    over_time = inputs.over_time or any(layer.over_time for layer in network.layers)
    ids = np.unique(np.linspace(0, inputs.count - 1, min(samples, inputs.count)).astype(np.int64))
    with backend.pinned(threads):
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            run.at("inputs")
            tiles = inputs.time_steps(part) if over_time else 1
            Y = run.empty(tiles, network.in_features, padded(len(part)))
            inputs.load(part, Y[:, :, : len(part)])
            Y[:, :, len(part) :] = 0
            run.lengths = inputs.lengths_of(part, Y.shape[2]) if over_time else None
            state.valid = valid_columns(Y, len(part), run.lengths)
            for number, step in enumerate(steps):
                run.at(number % 2)
                Y = step.forward(run, Y)
                state.valid = state.valid[:: step.time_factor]
    return {name: observing.found for name, observing in seen.items()}


def _observing(network: Network, backend: Any, seen: Mapping[str, Observing]) -> Any:
    """Yield the network's steps, whose activations are looked at."""
    for start, layers in grouped(network.layers):
        step: Step = prepared_step(backend, layers)
        numbers = [k for k, layer in enumerate(layers, start) if not layer.only_trains]
        for k, layer, p in zip(numbers, step.layers, step.parameters, strict=True):
            names = {own: f"layers.{k}.{own}" for own in layer.activation_names}
            p.roundings = {own: seen[name] for own, name in names.items() if name in seen}
        yield step


def floats(network: Network) -> Network:
    """Return the network with weights of whole numbers as floats."""
    integers = {n: w.plain() for n, w in network.weights.items() if isinstance(w, Integers)}
    return network.replaced(integers) if integers else network


def quantize(
    network: Network,
    plan: Any,
    X: Any = None,
    *,
    observer: str = "mean",
    samples: int = SAMPLES,
    backend: str = "fused",
    threads: int | None = None,
) -> Network:
    """Return the network with weights of few bits, and products of whole numbers; no training.

    Parameters
    ----------
    network : Network
        It is not changed.
    plan : str, QuantizationPlan or dict
        See `gbdnn.quantization.calibrate`, as for the other parameters. Where it has no rule for
        an activation, products are of floats with the rounded weights.
    X : array_like, scipy sparse or sequences, optional
        Samples, of which no labels are needed; None will do for plans without activations.

    Returns
    -------
    Network
        Its weights are `gbdnn.weights.Int4` or `Int8`; patterns stay, absent entries stay absent.

    Raises
    ------
    InputError, ShapeError, DtypeError, NonFiniteError, UnknownNameError

    Notes
    -----
    ``Trainer(quantization=plan)`` trains with the same roundings, and loses less.
    """
    check_network("network", network)
    network = floats(network)
    found = calibrate(
        network, X, plan, observer=observer, samples=samples, backend=backend, threads=threads
    )
    values = {}
    layers = network.named_layers
    for name, (layer, own) in weights(layers).items():
        quantizer = found.weight_quantizer(name, layer.row_blocks)
        if quantizer is not None:
            weight = _as_csr(getattr(layer, own))
            learned = quantizer.initial(weight.full_values, quantizer.offsets(weight))
            values[name] = (weight, learned)
    return network.replaced(frozen(layers, found, values, found.learned))


def _as_csr(weight: Weight) -> CSR:
    made: CSR = weight.pattern().with_entries(weight.entries)
    return made


def frozen(
    layers: Mapping[str, Layer],
    calibration: Calibration,
    values: Mapping[str, tuple[CSR, Mapping[str, Array]]],
    learned: Mapping[str, Mapping[str, Array]],
) -> dict[str, Integers]:
    """Return the weights with a rule as whole numbers.

    Parameters
    ----------
    layers : dict of str to Layer
    calibration : Calibration
    values : dict of str to (CSR, dict)
        Each of these weights before rounding, and what its quantizer has learned.
    learned : dict of str to dict
        The same of activations.
    """
    rules, none = calibration.rules, np.zeros(0, np.float32)
    levels: dict[str, Levels] = {
        name: rules[name].quantizer.levels(none, learned.get(name, {}))
        for name in activations(layers)
        if name in rules
    }
    levels |= {name: levels[hidden] for name, hidden in shared(layers, rules).items()}
    result = {}
    for name, (layer, own) in weights(layers).items():
        quantizer = calibration.weight_quantizer(name, layer.row_blocks)
        if quantizer is None or name not in values:
            continue
        inner = f"{name.removesuffix(own)}{layer.activation_of(own)}"
        result[name] = quantizer.frozen(*values[name], levels.get(inner))
    return result
