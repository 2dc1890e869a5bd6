"""Ctrl-C: between steps only, with a checkpoint, and twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from trainings import Resuming, assert_same, classifier, digits, state_of

from gbdnn.errors import TrainingInterrupted
from gbdnn.files import tensors
from gbdnn.pruning import SET, Periodic, Sparsifier
from gbdnn.training import Adam
from gbdnn.training.interrupts import uninterrupted


def press():
    """Press Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


@dataclass(frozen=True)
class Impatient(Adam):
    """Adam during whose update of one parameter, at one step, Ctrl-C is pressed."""

    at: int = 0

    def update(self, value, grad, state, **how):
        if self.at == how["step"]:
            before = value.copy()
            value += 1  # half done
            press()
            value[:] = before
        super().update(value, grad, state, **how)


def trainer(**settings):
    rewiring = Sparsifier(schedule=Periodic(begin=0, end=1.0, every=3), growth=SET())
    defaults = {"epochs": 3, "batch_size": 32, "learning_rate": 3e-3, "backend": "dense"}
    return Resuming(**defaults | {"threads": 1, "sparsifier": rewiring} | settings)


def samples():
    X, y = digits()
    return X[:150], y[:150]


def test_in_the_middle_of_an_update():
    X, y = samples()
    with pytest.raises(TrainingInterrupted) as caught:
        trainer(optimizer=Impatient(at=8)).fit(classifier(dropout=0.2), X, y)
    assert isinstance(caught.value, KeyboardInterrupt)
    result = caught.value.result
    assert (result.stopped, result.training.step) == ("interrupted", 8)
    assert len(result.history) == 1
    on = trainer(optimizer=Impatient(at=8)).resume(result.training, X, y)
    assert_same(on, trainer().fit(classifier(dropout=0.2), X, y))


@pytest.mark.parametrize("place", ["forward", "backward", "pattern", "validation", "callback"])
def test_anywhere(place, monkeypatch, tmp_path):
    """The checkpoint goes on as if nothing had happened, wherever Ctrl-C came."""
    from gbdnn.backends.dense import DenseBackend
    from gbdnn.training.model import Model

    owner, name = {
        "forward": (DenseBackend, "affine"),
        "backward": (DenseBackend, "weight_grad"),
        "pattern": (Sparsifier, "update"),
        "validation": (Model, "measure"),
    }.get(place, (None, ""))
    left = [12 if place in ("forward", "backward") else 7 if place == "pattern" else 2]

    def count(*_):
        left[0] -= 1
        if left[0] == 0:
            press()

    if owner is not None:
        original = getattr(owner, name)

        def wrapped(self, *args, **kwargs):
            found = original(self, *args, **kwargs)
            count()
            return found

        monkeypatch.setattr(owner, name, wrapped)
    X, y = samples()
    callbacks = [count] if place == "callback" else []
    validation = (X[:30], y[:30])
    settings = {"checkpoint": tmp_path, "callbacks": callbacks}
    with pytest.raises(TrainingInterrupted) as caught:
        trainer(**settings).fit(classifier(dropout=0.2), X, y, validation=validation)
    assert 0 < caught.value.result.training.step < 15
    result = trainer(**settings).fit(classifier(dropout=0.2), X, y, validation=validation)
    whole = trainer().fit(classifier(dropout=0.2), X, y, validation=validation)
    assert_same(result, whole)


def test_a_second_one_while_saving(monkeypatch, tmp_path):
    X, y = samples()
    fsync = os.fsync
    steps, before = [], []

    def first(event):
        steps.append(event.step)
        if event.step == 8:
            before.extend((path.name, path.read_bytes()) for path in sorted(tmp_path.iterdir()))
            monkeypatch.setattr(os, "fsync", second)
            press()

    def second(descriptor):
        monkeypatch.setattr(os, "fsync", fsync)
        press()

    with pytest.raises(TrainingInterrupted) as caught:
        trainer(checkpoint=tmp_path, callbacks=[first]).fit(classifier(), X, y)
    assert caught.value.result.training.step == 8
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7, 8]  # 5: also the end of an epoch
    assert len(before) == 1
    assert [(path.name, path.read_bytes()) for path in sorted(tmp_path.iterdir())] == before
    result = trainer(checkpoint=tmp_path).fit(classifier(), X, y)
    assert_same(result, trainer().fit(classifier(), X, y))


def test_while_a_checkpoint_is_written_in_the_training(monkeypatch, tmp_path):
    X, y = samples()
    write = tensors.os.replace
    left = [2]

    def replace(*names):
        left[0] -= 1
        if left[0] == 0:
            press()
        write(*names)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(TrainingInterrupted):
        trainer(checkpoint=tmp_path, checkpoint_every=2).fit(classifier(), X, y)
    result = trainer(checkpoint=tmp_path).fit(classifier(), X, y)
    assert_same(result, trainer().fit(classifier(), X, y))


def test_uninterrupted():
    done = []

    @uninterrupted()
    def work():
        press()
        with uninterrupted():
            press()
        done.append(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with uninterrupted():
        pass


def test_an_error_inside_goes_before():
    @uninterrupted()
    def fail():
        press()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_others_are_left_alone():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        with uninterrupted():
            press()
            assert seen == [1]
    finally:
        signal.signal(signal.SIGINT, before)


def test_training_in_another_thread():
    """Only the main thread may set handlers."""
    X, y = samples()
    found = []
    thread = threading.Thread(target=lambda: found.append(trainer().fit(classifier(), X, y)))
    thread.start()
    thread.join()
    assert state_of(found[0].network) == state_of(trainer().fit(classifier(), X, y).network)
    assert np.isfinite(found[0].history["loss"]).all()


SIGTERM_SCRIPT = """
import os, signal, sys
from trainings import classifier, digits
from gbdnn.errors import TrainingInterrupted
from gbdnn.training import Trainer

def stop(event):
    if event.kind == "step" and event.step == 7:
        os.kill(os.getpid(), signal.SIGTERM)

X, y = digits()
trainer = Trainer(epochs=3, batch_size=32, backend="dense", threads=1, checkpoint=sys.argv[1],
                  callbacks=[stop])
try:
    trainer.fit(classifier(), X[:150], y[:150])
except TrainingInterrupted as error:
    assert error.signal == signal.SIGTERM
    assert error.result.stopped == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    sys.exit(128 + error.signal)
"""


def test_sigterm_ends_a_training_like_ctrl_c(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SIGTERM_SCRIPT, str(tmp_path)], cwd=Path(__file__).parent.parent,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 143, done.stderr
    assert [path.name for path in tmp_path.iterdir()][-1:] != []
    X, y = samples()
    settings = {"learning_rate": 1e-3, "sparsifier": None}
    result = trainer(**settings, checkpoint=tmp_path).fit(classifier(), X, y)
    assert_same(result, trainer(**settings).fit(classifier(), X, y))


def test_a_handler_of_ones_own_is_left_alone():
    arrived = []
    before = signal.signal(signal.SIGTERM, lambda *_: arrived.append(1))
    try:
        X, y = samples()
        stop = trainer(callbacks=[lambda event: signal.raise_signal(signal.SIGTERM)])
        stop.fit(classifier(), X, y)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(arrived) > 10
