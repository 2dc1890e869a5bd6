"""Low precision of a transducer: one plan for its three chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gbdnn.models.decodable import COMBINATIONS
from gbdnn.models.transducer import Transducer
from gbdnn.network import Network
from gbdnn.quantization.calibration import Calibration, calibrate, floats, quantize
from gbdnn.quantization.plan import QuantizationPlan
from gbdnn.quantization.presets import as_plan
from gbdnn.types import Array

__all__ = ["calibrate_transducer", "quantize_transducer"]

SAMPLES, NODES = 256, 64  # utterances that are looked at; nodes of each


def calibrate_transducer(
    model: Transducer, X: Sequence[Array], y: Sequence[Array], plan: Any, *,
    backend: str = "fused", threads: int | None = None,
) -> dict[str, Calibration]:  # fmt: skip
    """Fit a plan to a transducer: find where the clips of its activations begin.

    Parameters
    ----------
    model : Transducer
    X : list of ndarray, shapes (time_i, in_features)
    y : list of ndarray of int
        Labels of each; the predictor and the joint are calibrated with them.
    plan : str, QuantizationPlan or dict
        By names such as "encoder.layers.0.weight" or "joint.layers.0.input". A plan by name is
        made for all layers in one: the last one is that of the joint.

    Returns
    -------
    dict of str to Calibration
        Of each chain, with such names.
    """
    options: dict[str, Any] = {"backend": backend, "threads": threads}
    found = {}
    for name, (network, own, seen) in _parts(model, X, y, plan, threads).items():
        if not own.rules:
            found[name] = Calibration({})
            continue
        made = calibrate(network, seen, own, **options)
        found[name] = replace(
            made,
            rules={f"{name}.{key}": rule for key, rule in made.rules.items()},
            learned={f"{name}.{key}": value for key, value in made.learned.items()},
        )
    return found


def quantize_transducer(
    model: Transducer, plan: Any, X: Sequence[Array] = (), y: Sequence[Array] = (), *,
    backend: str = "fused", threads: int | None = None,
) -> Transducer:  # fmt: skip
    """Return the transducer with weights of few bits; nothing is trained.

    See `calibrate_transducer` and `gbdnn.quantize`.
    """
    options: dict[str, Any] = {"backend": backend, "threads": threads}
    made: dict[str, Network] = {
        name: quantize(network, own, seen, **options) if own.rules else network
        for name, (network, own, seen) in _parts(model, X, y, plan, threads).items()
    }
    parameters = {
        f"{name}.{key}": value
        for name, network in made.items()
        for key, value in network.parameters.items()
    }
    return model.replaced(parameters)


def _parts(
    model: Transducer, X: Sequence[Array], y: Sequence[Array], plan: Any, threads: int | None
) -> dict[str, tuple[Network, QuantizationPlan, Any]]:
    """Return of each chain: its network in floats, its part of the plan, what it is given."""
    chosen = as_plan(plan, model.named_layers)
    rules = chosen.assigned(model.named_layers)
    chains = {name: floats(chain) for name, chain in model.chains.items()}
    own = {
        name: replace(
            chosen,
            rules=tuple(
                replace(rule, pattern=full.removeprefix(f"{name}."))
                for full, rule in rules.items()
                if full.startswith(f"{name}.")
            ),
        )
        for name in chains
    }
    ids = np.unique(np.linspace(0, max(len(X) - 1, 0), min(SAMPLES, len(X))).astype(np.int64))
    frames: Any = [X[k] for k in ids]
    blank = [model.blank]
    prefixes: Any = [
        np.concatenate([blank, np.asarray(y[k], np.int64)])[:, None].astype(model.dtype)
        for k in ids
    ]  # fmt: skip
    met = None
    if len(ids) and own["joint"].rules:
        h = chains["encoder"].predict(frames, threads=threads)
        g = chains["predictor"].predict(prefixes, threads=threads)
        met = np.concatenate([_nodes(model, *pair, k) for k, pair in
                              enumerate(zip(h, g, strict=True))])  # fmt: skip
    seen = {"encoder": frames or None, "predictor": prefixes or None, "joint": met}
    return {name: (chains[name], own[name], seen[name]) for name in chains}


def _nodes(model: Transducer, h: Array, g: Array, seed: int) -> Array:
    """Return what the joint makes of some nodes of a lattice, shape (NODES, size)."""
    rng = np.random.default_rng(seed)
    t, u = rng.integers(len(h), size=NODES), rng.integers(len(g), size=NODES)
    met: Array = np.tanh(COMBINATIONS[model.combine](h[t], g[u]) + model.bias)
    return met
