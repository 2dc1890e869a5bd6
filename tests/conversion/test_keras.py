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
    "two": [K.LSTM(H, return_sequences=True), K.LSTM(5, return_sequences=True), K.Dense(3)],
}


def exported(layers, shape, path):
    """Return a model with weights that are not what a beginning has, written by tf2onnx."""
    model = keras.Sequential([K.Input(shape), *layers])
    rng = np.random.default_rng(0)
    model.set_weights([w + 0.3 * rng.random(w.shape) for w in model.get_weights()])
    spec = (tensorflow.TensorSpec((None, *shape), tensorflow.float32, name="x"),)
    function = tensorflow.function(lambda x: model(x, training=False), input_signature=spec)
    tf2onnx.convert.from_function(function, input_signature=spec, opset=17, output_path=str(path))
    return model


@pytest.mark.parametrize("name", [*SAMPLES, *SEQUENCES])
def test_tf2onnx(tmp_path, name):
    over_time = name in SEQUENCES
    shape = (T, F) if over_time else (F,)
    path = tmp_path / "model.onnx"
    model = exported((SEQUENCES if over_time else SAMPLES)[name], shape, path)
    X = np.random.default_rng(1).standard_normal((5, *shape)).astype(np.float32)
    found = np.asarray(gbdnn.load_onnx(path).predict(X))
    np.testing.assert_allclose(found, model(X).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_its_own_export(tmp_path):
    model = keras.Sequential([K.Input((F,)), K.Dense(20, activation="relu"), K.Dense(7)])
    path, X = tmp_path / "model.onnx", np.random.default_rng(1).standard_normal((5, F), np.float32)
    expected = model(X).numpy()
    model.export(str(path), format="onnx", verbose=False)
    np.testing.assert_allclose(gbdnn.load_onnx(path).predict(X), expected, atol=1e-5)


def test_its_gru_is_a_loop_and_named(tmp_path):
    path = tmp_path / "model.onnx"
    exported([K.GRU(H, return_sequences=True)], (T, F), path)
    with pytest.raises(InputError, match="gru"):
        gbdnn.load_onnx(path)
