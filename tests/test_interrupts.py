"""Ctrl-C at random moments: none is lost, nothing is broken afterwards, the process lives."""

from __future__ import annotations

import pytest
from builders import ALL, run_script

START = """
import os, random, signal, sys, threading, time, warnings
import numpy as np, scipy.sparse as sp
warnings.simplefilter("ignore")
from gbdnn import Linear, Network

backend, setting = sys.argv[1:3]
chosen, rng = random.Random(setting), np.random.default_rng(0)
count = {"one": 1, "small": 60, "large": 3000, "sparse": 300, "trained": 300}.get(setting, 60)

def whole(features, density):  # numbers: exact in float32
    values = np.rint(4 * rng.random((features, features)))
    return values * (rng.random((features, features)) < density)

weights = [whole(90, 0.1) for _ in range(4)]
network = Network([layer for W in weights for layer in (Linear(W, -1.0), "relu")])
X = rng.integers(0, 2, (count, 90)).astype("f4")
wanted = X
for W in weights:
    wanted = np.maximum(wanted @ W.T.astype("f4") - 1, 0)
X = sp.csr_array(X) if setting == "sparse" else X

def predict():
    return network.predict(X, backend=backend)

def check():
    assert np.array_equal(predict(), wanted)
"""

RANDOM = (
    START
    + """
check()
state = {"sent": 0}

def send(delay):
    time.sleep(delay)
    state["sent"] += 1
    os.kill(os.getpid(), signal.SIGINT)

def call():
    if setting == "prepare":
        network.release()
    predict()

caught = 0
for attempt in range(30):
    sender = threading.Thread(target=send, args=(chosen.uniform(0.001, 0.03),))
    try:
        sender.start()
        while state["sent"] == attempt:
            call()
        time.sleep(5)  # it was sent, so must arrive now if it is not lost
    except KeyboardInterrupt:
        caught += 1
    sender.join()
    check()
assert caught == 30, caught
"""
)


@pytest.mark.parametrize("setting", ["one", "small", "large", "sparse", "prepare"])
@pytest.mark.parametrize("backend", ALL)
def test_predictions(backend, setting):
    run_script(RANDOM, backend, setting, timeout=500)


FIRST = (
    START
    + """
delay = float(sys.argv[3])
threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
end = time.monotonic() + delay + 20
try:
    while time.monotonic() < end:
        predict()
    sys.exit("lost")
except KeyboardInterrupt:
    pass
check()
"""
)


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("backend", ["fused", "graphblas"])
def test_the_first_prediction(backend, delay):
    """While the backend is imported and its code is loaded: the next call works."""
    run_script(FIRST, backend, "first", str(delay), timeout=500)


TRAINING = (
    START
    + """
from gbdnn.training import Trainer
trainer = Trainer(loss="mse", epochs=1, batch_size=50, backend=backend, optimizer="sgd",
                  learning_rate=1e-3)
state = {"sent": 0}

def send(delay):
    time.sleep(delay)
    state["sent"] += 1
    os.kill(os.getpid(), signal.SIGINT)

X, y = X / 4, wanted / 64
first = trainer.fit(network, X, y).history["loss"]
caught = 0
for attempt in range(30):
    sender = threading.Thread(target=send, args=(chosen.uniform(0.001, 0.06),))
    try:
        sender.start()
        while state["sent"] == attempt:
            trainer.fit(network, X, y)
        time.sleep(5)
    except KeyboardInterrupt:
        caught += 1
    sender.join()
assert caught == 30, caught
assert trainer.fit(network, X, y).history["loss"] == first
"""
)


@pytest.mark.parametrize("backend", ["fused", "graphblas", "graphblas-reference"])
def test_trainings(backend):
    run_script(TRAINING, backend, "trained", timeout=500)


NO_GARBAGE = (
    START
    + """
import gc, graphblas
from gbdnn.training import Trainer
predict()
gc.collect()
gc.disable()
for _ in range(2):
    network.release()
    predict()
    network.predict(X, backend=backend, skip=False)
    Trainer(loss="mse", epochs=1, batch_size=20, backend=backend).fit(network, X, wanted / 64)
network.release()
kinds, end = (graphblas.Matrix, graphblas.Vector), time.monotonic() + 60
while left := [each for each in gc.get_objects() if type(each) in kinds]:
    assert time.monotonic() < end, left
    left.clear()
    time.sleep(0.01)
"""
)


@pytest.mark.parametrize("backend", ["graphblas", "graphblas-reference"])
def test_no_matrix_waits_for_the_garbage_collector(backend):
    """It could come to one in the main thread, where an interrupt in `__del__` is lost."""
    run_script(NO_GARBAGE, backend, "small")
