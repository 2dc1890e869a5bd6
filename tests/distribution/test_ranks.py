"""Training over two ranks of MPI; skipped without mpi4py and mpiexec."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import gbdnn
from gbdnn.distributed import MPIRanks, launched
from gbdnn.errors import MissingDependencyError

MPIEXEC = shutil.which("mpiexec")
PATIENT = {**os.environ, "MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}  # to busy machines
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or find_spec("mpi4py") is None,
    reason="mpi4py or mpiexec is not installed",
)

BEGIN = """
import os, signal, sys
import numpy as np
import gbdnn
from gbdnn.distributed import MPIRanks, predict
from gbdnn.topology import erdos_renyi
from gbdnn.training.model import Model

rng = np.random.default_rng(0)
X, y = rng.random((330, 40)), rng.integers(0, 6, 330)
X[:, 0] = y / 6
network = gbdnn.Network([
    gbdnn.Linear(erdos_renyi(50, 40, density=0.2, rng=0)), "relu",
    gbdnn.Linear(erdos_renyi(6, 50, density=0.5, rng=1)), "softmax",
]).astype(np.float64)
base = dict(epochs=2, batch_size=100, backend="dense", threads=1, rng=3)
"""

EQUAL = """
from dataclasses import replace
from gbdnn.pruning import Periodic, RigL, Sparsifier

def state(result):
    return {name: p.arrays() if hasattr(p, "arrays") else {"": p}
            for name, p in result.network.parameters.items()}

def sparsifier(growth):
    return Sparsifier(None, schedule=Periodic(0, 1.0, 2), growth=growth)

rows = [rng.random((int(n), 40)) for n in rng.integers(1, 7, 90)]
lstm = gbdnn.models.lstm([40, 8, 6], rows="last", density=0.5, rng=0).astype(np.float64)
cases = {
    "adam": (network, X, dict(optimizer="adam")),
    "clipped": (network, X, dict(clip_norm=0.1, optimizer="nesterov", learning_rate=0.05)),
    "rigl": (network, X, dict(sparsifier=sparsifier("rigl"))),
    "set": (network, X, dict(sparsifier=sparsifier("set"))),
    "movement": (network, X, dict(sparsifier="movement")),
    "one sample at the end": (network, X[:101], {}),
    "lstm": (lstm, rows, dict(batch_size=32, sparsifier=sparsifier("rigl"))),
}
with MPIRanks() as ranks:
    assert ranks.size == 2 and ranks.threads >= 1
    for name, (begin, samples, settings) in cases.items():
        trainer = gbdnn.Trainer(**(base | settings))
        data = samples, y[: len(samples)]
        held = X[:50] if begin is network else rows[:50], y[:50]
        asked = []
        both = replace(trainer, ranks=ranks, callbacks=[lambda event: asked.append(event.step)])
        found = [state(both.fit(begin, *data, validation=held)) for _ in range(2)]
        result = both.fit(begin, *data, validation=held)
        found.append(state(result))
        assert bool(asked) == (ranks.rank == 0)
        everywhere = ranks.comm.allgather(found)
        want, alone = everywhere[0][0], trainer.fit(begin, *data, validation=held)
        for other in sum(everywhere, []):  # bit for bit, each time and on both ranks
            for weight, parts in want.items():
                for part, array in parts.items():
                    assert array.tobytes() == other[weight][part].tobytes(), (name, weight, part)
        for weight, parts in state(alone).items():
            for part, array in parts.items():
                if array.dtype.kind == "f":
                    np.testing.assert_allclose(want[weight][part], array, rtol=1e-9, atol=1e-11)
                else:
                    np.testing.assert_array_equal(want[weight][part], array)
        for one, two in zip(alone.history.records, result.history.records, strict=True):
            for key in ("loss", "validation_loss", "validation_score", "nnz"):
                np.testing.assert_allclose(one[key], two[key], rtol=1e-10)
    stopping = gbdnn.Trainer(**base, ranks=ranks, callbacks=[lambda event: event.step == 3])
    assert stopping.fit(network, X, y).training.step == 3
    if ranks.rank == 0:
        print("equal")
with MPIRanks() as ranks:
    single = network.astype(np.float32)
    found = predict(single, X, executor="mpi", chunk=64)
    assert (found is None) == (ranks.rank > 0)
    if ranks.rank == 0:
        print(np.array_equal(found, single.predict(X)))
"""

FAILING = """
mode, folder = sys.argv[1:]
load, passes = Model._load, []

def troubled(self, *given):
    passes.append(1)
    if len(passes) == 7 and ranks.rank == 1:
        if mode == "error":
            raise MemoryError("no memory at rank 1")
        os.kill(os.getpid(), getattr(signal, mode))
    return load(self, *given)

Model._load = troubled
with MPIRanks() as ranks:
    if mode == "before" and ranks.rank == 1:
        raise ValueError("only here")
    if mode == "different":
        y[0] = ranks.rank
    every = 1 if mode == "SIGKILL" else None
    trainer = gbdnn.Trainer(**base | dict(epochs=4), ranks=ranks, checkpoint=folder,
                            checkpoint_every=every)
    try:
        result = trainer.fit(network, X, y)
        print("through", ranks.rank, result.training.step)
    except BaseException as error:
        print(f"rank {ranks.rank} {type(error).__name__}: {error}", flush=True)
        raise
"""


def run(tmp_path, text, *words, ranks=2):
    """Run a script under mpiexec; return its exit code and what it printed."""
    script = tmp_path / "script.py"
    script.write_text(text)
    command = [MPIEXEC, "-n", str(ranks), sys.executable, script, *words]
    return start(command, tmp_path)


def start(command, folder):
    done = subprocess.run(
        command, cwd=folder, env=PATIENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def steps_kept(folder):
    """Return the steps of the checkpoints, newest first."""
    names = sorted((path.name for path in Path(folder).glob("step-*")), reverse=True)
    return [int(name[5:17]) for name in names]


@needs_mpi
def test_two_ranks_do_what_one_process_does(tmp_path):
    code, text = run(tmp_path, BEGIN + EQUAL)
    assert code == 0, text
    assert text.split() == ["equal", "True"]


@needs_mpi
def test_an_error_at_one_rank_stops_all_and_leaves_the_state(tmp_path):
    code, text = run(tmp_path, BEGIN + FAILING, "error", "state")
    assert code
    assert "rank 1 MemoryError: no memory at rank 1" in text
    assert "rank 0 WorkerError: rank 1: expected a rank that goes on" in text
    assert steps_kept(tmp_path / "state")[0] == 6  # before the seventh step
    code, text = run(tmp_path, BEGIN + FAILING.replace(
        "result = trainer.fit(network, X, y)", "result = trainer.fit(network, X, y, resume=True)"
    ).replace("len(passes) == 7", "False"), "error", "state")  # fmt: skip
    assert code == 0, text
    assert sorted(text.splitlines()) == ["through 0 16", "through 1 16"]


@needs_mpi
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_to_one_rank_ends_all_after_the_same_step(tmp_path, name):
    code, text = run(tmp_path, BEGIN + FAILING, name, "state")
    assert code
    for rank in (0, 1):
        assert f"rank {rank} TrainingInterrupted" in text
    assert steps_kept(tmp_path / "state")[0] == 7


@needs_mpi
def test_a_killed_rank_ends_all_and_checkpoints_are_whole(tmp_path):
    code, _ = run(tmp_path, BEGIN + FAILING, "SIGKILL", "state")
    assert code
    kept = steps_kept(tmp_path / "state")
    assert kept
    assert 5 <= kept[0] <= 6
    newest = tmp_path / "state" / f"step-{kept[0]:012d}.safetensors"
    from gbdnn.files.tensors import read_tensors

    assert read_tensors(newest)[1]["step"] == kept[0]


@needs_mpi
@pytest.mark.parametrize(
    ("mode", "said"), [("before", "error: rank 1 of 2: only here"), ("different", "all ranks")]
)
def test_ranks_that_differ(tmp_path, mode, said):
    code, text = run(tmp_path, BEGIN + FAILING, mode, "state")
    assert code
    assert said in text


@needs_mpi
def test_the_command(tmp_path):
    words = ["train", "--out", "m.safetensors", "--hidden", "24", "--epochs", "2", "--backend",
             "dense", "--density", "0.3", "--json"]  # fmt: skip
    command = [sys.executable, "-m", "gbdnn.cli.main", *words]
    code, text = start([MPIEXEC, "-n", "2", *command], tmp_path)
    assert code == 0, text
    record = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
    two = gbdnn.load(tmp_path / "m.safetensors")
    code, text = start(command, tmp_path)
    alone = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
    for name, weight in gbdnn.load(tmp_path / "m.safetensors").weights.items():
        assert (weight.indices == two.weights[name].indices).all()  # RigL has grown the same
    assert abs(record["loss"] - alone["loss"]) < 1e-4 * alone["loss"]
    assert text.count("validation score") == 1


def test_without_mpi4py(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(MissingDependencyError, match="pip install 'gbdnn\\[mpi\\]'"):
        MPIRanks()


def test_a_launcher_is_noticed(monkeypatch):
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not launched()
    monkeypatch.setenv("PMI_SIZE", "1")
    assert not launched()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert launched()
