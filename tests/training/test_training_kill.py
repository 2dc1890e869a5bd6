"""kill -9 and Ctrl-C at random moments: in the end, the bits of a training left alone."""

from __future__ import annotations

import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Trains with everything that has a state; kills itself at the step, or in the middle of the
# writing of the file, that it is told; at the end writes all bits.
SCRIPT = """
import os, pickle, signal, sys
import numpy as np
from trainings import Resuming, classifier, slots_of, state_of, without_time
from gbdnn.pruning import Periodic, RigL, Sparsifier
from gbdnn.training import EarlyStopping, Trainer

folder, backend, out, where, number = sys.argv[1:6]
number = int(number)
events = {"step": 0, "write": 0, "replace": 0}

def die(kind):
    events[kind] += 1
    if kind == where and events[kind] == number:
        os.kill(os.getpid(), signal.SIGKILL)

fsync, replace = os.fsync, os.replace
os.fsync = lambda descriptor: (die("write"), fsync(descriptor))
os.replace = lambda *names: (die("replace"), replace(*names))

rng = np.random.default_rng(0)
X, y = rng.random((400, 64)), rng.integers(0, 10, 400)
trainer = Resuming(
    epochs=6, batch_size=48, learning_rate=5e-3, schedule="cosine", clip_norm=1.0,
    sparsifier=Sparsifier(0.8, score="movement", schedule=Periodic(0, 1.0, 3), growth=RigL()),
    early_stopping=EarlyStopping(monitor="loss", patience=3),
    callbacks=[lambda event: die("step") if event.kind == "step" else None],
    checkpoint=None if folder == "none" else folder,
    checkpoint_every=None if folder == "none" else 4,
    backend=backend, threads=1, rng=7,
)
result = trainer.fit(classifier(dropout=0.3, hidden=48), X, y, validation=(X[:90], y[:90]))
training = result.training
slots = slots_of(training)
found = (state_of(result.network), state_of(training.network()), slots, without_time(result))
open(out, "wb").write(pickle.dumps((training.step, found)))
"""
TESTS = Path(__file__).parent.parent


def start(tmp_path, folder, backend="dense", where="never", number=0):
    out = tmp_path / f"{folder}.pickle"
    place = "none" if folder == "none" else tmp_path / folder
    arguments = [SCRIPT, place, backend, out, where, number]
    return subprocess.Popen(
        [sys.executable, "-c", *map(str, arguments)], cwd=TESTS, stderr=subprocess.PIPE
    ), out


def finish(started, killed=False):
    process, out = started
    error = process.communicate(timeout=120)[1].decode()
    assert process.returncode == (-9 if killed else 0), error
    return None if killed else pickle.loads(out.read_bytes())


def test_killed_at_random_steps_and_in_the_middle_of_writing(tmp_path):
    chosen = random.Random(11)
    kills = [
        ("step", chosen.randint(1, 12)),
        ("write", 2 * chosen.randint(0, 2) + 1),  # even ones are of the folder
        ("step", chosen.randint(4, 20)),
        ("replace", chosen.randint(1, 3)),
    ]
    for where, number in kills:
        finish(start(tmp_path, "killed", "dense", where, number), killed=True)
        if where in ("write", "replace"):
            assert list((tmp_path / "killed").glob(".*.tmp"))
    last = finish(start(tmp_path, "killed"))
    assert last == finish(start(tmp_path, "none"))
    assert not list((tmp_path / "killed").glob(".*"))


def end_at_random_moments(tmp_path, backend, how, times):
    """Start, wait until just before or some time after the first file, and send a signal."""
    chosen = random.Random(f"{backend} {how}")
    ended = []
    for _ in range(times):
        process, _out = start(tmp_path, "ended", backend)
        wait = time.monotonic() + chosen.uniform(0.2, 2.5)
        while time.monotonic() < wait and not list((tmp_path / "ended").glob("step-*")):
            time.sleep(0.005)
        time.sleep(chosen.uniform(0, 0.3))
        process.send_signal(how)
        error = process.communicate(timeout=60)[1].decode()
        # numpy's answer to Ctrl-C while it is being imported is an ImportError
        words = ("KeyboardInterrupt", "Importing the numpy C-extensions failed")
        stopped = process.returncode == -how or any(word in error for word in words)
        assert stopped or process.returncode == 0, error
        ended.append(stopped)
    assert any(ended)
    whole = finish(start(tmp_path, "none", backend))
    assert finish(start(tmp_path, "ended", backend)) == whole


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dense", "fused", "graphblas"])
def test_killed_at_random_moments(backend, tmp_path):
    """From outside: in a step, while reading, while writing, before anything."""
    end_at_random_moments(tmp_path, backend, signal.SIGKILL, 8)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dense", "fused", "graphblas"])
def test_interrupted_at_random_moments(backend, tmp_path):
    """With Ctrl-C, also in the middle of compiled code."""
    end_at_random_moments(tmp_path, backend, signal.SIGINT, 8)
