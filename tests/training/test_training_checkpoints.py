"""Checkpoints: going on is the same as never having stopped, and files outlive what goes wrong."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from trainings import (
    Resuming,
    assert_same,
    classifier,
    digits,
    state_of,
    stop_at,
    without_time,
)

from gbdnn.errors import DataUnavailableError, FileFormatError, InputError
from gbdnn.files import disk
from gbdnn.files.tensors import read_tensors, write_tensors
from gbdnn.pruning import Periodic, RigL, Sparsifier
from gbdnn.training import SGD, Adam, AdamW, Constant, EarlyStopping
from gbdnn.training.stored import decode, encode

OFTEN = Periodic(begin=0, end=1.0, every=2)


def samples(count=150):
    X, y = digits()
    return X[:count], y[:count]


def trainer(folder=None, **settings):
    defaults = {"epochs": 4, "batch_size": 32, "learning_rate": 3e-3, "backend": "dense"}
    return Resuming(**defaults | {"threads": 1, "checkpoint": folder} | settings)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# -- bit by bit ------------------------------------------------------------------------------------

STOPPING = EarlyStopping(patience=2, monitor="validation_loss", min_delta=0.02)
CASES = {
    "adam": ({}, {}),
    "dropout": ({}, {"dropout": 0.4}),
    "fused": ({"backend": "fused", "sparsifier": "set"}, {"dropout": 0.2}),
    "graphblas": ({"backend": "graphblas", "sparsifier": "rigl"}, {}),
    "SGD": ({"optimizer": SGD()}, {}),
    "nesterov, cosine, clip": (
        {"optimizer": SGD(momentum=0.9, nesterov=True), "schedule": "cosine", "clip_norm": 0.5}, {}
    ),
    "adamw, warm-up": ({"optimizer": AdamW(), "schedule": "warm-up"}, {}),
    "set": ({"sparsifier": "set"}, {"dropout": 0.2}),
    "rigl": ({"sparsifier": Sparsifier(schedule=OFTEN, growth=RigL())}, {}),
    "magnitude": ({"sparsifier": "magnitude", "schedule": "step"}, {}),
    "movement": ({"sparsifier": Sparsifier(0.8, score="movement", schedule=OFTEN)}, {}),
    "pruned from dense": ({"sparsifier": "magnitude"}, {"dense": True, "density": 1.0}),
    "dense": ({"backend": "fused"}, {"dense": True}),
    "double": ({"sparsifier": "set"}, {"dtype": np.float64}),
    "early stopping": ({"early_stopping": STOPPING, "learning_rate": 0.05, "epochs": 9}, {}),
    "dense early stopping": (
        {"early_stopping": STOPPING, "learning_rate": 0.05, "epochs": 9}, {"dense": True}
    ),
    "pruned early stopping": (
        {"early_stopping": STOPPING, "sparsifier": "magnitude", "epochs": 9, "learning_rate": 0.05},
        {"dense": True},
    ),
    "class weights": ({"class_weight": "balanced"}, {}),
    "in order": ({"shuffle": False}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_going_on_is_not_having_stopped(case, tmp_path):
    settings, shape = CASES[case]
    X, y = samples()
    network = classifier(**shape)
    validation = {"validation": (X[:40], y[:40])}
    whole = trainer(**settings).fit(network, X, y, **validation)
    for steps in ([2], [5, 6, 13], [10]):  # in the middle of epochs, and at the end of one
        folder = tmp_path / "-".join(map(str, steps))
        for step in steps:
            stopping = trainer(folder, **settings, callbacks=[stop_at(step)])
            stopped = stopping.fit(network, X, y, **validation)
            assert (stopped.stopped, stopped.training.step) == ("callback", step)
        assert_same(trainer(folder, **settings).fit(network, X, y, **validation), whole)


def test_sparse_inputs_and_iterables(tmp_path):
    X, y = samples()
    items = [(sp.csr_array(X[k : k + 30]), y[k : k + 30]) for k in range(0, 150, 30)]
    for number, data in enumerate([(sp.csr_array(X), y), (items,)]):
        whole = trainer(sparsifier="rigl").fit(classifier(), *data)
        folder = tmp_path / str(number)
        trainer(folder, sparsifier="rigl", callbacks=[stop_at(8)]).fit(classifier(), *data)
        assert_same(trainer(folder, sparsifier="rigl").fit(classifier(), *data), whole)


def test_a_finished_training_is_returned_and_can_be_made_longer(tmp_path):
    X, y = samples()
    first = trainer(tmp_path).fit(classifier(), X, y)

    def never(event):
        raise AssertionError("a step was taken")

    again = trainer(tmp_path, callbacks=[never]).fit(classifier(), X, y)
    assert_same(again, first)
    longer = trainer(tmp_path, epochs=6).fit(classifier(), X, y)
    assert_same(longer, trainer(epochs=6).fit(classifier(), X, y))


def test_a_training_that_stopped_early_stays_stopped(tmp_path):
    X, y = samples()
    rule = EarlyStopping(patience=1, monitor="loss", min_delta=1e9)
    first = trainer(tmp_path, early_stopping=rule).fit(classifier(), X, y)
    again = trainer(tmp_path, early_stopping=rule).fit(classifier(), X, y)
    assert first.stopped == again.stopped == "early stopping"
    assert_same(first, again)
    patient = dataclasses.replace(rule, patience=2)
    assert len(trainer(tmp_path, early_stopping=patient).fit(classifier(), X, y).history) == 3


def test_the_metadata_of_the_best_network_comes_back(tmp_path):
    X, y = samples()
    network = classifier()
    network.metadata["name"] = "mine"
    rule = EarlyStopping(patience=9, monitor="loss")
    for _ in range(2):
        result = trainer(tmp_path, early_stopping=rule).fit(network, X, y)
        assert result.network.metadata == {"name": "mine"}


def test_numbers_that_callbacks_add(tmp_path):
    X, y = samples()

    def add(event):
        if event.kind == "epoch":
            event.record.update(odd=float("inf"), count=np.int64(3))
            return event.epoch == 1
        return False

    trainer(tmp_path, callbacks=[add]).fit(classifier(), X, y)
    result = trainer(tmp_path, epochs=3).fit(classifier(), X, y)
    assert result.history["odd"] == [np.inf, np.inf, None]
    assert result.history["count"] == [3, 3, None]


def test_an_iterator_cannot_go_on(tmp_path):
    X, y = samples()
    one = trainer(tmp_path, epochs=1)
    one.fit(classifier(), iter([(X, y)]))
    with pytest.raises(InputError, match="starts anew"):
        one.fit(classifier(), iter([(X, y)]))


# -- the files -------------------------------------------------------------------------------------


def test_two_files_are_kept(tmp_path):
    X, y = samples()
    seen = []
    watch = trainer(
        tmp_path / "a" / "b", checkpoint_every=2,
        callbacks=[lambda event: seen.append((event.step, files(tmp_path / "a" / "b")))],
    )  # fmt: skip
    watch.fit(classifier(), X, y)
    names = {step: [f"step-{n:012d}.safetensors" for n in (step - 2, step)] for step in range(25)}
    assert dict(seen)[9] == [names[6][1], names[8][1]]
    assert files(tmp_path / "a" / "b") == [names[18][1], names[20][1]]


def spoil(path, how):
    raw = path.read_bytes()
    if how == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "bit":
        path.write_bytes(raw[:-100] + bytes([raw[-100] ^ 4]) + raw[-99:])
    elif how == "foreign":
        write_tensors(path, {"a": np.ones(3)}, {"format": "something else"})
    elif how == "newer":
        tensors, record = read_tensors(path)
        write_tensors(path, tensors, record | {"version": "3.0"})
    else:
        how(path)


@pytest.mark.parametrize("how", ["cut", "empty", "bit", "foreign", "newer"])
def test_the_newest_whole_file_is_used_and_others_are_named(how, tmp_path):
    X, y = samples()
    settings = {"checkpoint_every": 3, "sparsifier": "set"}
    trainer(tmp_path, **settings, callbacks=[stop_at(9)]).fit(classifier(), X, y)
    older, newest = sorted(tmp_path.iterdir())
    spoil(newest, how)
    match = rf"skipped {newest.name}.*going on from {older.name}"
    with pytest.warns(UserWarning, match=match):
        result = trainer(tmp_path, **settings).fit(classifier(), X, y)
    assert_same(result, trainer(sparsifier="set").fit(classifier(), X, y))


def test_a_folder_with_the_name_of_a_file(tmp_path):
    X, y = samples()
    trainer(tmp_path, checkpoint_every=3, callbacks=[stop_at(9)]).fit(classifier(), X, y)
    older, newest = sorted(tmp_path.iterdir())
    newest.unlink()
    newest.mkdir()
    with pytest.warns(UserWarning, match=rf"skipped {newest.name}.*going on from {older.name}"):
        result = trainer(tmp_path).fit(classifier(), X, y)
    assert_same(result, trainer().fit(classifier(), X, y))


def test_a_skipped_file_does_not_push_out_whole_ones(tmp_path):
    X, y = samples()
    stop = {"checkpoint_every": 3, "callbacks": [stop_at(17)]}
    trainer(tmp_path, **stop).fit(classifier(), X, y)  # steps 15 and 17
    older, newest = sorted(tmp_path.iterdir())
    spoil(newest, "bit")
    again = {"checkpoint_every": 1, "callbacks": [stop_at(16)]}
    with pytest.warns(UserWarning, match="skipped"):
        trainer(tmp_path, **again).fit(classifier(), X, y)
    assert files(tmp_path) == [
        older.name, "step-000000000016.safetensors", newest.name
    ]  # fmt: skip


def test_nothing_whole(tmp_path):
    X, y = samples()
    trainer(tmp_path, callbacks=[stop_at(7)]).fit(classifier(), X, y)
    for path in tmp_path.iterdir():
        spoil(path, "cut")
    before = [(path.name, path.read_bytes()) for path in sorted(tmp_path.iterdir())]
    with pytest.raises(FileFormatError, match="Remove these files"):
        trainer(tmp_path).fit(classifier(), X, y)
    assert before == [(path.name, path.read_bytes()) for path in sorted(tmp_path.iterdir())]


CHANGES = {
    "learning_rate": {"learning_rate": 0.1},
    "loss": {"loss": "hinge"},
    "optimizer": {"optimizer": Adam(beta1=0.8)},
    "schedule": {"schedule": "cosine"},
    "batch_size": {"batch_size": 33},
    "sparsifier": {"sparsifier": "set"},
    "seed": {"rng": 1},
    "class_weight": {"class_weight": {0: 2.0}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_training_is_refused(change, tmp_path):
    X, y = samples()
    network = classifier()
    network = type(network)(network.layers[:-1])  # all losses take it
    trainer(tmp_path, callbacks=[stop_at(7)]).fit(network, X, y)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="another training"):
        trainer(tmp_path, **CHANGES[change]).fit(network, X, y)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_other_networks_and_data_are_refused(tmp_path):
    X, y = samples()
    trainer(tmp_path, callbacks=[stop_at(7)]).fit(classifier(), X, y)
    for network, data in [
        (classifier(seed=1), (X, y)),
        (classifier(dropout=0.5), (X, y)),
        (classifier(dtype=np.float64), (X, y)),
        (classifier(hidden=16), (X, y)),
        (classifier(), (X, (y + 1) % 10)),
        (classifier(), (X[1:], y[1:])),
    ]:
        with pytest.raises(InputError, match="another training"):
            trainer(tmp_path).fit(network, *data)
    weights = np.arange(150) + 1
    with pytest.raises(InputError, match="another training"):
        trainer(tmp_path).fit(classifier(), X, y, sample_weight=weights)


def half(step, total):
    return 0.5


def test_functions_that_cannot_be_told_apart_are_refused(tmp_path):
    def quarter(step, total):
        return 0.25

    X, y = samples()
    for schedule in (lambda step, total: 0.5, quarter):
        with pytest.raises(InputError, match="schedule: expected with a checkpoint"):
            trainer(tmp_path, schedule=schedule).fit(classifier(), X, y)
        trainer(schedule=schedule, epochs=1).fit(classifier(), X, y)  # without one they are fine
    assert files(tmp_path) == []


def test_going_on_must_be_asked_for(tmp_path):
    X, y = samples()
    stopping = trainer(tmp_path, callbacks=[stop_at(7)])
    stopping.fit(classifier(), X, y, resume=False)
    before = files(tmp_path)
    with pytest.raises(InputError, match="resume=True"):
        trainer(tmp_path).fit(classifier(), X, y, resume=False)
    assert files(tmp_path) == before
    result = trainer(tmp_path).fit(classifier(), X, y, resume=True)
    assert_same(result, trainer().fit(classifier(), X, y))


def test_a_folder_belongs_to_one_process(tmp_path):
    X, y = samples()
    script = """
import fcntl, os, sys, time
lock = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(lock, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="no other process trains in"):
            trainer(tmp_path).fit(classifier(), X, y)
    finally:
        other.kill()
        other.communicate()
    trainer(tmp_path).fit(classifier(), X, y)  # killed, it has left nothing behind
    trainer(tmp_path).fit(classifier(), X, y)


def test_functions_as_settings_are_the_same_in_another_process(tmp_path, monkeypatch):
    """Their addresses differ there; here two functions of the same name stand for that."""
    X, y = samples()
    a, b = half, type(half)(half.__code__, {}, "half")
    assert repr(a) != repr(b)
    trainer(tmp_path, schedule=a, callbacks=[stop_at(7)]).fit(classifier(), X, y)
    result = trainer(tmp_path, schedule=b).fit(classifier(), X, y)
    assert_same(result, trainer(schedule=a).fit(classifier(), X, y))
    with pytest.raises(InputError, match="another training"):
        trainer(tmp_path, schedule=Constant()).fit(classifier(), X, y)


def test_threads_backend_and_epochs_may_change(tmp_path):
    X, y = samples()
    trainer(tmp_path, callbacks=[stop_at(7)]).fit(classifier(), X, y)
    result = trainer(tmp_path, backend="fused", epochs=3, progress=True).fit(classifier(), X, y)
    whole = trainer(epochs=3).fit(classifier(), X, y)
    np.testing.assert_allclose(result.history["loss"], whole.history["loss"], rtol=1e-4)


def test_what_a_killed_process_left_is_removed(tmp_path):
    X, y = samples()
    trainer(tmp_path, callbacks=[stop_at(7)]).fit(classifier(), X, y)
    left = tmp_path / f".step-000000000008.safetensors.gbdnn-{disk._host()}.123.0a1b2c3d.tmp"
    other = tmp_path / ".notes.tmp"
    for path in (left, other):
        path.write_bytes(b"half")
    trainer(tmp_path).fit(classifier(), X, y)
    assert not left.exists()
    assert other.exists()


# -- states that a file claims ---------------------------------------------------------------------


def rewrite(change):
    """Return a spoiler that changes tensors and record and writes a file that verifies."""

    def write(path):
        tensors, record = read_tensors(path)
        change(tensors, record)
        write_tensors(path, tensors, record)

    return write


def put(name, value):
    return rewrite(lambda tensors, record: tensors.update({name: value}))


def say(name, value):
    return rewrite(lambda tensors, record: record.update({name: value}))


F4 = np.float32
FORGED = {
    "a missing tensor": rewrite(
        lambda tensors, record: tensors.pop("parameters.layers.2.weight.values")
    ),
    "short values": put("parameters.layers.0.weight.values", np.ones(3, F4)),
    "one value": put("parameters.layers.0.weight.values", np.ones(1, F4)),
    "NaN": rewrite(
        lambda tensors, record: tensors["parameters.layers.0.weight.values"].fill(np.nan)
    ),
    "other dtype": put("parameters.layers.0.bias", np.zeros(32)),
    "long bias": put("parameters.layers.0.bias", np.zeros(33, F4)),
    "indices out of range": rewrite(
        lambda tensors, record: tensors["parameters.layers.0.weight.indices_1"].fill(64)
    ),
    "negative pointers": rewrite(
        lambda tensors, record: tensors["parameters.layers.0.weight.pointers_to_1"].fill(-1)
    ),
    "short slot": put("slots.layers.0.weight.first", np.zeros(3, F4)),
    "slot of other dtype": put("slots.layers.0.bias.second", np.zeros(32)),
    "no slot": rewrite(lambda tensors, record: tensors.pop("slots.layers.2.weight.first")),
    "negative step": say("step", -1),
    "step is text": say("step", "7"),
    "loss_sum is text": say("loss_sum", "much"),
    "records are a number": say("records", 3),
    "records of numbers": say("records", [3]),
    "no parameters": say("parameters", {}),
    "a form of nothing": rewrite(
        lambda tensors, record: record["parameters"]["layers.0.weight"].update(form="nothing")
    ),
    "another shape": rewrite(
        lambda tensors, record: record["parameters"]["layers.0.weight"].update(shape=[32, 65])
    ),
    "best is text": say("best", "best"),
    "best without network": say("best", {"value": 1.0, "epoch": 0, "network": True}),
    "lost array": say("sparse", {"$tensor": "nowhere"}),
    "odd items": say("sparse", {"$items": [1]}),
    "no counters": rewrite(lambda tensors, record: record.pop("position")),
}


@pytest.mark.parametrize("case", FORGED)
def test_states_that_do_not_fit_are_damaged_files(case, tmp_path):
    X, y = samples()
    network = classifier(dtype=np.float32)
    trainer(tmp_path, checkpoint_every=3, callbacks=[stop_at(9)]).fit(network, X, y)
    newest = max(tmp_path.iterdir())
    spoil(newest, FORGED[case])
    with pytest.warns(UserWarning, match=f"skipped {newest.name}"):
        result = trainer(tmp_path).fit(network, X, y)
    assert_same(result, trainer().fit(network, X, y))


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["$tensor", "$items", "$float"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3) | st.integers(0, 9) | st.just("$tensor"), inner, max_size=3
        )
    ),
    max_leaves=10,
)


@given(ANYTHING)
def test_what_is_encoded_is_decoded(value):
    tensors = {}
    assert repr(decode(encode(value, tensors), tensors)) == repr(value)
    assert not tensors


def test_arrays_are_encoded():
    value = {"a": np.arange(3), 1: [np.float32(0.1), {"b": np.ones((2, 2))}], "n": float("-inf")}
    tensors = {}
    found = decode(encode(value, tensors), tensors)
    assert found["a"] is value["a"]
    assert found[1][1]["b"] is value[1][1]["b"]
    assert found[1][0] == float(np.float32(0.1))
    assert found["n"] == -np.inf
    assert len(tensors) == 2


# -- when the disk does not play along -------------------------------------------------------------


def test_a_full_disk_does_not_end_a_training(tmp_path, monkeypatch):
    X, y = samples()
    whole = trainer().fit(classifier(), X, y)
    fsync = os.fsync
    full = []

    def no_space(descriptor):
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", no_space)

    def fill(event):
        if event.step == 7:
            full.append(files(tmp_path))

    with pytest.warns(UserWarning, match=r"not written.*No space left.*training goes on") as caught:
        result = trainer(tmp_path, checkpoint_every=3, callbacks=[fill]).fit(classifier(), X, y)
    assert_same(result, whole)
    assert len(caught) >= 3
    assert files(tmp_path) == full[0] == [
        "step-000000000005.safetensors", "step-000000000006.safetensors"
    ]  # fmt: skip
    full.clear()
    assert_same(trainer(tmp_path).fit(classifier(), X, y), whole)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_refused_at_once(place, tmp_path):
    (tmp_path / "file").write_text("mine")

    def never(event):
        raise AssertionError("a step was taken")

    with pytest.raises(DataUnavailableError, match="folder that can be written"):
        trainer(tmp_path / place, callbacks=[never]).fit(classifier(), *samples())
    assert (tmp_path / "file").read_text() == "mine"


def test_no_warning_without_a_reason(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = trainer(tmp_path / "new").fit(classifier(), *samples())
    assert len(without_time(result)) == 4
    assert state_of(result.network) == state_of(result.training.network())
