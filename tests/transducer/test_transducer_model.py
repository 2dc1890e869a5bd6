"""The transducer as a model: its equations, what a search asks of it, files."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from transducers import mixed, small

import gbdnn
from gbdnn import Network
from gbdnn.decoding import Decoder, InternalLM
from gbdnn.decoding.batched import edit_distance, greedy
from gbdnn.errors import DtypeError, FileFormatError, InputError, ShapeError, UnknownNameError
from gbdnn.files.tensors import read_tensors, write_tensors
from gbdnn.models import Transducer, transducer
from gbdnn.quantization.transducer import quantize_transducer

ENCODERS = ["lstm 6, lstm 5", "blstm 4", "gru 5", "lstm 5, reduce 2"]


def log_softmax(z):
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("combine", ["add", "multiply"])
def test_joint_is_the_equation_and_prefixes_share_nothing(combine, rng):
    model = small(combine, dtype=np.float64)
    h, g = rng.standard_normal((2, 4, 6))
    met = h + g if combine == "add" else h * g
    (last,) = model.output.layers
    z = np.tanh(met + model.bias) @ last.weight.to_dense().T + last.bias
    assert np.allclose(model.joint(h, g), log_softmax(z), atol=1e-13)
    labels = np.array([0, 3, 1, 4])
    whole = model.predictor.predict([labels[:, None].astype(float)])[0]
    states = [None]
    for k, label in enumerate(labels):
        out, states = model.predict(states, [int(label)])
        assert np.allclose(out[0], whole[k], atol=1e-13)


def test_hypotheses_of_a_batch_do_not_meet():
    model = small()
    _, (start,) = model.predict([None], [0])
    _, (other,) = model.predict([start], [2])
    mixed_states = [other, None, start, other]
    out, after = model.predict(mixed_states, [1, 0, 3, 4])
    for k, (state, label) in enumerate(zip(mixed_states, [1, 0, 3, 4], strict=True)):
        alone, own = model.predict([state], [label])
        assert np.allclose(out[k], alone[0], atol=1e-6)
        again = model.predict([after[k]], [1])[0], model.predict([own[0]], [1])[0]
        assert np.allclose(*again, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_greedy_of_many_is_greedy_of_each(encoder):
    model = small(encoder=encoder, dtype=np.float64)
    h = model.encode(mixed()[0])
    one = Decoder(model, search="greedy", labels_per_frame=2)
    assert greedy(model, h, labels_per_frame=2) == [one.decode(part)[0].labels for part in h]
    assert greedy(model, []) == []
    assert model.encode([]) == []


def test_edit_distance():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([], [1, 2]) == edit_distance([1, 2], []) == 2
    assert edit_distance([1, 2, 3], [1, 2, 3]) == 0


def test_internal_lm_is_the_joint_without_frames():
    model = small()
    scores, _ = InternalLM(model, model.size)([None], [0])
    g, _ = model.predict([None], [0])
    expected = model.joint(np.zeros((1, model.size), np.float32), g)[0, 1:]
    assert np.allclose(scores[0, 1:], log_softmax(expected), atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("plan", [None, "int8", "fasoli2022"])
def test_a_file_gives_the_same_back_and_has_the_bytes_that_are_said(encoder, plan, tmp_path):
    model = small("multiply", encoder)
    X, y = mixed(np.float32)
    if plan is not None:
        model = quantize_transducer(model, plan, X, y)
    model = dataclasses.replace(model, metadata={"characters": "abcd"})
    path = tmp_path / "model"
    model.save(path)
    assert path.stat().st_size == model.file_nbytes
    found = gbdnn.load(path)
    assert isinstance(found, Transducer)
    assert found.metadata == {"characters": "abcd"}
    assert (found.combine, found.blank) == (model.combine, model.blank)
    for a, b in zip(found.encode(X), model.encode(X), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(found.predict([None], [0])[0], model.predict([None], [0])[0])
    one = np.ones((1, model.size), np.float32)
    assert np.array_equal(found.joint(one, one), model.joint(one, one))
    assert f"{model.file_nbytes:,}" in str(model.summary())


def test_networks_are_still_loaded(tmp_path):
    network = small().encoder
    network.save(tmp_path / "network")
    assert isinstance(gbdnn.load(tmp_path / "network"), Network)


@pytest.mark.parametrize(
    "change",
    [
        {"version": "9.0"}, {"version": 1}, {"chains": None}, {"chains": {}}, {"blank": 5},
        {"blank": "0"}, {"combine": "mean"}, {"combine": None},
    ],
)  # fmt: skip
def test_a_damaged_record_is_refused(change, tmp_path):
    path = tmp_path / "model"
    small().save(path)
    tensors, metadata = read_tensors(path)
    metadata = {key: value for key, value in metadata.items() if key != "container"}
    write_tensors(path, tensors, metadata | change)
    with pytest.raises(FileFormatError):
        gbdnn.load(path)


@pytest.mark.parametrize(
    "name", ["joint.bias", "encoder.layers.0.bias", "predictor.layers.0.weight"]
)
def test_a_missing_or_further_tensor_is_refused(name, tmp_path):
    path = tmp_path / "model"
    small().save(path)
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors | {"other": np.zeros(2)}, metadata)
    with pytest.raises(FileFormatError):
        gbdnn.load(path)
    del tensors[name]
    write_tensors(path, tensors, metadata)
    with pytest.raises(FileFormatError):
        gbdnn.load(path)


def test_parts_that_do_not_fit_are_refused():
    model = small()
    for wrong, error in (
        ({"combine": "concat"}, UnknownNameError), ({"blank": 9}, InputError),
        ({"bias": np.zeros(3)}, ShapeError), ({"bias": np.full(6, np.nan)}, ShapeError),
        ({"encoder": model.output}, ShapeError), ({"predictor": model.encoder}, ShapeError),
        ({"output": model.output.astype(np.float64)}, DtypeError), ({"encoder": 3}, DtypeError),
    ):  # fmt: skip
        with pytest.raises(error):
            dataclasses.replace(model, **wrong)
    with pytest.raises(UnknownNameError):
        model.replaced({"joint.layers.7.weight": 1})
    with pytest.raises(InputError):
        transducer("lstm 4", 3, 1)


def test_names_and_sizes():
    model = transducer("blstm 96, blstm 96", 120, 29, predictor="lstm 128", density=0.25)
    recurrent = 8 * 96 * (120 + 96) + 8 * 96 * (192 + 96) + 4 * 128 * (16 + 128)
    dense = 128 * 192 + 128 * 128 + 29 * 128 + 16 * 29
    edges = sum(weight.nnz for weight in model.weights.values())
    assert edges == pytest.approx(0.25 * recurrent + dense, rel=0.01)
    assert not model.streams
    assert small().streams
    prefixes = {name.split(".")[0] for name in model.parameters}
    assert prefixes == {"encoder", "predictor", "joint"}
    assert model.astype(np.float64).dtype == np.float64
    zero = model.replaced({"joint.bias": np.ones(128), "joint.layers.0.bias": np.ones(29)})
    assert (zero.bias == 1).all()
    assert (zero.output.layers[0].bias == 1).all()
