"""Hostile cases of pruning: case name -> (function, expected class of gbdnn.errors or None)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gbdnn import Linear, Network
from gbdnn.errors import (
    DtypeError,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from gbdnn.layers import LOSSES
from gbdnn.pruning import (
    NM,
    SET,
    Block,
    Neuron,
    Never,
    OneShot,
    Periodic,
    Polynomial,
    RigL,
    Sparsifier,
    pruning_report,
    sparsifier,
)
from gbdnn.topology import erdos_renyi
from gbdnn.training import Trainer, prune
from gbdnn.training.model import Model

RNG = np.random.default_rng(0)
DENSE = Network(
    [Linear(RNG.standard_normal((20, 12))), "relu", Linear(RNG.standard_normal((4, 20)))]
)
SPARSE = Network([Linear(erdos_renyi(20, 12, density=0.1, rng=0))])
MAX = 2**63 - 1

CASES: dict[str, tuple[Callable[[], Any], type[Exception] | None]] = {}


def add(name: str, error: type[Exception] | None, function: Callable[[], Any]) -> None:
    """Add a case."""
    assert name not in CASES
    CASES[name] = (function, error)


# -- sparsities ------------------------------------------------------------------------------------

NUMBERS: dict[str, tuple[Any, type[Exception]]] = {
    "one": (1, InputError),
    "1.0": (1.0, InputError),
    "above 1": (1.1, InputError),
    "percent": (95, InputError),
    "negative": (-0.1, InputError),
    "NaN": (float("nan"), InputError),
    "infinite": (float("inf"), InputError),
    "float32 NaN": (np.float32("nan"), InputError),
    "text": ("0.9", DtypeError),
    "bool": (True, DtypeError),
    "complex": (0.5 + 0j, DtypeError),
    "list": ([0.9, 0.9], DtypeError),
    "array": (np.array([0.9]), DtypeError),
    "object": (object(), DtypeError),
    "below one by an ulp": (np.nextafter(1, 0), InputError),
}
for label, (number, expected) in NUMBERS.items():
    add(f"prune: sparsity {label}", expected, lambda n=number: prune(DENSE, n))
    add(
        f"sparsifier: sparsity {label}",
        expected,
        lambda n=number: Sparsifier(n).start(model(DENSE), 100, RNG),
    )


def model(network: Network) -> Model:
    """Return a network in training."""
    return Model(network, loss=LOSSES["mse"], backend="dense", threads=1)


def fit(network: Network, **settings: Any) -> Any:
    """Train a little."""
    X, y = RNG.standard_normal((40, 12)), RNG.standard_normal((40, network.out_features))
    trainer = Trainer(loss="mse", epochs=2, batch_size=10, threads=1, **settings)
    return trainer.fit(network, X, y)


add("prune: sparsity 0 of a dense network", None, lambda: prune(DENSE, 0))
add("prune: denser than it is", InputError, lambda: prune(SPARSE, 0.5))
add("prune: sparsity 0 of a sparse network", InputError, lambda: prune(SPARSE, 0))
add("prune: no sparsity", DtypeError, lambda: prune(DENSE, None))
add("prune: everything, uniform", InputError, lambda: prune(DENSE, 0.999, distribution="uniform"))
add("prune: everything, erk", InputError, lambda: prune(DENSE, 0.9999, distribution="erk"))
add("prune: everything, global", InputError, lambda: prune(DENSE, 0.999))
add("prune: not a network", DtypeError, lambda: prune(np.ones((3, 3)), 0.5))  # type: ignore[arg-type]

# -- structures ------------------------------------------------------------------------------------

for label, structure, error in (
    ("5:7 of 12", "5:7", InputError),  # 0.5 is not its sparsity
    ("2:4", "2:4", None),
    ("blocks of 3 x 3", "3x3", ShapeError),
    ("blocks larger than the layer", "64x64", ShapeError),
    ("blocks of 10^9", "999999999x1", ShapeError),
    ("blocks of 10^30", f"{10**30}x1", UnknownNameError),
    ("zero blocks", "0x4", InputError),
    ("4:2", "4:2", InputError),
    ("0:4", "0:4", InputError),
    ("a list", ["2:4"], DtypeError),
    ("a class", NM, DtypeError),
    ("unknown", "banana", UnknownNameError),
    ("negative block", lambda: Block(-1, 4), InputError),
    ("a NaN block", lambda: Block(float("nan"), 4), InputError),  # type: ignore[arg-type]
    ("all n of m", lambda: NM(4, 4), InputError),
):
    add(
        f"structure: {label}",
        error,
        lambda s=structure: prune(
            DENSE, 0.5, structure=s() if callable(s) and not isinstance(s, type) else s
        ),
    )
add("structure: m does not divide", ShapeError, lambda: prune(DENSE, None, structure="1:7"))
add(
    "structure: neurons of the output only",
    InputError,
    lambda: prune(DENSE, 0.5, structure="neuron", exclude=[0]),
)
add(
    "structure: neurons of a single layer",
    InputError,
    lambda: prune(SPARSE, 0.95, structure=Neuron()),
)

# -- layers, names, gradients ----------------------------------------------------------------------

for label, exclude, error in (
    ("out of range", [2], InputError),
    ("below range", [-3], InputError),
    ("huge", [10**30], InputError),
    ("all", [0, 1], InputError),
    ("text", "0", DtypeError),
    ("float", [0.0], DtypeError),
    ("bool", [True], DtypeError),
    ("None", None, DtypeError),
    ("repeated", [0, 0, -2], None),
    ("repeated as name and pattern", [0, "layers.0.weight", "*.0.*"], None),
    ("all by a pattern", ["*"], InputError),
    ("unknown name", ["layers.1.weight"], InputError),
    ("a broken pattern", ["layers.[0.weight"], InputError),
    ("bytes", [b"layers.0.weight"], DtypeError),
    ("name in a list in a list", [["layers.0.weight"]], DtypeError),
):
    add(f"exclude: {label}", error, lambda e=exclude: prune(DENSE, 0.5, exclude=e))
add("score: unknown", UnknownNameError, lambda: prune(DENSE, 0.5, score="weight"))
add("score: None", UnknownNameError, lambda: prune(DENSE, 0.5, score=None))  # type: ignore[arg-type]
add("distribution: unknown", UnknownNameError, lambda: prune(DENSE, 0.5, distribution="all"))
add("sparsifier: unknown", UnknownNameError, lambda: sparsifier("rigged"))
add("sparsifier: unknown setting", UnknownNameError, lambda: sparsifier("rigl", alpha=0.3))
add("rng: negative", DtypeError, lambda: prune(DENSE, 0.5, score="random", rng=-1))

GRADIENTS: dict[str, tuple[Any, type[Exception] | None]] = {
    "right": ([np.ones((20, 12)), np.ones(80)], None),
    "missing": (None, InputError),
    "too few": ([np.ones((20, 12))], ShapeError),
    "transposed": ([np.ones((12, 20)), np.ones(80)], ShapeError),
    "too long": ([np.ones(241), np.ones(80)], ShapeError),
    "NaN": ([np.full((20, 12), np.nan), np.ones(80)], NonFiniteError),
    "text": ([["a"], ["b"]], DtypeError),
    "ragged": ([[[1], [1, 2]], np.ones(80)], DtypeError),
    "a number": (3.0, DtypeError),
    "complex": ([np.ones((20, 12), complex), np.ones(80)], DtypeError),
    "by name": ({"layers.0.weight": np.ones(240), "layers.2.weight": np.ones((4, 20))}, None),
    "by name, one missing": ({"layers.2.weight": np.ones(80)}, InputError),
    "by numbers": ({0: np.ones(240), 1: np.ones(80)}, InputError),
    "a function": (lambda: [np.ones((20, 12)), np.ones(80)], None),
    "a function of nothing": (lambda: None, DtypeError),
}
for label, (gradients, refusal) in GRADIENTS.items():
    add(
        f"gradients: {label}",
        refusal,
        lambda g=gradients: prune(DENSE, 0.5, score="gradient", gradients=g),
    )
X = RNG.standard_normal((5, 12))
for label, samples, targets, refusal in (
    ("too few targets", X, [0, 1], ShapeError),
    ("unknown class", X, [0, 1, 2, 3, 4], InputError),
    ("text", X, list("abcde"), DtypeError),
    ("NaN in X", np.full((5, 12), np.nan), [0, 1, 2, 3, 0], NonFiniteError),
    ("no samples", X[:0], [], ShapeError),
):
    add(
        f"samples: {label}",
        refusal,
        lambda a=samples, b=targets: prune(DENSE, 0.5, score="gradient", X=a, y=b),
    )
add(
    "samples: unknown loss",
    UnknownNameError,
    lambda: prune(DENSE, 0.5, score="gradient", X=X, y=[0] * 5, loss="l0"),
)

# -- schedules and growth --------------------------------------------------------------------------

for label, make, error in (
    ("ends before it starts", lambda: Periodic(0.5, 0.4), InputError),
    ("ends as it starts", lambda: Polynomial(0.5, 0.5), InputError),
    ("ends before it starts, in steps", lambda: Polynomial(10, 5, 1), InputError),
    ("ends before it starts, mixed", lambda: Polynomial(15, 0.5, 1), InputError),
    ("ends after the training", lambda: Polynomial(0, 10**30, 1), InputError),
    ("negative", lambda: Periodic(-1, 5, 1), InputError),
    ("every 0", lambda: Periodic(0, 5, 0), InputError),
    ("every -1", lambda: Periodic(0, 5, -1), InputError),
    ("every NaN", lambda: Periodic(0, 5, float("nan")), InputError),
    ("every longer than all", lambda: Polynomial(0, 5, 10**30), None),
    ("text", lambda: OneShot("now"), DtypeError),  # type: ignore[arg-type]
    ("part above 1", lambda: OneShot(1.5), InputError),
    ("a step too many", lambda: OneShot(9), InputError),
    ("the last step", lambda: OneShot(8), None),
    ("negative power", lambda: Polynomial(power=-1), InputError),
    ("never", Never, InputError),
    ("not a schedule", lambda: 0.5, DtypeError),
    ("by name", lambda: "one-shot", None),
    ("unknown", lambda: "one_shot", UnknownNameError),
    ("a class", lambda: Polynomial, DtypeError),
):
    add(
        f"schedule: {label}",
        error,
        lambda m=make: fit(DENSE, sparsifier=Sparsifier(0.5, schedule=m())),
    )
for label, grow, error in (
    ("fraction 0", lambda: SET(0), InputError),
    ("fraction 1", lambda: SET(1), InputError),
    ("fraction NaN", lambda: RigL(float("nan")), InputError),
    ("fraction text", lambda: RigL("a"), InputError),  # type: ignore[arg-type]
    ("no memory", lambda: RigL(memory=0), InputError),
    ("one byte of memory", lambda: RigL(memory=1), None),
    ("nearly everything", lambda: RigL(0.999, decay="constant"), None),
    ("unknown decay", lambda: SET(decay="up"), UnknownNameError),
    ("by name", lambda: "rigl", None),
    ("unknown", lambda: "RigL", UnknownNameError),
    ("a number", lambda: 0.3, DtypeError),
    ("a class", lambda: SET, DtypeError),
):
    add(
        f"growth: {label}",
        error,
        lambda g=grow: fit(SPARSE, sparsifier=Sparsifier(schedule=Periodic(), growth=g())),
    )
add(
    "growth: with a structure",
    InputError,
    lambda: Sparsifier(schedule=Periodic(), growth=SET(), structure="2:4"),
)
add("growth: a dense network", None, lambda: fit(DENSE, sparsifier="rigl"))
add(
    "growth: one entry in all",
    None,
    lambda: fit(Network([Linear(erdos_renyi(20, 12, density=1 / 240, rng=0))]), sparsifier="set"),
)
add("sparsifier: does not fit the network", ShapeError, lambda: fit(DENSE, sparsifier=NM57))
NM57 = Sparsifier(structure="5:7")
add("report: other shapes", ShapeError, lambda: pruning_report(DENSE, SPARSE))
add("report: no rounds", None, lambda: pruning_report(DENSE, prune(DENSE, 0.5), rounds=0))
add("report: text", DtypeError, lambda: pruning_report("a", DENSE))  # type: ignore[arg-type]
add("report: rounds NaN", InputError, lambda: pruning_report(DENSE, DENSE, rounds=float("nan")))  # type: ignore[arg-type]
