"""Model files of layers and forms that gbdnn does not know, and of earlier versions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from builders import random_csr
from file_checks import assert_equal_networks, assert_same

from gbdnn import Network
from gbdnn.errors import (
    FileFormatError,
    InputError,
)
from gbdnn.files.tensors import read_tensors, write_tensors
from gbdnn.interchange.models import to_tensors
from gbdnn.layers import LAYERS, Layer
from gbdnn.network import load
from gbdnn.weights import FORMS, Weight, as_weight

V1 = Path(__file__).parent / "fixtures" / "v1"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# -- what a test puts into the tables --------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Bilinear(Layer):
    """A layer with two weights, two arrays and settings of several types."""

    kind = "bilinear"
    weight_names = ("left", "right")
    array_names = ("bias", "scale")

    left: Weight
    right: Weight
    bias: np.ndarray
    scale: np.ndarray
    steps: int = 1
    mode: str = "plain"
    window: tuple[int, ...] | None = None
    strict: bool = False

    in_features = property(lambda self: self.right.shape[1])
    out_features = property(lambda self: self.left.shape[0])

    @property
    def settings(self):
        """The window as JSON has it."""
        return {**super().settings, "window": self.window and list(self.window)}


@dataclass(frozen=True, eq=False)
class Levels(Weight):
    """All places, as whole numbers times a scale."""

    form = "levels"
    numbers: np.ndarray
    scale: float
    dtype = np.dtype(np.float32)

    shape = property(lambda self: self.numbers.shape)
    nnz = property(lambda self: self.numbers.size)
    settings = property(lambda self: {"scale": self.scale})

    def arrays(self):
        """The numbers."""
        return {"numbers": self.numbers}

    @classmethod
    def of(cls, arrays, shape, settings):
        """Check and undo `arrays` and `settings`."""
        numbers = arrays["numbers"]
        if len(arrays) > 1 or numbers.shape != shape or numbers.dtype != np.int8:
            raise InputError("weight", f"int8 of shape {shape} alone", f"{numbers.dtype}")
        return cls(numbers, float(settings["scale"]))


@pytest.fixture
def bilinear(monkeypatch):
    """A network of a layer and a form that gbdnn does not know, which are in the tables."""
    monkeypatch.setitem(LAYERS, "bilinear", Bilinear)
    monkeypatch.setitem(FORMS, "levels", Levels)
    rng = np.random.default_rng(3)
    left = Levels(rng.integers(-7, 8, (4, 6), np.int8), 0.125)
    bias, scale = rng.random(4, np.float32), np.array(2.5, np.float32)
    layer = Bilinear(left, random_csr(rng, 6, 5), bias, scale, 3, "grüße", (1, 2), True)
    dense = as_weight(np.ones((2, 4), np.float32))
    return Network([layer, "relu", Bilinear(dense, random_csr(rng, 4, 4), bias[:2], scale)])


def test_a_new_layer_and_a_new_form(path, bilinear, monkeypatch):
    bilinear.save(path)
    assert_equal_networks(load(path), bilinear)
    monkeypatch.delitem(FORMS, "levels")
    with pytest.raises(FileFormatError, match=r"layers\[0\].*levels.*newer gbdnn"):
        load(path)
    monkeypatch.delitem(LAYERS, "bilinear")
    with pytest.raises(FileFormatError, match=r"layers\[0\].*bilinear.*newer gbdnn"):
        load(path)
    with pytest.raises(InputError, match="bilinear"):
        bilinear.save(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda record, tensors: record.update(parameters=["left"]),
        lambda record, tensors: record.update(parameters=[*record["parameters"], "more"]),
        lambda record, tensors: record.update(parameters=[["left"]]),
        lambda record, tensors: record.update(parameters="left"),
        lambda record, tensors: record.pop("parameters"),
        lambda record, tensors: record.pop("left"),
        lambda record, tensors: record.update(left={"form": "levels"}),
        lambda record, tensors: record["left"].update(form="lvl"),
        lambda record, tensors: record["left"].update(form=["levels"]),
        lambda record, tensors: record["left"].update(shape=[4, 2**63]),
        lambda record, tensors: record["left"].update(shape=[6, 4]),
        lambda record, tensors: record["left"].update(settings=None),
        lambda record, tensors: record["left"].update(settings={}),
        lambda record, tensors: record["left"].update(settings={"scale": [1]}),
        lambda record, tensors: record["left"].update(binsparse={"format": "CSR"}),
        lambda record, tensors: record["right"].update(binsparse=[]),
        lambda record, tensors: record["right"].update({"binsparse": {"format": ["CSR"]}}),
        lambda record, tensors: record.update(bias={"form": "dense", "shape": [4]}),
        lambda record, tensors: record.update(scale=7),
        lambda record, tensors: record.pop("steps"),
        lambda record, tensors: record.update(novel=1),
        lambda record, tensors: tensors.pop("layers.0.scale"),
        lambda record, tensors: tensors.pop("layers.0.left.numbers"),
        lambda record, tensors: tensors.update({"layers.0.left.more": np.ones(1)}),
        lambda record, tensors: tensors.update({"layers.0.extra": np.ones(1, np.float32)}),
        lambda record, tensors: tensors.update({"0.scale": np.ones((), np.float32)}),
        lambda record, tensors: tensors.update({"layers": np.ones((), np.float32)}),
        lambda record, tensors: tensors.update({"layers.0.scale": np.ones(())}),
        lambda record, tensors: tensors.update({"layers.0.left.numbers": np.ones((4, 6))}),
    ],
)  # fmt: skip
def test_records_of_a_new_layer_are_not_believed(path, bilinear, change):
    tensors, metadata = to_tensors(bilinear.layers)
    change(metadata["layers"][0], tensors)
    write_tensors(path, tensors, metadata)
    with pytest.raises(FileFormatError):
        load(path)


# -- versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "dtype"),
    [
        ("small", "small", np.float32),
        ("float64", "small", np.float64),
        ("all_kinds", "all_kinds", np.float32),
    ],
)
def test_files_of_version_1_0(path, name, kind, dtype):
    """Read as the networks that they were; written again they differ in what later versions add."""
    from fixtures.v1 import make

    old = V1 / f"model-1.0-{name}.safetensors"
    wanted = make.network(kind, dtype)
    assert_equal_networks(load(old), wanted)
    wanted.save(path)
    before, after = read_tensors(old), read_tensors(path)
    assert_same(after[0], before[0])
    for record in after[1]["layers"]:
        del record["parameters"]
    assert after[1].pop("version") == "1.2"
    assert before[1].pop("version") == "1.0"
    del before[1]["versions"], after[1]["versions"]
    assert after[1] == before[1]
