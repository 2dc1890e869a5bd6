"""Hostile cases of layers over time: name -> (function, expected class of gbdnn.errors or None)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gbdnn import (
    BLSTM,
    GRU,
    LSTM,
    Embedding,
    LastStep,
    Linear,
    MeanOverTime,
    Network,
    TimeReduction,
    quantize,
)
from gbdnn.backends import get_backend
from gbdnn.errors import (
    DtypeError,
    InputError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
)
from gbdnn.topology import erdos_renyi
from gbdnn.training import Trainer

for backend in ("dense", "fused"):
    get_backend(backend)

NAN, INF = float("nan"), float("inf")
F4 = np.float32
rng = np.random.default_rng(0)


def sparse(rows: int, columns: int, density: float = 0.5) -> Any:
    return erdos_renyi(rows, columns, density=density, rng=rng)


CELLS = {
    "lstm": lambda: LSTM(sparse(32, 4), sparse(32, 8), 0.1),
    "lstmp": lambda: LSTM(sparse(32, 4), sparse(32, 5), 0.1, sparse(5, 8)),
    "gru": lambda: GRU(sparse(24, 4), sparse(24, 8), 0.1, 0.1),
    "blstm": lambda: BLSTM(*(LSTM(sparse(32, 4), sparse(32, 8)) for _ in range(2))),
}
NETWORKS = {name: Network([make()]) for name, make in CELLS.items()}
NETWORKS["reduce"] = Network(
    [CELLS["lstm"](), TimeReduction(8, 4), LSTM(sparse(32, 32), sparse(32, 8))]
)
X = rng.standard_normal((3, 6, 4)).astype(F4)
NETWORKS |= {
    "int8": quantize(NETWORKS["lstm"], "int8", X),
    "gru, int8": quantize(NETWORKS["gru"], "int8", X),
}
STREAMS = [name for name in NETWORKS if name != "blstm"]
for net in NETWORKS.values():
    for backend in ("dense", "fused"):
        net.predict(X, backend=backend)  # compiled before the limits apply

CASES: dict[str, tuple[Callable[[], Any], type[Exception] | None]] = {}


def predicted(name: str, x: Any, lengths: Any = None, backend: str = "fused") -> Any:
    """Predict; what comes is finite, and a sequence's own steps are as without the others."""
    out = NETWORKS[name].predict(x, lengths=lengths, backend=backend)
    assert all(np.isfinite(each).all() for each in out)
    return out


def marked(value: float, sample: int = 1, step: int = -1) -> Any:
    """Return samples with one wrong number in a late step."""
    x = X.copy()
    x[sample, step, 2] = value
    return x


def behind_the_end() -> None:
    """Whatever stands behind an end does not matter, and sequences are as they are alone."""
    for name in NETWORKS:
        out = predicted(name, marked(NAN, 1), [6, 5, 2])
        alone = predicted(name, X[1:2, :5])
        own, last = (-(-n // NETWORKS[name].time_factor) for n in (5, 2))
        np.testing.assert_allclose(out[1, :own], alone[0], atol=1e-6)
        assert not out[1, own:].any()
        assert not out[2, last:].any()


sequences: dict[str, tuple[Any, Any, Any]] = {
    "no sequences": ([], None, ShapeError),
    "one empty sequence": ([X[0, :0]], None, InputError),
    "an empty one among others": ([X[0], X[1, :0], X[2]], None, InputError),
    "no time steps": (X[:, :0], None, InputError),
    "length 0": (X, [6, 0, 6], InputError),
    "length 0 of all": (X, [0, 0, 0], InputError),
    "length beyond the padding": (X, [6, 7, 6], InputError),
    "length of 2^62": (X, [6, 2**62, 6], InputError),
    "length -1": (X, [6, -1, 6], InputError),
    "length 2.5": (X, [6, 2.5, 6], InputError),
    "length NaN": (X, [6, NAN, 6], InputError),
    "lengths as text": (X, ["6", "6", "6"], DtypeError),
    "too few lengths": (X, [6, 6], ShapeError),
    "lengths in a square": (X, [[6], [6], [6]], ShapeError),
    "lengths of single samples": (X[0], [6], ShapeError),
    "NaN in the last step": (marked(NAN), None, NonFiniteError),
    "infinity in the last step": (marked(-INF), None, NonFiniteError),
    "NaN within the length": (marked(NAN, 1, 3), [6, 4, 6], NonFiniteError),
    "NaN in a list": ([X[0], marked(NAN)[1]], None, NonFiniteError),
    "too few features": (X[..., :3], None, ShapeError),
    "lists of different features": ([X[0], X[1, :, :3]], None, ShapeError),
    "four dimensions": (X[None], None, ShapeError),
    "text": (X.astype(str), None, DtypeError),
    "objects": (X.astype(object), None, DtypeError),
    "all zero": (X * 0, None, None),
    "1e30": (X * F4(1e30), None, None),
    "1e-42": (X * F4(1e-42), None, None),
    "read-only": (np.broadcast_to(X[:1, :1], X.shape), None, None),
    "the other order": (np.asfortranarray(X), None, None),
}  # fmt: skip
for name in NETWORKS:
    CASES |= {f"{name}: {case}": (lambda n=name, x=x, le=le: predicted(n, x, le), error)
              for case, (x, le, error) in sequences.items()}  # fmt: skip
CASES["dense: NaN in the last step"] = (
    lambda: predicted("lstm", marked(NAN), backend="dense"), NonFiniteError,
)  # fmt: skip
CASES["NaN behind the end"] = (behind_the_end, None)


def stepped(name: str, change: Callable[[Any], Any], x: Any = X[:, 0]) -> Any:
    """Go on from a changed state; one that is as it should be gives finite values."""
    _, state = NETWORKS[name].step(X[:, 0])
    y, _ = NETWORKS[name].step(x, change(state))
    assert np.isfinite(y).all()


def values(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a change of all arrays of a state."""
    return lambda state: replace(state, values={n: change(v) for n, v in state.values.items()})


states: dict[str, tuple[Callable[[Any], Any], type[Exception] | None]] = {
    "as it was": (lambda state: state, None),
    "none": (lambda state: None, None),
    "of fewer sequences": (lambda state: NETWORKS["lstm"].step(X[:2, 0])[1], ShapeError),
    "arrays of fewer sequences": (values(lambda v: v[:, :2]), ShapeError),
    "arrays of more sequences": (values(lambda v: np.tile(v, 2)), ShapeError),
    "arrays of fewer cells": (values(lambda v: v[:-1]), ShapeError),
    "vectors": (values(lambda v: v[0]), ShapeError),
    "float64": (values(lambda v: v.astype(np.float64)), DtypeError),
    "whole numbers": (values(lambda v: v.astype(np.int32)), DtypeError),
    "objects": (values(lambda v: v.astype(object)), DtypeError),
    "lists": (values(lambda v: v.tolist()), DtypeError),
    "NaN": (values(lambda v: v * F4(NAN)), NonFiniteError),
    "a dict": (lambda state: state.values, DtypeError),
    "text": (lambda state: "h", DtypeError),
    "of another network": (lambda state: replace(state, values={(7, 0, "h"): X[0]}), InputError),
    "in the other order": (values(np.asfortranarray), None),
}  # fmt: skip
for name in STREAMS:
    CASES |= {f"{name}, state {case}": (lambda n=name, c=change: stepped(n, c), error)
              for case, (change, error) in states.items()}  # fmt: skip
CASES |= {
    "step: a sequence": (lambda: NETWORKS["lstm"].step(X), ShapeError),
    "step: NaN": (lambda: NETWORKS["lstm"].step(X[:, 0] * F4(NAN)), NonFiniteError),
    "step: both directions": (lambda: NETWORKS["blstm"].step(X[:, 0]), InputError),
}


def ones(*shape: int) -> Any:
    return np.ones(shape, F4)


CASES |= {
    "gates of 30 rows": (lambda: LSTM(ones(30, 4), ones(30, 8)), ShapeError),
    "gates of 3 x 8 rows": (lambda: LSTM(ones(24, 4), ones(24, 8)), ShapeError),
    "no rows": (lambda: LSTM(ones(0, 4), ones(0, 0)), ShapeError),
    "no columns": (lambda: LSTM(ones(32, 0), ones(32, 8)), ShapeError),
    "recurrent of fewer rows": (lambda: LSTM(ones(32, 4), ones(24, 8)), ShapeError),
    "recurrent of fewer columns": (lambda: LSTM(ones(32, 4), ones(32, 7)), ShapeError),
    "recurrent transposed": (lambda: LSTM(ones(32, 4), ones(8, 32)), ShapeError),
    "recurrent is a vector": (lambda: LSTM(ones(32, 4), ones(32)), ShapeError),
    "recurrent is None": (lambda: LSTM(ones(32, 4), None), DtypeError),
    "bias of one gate": (lambda: LSTM(ones(32, 4), ones(32, 8), ones(8)), ShapeError),
    "bias NaN": (lambda: LSTM(ones(32, 4), ones(32, 8), NAN), NonFiniteError),
    "weight NaN": (lambda: LSTM(ones(32, 4) * NAN, ones(32, 8)), NonFiniteError),
    "projection of more columns": (
        lambda: LSTM(ones(32, 4), ones(32, 5), 0.0, ones(5, 9)), ShapeError),
    "projection of fewer rows": (
        lambda: LSTM(ones(32, 4), ones(32, 5), 0.0, ones(4, 8)), ShapeError),
    "projection transposed": (lambda: LSTM(ones(32, 4), ones(32, 5), 0.0, ones(8, 5)), ShapeError),
    "projection of nothing": (lambda: LSTM(ones(32, 4), ones(32, 5), 0.0, ones(0, 8)), ShapeError),
    "gru of 4 x 8 rows": (lambda: GRU(ones(32, 4), ones(32, 8)), ShapeError),
    "gru, inner bias of all gates": (
        lambda: GRU(ones(24, 4), ones(24, 8), 0.0, ones(24)), ShapeError),
    "blstm of one": (lambda: BLSTM(CELLS["lstm"](), None), DtypeError),
    "parameters of nothing": (lambda: LSTM.of({}, {}), InputError),
    "parameters with a stranger": (
        lambda: BLSTM.of({"weight": ones(32, 4)}, {}), InputError),
    "time reduced by 0": (lambda: TimeReduction(8, 0), InputError),
    "time reduced by 10**9": (lambda: TimeReduction(8, 10**9), InputError),
    "time reduced by NaN": (lambda: TimeReduction(8, NAN), InputError),
    "time reduced by a text": (lambda: TimeReduction(8, "2"), InputError),
    "time reduced of -1 features": (lambda: TimeReduction(-1, 2), InputError),
    "time reduced of other features": (
        lambda: Network([CELLS["lstm"](), TimeReduction(9, 2)]), ShapeError),
    "time reduced alone": (lambda: Network([TimeReduction(8, 2)]), InputError),
    "heads alone": (lambda: Network([LastStep()]), InputError),
    "a layer behind a head": (
        lambda: Network([CELLS["lstm"](), LastStep(), LSTM(sparse(32, 8), sparse(32, 8))]),
        InputError),
    "embedding of -1": (lambda: Network([Embedding(sparse(4, 6))]).predict(ones(1, 1) * -1),
                        InputError),
}  # fmt: skip

LONG = 1_000_000


def long(name: str) -> None:
    """What comes first does not depend on what follows."""
    x = np.tile(X[0], (LONG // 6 + 1, 1))[None, :LONG]
    out = NETWORKS[name].predict(x)
    assert out.shape == (1, LONG // NETWORKS[name].time_factor, NETWORKS[name].out_features)
    before = NETWORKS[name].predict(x[:, :776])
    np.testing.assert_array_equal(out[:, : before.shape[1]], before)
    assert np.isfinite(out).all()


def too_long(head: Any) -> None:
    """All time steps at once would be 33 GB."""
    many = LSTM(sparse(4096, 4, 0.01), sparse(4096, 1024, 0.01))
    net = Network([many, head, Linear(ones(2, 1024))])
    net.predict(np.broadcast_to(X[:1, :1], (2, LONG, 4)))


for name in ("lstm", "gru", "int8", "reduce"):
    CASES[f"{name}: a million time steps"] = (lambda n=name: long(n), None)
CASES |= {
    "last of a million steps, too many cells": (lambda: too_long(LastStep()), MemoryBudgetError),
    "mean of a million steps, too many cells": (
        lambda: too_long(MeanOverTime()), MemoryBudgetError),
    "a result that is too large": (
        lambda: Network([LSTM(sparse(4096, 4, 0.01), sparse(4096, 1024, 0.01))]).predict(
            np.broadcast_to(X[:1, :1], (2, LONG, 4))), MemoryBudgetError),
}  # fmt: skip


def trained(x: Any, y: Any, name: str = "lstm", **settings: Any) -> None:
    """Train; parameters stay finite."""
    net = Network([*NETWORKS[name].layers, Linear(sparse(3, NETWORKS[name].out_features))])
    made = Trainer(epochs=1, batch_size=2, threads=1, loss="mse", **settings).fit(net, x, y)
    assert all(np.isfinite(w.entries).all() for w in made.network.weights.values())


TARGETS = [ones(6, 3)] * 3
for name in ("lstm", "lstmp", "gru", "blstm"):
    CASES |= {
        f"trained {name}": (lambda n=name: trained(list(X), TARGETS, n), None),
        f"trained {name}, NaN in the last step": (
            lambda n=name: trained(list(marked(NAN)), TARGETS, n), NonFiniteError),
        f"trained {name}, an empty sequence": (
            lambda n=name: trained([X[0], X[1, :0]], TARGETS[:2], n), InputError),
        f"trained {name}, targets of another length": (
            lambda n=name: trained(list(X), [ones(5, 3)] * 3, n), ShapeError),
        f"trained {name}, values of 1e15": (
            lambda n=name: trained(list(X * F4(1e15)), TARGETS, n), None),
        f"trained {name}, h rounded": (
            lambda n=name: trained(list(X), TARGETS, n, quantization="fasoli2022"), None),
    }  # fmt: skip
