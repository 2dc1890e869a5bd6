"""Hostile cases of quantization: name -> (function, expected class of gbdnn.errors or None)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbdnn import Dense, Linear, Network, quantize
from gbdnn.backends import get_backend
from gbdnn.errors import (
    DtypeError,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from gbdnn.quantization import QUANTIZERS, Max, QuantizationPlan, calibrate
from gbdnn.topology import erdos_renyi
from gbdnn.training import Trainer

for backend in ("dense", "fused", "graphblas"):
    get_backend(backend)

NAN, INF = float("nan"), float("inf")
rng = np.random.default_rng(0)
X = rng.standard_normal((30, 6)).astype(np.float32)
Y = np.arange(30) % 3
WEIGHTS = [erdos_renyi(8, 6, density=0.5, rng=0), erdos_renyi(3, 8, density=0.5, rng=1)]
NETWORK = Network([Linear(WEIGHTS[0]), "relu", Linear(WEIGHTS[1])])
FINE = "int8"

CASES: dict[str, tuple[Callable[[], Any], type[Exception] | None]] = {}


def quantized(plan: Any = FINE, x: Any = X, network: Any = NETWORK, **settings: Any) -> Any:
    """Quantize; what was given must be as before, the result finite."""
    before, weights = X.tobytes(), [w.entries.tobytes() for w in NETWORK.weights.values()]
    try:
        made = quantize(network, plan, x, **settings)
        assert np.isfinite(made.predict(np.nan_to_num(X))).all()
        return made
    finally:
        assert X.tobytes() == before
        assert [w.entries.tobytes() for w in NETWORK.weights.values()] == weights


def filled(value: float, places: int = 48) -> Network:
    """Return a network of which so many entries of the first weight are `value`."""
    W = rng.standard_normal((8, 6)).astype(np.float32)
    W.reshape(-1)[:places] = value
    return NETWORK.replaced({"layers.0.weight": Dense(W)})


def plans(given: Any) -> dict[str, Any]:
    """Return a plan for both weights."""
    return {"*.weight": given}


bad = {
    "no such plan": ("fasoli2020", UnknownNameError),
    "plan is a number": (4, DtypeError),
    "plan is None": (None, DtypeError),
    "plan is empty": ({}, InputError),
    "pattern matches nothing": ({"layers.9.weight": "max"}, InputError),
    "pattern of an activation matches nothing": ({"*.hidden": "max"}, InputError),
    "two patterns": ({"*.weight": "max", "layers.2.*": "max"}, InputError),
    "activation without its weight": ({"layers.0.input": "max"}, InputError),
    "two-sided weight": (plans({"quantizer": "max", "sides": "two"}), InputError),
    "groups that do not divide": (plans({"quantizer": "max", "granularity": 4}), InputError),
    "groups of 0": (plans({"quantizer": "max", "granularity": 0}), InputError),
    "groups of -2": (plans({"quantizer": "max", "granularity": -2}), InputError),
    "groups of True": (plans({"quantizer": "max", "granularity": True}), InputError),
    "groups larger than the row": (plans({"quantizer": "max", "granularity": 96}), InputError),
    "granularity of another name": (plans({"quantizer": "max", "granularity": "g"}), InputError),
    "granularity is a list": (plans({"quantizer": "max", "granularity": [2]}), InputError),
    "no quantizer": (plans({"bits": 4}), InputError),
    "quantizer is a list": (plans({"quantizer": ["max"]}), DtypeError),
    "quantizer is a class": (plans(Max), DtypeError),
    "setting of another quantizer": (plans({"quantizer": "max", "clip": 1.0}), InputError),
    "clip NaN": (plans({"quantizer": "fix", "clip": NAN}), InputError),
    "clip 0": (plans({"quantizer": "fix", "clip": 0}), InputError),
    "start NaN": (plans({"quantizer": "pact", "start": NAN}), InputError),
    "start is text": (plans({"quantizer": "pact", "start": "one"}), InputError),
    "percent NaN": (plans({"quantizer": "percentile", "percent": NAN}), InputError),
}  # fmt: skip
CASES |= {name: (lambda plan=plan: quantized(plan), error) for name, (plan, error) in bad.items()}
for number in (1, 0, -4, 9, 64, 4.0, True, "4", None, NAN):
    CASES[f"{number!r} bits"] = (
        lambda number=number: quantized(plans({"quantizer": "sawb", "bits": number})), InputError,
    )  # fmt: skip

samples: dict[str, tuple[Any, Any]] = {
    "no samples at all": (None, InputError),
    "an empty batch": (X[:0], ShapeError),
    "a batch of NaN": (X * NAN, NonFiniteError),
    "one infinite value": (np.where(np.arange(6) == 3, INF, X), NonFiniteError),
    "too few features": (X[:, :5], ShapeError),
    "text": (X.astype(str), DtypeError),
    "no sequences": ([], ShapeError),
    "all zero": (X * 0, None),
    "one outlier": (np.where(X.max() == X, 1e6, X), None),
    "1e30": (X * 1e30, None),
    "1e-42": (X * 1e-42, None),
    "one sample": (X[:1], None),
}  # fmt: skip
CASES |= {f"samples: {n}": (lambda x=x: quantized("int8", x), e) for n, (x, e) in samples.items()}
CASES |= {f"samples, tailored: {n}": (lambda x=x: quantized("fasoli2022", x), e)
          for n, (x, e) in samples.items()}  # fmt: skip
for kind in QUANTIZERS:
    for name, network in {
        "zero": filled(0), "one outlier": filled(1e6, 1), "huge": filled(1e37),
    }.items():  # fmt: skip
        rule = plans({"quantizer": kind, "granularity": 2})
        CASES[f"{kind} of {name} weights"] = (
            lambda rule=rule, network=network: quantized(rule, None, network), None,
        )  # fmt: skip

CASES |= {
    "no network": (lambda: quantized(network=None), DtypeError),
    "a layer": (lambda: quantized(network=NETWORK.layers[0]), DtypeError),
    "no such observer": (lambda: quantized(observer="median"), UnknownNameError),
    "no samples to look at": (lambda: quantized(samples=0), InputError),
    "half a sample": (lambda: quantized(samples=0.5), InputError),
    "no such backend": (lambda: quantized(backend="gpu"), UnknownNameError),
    "calibrate without data": (lambda: calibrate(NETWORK, None, "naive_int4"), InputError),
    "trainer, no such plan": (lambda: Trainer(quantization="int5"), UnknownNameError),
    "trainer, a number": (lambda: Trainer(quantization=4), DtypeError),
    "trainer, an empty plan": (lambda: Trainer(quantization={}), InputError),
    "rate below 0": (lambda: QuantizationPlan({"*": "max"}, learned_rate=-1), InputError),
    "rate NaN": (lambda: QuantizationPlan({"*": "max"}, learned_rate=NAN), InputError),
    "decay infinite": (lambda: QuantizationPlan({"*": "max"}, learned_decay=INF), InputError),
    "rules are text": (lambda: QuantizationPlan("max"), DtypeError),
    "rules are names": (lambda: QuantizationPlan(("max",)), DtypeError),
    "rules are None": (lambda: QuantizationPlan(None), DtypeError),
}


def trained(plan: Any, x: Any = X, network: Network = NETWORK) -> None:
    """Train two epochs; the result is finite."""
    result = Trainer(quantization=plan, epochs=2, batch_size=10, threads=1).fit(network, x, Y)
    assert np.isfinite(result.network.predict(X)).all()


CASES |= {
    "trained, pattern matches nothing": (lambda: trained({"*.recurrent": "max"}), InputError),
    "trained on zeros": (lambda: trained("fasoli2022", X * 0), None),
    "trained with an outlier": (lambda: trained("naive_int4", samples["one outlier"][0]), None),
    "trained from zeros": (lambda: trained("fasoli2022", X, filled(0)), None),
    "trained with 2 bits of rows of zeros": (
        lambda: trained(plans({"quantizer": "lsq", "bits": 2, "granularity": "row"}), X, filled(0)),
        None,
    ),
}
