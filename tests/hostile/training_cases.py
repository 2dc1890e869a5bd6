"""Hostile cases of training: case name -> (function, expected class of gbdnn.errors or None)."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from gbdnn import Linear, Network, as_csr
from gbdnn.backends import get_backend
from gbdnn.errors import (
    DataUnavailableError,
    DivergenceError,
    DtypeError,
    FileFormatError,
    InputError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
    SparseFormatError,
    UnknownNameError,
)
from gbdnn.topology import erdos_renyi
from gbdnn.training import SGD, AdamW, EarlyStopping, StepDecay, Trainer, WarmUp

BACKENDS = ["dense", "fused", "graphblas", "graphblas-reference"]
for name in BACKENDS:
    get_backend(name)

NAN, INF = float("nan"), float("inf")
rng = np.random.default_rng(0)
X = rng.random((30, 6)).astype(np.float32)
Y = np.arange(30) % 3
WEIGHTS = [erdos_renyi(8, 6, density=0.5, rng=0), erdos_renyi(3, 8, density=0.5, rng=1)]
NETWORK = Network([Linear(WEIGHTS[0]), "relu", Linear(WEIGHTS[1]), "softmax"])

CASES: dict[str, tuple[Callable[[], Any], type[Exception] | None]] = {}


def trainer(**settings: Any) -> Trainer:
    """Return a Trainer of a few steps."""
    return Trainer(**{"epochs": 2, "batch_size": 10, "threads": 1} | settings)


def fit(
    x: Any = X, y: Any = Y, *, network: Network = NETWORK, weight: Any = None,
    validation: Any = None, resume: bool = False, **settings: Any,
) -> Any:  # fmt: skip
    """Train; the caller's arrays must be as before."""
    before = X.tobytes(), Y.tobytes()
    try:
        return trainer(**settings).fit(
            network, x, y, sample_weight=weight, validation=validation, resume=resume
        )
    finally:
        assert before == (X.tobytes(), Y.tobytes())


def add(label: str, error: type[Exception] | None, *args: Any, **settings: Any) -> None:
    """Add a case: `fit` with these arguments."""
    assert label not in CASES
    CASES[label] = (lambda: fit(*args, **settings), error)


for value in (0, 0.0, -1e-3, NAN, INF, -INF, "0.1", None, [0.1], True, 1j):
    add(f"learning rate {value!r}", InputError, learning_rate=value)
for value in (0, -1, 31, 10**30, 2.5, NAN, None, "8", True):
    add(f"batch size {value!r}", InputError, batch_size=value)
for value in (0, -3, 1.5, NAN, "2"):
    add(f"epochs {value!r}", InputError, epochs=value)
for value in (-1, NAN, 0.5, "seed", None, [1, 2]):
    add(f"rng {value!r}", DtypeError, rng=value)
for value in (0, -1, NAN, INF):
    add(f"clip norm {value!r}", InputError, clip_norm=value)
for name in ("optimizer", "schedule", "sparsifier", "loss", "backend"):
    add(f"unknown {name}", UnknownNameError, **{name: "no such"})
CASES["decay overshoots"] = (
    lambda: trainer(optimizer=AdamW(weight_decay=100.0), learning_rate=0.1), InputError
)  # fmt: skip
CASES["momentum 1"] = (lambda: SGD(momentum=1), InputError)
CASES["milestones behind the end"] = (lambda: StepDecay([0.5, 1.5]), InputError)
CASES["warm-up longer than all"] = (lambda: WarmUp(share=2), InputError)
CASES["patience NaN"] = (lambda: EarlyStopping(patience=NAN), InputError)
CASES["patience text"] = (lambda: EarlyStopping(patience="2"), InputError)
add("early stopping without validation", InputError, early_stopping=EarlyStopping())
add("schedule of NaN", InputError, schedule=lambda step, total: NAN)
add("schedule of inf", InputError, schedule=lambda step, total: INF)
add("huge epochs, stopped", None, epochs=10**30, schedule="cosine",
    sparsifier="set", callbacks=[lambda event: event.step == 5])  # fmt: skip
add("huge seed", None, rng=10**40)

# -- targets, weights, samples ---------------------------------------------------------------------

for label, value, error in [
    ("short", Y[:29], ShapeError),
    ("long", np.append(Y, 0), ShapeError),
    ("empty", [], ShapeError),
    ("two columns", np.stack([Y, Y], 1), ShapeError),
    ("NaN", np.where(Y == 0, NAN, Y), NonFiniteError),
    ("inf", np.where(Y == 0, INF, Y), NonFiniteError),
    ("text", np.array(["a", "b", "c"])[Y], DtypeError),
    ("objects", np.array([None, 1, "x"], object)[Y], DtypeError),
    ("dates", np.array(["2020-01-01"] * 30, "M8[D]"), DtypeError),
    ("ragged", [[1], [2, 3]] * 15, DtypeError),
    ("negative", Y - 1, InputError),
    ("unseen class", Y + 1, InputError),
    ("fractions", Y + 0.5, InputError),
    ("above int64", Y.astype(np.uint64) + 2**63, InputError),
    ("1e300", Y * 1e300, InputError),
    ("sparse", sp.csr_array(Y[:, None]), DtypeError),
    ("one class", np.ones(30, int), None),
    ("bools", Y > 1, None),
]:
    add(f"y: {label}", error, X, value)
for label, value, error in [
    ("short", np.ones(29), ShapeError),
    ("scalar", 1.0, ShapeError),
    ("negative", -np.ones(30), InputError),
    ("one negative", np.where(np.arange(30) == 3, -1e-9, 1), InputError),
    ("zeros", np.zeros(30), InputError),
    ("NaN", np.full(30, NAN), NonFiniteError),
    ("inf", np.full(30, INF), NonFiniteError),
    ("sum overflows", np.full(30, 1e308), NonFiniteError),
    ("text", ["a"] * 30, DtypeError),
    ("one sample", (np.arange(30) == 3).astype(float), None),
    ("smallest number", np.full(30, 5e-324), None),
    ("1e-300 to 1e300", np.logspace(-300, 300, 30), None),
]:
    add(f"weights: {label}", error, weight=value)
for label, value, error in [
    ("unknown word", "even", UnknownNameError),
    ("list", [1, 1, 1], DtypeError),
    ("unknown class", {3: 1.0}, InputError),
    ("unhashable", {(0, 1): 1.0}, InputError),
    ("negative", {0: -1.0}, InputError),
    ("zeros", {0: 0, 1: 0, 2: 0}, InputError),
    ("overflow", {0: 1e308, 1: 1e308}, NonFiniteError),
]:
    add(f"class weight: {label}", error, class_weight=value)


def damaged(**attributes: Any) -> sp.csr_array:
    """Return X as a CSR with attributes replaced behind scipy's back."""
    made = sp.csr_array(X)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


for label, value, error in [
    ("fewer features", X[:, :5], ShapeError),
    ("one dimension", X[0], ShapeError),
    ("three dimensions", X[None], ShapeError),
    ("no samples", X[:0], ShapeError),
    ("NaN", np.where(X > 0.99, NAN, X), NonFiniteError),
    ("1e300", X.astype(np.float64) * 1e300, NonFiniteError),
    ("complex", X * 1j, DtypeError),
    ("text", X.astype(str), DtypeError),
    ("column out of range", damaged(indices=np.full(180, 1 << 30, np.int32)), SparseFormatError),
    ("negative columns", damaged(indices=np.full(180, -5, np.int32)), SparseFormatError),
    ("short data", damaged(data=np.ones(3, np.float32)), SparseFormatError),
    ("falling pointers", damaged(indptr=np.arange(31, dtype=np.int32)[::-1]), SparseFormatError),
    ("sparse NaN", sp.csr_array(np.where(X > 0.99, NAN, X)), NonFiniteError),
    ("read-only, Fortran", np.asfortranarray(X), None),
    ("every other column", np.repeat(X, 2, axis=1)[:, ::2], None),
    ("bools", X > 0.5, None),
    ("half precision", X.astype(np.float16), None),
    ("all zeros", np.zeros_like(X), None),
    ("empty rows", sp.csr_array((30, 6)), None),
]:
    add(f"X: {label}", error, value, Y[: value.shape[0]] if value.shape[0] == 0 else Y)

for label, value, error in [
    ("not a tuple", X, DtypeError),
    ("one part", (X,), DtypeError),
    ("four parts", (X, Y, Y, Y), DtypeError),
    ("fewer features", (X[:, :5], Y), ShapeError),
    ("fewer targets", (X, Y[:5]), ShapeError),
    ("unseen class", (X, Y + 5), InputError),
    ("zero weights", (X, Y, 0 * Y), InputError),
    ("none", (X[:0], []), ShapeError),
]:
    add(f"validation: {label}", error, validation=value)


def fail() -> Any:
    """Give one mini-batch, then one of another shape."""
    yield X, Y
    yield X[:, :3], Y


for label, value, error, more in [
    ("empty", [], InputError, {}),
    ("exhausted", iter([]), InputError, {"epochs": 1}),
    ("generator, two epochs", ((X, Y) for _ in range(2)), InputError, {}),
    ("of arrays", [X, X], DtypeError, {}),
    ("of numbers", range(3), DtypeError, {}),
    ("of None", [None], DtypeError, {}),
    ("text", "abc", DtypeError, {}),
    ("a dict", {"X": X}, DtypeError, {}),
    ("bad in the middle", fail(), ShapeError, {"epochs": 1}),
    ("without weight", [(X, Y, 0 * Y)], None, {}),
    ("cosine, no length", fail(), InputError, {"epochs": 1, "schedule": "cosine"}),
    ("balanced", [(X, Y)], InputError, {"class_weight": "balanced"}),
]:
    add(f"iterable: {label}", error, value, None, **more)

# -- networks --------------------------------------------------------------------------------------


def sparse(rows: int, columns: int, nnz: int) -> Any:
    """Return a matrix with some entries at random places."""
    places = np.random.default_rng(1).choice(rows * columns, nnz, replace=False)
    row, column = np.divmod(places, columns)
    return as_csr(sp.coo_array((np.ones(nnz), (row, column)), shape=(rows, columns)))


def large(backend: str) -> Any:
    """Train 10 M x 10 M places with 1000 entries."""
    side = 300_000
    rows = np.arange(1000) * 7
    wide = as_csr(sp.coo_array((np.ones(1000), (rows, rows)), shape=(side, side)))
    network = Network([Linear(wide), "relu", Linear(sparse(2, side, 50))])
    x = sp.random_array((8, side), density=1e-4, rng=0, dtype=np.float32)
    return fit(x, [0, 1] * 4, network=network, batch_size=8, epochs=1, backend=backend)


def rewired(backend: str) -> Any:
    """Change a pattern between gradients and update, behind the Trainer's back."""

    def change(event: Any) -> None:
        if event.step == 2:
            model = event.training.model
            parameter = model.parameters["layers.0.weight"]
            parameter.prepare(erdos_renyi(8, 6, density=0.2, rng=5), model.backend)
            model.bind(parameter)  # but not the optimizer's vectors

    return fit(callbacks=[change], backend=backend)


def far(backend: str) -> Any:
    """Targets whose gradients are too large to be subtracted."""
    network = Network([Linear(WEIGHTS[0])])
    return fit(
        X, np.full((30, 8), 1e38), network=network, loss="mse", learning_rate=1.0, backend=backend
    )


for backend in BACKENDS:
    add(f"{backend}: no entries", None, network=Network(
        [Linear(sp.csr_array((8, 6))), "relu", Linear(sp.csr_array((3, 8)))]
    ), backend=backend)  # fmt: skip
    add(f"{backend}: one entry", None, network=Network(
        [Linear(sparse(8, 6, 1)), "tanh", Linear(sparse(3, 8, 1))]
    ), backend=backend)  # fmt: skip
    add(f"{backend}: one of everything", None, X[:1, :1], [0], network=Network(
        [Linear([[1.0]]), "relu", Linear([[1.0], [1.0]])]
    ), batch_size=1, backend=backend)  # fmt: skip
    add(f"{backend}: diverges", DivergenceError, learning_rate=1e35, optimizer="sgd",
        backend=backend)  # fmt: skip
    CASES[f"{backend}: large"] = (
        lambda backend=backend: large(backend), MemoryBudgetError if backend == "dense" else None
    )  # fmt: skip
    CASES[f"{backend}: pattern changed behind the back"] = (
        lambda backend=backend: rewired(backend), ShapeError
    )  # fmt: skip
    CASES[f"{backend}: far targets"] = (lambda backend=backend: far(backend), DivergenceError)

add("network: not one", DtypeError, network=[1, 2])
add("network: sigmoid with cross-entropy", InputError,
    network=Network([*NETWORK.layers[:-1], "sigmoid"]))  # fmt: skip
add(
    "network: one output with cross-entropy", InputError, network=Network([Linear(np.ones((1, 6)))])
)

# -- checkpoints -----------------------------------------------------------------------------------


def folder() -> Path:
    """Return a new empty folder."""
    return Path(tempfile.mkdtemp())


def impossible(make: Callable[[Path], Any]) -> Callable[[], Any]:
    """Return a case that uses what `make` returns as the folder."""
    return lambda: fit(checkpoint=make(folder()), resume=True)


def a_file(path: Path) -> Path:
    """Return the name of a file."""
    (path / "file").write_text("mine")
    return path / "file"


def linked(path: Path, target: str) -> Path:
    """Return a folder whose newest checkpoint is a link to a device."""
    os.symlink(target, path / "step-000000000009.safetensors")
    return path


def piped(path: Path) -> Path:
    """Return a folder whose newest checkpoint is a pipe without a writer."""
    os.mkfifo(path / "step-000000000009.safetensors")
    return path


def garbage(path: Path) -> Path:
    """Return a folder with a checkpoint of noise that claims a huge header."""
    (path / "step-000000000009.safetensors").write_bytes(b"\xff" * 7 + b"\x00" + os.urandom(999))
    return path


for label, make, error in [
    ("a file", a_file, DataUnavailableError),
    ("below a file", lambda path: a_file(path) / "x", DataUnavailableError),
    ("zero byte", lambda path: "a\0b", DataUnavailableError),
    ("long name", lambda path: path / ("x" * 5000), DataUnavailableError),
    ("in /proc", lambda path: "/proc/no/such", DataUnavailableError),
    ("link to zeros", lambda path: linked(path, "/dev/zero"), FileFormatError),
    ("link to nothing", lambda path: linked(path, "/no/such"), FileFormatError),
    ("link to itself", lambda path: linked(path, "step-000000000009.safetensors"), FileFormatError),
    ("pipe", piped, FileFormatError),
    ("noise", garbage, FileFormatError),
]:
    CASES[f"checkpoint: {label}"] = (impossible(make), error)


def full_disk() -> Any:
    """Let no file grow above 2 kB in the second epoch: a real error of write()."""
    place = folder()

    def fill(event: Any) -> None:
        if event.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = fit(checkpoint=place, callbacks=[fill])
    assert result.training.step == 6
    assert any("training goes on" in str(warning.message) for warning in caught)
    assert [path.name for path in place.iterdir()] == ["step-000000000003.safetensors"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = fit(checkpoint=place, resume=True)
    assert again.history["loss"] == result.history["loss"]


CASES["checkpoint: full disk"] = (full_disk, None)


if Path(sys.argv[0]).name == "run_case.py":  # load compiled code once, before the cases fork
    for name in BACKENDS:
        fit(backend=name, optimizer="momentum", checkpoint=folder())
