"""The settings of a training and what `fit` is given: rough edges, and what is refused."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from trainings import assert_same, classifier, digits, quick, some, state_of, without_time

from gbdnn import Linear, Network
from gbdnn.errors import (
    DtypeError,
    GbdnnError,
    InputError,
    ShapeError,
    UnknownNameError,
)
from gbdnn.pruning import sparsifier
from gbdnn.training import Adam, AdamW, Cosine, EarlyStopping


def test_a_mini_batch_without_weight_changes_nothing():
    X, y = some(40)
    seen = []

    def watch(event):
        seen.append(state_of(event.training.network()))

    items = [(X[:20], y[:20]), (X[20:], y[20:], np.zeros(20)), (X[:20], y[:20])]
    trainer = quick(epochs=1, callbacks=[watch], optimizer=AdamW(weight_decay=0.1))
    result = trainer.fit(classifier(), items)
    assert seen[0] == seen[1] != seen[2]
    assert result.training.step == 3
    assert np.isfinite(result.history["loss"]).all()


def test_zero_weights_are_as_if_not_given():
    X, y = some()
    weights = (np.arange(200) % 3 > 0).astype(float)
    weighted = quick().fit(classifier(), X, y, sample_weight=weights)
    fewer = quick().fit(classifier(), X[weights > 0], y[weights > 0])
    assert_same(weighted, fewer)


@pytest.mark.parametrize("count", [1, 64, 65, 127])
def test_small_last_mini_batches(count):
    X, y = digits()
    for backend in ("dense", "fused"):
        result = quick(backend=backend, batch_size=min(count, 64)).fit(
            classifier(), X[:count], y[:count]
        )
        assert result.training.step == 2 * -(-count // 64)
        assert np.isfinite(result.history["loss"]).all()


def test_the_end_of_an_iterator():
    X, y = some()
    items = [(X[k : k + 20], y[k : k + 20]) for k in range(0, 100, 20)]
    with pytest.warns(UserWarning, match="nothing came for epoch 2 of 4"):
        result = quick(steps_per_epoch=3, epochs=4).fit(classifier(), iter(items))
    assert (result.stopped, result.training.step, len(result.history)) == ("end of data", 5, 2)
    for nothing in ([], iter([])):
        with pytest.raises(InputError, match="at least one mini-batch"):
            quick(epochs=1).fit(classifier(), nothing)


def test_an_unknown_length():
    X, y = some()

    def items():
        yield X, y

    assert quick(epochs=1).fit(classifier(), items()).stopped == "epochs"
    with pytest.raises(InputError, match="steps_per_epoch"):
        quick(epochs=1, schedule="cosine").fit(classifier(), items())
    with pytest.raises(InputError, match="steps_per_epoch"):
        quick(epochs=1, schedule=lambda step, total: 1).fit(classifier(), items())
    with pytest.raises(InputError, match="steps_per_epoch"):
        quick(epochs=1, sparsifier="set").fit(classifier(), items())
    with pytest.raises(InputError, match="once only"):
        quick(epochs=2).fit(classifier(), items())


def test_schedules_of_ones_own():
    X, y = some()
    halved = quick(schedule=lambda step, total: 0.5).fit(classifier(), X, y)
    assert halved.history["learning_rate"] == [1.5e-3] * 2
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="schedule"):
            quick(schedule=lambda step, total, wrong=wrong: wrong).fit(classifier(), X, y)


def test_trainers_are_values():
    a, b = quick(sparsifier="rigl"), quick(sparsifier=sparsifier("rigl"))
    assert a == b
    assert hash(a) == hash(b)
    assert a != quick()
    assert "learning_rate=0.003" in repr(a)
    assert hash(quick(class_weight={0: 1.0})) == hash(quick())
    assert pickle.loads(pickle.dumps(a)) == a
    assert quick(learning_rate=np.float32(0.5)).learning_rate == 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.epochs = 3


NAN = float("nan")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"loss": "crossentropy"}, UnknownNameError),
        ({"backend": "gpu"}, UnknownNameError),
        ({"optimizer": "adamax"}, UnknownNameError),
        ({"optimizer": Adam}, DtypeError),
        ({"optimizer": 3}, DtypeError),
        ({"schedule": Cosine}, UnknownNameError),
        ({"schedule": None}, UnknownNameError),
        ({"sparsifier": "all"}, UnknownNameError),
        ({"sparsifier": 0.9}, DtypeError),
        *(({"learning_rate": x}, InputError) for x in (0, -1, NAN, np.inf, "1", None, True)),
        ({"learning_rate": 11.0, "optimizer": AdamW(weight_decay=0.1)}, InputError),
        *(({"epochs": x}, InputError) for x in (0, -1, 1.5, NAN, None, "3", True)),
        *(({"batch_size": x}, InputError) for x in (0, -1, 1.5, NAN, None, 10**30 + 0.5)),
        *(({"steps_per_epoch": x}, InputError) for x in (0, -1, 1.5)),
        *(({"clip_norm": x}, InputError) for x in (0, -1, NAN)),
        *(({"rng": x}, DtypeError) for x in (None, -1, 1.5, "0", True)),
        ({"callbacks": print}, DtypeError),
        ({"callbacks": ["print"]}, DtypeError),
        ({"early_stopping": True}, DtypeError),
        ({"checkpoint": 3}, DtypeError),
        ({"checkpoint_every": 0, "checkpoint": "x"}, InputError),
    ],
)
def test_bad_settings(settings, error):
    with pytest.raises(error) as caught:
        quick(**settings)
    assert caught.value.argument == next(iter(settings))


def test_checkpoints_need_a_folder():
    with pytest.raises(InputError, match="folder"):
        quick(checkpoint_every=5)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"network": "network"}, DtypeError, "gbdnn.Network"),
        ({"X": np.ones((5, 3))}, ShapeError, "64 features"),
        ({"X": np.ones((0, 64)), "y": []}, ShapeError, "at least one sample"),
        ({"y": None}, DtypeError, "targets"),
        ({"X": "text", "y": None}, DtypeError, "targets"),
        ({"X": sp.csr_array(np.ones((5, 64))), "y": None}, DtypeError, "targets"),
        ({"y": [0, 1]}, ShapeError, "5 targets"),
        ({"y": ["a"] * 5}, DtypeError, "SparseMLPClassifier"),
        ({"sample_weight": [1, 2]}, ShapeError, "sample_weight"),
        ({"X": [], "y": None, "sample_weight": [1]}, InputError, "sample_weight"),
        ({"validation": "no"}, DtypeError, "validation"),
        ({"validation": (np.ones((5, 64)),)}, DtypeError, "validation"),
        ({"validation": (np.ones((5, 3)), [0] * 5)}, ShapeError, "validation X"),
        ({"validation": (np.ones((5, 64)), [0])}, ShapeError, "validation y"),
        (
            {"validation": (np.ones((5, 64)), [0] * 5, [0] * 5)}, InputError,
            "validation sample_weight",
        ),
    ],
)  # fmt: skip
def test_bad_arguments(change, error, words):
    arguments = {"network": classifier(), "X": np.ones((5, 64)), "y": np.arange(5)} | change
    network, X, y = (arguments.pop(name) for name in ("network", "X", "y"))
    with pytest.raises(error, match=words):
        quick(batch_size=5).fit(network, X, y, **arguments)


def test_bad_combinations():
    X, y = some()
    with pytest.raises(InputError, match=r"at most 200.*got 201"):
        quick(batch_size=201).fit(classifier(), X, y)
    with pytest.raises(InputError, match="steps_per_epoch"):
        quick(steps_per_epoch=3).fit(classifier(), X, y)
    with pytest.raises(InputError, match="monitor"):
        quick(early_stopping=EarlyStopping()).fit(classifier(), X, y)
    with pytest.raises(InputError, match="class_weight"):
        quick(class_weight=dict.fromkeys(range(10), 0)).fit(classifier(), X, y)
    for loss, last in [
        ("cross_entropy", "sigmoid"), ("binary_cross_entropy", "softmax"), ("hinge", "softmax")
    ]:  # fmt: skip
        network = Network([*classifier().layers[:-1], last])
        with pytest.raises(InputError, match="leave the network's last layer out"):
            quick(loss=loss).fit(network, X, y)
    with pytest.raises(InputError, match="binary_cross_entropy"):
        quick().fit(Network([Linear(np.ones((1, 64)))]), X, y > 4)


def test_one_class_only():
    X, _ = some()
    result = quick(class_weight="balanced").fit(classifier(), X, np.full(200, 3))
    assert result.history["loss"][-1] < result.history["loss"][0]


def test_all_errors_are_ours():
    """The messages have their four parts."""
    with pytest.raises(GbdnnError) as caught:
        quick(batch_size=300).fit(classifier(), *some())
    error = caught.value
    assert all((error.argument, error.expected, error.got, error.fix))
    assert without_time(quick().fit(classifier(), *some()))[0]["step"] == 4
