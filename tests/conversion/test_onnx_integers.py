"""Whole numbers in ONNX files: by hand and by onnxruntime's quantizers, run as integers here."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest
from test_onnx_sequences import IDS, RNG, close, node, runtime, written

import gbdnn
from gbdnn import Int4, Int8, Levels
from gbdnn.errors import InputError
from gbdnn.models import mlp, recurrent

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

X = RNG.standard_normal((40, 8)).astype(np.float32)
# 7 bits, since onnxruntime's pairs of products saturate on processors without VNNI
C = RNG.integers(-63, 64, (8, 6)).astype(np.int8)
U = RNG.integers(1, 256, (8, 6)).astype(np.uint8)
S = RNG.uniform(0.01, 0.02, 6).astype(np.float32)
STEP = np.float32(0.03)
Q = [node("QuantizeLinear", "X q z", "a"), node("DequantizeLinear", "a q z", "x")]
QZ = {"q": STEP, "z": np.int8(0)}
LEVELS = Levels(float(STEP), 0, -128, 127)
CASES = {
    "columns": ([*Q, node("DequantizeLinear", "C S", "w", axis=1), node("MatMul", "x w")],
                {**QZ, "C": C, "S": S}, LEVELS),
    "rows": ([*Q, node("DequantizeLinear", "C S", "w", axis=0), node("Gemm", "x w", transB=1)],
             {**QZ, "C": C.T.copy(), "S": S}, LEVELS),
    "turned": ([*Q, node("DequantizeLinear", "C S", "v", axis=0), node("Transpose", "v", "w"),
                node("MatMul", "x w")], {**QZ, "C": C.T.copy(), "S": S}, LEVELS),
    "zero point": ([*Q, node("DequantizeLinear", "U s m", "w"), node("MatMul", "x w")],
                   {**QZ, "U": U, "s": S[0], "m": np.uint8(128)}, LEVELS),
    "rounded here": ([*Q, node("QuantizeLinear", "F s k", "c"),
                      node("DequantizeLinear", "c s k", "w"), node("MatMul", "x w")],
                     {**QZ, "F": C * S[0], "s": S[0], "k": np.int8(0)}, LEVELS),
    "fewer levels": ([node("Clip", "X low high", "k"), node("QuantizeLinear", "k q z", "a"), Q[1],
                      node("DequantizeLinear", "C S", "w", axis=1), node("MatMul", "x w")],
                     {**QZ, "C": C, "S": S, "low": np.float32(-7 * STEP),
                      "high": np.float32(7 * STEP)}, Levels(float(STEP), 0, -7, 7)),
    "sums of codes": (
        [Q[0], node("MatMulInteger", "a C z", "i"), node("Cast", "i", "f", to=TensorProto.FLOAT),
         node("Mul", "f qs", "p"), node("Add", "p B")],
        {**QZ, "C": C, "qs": STEP * S, "B": S}, LEVELS,
    ),
    "codes in and out": (
        [Q[0], node("QLinearMatMul", "a q z C s z y yz", "c"), node("DequantizeLinear", "c y yz")],
        {**QZ, "C": C, "s": S[0], "y": np.float32(0.2), "yz": np.int8(3)}, LEVELS,
    ),
    "scaled behind": ([*Q, node("DequantizeLinear", "C S", "w", axis=1), node("MatMul", "x w", "p"),
                       node("Mul", "p B")],
                      {**QZ, "C": C, "S": S, "B": np.float32([1, -2, 3, 0.5, -1, 2])}, LEVELS),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_products_of_whole_numbers(tmp_path, case):
    nodes, tensors, levels = CASES[case]
    path = written(tmp_path, nodes, tensors, ("n", 8))
    ends = case == "codes in and out"  # with a rounding that no product follows
    with pytest.warns(UserWarning, match="rounding") if ends else contextlib.nullcontext():
        network = gbdnn.load_onnx(path)
    weight = network.layers[0].weight
    assert isinstance(weight, Int8)
    assert weight.levels == levels
    expected = runtime(path, X)
    if ends:
        assert np.abs(network.predict(X) - expected).max() <= 0.1 + 1e-5  # half of a step of 0.2
    else:
        close(network.predict(X), expected)


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_four_bits(tmp_path, turned, blocks):
    codes = RNG.integers(-7, 8, (6, 8)).astype(np.int8)
    scales = RNG.uniform(0.1, 0.2, (6, 4 if blocks else 1)).astype(np.float32)
    full = codes * np.repeat(scales, 8 // scales.shape[1], axis=1)
    options = {"axis": 0 if turned else 1, "block_size": 2} if blocks else {"axis": int(turned)}
    given = scales if blocks else scales.ravel()
    stored = [
        helper.make_tensor("C", TensorProto.INT4, codes.T.shape if turned else codes.shape,
                           (codes.T if turned else codes).ravel().tolist()),
        numpy_helper.from_array(np.ascontiguousarray(given.T if turned and blocks else given), "S"),
    ]  # fmt: skip
    product = node("MatMul", "X w") if turned else node("Gemm", "X w", transB=1)
    graph = helper.make_graph(
        [node("DequantizeLinear", "C S", "w", **options), product], "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)], stored,
    )  # fmt: skip
    path = tmp_path / "model.onnx"
    opset = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    network = gbdnn.load_onnx(path)
    assert isinstance(network.layers[0].weight, Int4)
    assert network.layers[0].weight.scales.size == scales.size
    close(network.predict(X), X @ full.T)
    close(runtime(path, X), X @ full.T)


def test_levels_from_0_up_are_a_rectifier_too(tmp_path):
    """Where the weight behind needs more than 8 bits the rounding goes, what it clips does not."""
    tensors = {
        **{"V": RNG.standard_normal((8, 8)).astype(np.float32), "q": STEP, "z": np.uint8(0)},
        **{"U": U, "s": S[0], "m": np.uint8(3)},
    }
    nodes = [node("MatMul", "X V", "v"), node("QuantizeLinear", "v q z", "a"), Q[1],
             node("DequantizeLinear", "U s m", "w"), node("MatMul", "x w")]  # fmt: skip
    path = written(tmp_path, nodes, tensors, ("n", 8))
    with pytest.warns(UserWarning, match="rounding"):
        network = gbdnn.load_onnx(path)
    assert [layer.kind for layer in network.layers] == ["linear", "relu", "linear"]
    assert network.layers[2].weight.form == "dense"
    bound = STEP / 2 * np.abs((U - np.float32(3)) * S[0]).sum(axis=0).max()
    assert np.abs(network.predict(X) - runtime(path, X)).max() <= bound * 1.001


@pytest.mark.parametrize("kind", ["nodes", "one node"])
@pytest.mark.parametrize("codes", [C, U], ids=["int8", "uint8"])
def test_scales_that_are_found_as_values_come(tmp_path, codes, kind):
    middle = np.array(0 if codes is C else 120, codes.dtype)
    tensors = {"C": codes, "S": S[:1], "m": middle, "B": S}
    nodes = [
        node("DynamicQuantizeLinear", "X", "a q z"), node("MatMulInteger", "a C z m", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT), node("Mul", "q S", "qs"),
        node("Mul", "f qs", "p"), node("Add", "p B"),
    ]  # fmt: skip
    if kind == "one node":
        nodes = [node("DynamicQuantizeMatMul", "X C S m B", domain="com.microsoft")]
    path = written(tmp_path, nodes, tensors, ("n", 8))
    with pytest.warns(UserWarning, match="found as they come"):
        network = gbdnn.load_onnx(path)
    weight = (codes.astype(np.float32) - middle) * S[0]
    close(network.predict(X), X @ weight + S)
    assert network.layers[0].weight.form == ("int8" if codes is C else "dense")
    step = (max(X.max(), 0) - min(X.min(), 0)) / 255
    bound = step * np.abs(weight).sum(axis=0).max()
    assert np.abs(network.predict(X) - runtime(path, X)).max() <= bound


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([Q[0], node("Relu", "a")], "the_Relu.*behind codes"),
        ([Q[0], node("DequantizeLinear", "a q2 z")], "the_Dequant.*before it"),
        ([Q[0], node("MatMulInteger", "a C")], "the_MatMulInteger.*zero point|accepted"),
        ([node("MatMulInteger", "X C")], "the_MatMulInteger"),
        ([Q[0], node("QLinearMatMul", "a q2 z C s z q z")], "the_QLinearMatMul.*before it"),
        ([node("QuantizeLinear", "X S2 z", "a"), node("DequantizeLinear", "a S2 z")],
         "one constant scale"),
        ([node("QuantizeLinear", "X q w", "a"), node("DequantizeLinear", "a q w")], "8 bits"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_named(tmp_path, nodes, says):
    tensors = {"q": STEP, "q2": STEP * 2, "z": np.int8(1), "C": C, "s": S[0], "w": np.int16(0),
               "S2": np.full(8, STEP)}  # fmt: skip
    with pytest.raises(InputError, match=says):
        gbdnn.load_onnx(written(tmp_path, nodes, tensors, ("n", 8)))


def quantized(tmp_path, network, how, **options):
    """Write a network, let onnxruntime round it, and return the path."""
    tool = pytest.importorskip("onnxruntime.quantization")
    source, path = tmp_path / "floats.onnx", tmp_path / "model.onnx"
    gbdnn.save_onnx(network, source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(tool, how)(source, path, reduce_range=True, **options)  # as C above
    return path


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_quantize_static(tmp_path, form, each):
    tool = pytest.importorskip("onnxruntime.quantization")

    class Samples(tool.CalibrationDataReader):
        def __init__(self):
            self.left = [{"X": X}]

        def get_next(self):
            return self.left.pop() if self.left else None

    path = quantized(
        tmp_path, mlp((8, 20, 10, 5), density=1.0, activation="relu"), "quantize_static",
        calibration_data_reader=Samples(), quant_format=getattr(tool.QuantFormat, form),
        weight_type=tool.QuantType.QInt8, per_channel=each,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="rounding"):  # that of the output
        network = gbdnn.load_onnx(path)
    linear = [layer for layer in network.layers if layer.kind == "linear"]
    assert all(layer.weight.form == "int8" and layer.weight.levels for layer in linear)
    expected = runtime(path, X)
    assert (
        np.abs(network.predict(X) - expected).max() <= 0.02 * np.abs(expected).max()
    )  # five steps


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_quantize_dynamic(tmp_path, kind):
    tool = pytest.importorskip("onnxruntime.quantization")
    network = (
        mlp((8, 20, 5), density=1.0) if kind == "mlp"
        else recurrent("embedding 6 20, lstm 6, last", 1, 5)
    )  # fmt: skip
    path = quantized(tmp_path, network, "quantize_dynamic", weight_type=tool.QuantType.QInt8)
    with pytest.warns(UserWarning, match="found as they come"):
        again = gbdnn.load_onnx(path)
    forms = [weight.form for weight in again.weights.values()]
    assert forms[-2:] == ["int8", "int8"]
    given = X if kind == "mlp" else IDS
    expected = runtime(path, given)
    got = again.predict(X if kind == "mlp" else IDS[..., None])
    assert np.abs(got - expected).max() <= 0.02 * np.abs(expected).max()
