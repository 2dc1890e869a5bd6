"""What a `Sparsifier` is made of: names, objects of the user, what is refused, how it prints."""

from __future__ import annotations

import numpy as np
import pytest
from builders import random_network
from pruning_builders import STEPS, Loop, dense_network

from gbdnn.errors import DtypeError, GbdnnError, InputError, ShapeError, UnknownNameError
from gbdnn.layers import LOSSES
from gbdnn.pruning import (
    NM,
    PRESETS,
    SET,
    Neuron,
    Never,
    OneShot,
    Periodic,
    RigL,
    Sparsifier,
    Unstructured,
    sparsifier,
)
from gbdnn.training.model import Model
from gbdnn.weights.patterns import places as places_of


def test_names_are_the_objects():
    by_name = Sparsifier(schedule="periodic", growth="rigl", structure="unstructured")
    assert by_name == Sparsifier(schedule=Periodic(), growth=RigL(), structure=Unstructured())
    assert Sparsifier(0.5, schedule="one-shot").schedule == OneShot()


class EverySecond:
    """A schedule of the user's."""

    static = False

    def updates(self, total):
        return range(0, total, 2)

    def progress(self, step, total):
        return step / total


class Diagonal:
    """A growth of the user's: one place on the diagonal, chosen while gradients are computed."""

    observes = True

    def part(self, step, last):
        return 0.1

    def observe(self, pattern, dZ, Y, count, threads):
        assert dZ.shape[1:2] + Y.shape[1:2] == pattern.shape
        diagonal = np.arange(min(pattern.shape)) * (pattern.shape[1] + 1)
        return np.setdiff1d(diagonal, places_of(pattern))

    def places(self, pattern, count, rng, observed):
        return observed[: min(count, 1)]


def test_objects_of_the_user(rng):
    """Schedules and growths need the methods, no table."""
    network = random_network(rng, (12, 20, 16), density=0.3)
    loop = Loop(network, Sparsifier(schedule=EverySecond(), growth=Diagonal())).run(stop=8)
    for t in range(8):
        for before, after in zip(loop.patterns[t - 1], loop.patterns[t], strict=True):
            new = np.setdiff1d(places_of(after), places_of(before))
            assert after.nnz == before.nnz
            assert len(new) == (t % 2 == 0)
            assert (new % (after.shape[1] + 1) == 0).all()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_settings_print_alike_everywhere(name):
    """No addresses: a digest of the settings in a checkpoint must hold in another process."""
    assert " at 0x" not in repr(PRESETS[name])


def test_sets_of_names_print_alike_everywhere():
    """Hashes of text differ from process to process."""
    names = {f"layers.{k}.weight" for k in range(9)}
    assert Sparsifier(0.9, exclude=names).exclude == tuple(sorted(names))
    assert Sparsifier(0.9, exclude={0, "*.recurrent"}).exclude == ("*.recurrent", 0)


def test_settings_print_as_in_older_versions():
    """Checkpoints of format 1 have a digest of these texts."""
    score, between = "score=Score(name='magnitude', needs='')", "structure=Unstructured(), growth"
    assert repr(PRESETS["magnitude"]) == (
        f"Sparsifier(sparsity=0.9, {score}, distribution='global', schedule=Polynomial(begin=0.0, "
        f"end=0.75, every=0.01, power=3.0), {between}=None, exclude=(), at_start=False)"
    )
    assert repr(PRESETS["rigl"]) == (
        f"Sparsifier(sparsity=None, {score}, distribution='erk', schedule=Periodic(begin=0.0, "
        f"end=0.75, every=0.02), {between}=RigL(fraction=0.3, decay='cosine', memory=67108864), "
        "exclude=(), at_start=True)"
    )
    given = Sparsifier(0.5, structure=Neuron(True), schedule=OneShot(3), exclude=[-1, 0])
    assert repr(given) == (
        f"Sparsifier(sparsity=0.5, {score}, distribution='global', schedule=OneShot(step=3), "
        "structure=Neuron(next_columns=True), growth=None, exclude=(-1, 0), at_start=False)"
    )


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({}, "sparsity"),
        ({"sparsity": 1}, "sparsity"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity": 90}, "sparsity"),
        ({"sparsity": -0.1}, "sparsity"),
        ({"sparsity": float("nan")}, "sparsity"),
        ({"sparsity": "0.9"}, "sparsity"),
        ({"sparsity": True}, "sparsity"),
        ({"sparsity": 0.9, "structure": "2:4"}, "sparsity"),
        ({"sparsity": 0.9, "schedule": Never()}, "schedule"),
        ({"schedule": Never(), "growth": SET()}, "schedule"),
        ({"growth": SET(), "structure": NM(2, 4)}, "growth"),
        ({"growth": "sets"}, "growth"),
        ({"growth": 0.3}, "growth"),
        ({"growth": SET}, "growth"),
        ({"growth": "set", "structure": "4x4"}, "growth"),
        ({"sparsity": 0.9, "at_start": True}, "at_start"),
        ({"sparsity": 0.9, "at_start": "yes"}, "at_start"),
        ({"sparsity": 0.9, "schedule": "cubic"}, "schedule"),
        ({"sparsity": 0.9, "schedule": "never"}, "schedule"),
        ({"sparsity": 0.9, "schedule": 0.5}, "schedule"),
        ({"sparsity": 0.9, "score": "weight"}, "score"),
        ({"sparsity": 0.9, "distribution": "layers"}, "distribution"),
        ({"sparsity": 0.9, "exclude": "last"}, "exclude"),
        ({"sparsity": 0.9, "exclude": [0.5]}, "exclude"),
    ],
)
def test_contradictions(settings, argument):
    with pytest.raises(GbdnnError) as caught:
        Sparsifier(**settings)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"exclude": [3]}, InputError),
        ({"exclude": [-4]}, InputError),
        ({"exclude": ["layers.1.weight"]}, InputError),
        ({"exclude": ["*"]}, InputError),
        ({"exclude": [0, 1, 2]}, InputError),
        ({"structure": "neuron", "exclude": [0, 1]}, InputError),
        ({"sparsity": None, "structure": "5:7"}, ShapeError),
        ({"structure": "5x5"}, ShapeError),
        ({"sparsity": 0.9999}, InputError),
        ({"sparsity": 0.995, "distribution": "uniform"}, InputError),
        ({"schedule": Periodic(0, 1000, 10)}, InputError),
    ],
)
def test_what_does_not_fit_the_network_is_said_at_the_start(rng, settings, error):
    method = Sparsifier(**({"sparsity": 0.9} | settings))
    model = Model(dense_network(rng), loss=LOSSES["mse"], backend="dense", threads=1)
    with pytest.raises(error):
        method.start(model, STEPS, rng)


def test_unknown_presets():
    with pytest.raises(UnknownNameError, match="'rigl'"):
        sparsifier("lottery")
    with pytest.raises(UnknownNameError, match="sparsity"):
        sparsifier("magnitude", target=0.9)
    with pytest.raises(DtypeError):
        sparsifier("magnitude", sparsity="0.9")


def test_unknown_number_of_steps(rng):
    """A stream of unknown length takes numbers of steps only."""
    model = Model(dense_network(rng), loss=LOSSES["mse"], backend="dense", threads=1)
    with pytest.raises(InputError, match="steps_per_epoch"):
        Sparsifier(0.9).start(model, None, rng)
    state = Sparsifier(0.9, schedule=Periodic(0, 20, 10)).start(model, None, rng)
    assert state["total_steps"] is None
