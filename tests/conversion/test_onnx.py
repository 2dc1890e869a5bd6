"""ONNX files in and out: the same answers as the exporter's library and onnxruntime."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import gbdnn
from gbdnn import CSR, GELU, Dropout, Int8, LeakyReLU, Levels, Linear, Network, ReLU, integer_weight
from gbdnn.errors import InputError, MissingDependencyError
from gbdnn.weights import Integers

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOATS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE}


def written(tmp_path, nodes, tensors, *, features=4, sparse=(), opset=20, shape=None):
    """Write a graph from X to Y and return its path."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, shape or ["n", features])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in tensors.items()],
        sparse_initializer=list(sparse),
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


def runtime(path, X, output=0):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()  # its fusions may round activations to int8
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: X})[output]


def node(op, inputs, output="Y", **attributes):
    return helper.make_node(
        op, inputs.split(), [output], name=f"the_{op}" if output == "Y" else "", **attributes
    )


def assert_same(path, X, expected=None, tolerance=1e-5):
    network = gbdnn.load_onnx(path)
    expected = runtime(path, X) if expected is None else expected
    got = network.predict(X)
    assert np.abs(got - expected).max() <= tolerance * max(1, np.abs(expected).max())
    return network


# -- written by others -----------------------------------------------------------------------------


@pytest.mark.parametrize("dynamo", [False, True])
def test_torch(tmp_path, rng, dynamo):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(),
        nn.Dropout(), nn.Linear(20, 20), nn.GELU(), nn.Linear(20, 9, bias=False), nn.ReLU6(),
        nn.Linear(9, 7), nn.LeakyReLU(0.2), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 5),
        nn.Sigmoid(), nn.Linear(5, 3), nn.Softmax(dim=-1),
    )  # fmt: skip
    for part in (p for p in model if isinstance(p, nn.BatchNorm1d)):
        torch.nn.init.uniform_(part.weight)
        torch.nn.init.uniform_(part.bias)
        part.running_mean.uniform_()
        part.running_var.uniform_()
    with torch.no_grad():
        model[2].weight[:, 2:] = 0
    model.eval()
    X = torch.tensor(rng.standard_normal((6, 3, 4)), dtype=torch.float32)
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            pytest.importorskip("onnxscript")
            torch.onnx.export(model, (X,), path, dynamo=True, verbose=False)
        else:
            torch.onnx.export(model, (X,), path, dynamo=False)
    network = gbdnn.load_onnx(path)
    with torch.no_grad():
        expected = model(X).numpy()
    assert np.abs(network.predict(X.numpy().reshape(6, 12)) - expected).max() < 1e-5
    assert isinstance(network.layers[0].weight, CSR)
    assert network.layers[0].weight.nnz == 40
    assert network.depth == 7  # both normalizations are folded


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("zipmap", [False, True])
def test_skl2onnx_classifier(tmp_path, rng, classes, zipmap):
    skl2onnx = pytest.importorskip("skl2onnx")
    X = (rng.standard_normal((90, 4)) * 5 + 3).astype(np.float32)
    y = np.array(["a", "b", "c"])[np.arange(90) % classes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=20)).fit(X, y)
        made = skl2onnx.to_onnx(model, X[:1], options={"zipmap": zipmap})
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    network = gbdnn.load_onnx(path)
    assert network.metadata["classes"] == list("abc"[:classes])
    expected = model.predict_proba(X)
    got = network.predict(X)
    assert np.abs(got - (expected[:, 1:] if classes == 2 else expected)).max() < 1e-5


def test_skl2onnx_regressor(tmp_path, rng):
    skl2onnx = pytest.importorskip("skl2onnx")
    X = rng.standard_normal((90, 4)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MLPRegressor(hidden_layer_sizes=(8, 5), activation="logistic", max_iter=20).fit(
            X, X[:, 0]
        )
        onnx.save(skl2onnx.to_onnx(model, X[:1]), tmp_path / "model.onnx")
    assert_same(tmp_path / "model.onnx", X, model.predict(X)[:, None])


# -- operators -------------------------------------------------------------------------------------

W = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
V = np.arange(1, 5, dtype=np.float32)
B = np.array([1, -2, 0.5], np.float32)
SCALAR = np.float32(2)
GEMM = node("Gemm", "X W B", "Z", transB=1)
CASES = {
    "gemm": ([node("Gemm", "X W B", alpha=0.5, beta=3.0, transB=1)], {"W": W, "B": B}),
    "gemm of one bias": ([node("Gemm", "X W B")], {"W": W.T.copy(), "B": SCALAR}),
    "gemm without bias": ([node("Gemm", "X W", transB=1)], {"W": W}),
    "add before": ([node("MatMul", "X W", "Z"), node("Add", "B Z")], {"W": W.T.copy(), "B": B}),
    "in front": (
        [node("Sub", "X V", "a"), node("Div", "a V", "b"), node("Mul", "c b", "d"),
         node("Gemm", "d W B", transB=1)],
        {"V": V, "c": SCALAR, "W": W, "B": B},
    ),
    "between": (
        [GEMM, node("Relu", "Z", "h"), node("Mul", "h B", "s"), node("Sub", "c s", "t"),
         node("MatMul", "t U")],
        {"W": W, "B": B, "c": SCALAR, "U": W},
    ),
    "at the end": ([GEMM, node("Tanh", "Z", "h"), node("Add", "h B")], {"W": W, "B": B}),
    "clip": ([GEMM, node("Clip", "Z lo hi")], {"W": W, "B": B, "lo": np.float32(0), "hi": SCALAR}),
    "clip below": ([GEMM, node("Clip", "Z lo")], {"W": W, "B": B, "lo": np.float32(0)}),
    "clip of nothing": ([GEMM, node("Clip", "Z")], {"W": W, "B": B}),
    "max and min": (
        [GEMM, node("Max", "Z lo", "h"), node("Min", "hi h")],
        {"W": W, "B": B, "lo": np.float32(0), "hi": SCALAR},
    ),
    "leaky": ([GEMM, node("LeakyRelu", "Z", alpha=0.3)], {"W": W, "B": B}),
    "gelu": ([GEMM, node("Gelu", "Z")], {"W": W, "B": B}),
    "dropout": ([node("Dropout", "X", "d"), node("Gemm", "d W B", "Z", transB=1),
                 node("Dropout", "Z")], {"W": W, "B": B}),
    "transposed": ([node("Transpose", "W", "T"), node("MatMul", "X T")], {"W": W}),
    "identities": ([node("Identity", "X", "i"), node("Cast", "i", "c", to=1),
                    node("MatMul", "c W")], {"W": W.T.copy()}),
    "reshape": ([GEMM, node("Reshape", "Z s")], {"W": W, "B": B, "s": np.array([-1, 3])}),
    "softmax": ([GEMM, node("Softmax", "Z", axis=1)], {"W": W, "B": B}),
    "batch norm": (
        [GEMM, node("Relu", "Z", "h"), node("BatchNormalization", "h s b m v", epsilon=0.1)],
        {"W": W, "B": B, "s": B, "b": B, "m": B, "v": np.abs(B)},
    ),
    "quantized": (
        [node("QuantizeLinear", "X q z", "xq"), node("DequantizeLinear", "xq q z", "x"),
         node("DequantizeLinear", "C s", "w", axis=0), node("Gemm", "x w B", transB=1)],
        {"q": np.float32(0.1), "z": np.uint8(128), "C": np.clip(W * 40, -127, 127).astype(np.int8),
         "s": np.array([0.1, 0.2, 0.3], np.float32), "B": B},
    ),
    "quantized, with a zero point": (
        [node("DequantizeLinear", "C s z", "w"), node("MatMul", "X w")],
        {"C": np.clip(W.T * 40, -128, 127).astype(np.int8), "s": np.float32(0.1), "z": np.int8(3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operators(tmp_path, rng, case):
    nodes, tensors = CASES[case]
    path = written(tmp_path, nodes, tensors)
    network = assert_same(path, rng.standard_normal((50, 4)).astype(np.float32))
    if case == "quantized":
        weight = network.layers[0].weight
        assert isinstance(weight, Int8)
        assert weight.levels == Levels(float(np.float32(0.1)), 128, 0, 255)
    if case == "gelu":
        assert isinstance(network.layers[1], GELU)


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initializer(tmp_path, rng, flat):
    dense = np.zeros((4, 3), np.float32)
    dense[[0, 2], [1, 2]] = 2, -3
    places = np.array([1, 8]) if flat else np.array([[0, 1], [2, 2]])
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([2, -3], np.float32), "W"),
        numpy_helper.from_array(places, ""), [4, 3],
    )  # fmt: skip
    path = written(tmp_path, [node("MatMul", "X W")], {}, sparse=[sparse])
    X = rng.standard_normal((5, 4)).astype(np.float32)
    network = assert_same(path, X, X @ dense)
    assert network.edges == 2


@pytest.mark.parametrize(
    ("nodes", "tensors", "text"),
    [
        ([node("Conv", "X K")], {"K": np.ones((1, 1, 1), np.float32)}, "the_Conv.*Conv"),
        ([GEMM, node("Add", "Z Z")], {"W": W, "B": B}, "the_Add.*one computed input"),
        ([GEMM, node("Clip", "Z lo")], {"W": W, "B": B, "lo": np.float32(-1)}, "the_Clip"),
        ([GEMM, node("Min", "Z c")], {"W": W, "B": B, "c": SCALAR}, "the_Min.*Max"),
        ([GEMM, node("Max", "Z c")], {"W": W, "B": B, "c": SCALAR}, "the_Max.*0"),
        ([GEMM, node("Softmax", "Z", axis=0)], {"W": W, "B": B}, "the_Softmax.*axis"),
        ([GEMM, node("Gelu", "Z", approximate="tanh")], {"W": W, "B": B}, "the_Gelu"),
        ([GEMM, node("Reshape", "Z s")], {"W": W, "B": B, "s": np.array([-1, 6])}, "the_Reshape"),
        ([node("MatMul", "W X")], {"W": W}, "the_MatMul"),
        ([node("Div", "V X")], {"V": V}, "the_Div"),
        ([node("Relu", "X")], {}, "the_Relu.*first operation"),
        ([node("MatMul", "X W")], {"W": np.ones((0, 4), np.float32)}, "the_MatMul"),
        ([GEMM, node("Add", "Z V")], {"W": W, "B": B, "V": V}, "the_Add.*one number"),
    ],
)  # fmt: skip
def test_unsupported(tmp_path, nodes, tensors, text):
    with pytest.raises(InputError, match=text):
        gbdnn.load_onnx(written(tmp_path, nodes, tensors))


def test_rounding_without_integer_weight_warns(tmp_path):
    nodes = [node("QuantizeLinear", "X q z", "a"), node("DequantizeLinear", "a q z", "b"),
             node("MatMul", "b W")]  # fmt: skip
    path = written(tmp_path, nodes, {"q": SCALAR, "z": np.uint8(0), "W": W.T.copy()})
    with pytest.warns(UserWarning, match="rounding"):
        gbdnn.load_onnx(path)


# -- written here ----------------------------------------------------------------------------------


def networks():
    rng = np.random.default_rng(3)
    sparse = rng.standard_normal((9, 12)) * (rng.random((9, 12)) < 0.2)
    dense = rng.standard_normal((5, 9))
    for dtype in (np.float32, np.float64):
        yield Network([Linear(sparse, 0.5, dtype=dtype), ReLU(2.0), Dropout(0.3),
                       Linear(dense, rng.random(5), dtype=dtype), "softmax"])  # fmt: skip
    for name in ("relu", "tanh", "sigmoid", "gelu", LeakyReLU(0.2), "identity"):
        yield Network([Linear(sparse), name, Linear(dense)])
    steps = [float(np.float32(step)) for step in (0.05, 0.4)]
    for bits in (8, 4):
        for scales in (0.1, np.full(3, 0.1), rng.uniform(0.1, 0.2, 9), np.full((9, 3), 0.1)):
            for levels in (None, Levels(steps[0], 3, 0, 255), Levels(steps[1], 0, -7, 7)):
                weight = integer_weight(sparse, scales, bits=bits, levels=levels)
                yield Network([Linear(weight, 0.5)])


@pytest.mark.parametrize("network", list(networks()))
def test_save_onnx(tmp_path, rng, network):
    path = tmp_path / "model.onnx"
    network.metadata = {"classes": ["x", "y"], "note": 1}
    gbdnn.save_onnx(network, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    X = rng.standard_normal((20, 12)).astype(network.dtype)
    expected = network.predict(X)
    assert np.abs(runtime(path, X) - expected).max() < 1e-5
    weight = network.layers[0].weight
    again = gbdnn.load_onnx(path)
    assert again.metadata == network.metadata
    assert again.dtype == network.dtype
    assert np.abs(again.predict(X) - expected).max() < 1e-5
    other = again.layers[0].weight
    assert other.nnz <= 12 * 9
    assert getattr(other, "levels", None) == getattr(weight, "levels", None)
    if isinstance(weight, Integers):
        assert other.form == weight.form
        pairs = [w.plain().to_dense(allow_dense=True) for w in (weight, other)]
        np.testing.assert_array_equal(*pairs)
    if network.layers[0].weight.form == "csr":
        assert again.edges == network.edges


def test_save_onnx_names_the_layer(tmp_path):
    @dataclass(frozen=True)
    class Other(gbdnn.layers.Layer):
        kind = "other"

    with pytest.raises(InputError, match=r"layers\[1\].*other"):
        gbdnn.save_onnx(Network([Linear(W), Other()]), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_more_than_two_gib_is_refused(tmp_path):
    empty = sp.csr_array(([1.0], ([0], [0])), shape=(1 << 15, 1 << 15), dtype=np.float32)
    with pytest.raises(InputError, match="written dense"):
        gbdnn.save_onnx(Network([Linear(empty)]), tmp_path / "model.onnx")


def test_without_onnx(monkeypatch, tmp_path, network):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"gbdnn\[onnx\]"):
        gbdnn.load_onnx(tmp_path / "a.onnx")
    with pytest.raises(MissingDependencyError, match=r"gbdnn\[onnx\]"):
        gbdnn.save_onnx(network, tmp_path / "a.onnx")
