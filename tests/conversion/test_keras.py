"""Models of Keras, exported by Keras itself and by tf2onnx; where TensorFlow is installed."""

from __future__ import annotations

import numpy as np
import pytest

import gbdnn
from gbdnn.errors import InputError

tensorflow = pytest.importorskip("tensorflow")
tf2onnx = pytest.importorskip("tf2onnx")
keras = pytest.importorskip("keras")
K = keras.layers
F, T, H = 12, 9, 8
SAMPLES = {
    "mlp": [K.Dense(20, activation="relu"), K.Dense(7, activation="softmax")],
    "norm": [K.Dense(20), K.BatchNormalization(), K.ReLU(), K.Dropout(0.2),
             K.Dense(7, activation="sigmoid")],
    "activations": [K.Dense(20), K.LeakyReLU(), K.Dense(9, activation="tanh"), K.ReLU(6.0),
                    K.Dense(3)],
}  # fmt: skip
SEQUENCES = {
    "lstm": [K.LSTM(H, return_sequences=True), K.Dense(3)],
    "last": [K.LSTM(H), K.Dense(3)],
    "both": [K.Bidirectional(K.LSTM(H, return_sequences=True)), K.Dense(3)],
    "gru": [K.GRU(H, return_sequences=True), K.Dense(3)],
    "gru, last": [K.GRU(H), K.Dense(3)],
    "gru, no bias": [K.GRU(H, use_bias=False, return_sequences=True)],
    "gru, reset before": [K.GRU(H, reset_after=False, return_sequences=True), K.Dense(3)],
    "gru, reset before, last": [K.GRU(H, reset_after=False), K.Dense(3)],
    "gru, both": [K.Bidirectional(K.GRU(H, return_sequences=True)), K.Dense(3)],
    "ends": [K.Bidirectional(K.LSTM(H)), K.Dense(3)],
    "ends, of other sizes": [
        K.Bidirectional(K.LSTM(H), backward_layer=K.LSTM(5, go_backwards=True)),
    ],
    "ends, two": [
        K.Bidirectional(K.LSTM(H, return_sequences=True)),
        K.Bidirectional(K.LSTM(5)),
        K.Dense(3),
    ],
    "gru, ends": [K.Bidirectional(K.GRU(H)), K.Dense(3)],
    "gru, ends, two": [
        K.Bidirectional(K.GRU(H, return_sequences=True)),
        K.Bidirectional(K.GRU(5)),
        K.Dense(3),
    ],
    "gru, both, two": [
        K.Bidirectional(K.GRU(H, return_sequences=True)),
        K.Bidirectional(K.GRU(5, return_sequences=True)),
        K.GRU(4),
        K.Dense(3),
    ],
    "gru and lstm": [
        K.GRU(H, return_sequences=True),
        K.LSTM(5, return_sequences=True),
        K.GRU(4, return_sequences=True),
        K.Dense(3, activation="relu"),
    ],
    "two": [K.LSTM(H, return_sequences=True), K.LSTM(5, return_sequences=True), K.Dense(3)],
}


KINDS = {
    "gru": ["gru", "linear"],
    "gru, last": ["gru", "last", "linear"],
    "gru, reset before": ["gru_reset_before", "linear"],
    "gru, both": ["bgru", "linear"],
    "ends": ["blstm", "final", "linear"],
    "ends, of other sizes": ["blstm", "final"],
    "ends, two": ["blstm", "blstm", "final", "linear"],
    "gru, ends": ["bgru", "final", "linear"],
    "gru, ends, two": ["bgru", "bgru", "final", "linear"],
    "gru, both, two": ["bgru", "bgru", "gru", "last", "linear"],
}
REFUSED = {
    "rnn": ([K.SimpleRNN(H, return_sequences=True)], r"simple_rnn.*an RNN, which has no layer"),
    "rnn, last": ([K.SimpleRNN(H)], r"simple_rnn.*an RNN, which has no layer"),
    "rectifier": ([K.GRU(H, activation="relu")], r"gru.*\(Loop\).*a GRU as one loop"),
    "both, reset before": (
        [K.Bidirectional(K.GRU(H, reset_after=False, return_sequences=True))],
        r"bidirectional.*\(Concat\).*gru_reset_before",
    ),
    "sum of both": (
        [K.Bidirectional(K.LSTM(H), merge_mode="sum")],
        r"bidirectional.*computed",
    ),
    "backwards": ([K.GRU(H, go_backwards=True, return_sequences=True)], r"gru.*got reverse"),
    "masks": ([K.Masking(), K.GRU(H)], r"node .*"),
    "unrolled": ([K.GRU(H, unroll=True)], r"gru.*one computed input"),
}


def exported(layers, shape, path, opset=17):
    """Return a model with weights that are not what a beginning has, written by tf2onnx."""
    model = keras.Sequential([K.Input(shape), *layers])
    rng = np.random.default_rng(0)
    model.set_weights([w + 0.3 * rng.random(w.shape) for w in model.get_weights()])
    spec = (tensorflow.TensorSpec((None, *shape), tensorflow.float32, name="x"),)
    function = tensorflow.function(lambda x: model(x, training=False), input_signature=spec)
    tf2onnx.convert.from_function(
        function, input_signature=spec, opset=opset, output_path=str(path)
    )
    return model


@pytest.mark.parametrize("name", [*SAMPLES, *SEQUENCES])
def test_tf2onnx(tmp_path, name):
    over_time = name in SEQUENCES
    shape = (T, F) if over_time else (F,)
    path = tmp_path / "model.onnx"
    model = exported((SEQUENCES if over_time else SAMPLES)[name], shape, path)
    X = np.random.default_rng(1).standard_normal((5, *shape)).astype(np.float32)
    network = gbdnn.load_onnx(path)
    found = np.asarray(network.predict(X))
    np.testing.assert_allclose(found, model(X).numpy(), rtol=1e-5, atol=1e-5)
    kinds = [layer.kind for layer in network.layers]
    assert kinds == KINDS.get(name, kinds)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_its_own_export(tmp_path):
    model = keras.Sequential([K.Input((F,)), K.Dense(20, activation="relu"), K.Dense(7)])
    path, X = tmp_path / "model.onnx", np.random.default_rng(1).standard_normal((5, F), np.float32)
    expected = model(X).numpy()
    model.export(str(path), format="onnx", verbose=False)
    np.testing.assert_allclose(gbdnn.load_onnx(path).predict(X), expected, atol=1e-5)


@pytest.mark.parametrize("opset", [13, 15, 18])
@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_of_other_opsets(tmp_path, reset_after, opset):
    path = tmp_path / "model.onnx"
    model = exported([K.GRU(H, reset_after=reset_after)], (T, F), path, opset)
    X = np.random.default_rng(1).standard_normal((5, T, F)).astype(np.float32)
    np.testing.assert_allclose(gbdnn.load_onnx(path).predict(X), model(X).numpy(), atol=1e-5)


@pytest.mark.parametrize("layer", [K.GRU, K.LSTM])
def test_sequences_of_any_length(tmp_path, layer):
    path = tmp_path / "model.onnx"
    model = exported([layer(H, return_sequences=True), K.Dense(3)], (None, F), path)
    network = gbdnn.load_onnx(path)
    for time in (T, 4):
        X = np.random.default_rng(1).standard_normal((5, time, F)).astype(np.float32)
        np.testing.assert_allclose(network.predict(X), model(X).numpy(), atol=1e-5)


@pytest.mark.parametrize("layer", [K.GRU, K.LSTM])
def test_final_states_of_any_length(tmp_path, layer):
    path = tmp_path / "model.onnx"
    model = exported([K.Bidirectional(layer(H)), K.Dense(3)], (None, F), path)
    network = gbdnn.load_onnx(path)
    for time in (T, 4, 1):
        X = np.random.default_rng(1).standard_normal((5, time, F)).astype(np.float32)
        np.testing.assert_allclose(network.predict(X), model(X).numpy(), atol=1e-5)


@pytest.mark.parametrize("layer", [K.GRU, K.LSTM])
def test_behind_an_embedding(tmp_path, layer):
    path = tmp_path / "model.onnx"
    model = exported([K.Embedding(20, 6), layer(H), K.Dense(3)], (T,), path)
    ids = np.random.default_rng(1).integers(0, 20, (5, T))
    found = gbdnn.load_onnx(path).predict(ids[..., None])
    np.testing.assert_allclose(found, model(ids).numpy(), atol=1e-5)


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_counterpart_is_named(tmp_path, case):
    layers, says = REFUSED[case]
    path = tmp_path / "model.onnx"
    exported(layers, (T, F), path)
    with pytest.raises(InputError, match=says):
        gbdnn.load_onnx(path)
